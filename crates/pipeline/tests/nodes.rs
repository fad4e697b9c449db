//! The built-in nodes on real signals.

mod common;

use std::sync::Arc;

use common::*;
use remotemedia_media::{AudioFrame, FramePool, VideoFrame};
use remotemedia_pipeline::*;

fn one(node: &str) -> Session {
    session(&format!("{{version: v1, nodes: [{{id: n, {node}}}]}}"), &Registry::builtin())
}

fn audio_of(item: Item) -> AudioFrame {
    let Data::Audio(frame) = item.data else { panic!("not audio") };
    frame
}

fn video_of(item: Item) -> VideoFrame {
    let Data::Video(frame) = item.data else { panic!("not video") };
    frame
}

/// Amplitude of one frequency, by correlation with it.
fn amplitude(samples: &[f32], rate: u32, hz: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let phase = n as f64 * hz * std::f64::consts::TAU / f64::from(rate);
        re += f64::from(*sample) * phase.cos();
        im += f64::from(*sample) * phase.sin();
    }
    2.0 * re.hypot(im) / samples.len() as f64
}

#[test]
fn pass_through_gives_every_kind_unchanged() {
    let session = one("node_type: PassThrough");
    assert_eq!(text_of(&run(&session, None, text("a")).unwrap().unwrap()), "a");
    let item = audio(20, 5);
    let Data::Audio(before) = item.data.clone() else { panic!() };
    let after = audio_of(run(&session, None, item).unwrap().unwrap());
    assert!(Arc::ptr_eq(&before.samples, &after.samples), "nothing is copied");
    let json = Item::new(Data::Json(Arc::new(serde_json::json!({"a": 1}))));
    assert!(matches!(run(&session, None, json).unwrap().unwrap().data, Data::Json(_)));
}

#[test]
fn gain_changes_the_level_and_not_the_frequency() {
    for (params, expected) in
        [("gain_db: -6.0206", 0.125), ("gain: 3", 0.75), ("gain_db: -60", 0.00025), ("gain: 0", 0.0)]
    {
        let session = one(&format!("node_type: Gain, params: {{{params}}}"));
        let frame = audio_of(run(&session, None, tone(1000.0, 0.25, 48_000, 100, 0)).unwrap().unwrap());
        let level = amplitude(&frame.samples, 48_000, 1000.0);
        assert!((level - expected).abs() < 1e-4, "{params}: {level}");
    }
}

#[test]
fn gain_clips_unless_told_not_to_and_changes_without_a_click() {
    let peak = |frame: &AudioFrame| frame.samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
    let loud = one("node_type: Gain, params: {gain_db: 24}");
    assert_eq!(peak(&audio_of(run(&loud, None, audio(20, 0)).unwrap().unwrap())), 1.0);
    let free = one("node_type: Gain, params: {gain_db: 24, clip: false}");
    assert!(peak(&audio_of(run(&free, None, audio(20, 0)).unwrap().unwrap())) > 7.0);

    let session = one("node_type: Gain, params: {gain: 0.0}");
    run(&session, None, audio(20, 0)).unwrap();
    session.set_param("n", "gain", 1.into()).unwrap();
    let frame = audio_of(run(&session, None, audio(20, 20_000)).unwrap().unwrap());
    let steepest = frame.samples.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0f32, f32::max);
    // The steepest a 440 Hz sine of this level gets by itself is 0.0288 a sample.
    assert!(steepest < 0.035, "a step of {steepest}");
}

