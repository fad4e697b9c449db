//! VP9, VP8 and H264, by what is seen.

mod common;

use common::{pattern, psnr};
use remotemedia_media::{
    EncodedFrame, FramePool, MediaError, VideoCodec, VideoContent, VideoDecoder, VideoEncoder,
    VideoEncoderConfig, VideoFrame, is_keyframe,
};

const CODECS: &[VideoCodec] = match cfg!(feature = "h264") {
    true => &[VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264],
    false => &[VideoCodec::Vp9, VideoCodec::Vp8],
};
const FRAME_US: i64 = 33_333;

fn encoder(codec: VideoCodec, width: u32, height: u32, bitrate_bps: u32) -> VideoEncoder {
    // A fixed speed, so that a busy machine doesn't change what is measured.
    let cpu_used = Some(8);
    VideoEncoder::new(VideoEncoderConfig {
        bitrate_bps,
        cpu_used,
        ..VideoEncoderConfig::new(codec, width, height)
    })
    .unwrap()
}

/// Bits a second of `count` frames from `first` on, and how many of them were keyframes. The clip plays to and fro.
fn measure(encoder: &mut VideoEncoder, clip: &[VideoFrame], first: usize, count: usize) -> (f64, usize) {
    let (mut bits, mut keyframes) = (0, 0);
    for i in first..first + count {
        let (turn, at) = (i / clip.len(), i % clip.len());
        let frame = &clip[if turn % 2 == 0 { at } else { clip.len() - 1 - at }];
        if let Some(out) = encoder.encode(&frame.with_timestamp_us(i as i64 * FRAME_US), false).unwrap() {
            bits += out.data.len() * 8;
            keyframes += usize::from(out.keyframe);
        }
    }
    (bits as f64 / (count as f64 * FRAME_US as f64 / 1e6), keyframes)
}

#[test]
fn a_moving_pattern_survives_every_codec() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 640, 360, 1_500_000);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        assert!(decoder.needs_keyframe());
        let (mut sum, mut worst, mut shown) = (0.0, f64::MAX, 0);
        for i in 0..60 {
            let frame = pattern(&pool, 640, 360, i, i as i64 * FRAME_US);
            let Some(out) = encoder.encode(&frame, false).unwrap() else { continue };
            assert_eq!(out.keyframe, i == 0, "{codec} frame {i}");
            assert_eq!(is_keyframe(codec, &out.data), out.keyframe);
            assert_eq!((out.width, out.height, out.timestamp_us), (640, 360, i as i64 * FRAME_US));
            let seen = decoder.decode(&out.data, out.timestamp_us).unwrap().expect("one in, one out");
            assert_eq!((seen.width(), seen.height(), seen.timestamp_us()), (640, 360, out.timestamp_us));
            assert!(!decoder.needs_keyframe());
            let db = psnr(frame.data(), seen.data());
            shown += 1;
            sum += db;
            worst = worst.min(db);
        }
        let mean = sum / f64::from(shown);
        println!("{codec}: {shown} of 60 frames, PSNR {mean:.1} dB, worst {worst:.1} dB");
        assert!(mean >= 32.0 && worst >= 28.0, "{codec}: {mean} {worst}");
        assert!(shown >= 55, "{codec}: {shown}");
    }
}

#[test]
fn the_bitrate_is_obeyed_and_changes_without_a_keyframe() {
    let pool = FramePool::default();
    let clip: Vec<_> = (0..45).map(|i| pattern(&pool, 640, 360, i, 0)).collect();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 640, 360, 600_000);
        measure(&mut encoder, &clip, 0, 15);
        let mut first = 15;
        for target in [600_000u32, 250_000, 900_000] {
            encoder.set_bitrate(target).unwrap();
            assert_eq!(encoder.config().bitrate_bps, target);
            // Half a second to settle, three to measure.
            let (_, settling) = measure(&mut encoder, &clip, first, 15);
            let (measured, keyframes) = measure(&mut encoder, &clip, first + 15, 90);
            first += 105;
            println!("{codec}: {:.0} of {} kbit/s", measured / 1e3, target / 1000);
            assert!((measured / f64::from(target) - 1.0).abs() < 0.25, "{codec}: {measured} for {target}");
            assert_eq!(settling + keyframes, 0, "{codec}: a keyframe at {target}");
        }
        encoder.set_framerate(15).unwrap();
        assert_eq!(measure(&mut encoder, &clip, first, 5).1, 0);
    }
}

