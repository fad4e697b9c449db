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
    let frame = frame_720p();
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
