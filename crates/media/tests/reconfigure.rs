//! Encoders whose settings change while they run, by what a decoder makes of it.

mod common;

use common::{pattern, psnr};
use remotemedia_media::{
    EncodedFrame, FramePool, MediaError, VideoCodec, VideoDecoder, VideoEncoder, VideoEncoderConfig,
    VideoFrame, scale,
};

const CODECS: &[VideoCodec] = match cfg!(feature = "h264") {
    true => &[VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264],
    false => &[VideoCodec::Vp9, VideoCodec::Vp8],
};
const VPX: [VideoCodec; 2] = [VideoCodec::Vp9, VideoCodec::Vp8];

fn encoder(config: VideoEncoderConfig) -> VideoEncoder {
    // A fixed speed, so that a busy machine doesn't change what is measured.
    VideoEncoder::new(VideoEncoderConfig { cpu_used: Some(8), ..config }).unwrap()
}

/// What is changed before some picture.
#[derive(Debug, Clone, Copy)]
enum Change {
    Bitrate(u32),
    Size(u32, u32),
    Framerate(u32),
    Keyframe,
    Layers(u8),
}

/// Every setting changes within ten seconds of one stream: each picture is decoded, and looks as it should.
#[test]
fn settings_change_and_no_picture_is_lost_or_spoilt() {
    use Change::*;
    let pool = FramePool::default();
    let changes = [
        (20, Bitrate(400_000)),
        (40, Size(480, 270)),
        (60, Size(320, 180)),
        (80, Size(640, 360)),
        (100, Framerate(15)),
        (120, Framerate(30)),
        (130, Keyframe),
        (140, Layers(3)),
        (170, Layers(2)),
        (190, Layers(1)),
        (210, Bitrate(1_500_000)),
        (230, Size(1280, 720)),
        (250, Size(640, 360)),
    ];
    for &codec in CODECS {
        let mut encoder = encoder(VideoEncoderConfig {
            bitrate_bps: 1_000_000,
            ..VideoEncoderConfig::new(codec, 640, 360)
        });
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let (mut size, mut step_us, mut now_us) = ((640, 360), 33_333, 0);
        let (mut quality, mut keyframes, mut left_out) = (Vec::new(), Vec::new(), 0);
        for n in 0..270 {
            let mut force = n == 0;
            for (_, change) in changes.iter().filter(|(at, _)| *at == n) {
                match *change {
                    Bitrate(bps) => encoder.set_bitrate(bps).unwrap(),
                    Size(width, height) => size = (width, height),
                    Framerate(fps) => {
                        encoder.set_framerate(fps).unwrap();
                        step_us = 1_000_000 / i64::from(fps);
                    }
                    Keyframe => force = true,
                    Layers(count) if codec == VideoCodec::H264 => {
                        let refused = encoder.set_temporal_layers(count);
                        assert!(count == 1 || matches!(refused, Err(MediaError::Config { .. })));
                    }
                    Layers(count) => encoder.set_temporal_layers(count).unwrap(),
                }
            }
            now_us += step_us;
            let frame = pattern(&pool, size.0, size.1, n, now_us);
            let Some(out) = encoder.encode(&frame, force).unwrap() else {
                left_out += 1;
                continue;
            };
            if out.keyframe {
                keyframes.push(n);
            }
            let seen = decoder.decode(&out.data, out.timestamp_us).unwrap().expect("one in, one out");
            assert_eq!(
                (seen.width(), seen.height(), seen.timestamp_us()),
                (size.0, size.1, now_us),
                "{codec} {n}"
            );
            quality.push((n, psnr(frame.data(), seen.data())));
        }
        let mean = quality.iter().map(|(_, db)| db).sum::<f64>() / quality.len() as f64;
        let worst = quality.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        println!(
            "{codec}: PSNR {mean:.1} dB, worst {:.1} at {}, {left_out} left out, keyframes {keyframes:?}",
            worst.1, worst.0
        );
        assert!(mean > 31.0 && worst.1 > 24.0, "{codec}: {mean} {worst:?}");
        assert!(left_out <= 25, "{codec}: {left_out} of 270 left out");
        let expected: &[usize] = match codec {
            // Smaller, and back to the size it began with, without a keyframe; 180 is half of 360.
            VideoCodec::Vp9 => &[0, 130, 230],
            _ => &[0, 40, 60, 80, 130, 230, 250],
        };
        for at in expected {
            // Rate control may leave the picture out that was to be one.
            assert!(
                keyframes.iter().any(|n| (*at..at + 4).contains(n)),
                "{codec}: none at {at}: {keyframes:?}"
            );
        }
        assert_eq!(keyframes.len(), expected.len(), "{codec}: {keyframes:?}");
    }
}

