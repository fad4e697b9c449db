//! Manifests and hosts that are wrong in every way there is: refused with the place named, or handled by policy. Never a
//! panic, never an item that nobody answers for, never a failure that nobody is told of.

mod common;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use proptest::sample::select;
use remotemedia_media::AudioFrame;
use remotemedia_pipeline::*;
use serde_json::{Map, Value, json};

const IDS: [&str; 4] = ["a", "b", "c", "d"];

/// Node types: those there are, some aliases, one that is none.
fn types() -> Vec<String> {
    let aliases = ["FastResampleNode", "VideoFlipNode", "AudioLevelNode", "Echo", "Nope", ""];
    Registry::builtin()
        .names()
        .into_iter()
        .chain(aliases.map(str::to_owned))
        .chain(["Js".to_owned()])
        .collect()
}

/// Parameters of all types, so that most are of another type than the node's.
fn params() -> Vec<String> {
    let specs = Registry::builtin().specs();
    let names = specs.iter().flat_map(|spec| spec.params.iter().map(|param| param.name.to_owned()));
    names.chain(["targetRate".to_owned(), "__proto__".to_owned()]).collect()
}

fn ports() -> Vec<String> {
    let specs = Registry::builtin().specs();
    let names =
        specs.iter().flat_map(|spec| spec.inputs.iter().chain(&spec.outputs).map(|port| port.name.clone()));
    names.chain(["nope".to_owned()]).collect()
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({"x": 1})),
        Just(json!(f64::MAX)),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        any::<bool>().prop_map(Value::from),
        (-100i64..100).prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        "[a-z#0-9]{0,9}".prop_map(Value::from),
        select(vec!["grid", "pip", "share", "center", "#00000080", "inside", "latest", "block", "fail"])
            .prop_map(Value::from),
    ]
}

fn node() -> impl Strategy<Value = Value> {
    let given = proptest::collection::vec((select(params()), odd_value()), 0..4);
    let policy = select(vec!["bypass", "drop", "restart", "fail"]);
    (0usize..4, select(types()), given, policy, any::<bool>(), proptest::option::of(1u64..100)).prop_map(
        |(id, node_type, given, policy, enabled, deadline)| {
            let mut node = json!({
                "id": IDS[id], "node_type": node_type, "on_error": policy, "enabled": enabled,
                "params": given.into_iter().collect::<Map<_, _>>(),
            });
            if let Some(ms) = deadline {
                node["deadline_ms"] = ms.into();
            }
            node
        },
    )
}

fn end() -> impl Strategy<Value = String> {
    (select(IDS.to_vec()), proptest::option::of(select(ports())))
        .prop_map(|(id, port)| port.map_or_else(|| id.to_owned(), |port| format!("{id}.{port}")))
}

fn connection() -> impl Strategy<Value = Value> {
    let queue = proptest::option::of((
        1u64..6,
        select(vec!["latest", "drop_oldest", "drop_newest", "reject", "block"]),
    ));
    (end(), end(), queue).prop_map(|(from, to, queue)| match queue {
        Some((max, policy)) => json!({"from": from, "to": to, "queue": {"max": max, "policy": policy}}),
        None => json!({"from": from, "to": to}),
    })
}

/// Manifests of which a good part is fine, and the rest wrong in one place or several.
fn manifest() -> impl Strategy<Value = Value> {
    let spoil = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), odd_value()));
    let nodes = proptest::collection::vec(node(), 1..5);
    (nodes, proptest::collection::vec(connection(), 0..5), any::<bool>(), spoil).prop_map(
        |(mut nodes, connections, unique, spoil)| {
            if unique {
                for (node, id) in nodes.iter_mut().zip(IDS) {
                    node["id"] = id.into();
                }
            }
            let mut whole = json!({"version": "v1", "nodes": nodes, "connections": connections});
            if let Some((at, value)) = spoil {
                replace(&mut whole, at, value);
            }
            whole
        },
    )
}

