//! Cost of one item through each built-in node, and of the graph around it.
//!
//! `cargo bench -p remotemedia-pipeline`; the segmenter needs ONNX Runtime (see tests/common).

#[path = "../tests/common/mod.rs"]
mod common;

use common::*;
use criterion::{Criterion, criterion_group, criterion_main};
use remotemedia_media::FramePool;
use remotemedia_pipeline::*;

/// 720p made of the test picture, so that there is detail and a person in it.
fn frame_720p() -> Item {
    let pool = FramePool::default();
    let frame = remotemedia_media::scale(&astronaut(&pool), &pool, 1280, 720).unwrap();
    Item::new(Data::Video(frame))
}

fn bench(c: &mut Criterion, name: &str, yaml: &str, item: &Item) {
    let session = session(yaml, &Registry::builtin());
    c.bench_function(name, |b| b.iter(|| run(&session, None, item.clone()).unwrap()));
}

/// A half transparent square.
fn png() -> String {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 256, 256);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header().unwrap().write_image_data(&[200, 100, 50, 128].repeat(256 * 256)).unwrap();
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |n| DIGITS[(bits >> (18 - 6 * n)) as usize & 63] as char)
    });
    digits.collect()
}

/// One picture of four that have all changed: what a tick costs.
fn compose(c: &mut Criterion) {
    let spec = Registry::builtin().specs().into_iter().find(|spec| spec.node_type == "Compositor").unwrap();
    let params = Params::new(&spec.params, &serde_json::Map::new()).unwrap();
    let mut node = (spec.load)(&params).unwrap().create(&params).unwrap();
    let frame = frame_720p();
    let mut out = Emit::default();
    c.bench_function("Compositor 4 x 720p -> 720p", |b| {
        b.iter(|| {
            for peer in ["a", "b", "c", "d"] {
                let item = Item { source: Some(peer.into()), ..frame.clone() };
                node.process(0, item, &mut out).unwrap();
            }
            out = Emit::default();
            node.tick(std::time::Instant::now(), &mut out).unwrap();
        })
    });
}

fn nodes(c: &mut Criterion) {
    let one = |node: &str| format!("{{version: v1, nodes: [{{id: n, {node}}}]}}");
    bench(c, "graph/PassThrough text", &one("node_type: PassThrough"), &text("hello"));
    bench(c, "Gain 20 ms 48 kHz mono", &one("node_type: Gain, params: {gain_db: -6}"), &audio(20, 0));
    bench(
        c,
        "Resample 20 ms 48 -> 16 kHz",
        &one("node_type: Resample, params: {rate: 16000}"),
        &audio(20, 0),
    );
    bench(c, "Resample 20 ms 44.1 -> 48 kHz", &one("node_type: Resample"), &tone(440.0, 0.5, 44_100, 20, 0));
    // Speech-like level: the limiter and the gain control have something to do.
    let loud = tone(440.0, 1.5, 48_000, 20, 0);
    bench(c, "Limiter 20 ms 48 kHz mono", &one("node_type: Limiter"), &loud);
    bench(c, "Agc 20 ms 48 kHz mono", &one("node_type: Agc"), &audio(20, 0));
    bench(c, "NoiseSuppression 20 ms 48 kHz mono", &one("node_type: NoiseSuppression"), &audio(20, 0));
    bench(
        c,
        "NoiseSuppression 20 ms 16 kHz mono",
        &one("node_type: NoiseSuppression"),
        &tone(440.0, 0.5, 16_000, 20, 0),
    );
    bench(
        c,
        "LevelMeter 20 ms 48 kHz mono",
        &one("node_type: LevelMeter, params: {interval_ms: 20}"),
        &audio(20, 0),
    );
    bench(
        c,
        "Chunk 20 ms 48 kHz mono to 512",
        &one("node_type: Chunk, params: {samples: 512}"),
        &audio(20, 0),
    );
    bench(c, "graph/Tee text", &one("node_type: Tee"), &text("hello"));
    bench(c, "graph/Drop text", &one("node_type: Drop, params: {every: 2}"), &text("hello"));
    bench(c, "graph/Throttle text", &one("node_type: Throttle, params: {rate: 1000}"), &text("hello"));
    let frame = frame_720p();
    bench(
        c,
        "Crop 720p to its middle",
        &one("node_type: Crop, params: {units: share, x: 0.25, y: 0.25, width: 0.5, height: 0.5}"),
        &frame,
    );
    bench(c, "Flip 720p", &one("node_type: Flip"), &frame);
    bench(c, "Flip 720p by 90 degrees", &one("node_type: Flip, params: {rotate: 90}"), &frame);
    bench(c, "OverlayText 720p", &one("node_type: OverlayText, params: {text: 'Hello, world'}"), &frame);
    bench(
        c,
        "OverlayImage 720p, 256x256",
        &one(&format!("node_type: OverlayImage, params: {{data: '{}'}}", png())),
        &frame,
    );
    compose(c);
    bench(c, "Scale 720p -> 360p", &one("node_type: Scale, params: {width: 640, height: 360}"), &frame);
    for radius in [2, 12, 64] {
        // The left half is a person, so both ways through the blend are taken.
        let half = (0..256 * 144).map(|n| if n % 256 < 128 { 255 } else { 0 }).collect::<Vec<u8>>();
        let session =
            blur_with_mask(&format!("radius: {radius}"), move |_| Mask::new(256, 144, half.clone()));
        let name = format!("BackgroundBlur 720p, radius {radius}");
        c.bench_function(&name, |b| b.iter(|| run(&session, None, frame.clone()).unwrap()));
    }
    if !onnx_runtime() {
        return;
    }
    bench(c, "Vad 20 ms 48 kHz mono", &one("node_type: Vad"), &audio(20, 0));
    bench(c, "PersonSegmenter 720p", &one("node_type: PersonSegmenter"), &frame);
    let both = "
version: v1
nodes: [{ id: seg, node_type: PersonSegmenter }, { id: blur, node_type: BackgroundBlur }]
connections: [{ from: seg.mask, to: blur.mask }]
";
    bench(c, "PersonSegmenter + BackgroundBlur 720p", both, &frame);
}

criterion_group!(benches, nodes);
criterion_main!(benches);
