//! Input that is broken or means harm, and memory that has to come back.

mod common;

use common::{XorShift, pattern, psnr, resident_kib};
use remotemedia_media::{
    EncodedFrame, FrameError, FramePool, MediaError, OpusDecoder, OpusEncoder, OpusEncoderConfig, VideoCodec,
    VideoDecoder, VideoEncoder, VideoEncoderConfig,
};

const CODECS: &[VideoCodec] = match cfg!(feature = "h264") {
    true => &[VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264],
    false => &[VideoCodec::Vp9, VideoCodec::Vp8],
};

/// Twelve frames of 160x96: keyframes at 0 and 6.
fn stream(codec: VideoCodec, pool: &FramePool) -> Vec<EncodedFrame> {
    let config = VideoEncoderConfig { cpu_used: Some(8), ..VideoEncoderConfig::new(codec, 160, 96) };
    let mut encoder = VideoEncoder::new(config).unwrap();
    (0..12)
        .map(|i| encoder.encode(&pattern(pool, 160, 96, i, i as i64 * 33_333), i == 6).unwrap().unwrap())
        .collect()
}

fn mutate(random: &mut XorShift, data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    match random.below(4) {
        0 => data.truncate(random.below(data.len())),
        1 => (0..1 + random.below(4)).for_each(|_| {
            let at = random.below(data.len());
            data[at] ^= 1 << random.below(8);
        }),
        2 => {
            let (from, len) = (random.below(data.len()), 1 + random.below(40));
            let end = (from + len).min(data.len());
            data[from..end].iter_mut().for_each(|b| *b = random.next() as u8);
        }
        _ => {
            // A header that lies, over a body that holds.
            let len = data.len().min(32);
            let at = random.below(len);
            data[at] = random.next() as u8;
        }
    }
    data
}

#[test]
fn damaged_pictures_are_errors_and_the_next_keyframe_heals() {
    const SEED: u64 = 0x00c0_ffee_1234_5678;
    let pool = FramePool::default();
    for &codec in CODECS {
        let mut random = XorShift(SEED);
        let good = stream(codec, &pool);
        let expected = pattern(&pool, 160, 96, 6, 0);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        let (mut refused, mut shown) = (0, 0);
        for round in 0..400 {
            let which = random.below(good.len());
            let data = mutate(&mut random, &good[which].data);
            match decoder.decode(&data, round) {
                Ok(Some(_)) => shown += 1,
                Ok(None) => {}
                Err(_) => {
                    refused += 1;
                    assert!(decoder.needs_keyframe());
                    assert!(matches!(
                        decoder.decode(&good[1].data, 0),
                        Err(MediaError::NeedsKeyframe { .. })
                    ));
                }
            }
            if round % 4 == 3 {
                let seen = decoder
                    .decode(&good[6].data, round)
                    .unwrap_or_else(|e| panic!("{codec} seed {SEED:#x} round {round}: {e}"));
                let db = psnr(expected.data(), seen.unwrap().data());
                assert!(db > 28.0, "{codec} seed {SEED:#x} round {round}: {db} dB after a keyframe");
                assert!(!decoder.needs_keyframe());
                // And the delta frames that follow it.
                for frame in &good[7..9] {
                    decoder.decode(&frame.data, round).unwrap().unwrap();
                }
            }
        }
        println!("{codec}: {refused} of 400 refused, {shown} shown");
        assert!(refused > 100, "{codec}: {refused}");
    }
}

#[test]
fn a_delta_frame_first_and_rubbish_are_refused() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let good = stream(codec, &pool);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        assert!(matches!(decoder.decode(&good[1].data, 0), Err(MediaError::NeedsKeyframe { .. })));
        let mut random = XorShift(99);
        for len in [0, 1, 2, 3, 9, 10, 100, 5000] {
            let rubbish: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            assert!(decoder.decode(&rubbish, 0).is_err(), "{codec} {len}");
        }
        decoder.decode(&good[0].data, 0).unwrap().unwrap();
        assert!(decoder.decode(&[], 0).is_err());
    }
}

/// Sets the size in a keyframe's header; the body stays as it was.
fn with_size(codec: VideoCodec, data: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut data = data.to_vec();
    match codec {
        VideoCodec::Vp8 => {
            data[6..8].copy_from_slice(&(width as u16).to_le_bytes());
            data[8..10].copy_from_slice(&(height as u16).to_le_bytes());
        }
        VideoCodec::Vp9 => {
            // Marker, profile, four flags, sync code, colour space and range come to 36 bits.
            let bits = u64::from(width - 1) << 16 | u64::from(height - 1);
            for i in 0..32 {
                let (at, shift) = ((36 + i) / 8, 7 - (36 + i) % 8);
                data[at] = data[at] & !(1 << shift) | ((bits >> (31 - i) & 1) as u8) << shift;
            }
        }
        VideoCodec::H264 => {
            // A parameter set of its own, in front: baseline, level 5.2, POC type 2, one reference.
            let mut bits = String::from("010000101100000000110100"); // profile 66, constraints, level 52
            let ue = |v: u32| format!("{}{:b}", "0".repeat((v + 1).ilog2() as usize), v + 1);
            for value in [0, 0, 2, 1] {
                bits += &ue(value);
            }
            bits += "0";
            bits += &ue(width / 16 - 1);
            bits += &ue(height / 16 - 1);
            bits += "11001"; // frames only, 8x8 inference, no crop, no VUI, stop bit
            while bits.len() % 8 != 0 {
                bits += "0";
            }
            let mut out = vec![0, 0, 0, 1, 0x67];
            out.extend((0..bits.len() / 8).map(|i| u8::from_str_radix(&bits[i * 8..i * 8 + 8], 2).unwrap()));
            out.extend_from_slice(&data);
            data = out;
        }
        VideoCodec::Av1 => unreachable!("it is not encoded here"),
    }
    data
}

