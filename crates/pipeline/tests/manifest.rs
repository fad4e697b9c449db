//! Manifests: what is read, what is refused and where the error points.

mod common;

use common::*;
use remotemedia_pipeline::*;

const BLUR: &str = "
version: v1
metadata: { name: blur }
nodes:
  - { id: seg,  node_type: PersonSegmenter }
  - { id: blur, node_type: BackgroundBlur, params: { radius: 12 } }
connections:
  - { from: seg.mask, to: blur.mask, queue: { max: 1, policy: latest } }
";

#[test]
fn yaml_and_json_read_the_same() {
    let yaml = Manifest::parse(BLUR).unwrap();
    assert_eq!(yaml.metadata.name.as_deref(), Some("blur"));
    assert_eq!(yaml.nodes.len(), 2);
    assert_eq!(yaml.nodes[1].params["radius"], 12);
    let queue = yaml.connections[0].queue.unwrap();
    assert_eq!((queue.max, queue.policy), (Some(1), Some(QueuePolicy::Latest)));
    assert_eq!(
        (yaml.nodes[0].on_error, yaml.nodes[0].scope, yaml.nodes[0].enabled),
        (OnError::Fail, None, true)
    );
    let json = r#"{ "version": "v1", "metadata": {"name": "blur"},
        "nodes": [{"id": "seg", "node_type": "PersonSegmenter"},
                  {"id": "blur", "node_type": "BackgroundBlur", "params": {"radius": 12}}],
        "connections": [{"from": "seg.mask", "to": "blur.mask", "queue": {"max": 1, "policy": "latest"}}] }"#;
    assert_eq!(Manifest::parse(json).unwrap(), yaml);
    assert!(yaml.warnings.is_empty());
}

#[test]
fn unknown_fields_are_warnings_with_their_place() {
    let yaml = "
version: v1
colour: red
nodes: [{ id: a, node_type: PassThrough, gpu: true }]
";
    let warnings = Manifest::parse(yaml).unwrap().warnings;
    assert_eq!(
        warnings,
        ["manifest: unknown field \"colour\" is ignored", "nodes[0]: unknown field \"gpu\" is ignored"]
    );
}

