//! Sessions over native nodes: order, tickets, error policies, limits.

mod common;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::*;
use proptest::prelude::*;
use remotemedia_pipeline::*;

/// `Count` gives "text#n", n counting up from 1; `Flaky` fails on "bad", panics on "worse", and counts as well;
/// `Double` gives each item twice; `Eat` gives nothing.
fn registry() -> Registry {
    let registry = Registry::builtin();
    let counted = |count: &mut u64, text: &str| {
        *count += 1;
        vec![format!("{text}#{count}")]
    };
    registry.register(text_node("Count", move |count, text| Ok(counted(count, text)))).unwrap();
    let flaky = text_node("Flaky", move |count, text| match text {
        "bad" => {
            *count += 1;
            Err(NodeError::failed("bad input"))
        }
        "worse" => panic!("worse input"),
        other => Ok(counted(count, other)),
    });
    registry.register(flaky).unwrap();
    registry.register(text_node("Double", |_, text| Ok(vec![text.to_owned(); 2]))).unwrap();
    registry.register(text_node("Eat", |_, _| Ok(Vec::new()))).unwrap();
    registry
}

fn one(node: &str) -> Session {
    session(&format!("{{version: v1, nodes: [{{id: n, {node}}}]}}"), &registry())
}

fn text_result(session: &Session, peer: Option<&str>, item: &str) -> Result<Option<String>, NodeError> {
    run(session, peer, text(item)).map(|item| item.map(|item| text_of(&item).to_owned()))
}

fn some(text: &str) -> Result<Option<String>, NodeError> {
    Ok(Some(text.to_owned()))
}

#[test]
fn node_state_lives_as_long_as_the_session_and_is_a_peers_own() {
    let session = one("node_type: Count");
    assert_eq!(text_result(&session, Some("ann"), "a"), some("a#1"));
    assert_eq!(text_result(&session, Some("ann"), "b"), some("b#2"));
    assert_eq!(text_result(&session, Some("bob"), "c"), some("c#1"));
    assert_eq!(text_result(&session, None, "d"), some("d#1"));
    session.remove_peer("ann");
    assert_eq!(text_result(&session, Some("ann"), "e"), some("e#1"));
    let stats = &session.stats().nodes[0];
    assert_eq!((stats.items_in, stats.items_out, stats.errors), (5, 5, 0));
    assert_eq!(stats.latency.count, 5);
}

#[test]
fn what_is_known_about_an_item_travels_with_it() {
    let session = one("node_type: Count");
    let metadata = Arc::new([("who".to_owned(), "me".to_owned())].into());
    let item = Item { timestamp_us: 77, sequence: Some(5), metadata: Some(metadata), ..text("a") };
    let out = run(&session, None, item).unwrap().unwrap();
    assert_eq!((out.timestamp_us, out.sequence), (77, Some(5)));
    assert_eq!(out.metadata.unwrap()["who"], "me");
    assert!(out.ticket.is_none());
}

#[test]
fn a_run_comes_to_none_when_a_node_gives_nothing() {
    assert_eq!(text_result(&one("node_type: Eat"), None, "a"), Ok(None));
}

