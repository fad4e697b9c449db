//! Manifests as the existing RemoteMedia ecosystem writes them.

mod common;

use common::*;
use remotemedia_pipeline::*;

fn warnings(yaml: &str, registry: &Registry) -> Vec<String> {
    compile(yaml, registry).unwrap_or_else(|error| panic!("{error}")).warnings().to_vec()
}

#[test]
fn a_voice_pipeline_of_theirs_loads_and_runs() {
    if !onnx_runtime() {
        return;
    }
    // camelCase as their web examples have it, with what they say beside it, and a node of the application's own.
    let json = r#"{
        "version": "v1",
        "metadata": { "name": "vad", "description": "speech to text", "author": "somebody", "createdAt": "2025-01-30T00:00:00Z" },
        "nodes": [
            { "id": "resample_in", "node_type": "FastResampleNode",
              "params": { "source_rate": 48000, "target_rate": 16000, "quality": "Medium", "channels": 1 },
              "capabilities": { "cpu": { "cores": 2 } } },
            { "id": "audio_chunker", "nodeType": "AudioChunkerNode", "params": { "chunkSize": 512 }, "isStreaming": true,
              "description": "512-sample chunks" },
            { "id": "silero_vad", "nodeType": "SileroVADNode", "isStreaming": true,
              "params": { "threshold": 0.5, "samplingRate": 16000, "minSpeechDurationMs": 250, "minSilenceDurationMs": 500,
                          "speechPadMs": 30 } },
            { "id": "stt", "nodeType": "Js", "params": { "model": "base" } }
        ],
        "connections": [
            { "from": "resample_in", "to": "audio_chunker", "type": "audio" },
            { "from": "audio_chunker", "to": "silero_vad", "type": "audio", "description": "to the VAD" },
            { "from": "silero_vad", "to": "stt" }
        ],
        "config": { "execution_mode": "streaming" }
    }"#;
    let (registry, host) = with_host(Kind::Audio);
    let told = warnings(json, &registry);
    for text in [
        "manifest: unknown field \"config\" is ignored",
        "metadata: unknown field \"author\" is ignored",
        "nodes[0]: unknown field \"capabilities\" is ignored",
        "nodes[1]: unknown field \"isStreaming\" is ignored",
        "connections[1]: unknown field \"description\" is ignored",
        "nodes[0]: node_type \"FastResampleNode\" is taken as Resample",
        "nodes[1]: node_type \"AudioChunkerNode\" is taken as Chunk",
        "nodes[2]: node_type \"SileroVADNode\" is taken as Vad",
    ] {
        assert!(told.iter().any(|warning| warning == text), "{text}: {told:#?}");
    }
    let session = session(json, &registry);
    for n in 0..10 {
        session.push(None, audio(20, n * 20_000), None, std::sync::Arc::new(|_| {})).unwrap();
        eventually(|| session.stats().ingress[0].1.depth == 0);
    }
    let call = host.take(1).remove(0);
    let Data::Audio(frame) = &call.item.data else { panic!("not audio") };
    assert_eq!((frame.sample_rate, frame.frames()), (16_000, 512));
    assert_eq!(call.item.metadata.as_ref().unwrap()["speech"], "false");
    assert_eq!(session.stats().nodes[2].node_type, "Vad");
}

#[test]
fn their_names_stand_for_ours_with_their_parameters() {
    let registry = Registry::builtin();
    let one = |node: &str| format!("{{version: v1, nodes: [{{id: n, {node}}}]}}");
    let types = |yaml: &str| {
        let session = session(yaml, &registry);
        session.stats().nodes[0].node_type.clone()
    };
    for (node, ours) in [
        ("node_type: AudioResample, params: {target_sample_rate: 48000, quality: high}", "Resample"),
        ("node_type: FastResampleNode, params: {sourceRate: auto, targetRate: 16000}", "Resample"),
        ("node_type: AudioLevelNode, params: {window_size_ms: 100}", "LevelMeter"),
        ("node_type: VideoFlip, params: {horizontal: true}", "Flip"),
        ("node_type: VideoFlipNode, params: {direction: both}", "Flip"),
        ("node_type: VideoScaler, params: {target_width: 640, target_height: 360}", "Scale"),
        ("node_type: PassThroughNode", "PassThrough"),
        ("node_type: Echo", "PassThrough"),
    ] {
        assert_eq!(types(&one(node)), ours, "{node}");
    }
    let size = |params: &str| {
        let session = session(&one(&format!("node_type: VideoScaler, params: {{{params}}}")), &registry);
        let Data::Video(frame) = run(&session, None, picture(640, 480, 0)).unwrap().unwrap().data else {
            panic!()
        };
        (frame.width(), frame.height())
    };
    assert_eq!(size("target_width: 320, target_height: 180, maintain_aspect_ratio: true"), (240, 180));
    assert_eq!(size("target_width: 320, target_height: 180, maintain_aspect_ratio: false"), (320, 180));

    let told = warnings(
        &one(
            "node_type: AudioLevelNode, params: {window_size_ms: 100, low_volume_threshold_db: -40, silence_threshold_db: -60}",
        ),
        &registry,
    );
    assert_eq!(
        told,
        [
            "nodes[0]: node_type \"AudioLevelNode\" is taken as LevelMeter",
            "nodes[0].params: \"low_volume_threshold_db\" has no meaning for LevelMeter and is ignored",
            "nodes[0].params: \"silence_threshold_db\" has no meaning for LevelMeter and is ignored",
        ]
    );
    // What can be translated is checked like everything else, and the place is theirs.
    let error = compile(&one("node_type: FastResampleNode, params: {targetRate: 7}"), &registry).unwrap_err();
    assert_eq!(error.place, "node \"n\"");
    assert!(error.problem.contains("params.rate is 7"), "{error}");
    let told = warnings("{version: \"1.0\", nodes: [{id: n, node_type: Gain}]}", &registry);
    assert_eq!(told, ["version: \"1.0\" is taken as v1"]);
}

#[test]
fn every_name_in_the_table_of_the_documentation_is_taken_as_it_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/nodes.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("| theirs | here |").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut count = 0;
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let names: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let (ours, theirs) = names.split_last().unwrap();
        for name in theirs {
            let size = if *ours == "Scale" { ", params: {width: 64, height: 64}" } else { "" };
            let yaml = format!("{{version: v1, nodes: [{{id: n, node_type: {name}{size}}}]}}");
            if *ours == "Vad" && !onnx_runtime() {
                continue;
            }
            let told = warnings(&yaml, &Registry::builtin());
            assert_eq!(told, [format!("nodes[0]: node_type \"{name}\" is taken as {ours}")]);
            count += 1;
        }
    }
    assert!(count >= 18, "{count}");
}

#[test]
fn a_type_of_the_applications_own_comes_before_an_alias_and_others_stay_unknown() {
    let registry = Registry::builtin();
    registry.register(text_node("Echo", |_, text| Ok(vec![format!("{text} {text}")]))).unwrap();
    let yaml = "{version: v1, nodes: [{id: n, node_type: Echo}]}";
    assert!(warnings(yaml, &registry).is_empty());
    let session = session(yaml, &registry);
    assert_eq!(text_of(&run(&session, None, text("a")).unwrap().unwrap()), "a a");
    let error = compile("{version: v1, nodes: [{id: n, node_type: KokoroTTSNode}]}", &registry).unwrap_err();
    assert!(error.problem.contains("unknown node_type \"KokoroTTSNode\""), "{error}");
}