/// A manifest of one line, what the error's place is, and what its text must contain.
const REFUSED: &[(&str, &str, &str)] = &[
    ("nodes: [{id: a, node_type: PassThrough}]", "version", "is missing; it is v1"),
    ("{version: v2, nodes: [{id: a, node_type: PassThrough}]}", "version", "\"v2\", not v1"),
    ("{version: 1, nodes: []}", "version", "is 1, not v1"),
    ("{version: v1}", "nodes", "at least one node"),
    ("{version: v1, nodes: {}}", "nodes", "is a map, not a list"),
    ("{version: v1, nodes: [7]}", "nodes[0]", "is 7, not a map"),
    ("{version: v1, nodes: [{node_type: Gain}]}", "nodes[0].id", "is missing"),
    ("{version: v1, nodes: [{id: 'a.b', node_type: Gain}]}", "nodes[0].id", "letters, digits"),
    ("{version: v1, nodes: [{id: a}]}", "nodes[0].node_type", "is missing"),
    ("{version: v1, nodes: [{id: a, node_type: 3}]}", "nodes[0].node_type", "is 3, not text"),
    ("{version: v1, nodes: [{id: a, node_type: Gain, params: 3}]}", "nodes[0].params", "is 3, not a map"),
    ("{version: v1, nodes: [{id: a, node_type: Gain, scope: room}]}", "nodes[0].scope", "peer or shared"),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, on_error: cry}]}",
        "nodes[0].on_error",
        "bypass, drop, restart or fail",
    ),
    ("{version: v1, nodes: [{id: a, node_type: Gain, enabled: yep}]}", "nodes[0].enabled", "true or false"),
    (
        "{version: v1, nodes: [{id: a, node_type: Nope}]}",
        "node \"a\"",
        "unknown node_type \"Nope\"; there is Agc, AudioMixer",
    ),
    ("{version: v1, nodes: [{id: a, node_type: Gain}, {id: a, node_type: Gain}]}", "node \"a\"", "twice"),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, params: {gain_db: 25}}]}",
        "node \"a\"",
        "params.gain_db is 25, not a number from -60 to 24",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, params: {gain_db: loud}}]}",
        "node \"a\"",
        "not a number from -60 to 24",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, params: {volume: 1}}]}",
        "node \"a\"",
        "params.volume is no parameter",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, params: {gain: 1, gain_db: 1}}]}",
        "node \"a\"",
        "give one",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Scale}]}",
        "node \"a\"",
        "params.width is missing: a whole number from 2 to 8192",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Scale, params: {width: 2.5, height: 2}}]}",
        "node \"a\"",
        "params.width is 2.5",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Scale, params: {width: 8192, height: 8192}}]}",
        "node \"a\"",
        "params.width and params.height",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Scale, params: {width: 8, height: 8, fit: tight}}]}",
        "node \"a\"",
        "stretch or inside",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: BackgroundBlur}]}",
        "node \"a\"",
        "input mask (mask) must be connected",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: a}]}",
        "connections[0].to",
        "is missing",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: a.b.c, to: a}]}",
        "connections[0].from",
        "not a node or node.port",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: b, to: a}]}",
        "connections[0].from",
        "no node \"b\"; the manifest has a",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: a.up, to: a}]}",
        "connections[0].from",
        "no output \"up\"; it has out",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: a, to: a.up}]}",
        "connections[0].to",
        "no input \"up\"; it has in",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}], connections: [{from: a, to: a}]}",
        "connections",
        "make a cycle: a -> a",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Gain}, {id: c, node_type: Gain}], connections: [{from: a, to: b}, {from: b, to: c}, {from: c, to: b}]}",
        "connections",
        "-> ",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Gain}], connections: [{from: a, to: b}, {from: a.out, to: b.in}]}",
        "connections[1]",
        "same ports as connections[0]",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Scale, params: {width: 8, height: 8}}], connections: [{from: a, to: b}]}",
        "connections[0]",
        "a gives out (audio), b takes in (video)",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: p, node_type: PassThrough}, {id: b, node_type: Scale, params: {width: 8, height: 8}}], connections: [{from: a, to: p}, {from: p, to: b}]}",
        "connections[1]",
        "p gives audio, b takes video",
    ),
    (
        "{version: v1, nodes: [{id: p, node_type: PassThrough}, {id: b, node_type: BackgroundBlur}], connections: [{from: p, to: b}]}",
        "connections[0]",
        "more than one pair",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Gain}], connections: [{from: a, to: b, queue: {max: 0}}]}",
        "connections[0].queue.max",
        "from 1 to 4096",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Gain}], connections: [{from: a, to: b, queue: {policy: hope}}]}",
        "connections[0].queue.policy",
        "not latest, drop_oldest, drop_newest, reject or block",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, deadline_ms: 0}]}",
        "nodes[0].deadline_ms",
        "is 0, not a whole number from 1 to 600000",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain, deadline_ms: soon}]}",
        "nodes[0].deadline_ms",
        "is \"soon\", not a whole number",
    ),
    (
        "{version: v1, nodes: [{id: a, node_type: Gain}, {id: b, node_type: Gain}, {id: c, node_type: Gain}], connections: [{from: a, to: c, queue: {max: 1}}, {from: b, to: c, queue: {max: 2}}]}",
        "node \"c\"",
        "different queues",
    ),
    ("[1, 2]", "manifest", "is a list, not a map"),
    ("", "manifest", "is empty, not a map"),
    ("{version: v1, version: v1, nodes: []}", "manifest", "is not YAML or JSON"),
    ("{version: v1", "manifest", "is not YAML or JSON"),
];