#[test]
fn each_policy_does_with_a_failure_what_it_says() {
    let errors = Arc::new(Mutex::new(Vec::new()));
    let with = |policy: &str| {
        let yaml = format!("{{version: v1, nodes: [{{id: n, node_type: Flaky, on_error: {policy}}}]}}");
        let told = errors.clone();
        let hook: ErrorHook = Arc::new(move |report: ErrorReport| told.lock().unwrap().push(report));
        let options = SessionOptions { on_error: Some(hook), ..SessionOptions::default() };
        Session::new(compile(&yaml, &registry()).unwrap(), pool(), options)
    };
    let failed = || NodeError::Failed { node: "n".to_owned(), message: "bad input".to_owned() };
    let panicked = || NodeError::Panicked { node: "n".to_owned(), message: "worse input".to_owned() };

    let fail = with("fail");
    assert_eq!(text_result(&fail, Some("p"), "bad"), Err(failed()));
    assert_eq!(text_result(&fail, Some("p"), "worse"), Err(panicked()));
    assert_eq!(
        text_result(&fail, Some("p"), "a"),
        some("a#1"),
        "the graph goes on, with fresh state after a panic"
    );

    let drop = with("drop");
    assert_eq!(text_result(&drop, None, "bad"), Ok(None));
    assert_eq!(text_result(&drop, None, "a"), some("a#2"), "the state is kept");

    let bypass = with("bypass");
    assert_eq!(text_result(&bypass, None, "bad"), some("bad"));
    assert_eq!(text_result(&bypass, None, "worse"), some("worse"));

    let restart = with("restart");
    assert_eq!(text_result(&restart, None, "a"), some("a#1"));
    assert_eq!(text_result(&restart, None, "bad"), Ok(None));
    assert_eq!(text_result(&restart, None, "a"), some("a#1"), "the state is new");
    let stats = restart.stats().nodes.remove(0);
    assert_eq!((stats.errors, stats.restarts), (1, 1));
    assert_eq!(stats.dropped, [(DropReason::Error, 1)]);

    let told = errors.lock().unwrap();
    assert_eq!(told.len(), 6, "every failure is told, whatever the policy");
    assert_eq!(told[0].peer.as_deref(), Some("p"));
    assert_eq!((told[0].node.as_str(), &told[0].error), ("n", &failed()));
}

#[test]
fn the_ports_of_a_node_are_served_in_the_order_it_declares() {
    struct Join(String);
    impl Node for Join {
        fn process(&mut self, port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            match port {
                0 => self.0 = text_of(&item).to_owned(),
                _ => out.push(0, item.derive(Data::Text(format!("{}+{}", self.0, text_of(&item)).into()))),
            }
            Ok(())
        }
    }
    let registry = registry();
    let join = NodeSpec {
        inputs: vec![PortSpec::connected("first", Kind::Text), PortSpec::new("second", Kind::Text)],
        load: Arc::new(|_| {
            Ok(Box::new(|_: &Params| Ok(Box::new(Join(String::new())) as Box<dyn Node>))
                as Box<dyn NodeFactory>)
        }),
        ..text_node("Join", |_, _| Ok(Vec::new()))
    };
    registry.register(join).unwrap();
    // `join` is written, and its second input is reached, before the node that gives its first.
    let yaml = "
version: v1
nodes: [{ id: join, node_type: Join }, { id: count, node_type: Count }]
connections: [{ from: count, to: join.first }]
";
    let session = session(yaml, &registry);
    assert_eq!(text_result(&session, None, "a"), some("a#1+a"));
    assert_eq!(text_result(&session, None, "b"), some("b#2+b"));
}

#[test]
fn items_go_to_every_input_of_their_kind_and_other_kinds_are_refused_by_name() {
    let yaml = "
version: v1
nodes:
  - { id: a, node_type: Count }
  - { id: b, node_type: Count }
  - { id: c, node_type: Gain }
";
    let session = session(yaml, &registry());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (done, finished) = channel();
    let sink = {
        let seen = seen.clone();
        Arc::new(move |item: Item| {
            seen.lock().unwrap().push(text_of(&item).to_owned());
            done.send(()).unwrap();
        })
    };
    assert_eq!(session.push(None, text("x"), None, sink.clone()), Ok(Pushed::Queued));
    (0..2).for_each(|_| finished.recv_timeout(LONG).unwrap());
    assert_eq!(session.push(None, text("y"), Some("b"), sink.clone()), Ok(Pushed::Queued));
    finished.recv_timeout(LONG).unwrap();
    assert_eq!(*seen.lock().unwrap(), ["x#1", "x#1", "y#2"]);

    let refused = run(&session, None, picture(16, 16, 0)).unwrap_err();
    assert_eq!(refused.to_string(), "the graph takes audio or text, not video");
    assert!(matches!(
        session.push(None, picture(16, 16, 0), None, sink.clone()),
        Err(NodeError::NoInput { .. })
    ));
    let unknown = session.push(None, text("z"), Some("nope"), sink).unwrap_err();
    assert!(unknown.to_string().contains("a, b or c"), "{unknown}");
}