#[test]
fn a_keyframe_comes_when_asked_for_and_stands_alone() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 320, 180, 500_000);
        let mut key: Option<EncodedFrame> = None;
        let mut asked_at = None;
        for i in 0..20 {
            let force = i == 12;
            let out = encoder.encode(&pattern(&pool, 320, 180, i, i as i64 * FRAME_US), force).unwrap();
            if let Some(out) = out.filter(|out| out.keyframe && i > 0) {
                assert!(i >= 12, "{codec}: a keyframe nobody asked for, at {i}");
                asked_at.get_or_insert(i);
                key = Some(out);
            }
        }
        assert_eq!(asked_at, Some(12), "{codec}");
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let seen = decoder.decode(&key.unwrap().data, 0).unwrap().unwrap();
        let db = psnr(pattern(&pool, 320, 180, 12, 0).data(), seen.data());
        assert!(db > 28.0, "{codec}: {db}");
    }
}

#[cfg(feature = "h264")]
#[test]
fn h264_is_constrained_baseline_with_parameter_sets_in_every_idr() {
    let pool = FramePool::default();
    let mut encoder = encoder(VideoCodec::H264, 320, 180, 500_000);
    for i in 0..4 {
        let out =
            encoder.encode(&pattern(&pool, 320, 180, i, i as i64 * FRAME_US), i % 2 == 0).unwrap().unwrap();
        assert_eq!(out.data[..4], [0, 0, 0, 1]);
        let types: Vec<u8> =
            out.data.windows(4).filter(|w| w[..3] == [0, 0, 1]).map(|w| w[3] & 0x1f).collect();
        assert_eq!(types, if i % 2 == 0 { vec![7, 8, 5] } else { vec![1] });
        if i == 0 {
            // profile_idc 66 with constraint_set1: constrained baseline.
            assert_eq!(out.data[5], 66);
            assert_ne!(out.data[6] & 0x40, 0);
        }
    }
}

#[test]
fn a_larger_size_reconfigures_with_a_keyframe() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 16, 16, 800_000);
        encoder.set_bitrate(500_000).unwrap();
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let mut index = 0;
        for (width, height) in [(16, 16), (176, 144), (320, 180), (322, 242), (640, 360)] {
            for i in 0..4 {
                let frame = pattern(&pool, width, height, index, index as i64 * FRAME_US);
                let Some(out) = encoder.encode(&frame, false).unwrap() else { continue };
                assert_eq!(out.keyframe, i == 0, "{codec} {width}x{height} {i}");
                let seen = decoder.decode(&out.data, out.timestamp_us).unwrap().unwrap();
                assert_eq!((seen.width(), seen.height()), (width, height));
                assert!(psnr(frame.data(), seen.data()) > 22.0, "{codec} {width}x{height}");
                index += 1;
            }
        }
        assert_eq!(encoder.config().bitrate_bps, 500_000);
    }
}

#[test]
fn odd_sizes_work() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 161, 91, 800_000);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        for i in 0..5 {
            let frame = pattern(&pool, 161, 91, i, i as i64 * FRAME_US);
            let Some(out) = encoder.encode(&frame, false).unwrap() else { continue };
            let seen = decoder.decode(&out.data, 0).unwrap().unwrap();
            // H264 has even sizes only; the others keep the odd column and row.
            let expected = if codec == VideoCodec::H264 { (160, 90) } else { (161, 91) };
            assert_eq!((seen.width(), seen.height()), expected);
            assert_eq!((out.width, out.height), expected);
            if codec != VideoCodec::H264 {
                assert!(psnr(frame.data(), seen.data()) > 28.0, "{codec}");
            }
        }
    }
}

