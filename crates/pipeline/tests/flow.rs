//! Deadlines, blocking queues, reloads, nodes with a clock, taps, and what is counted.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use remotemedia_pipeline::*;

fn js(fields: &str) -> String {
    format!("{{version: v1, nodes: [{{id: js, node_type: Js, {fields}}}]}}")
}

fn told(plan: Arc<Plan>) -> (Session, Arc<Mutex<Vec<ErrorReport>>>) {
    let errors: Arc<Mutex<Vec<ErrorReport>>> = Arc::default();
    let into = errors.clone();
    let hook: ErrorHook = Arc::new(move |report| into.lock().unwrap().push(report));
    let options = SessionOptions { on_error: Some(hook), ..SessionOptions::default() };
    (Session::new(plan, pool(), options), errors)
}

#[test]
fn a_call_past_its_deadline_is_a_failure_handled_by_the_nodes_policy() {
    for policy in ["fail", "drop", "bypass", "restart"] {
        let (registry, host) = with_host(Kind::Text);
        let yaml = js(&format!("deadline_ms: 60, on_error: {policy}"));
        let (session, errors) = told(compile(&yaml, &registry).unwrap());
        let since = Instant::now();
        let outcome = begin(&session, Some("ann"), text("a"));
        let held = host.take(1);
        let outcome = outcome.recv_timeout(LONG).unwrap();
        assert!(since.elapsed() >= Duration::from_millis(60), "{policy}: {:?}", since.elapsed());
        let late = NodeError::Deadline { node: "js".to_owned(), deadline_ms: 60 };
        match policy {
            "fail" => assert_eq!(outcome.unwrap_err(), late),
            "bypass" => assert_eq!(text_of(&outcome.unwrap().unwrap()), "a"),
            _ => assert!(outcome.unwrap().is_none()),
        }
        assert_eq!(errors.lock().unwrap()[0].error, late, "{policy}");
        let stats = session.stats().nodes.remove(0);
        let dropped = if policy == "bypass" { Vec::new() } else { vec![(DropReason::Deadline, 1)] };
        assert_eq!((stats.errors, stats.dropped), (1, dropped), "{policy}");
        assert_eq!(stats.depth, 1, "{policy}: the host still has it");
        assert_eq!(*host.cancelled.lock().unwrap(), [held[0].number]);
        assert_eq!(host.released.lock().unwrap().len(), usize::from(policy == "restart"));

        // What it answers now is too late, and is no trouble; the next call is like the first.
        held.into_iter().for_each(upper);
        eventually(|| session.stats().nodes[0].depth == 0);
        let next = begin(&session, Some("ann"), text("b"));
        upper(host.take(1).remove(0));
        assert_eq!(text_of(&next.recv_timeout(LONG).unwrap().unwrap().unwrap()), "B", "{policy}");
    }
}

#[test]
fn a_host_that_hangs_gets_no_more_than_before_and_frames_pass_it_by() {
    let (registry, host) = with_host(Kind::Video);
    let session = session(&js("deadline_ms: 40, on_error: bypass"), &registry);
    let (tx, rx) = channel();
    let frames = 40;
    let feeder = session.clone();
    for n in 0..frames {
        let tx = tx.clone();
        feeder.execute(None, picture(64, 48, n), move |outcome| {
            let _ = tx.send(outcome.unwrap().map(|item| item.timestamp_us));
        });
        std::thread::sleep(Duration::from_millis(10));
    }
    let outcomes: Vec<Option<i64>> = (0..frames).map(|_| rx.recv_timeout(LONG).unwrap()).collect();
    let passed: Vec<i64> = outcomes.iter().flatten().copied().collect();
    // The first is waited for, and the newest behind it: those in between are dropped. From then on it is clear that the
    // host hangs, and every frame passes at once.
    assert_eq!(passed[0], 0);
    let hung = passed[1];
    // A frame that finds the workers busy gives way to the next one, as everywhere.
    assert!(passed.len() as i64 > (frames - hung) * 8 / 10, "{passed:?}");
    assert!(hung < 30, "{passed:?}");
    assert_eq!(host.calls.lock().unwrap().len(), 1, "the host that never answered got one frame");
    let entrance: u64 = session.stats().ingress.iter().map(|(_, queue)| queue.dropped).sum();
    let stats = session.stats().nodes.remove(0);
    let dropped: u64 = stats.dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(entrance + dropped + passed.len() as u64, frames as u64);
    assert_eq!(stats.depth, 1);
}