/// Whoever leaves out all pictures of the higher layers decodes the others bit for bit as if nothing was missing.
#[test]
fn pictures_of_higher_temporal_layers_can_be_left_out() {
    let pool = FramePool::default();
    for codec in VPX {
        for layers in [2, 3] {
            let mut encoder = encoder(VideoEncoderConfig {
                temporal_layers: layers,
                bitrate_bps: 900_000,
                ..VideoEncoderConfig::new(codec, 640, 360)
            });
            // Layers are switched off and on again in the middle.
            let stream: Vec<EncodedFrame> = (0..120)
                .filter_map(|n| {
                    match n {
                        50 => encoder.set_temporal_layers(1).unwrap(),
                        70 => encoder.set_temporal_layers(layers).unwrap(),
                        _ => {}
                    }
                    encoder.encode(&pattern(&pool, 640, 360, n, n as i64 * 33_333), false).unwrap()
                })
                .collect();
            let bits = stream.iter().map(|f| f.data.len() * 8).sum::<usize>() as f64 / 4.0;
            assert!((bits / 900_000.0 - 1.0).abs() < 0.3, "{codec} {layers}: {bits} bit/s");
            assert_eq!(stream.iter().filter(|f| f.keyframe).count(), 1, "{codec} {layers}");
            let decode = |most: u8| -> Vec<VideoFrame> {
                let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
                let kept = stream.iter().filter(|f| f.temporal_layer <= most);
                kept.map(|f| decoder.decode(&f.data, f.timestamp_us).unwrap().unwrap()).collect()
            };
            let whole = decode(layers - 1);
            for most in 0..layers - 1 {
                let part = decode(most);
                let share = part.len() as f64 / whole.len() as f64;
                println!("{codec}, {layers} layers, up to {most}: {:.0} % of the pictures", share * 100.0);
                // A sixth of the time there is one layer only.
                let layered = 0.5f64.powi(i32::from(layers - 1 - most));
                assert!((share - (layered * 5.0 + 1.0) / 6.0).abs() < 0.04, "{share}");
                for frame in part {
                    let same = whole.iter().find(|f| f.timestamp_us() == frame.timestamp_us()).unwrap();
                    assert!(
                        same.data() == frame.data(),
                        "{codec} {layers} {most}: {} us",
                        frame.timestamp_us()
                    );
                }
            }
        }
    }
}

/// Sizes at random for a while: whatever they are, it stays decodable and the decoder says the right size.
#[test]
fn any_sequence_of_sizes_decodes() {
    const SEED: u64 = 0x5eed_51e5;
    let pool = FramePool::default();
    let source = pattern(&pool, 320, 240, 0, 0);
    for &codec in CODECS {
        let mut random = common::XorShift(SEED);
        let mut encoder = encoder(VideoEncoderConfig::new(codec, 320, 240));
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let mut size = (320, 240);
        for n in 0..150 {
            if random.below(3) == 0 {
                size = (16 + 2 * random.below(160) as u32, 16 + 2 * random.below(112) as u32);
            }
            let frame = scale(&source, &pool, size.0, size.1).unwrap().with_timestamp_us(n * 33_333);
            if let Some(out) = encoder.encode(&frame, false).unwrap() {
                let seen = decoder
                    .decode(&out.data, 0)
                    .unwrap_or_else(|e| panic!("{codec} seed {SEED:#x} {n}: {e}"));
                let seen = seen.unwrap();
                assert_eq!((seen.width(), seen.height()), size, "{codec} seed {SEED:#x} {n}");
                let db = psnr(frame.data(), seen.data());
                assert!(db > 20.0, "{codec} seed {SEED:#x} {n}: {db}");
            }
        }
    }
}
