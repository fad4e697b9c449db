//! Just enough of the VP8, VP9, H.264 and AV1 headers to know a keyframe and its size before a codec sees it.
//!
//! The codecs allocate by what a header claims, so a claim of 65535x65535 has to be refused here.

/// What a VP8 frame's header says (RFC 6386, 9.1).
pub(crate) struct Vp8Header {
    pub keyframe: bool,
    /// Only keyframes carry it.
    pub size: Option<(u32, u32)>,
}

/// What a VP9 frame's uncompressed header says (VP9 bitstream specification, 6.2).
pub(crate) struct Vp9Header {
    pub profile: u32,
    pub keyframe: bool,
    /// Carried by keyframes, by intra-only frames and by delta frames that change the size.
    pub size: Option<(u32, u32)>,
}

/// What a sequence parameter set says (H.264, 7.3.2.1.1).
pub(crate) struct SpsInfo {
    /// Coded size, before cropping: what a decoder allocates.
    pub coded: (u32, u32),
    pub chroma_420: bool,
}

/// One AV1 unit.
pub(crate) struct Obu<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
}

const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_FRAME_HEADER: u8 = 3;
const OBU_FRAME: u8 = 6;

/// Coded slice of an IDR picture.
pub(crate) const NAL_IDR: u8 = 5;
/// Sequence parameter set.
pub(crate) const NAL_SPS: u8 = 7;
/// Picture parameter set.
pub(crate) const NAL_PPS: u8 = 8;
/// Sequence parameter set of a scalable or multi-view extension; it starts as an ordinary one does.
pub(crate) const NAL_SUBSET_SPS: u8 = 15;

/// Reads a VP8 frame header. `None` when it is cut short or isn't VP8.
pub(crate) fn vp8_header(data: &[u8]) -> Option<Vp8Header> {
    let tag = data.get(..3)?;
    if tag[0] & 1 != 0 {
        return Some(Vp8Header { keyframe: false, size: None });
    }
    let head = data.get(3..10)?;
    if head[..3] != [0x9d, 0x01, 0x2a] {
        return None;
    }
    // The top two bits of each are the upscaling a renderer may apply.
    let width = u32::from(u16::from_le_bytes([head[3], head[4]]) & 0x3fff);
    let height = u32::from(u16::from_le_bytes([head[5], head[6]]) & 0x3fff);
    Some(Vp8Header { keyframe: true, size: Some((width, height)) })
}

/// Splits a VP9 superframe (annex B of the VP9 specification) into its frames; a plain frame is one.
///
/// `None` when it is empty, or when its index doesn't fit the data.
pub(crate) fn vp9_frames(data: &[u8]) -> Option<Vec<&[u8]>> {
    let marker = *data.last()?;
    if marker & 0xe0 != 0xc0 {
        return Some(vec![data]);
    }
    let count = usize::from(marker & 7) + 1;
    let bytes_each = usize::from((marker >> 3) & 3) + 1;
    let index_len = 2 + count * bytes_each;
    let index_start = data.len().checked_sub(index_len)?;
    if data[index_start] != marker {
        return Some(vec![data]);
    }
    let (mut rest, index) = (&data[..index_start], &data[index_start + 1..data.len() - 1]);
    let mut frames = Vec::with_capacity(count);
    for entry in index.chunks_exact(bytes_each) {
        let len = entry.iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (frame, after) = rest.split_at_checked(len)?;
        // An empty entry means "frame lost" to the decoder; a sender has no reason to say so.
        if !frame.is_empty() {
            frames.push(frame);
        }
        rest = after;
    }
    Some(frames)
}

/// Reads a VP9 frame's uncompressed header as far as its size. `None` when it is cut short or isn't VP9.
pub(crate) fn vp9_header(frame: &[u8]) -> Option<Vp9Header> {
    let mut bits = Bits::new(frame);
    if bits.read(2)? != 2 {
        return None;
    }
    let profile = bits.read(1)? | bits.read(1)? << 1;
    let delta = Vp9Header { profile, keyframe: false, size: None };
    if profile == 3 {
        let _reserved = bits.read(1)?;
    }
    let show_existing_frame = bits.flag()?;
    if show_existing_frame {
        return Some(delta);
    }
    let keyframe = !bits.flag()?;
    if profile != 0 {
        // Other profiles have further fields here, and whoever asked refuses them anyway.
        return Some(Vp9Header { keyframe, ..delta });
    }
    let show_frame = bits.flag()?;
    let error_resilient = bits.flag()?;
    if keyframe {
        sync_code(&mut bits)?;
        let color_space = bits.read(3)?;
        const SRGB: u32 = 7;
        if color_space == SRGB {
            return None;
        }
        let _color_range = bits.read(1)?;
        return Some(Vp9Header { profile, keyframe: true, size: Some(vp9_size(&mut bits)?) });
    }
    let intra_only = !show_frame && bits.flag()?;
    if !error_resilient {
        let _reset_frame_context = bits.read(2)?;
    }
    if intra_only {
        sync_code(&mut bits)?;
        let _refresh_frame_flags = bits.read(8)?;
        return Some(Vp9Header { profile, keyframe: false, size: Some(vp9_size(&mut bits)?) });
    }
    let _refresh_frame_flags = bits.read(8)?;
    for _ in 0..3 {
        let _reference_and_sign = bits.read(4)?;
    }
    for _ in 0..3 {
        let size_of_a_reference = bits.flag()?;
        if size_of_a_reference {
            return Some(delta);
        }
    }
    Some(Vp9Header { profile, keyframe: false, size: Some(vp9_size(&mut bits)?) })
}

