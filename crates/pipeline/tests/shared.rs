//! Nodes of `scope: shared`: one for all peers, on a clock of its own where it has one.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use proptest::prelude::*;
use remotemedia_pipeline::*;

/// `Count` gives "text#n", n counting up from 1.
fn registry() -> Registry {
    let registry = Registry::builtin();
    let count = |count: &mut u64, text: &str| {
        *count += 1;
        Ok(vec![format!("{text}#{count}")])
    };
    registry.register(text_node("Count", count)).unwrap();
    registry
}

fn text_result(session: &Session, peer: Option<&str>, item: &str) -> String {
    text_of(&run(session, peer, text(item)).unwrap().unwrap()).to_owned()
}

/// A session whose outputs without a ticket are kept: by the peer of the instance they came from, and whom they are for.
type Heard = Arc<Mutex<Vec<(Option<String>, String, Item)>>>;

fn listening(yaml: &str, registry: &Registry) -> (Session, Heard) {
    let heard: Heard = Arc::default();
    let kept = heard.clone();
    let hook: OutputHook = Arc::new(move |peer: Option<&Arc<str>>, node: &str, item: Item| {
        kept.lock().unwrap().push((peer.map(|p| p.to_string()), node.to_owned(), item));
    });
    let options = SessionOptions { on_output: Some(hook), ..SessionOptions::default() };
    (Session::new(compile(yaml, registry).unwrap(), pool(), options), heard)
}