#[test]
fn resample_keeps_the_tone_and_the_time() {
    for (from, to) in [(48_000, 16_000), (44_100, 48_000), (8_000, 48_000), (48_000, 44_101)] {
        let session = one(&format!("node_type: Resample, params: {{rate: {to}, channels: 2}}"));
        let mut left = Vec::new();
        let mut first = None;
        for n in 0..50 {
            let Some(item) =
                run(&session, None, tone(1000.0, 0.5, from, 20, 1_000_000 + n * 20_000)).unwrap()
            else {
                continue;
            };
            first.get_or_insert(item.timestamp_us);
            let frame = audio_of(item);
            assert_eq!((frame.sample_rate, frame.channels), (to, 2));
            left.extend(frame.samples.iter().step_by(2));
        }
        let seconds = left.len() as f64 / f64::from(to);
        assert!((0.97..=1.0).contains(&seconds), "{from} -> {to}: {seconds} s");
        assert!((first.unwrap() - 1_000_000).abs() <= 1000, "{from} -> {to}: starts at {first:?}");
        let middle = &left[left.len() / 4..left.len() * 3 / 4];
        let level = amplitude(middle, to, 1000.0);
        assert!((level - 0.5).abs() < 0.01, "{from} -> {to}: level {level}");
    }
}

#[test]
fn scale_stretches_or_fits_inside() {
    let size = |params: &str, width, height| {
        let session = one(&format!("node_type: Scale, params: {{{params}}}"));
        let frame = video_of(run(&session, None, picture(width, height, 42)).unwrap().unwrap());
        assert_eq!(frame.timestamp_us(), 42);
        (frame.width(), frame.height())
    };
    assert_eq!(size("width: 320, height: 180", 100, 100), (320, 180));
    assert_eq!(size("width: 320, height: 180, fit: inside", 1280, 720), (320, 180));
    assert_eq!(size("width: 320, height: 180, fit: inside", 720, 1280), (100, 180));
    assert_eq!(size("width: 320, height: 180, fit: inside", 640, 480), (240, 180));
    assert_eq!(size("width: 320, height: 180, fit: inside", 8192, 1), (320, 2));
}

#[test]
fn scale_keeps_what_is_in_the_picture() {
    let session = one("node_type: Scale, params: {width: 128, height: 128}");
    let before = astronaut(&FramePool::default());
    let after = video_of(run(&session, None, Item::new(Data::Video(before.clone()))).unwrap().unwrap());
    for (small, large) in after.planes().iter().zip(before.planes()) {
        let (width, big) = (small.stride, large.stride);
        let mut sum = 0.0;
        for (y, row) in small.data.chunks(width).enumerate() {
            for (x, value) in row.iter().enumerate() {
                let at = |dx: usize, dy: usize| f64::from(large.data[(2 * y + dy) * big + 2 * x + dx]);
                let mean = (at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1)) / 4.0;
                sum += (mean - f64::from(*value)).powi(2);
            }
        }
        let psnr = 10.0 * (255.0f64.powi(2) / (sum / small.data.len() as f64)).log10();
        assert!(psnr > 30.0, "{psnr} dB");
    }
}

struct Region {
    x: std::ops::Range<usize>,
    y: std::ops::Range<usize>,
}

const FACE: Region = Region { x: 96..132, y: 42..86 };
/// The shuttle model on the right: background full of edges.
const SHUTTLE: Region = Region { x: 186..250, y: 4..128 };
const CORNER: Region = Region { x: 150..178, y: 4..60 };

/// Variance of the Laplacian of luma: how sharp it is.
fn sharpness(frame: &VideoFrame, region: &Region) -> f64 {
    let luma = frame.planes()[0];
    let at = |x: usize, y: usize| f64::from(luma.data[y * luma.stride + x]);
    let mut values = Vec::new();
    for y in region.y.clone() {
        for x in region.x.clone() {
            values.push(at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) - 4.0 * at(x, y));
        }
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
}

/// Mean of a mask over a region of the 256x256 picture, in 0..=1.
fn mean(mask: &Mask, region: &Region) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for y in region.y.clone() {
        for x in region.x.clone() {
            let (mx, my) = (x * mask.width() as usize / 256, y * mask.height() as usize / 256);
            sum += f64::from(mask.data()[my * mask.width() as usize + mx]) / 255.0;
            count += 1.0;
        }
    }
    sum / count
}