/// Puts something else in one place of a tree.
fn replace(tree: &mut Value, at: prop::sample::Index, value: Value) {
    fn count(tree: &Value) -> usize {
        1 + match tree {
            Value::Array(list) => list.iter().map(count).sum(),
            Value::Object(map) => map.values().map(count).sum(),
            _ => 0usize,
        }
    }
    fn put(tree: &mut Value, left: &mut usize, value: &Value) {
        if *left == 0 {
            *tree = value.clone();
        }
        *left = left.wrapping_sub(1);
        match tree {
            Value::Array(list) => list.iter_mut().for_each(|item| put(item, left, value)),
            Value::Object(map) => map.values_mut().for_each(|item| put(item, left, value)),
            _ => {}
        }
    }
    let mut left = at.index(count(tree));
    put(tree, &mut left, &value);
}

/// Items of every kind, usual and unusual.
fn items() -> Vec<Item> {
    let sound = |samples: Vec<f32>, sample_rate, channels, timestamp_us| {
        let samples = Arc::new(samples);
        Item::new(Data::Audio(AudioFrame { samples, sample_rate, channels, timestamp_us }))
    };
    vec![
        audio(20, 0),
        sound(Vec::new(), 48_000, 2, i64::MAX),
        sound(vec![f32::NAN, f32::INFINITY, -1e30, 1e-40], 8_000, 2, i64::MIN),
        sound(vec![0.5; 192], 192_000, 1, 5),
        picture(1, 1, i64::MAX),
        picture(17, 3, i64::MIN),
        picture(320, 180, 40_000),
        text(""),
        text(&"x\n\u{7}\u{202e}🦊".repeat(200)),
        Item::new(Data::Json(Arc::new(json!({"main": {"deep": [1, null]}})))),
        Item::new(Data::Json(Arc::new(Value::Null))),
        Item::new(Data::Binary(vec![0; 100].into())),
        Item::new(Data::AudioMix(Arc::new(Vec::new()))),
    ]
}

/// Answers each call in its own way, some never.
struct Garbage {
    ways: Mutex<Vec<u8>>,
    kept: Mutex<Vec<ForeignCall>>,
}

impl ForeignHost for Garbage {
    fn submit(&self, call: ForeignCall) {
        let way = self.ways.lock().unwrap().pop().unwrap_or(0);
        let data = call.item.data.clone();
        let out = |port: &str, data: Data| ForeignOutput { port: port.to_owned(), data, timestamp_us: None };
        match way {
            0 => call.reply.complete(vec![out("out", data)]),
            1 => call.reply.complete(Vec::new()),
            2 => call.reply.complete(vec![out("nowhere\n\u{1b}[31m", data)]),
            3 => call.reply.complete(vec![out("out", data); 300]),
            4 => {
                let samples = Arc::new(vec![0.0; 7]);
                let frame = AudioFrame { samples, sample_rate: 0, channels: 9, timestamp_us: 0 };
                call.reply.complete(vec![out("out", Data::Audio(frame))]);
            }
            5 => call.reply.fail("x".repeat(10_000)),
            6 => drop(call),
            7 => panic!("no host"),
            _ => self.kept.lock().unwrap().push(call),
        }
    }
}