/// The units of AV1's low-overhead format (AV1 specification, 5.2 to 5.4), each of which says its size. Ends with `None` where one
/// doesn't fit the data.
pub(crate) fn av1_obus(data: &[u8]) -> impl Iterator<Item = Option<Obu<'_>>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = av1_obu(rest);
        rest = taken.as_ref().map_or(&[], |(_, after)| after);
        Some(taken.map(|(obu, _)| obu))
    })
}

fn av1_obu(data: &[u8]) -> Option<(Obu<'_>, &[u8])> {
    let (head, mut rest) = data.split_first()?;
    let (forbidden, extension, sized) = (head & 0x80 != 0, head & 4 != 0, head & 2 != 0);
    if forbidden || !sized {
        return None;
    }
    if extension {
        rest = rest.get(1..)?;
    }
    let (mut size, mut digits) = (0u64, 0);
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        size |= u64::from(byte & 0x7f) << (7 * digits);
        digits += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if digits == 8 {
            return None;
        }
    }
    let (payload, rest) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    Some((Obu { kind: head >> 3 & 0x0f, payload }, rest))
}

/// Whether an AV1 temporal unit has a sequence header and begins with a key frame that is shown.
pub(crate) fn av1_starts_sequence(data: &[u8]) -> bool {
    let mut sequence = false;
    for obu in av1_obus(data) {
        let Some(obu) = obu else { return false };
        match obu.kind {
            // Without a profile other than 0, and not for a still picture, whose frame header is another one.
            OBU_SEQUENCE_HEADER => sequence = obu.payload.first().is_some_and(|byte| byte & 0xf8 == 0),
            OBU_FRAME_HEADER | OBU_FRAME => {
                // show_existing_frame, frame_type (0 is KEY_FRAME), show_frame.
                return sequence && obu.payload.first().is_some_and(|byte| byte >> 4 == 0b0001);
            }
            _ => {}
        }
    }
    false
}

/// The NAL units of an Annex B byte stream, without start codes; trailing zero bytes stay.
pub(crate) fn h264_nals(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(data);
    std::iter::from_fn(move || {
        let nal_and_more = rest?;
        let end = nal_and_more.windows(3).position(|w| w == [0, 0, 1]).unwrap_or(nal_and_more.len());
        rest = after_start_code(&nal_and_more[end..]);
        Some(&nal_and_more[..end])
    })
    .filter(|nal| !nal.is_empty())
}

/// The type of a NAL unit (H.264, table 7-1); 0 for an empty one.
pub(crate) fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |byte| byte & 0x1f)
}

/// Whether it is a coded slice: types 1 to 5, and 20 of the scalable extension.
pub(crate) fn is_slice(nal: &[u8]) -> bool {
    matches!(nal_type(nal), 1..=5 | 20)
}

/// Reads a sequence parameter set as far as its size. `None` when it is cut short or makes no sense.
pub(crate) fn h264_sps(nal: &[u8]) -> Option<SpsInfo> {
    // The part that matters is short; a cap keeps a megabyte of a "parameter set" from being copied.
    let payload = unescape(nal.get(1..)?, 1024);
    let mut bits = Bits::new(&payload);
    let profile_idc = bits.read(8)?;
    let _constraints_and_level = bits.read(16)?;
    let _id = bits.ue()?;
    let mut chroma_format = 1;
    if matches!(profile_idc, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma_format = bits.ue()?;
        if chroma_format == 3 {
            bits.read(1)?;
        }
        let _bit_depths = (bits.ue()?, bits.ue()?);
        let _lossless = bits.read(1)?;
        if bits.flag()? {
            for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    let _log2_max_frame_num = bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.read(1)?;
            let _offsets = (bits.ue()?, bits.ue()?);
            let cycle = bits.ue()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.ue()?;
            }
        }
        2 => {}
        _ => return None,
    }
    let _max_num_ref_frames = bits.ue()?;
    let _gaps_allowed = bits.read(1)?;
    let width = bits.ue()?.checked_add(1)?.checked_mul(16)?;
    let map_units = bits.ue()?.checked_add(1)?.checked_mul(16)?;
    let frame_mbs_only = bits.flag()?;
    let height = if frame_mbs_only { map_units } else { map_units.checked_mul(2)? };
    Some(SpsInfo { coded: (width, height), chroma_420: chroma_format == 1 })
}