#[test]
fn the_segmenter_finds_the_person() {
    if !onnx_runtime() {
        return;
    }
    let session = one("node_type: PersonSegmenter");
    let item = Item::new(Data::Video(astronaut(&FramePool::default())));
    let Data::Mask(mask) = run(&session, None, item).unwrap().unwrap().data else { panic!("not a mask") };
    assert_eq!((mask.width(), mask.height()), (256, 144));
    let (face, corner, shuttle) = (mean(&mask, &FACE), mean(&mask, &CORNER), mean(&mask, &SHUTTLE));
    assert!(face > 0.9, "face {face}");
    assert!(corner < 0.1, "corner {corner}");
    assert!(shuttle < 0.1, "shuttle {shuttle}");
}

#[test]
fn the_segmenter_looks_at_every_nth_picture_and_copes_with_any_size() {
    if !onnx_runtime() {
        return;
    }
    let session = one("node_type: PersonSegmenter, params: {every: 3}");
    let looked: Vec<bool> =
        (0..7).map(|n| run(&session, None, picture(320, 180, n)).unwrap().is_some()).collect();
    assert_eq!(looked, [true, false, false, true, false, false, true]);
    let session = one("node_type: PersonSegmenter");
    for (width, height) in [(1, 1), (2, 7), (257, 143), (1920, 1080)] {
        assert!(run(&session, None, picture(width, height, 0)).unwrap().is_some());
    }
}

const BLUR: &str = "
version: v1
nodes:
  - { id: seg,  node_type: PersonSegmenter }
  - { id: blur, node_type: BackgroundBlur, params: { radius: 12 } }
connections:
  - { from: seg.mask, to: blur.mask, queue: { max: 1, policy: latest } }
";

#[test]
fn the_background_is_blurred_and_the_face_is_not() {
    if !onnx_runtime() {
        return;
    }
    let session = session(BLUR, &Registry::builtin());
    let before = astronaut(&FramePool::default());
    let after = video_of(run(&session, None, Item::new(Data::Video(before.clone()))).unwrap().unwrap());
    let (face, shuttle) = (
        sharpness(&after, &FACE) / sharpness(&before, &FACE),
        sharpness(&before, &SHUTTLE) / sharpness(&after, &SHUTTLE),
    );
    println!("face keeps {face:.3} of its sharpness, the background loses a factor of {shuttle:.1}");
    assert!((0.97..=1.03).contains(&face), "the face's sharpness changed by a factor of {face}");
    assert!(shuttle > 5.0, "the background's sharpness fell by {shuttle} only");
    // Blurred, not darkened.
    let brightness = |frame: &VideoFrame| frame.planes()[0].data.iter().map(|v| f64::from(*v)).sum::<f64>();
    assert!((brightness(&after) / brightness(&before) - 1.0).abs() < 0.02);
}

#[test]
fn peers_blur_side_by_side_with_one_model() {
    if !onnx_runtime() {
        return;
    }
    let session = session(BLUR, &Registry::builtin());
    let pool = FramePool::default();
    let expected = video_of(run(&session, None, Item::new(Data::Video(astronaut(&pool)))).unwrap().unwrap());
    let waiting: Vec<_> = (0..6)
        .map(|peer| begin(&session, Some(&format!("p{peer}")), Item::new(Data::Video(astronaut(&pool)))))
        .collect();
    for outcome in waiting {
        let got = video_of(outcome.recv_timeout(LONG).unwrap().unwrap().unwrap());
        assert!(got.data() == expected.data());
    }
}

fn uniform(value: u8) -> Option<Mask> {
    Mask::new(16, 9, vec![value; 16 * 9])
}

/// Left half black, right half white, so that blur shows as grey at the middle.
fn halves(width: u32, height: u32) -> VideoFrame {
    let mut frame = FramePool::default().get(width, height).unwrap();
    let [luma, u, v] = frame.planes_mut();
    for row in luma.data.chunks_mut(luma.stride) {
        for (x, value) in row.iter_mut().enumerate() {
            *value = if x < width as usize / 2 { 16 } else { 235 };
        }
    }
    u.data.fill(128);
    v.data.fill(128);
    frame.freeze(0)
}

