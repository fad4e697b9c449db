//! Decoders that are given damaged streams, packets and sizes that change: properties over seeded damage.

mod common;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::{XorShift, av1, pattern, psnr, resident_kib, sine};
use proptest::prelude::*;
use remotemedia_media::{
    AudioPacket, EncodedFrame, FramePool, JitterBuffer, MAX_OPUS_FRAME, MediaError, OPUS_RATE, OpusDecoder,
    OpusEncoder, OpusEncoderConfig, VideoCodec, VideoDecoder, VideoEncoder, VideoEncoderConfig,
    check_dimensions, is_keyframe, opus_packet_frames, opus_packet_has_fec,
};

/// A stream of each codec there is.
static STREAMS: LazyLock<Vec<(VideoCodec, Vec<Vec<u8>>)>> = LazyLock::new(|| {
    VideoCodec::ALL.into_iter().filter(|c| c.is_available()).map(|codec| (codec, stream(codec))).collect()
});

/// A stream whose size changes twice, each time with a keyframe, and in which each size lasts four pictures.
fn stream(codec: VideoCodec) -> Vec<Vec<u8>> {
    if !codec.can_encode() {
        let (small, large) = (av1("160x96"), av1("320x180"));
        return [&small[..4], &large[..4], &small[..4]].concat();
    }
    let pool = FramePool::default();
    let config = VideoEncoderConfig { cpu_used: Some(8), ..VideoEncoderConfig::new(codec, 160, 96) };
    let mut encoder = VideoEncoder::new(config).unwrap();
    (0..12)
        .map(|n| {
            let (width, height) = if (4..8).contains(&n) { (320, 180) } else { (160, 96) };
            let frame = pattern(&pool, width, height, n, n as i64 * 33_333);
            let EncodedFrame { data, .. } = encoder.encode(&frame, n % 4 == 0).unwrap().unwrap();
            data.to_vec()
        })
        .collect()
}

/// What becomes of one picture on its way.
#[derive(Debug, Clone)]
enum Fate {
    Whole,
    Lost,
    Cut(u16),
    Flipped(Vec<(u16, u8)>),
    Noise(u16, Vec<u8>),
    Header(u8, u8),
    /// Followed by another one, or by a part of it.
    Joined(u8, u16),
    Twice,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Whole),
        1 => Just(Fate::Lost),
        2 => any::<u16>().prop_map(Fate::Cut),
        2 => prop::collection::vec((any::<u16>(), 0u8..8), 1..6).prop_map(Fate::Flipped),
        2 => (any::<u16>(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, noise)| Fate::Noise(at, noise)),
        2 => (0u8..32, any::<u8>()).prop_map(|(at, value)| Fate::Header(at, value)),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(other, cut)| Fate::Joined(other, cut)),
        1 => Just(Fate::Twice),
    ]
}

impl Fate {
    fn apply(&self, stream: &[Vec<u8>], n: usize) -> Vec<Vec<u8>> {
        let mut data = stream[n % stream.len()].clone();
        let len = data.len();
        match self {
            Fate::Whole => {}
            Fate::Lost => return Vec::new(),
            Fate::Cut(at) => data.truncate(usize::from(*at) % len),
            Fate::Flipped(bits) => bits.iter().for_each(|(at, bit)| data[usize::from(*at) % len] ^= 1 << bit),
            Fate::Noise(at, noise) => {
                let at = usize::from(*at) % len;
                data.iter_mut().skip(at).zip(noise).for_each(|(byte, noise)| *byte = *noise);
            }
            Fate::Header(at, value) => data[usize::from(*at) % len.min(32)] = *value,
            Fate::Joined(other, cut) => {
                let other = &stream[usize::from(*other) % stream.len()];
                data.extend(&other[..usize::from(*cut) % other.len()]);
            }
            Fate::Twice => return vec![data.clone(), data],
        }
        vec![data]
    }
}