#[test]
fn a_node_that_is_off_is_passed_by_and_can_be_switched_in_a_call() {
    let session = one("node_type: Count, enabled: false");
    assert_eq!(text_result(&session, None, "a"), some("a"));
    session.set_enabled("n", true).unwrap();
    assert_eq!(text_result(&session, None, "a"), some("a#1"));
    assert_eq!(text_result(&session, Some("new peer"), "a"), some("a#1"));
    session.set_enabled("n", false).unwrap();
    assert_eq!(text_result(&session, None, "a"), some("a"));
    assert!(matches!(session.set_enabled("m", false), Err(NodeError::UnknownNode(..))));
}

#[test]
fn parameters_change_in_a_call_for_all_peers_and_are_checked() {
    let session = one("node_type: Gain");
    let peak = |peer| {
        // The second item is past the ramp.
        run(&session, peer, audio(20, 0)).unwrap();
        let item = run(&session, peer, audio(20, 20_000)).unwrap().unwrap();
        let Data::Audio(frame) = item.data else { panic!() };
        frame.samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()))
    };
    assert!((peak(None) - 0.5).abs() < 0.01);
    session.set_param("n", "gain_db", (-20).into()).unwrap();
    assert!((peak(None) - 0.05).abs() < 0.001);
    assert!((peak(Some("later")) - 0.05).abs() < 0.001);
    let error = session.set_param("n", "gain_db", 99.into()).unwrap_err();
    assert_eq!(error.to_string(), "node \"n\": params.gain_db is 99, not a number from -60 to 24");
    assert!(session.set_param("n", "volume", 1.into()).is_err());
    let error = session.set_param("n", "gain", 2.into()).unwrap_err();
    assert!(error.to_string().contains("give one"), "{error}");
    assert!((peak(None) - 0.05).abs() < 0.001, "a refused change changes nothing");
    session.set_param("n", "gain_db", serde_json::Value::Null).unwrap();
    session.set_param("n", "gain", 1.into()).unwrap();
    assert!((peak(None) - 0.5).abs() < 0.01, "null takes a parameter back");
}

#[test]
fn items_that_multiply_on_their_way_are_bounded() {
    // Twenty doublings would be a million items.
    let nodes: String = (0..20).map(|n| format!("- {{id: n{n}, node_type: Double}}\n")).collect();
    let wires: String = (1..20).map(|n| format!("- {{from: n{}, to: n{n}}}\n", n - 1)).collect();
    let session = session(&format!("version: v1\nnodes:\n{nodes}connections:\n{wires}"), &registry());
    let error = text_result(&session, None, "a").unwrap_err();
    assert!(error.to_string().contains("more than 10000"), "{error}");
    let total: u64 = session.stats().nodes.iter().map(|node| node.items_in).sum();
    assert!(total <= 10_001, "{total}");
}

#[test]
fn contradictory_audio_is_refused_before_any_node() {
    let session = one("node_type: Gain");
    let broken = |channels, sample_rate, samples| {
        let frame = remotemedia_media::AudioFrame {
            samples: Arc::new(vec![0.0; samples]),
            sample_rate,
            channels,
            timestamp_us: 0,
        };
        run(&session, None, Item::new(Data::Audio(frame)))
    };
    for (channels, rate, samples) in
        [(0, 48_000, 960), (3, 48_000, 960), (2, 48_000, 959), (1, 0, 960), (1, 8_000, 80_001)]
    {
        let error = broken(channels, rate, samples).unwrap_err();
        assert!(matches!(error, NodeError::Invalid { kind: Kind::Audio, .. }), "{error}");
    }
    assert!(broken(1, 48_000, 0).is_ok());
}