#[test]
fn blur_follows_its_mask_and_hides_everything_until_there_is_one() {
    let frame = halves(640, 360);
    let item = || Item::new(Data::Video(frame.clone()));
    let all = blur_with_mask("radius: 12", |_| uniform(255));
    assert!(
        video_of(run(&all, None, item()).unwrap().unwrap()).data() == frame.data(),
        "a person everywhere: untouched"
    );
    for unknown in [blur_with_mask("radius: 12", |_| None), blur_with_mask("radius: 12", |_| uniform(0))] {
        let out = video_of(run(&unknown, None, item()).unwrap().unwrap());
        let at = |x: usize| i32::from(out.planes()[0].data[180 * 640 + x]);
        assert!((at(320) - 125).abs() < 12, "{} at the edge", at(320));
        assert!((at(310) - 125) < -30 && (at(330) - 125) > 30, "{} and {} beside it", at(310), at(330));
        assert!((at(8) - 16).abs() <= 1 && (at(632) - 235).abs() <= 1, "{} and {} far away", at(8), at(632));
        assert!(
            out.planes()[1].data.iter().all(|v| (127..=129).contains(v)),
            "no colour where there was none"
        );
    }
}

#[test]
fn the_width_of_the_blur_is_its_radius() {
    for radius in [1, 2, 3, 4, 5, 7, 8, 12, 32, 64] {
        let frame = halves(1280, 720);
        let session = blur_with_mask(&format!("radius: {radius}"), |_| uniform(0));
        let out = video_of(run(&session, None, Item::new(Data::Video(frame))).unwrap().unwrap());
        let row: Vec<f64> =
            out.planes()[0].data[360 * 1280..361 * 1280].iter().map(|v| f64::from(*v)).collect();
        // The derivative of a blurred step is the blur itself: take its standard deviation.
        let slope: Vec<f64> = row.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let total: f64 = slope.iter().sum();
        let centre: f64 = slope.iter().enumerate().map(|(x, d)| x as f64 * d).sum::<f64>() / total;
        let variance: f64 =
            slope.iter().enumerate().map(|(x, d)| (x as f64 - centre).powi(2) * d).sum::<f64>() / total;
        let sigma = variance.sqrt();
        // Half a pixel is what the small picture can't tell.
        let allowed = (0.15 * f64::from(radius)).max(0.5);
        assert!((sigma - f64::from(radius)).abs() < allowed, "radius {radius} came out as {sigma:.1}");
    }
}

#[test]
fn smoothing_follows_the_mask_over_several_pictures() {
    // A person everywhere in the first picture, nobody from then on.
    let session =
        blur_with_mask("radius: 12, smoothing: 0.9, softness: 1", |n| uniform(if n == 0 { 255 } else { 0 }));
    let frame = halves(640, 360);
    let grey: Vec<i32> = (0..60)
        .map(|_| {
            let out = video_of(run(&session, None, Item::new(Data::Video(frame.clone()))).unwrap().unwrap());
            i32::from(out.planes()[0].data[180 * 640 + 316])
        })
        .collect();
    assert_eq!(grey[0], 16);
    assert!(grey[1] < 30, "one mask changes little: {}", grey[1]);
    assert!(grey[59] > 80, "in the end it is followed: {}", grey[59]);
    assert!(grey.is_sorted());
}

#[test]
fn blur_copes_with_any_size() {
    let session = blur_with_mask("radius: 64", |_| uniform(100));
    for (width, height) in [(1, 1), (2, 2), (3, 5), (17, 9), (641, 359), (1, 512), (512, 1)] {
        let out = video_of(run(&session, None, picture(width, height, 0)).unwrap().unwrap());
        assert_eq!((out.width(), out.height()), (width, height));
    }
}