#[test]
fn oversize_is_refused_before_anything_is_allocated() {
    let pool = FramePool::default();
    for &codec in CODECS {
        let good = stream(codec, &pool);
        let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
        // The helper is right: with the true size, or one within the limits, the header is taken.
        let taken = decoder.decode(&with_size(codec, &good[0].data, 160, 96), 0);
        assert!(!matches!(taken, Err(MediaError::Frame(_))), "{codec}: {taken:?}");
        let before = resident_kib();
        // VP8 has 14 bits for each.
        let largest = if codec == VideoCodec::Vp8 { 16_368 } else { 16_384 };
        for (width, height) in [(largest, largest), (8_208, 16), (16, 8_208), (4_112, 4_112)] {
            let refused = decoder.decode(&with_size(codec, &good[0].data, width, height), 0).map(|_| ());
            assert_eq!(refused, Err(MediaError::Frame(FrameError::Dimensions { width, height })), "{codec}");
            assert!(decoder.needs_keyframe());
        }
        if let (Some(before), Some(after)) = (before, resident_kib()) {
            assert!(after < before + 20_000, "{codec}: {before} KiB, then {after}");
        }
        decoder.decode(&good[0].data, 0).unwrap().unwrap();
    }
}

#[test]
fn a_vp9_frame_hidden_behind_another_is_not_decoded() {
    let pool = FramePool::default();
    let good = stream(VideoCodec::Vp9, &pool);
    let large = with_size(VideoCodec::Vp9, &good[0].data, 16_000, 16_000);
    // In a superframe's index, it is checked like any other.
    let mut listed = [&good[0].data[..], &large].concat();
    let marker = 0xc0 | 1 << 3 | 1;
    listed.push(marker);
    listed.extend_from_slice(&(good[0].data.len() as u16).to_le_bytes());
    listed.extend_from_slice(&(large.len() as u16).to_le_bytes());
    listed.push(marker);
    let mut decoder = VideoDecoder::new(VideoCodec::Vp9, pool.clone()).unwrap();
    assert!(matches!(decoder.decode(&listed, 0), Err(MediaError::Frame(FrameError::Dimensions { .. }))));
    // Simply appended, it is either ignored or an error, but never a picture.
    let appended = [&good[0].data[..], &large].concat();
    let mut decoder = VideoDecoder::new(VideoCodec::Vp9, pool.clone()).unwrap();
    if let Ok(Some(frame)) = decoder.decode(&appended, 0) {
        assert_eq!((frame.width(), frame.height()), (160, 96));
    }
}

#[test]
fn other_vp9_profiles_are_refused() {
    let pool = FramePool::default();
    let good = stream(VideoCodec::Vp9, &pool);
    for profile in 1..4u8 {
        // Two bits behind the marker, low one first; profile 3 has a reserved bit after them.
        let mut data = good[0].data.to_vec();
        data[0] = data[0] & 0xcf | (profile & 1) << 5 | (profile >> 1) << 4;
        if profile == 3 {
            data[0] &= 0xf0;
        }
        let mut decoder = VideoDecoder::new(VideoCodec::Vp9, pool.clone()).unwrap();
        let refused = decoder.decode(&data, 0).map(|_| ());
        assert!(matches!(refused, Err(MediaError::Unsupported { .. })), "profile {profile}: {refused:?}");
    }
}

#[test]
fn codecs_give_their_memory_back() {
    let pool = FramePool::new(2);
    let frames: Vec<_> = (0..2).map(|i| pattern(&pool, 176, 144, i, i as i64 * 33_333)).collect();
    let round = || {
        for &codec in CODECS {
            let config = VideoEncoderConfig { cpu_used: Some(8), ..VideoEncoderConfig::new(codec, 176, 144) };
            let mut encoder = VideoEncoder::new(config).unwrap();
            let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
            for frame in &frames {
                let out = encoder.encode(frame, false).unwrap().unwrap();
                decoder.decode(&out.data, 0).unwrap().unwrap();
            }
            let key = encoder.encode(&frames[0], true).unwrap().unwrap();
            let _ = decoder.decode(&key.data[..key.data.len() / 2], 0);
        }
        let mut encoder = OpusEncoder::new(OpusEncoderConfig::default()).unwrap();
        let packet = encoder.encode(&[0.1; 960]).unwrap();
        OpusDecoder::new(1).unwrap().decode(&packet, &mut Vec::new()).unwrap();
    };
    (0..20).for_each(|_| round());
    let Some(before) = resident_kib() else { return };
    (0..200).for_each(|_| round());
    let after = resident_kib().unwrap();
    println!("{before} KiB after 20 rounds, {after} KiB after 220");
    // One lost context of any of them is 0.5 MiB or more a round.
    assert!(after < before + 8_192, "{before} KiB grew to {after} KiB");
}
