//! What a frame costs in each codec, and around it. `cargo bench -p remotemedia-media`.
//!
//! The picture is synthetic: drifting waves with texture and a disc that crosses, 1280x720.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use remotemedia_media::{
    FramePool, OPUS_RATE, OpusDecoder, OpusEncoder, OpusEncoderConfig, Resampler, Scaler, VideoCodec,
    VideoDecoder, VideoEncoder, VideoEncoderConfig, VideoFrame,
};

#[path = "../tests/common/mod.rs"]
mod common;
use common::{audio, pattern, sine};

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
/// Frames made beforehand, played to and fro so that motion never jumps.
const CLIP: usize = 30;

struct Clip {
    frames: Vec<VideoFrame>,
    next: usize,
}

impl Clip {
    fn new(pool: &FramePool) -> Clip {
        Clip { frames: (0..CLIP).map(|i| pattern(pool, WIDTH, HEIGHT, i, 0)).collect(), next: 0 }
    }

    fn next(&mut self) -> VideoFrame {
        let (turn, at) = (self.next / CLIP, self.next % CLIP);
        let frame = &self.frames[if turn % 2 == 0 { at } else { CLIP - 1 - at }];
        self.next += 1;
        frame.with_timestamp_us(self.next as i64 * 33_333)
    }
}

fn available() -> impl Iterator<Item = VideoCodec> {
    VideoCodec::ALL.into_iter().filter(|c| c.can_encode())
}

/// One thread and a fixed speed step: time on one core.
fn encoder(codec: VideoCodec, cpu_used: i32) -> VideoEncoder {
    let config = VideoEncoderConfig {
        threads: Some(1),
        cpu_used: Some(cpu_used),
        ..VideoEncoderConfig::new(codec, WIDTH, HEIGHT)
    };
    VideoEncoder::new(config).unwrap()
}

fn video(c: &mut Criterion) {
    let pool = FramePool::default();
    let mut clip = Clip::new(&pool);
    let mut group = c.benchmark_group("720p at 1.5 Mbit/s");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(1));
    for codec in available() {
        for cpu_used in if codec == VideoCodec::Vp9 { vec![7, 8, 9] } else { vec![8] } {
            let mut encoder = encoder(codec, cpu_used);
            group.bench_function(format!("encode {codec} speed {cpu_used}"), |b| {
                b.iter(|| encoder.encode(&clip.next(), false).unwrap());
            });
        }
        let mut encoder = encoder(codec, 8);
        let key = encoder.encode(&clip.next(), true).unwrap().unwrap();
        // A keyframe, and the deltas that follow it, over and over.
        let mut stream = vec![key];
        stream.extend((0..29).filter_map(|_| encoder.encode(&clip.next(), false).unwrap()));
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let mut at = 0;
        group.bench_function(format!("decode {codec}"), |b| {
            b.iter(|| {
                let frame = decoder.decode(&stream[at % stream.len()].data, at as i64).unwrap();
                at += 1;
                black_box(frame)
            });
        });
    }
    group.finish();
}

fn picture(c: &mut Criterion) {
    let pool = FramePool::default();
    let frame = pattern(&pool, WIDTH, HEIGHT, 0, 0);
    let mut rgba = vec![0; frame.rgba_len()];
    let mut scaler = Scaler::new();
    let mut group = c.benchmark_group("720p picture");
    group.sample_size(30).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.bench_function("I420 to RGBA", |b| b.iter(|| frame.copy_to_rgba(black_box(&mut rgba)).unwrap()));
    group.bench_function("RGBA to I420", |b| {
        b.iter(|| VideoFrame::from_rgba(&pool, &rgba, WIDTH, HEIGHT, 0).unwrap())
    });
    group.bench_function("scale to 640x360", |b| b.iter(|| scaler.scale(&frame, &pool, 640, 360).unwrap()));
    group.bench_function("scale to 1920x1080", |b| {
        b.iter(|| scaler.scale(&frame, &pool, 1920, 1080).unwrap())
    });
    group.finish();
}

fn sound(c: &mut Criterion) {
    let mut group = c.benchmark_group("20 ms of sound");
    group.sample_size(30).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for channels in [1, 2] {
        let config =
            OpusEncoderConfig { channels, bitrate_bps: 32_000 * u32::from(channels), ..Default::default() };
        let mut encoder = OpusEncoder::new(config).unwrap();
        let samples = sine(440.0, 0.5, OPUS_RATE, channels, 0, 960);
        group.bench_function(format!("Opus encode, {channels} ch"), |b| {
            b.iter(|| encoder.encode(&samples).unwrap())
        });
        let packet = encoder.encode(&samples).unwrap();
        let mut decoder = OpusDecoder::new(channels).unwrap();
        let mut out = Vec::new();
        group.bench_function(format!("Opus decode, {channels} ch"), |b| {
            b.iter(|| decoder.decode(black_box(&packet), &mut out).unwrap());
        });
        let mut resampler = Resampler::new(OPUS_RATE, channels).unwrap();
        let input = audio(sine(440.0, 0.5, 44_100, channels, 0, 882), 44_100, channels, 0);
        group.bench_function(format!("resample 44.1 to 48 kHz, {channels} ch"), |b| {
            b.iter(|| resampler.process(black_box(&input)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(codecs, video, picture, sound);
criterion_main!(codecs);