/// A most-significant-bit-first reader that ends with `None`.
struct Bits<'a> {
    data: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Bits { data, position: 0 }
    }

    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.data.get(self.position / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.position % 8) & 1);
            self.position += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    /// Exp-Golomb code (H.264, 9.1). A signed one has the same length.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.read(zeros)?;
        ((1u32 << zeros) - 1).checked_add(rest)
    }

    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 0 { -(code / 2) } else { (code + 1) / 2 })
    }
}

fn sync_code(bits: &mut Bits) -> Option<()> {
    (bits.read(24)? == 0x49_83_42).then_some(())
}

fn vp9_size(bits: &mut Bits) -> Option<(u32, u32)> {
    Some((bits.read(16)? + 1, bits.read(16)? + 1))
}

fn after_start_code(data: &[u8]) -> Option<&[u8]> {
    let at = data.windows(3).position(|w| w == [0, 0, 1])?;
    Some(&data[at + 3..])
}

/// Takes the emulation prevention bytes out (H.264, 7.4.1), up to `limit` bytes of output.
fn unescape(payload: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len().min(limit));
    let mut zeros = 0;
    for &byte in payload {
        if out.len() == limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

fn skip_scaling_list(bits: &mut Bits, len: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..len {
        if next != 0 {
            next = (last + bits.se()? + 256).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vp8_keyframe_says_its_size() {
        let frame = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x42, 0x68, 0x81, 0, 0];
        let header = vp8_header(&frame).unwrap();
        assert!(header.keyframe);
        assert_eq!(header.size, Some((0x0280, 0x0168)), "the two scaling bits aren't part of the size");
        assert!(vp8_header(&frame[..9]).is_none());
    }

    #[test]
    fn a_vp9_delta_frame_that_changes_the_size_is_seen() {
        // Marker, profile 0, not existing, delta, shown, error resilient; refresh 0; three references; no size taken
        // from one; 0xffff x 0xffff.
        let mut bits = vec![1, 0, 0, 0, 0, 1, 1, 1];
        bits.extend([0; 8 + 12 + 3]);
        bits.extend([1; 32]);
        bits.extend([0; 9]);
        let frame: Vec<u8> =
            bits.chunks(8).map(|c| c.iter().fold(0, |b, bit| b << 1 | bit) << (8 - c.len())).collect();
        let header = vp9_header(&frame).unwrap();
        assert!(!header.keyframe);
        assert_eq!(header.size, Some((65536, 65536)));
    }

    #[test]
    fn a_superframe_is_split_by_its_index() {
        let mut data = vec![1, 2, 3, 4, 5];
        let marker = 0xc0 | 1;
        data.extend([marker, 2, 3, marker]);
        assert_eq!(vp9_frames(&data).unwrap(), [&[1, 2][..], &[3, 4, 5]]);
        data[6] = 200;
        assert!(vp9_frames(&data).is_none(), "an entry longer than the data");
        assert!(vp9_frames(&[]).is_none());
    }

    #[test]
    fn a_parameter_set_is_read_through_emulation_prevention() {
        // Baseline 640x368 coded, as openh264 writes it for 640x360.
        let sps = [0x67, 0x42, 0xc0, 0x1e, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a];
        let info = h264_sps(&sps).unwrap();
        assert_eq!(info.coded, (640, 368));
        assert!(info.chroma_420);
        assert!(h264_sps(&sps[..5]).is_none());
        assert_eq!(unescape(&[0, 0, 3, 1, 0, 0, 3], 99), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn nals_are_found_behind_short_and_long_start_codes() {
        let stream = [0, 0, 0, 1, 0x67, 9, 0, 0, 1, 0x65, 8, 7];
        let nals: Vec<_> = h264_nals(&stream).collect();
        assert_eq!(nals, [&[0x67, 9][..], &[0x65, 8, 7]]);
        assert_eq!(nal_type(nals[1]), NAL_IDR);
        assert_eq!(h264_nals(&[0, 0, 1]).count(), 0);
    }
}
