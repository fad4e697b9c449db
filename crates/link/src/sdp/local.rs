//! From the engine's description to the one that goes out.

use super::{Direction, Parsed, Slot, SlotState, find, parse};
use crate::config::LinkConfig;
use crate::error::LinkError;
use std::fmt::Write as _;

/// What to write into a description besides what the engine says.
pub(crate) struct Local<'a> {
    pub config: &'a LinkConfig,
    pub slots: &'a [Slot],
    /// `a=setup` (RFC 8842).
    pub setup: &'static str,
    pub audio: Direction,
    pub video: Direction,
    pub session_id: u64,
    pub version: u64,
    /// Candidate lines, without `a=`.
    pub candidates: &'a [String],
}

/// The slots of an offer: the known ones, then the ones the engine added.
pub(crate) fn offer_slots(engine: &str, known: &[Slot]) -> Result<Vec<Slot>, LinkError> {
    let parsed = parse(engine)?;
    let mut slots = known.to_vec();
    for section in &parsed.sections {
        let mid = section.mid().ok_or(LinkError::BadSdp("an m-line of our own without a mid"))?;
        if slots.iter().any(|s| s.mid == mid) {
            continue;
        }
        slots.push(Slot {
            mid: mid.to_owned(),
            media: section.media.to_owned(),
            proto: section.proto.to_owned(),
            formats: section.formats.join(" "),
            state: match section.media {
                "audio" => SlotState::Audio,
                "video" => SlotState::Video,
                _ => SlotState::Data,
            },
        });
    }
    Ok(slots)
}

impl Local<'_> {
    pub fn write(&self, engine: &str) -> Result<String, LinkError> {
        let parsed = parse(engine)?;
        let active = self.slots.iter().filter(|s| s.state != SlotState::Rejected);
        let bundle: Vec<&str> = active.map(|s| s.mid.as_str()).collect();
        let mut out = String::with_capacity(engine.len() + 512);
        let _ = write!(
            out,
            "v=0\r\no=- {} {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic:WMS *\r\n\
             a=extmap-allow-mixed\r\n",
            self.session_id,
            self.version,
            bundle.join(" ")
        );
        let fingerprint =
            find(&parsed.attrs, "fingerprint").ok_or(LinkError::BadSdp("no fingerprint of our own"))?;
        let mut first = true;
        for slot in self.slots {
            if slot.state == SlotState::Rejected {
                refused(&mut out, slot);
                continue;
            }
            self.section(&parsed, slot, fingerprint, first, &mut out)?;
            first = false;
        }
        Ok(out)
    }

    fn section(
        &self,
        parsed: &Parsed<'_>,
        slot: &Slot,
        fingerprint: &str,
        first: bool,
        out: &mut String,
    ) -> Result<(), LinkError> {
        let section = parsed
            .sections
            .iter()
            .find(|s| s.mid() == Some(slot.mid.as_str()))
            .ok_or(LinkError::BadSdp("the engine left out an m-line"))?;
        let _ = write!(
            out,
            "m={} 9 {} {}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=fingerprint:{fingerprint}\r\na=setup:{}\r\n\
             a=ice-options:trickle\r\n",
            section.media,
            slot.proto,
            section.formats.join(" "),
            slot.mid,
            self.setup
        );
        match slot.state {
            SlotState::Audio => {
                // Whatever Opus has (RFC 6716, section 2.1.4).
                let _ = write!(
                    out,
                    "a={}\r\na=ptime:{}\r\na=maxptime:120\r\n",
                    self.audio.as_str(),
                    self.config.frame_ms
                );
            }
            SlotState::Video => {
                let _ = write!(out, "a={}\r\n", self.video.as_str());
            }
            _ => {}
        }
        for (key, value) in &section.attrs {
            match *key {
                "mid" | "setup" | "fingerprint" | "candidate" | "end-of-candidates" | "ice-options"
                | "sendrecv" | "sendonly" | "recvonly" | "inactive" => continue,
                "max-message-size" => {
                    let _ = write!(out, "a=max-message-size:{}\r\n", self.config.max_message_size);
                    continue;
                }
                _ => {}
            }
            // A property attribute of the engine may hold a colon; both forms come out as they went in.
            if value.is_empty() {
                let _ = write!(out, "a={key}\r\n");
            } else {
                let _ = write!(out, "a={key}:{value}\r\n");
            }
        }
        if first {
            for candidate in self.candidates {
                let _ = write!(out, "a={candidate}\r\n");
            }
        }
        Ok(())
    }
}

fn refused(out: &mut String, slot: &Slot) {
    let _ = write!(
        out,
        "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=inactive\r\n",
        slot.media, slot.proto, slot.formats, slot.mid
    );
}
