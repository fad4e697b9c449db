//! Nodes that run elsewhere: order, bounds, failures, and hosts that don't answer.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};

use common::*;
use proptest::prelude::*;
use remotemedia_pipeline::*;

const ONE: &str = "{version: v1, nodes: [{id: js, node_type: Js, params: {depth: [1, 2]}}]}";

fn with_policy(policy: &str) -> String {
    format!("{{version: v1, nodes: [{{id: js, node_type: Js, on_error: {policy}}}]}}")
}

#[test]
fn a_call_says_whose_it_is_and_its_answer_goes_on_downstream() {
    let (registry, host) = with_host(Kind::Text);
    registry.register(text_node("Exclaim", |_, text| Ok(vec![format!("{text}!")]))).unwrap();
    let yaml = "
version: v1
nodes: [{ id: js, node_type: Js, params: { depth: [1, 2] } }, { id: after, node_type: Exclaim }]
connections: [{ from: js, to: after }]
";
    let session = session(yaml, &registry);
    let item = Item { timestamp_us: 9, sequence: Some(3), ..text("hi") };
    let outcome = begin(&session, Some("ann"), item);
    let call = host.take(1).remove(0);
    assert_eq!((&*call.node_id, &*call.node_type, &*call.port, call.id), ("js", "Js", "in", 0));
    assert_eq!(call.peer.as_deref(), Some("ann"));
    assert_eq!(call.params["depth"][1], 2);
    assert!(call.item.ticket.is_none());
    assert_eq!(outcome.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(session.stats().nodes[0].depth, 1);
    upper(call);
    let item = outcome.recv_timeout(LONG).unwrap().unwrap().unwrap();
    assert_eq!((text_of(&item), item.timestamp_us, item.sequence), ("HI!", 9, Some(3)));
    let stats = session.stats();
    assert_eq!((stats.nodes[0].depth, stats.nodes[0].latency.count), (0, 1));

    let second = begin(&session, Some("ann"), text("x"));
    session.set_param("js", "depth", 7.into()).unwrap();
    let third = begin(&session, Some("ann"), text("y"));
    let calls = host.take(2);
    assert_eq!((calls[0].id, calls[1].id), (1, 2));
    assert_eq!(calls[0].instance, calls[1].instance);
    assert_eq!(calls[1].params["depth"], 7);
    calls.into_iter().for_each(upper);
    for rx in [second, third] {
        rx.recv_timeout(LONG).unwrap().unwrap().unwrap();
    }
}

#[test]
fn an_answer_of_nothing_drops_the_item_and_one_of_many_gives_the_first() {
    let (registry, host) = with_host(Kind::Text);
    let session = session(ONE, &registry);
    let dropped = begin(&session, None, text("a"));
    host.take(1).remove(0).reply.complete(Vec::new());
    assert!(matches!(dropped.recv_timeout(LONG), Ok(Ok(None))));
    let many = begin(&session, None, text("a"));
    let late = ForeignOutput { timestamp_us: Some(5), ..out("one") };
    host.take(1).remove(0).reply.complete(vec![late, out("two")]);
    let item = many.recv_timeout(LONG).unwrap().unwrap().unwrap();
    assert_eq!((text_of(&item), item.timestamp_us), ("one", 5));
}

#[test]
fn answers_out_of_order_go_on_in_the_order_of_the_calls() {
    let (registry, host) = with_host(Kind::Text);
    let session = session(ONE, &registry);
    let (tx, rx) = channel();
    let sink: Arc<dyn Fn(Item) + Send + Sync> =
        Arc::new(move |item| tx.send(text_of(&item).to_owned()).unwrap());
    for n in 0..8 {
        session.push(None, text(&format!("t{n}")), None, sink.clone()).unwrap();
    }
    let mut calls = host.take(8);
    let first = calls.remove(0);
    calls.into_iter().rev().for_each(upper);
    // The others' answers are in before the first one's.
    upper(first);
    let order: Vec<String> = (0..8).map(|_| rx.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(order, (0..8).map(|n| format!("T{n}")).collect::<Vec<_>>());
}

#[test]
fn failures_follow_the_nodes_policy() {
    let bad_port = ForeignOutput { port: "side".to_owned(), ..out("x") };
    let bad_kind = ForeignOutput { data: Data::Binary(vec![1].into()), ..out("x") };
    let bad_count = vec![out("x"); 257];
    type Way = (&'static str, Box<dyn Fn(ForeignReply)>);
    let ways: Vec<Way> = vec![
        ("it threw", Box::new(|reply| reply.fail("it threw"))),
        ("forgot the call", Box::new(drop)),
        ("output \"side\"", Box::new(move |reply| reply.complete(vec![bad_port.clone()]))),
        (
            "binary at output out, which is text",
            Box::new(move |reply| reply.complete(vec![bad_kind.clone()])),
        ),
        ("more than 256", Box::new(move |reply| reply.complete(bad_count.clone()))),
    ];
    for (message, answer) in &ways {
        for policy in ["fail", "drop", "bypass", "restart"] {
            let (registry, host) = with_host(Kind::Text);
            let session = session(&with_policy(policy), &registry);
            let outcome = begin(&session, None, text("a"));
            answer(host.take(1).remove(0).reply);
            let outcome = outcome.recv_timeout(LONG).unwrap();
            match policy {
                "fail" => {
                    let error = outcome.unwrap_err().to_string();
                    assert!(error.starts_with("node \"js\" failed") && error.contains(message), "{error}");
                }
                "bypass" => assert_eq!(text_of(&outcome.unwrap().unwrap()), "a"),
                _ => assert!(outcome.unwrap().is_none()),
            }
            let restarts = session.stats().nodes[0].restarts;
            assert_eq!(restarts, u64::from(policy == "restart"));
            assert_eq!(host.released.lock().unwrap().len() as u64, restarts);
            // And it goes on.
            let next = begin(&session, None, text("b"));
            upper(host.take(1).remove(0));
            assert_eq!(text_of(&next.recv_timeout(LONG).unwrap().unwrap().unwrap()), "B");
        }
    }
}

#[test]
fn a_host_that_panics_fails_the_call() {
    struct Panics;
    impl ForeignHost for Panics {
        fn submit(&self, _call: ForeignCall) {
            panic!("no host");
        }
    }
    let registry = Registry::builtin();
    let ports = || vec![PortSpec::new("p", Kind::Text)];
    registry.register_foreign("Js", ports(), ports(), Arc::new(Panics)).unwrap();
    let session = session(ONE, &registry);
    assert!(matches!(run(&session, None, text("a")), Err(NodeError::Failed { .. })));
}

#[test]
fn a_host_may_answer_at_once() {
    struct Now;
    impl ForeignHost for Now {
        fn submit(&self, call: ForeignCall) {
            upper(call);
        }
    }
    let registry = Registry::builtin();
    let ports = |name| vec![PortSpec::new(name, Kind::Text)];
    registry.register_foreign("Js", ports("in"), ports("out"), Arc::new(Now)).unwrap();
    let session = session(ONE, &registry);
    for _ in 0..1000 {
        assert_eq!(text_of(&run(&session, None, text("a")).unwrap().unwrap()), "A");
    }
}

#[test]
fn a_host_that_never_answers_holds_a_bounded_number_of_frames() {
    let (registry, host) = with_host(Kind::Video);
    let session = session(ONE, &registry);
    let (tx, rx) = channel();
    let frames = 500;
    let send = |n| {
        let tx = tx.clone();
        session.execute(None, picture(64, 48, n), move |outcome| {
            // The test may have failed and gone.
            let _ = tx.send((n, outcome.unwrap().is_some()));
        });
    };
    send(0);
    let held = host.take(1);
    (1..frames).for_each(send);
    // All but the one at the host and the newest one are given up.
    let mut dropped: Vec<i64> = (0..frames - 2).map(|_| rx.recv_timeout(LONG).unwrap().0).collect();
    dropped.sort_unstable();
    assert_eq!(dropped, (1..frames - 1).collect::<Vec<_>>());
    eventually(|| session.stats().nodes[0].depth == 2);
    assert!(host.calls.lock().unwrap().is_empty(), "the host got a second frame before it answered");
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    drop(tx);

    session.close();
    let rest: Vec<_> = rx.iter().collect();
    assert_eq!(rest.len(), 2);
    assert!(rest.iter().all(|(_, some)| !some));
    eventually(|| session.stats().nodes[0].depth == 0);
    // Its answer comes too late, and is no trouble.
    held.into_iter().for_each(|call| call.reply.complete(Vec::new()));
    assert_eq!(host.released.lock().unwrap().len(), 1);
}

#[test]
fn the_queue_of_an_edge_is_what_the_manifest_asks_for() {
    let (registry, host) = with_host(Kind::Text);
    let manifest = |policy: &str| {
        format!(
            "
version: v1
nodes: [{{ id: p, node_type: PassThrough }}, {{ id: js, node_type: Js }}]
connections: [{{ from: p, to: js, queue: {{ max: 2, policy: {policy} }} }}]
"
        )
    };
    // At the host: 0 and 1. What of 2..=7 waits, and what becomes of the rest:
    for (policy, waits) in [
        ("latest", vec![7]),
        ("drop_oldest", vec![6, 7]),
        ("drop_newest", vec![2, 3]),
        ("reject", vec![2, 3]),
    ] {
        let pool = WorkerPool::new("one", 1, None).unwrap();
        let session =
            Session::new(compile(&manifest(policy), &registry).unwrap(), pool, SessionOptions::default());
        let outcomes: Vec<_> = (0..8).map(|n| begin(&session, None, text(&n.to_string()))).collect();
        let mut gone = Vec::new();
        let mut expected: Vec<usize> = (2..8).filter(|n| !waits.contains(n)).collect();
        for n in expected.iter().copied() {
            let outcome = outcomes[n].recv_timeout(LONG).unwrap();
            match policy {
                "reject" => assert!(matches!(outcome, Err(NodeError::Full { .. }))),
                _ => assert!(matches!(outcome, Ok(None))),
            }
            gone.push(n);
        }
        expected.sort_unstable();
        assert_eq!(gone, expected);
        assert_eq!(session.stats().nodes[1].dropped, [(DropReason::Queue, gone.len() as u64)], "{policy}");
        let mut done = Vec::new();
        while done.len() < 2 + waits.len() {
            for call in host.take(1) {
                done.push(text_of(&call.item).parse::<usize>().unwrap());
                upper(call);
            }
        }
        assert_eq!(done, [vec![0, 1], waits].concat(), "{policy}");
    }
}

#[test]
fn a_one_shot_run_may_wait_for_a_foreign_node_and_ends_with_its_runner() {
    let (registry, host) = with_host(Kind::Text);
    let runner = Runner::new(registry, pool(), RunnerOptions { max_unary: 2 });
    let plan = runner.compile(&Manifest::parse(ONE).unwrap()).unwrap();
    let once = || {
        let (tx, rx) = channel();
        runner.execute_unary(&plan, text("a"), move |outcome| tx.send(outcome).unwrap());
        rx
    };
    let (first, second) = (once(), once());
    let mut calls = host.take(2);
    assert_ne!(calls[0].instance, calls[1].instance);
    assert!(matches!(once().recv_timeout(LONG), Ok(Err(NodeError::Limit { limit: 2, .. }))));
    upper(calls.remove(0));
    let answered =
        [first.recv_timeout(LONG), second.try_recv().map_err(|_| std::sync::mpsc::RecvTimeoutError::Timeout)];
    let texts = answered.into_iter().flatten().map(|outcome| text_of(&outcome.unwrap().unwrap()).to_owned());
    assert_eq!(texts.collect::<Vec<_>>(), ["A"]);
    let third = once();
    host.take(1);
    // `host.take` dropped the third one's reply, so it failed.
    assert!(matches!(third.recv_timeout(LONG), Ok(Err(NodeError::Failed { .. }))));
    runner.close();
    assert!(matches!(second.recv_timeout(LONG), Ok(Ok(None))));
    // The state of each instance is released, the held one's included.
    eventually(|| host.released.lock().unwrap().len() == 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any order of answers, failures and silence: every ticket resolves once, and results come in order.
    #[test]
    fn tickets_resolve_once_whatever_the_host_does(
        plan in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..14),
    ) {
        let (registry, host) = with_host(Kind::Text);
        let pool = WorkerPool::new("foreign", 2, None).unwrap();
        let session = Session::new(compile(ONE, &registry).unwrap(), pool.clone(), SessionOptions::default());
        let (tx, rx) = channel();
        for n in 0..plan.len() {
            let tx = tx.clone();
            session.execute(None, text(&n.to_string()), move |outcome| {
                let result = outcome.map(|item| item.is_some()).unwrap_or(false);
                tx.send((n, result)).unwrap();
            });
        }
        drop(tx);
        let mut calls = host.take(plan.len());
        let mut kept = Vec::new();
        for (what, which) in &plan {
            let call = calls.remove(which.index(calls.len()));
            match what {
                0 => upper(call),
                1 => call.reply.fail("no"),
                2 => drop(call),
                _ => kept.push(call),
            }
        }
        session.close();
        pool.close();
        drop(session);
        drop(kept);
        let mut seen: Vec<(usize, bool)> = rx.iter().collect();
        let given: Vec<usize> = seen.iter().filter(|(_, some)| *some).map(|(n, _)| *n).collect();
        prop_assert!(given.is_sorted(), "{:?}", given);
        seen.sort_unstable();
        prop_assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..plan.len()).collect::<Vec<_>>());
    }
}