#[test]
fn results_stay_in_order_when_the_first_call_is_given_up() {
    let (registry, host) = with_host(Kind::Text);
    let session = session(&js("deadline_ms: 150, on_error: bypass"), &registry);
    let (tx, rx) = channel();
    let sink: Arc<dyn Fn(Item) + Send + Sync> =
        Arc::new(move |item| tx.send(text_of(&item).to_owned()).unwrap_or(()));
    for n in 0..4 {
        session.push(None, text(&format!("t{n}")), None, sink.clone()).unwrap();
    }
    let mut calls = host.take(4);
    let first = calls.remove(0);
    calls.into_iter().for_each(upper);
    let order: Vec<String> = (0..4).map(|_| rx.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(order, ["t0", "T1", "T2", "T3"]);
    drop(first);
}

#[test]
fn nodes_elsewhere_have_a_deadline_of_their_own_and_native_ones_where_it_is_named() {
    let (registry, _host) = with_host(Kind::Audio);
    let slow = text_node("Slow", |_, text| {
        std::thread::sleep(Duration::from_millis(30));
        Ok(vec![text.to_owned()])
    });
    registry.register(slow).unwrap();
    let late = session("{version: v1, nodes: [{id: n, node_type: Slow, deadline_ms: 5}]}", &registry);
    let error = run(&late, None, text("a")).unwrap_err();
    assert_eq!(error, NodeError::Deadline { node: "n".to_owned(), deadline_ms: 5 });
    assert_eq!(late.stats().nodes[0].dropped, [(DropReason::Deadline, 1)]);
    let free = session("{version: v1, nodes: [{id: n, node_type: Slow}]}", &registry);
    assert_eq!(text_of(&run(&free, None, text("a")).unwrap().unwrap()), "a");

    // Without a word in the manifest, media has two seconds.
    let session = session(&js("on_error: drop"), &registry);
    let since = Instant::now();
    assert!(run(&session, None, audio(20, 0)).unwrap().is_none());
    assert!((2..20).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[test]
fn a_queue_that_blocks_loses_nothing_and_refuses_at_the_entrance() {
    let (registry, host) = with_host(Kind::Text);
    let yaml = "
version: v1
nodes: [{ id: p, node_type: PassThrough }, { id: js, node_type: Js }]
connections: [{ from: p, to: js, queue: { max: 2, policy: block } }]
";
    let session = session(yaml, &registry);
    let (done, results) = channel();
    let mut refused = 0;
    let sink: Arc<dyn Fn(Item) + Send + Sync> =
        Arc::new(move |item| done.send(text_of(&item).to_owned()).unwrap_or(()));
    for n in 0..200 {
        match session.push(None, text(&n.to_string()), None, sink.clone()) {
            Ok(Pushed::Queued) => {}
            Err(NodeError::Full { kind: Kind::Text, .. }) => refused += 1,
            other => panic!("{other:?}"),
        }
        if n == 3 {
            // Two at the host and two in the queue: the gate is closed from here on.
            eventually(|| session.stats().edges[0].depth == 2);
        }
    }
    assert_eq!(refused, 200 - 4 - 64, "the entrance holds 64");
    // A change doesn't wait behind what waits.
    session.set_param("js", "x", 1.into()).unwrap();
    let mut answered = 0;
    while answered < 68 {
        let calls = host.take(1);
        answered += calls.len();
        calls.into_iter().for_each(upper);
    }
    let order: Vec<u32> = (0..68).map(|_| results.recv_timeout(LONG).unwrap().parse().unwrap()).collect();
    assert_eq!(order, (0..68).collect::<Vec<_>>());
    let stats = session.stats();
    assert!(stats.nodes.iter().all(|node| node.dropped.is_empty()));
    assert_eq!((stats.edges[0].depth, stats.edges[0].items), (0, 68));
}

#[test]
fn connections_are_counted_one_by_one() {
    let (registry, host) = with_host(Kind::Text);
    let yaml = "
version: v1
nodes: [{ id: p, node_type: PassThrough }, { id: q, node_type: PassThrough }, { id: js, node_type: Js }]
connections:
  - { from: p, to: q }
  - { from: p, to: js, queue: { max: 1, policy: drop_newest } }
";
    let session = session(yaml, &registry);
    let pushed: Vec<_> = (0..5).map(|n| begin(&session, None, text(&n.to_string()))).collect();
    let first = host.take(1);
    eventually(|| session.stats().edges[1].items == 5);
    std::thread::sleep(Duration::from_millis(20));
    first.into_iter().for_each(upper);
    host.take(1).into_iter().for_each(upper);
    pushed.into_iter().for_each(|rx| drop(rx.recv_timeout(LONG).unwrap().unwrap()));
    eventually(|| session.stats().edges[1].depth == 0);
    let edges = session.stats().edges;
    assert_eq!((edges[0].from.as_str(), edges[0].to.as_str(), edges[0].items), ("p.out", "q.in", 5));
    assert_eq!(edges[0].wait.count, 0, "nothing waits between native nodes");
    assert_eq!((edges[1].from.as_str(), edges[1].to.as_str()), ("p.out", "js.in"));
    assert_eq!(edges[1].dropped, [(DropReason::Queue, 3)]);
    assert_eq!(edges[1].wait.count, 2);
    assert!(edges[1].wait.p99_us >= 20_000, "one of them waited 20 ms: {:?}", edges[1].wait);
}

#[test]
fn a_flood_of_errors_is_counted_and_told_in_part() {
    let registry = Registry::builtin();
    registry.register(text_node("Bad", |_, _| Err(NodeError::failed("always")))).unwrap();
    let yaml = "{version: v1, nodes: [{id: n, node_type: Bad, on_error: drop}]}";
    let (session, errors) = told(compile(yaml, &registry).unwrap());
    for _ in 0..500 {
        run(&session, None, text("a")).unwrap();
    }
    let at_once = errors.lock().unwrap().len();
    assert!((50..=150).contains(&at_once), "{at_once} of 500 told");
    std::thread::sleep(Duration::from_millis(250));
    run(&session, None, text("a")).unwrap();
    assert!(errors.lock().unwrap().last().unwrap().left_out >= 300, "what was left out is told");
    assert_eq!(session.stats().nodes[0].errors, 501);
}

/// `Count` counts from 1 in each node's own life; `made` counts how many there were.
fn counting(registry: &Registry) -> Arc<AtomicU64> {
    let made = Arc::new(AtomicU64::new(0));
    let counter = made.clone();
    let spec = text_node("Count", move |count, text| {
        if *count == 0 {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        *count += 1;
        Ok(vec![format!("{text}#{count}")])
    });
    registry.register(spec).unwrap();
    made
}

#[test]
fn what_does_not_come_in_is_told_once_for_each_kind_that_no_node_takes() {
    let registry = Registry::builtin();
    let plan = compile("{version: v1, nodes: [{id: g, node_type: Gain}]}", &registry).unwrap();
    let (session, errors) = told(plan.clone());
    let refuse = |item: Item| {
        let error = session.push(Some("ann"), item, None, Arc::new(|_| {})).unwrap_err();
        session.refused(Some("ann"), error);
    };
    for _ in 0..3 {
        refuse(picture(4, 4, 0));
        refuse(text("a"));
    }
    let list = std::mem::take(&mut *errors.lock().unwrap());
    let told =
        list.iter().map(|report| (report.peer.as_deref(), report.node.as_str(), report.error.to_string()));
    assert!(told.eq([
        (Some("ann"), "", "the graph takes audio, not video".to_owned()),
        (Some("ann"), "", "the graph takes audio, not text".to_owned()),
    ]));
    // Another plan may take it; this one doesn't either. Other failures are told each time, but the end of the session.
    session.reload(plan).unwrap();
    refuse(picture(4, 4, 0));
    let full = NodeError::Full { queue: "queue".to_owned(), kind: Kind::Text };
    session.refused(None, full.clone());
    session.refused(None, full);
    session.close();
    refuse(audio(20, 0));
    assert_eq!(errors.lock().unwrap().len(), 3);
}

#[test]
fn a_node_that_cannot_be_made_anew_is_told_with_its_cause_and_made_when_it_can_be() {
    static ALLOWED: AtomicU64 = AtomicU64::new(0);
    let plain = text_node("Frail", |_, text| match text {
        "panic" => panic!("over"),
        text => Ok(vec![text.to_owned()]),
    });
    let inner = (plain.load)(&Params::default()).unwrap();
    let inner = Arc::new(inner);
    let load = move |_: &Params| {
        let inner = inner.clone();
        let factory = move |params: &Params| match ALLOWED.load(Ordering::SeqCst) {
            0 => inner.create(params),
            1 => Err(NodeError::failed("no memory")),
            _ => panic!("no maker"),
        };
        Ok(Box::new(factory) as Box<dyn NodeFactory>)
    };
    let registry = Registry::builtin();
    registry.register(NodeSpec { load: Arc::new(load), ..plain }).unwrap();
    let yaml = "{version: v1, nodes: [{id: n, node_type: Frail}]}";
    let (session, errors) = told(compile(yaml, &registry).unwrap());
    let say = |words: &str| match run(&session, Some("ann"), text(words)) {
        Ok(item) => text_of(&item.unwrap()).to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(say("a"), "a");
    ALLOWED.store(1, Ordering::SeqCst);
    assert_eq!(say("panic"), "node \"n\" panicked: over");
    assert_eq!(say("b"), "node \"n\" failed: no memory");
    ALLOWED.store(2, Ordering::SeqCst);
    assert_eq!(say("c"), "node \"n\" failed: it could not be made: no maker");
    ALLOWED.store(0, Ordering::SeqCst);
    assert_eq!(say("d"), "d");
    assert_eq!(errors.lock().unwrap().len(), 3);
}

#[test]
fn a_reload_keeps_what_is_in_both_and_takes_the_rest_on() {
    let registry = Registry::builtin();
    let made = counting(&registry);
    let first = "{version: v1, nodes: [{id: a, node_type: Count}, {id: b, node_type: Count}], connections: [{from: a, to: b}]}";
    let second = "
version: v1
nodes: [{ id: new, node_type: Count }, { id: a, node_type: Count }, { id: quiet, node_type: PassThrough, enabled: false }]
connections: [{ from: new, to: a }, { from: a, to: quiet }]
";
    let session = session(first, &registry);
    let go = |text_in: &str, peer| text_of(&run(&session, peer, text(text_in)).unwrap().unwrap()).to_owned();
    assert_eq!(go("x", Some("ann")), "x#1#1");
    assert_eq!(go("x", Some("bob")), "x#1#1");
    assert_eq!(go("x", Some("ann")), "x#2#2");
    session.reload(compile(second, &registry).unwrap()).unwrap();
    assert_eq!(go("y", Some("ann")), "y#1#3", "a went on counting, new began");
    assert_eq!(go("y", Some("bob")), "y#1#2");
    assert_eq!(go("y", Some("later")), "y#1#1");
    let stats = session.stats();
    let ids: Vec<_> = stats.nodes.iter().map(|node| (node.id.as_str(), node.items_in)).collect();
    assert_eq!(ids, [("new", 3), ("a", 6), ("quiet", 3)], "its counters went on too");
    assert_eq!(stats.edges.iter().map(|edge| edge.items).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(made.load(Ordering::SeqCst), 4 + 2 + 2, "a and b twice; new twice; new and a");
    // The other way round: b is new again.
    session.reload(compile(first, &registry).unwrap()).unwrap();
    assert_eq!(go("z", Some("ann")), "z#4#1");
}

#[test]
fn a_reload_changes_parameters_and_forgets_what_was_changed_since() {
    let registry = Registry::builtin();
    let gain = |db: i32| {
        compile(
            &format!("{{version: v1, nodes: [{{id: g, node_type: Gain, params: {{gain_db: {db}}}}}]}}"),
            &registry,
        )
        .unwrap()
    };
    let session = Session::new(gain(0), pool(), SessionOptions::default());
    let peak = |peer| {
        run(&session, peer, audio(20, 0)).unwrap();
        let item = run(&session, peer, audio(20, 20_000)).unwrap().unwrap();
        let Data::Audio(frame) = item.data else { panic!() };
        frame.samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()))
    };
    assert!((peak(None) - 0.5).abs() < 0.01);
    session.set_param("g", "gain_db", (-40).into()).unwrap();
    session.set_enabled("g", false).unwrap();
    assert!((peak(Some("off")) - 0.5).abs() < 0.01);
    session.reload(gain(-20)).unwrap();
    for peer in [None, Some("off"), Some("new")] {
        assert!((peak(peer) - 0.05).abs() < 0.001, "{peer:?}: {}", peak(peer));
    }
}

#[test]
fn a_reload_leaves_calls_under_way_alone_and_ends_those_of_nodes_that_go() {
    let (registry, host) = with_host(Kind::Text);
    registry.register(text_node("Exclaim", |_, text| Ok(vec![format!("{text}!")]))).unwrap();
    let one = compile(&js("on_error: drop"), &registry).unwrap();
    let more = "{version: v1, nodes: [{id: p, node_type: PassThrough}, {id: js, node_type: Js, params: {v: 2}}, {id: e, node_type: Exclaim}], connections: [{from: p, to: js, queue: {max: 1, policy: latest}}, {from: js, to: e}]}";
    let session = Session::new(one, pool(), SessionOptions::default());
    let kept = begin(&session, Some("ann"), text("a"));
    let held = host.take(1);
    session.reload(compile(more, &registry).unwrap()).unwrap();
    let waiting = begin(&session, Some("ann"), text("b"));
    eventually(|| session.stats().edges[0].depth == 1);
    held.into_iter().for_each(upper);
    assert_eq!(text_of(&kept.recv_timeout(LONG).unwrap().unwrap().unwrap()), "A!", "behind the new node");
    let call = host.take(1).remove(0);
    assert_eq!(call.params["v"], 2);
    assert!(host.released.lock().unwrap().is_empty());
    session
        .reload(compile("{version: v1, nodes: [{id: e, node_type: Exclaim}]}", &registry).unwrap())
        .unwrap();
    assert!(waiting.recv_timeout(LONG).unwrap().unwrap().is_none(), "its node is gone");
    assert_eq!(host.released.lock().unwrap().len(), 1);
    upper(call);
    assert_eq!(text_of(&run(&session, Some("ann"), text("c")).unwrap().unwrap()), "c!");
    session.close();
    let plan = compile(more, &registry).unwrap();
    assert_eq!(session.reload(plan), Err(NodeError::Closed));
}

/// Gives its count every 20 ms, panics at the third, and takes its period from a parameter.
fn clock_node() -> NodeSpec {
    struct Beat(u64, Duration);
    impl Node for Beat {
        fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            out.push(0, item);
            Ok(())
        }
        fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
            self.1 = Duration::from_millis(params.integer("every").unwrap_or(20) as u64);
            Ok(())
        }
        fn tick_every(&self) -> Option<Duration> {
            Some(self.1)
        }
        fn tick(&mut self, _now: Instant, out: &mut Emit) -> Result<(), NodeError> {
            self.0 += 1;
            assert!(self.0 != 3, "the third beat");
            out.push(0, text(&self.0.to_string()));
            Ok(())
        }
    }
    NodeSpec {
        params: vec![ParamSpec::integer("every", 1, 1000, 20)],
        load: Arc::new(|_| {
            let factory = |params: &Params| {
                let mut node = Beat(0, Duration::ZERO);
                node.set_params(params)?;
                Ok(Box::new(node) as Box<dyn Node>)
            };
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
        ..text_node("Beat", |_, _| Ok(Vec::new()))
    }
}

#[test]
fn a_node_with_a_clock_of_its_own_beats_by_itself() {
    let registry = Registry::builtin();
    registry.register(clock_node()).unwrap();
    let (tx, rx) = channel();
    let tx = Mutex::new(tx);
    let on_output: OutputHook = Arc::new(move |peer, node, item| {
        let who = (peer.map(|peer| peer.to_string()), node.to_owned(), text_of(&item).to_owned());
        let _ = tx.lock().unwrap().send((Instant::now(), who));
    });
    let yaml = "
version: v1
nodes: [{ id: beat, node_type: Beat, params: { every: 20 } }, { id: after, node_type: PassThrough }]
connections: [{ from: beat, to: after }]
";
    let options = SessionOptions { on_output: Some(on_output), ..SessionOptions::default() };
    let session = Session::new(compile(yaml, &registry).unwrap(), pool(), options);
    run(&session, Some("ann"), text("begin")).unwrap();
    let beats: Vec<_> = (0..42).map(|_| rx.recv_timeout(LONG).unwrap()).collect();
    let (_, first) = &beats[0];
    assert_eq!(*first, (Some("ann".to_owned()), "after".to_owned(), "1".to_owned()));
    // The third panicked: its state was made anew, and its clock went on.
    let counts: Vec<&str> = beats.iter().map(|(_, (_, _, count))| count.as_str()).collect();
    assert_eq!(counts[..4], ["1", "2", "1", "2"]);
    assert!(session.stats().nodes[0].restarts >= 10);
    // 42 beats told of 63 there were: as regular as the machine lets them be, and never faster.
    let span = beats[41].0 - beats[0].0;
    assert!(span >= Duration::from_millis(20 * 58), "{span:?} is too fast");

    session.set_param("beat", "every", 1000.into()).unwrap();
    session.remove_peer("ann");
    eventually(|| session.stats().ingress.is_empty());
    while rx.recv_timeout(Duration::from_millis(100)).is_ok() {}
    session.close();
    assert!(rx.recv_timeout(Duration::from_millis(60)).is_err(), "nothing beats in a session that is closed");
}

#[test]
fn a_tap_hears_one_output_and_a_route_may_name_a_port() {
    let registry = Registry::builtin();
    let yaml = "{version: v1, nodes: [{id: m, node_type: LevelMeter, params: {interval_ms: 20}}]}";
    let session = session(yaml, &registry);
    let (tx, rx) = channel();
    let tx = Mutex::new(tx);
    let hook: OutputHook = Arc::new(move |peer, _, item| {
        assert!(item.ticket.is_none());
        tx.lock().unwrap().send((peer.cloned(), item.kind())).unwrap();
    });
    let tap = session.tap("m.level", hook.clone()).unwrap();
    let (sound, sounds) = channel();
    let sink: Arc<dyn Fn(Item) + Send + Sync> = Arc::new(move |item| sound.send(item.kind()).unwrap());
    session.push(Some("ann"), audio(20, 0), Some("m.out"), sink.clone()).unwrap();
    assert_eq!(rx.recv_timeout(LONG).unwrap(), (Some(Arc::from("ann")), Kind::Json));
    assert_eq!(sounds.recv_timeout(LONG).unwrap(), Kind::Audio);
    let gone = compile("{version: v1, nodes: [{id: g, node_type: Gain}]}", &registry).unwrap();
    let error = session.reload(gone).unwrap_err();
    assert_eq!(error, NodeError::UnknownOutput("m.level".to_owned(), "g".to_owned()));
    session.remove_tap(tap);
    assert_eq!(
        run(&session, None, audio(20, 0)).unwrap().unwrap().kind(),
        Kind::Audio,
        "the sound comes first"
    );
    assert!(rx.try_recv().is_err());
    assert!(sounds.try_recv().is_err());

    let error = session.tap("m.sound", hook.clone()).unwrap_err().to_string();
    assert!(error.contains("m.out or m.level"), "{error}");
    let error = session.push(None, audio(20, 0), Some("n"), sink).unwrap_err().to_string();
    assert!(error.contains("m.out or m.level"), "{error}");
    for _ in 0..256 {
        session.tap("m", hook.clone()).unwrap();
    }
    assert_eq!(session.tap("m", hook).unwrap_err(), NodeError::Limit { what: "taps", limit: 256 });
}

#[test]
fn a_session_that_finishes_runs_what_it_has_and_takes_nothing_more_but_waits_for_nobody_forever() {
    let (registry, host) = with_host(Kind::Text);
    let (plain, clock) = (js("deadline_ms: 20000"), ", {id: mix, node_type: AudioMixer}]}");
    for yaml in [plain.clone(), plain.replace("]}", clock)] {
        let session = session(&yaml, &registry);
        let waiting: Vec<_> =
            ["a", "b", "c", "d", "e"].map(|word| begin(&session, Some("ann"), text(word))).into();
        let (tx, rx) = channel();
        session.finish(LONG, move || tx.send(()).unwrap());
        let late = begin(&session, Some("ann"), text("late")).recv_timeout(LONG).unwrap();
        assert_eq!(late.unwrap_err(), NodeError::Closed);
        assert!(rx.recv_timeout(Duration::from_millis(60)).is_err(), "it has not finished");
        host.take(waiting.len()).into_iter().for_each(upper);
        let words: Vec<_> = waiting
            .into_iter()
            .map(|outcome| text_of(&outcome.recv_timeout(LONG).unwrap().unwrap().unwrap()).to_owned())
            .collect();
        assert_eq!(words, ["A", "B", "C", "D", "E"]);
        rx.recv_timeout(LONG).unwrap();
        session.finish(LONG, || {});
    }
    let hung = session(&plain, &registry);
    let outcome = begin(&hung, Some("ann"), text("a"));
    let held = host.take(1);
    let (tx, rx) = channel();
    let since = Instant::now();
    hung.finish(Duration::from_millis(80), move || tx.send(()).unwrap());
    rx.recv_timeout(LONG).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(80));
    assert!(outcome.recv_timeout(LONG).unwrap().unwrap().is_none(), "it was dropped");
    assert!(!host.released.lock().unwrap().is_empty(), "its nodes are freed");
    drop(held);
}