#[test]
fn peers_and_one_shot_runs_are_limited() {
    let plan = compile("{version: v1, nodes: [{id: n, node_type: Count}]}", &registry()).unwrap();
    let options = SessionOptions { max_instances: 2, ..SessionOptions::default() };
    let session = Session::new(plan, pool(), options);
    assert_eq!(text_result(&session, Some("a"), "x"), some("x#1"));
    assert_eq!(text_result(&session, Some("b"), "x"), some("x#1"));
    assert_eq!(text_result(&session, Some("c"), "x"), Err(NodeError::Limit { what: "peers", limit: 2 }));
    session.remove_peer("a");
    assert_eq!(text_result(&session, Some("c"), "x"), some("x#1"));
}

#[test]
fn a_one_shot_run_has_fresh_state_each_time() {
    let runner = Runner::new(registry(), pool(), RunnerOptions::default());
    let manifest = Manifest::parse("{version: v1, nodes: [{id: n, node_type: Count}]}").unwrap();
    let plan = runner.compile(&manifest).unwrap();
    let once = |item: Item| {
        let (tx, rx) = channel();
        runner.execute_unary(&plan, item, move |outcome| tx.send(outcome).unwrap());
        rx.recv_timeout(LONG).unwrap()
    };
    for _ in 0..200 {
        assert_eq!(text_of(&once(text("a")).unwrap().unwrap()), "a#1");
    }
    assert!(matches!(once(picture(16, 16, 0)), Err(NodeError::NoInput { .. })));
    runner.close();
    assert_eq!(once(text("a")).unwrap_err(), NodeError::Closed);
}

#[test]
fn a_closed_session_answers_everybody() {
    let session = one("node_type: Count");
    assert_eq!(text_result(&session, None, "a"), some("a#1"));
    session.close();
    session.close();
    assert_eq!(text_result(&session, None, "a"), Err(NodeError::Closed));
    assert_eq!(session.push(None, text("a"), None, Arc::new(|_| {})), Err(NodeError::Closed));
}

#[test]
fn a_callback_may_use_and_close_its_session() {
    let session = one("node_type: Count");
    let (tx, rx) = channel();
    let again = session.clone();
    session.execute(None, text("a"), move |_| {
        let inner = again.clone();
        again.execute(None, text("b"), move |outcome| {
            inner.close();
            tx.send(text_of(&outcome.unwrap().unwrap()).to_owned()).unwrap();
        });
    });
    assert_eq!(rx.recv_timeout(LONG).unwrap(), "b#2");
}

/// Holds the session's only worker in a callback until the returned function is called.
fn hold(session: &Session) -> impl FnOnce() + use<> {
    let (entered, inside) = channel();
    let (release, released) = channel::<()>();
    session.execute(None, text("hold"), move |_| {
        entered.send(()).unwrap();
        let _ = released.recv();
    });
    inside.recv_timeout(LONG).unwrap();
    move || drop(release)
}