#[test]
fn everything_wrong_is_refused_at_its_place() {
    let registry = Registry::builtin();
    for (yaml, place, text) in REFUSED {
        let error = compile(yaml, &registry).err().unwrap_or_else(|| panic!("{yaml} was taken"));
        assert_eq!(error.place, *place, "{yaml}: {error}");
        assert!(error.to_string().contains(text), "{yaml}: {error}");
    }
}

#[test]
fn limits_hold_before_anything_is_built() {
    let registry = Registry::builtin();
    let refused = |yaml: &str, text: &str| {
        let error = compile(yaml, &registry).err().unwrap_or_else(|| panic!("taken, instead of: {text}"));
        assert!(error.to_string().contains(text), "{error}");
    };
    refused(&format!("version: v1\n#{}", "x".repeat(MAX_MANIFEST_BYTES)), "at most 1048576");

    let nodes: String = (0..=MAX_NODES).map(|n| format!("- {{id: n{n}, node_type: Gain}}\n")).collect();
    refused(&format!("version: v1\nnodes:\n{nodes}"), "1025 entries");
    let wires: String = (0..=MAX_CONNECTIONS).map(|_| "- {from: a, to: b}\n").collect();
    refused(
        &format!("version: v1\nnodes: [{{id: a, node_type: Gain}}]\nconnections:\n{wires}"),
        "4097 entries",
    );

    for deep in [100, 10_000, 200_000] {
        refused(&format!("{}{}", "[".repeat(deep), "]".repeat(deep)), "manifest: ");
        refused(&format!("a: {}1", "- ".repeat(deep)), "manifest: ");
        refused(&format!("{}1{}", r#"{"a":"#.repeat(deep), "}".repeat(deep)), "manifest: ");
    }
    let nested = format!("{{\"version\": \"v1\", \"x\": {}{}}}", "[".repeat(60), "]".repeat(60));
    refused(&nested, "nested deeper than 32");
}

#[test]
fn alias_bombs_are_defused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let row = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{row}]\n"));
    }
    bomb.push_str("version: v1\nnodes: *a11\n");
    let since = std::time::Instant::now();
    let error = Manifest::parse(&bomb).unwrap_err();
    assert!(error.problem.contains("not YAML or JSON"), "{error}");
    assert!(since.elapsed() < std::time::Duration::from_secs(5));
    // Honest use of an anchor stays possible.
    let honest = "
version: v1
nodes:
  - { id: a, node_type: Gain, params: &loud { gain_db: 6 } }
  - { id: b, node_type: Gain, params: *loud }
";
    assert_eq!(Manifest::parse(honest).unwrap().nodes[1].params["gain_db"], 6);
}

#[test]
fn a_missing_runtime_or_model_is_told_at_compile_time() {
    // Its own process, so that the paths other tests set are not seen.
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "child_without_runtime"])
        .env_remove("ORT_DYLIB_PATH")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
#[ignore = "run by a_missing_runtime_or_model_is_told_at_compile_time"]
fn child_without_runtime() {
    let registry = Registry::builtin();
    let error = compile(BLUR, &registry).unwrap_err();
    assert_eq!(error.place, "node \"seg\"");
    assert!(error.problem.contains("npm install onnxruntime-node"), "{error}");
    set_onnx_runtime_path("/nowhere/libonnxruntime.so.1");
    let error = compile(BLUR, &registry).unwrap_err();
    assert!(error.problem.contains("/nowhere/libonnxruntime.so.1 isn't there"), "{error}");
    set_onnx_runtime_path(std::env::current_exe().unwrap());
    let error = compile(BLUR, &registry).unwrap_err();
    assert!(error.problem.contains("can't be loaded"), "{error}");
}

proptest::proptest! {
    /// Whatever is written, the answer is a manifest or an error, never a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "(version|nodes|id|a|:|-|\\{|\\}|\\[|\\]|,|&|\\*|'|\"|\n| |v1|!|<<|\\|)*") {
        let _ = Manifest::parse(&text).map(|manifest| Plan::compile(&manifest, &Registry::builtin()).err());
    }
}