#[test]
fn timestamps_that_repeat_or_go_back_do_no_harm() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut encoder = encoder(codec, 320, 180, 500_000);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        for (i, timestamp) in [0, 0, 0, -5_000_000, 10, i64::MAX, i64::MIN, 0, 33_333].into_iter().enumerate()
        {
            if let Some(out) = encoder.encode(&pattern(&pool, 320, 180, i, timestamp), false).unwrap() {
                assert_eq!(out.timestamp_us, timestamp);
                assert!(out.data.len() < 60_000, "{codec}: {} bytes", out.data.len());
                decoder.decode(&out.data, timestamp).unwrap();
            }
        }
    }
}

#[test]
fn each_kind_of_content_and_any_number_of_threads_encode() {
    let pool = FramePool::default();
    for &codec in CODECS {
        for (content, threads, cpu_used) in [
            (VideoContent::Detail, Some(2), Some(5)),
            (VideoContent::Text, Some(16), None),
            (VideoContent::Motion, None, Some(16)),
        ] {
            let config =
                VideoEncoderConfig { content, threads, cpu_used, ..VideoEncoderConfig::new(codec, 640, 360) };
            let mut encoder = VideoEncoder::new(config).unwrap();
            let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
            for i in 0..3 {
                let frame = pattern(&pool, 640, 360, i, i as i64 * FRAME_US);
                let out = encoder.encode(&frame, false).unwrap().unwrap();
                let seen = decoder.decode(&out.data, 0).unwrap().unwrap();
                assert!(psnr(frame.data(), seen.data()) > 28.0, "{codec} {content:?}");
            }
        }
    }
}

#[test]
fn settings_out_of_range_name_their_field() {
    for &codec in CODECS {
        let ok = VideoEncoderConfig::new(codec, 640, 360);
        let field = |config| match VideoEncoder::new(config).map(|_| ()) {
            Err(MediaError::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(VideoEncoderConfig { bitrate_bps: 9_999, ..ok }), "bitrate_bps");
        assert_eq!(field(VideoEncoderConfig { bitrate_bps: u32::MAX, ..ok }), "bitrate_bps");
        assert_eq!(field(VideoEncoderConfig { max_fps: 0, ..ok }), "max_fps");
        assert_eq!(field(VideoEncoderConfig { threads: Some(0), ..ok }), "threads");
        assert_eq!(field(VideoEncoderConfig { cpu_used: Some(-1), ..ok }), "cpu_used");
        assert!(matches!(
            VideoEncoder::new(VideoEncoderConfig { width: 9000, ..ok }),
            Err(MediaError::Frame(_))
        ));
        let mut encoder = VideoEncoder::new(ok).unwrap();
        assert!(encoder.set_bitrate(0).is_err() && encoder.set_framerate(241).is_err());
        for bitrate in [10_000, 100_000_000] {
            encoder.set_bitrate(bitrate).unwrap();
            encoder.encode(&pattern(&FramePool::default(), 640, 360, 0, 0), false).unwrap();
        }
    }
}

#[cfg(feature = "av1")]
#[test]
fn av1_is_decoded_and_not_encoded() {
    let pool = FramePool::default();
    let mut decoder = VideoDecoder::new(VideoCodec::Av1, pool.clone()).unwrap();
    for (size, (width, height)) in [("160x96", (160, 96)), ("320x180", (320, 180))] {
        let stream = common::av1(size);
        if size == "160x96" {
            assert!(matches!(decoder.decode(&stream[1], 0), Err(MediaError::NeedsKeyframe { .. })));
        }
        for (n, data) in stream.iter().enumerate() {
            assert_eq!(is_keyframe(VideoCodec::Av1, data), n % 6 == 0, "{size} {n}");
            let seen = decoder.decode(data, n as i64).unwrap().expect("one in, one out");
            assert_eq!((seen.width(), seen.height(), seen.timestamp_us()), (width, height, n as i64));
            let db = psnr(pattern(&pool, width, height, n, 0).data(), seen.data());
            assert!(db > 28.0, "{size} {n}: {db}");
        }
    }
    let refused = VideoEncoder::new(VideoEncoderConfig::new(VideoCodec::Av1, 160, 96)).map(|_| ());
    assert!(matches!(refused, Err(MediaError::Unsupported { codec: "AV1", .. })), "{refused:?}");
}