#[test]
fn what_waits_before_an_instance_is_bounded_by_kind() {
    let yaml = "
version: v1
nodes: [{ id: p, node_type: PassThrough }]
";
    let pool = WorkerPool::new("one", 1, None).unwrap();
    let session = Session::new(compile(yaml, &registry()).unwrap(), pool, SessionOptions::default());
    let release = hold(&session);

    // Video: the newest only. Audio: 100 ms. Data: 64, then refused. None at the cost of another.
    let videos: Vec<_> = (0..5).map(|n| begin(&session, None, picture(16, 16, n))).collect();
    let audios: Vec<_> = (0..10).map(|n| begin(&session, None, audio(20, n * 20_000))).collect();
    let texts: Vec<_> = (0..70).map(|n| begin(&session, None, text(&n.to_string()))).collect();
    let depth = session.stats().ingress[0].1.depth;
    assert_eq!(depth, 1 + 5 + 64);
    release();

    let mut videos: Vec<_> = videos.into_iter().map(|rx| rx.recv_timeout(LONG).unwrap()).collect();
    let last = videos.pop().unwrap().unwrap().unwrap();
    assert_eq!(last.timestamp_us, 4);
    assert!(last.discontinuity);
    assert!(videos.into_iter().all(|outcome| matches!(outcome, Ok(None))));

    let audios: Vec<_> = audios.into_iter().map(|rx| rx.recv_timeout(LONG).unwrap().unwrap()).collect();
    assert!(audios[..5].iter().all(Option::is_none), "the oldest make room");
    let kept: Vec<_> = audios[5..].iter().map(|item| item.as_ref().unwrap()).collect();
    assert!(
        kept[0].discontinuity && kept[1..].iter().all(|item| !item.discontinuity),
        "the gap is marked once"
    );

    for (n, rx) in texts.into_iter().enumerate() {
        let outcome = rx.recv_timeout(LONG).unwrap();
        match n {
            0..64 => assert_eq!(text_of(&outcome.unwrap().unwrap()), n.to_string()),
            _ => assert!(matches!(outcome, Err(NodeError::Full { kind: Kind::Text, .. }))),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Execute { peer: u8, text: &'static str },
    Remove(u8),
    Param,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let texts = prop_oneof![Just("a"), Just("bad"), Just("worse")];
    prop_oneof![
        20 => (0u8..3, texts).prop_map(|(peer, text)| Step::Execute { peer, text }),
        2 => (0u8..3).prop_map(Step::Remove),
        1 => Just(Step::Param),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order, every callback is called exactly once.
    #[test]
    fn a_ticket_resolves_exactly_once(
        steps in proptest::collection::vec(step(), 1..120),
        policy in prop_oneof![Just("fail"), Just("drop"), Just("bypass"), Just("restart")],
        close_pool_first in any::<bool>(),
    ) {
        let yaml = format!("
version: v1
nodes:
  - {{ id: flaky, node_type: Flaky, on_error: {policy} }}
  - {{ id: double, node_type: Double }}
  - {{ id: eat, node_type: Eat }}
  - {{ id: last, node_type: Count }}
connections:
  - {{ from: flaky, to: double }}
  - {{ from: flaky, to: eat }}
  - {{ from: double, to: last }}
");
        let pool = WorkerPool::new("tickets", 2, None).unwrap();
        let session = Session::new(compile(&yaml, &registry()).unwrap(), pool.clone(), SessionOptions::default());
        let calls: Vec<Arc<AtomicUsize>> = steps.iter().map(|_| Arc::default()).collect();
        let mut expected = 0;
        let total = Arc::new(AtomicU64::new(0));
        for (step, calls) in steps.iter().zip(&calls) {
            match step {
                Step::Execute { peer, text: what } => {
                    expected += 1;
                    let (calls, total) = (calls.clone(), total.clone());
                    session.execute(Some(&peer.to_string()), text(what), move |_| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                    });
                }
                Step::Remove(peer) => session.remove_peer(&peer.to_string()),
                Step::Param => session.set_enabled("double", true).unwrap(),
                Step::Close => session.close(),
            }
        }
        if close_pool_first {
            pool.close();
            session.close();
        } else {
            session.close();
            pool.close();
        }
        drop(session);
        prop_assert_eq!(total.load(Ordering::SeqCst), expected);
        for (step, calls) in steps.iter().zip(&calls) {
            let times = usize::from(matches!(step, Step::Execute { .. }));
            prop_assert_eq!(calls.load(Ordering::SeqCst), times, "{:?}", step);
        }
    }
}