/// More than any of the streams needs, and less than what an unchecked header could claim.
const MOST_KIB: u64 = 400_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever becomes of the pictures: an error or a picture of a size within bounds, memory within bounds, and the next whole
    /// keyframe mends it.
    #[test]
    fn damage_ends_with_the_next_keyframe(fates in prop::collection::vec(fate(), 24..60)) {
        let pool = FramePool::default();
        let before = resident_kib();
        for (codec, stream) in STREAMS.iter() {
            let codec = *codec;
            let mut decoder = VideoDecoder::new(codec, pool.clone()).unwrap();
            for (n, fate) in fates.iter().enumerate() {
                for data in fate.apply(stream, n) {
                    match decoder.decode(&data, n as i64) {
                        Ok(Some(frame)) => prop_assert!(check_dimensions(frame.width(), frame.height()).is_ok()),
                        Ok(None) => {}
                        Err(_) => prop_assert!(decoder.needs_keyframe()),
                    }
                    if decoder.needs_keyframe() && !is_keyframe(codec, &stream[1]) {
                        let refused = matches!(decoder.decode(&stream[1], 0), Err(MediaError::NeedsKeyframe { .. }));
                        prop_assert!(refused, "{}", codec);
                    }
                }
            }
            if let (Some(before), Some(now)) = (before, resident_kib()) {
                prop_assert!(now < before + MOST_KIB, "{}: {} KiB, then {}", codec, before, now);
            }
            for (n, data) in stream.iter().enumerate() {
                let seen = decoder.decode(data, n as i64).unwrap().unwrap();
                let size = if (4..8).contains(&n) { (320, 180) } else { (160, 96) };
                prop_assert_eq!((seen.width(), seen.height()), size, "{}", codec);
                // The AV1 streams begin anew with each part.
                let shown = if codec.can_encode() { n } else { n % 4 };
                let db = psnr(pattern(&pool, size.0, size.1, shown, 0).data(), seen.data());
                prop_assert!(db > 26.0, "{} {}: {} dB", codec, n, db);
            }
        }
    }

    /// Opus packets, damaged: decoded to at most 120 ms of numbers, or refused; the next whole ones are heard.
    #[test]
    fn damaged_opus_is_refused_or_heard_and_does_not_last(seed in any::<u64>(), channels in 1u16..=2, fec in any::<bool>()) {
        let config = OpusEncoderConfig { channels, bitrate_bps: 40_000, fec, expected_loss_pct: 20, dtx: true, ..Default::default() };
        let mut encoder = OpusEncoder::new(config).unwrap();
        let mut random = XorShift(seed | 1);
        let mut decoder = OpusDecoder::new(channels).unwrap();
        let mut buffer = JitterBuffer::new(channels).unwrap();
        let (start, mut out) = (Instant::now(), Vec::new());
        for n in 0..60usize {
            let silent = n / 10 % 3 == 1;
            let samples = if silent { vec![0.0; config.frame_samples()] } else { sine(300.0, 0.5, OPUS_RATE, channels, n * 960, 960) };
            let mut packet = encoder.encode(&samples).unwrap().to_vec();
            if n < 50 {
                match random.below(5) {
                    0 => packet.truncate(random.below(packet.len())),
                    1 => (0..=random.below(4)).for_each(|_| {
                        let at = random.below(packet.len());
                        packet[at] ^= 1 << random.below(8);
                    }),
                    // The byte that says how long it is, in how many parts.
                    2 => packet[0] = random.next() as u8,
                    3 => packet = (0..random.below(1500)).map(|_| random.next() as u8).collect(),
                    _ => {}
                }
            }
            let _ = opus_packet_has_fec(&packet);
            let says = opus_packet_frames(&packet);
            if random.below(4) == 0 && n < 50 {
                let _ = decoder.decode_fec(&packet, 960, &mut out);
                prop_assert!(out.len() <= MAX_OPUS_FRAME * usize::from(channels));
            }
            match decoder.decode(&packet, &mut out) {
                Ok(frames) => {
                    prop_assert_eq!(Ok(frames), says);
                    prop_assert!(frames <= MAX_OPUS_FRAME && out.len() == frames * usize::from(channels));
                    prop_assert!(out.iter().all(|s| s.is_finite()));
                }
                Err(_) => prop_assert!(out.is_empty()),
            }
            let now = start + Duration::from_millis(20 * n as u64);
            let timestamp = n as u32 * 960;
            buffer.push(AudioPacket { ssrc: 1, sequence: n as u16, timestamp, payload: packet.into() }, now);
            let mut heard = Vec::new();
            while buffer.pull(now, &mut heard).is_some() {
                prop_assert!(heard.len() <= MAX_OPUS_FRAME * usize::from(channels));
                prop_assert!(heard.iter().all(|s| s.is_finite()));
            }
        }
        let level = out.iter().map(|s| s * s).sum::<f32>() / out.len() as f32;
        prop_assert!(level > 0.05, "the tone at the end: {}", level);
    }
}