#[test]
fn a_shared_node_sees_everybodys_items_and_each_goes_on_with_its_own_peer() {
    let yaml = "
version: v1
nodes:
  - { id: before, node_type: Count }
  - { id: all, node_type: Count, scope: shared }
  - { id: after, node_type: Count }
connections: [{ from: before, to: all }, { from: all, to: after }]
";
    let session = session(yaml, &registry());
    assert_eq!(text_result(&session, Some("ann"), "a"), "a#1#1#1");
    assert_eq!(text_result(&session, Some("bob"), "b"), "b#1#2#1", "the one in the middle counts for both");
    assert_eq!(text_result(&session, Some("ann"), "c"), "c#2#3#2");
    assert_eq!(text_result(&session, None, "d"), "d#1#4#1", "and for nobody's");
    let stats = session.stats();
    assert_eq!(stats.nodes.iter().map(|n| n.items_in).collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(stats.edges.iter().map(|e| e.items).collect::<Vec<_>>(), [4, 4]);
    assert!(stats.edges.iter().all(|edge| edge.wait.count == 4), "on this way they wait");
    session.remove_peer("ann");
    assert_eq!(text_result(&session, Some("ann"), "e"), "e#1#5#1", "a peer's own begin anew");
}

#[test]
fn a_javascript_node_that_is_shared_is_told_whose_item_it_has() {
    let (registry, host) = with_host(Kind::Text);
    let session = session("{version: v1, nodes: [{id: js, node_type: Js, scope: shared}]}", &registry);
    let results: Vec<_> = ["ann", "bob"].map(|peer| begin(&session, Some(peer), text(peer))).into();
    let calls = host.take(2);
    assert_eq!(calls[0].instance, calls[1].instance);
    let peers: Vec<_> = calls.iter().map(|call| call.peer.clone().unwrap().to_string()).collect();
    assert_eq!(peers, ["ann", "bob"]);
    calls.into_iter().for_each(upper);
    let texts: Vec<_> = results
        .iter()
        .map(|rx| text_of(&rx.recv_timeout(LONG).unwrap().unwrap().unwrap()).to_owned())
        .collect();
    assert_eq!(texts, ["ANN", "BOB"]);
}

/// Pushes 20 ms of each peer's tone every 20 ms for a time.
fn talk(session: &Session, tones: &[(&str, f64)], ticks: usize) {
    let start = Instant::now();
    for n in 0..ticks {
        for (peer, hz) in tones {
            let item = Item { ticket: None, ..tone(*hz, 0.1, 48_000, 20, n as i64 * 20_000) };
            session.push(Some(peer), item, None, Arc::new(|_| {})).unwrap();
        }
        let next = start + Duration::from_millis(20) * (n as u32 + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// What a listener heard, of what was given out for it or for everybody.
fn heard_by(heard: &Heard, node: &str, listener: &str) -> Vec<f32> {
    let mut all: BTreeMap<i64, Arc<Vec<f32>>> = BTreeMap::new();
    for (_, _, item) in heard.lock().unwrap().iter().filter(|(_, from, _)| from == node) {
        let Data::Audio(frame) = &item.data else { continue };
        let mine = match &item.audience {
            Some(Audience::One(peer)) => **peer == *listener,
            Some(Audience::AllBut(others)) => others.iter().all(|other| **other != *listener),
            None => false,
        };
        if mine {
            assert!(all.insert(item.timestamp_us, frame.samples.clone()).is_none(), "two for {listener}");
        }
    }
    all.values().flat_map(|samples| samples.iter().copied()).collect()
}

/// Amplitude at this frequency in the last half second.
fn level(samples: &[f32], hz: f64) -> f64 {
    let samples = &samples[samples.len() - 24_000..];
    let window = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / 24_000.0).cos();
    let turn = 2.0 * (std::f64::consts::TAU * hz / 48_000.0).cos();
    let (a, b) = samples
        .iter()
        .enumerate()
        .fold((0.0, 0.0), |(a, b), (i, s)| (f64::from(*s) * window(i) + turn * a - b, a));
    (a * a + b * b - turn * a * b).sqrt() / 24_000.0 * 4.0
}

const THREE: [(&str, f64); 3] = [("ann", 300.0), ("bob", 500.0), ("cy", 800.0)];

#[test]
fn a_mixer_gives_each_peer_the_others_on_its_own_clock() {
    for name in ["AudioMixer", "ConferenceMixer"] {
        let (session, heard) =
            listening(&format!("{{version: v1, nodes: [{{id: mix, node_type: {name}}}]}}"), &registry());
        talk(&session, &THREE, 75);
        for (listener, own) in THREE {
            let samples = heard_by(&heard, "mix", listener);
            assert!(samples.len() >= 60 * 960, "{} ticks", samples.len() / 960);
            for (_, hz) in THREE {
                let level = level(&samples, hz);
                let expected = if hz == own { 0.0 } else { 0.1 };
                assert!((level - expected).abs() < 0.003, "{listener} hears {hz} Hz at {level}");
            }
        }
        let silent = heard_by(&heard, "mix", "dan");
        assert!(THREE.iter().all(|(_, hz)| (level(&silent, *hz) - 0.1).abs() < 0.003));
        let events: Vec<_> = heard
            .lock()
            .unwrap()
            .iter()
            .filter_map(|(_, _, item)| match &item.data {
                Data::Json(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["event"], "activeSpeaker");
        assert!(THREE.iter().any(|(peer, _)| events[0]["main"] == *peer));

        // One is muted, one is turned down, one leaves.
        session.set_source_param("mix", "ann", "muted", true.into()).unwrap();
        session.set_source_param("mix", "bob", "gain_db", (-12).into()).unwrap();
        session.remove_peer("cy");
        heard.lock().unwrap().clear();
        talk(&session, &THREE[..2], 50);
        let silent = heard_by(&heard, "mix", "dan");
        for (hz, expected) in [(300.0, 0.0), (500.0, 0.0251), (800.0, 0.0)] {
            let level = level(&silent, hz);
            assert!((level - expected).abs() < 0.002, "{hz} Hz at {level}");
        }
        let problem = |name: &str, value: serde_json::Value| {
            session.set_source_param("mix", "ann", name, value).unwrap_err().to_string()
        };
        assert_eq!(problem("gain_db", 99.into()), "node \"mix\": gain_db is 99, not a number from -60 to 24");
        assert_eq!(
            problem("pan", 0.into()),
            "node \"mix\": \"pan\" is no parameter by peer; it has gain_db or muted"
        );
    }
}

#[test]
fn peers_nodes_before_and_behind_a_mixer_are_each_peers_own() {
    let yaml = "
version: v1
nodes:
  - { id: in, node_type: Gain, params: { gain_db: -6 } }
  - { id: mix, node_type: AudioMixer }
  - { id: out, node_type: Gain, params: { gain_db: 6 } }
connections: [{ from: in, to: mix.in }, { from: mix.out, to: out }]
";
    let (session, heard) = listening(yaml, &registry());
    // Listens only.
    session.add_peer("dan").unwrap();
    talk(&session, &THREE, 60);
    for listener in ["ann", "bob", "cy", "dan"] {
        let samples = heard_by(&heard, "out", listener);
        for (peer, hz) in THREE {
            let level = level(&samples, hz);
            let expected = if peer == listener { 0.0 } else { 0.1 };
            assert!((level - expected).abs() < 0.003, "{listener} hears {peer} at {level}");
        }
    }
    let instances: Vec<_> = heard.lock().unwrap().iter().filter_map(|(peer, ..)| peer.clone()).collect();
    assert!(["ann", "bob", "cy", "dan"].iter().all(|peer| instances.iter().any(|p| p == peer)));
    let peers = |session: &Session| -> Vec<_> {
        session.stats().ingress.into_iter().map(|(peer, _)| peer.map(|p| p.to_string())).collect()
    };
    assert_eq!(peers(&session).len(), 5);
    for peer in ["ann", "bob", "cy", "dan"] {
        session.remove_peer(peer);
    }
    assert_eq!(peers(&session), [None], "only what is shared is left");
    heard.lock().unwrap().clear();
    std::thread::sleep(Duration::from_millis(100));
    assert!(heard.lock().unwrap().iter().all(|(_, node, _)| node != "out"), "nothing goes to who is gone");
    session.close();
    assert!(session.stats().ingress.is_empty());
}

#[test]
fn a_mix_of_frames_is_summed_at_once_in_a_run_of_its_own() {
    let registry = registry();
    let runner = Runner::new(registry, pool(), RunnerOptions::default());
    let manifest = Manifest::parse("{version: v1, nodes: [{id: mix, node_type: AudioMixer}]}").unwrap();
    let plan = runner.compile(&manifest).unwrap();
    let frame = |hz: f64, rate: u32| match tone(hz, 0.2, rate, 500, 7000).data {
        Data::Audio(frame) => frame,
        _ => unreachable!(),
    };
    let once = |frames: Vec<_>| {
        let (tx, rx) = channel();
        let item = Item::new(Data::AudioMix(Arc::new(frames)));
        runner.execute_unary(&plan, item, move |outcome| tx.send(outcome).unwrap());
        rx.recv_timeout(LONG).unwrap().unwrap().unwrap()
    };
    let sum = once(vec![frame(400.0, 48_000), frame(900.0, 48_000), frame(1300.0, 16_000)]);
    assert_eq!(sum.timestamp_us, 7000);
    let Data::Audio(sum) = &sum.data else { panic!("{:?}", sum.kind()) };
    assert_eq!((sum.sample_rate, sum.channels, sum.frames()), (48_000, 1, 24_000));
    for hz in [400.0, 900.0, 1300.0] {
        assert!((level(&sum.samples, hz) - 0.2).abs() < 0.01, "{hz} Hz at {}", level(&sum.samples, hz));
    }
    let Data::Audio(nothing) = once(Vec::new()).data else { panic!() };
    assert_eq!(nothing.frames(), 0);
}

#[test]
fn audio_goes_on_while_a_picture_holds_a_worker_up() {
    struct Slow(Arc<Mutex<()>>);
    impl Node for Slow {
        fn process(&mut self, _port: usize, _item: Item, _out: &mut Emit) -> Result<(), NodeError> {
            drop(self.0.lock().unwrap());
            Ok(())
        }
    }
    let registry = registry();
    let door = Arc::new(Mutex::new(()));
    let held = door.clone();
    registry
        .register(NodeSpec {
            inputs: vec![PortSpec::new("in", Kind::Video)],
            outputs: vec![PortSpec::new("out", Kind::Video)],
            load: Arc::new(move |_| {
                let held = held.clone();
                Ok(Box::new(move |_: &Params| Ok(Box::new(Slow(held.clone())) as Box<dyn Node>))
                    as Box<dyn NodeFactory>)
            }),
            ..text_node("Slow", |_, _| Ok(Vec::new()))
        })
        .unwrap();
    let yaml = "{version: v1, nodes: [{id: slow, node_type: Slow}, {id: gain, node_type: Gain}]}";
    let plan = compile(yaml, &registry).unwrap();
    let options = SessionOptions { audio_pool: Some(pool()), ..SessionOptions::default() };
    let session = Session::new(plan, WorkerPool::new("video", 1, None).unwrap(), options);
    let guard = door.lock().unwrap();
    let picture = begin(&session, Some("ann"), picture(16, 16, 0));
    for n in 0..20 {
        assert!(run(&session, Some("ann"), audio(20, n * 20_000)).unwrap().is_some());
    }
    assert!(picture.try_recv().is_err());
    drop(guard);
    assert!(picture.recv_timeout(LONG).unwrap().unwrap().is_none());
}

#[test]
fn a_mixer_goes_on_over_a_reload() {
    let registry = registry();
    let with = |more: &str| {
        let yaml = format!("{{version: v1, nodes: [{{id: mix, node_type: AudioMixer}}{more}]}}");
        compile(&yaml, &registry).unwrap()
    };
    let heard: Heard = Arc::default();
    let kept = heard.clone();
    let hook: OutputHook = Arc::new(move |_: Option<&Arc<str>>, node: &str, item: Item| {
        kept.lock().unwrap().push((None, node.to_owned(), item));
    });
    let options = SessionOptions { on_output: Some(hook), ..SessionOptions::default() };
    let session = Session::new(with(""), pool(), options);
    talk(&session, &THREE, 20);
    session.reload(with(", {id: extra, node_type: Count}")).unwrap();
    talk(&session, &THREE, 30);
    let all = heard.lock().unwrap();
    let stamps: Vec<i64> = all
        .iter()
        .filter(|(.., item)| matches!(item.audience, Some(Audience::AllBut(_))))
        .map(|(.., item)| item.timestamp_us)
        .collect();
    assert!(stamps.len() >= 40);
    assert!(stamps.windows(2).all(|w| w[1] > w[0] && (w[1] - w[0]) % 20_000 == 0), "{stamps:?}");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let problem = |yaml: &str| compile(yaml, &registry()).unwrap_err().to_string();
    let error = problem("{version: v1, nodes: [{id: mix, node_type: AudioMixer, scope: peer}]}");
    assert_eq!(error, "node \"mix\": scope: peer makes no sense for AudioMixer; leave it out");
    let session = session("{version: v1, nodes: [{id: n, node_type: Count}]}", &registry());
    let error = session.set_source_param("n", "ann", "gain_db", 1.into()).unwrap_err().to_string();
    assert_eq!(error, "node \"n\": \"gain_db\" is no parameter by peer; it has none");
}

#[derive(Debug, Clone)]
enum Step {
    Execute(Option<u8>),
    Add(u8),
    Remove(u8),
    Reload,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => proptest::option::of(0u8..4).prop_map(Step::Execute),
        2 => (0u8..4).prop_map(Step::Add),
        3 => (0u8..4).prop_map(Step::Remove),
        1 => Just(Step::Reload),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens in whatever order, on the way through peers' nodes, shared ones and peers' again: every callback is called
    /// exactly once, and nothing is left of what was removed.
    #[test]
    fn items_that_cross_resolve_exactly_once(steps in proptest::collection::vec(step(), 1..100)) {
        let yaml = "
version: v1
nodes:
  - { id: before, node_type: Count }
  - { id: all, node_type: Count, scope: shared }
  - { id: after, node_type: Count }
connections: [{ from: before, to: all }, { from: all, to: after }]
";
        let registry = registry();
        let plan = compile(yaml, &registry).unwrap();
        let pool = WorkerPool::new("cross", 3, None).unwrap();
        let session = Session::new(plan, pool.clone(), SessionOptions::default());
        let (mut calls, mut closed) = (Vec::new(), false);
        for step in &steps {
            match step {
                Step::Execute(peer) => {
                    let count = Arc::new(AtomicUsize::new(0));
                    let counted = count.clone();
                    let peer = peer.map(|p| p.to_string());
                    session.execute(peer.as_deref(), text("x"), move |_| {
                        counted.fetch_add(1, Ordering::SeqCst);
                    });
                    calls.push(count);
                }
                Step::Add(peer) => drop(session.add_peer(&peer.to_string())),
                Step::Remove(peer) => session.remove_peer(&peer.to_string()),
                Step::Reload => prop_assert_eq!(session.reload(compile(yaml, &registry).unwrap()).is_err(), closed),
                Step::Close => {
                    session.close();
                    closed = true;
                }
            }
        }
        session.close();
        pool.close();
        drop(session);
        for count in calls {
            prop_assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }
}