fn registry(ways: Vec<u8>) -> Registry {
    let registry = Registry::builtin();
    let ports = |name: &str| vec![PortSpec::new(name, Kind::Any)];
    let host = Garbage { ways: Mutex::new(ways), kept: Mutex::default() };
    registry.register_foreign("Js", ports("in"), ports("out"), Arc::new(host)).unwrap();
    registry
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// What is refused says where; what is taken runs, and answers for every item that it was given.
    #[test]
    fn a_manifest_is_refused_at_a_place_or_runs(tree in manifest(), ways in proptest::collection::vec(0u8..9, 0..40)) {
        let registry = registry(ways);
        let plan = Manifest::from_value(&tree).and_then(|manifest| Plan::compile(&manifest, &registry));
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                prop_assert!(!error.place.is_empty() && !error.problem.is_empty());
                let text = error.to_string();
                prop_assert!(text.len() < 3000 && !text.contains(char::is_control), "{}", text);
                return Ok(());
            }
        };
        let told: Arc<Mutex<Vec<ErrorReport>>> = Arc::default();
        let into = told.clone();
        let hook: ErrorHook = Arc::new(move |report| into.lock().unwrap().push(report));
        let options = SessionOptions { on_error: Some(hook), ..SessionOptions::default() };
        let pool = WorkerPool::new("hostile", 2, None).unwrap();
        let session = Session::new(plan.clone(), pool.clone(), options);
        let waiting: Vec<_> = items().into_iter().map(|item| begin(&session, Some("ann"), item)).collect();
        // Deadlines are short here: whatever a node does, nobody waits for ever.
        for rx in waiting {
            let outcome = rx.recv_timeout(LONG);
            prop_assert!(outcome.is_ok(), "an item that nobody answered for");
        }
        let errors: u64 = session.stats().nodes.iter().map(|node| node.errors).sum();
        prop_assert!(errors == 0 || !told.lock().unwrap().is_empty(), "{} errors and nobody was told", errors);
        prop_assert_eq!(pool.panics(), 0, "a panic outside of any node");
        // It can be told to do it all again.
        prop_assert!(session.reload(plan).is_ok());
        session.close();
        pool.close();
    }

    /// Any bytes changed in a manifest that is fine.
    #[test]
    fn a_manifest_with_bytes_changed_is_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..12),
    ) {
        const GOOD: &str = "
version: v1
metadata: { name: call }
nodes:
  - { id: clean, node_type: NoiseSuppression, params: { strength: 0.9 }, on_error: bypass }
  - { id: level, node_type: LevelMeter, params: { interval_ms: 50 } }
  - { id: shape, node_type: Crop, params: { units: share, x: 0.1, width: 0.5 }, deadline_ms: 50 }
connections:
  - { from: clean, to: level, queue: { max: 4, policy: drop_oldest } }
";
        let mut chars: Vec<char> = GOOD.chars().collect();
        for (at, c) in changes {
            let at = at.index(chars.len());
            chars[at] = c;
        }
        let text: String = chars.into_iter().collect();
        if let Err(error) = Manifest::parse(&text).and_then(|manifest| Plan::compile(&manifest, &Registry::builtin())) {
            prop_assert!(!error.place.is_empty() && !error.problem.is_empty());
        }
    }

    /// Whatever a host does, and be it nothing: each item is answered for once, in order, and what a host holds is bounded.
    #[test]
    fn a_host_of_any_kind_is_borne(
        ways in proptest::collection::vec(0u8..9, 1..60),
        policy in select(vec!["bypass", "drop", "restart", "fail"]),
        queue in select(vec!["latest", "drop_oldest", "drop_newest", "reject", "block"]),
        max in 1usize..5,
        deadline_ms in 5u64..40,
    ) {
        let yaml = format!("
version: v1
nodes:
  - {{ id: p, node_type: PassThrough }}
  - {{ id: js, node_type: Js, on_error: {policy}, deadline_ms: {deadline_ms} }}
connections: [{{ from: p, to: js, queue: {{ max: {max}, policy: {queue} }} }}]
");
        let count = ways.len();
        let registry = registry(ways);
        let pool = WorkerPool::new("host", 2, None).unwrap();
        let session = Session::new(compile(&yaml, &registry).unwrap(), pool.clone(), SessionOptions::default());
        let (tx, rx) = channel();
        for n in 0..count {
            let tx = tx.clone();
            session.execute(None, text(&n.to_string()), move |outcome| {
                let _ = tx.send((n, matches!(outcome, Ok(Some(_)))));
            });
        }
        drop(tx);
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(rx.recv_timeout(LONG).map_err(|_| TestCaseError::fail("an item nobody answered for"))?);
        }
        prop_assert!(rx.recv_timeout(Duration::from_millis(1)).is_err(), "an item answered for twice");
        let given: Vec<usize> = seen.iter().filter(|(_, some)| *some).map(|(n, _)| *n).collect();
        prop_assert!(given.is_sorted(), "{:?}", given);
        let depth = session.stats().nodes[1].depth;
        prop_assert!(depth <= max as u64, "{} items away at a host that may have {}", depth, max);
        session.close();
        pool.close();
        prop_assert_eq!(pool.panics(), 0);
    }
}
