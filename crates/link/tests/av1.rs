//! AV1 from RTP packets to what a decoder takes: however it was packed, and whatever became of it on the way.
#![allow(missing_docs)]

use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use remotemedia_link::{MediaKind, RtpIn, VideoAssembler};
use remotemedia_media::VideoCodec;

/// An OBU: type, extension byte, payload.
#[derive(Debug, Clone)]
struct Obu {
    kind: u8,
    extension: Option<u8>,
    payload: Vec<u8>,
    /// Written with its size also where it needs none.
    sized: bool,
}

/// How a sender packs: bytes of OBUs in a packet, and whether it counts the elements of a packet.
#[derive(Debug, Clone)]
struct Packing {
    room: usize,
    counts: bool,
}

const TEMPORAL_DELIMITER: u8 = 2;

fn leb128(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = value as u8 & 0x7f;
        value >>= 7;
        out.push(low | if value > 0 { 0x80 } else { 0 });
        if value == 0 {
            return out;
        }
    }
}

impl Obu {
    fn bytes(&self, sized: bool) -> Vec<u8> {
        let head = self.kind << 3 | u8::from(self.extension.is_some()) << 2 | u8::from(sized) << 1;
        let mut out = vec![head];
        out.extend(self.extension);
        if sized {
            out.extend(leb128(self.payload.len()));
        }
        out.extend(&self.payload);
        out
    }
}

/// One temporal unit in payloads.
fn pack(unit: &[Obu], packing: &Packing, key: bool) -> Vec<Vec<u8>> {
    let (mut packets, mut elements, mut used, mut continues) = (Vec::new(), Vec::<Vec<u8>>::new(), 0, false);
    let mut flush = |elements: &mut Vec<Vec<u8>>, continues: bool, goes_on: bool| {
        let count = elements.len();
        let counted = packing.counts && count <= 3;
        let begins = key && packets.is_empty();
        let head = u8::from(continues) << 7 | u8::from(goes_on) << 6 | u8::from(begins) << 3;
        let mut packet = vec![head | if counted { (count as u8) << 4 } else { 0 }];
        for (n, element) in elements.drain(..).enumerate() {
            if !(counted && n + 1 == count) {
                packet.extend(leb128(element.len()));
            }
            packet.extend(element);
        }
        packets.push(packet);
    };
    for obu in unit {
        let bytes = obu.bytes(obu.sized);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(packing.room - used));
            elements.push(now.to_vec());
            used += now.len();
            rest = later;
            if used == packing.room {
                flush(&mut elements, continues, !rest.is_empty());
                (used, continues) = (0, !rest.is_empty());
            }
        }
    }
    if !elements.is_empty() {
        flush(&mut elements, continues, false);
    }
    packets
}

fn rtp(sequence: usize, frame: usize, marker: bool, payload: Vec<u8>, received: Instant) -> RtpIn {
    RtpIn {
        kind: MediaKind::Video,
        codec: Some(VideoCodec::Av1),
        ssrc: 1,
        sequence: sequence as u16,
        timestamp: frame as u32 * 3000,
        marker,
        payload: Bytes::from(payload),
        received,
    }
}

fn obu() -> impl Strategy<Value = Obu> {
    let kinds = prop::sample::select(vec![1u8, TEMPORAL_DELIMITER, 3, 4, 5, 6, 15]);
    let payload = prop::collection::vec(any::<u8>(), 1..400);
    (kinds, prop::option::of(any::<u8>()), payload, any::<bool>())
        .prop_map(|(kind, extension, payload, sized)| Obu { kind, extension, payload, sized })
}

/// Temporal units, each with a frame in it.
fn units() -> impl Strategy<Value = Vec<Vec<Obu>>> {
    let unit = (prop::collection::vec(obu(), 0..5), prop::collection::vec(any::<u8>(), 1..3000));
    let unit = unit.prop_map(|(mut unit, payload)| {
        unit.push(Obu { kind: 6, extension: None, payload, sized: false });
        unit
    });
    prop::collection::vec(unit, 1..8)
}

fn packing() -> impl Strategy<Value = Packing> {
    (1usize..1200, any::<bool>()).prop_map(|(room, counts)| Packing { room, counts })
}

/// What a decoder is given: each OBU with its size, and none that say nothing.
fn expected(unit: &[Obu]) -> Vec<u8> {
    unit.iter().filter(|o| !matches!(o.kind, TEMPORAL_DELIMITER | 15)).flat_map(|o| o.bytes(true)).collect()
}

/// Every unit in packets, the first one a keyframe.
fn packets(units: &[Vec<Obu>], packing: &Packing, now: Instant) -> Vec<RtpIn> {
    let mut out = Vec::new();
    for (n, unit) in units.iter().enumerate() {
        let payloads = pack(unit, packing, n == 0);
        let last = payloads.len() - 1;
        for (i, payload) in payloads.into_iter().enumerate() {
            out.push(rtp(out.len(), n, i == last, payload, now));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn however_it_is_packed_each_unit_comes_out_as_it_was(units in units(), packing in packing()) {
        let now = Instant::now();
        let mut assembler = VideoAssembler::new(VideoCodec::Av1);
        let mut out = Vec::new();
        // Up to as many as an assembler holds.
        for packet in packets(&units, &packing, now) {
            assembler.push(packet);
            out.extend(std::iter::from_fn(|| assembler.poll(now)));
        }
        prop_assert_eq!(out.len(), units.len());
        for (n, (frame, unit)) in out.iter().zip(&units).enumerate() {
            prop_assert_eq!(&frame.data[..], &expected(unit)[..]);
            prop_assert_eq!(frame.keyframe, n == 0);
        }
    }

    /// With packets lost and damaged: what comes out is a whole unit or, where a packet was damaged, anything of no more bytes
    /// than came in; and never a panic.
    #[test]
    fn lost_and_damaged_packets_do_no_harm(
        units in units(),
        packing in packing(),
        fates in prop::collection::vec((0u8..20, any::<u16>(), any::<u8>()), 64),
    ) {
        let now = Instant::now();
        let mut assembler = VideoAssembler::new(VideoCodec::Av1);
        let (mut damaged, mut came) = (false, 0);
        let mut out = Vec::new();
        for (n, mut packet) in packets(&units, &packing, now).into_iter().enumerate() {
            let (fate, at, value) = fates[n % fates.len()];
            if fate == 0 {
                continue;
            }
            let mut payload = packet.payload.to_vec();
            let at = usize::from(at) % payload.len();
            match fate {
                1 => payload[at] = value,
                2 => payload.truncate(at),
                3 => payload[0] = value,
                _ => {}
            }
            damaged |= fate <= 3;
            came += payload.len();
            packet.payload = payload.into();
            assembler.push(packet);
            out.extend(std::iter::from_fn(|| assembler.poll(now)));
        }
        let whole: Vec<_> = units.iter().map(|unit| expected(unit)).collect();
        let bytes: usize = out.iter().map(|frame| frame.data.len()).sum();
        // A size takes up to four bytes more than the element's length did.
        prop_assert!(bytes <= 3 * came);
        for frame in &out {
            prop_assert!(damaged || whole.iter().any(|unit| unit[..] == frame.data[..]));
        }
    }
}
