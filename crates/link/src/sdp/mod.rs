//! Descriptions on the wire.
//!
//! The engine never sees a peer's SDP: it is parsed here under fixed limits, checked, and a small description of what
//! both sides can do is written for the engine ([`remote`]). What the engine answers is rewritten the same way before it
//! goes out ([`local`]), so that m-lines keep their order and refused ones their place (RFC 8829, section 5.3.1).
//! `docs/decisions/0021-sdp-rewrite.md` says why.

pub(crate) mod local;
pub(crate) mod remote;

use crate::error::LinkError;

/// The largest description accepted, in bytes.
pub const MAX_SDP_BYTES: usize = 48 * 1024;
/// The most m-lines accepted in a description.
pub const MAX_M_LINES: usize = 32;
const MAX_LINES: usize = 2048;
const MAX_MID: usize = 32;

/// A description taken apart, borrowing its text.
pub(crate) struct Parsed<'a> {
    /// Session-level attributes, `(key, value)`; a value may be empty.
    pub attrs: Vec<(&'a str, &'a str)>,
    pub sections: Vec<Section<'a>>,
}

/// One m-line with its attributes.
pub(crate) struct Section<'a> {
    pub media: &'a str,
    pub port: u16,
    pub proto: &'a str,
    pub formats: Vec<&'a str>,
    pub attrs: Vec<(&'a str, &'a str)>,
}

/// One m-line of this link, in the order of the first description that had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub mid: String,
    pub media: String,
    pub proto: String,
    /// The formats as the offer had them, to repeat when it is refused.
    pub formats: String,
    pub state: SlotState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    Audio,
    Video,
    Data,
    Rejected,
}

/// The direction of a section, seen from who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Direction {
    pub send: bool,
    pub recv: bool,
}

pub(crate) fn parse(text: &str) -> Result<Parsed<'_>, LinkError> {
    if text.len() > MAX_SDP_BYTES {
        return Err(LinkError::BadSdp("over 48 KiB"));
    }
    let mut parsed = Parsed { attrs: Vec::new(), sections: Vec::new() };
    let mut lines = 0;
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        lines += 1;
        if lines > MAX_LINES {
            return Err(LinkError::BadSdp("too many lines"));
        }
        if line.chars().any(|c| c.is_control()) {
            return Err(LinkError::BadSdp("a control character"));
        }
        let Some((kind, value)) = line.split_once('=') else {
            return Err(LinkError::BadSdp("a line without '='"));
        };
        if lines == 1 && (kind, value) != ("v", "0") {
            return Err(LinkError::BadSdp("it does not begin with v=0"));
        }
        match kind {
            "m" => {
                if parsed.sections.len() == MAX_M_LINES {
                    return Err(LinkError::BadSdp("too many m-lines"));
                }
                parsed.sections.push(m_line(value)?);
            }
            "a" => {
                let pair = value.split_once(':').unwrap_or((value, ""));
                match parsed.sections.last_mut() {
                    Some(section) => section.attrs.push(pair),
                    None => parsed.attrs.push(pair),
                }
            }
            k if k.len() == 1 => {}
            _ => return Err(LinkError::BadSdp("a line type of more than one letter")),
        }
    }
    if parsed.sections.is_empty() {
        return Err(LinkError::BadSdp("no m-line"));
    }
    Ok(parsed)
}

fn m_line(value: &str) -> Result<Section<'_>, LinkError> {
    let mut fields = value.split(' ').filter(|f| !f.is_empty());
    let (Some(media), Some(port), Some(proto)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(LinkError::BadSdp("an m-line with too few fields"));
    };
    let port = port.split('/').next().unwrap_or("");
    let port = port.parse().map_err(|_| LinkError::BadSdp("a port that is no number"))?;
    let formats: Vec<&str> = fields.collect();
    if formats.is_empty() || formats.len() > 256 {
        return Err(LinkError::BadSdp("an m-line with no or too many formats"));
    }
    Ok(Section { media, port, proto, formats, attrs: Vec::new() })
}

pub(crate) fn find<'a>(attrs: &[(&'a str, &'a str)], key: &str) -> Option<&'a str> {
    attrs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
}

impl<'a> Section<'a> {
    pub fn attr(&self, key: &str) -> Option<&'a str> {
        find(&self.attrs, key)
    }

    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.attrs.iter().filter(move |(k, _)| *k == key).map(|(_, v)| *v)
    }

    /// The media id: an RFC 4566 token, here at most 32 letters, digits, `-`, `_`, `+` or `.`.
    pub fn mid(&self) -> Option<&'a str> {
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
        self.attr("mid").filter(|m| !m.is_empty() && m.len() <= MAX_MID && m.chars().all(ok))
    }

    /// Port 0 refuses a section, unless it is only bundled (RFC 9143, section 6).
    pub fn is_rejected(&self) -> bool {
        self.port == 0 && self.attr("bundle-only").is_none()
    }
}

impl Direction {
    pub const BOTH: Direction = Direction { send: true, recv: true };

    pub fn of(section: &Section<'_>, session: &[(&str, &str)]) -> Direction {
        for attrs in [&section.attrs[..], session] {
            for (key, _) in attrs {
                match *key {
                    "sendrecv" => return Direction::BOTH,
                    "sendonly" => return Direction { send: true, recv: false },
                    "recvonly" => return Direction { send: false, recv: true },
                    "inactive" => return Direction { send: false, recv: false },
                    _ => {}
                }
            }
        }
        Direction::BOTH
    }

    pub fn reversed(self) -> Direction {
        Direction { send: self.recv, recv: self.send }
    }

    pub fn as_str(self) -> &'static str {
        match (self.send, self.recv) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }
}
