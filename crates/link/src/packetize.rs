//! Frames into RTP payloads: VP8 (RFC 7741), VP9 in flexible mode (RFC 9628), H.264 in non-interleaved mode (RFC 6184).

use bytes::{BufMut, Bytes, BytesMut};
use remotemedia_media::{EncodedFrame, VideoCodec};

/// Splits one frame into payloads of at most `mtu` bytes each, in order. `picture` is a running number of the frames.
/// Empty if the frame holds nothing to send.
pub(crate) fn packetize(codec: VideoCodec, frame: &EncodedFrame, picture: u16, mtu: usize) -> Vec<Bytes> {
    match codec {
        VideoCodec::Vp8 => vp8(&frame.data, picture, mtu),
        VideoCodec::Vp9 => vp9(frame, picture, mtu),
        VideoCodec::H264 => h264(&frame.data, mtu),
        // Nobody encodes it.
        VideoCodec::Av1 => Vec::new(),
    }
}

fn vp8(data: &Bytes, picture: u16, mtu: usize) -> Vec<Bytes> {
    let room = mtu - 4;
    let mut out = Vec::with_capacity(data.len() / room + 1);
    for (index, chunk) in even_chunks(data, room, room).enumerate() {
        let mut payload = BytesMut::with_capacity(chunk.len() + 4);
        // X, and S on the first; then I; then a 15-bit picture id.
        payload.put_u8(if index == 0 { 0x90 } else { 0x80 });
        payload.put_u8(0x80);
        payload.put_u16(0x8000 | (picture & 0x7fff));
        payload.put_slice(chunk);
        out.push(payload.freeze());
    }
    out
}

fn vp9(frame: &EncodedFrame, picture: u16, mtu: usize) -> Vec<Bytes> {
    let (width, height) = (frame.width.min(0xffff) as u16, frame.height.min(0xffff) as u16);
    let key = frame.keyframe;
    // Flags and picture id; a reference to the frame before, or the picture's size on a keyframe's first packet.
    let common = if key { 3 } else { 4 };
    let first = if key { 8 } else { 4 };
    let chunks: Vec<&[u8]> = even_chunks(&frame.data, mtu - first, mtu - common).collect();
    let mut out = Vec::with_capacity(chunks.len());
    for (index, chunk) in chunks.iter().enumerate() {
        let (begin, end) = (index == 0, index + 1 == chunks.len());
        let mut payload = BytesMut::with_capacity(chunk.len() + first);
        let mut flags = 0x80 | 0x10; // I, F
        flags |= if key { 0 } else { 0x40 }; // P
        flags |= if begin { 0x08 } else { 0 }; // B
        flags |= if end { 0x04 } else { 0 }; // E
        flags |= if key && begin { 0x02 } else { 0 }; // V
        payload.put_u8(flags);
        payload.put_u16(0x8000 | (picture & 0x7fff));
        if !key {
            payload.put_u8(1 << 1);
        }
        if key && begin {
            payload.put_u8(0x10); // one layer, with its size
            payload.put_u16(width);
            payload.put_u16(height);
        }
        payload.put_slice(chunk);
        out.push(payload.freeze());
    }
    out
}

fn h264(data: &Bytes, mtu: usize) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut parameters: Vec<&[u8]> = Vec::new();
    for nal in nal_units(data) {
        let kind = nal[0] & 0x1f;
        match kind {
            // Access unit delimiter and filler say nothing over RTP.
            9 | 12 => continue,
            7 | 8 => {
                parameters.push(nal);
                continue;
            }
            _ => {}
        }
        flush_parameters(&mut parameters, mtu, &mut out);
        put_nal(nal, mtu, data, &mut out);
    }
    flush_parameters(&mut parameters, mtu, &mut out);
    out
}

/// Parameter sets travel in one STAP-A if they fit.
fn flush_parameters(parameters: &mut Vec<&[u8]>, mtu: usize, out: &mut Vec<Bytes>) {
    let size = 1 + parameters.iter().map(|p| p.len() + 2).sum::<usize>();
    if parameters.len() > 1 && size <= mtu {
        let mut payload = BytesMut::with_capacity(size);
        payload.put_u8(parameters.iter().map(|p| p[0] & 0x60).max().unwrap_or(0) | 24);
        for nal in parameters.iter() {
            payload.put_u16(nal.len() as u16);
            payload.put_slice(nal);
        }
        out.push(payload.freeze());
    } else {
        for nal in parameters.iter() {
            split_nal(nal, mtu, out);
        }
    }
    parameters.clear();
}

fn put_nal(nal: &[u8], mtu: usize, data: &Bytes, out: &mut Vec<Bytes>) {
    if nal.len() <= mtu { out.push(data.slice_ref(nal)) } else { split_nal(nal, mtu, out) }
}

fn split_nal(nal: &[u8], mtu: usize, out: &mut Vec<Bytes>) {
    if nal.len() <= mtu {
        out.push(Bytes::copy_from_slice(nal));
        return;
    }
    let (header, body) = (nal[0], &nal[1..]);
    let chunks: Vec<&[u8]> = even_chunks(body, mtu - 2, mtu - 2).collect();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut payload = BytesMut::with_capacity(chunk.len() + 2);
        payload.put_u8(header & 0x60 | 28);
        let start = if index == 0 { 0x80 } else { 0 };
        let end = if index + 1 == chunks.len() { 0x40 } else { 0 };
        payload.put_u8(start | end | header & 0x1f);
        payload.put_slice(chunk);
        out.push(payload.freeze());
    }
}

/// The NAL units of an Annex B stream, none of them empty.
fn nal_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut starts = Vec::new();
    let mut i = 0;
    while i + 3 <= data.len() {
        if data[i] == 0 && data[i + 1] == 0 && data[i + 2] == 1 {
            starts.push(i + 3);
            i += 3;
        } else {
            i += 1;
        }
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|s| s - 3).chain([data.len()]).collect();
    starts.into_iter().zip(ends).filter_map(move |(start, end)| {
        // What precedes a start code are its own leading zeros, or trailing ones.
        let mut nal = &data[start..end];
        while let [rest @ .., 0] = nal {
            nal = rest;
        }
        (!nal.is_empty()).then_some(nal)
    })
}

/// Pieces of about one size, so that no tiny last packet goes out: the first at most `first` bytes, others `rest`.
fn even_chunks(data: &[u8], first: usize, rest: usize) -> impl Iterator<Item = &[u8]> {
    let least = first.min(rest);
    let count = data.len().div_ceil(least).max(1);
    let size = data.len().div_ceil(count).max(1);
    data.chunks(size)
}
