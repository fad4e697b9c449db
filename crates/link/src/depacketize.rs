//! RTP payloads into pieces of a frame. All input is hostile: every read is checked.

use crate::av1;
use remotemedia_media::VideoCodec;

/// What a payload says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes of descriptor before the media; for H.264 and AV1 nothing is skipped here.
    pub skip: usize,
    /// It begins a frame that needs no other.
    pub key_start: bool,
    /// It belongs to such a frame.
    pub key: bool,
}

/// Reads a payload's descriptor. `None` if it is malformed or of a form that is not used.
pub(crate) fn inspect(codec: VideoCodec, payload: &[u8]) -> Option<Piece> {
    match codec {
        VideoCodec::Vp8 => vp8(payload),
        VideoCodec::Vp9 => vp9(payload),
        VideoCodec::H264 => h264(payload),
        VideoCodec::Av1 => av1::inspect(payload),
    }
}

fn vp8(payload: &[u8]) -> Option<Piece> {
    let flags = *payload.first()?;
    let mut at = 1;
    if flags & 0x80 != 0 {
        let extended = *payload.get(at)?;
        at += 1;
        if extended & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        if extended & 0x40 != 0 {
            at += 1;
        }
        if extended & 0x30 != 0 {
            at += 1;
        }
    }
    let first = *payload.get(at)?;
    let start = flags & 0x10 != 0 && flags & 0x07 == 0;
    // RFC 7741, section 4.3: the lowest bit of the frame tag is 0 for a key frame.
    let key_start = start && first & 1 == 0;
    Some(Piece { skip: at, key_start, key: key_start })
}

fn vp9(payload: &[u8]) -> Option<Piece> {
    let flags = *payload.first()?;
    let has = |bit: u8| flags & bit != 0;
    let mut at = 1;
    let mut spatial = 0;
    if has(0x80) {
        at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    if has(0x20) {
        spatial = (payload.get(at)? >> 1) & 7;
        at += if has(0x10) { 1 } else { 2 };
    }
    if has(0x10) && has(0x40) {
        for index in 0.. {
            if index == 3 {
                return None;
            }
            let reference = *payload.get(at)?;
            at += 1;
            if reference & 1 == 0 {
                break;
            }
        }
    }
    if has(0x02) {
        let structure = *payload.get(at)?;
        at += 1;
        if structure & 0x10 != 0 {
            at += (usize::from(structure >> 5) + 1) * 4;
        }
        if structure & 0x08 != 0 {
            let pictures = *payload.get(at)?;
            at += 1;
            for _ in 0..pictures {
                at += 1 + usize::from((payload.get(at)? >> 2) & 3);
            }
        }
    }
    if at >= payload.len() {
        return None;
    }
    let key = !has(0x40) && spatial == 0;
    Some(Piece { skip: at, key_start: key && has(0x08), key })
}

fn h264(payload: &[u8]) -> Option<Piece> {
    let kind = payload.first()? & 0x1f;
    let piece = |key_start, key| Some(Piece { skip: 0, key_start, key });
    match kind {
        // A slice of an IDR picture begins the picture if its first macroblock is number 0, a one-bit "1".
        5 => piece(payload.get(1)? & 0x80 != 0, true),
        7 => piece(true, false),
        1..=23 => piece(false, false),
        24 => {
            let (mut key_start, mut key, mut count) = (false, false, 0);
            for nal in StapA::new(payload) {
                let nal = nal?;
                count += 1;
                let inner = nal[0] & 0x1f;
                key_start |= inner == 7 || inner == 5 && nal.get(1).is_some_and(|b| b & 0x80 != 0);
                key |= inner == 5;
            }
            if count == 0 { None } else { piece(key_start, key) }
        }
        28 => {
            let header = *payload.get(1)?;
            let first = *payload.get(2)?;
            let idr = header & 0x1f == 5;
            piece(idr && header & 0x80 != 0 && first & 0x80 != 0, idr)
        }
        _ => None,
    }
}

/// What a frame's payloads so far have begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// H.264: a fragmented unit.
    in_fragment: bool,
    obu: av1::Unfinished,
}

impl Partial {
    pub fn is_open(&self) -> bool {
        self.in_fragment || self.obu.is_open()
    }
}

/// Puts the media of one payload behind what the frame has so far. `None` if the pieces don't fit together.
pub(crate) fn append(
    codec: VideoCodec,
    payload: &[u8],
    skip: usize,
    partial: &mut Partial,
    out: &mut Vec<u8>,
) -> Option<()> {
    let in_fragment = &mut partial.in_fragment;
    if codec == VideoCodec::Av1 {
        return av1::append(payload, &mut partial.obu, out);
    }
    if codec != VideoCodec::H264 {
        out.extend_from_slice(payload.get(skip..)?);
        return Some(());
    }
    const START: [u8; 4] = [0, 0, 0, 1];
    let first = *payload.first()?;
    let kind = first & 0x1f;
    if kind != 28 && *in_fragment {
        return None;
    }
    match kind {
        1..=23 => {
            out.extend_from_slice(&START);
            out.extend_from_slice(payload);
        }
        24 => {
            for nal in StapA::new(payload) {
                out.extend_from_slice(&START);
                out.extend_from_slice(nal?);
            }
        }
        28 => {
            let header = *payload.get(1)?;
            let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
            if start == *in_fragment || start && end {
                return None;
            }
            if start {
                out.extend_from_slice(&START);
                out.push(first & 0xe0 | header & 0x1f);
            }
            out.extend_from_slice(payload.get(2..)?);
            *in_fragment = !end;
        }
        _ => return None,
    }
    Some(())
}

/// The units in an aggregation packet; `None` once where its lengths are wrong.
struct StapA<'a> {
    rest: &'a [u8],
}

impl<'a> StapA<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload.get(1..).unwrap_or(&[]) }
    }
}

impl<'a> Iterator for StapA<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = match self.rest {
            [high, low, rest @ ..] => {
                let size = usize::from(u16::from_be_bytes([*high, *low]));
                if size == 0 { None } else { rest.split_at_checked(size) }
            }
            _ => None,
        };
        let Some((nal, rest)) = taken else {
            self.rest = &[];
            return Some(None);
        };
        self.rest = rest;
        Some(Some(nal))
    }
}
