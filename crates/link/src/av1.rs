//! AV1 out of RTP (RTP Payload Format For AV1, Alliance for Open Media, version 1.0, section 4).
//!
//! A packet holds elements: whole OBUs, the last of which may go on in the next packet. What comes out is the low-overhead
//! format of the AV1 specification (section 5.2), in which each OBU says its size.

use crate::depacketize::Piece;

/// An OBU that goes on in the next packet.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    obu: Vec<u8>,
    open: bool,
}

const TEMPORAL_DELIMITER: u8 = 2;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;
const HAS_EXTENSION: u8 = 0x04;
const HAS_SIZE: u8 = 0x02;

/// The aggregation header (section 4.4).
struct Header {
    /// The first element goes on with what the packet before ended with.
    continues: bool,
    /// The last element goes on in the next packet.
    unfinished: bool,
    /// Elements, all but the last with a length; 0: as many as there are, each with a length.
    count: u8,
    /// A coded video sequence begins: with a keyframe.
    begins: bool,
}

impl Header {
    fn read(byte: u8) -> Header {
        Header {
            continues: byte & 0x80 != 0,
            unfinished: byte & 0x40 != 0,
            count: byte >> 4 & 3,
            begins: byte & 0x08 != 0,
        }
    }
}

impl Unfinished {
    pub fn is_open(&self) -> bool {
        self.open
    }
}

pub(crate) fn inspect(payload: &[u8]) -> Option<Piece> {
    let (first, rest) = payload.split_first()?;
    let header = Header::read(*first);
    if rest.is_empty() || header.begins && header.continues {
        return None;
    }
    Some(Piece { skip: 0, key_start: header.begins, key: header.begins })
}

/// Puts what a payload finishes behind what the frame has so far. `None` if the pieces don't fit together.
pub(crate) fn append(payload: &[u8], unfinished: &mut Unfinished, out: &mut Vec<u8>) -> Option<()> {
    let (first, mut rest) = payload.split_first()?;
    let header = Header::read(*first);
    if header.continues != unfinished.open {
        return None;
    }
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let element = if header.count == number {
            std::mem::take(&mut rest)
        } else {
            let (length, after) = leb128(rest)?;
            let (element, after) = after.split_at_checked(length)?;
            rest = after;
            element
        };
        if unfinished.open && (number > 1 || !header.continues) {
            return None;
        }
        unfinished.open = true;
        unfinished.obu.extend_from_slice(element);
        if !(rest.is_empty() && header.unfinished) {
            put(&unfinished.obu, out)?;
            unfinished.obu.clear();
            unfinished.open = false;
        }
    }
    (header.count == 0 || header.count == number).then_some(())
}

/// Writes one OBU with its size, unless it is of a kind that says nothing in RTP (section 5).
fn put(obu: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (&head, mut rest) = obu.split_first()?;
    if head & 0x80 != 0 {
        return None;
    }
    let extension = if head & HAS_EXTENSION != 0 {
        let (byte, after) = rest.split_first()?;
        rest = after;
        Some(*byte)
    } else {
        None
    };
    if head & HAS_SIZE != 0 {
        let (length, after) = leb128(rest)?;
        rest = after.get(..length)?;
    }
    if matches!(head >> 3 & 0x0f, TEMPORAL_DELIMITER | TILE_LIST | PADDING) {
        return Some(());
    }
    out.push(head | HAS_SIZE);
    out.extend(extension);
    let mut length = rest.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(rest);
    Some(())
}

/// A number of at most 32 bits in groups of seven, the lowest first (AV1 specification, section 4.10.5).
fn leb128(data: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (n, byte) in data.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, &data[n + 1..]));
        }
    }
    None
}
