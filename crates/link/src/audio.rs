//! Opus packets in order.

use crate::event::RtpIn;
use crate::nack::unwrap_u16;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What comes out of [`AudioReorder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AudioIn {
    /// The next packet.
    Packet {
        /// One Opus packet.
        payload: Bytes,
        /// The RTP timestamp without its wrap, in microseconds.
        timestamp_us: i64,
        /// The first one after silence.
        marker: bool,
        /// When it came in.
        received: Instant,
    },
    /// Packets that didn't come in time; the next packet follows, with FEC for the last of them perhaps.
    Lost {
        /// How many, 1 to 256.
        count: u32,
    },
}

/// Counters of an [`AudioReorder`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AudioReorderStats {
    /// Packets given out.
    pub packets: u64,
    /// Packets reported as lost.
    pub lost: u64,
    /// Packets that came after they were reported lost, or twice.
    pub late: u64,
    /// Times the stream began anew.
    pub restarts: u64,
}

/// Puts the packets of one Opus stream in order. A packet in order comes out at once; a missing one is waited for 60 ms at
/// most. It holds at most 32 packets.
#[derive(Debug, Default)]
pub struct AudioReorder {
    held: BTreeMap<u64, (RtpIn, Instant)>,
    next: Option<u64>,
    ssrc: Option<u32>,
    clock: Option<i64>,
    stats: AudioReorderStats,
}

const WAIT: Duration = Duration::from_millis(60);
const MAX_HELD: usize = 32;
/// A larger jump either way is a stream that began anew.
const MAX_JUMP: u64 = 256;

impl AudioReorder {
    /// Starts with whichever packet comes first.
    pub fn new() -> Self {
        Self::default()
    }

    /// One packet in, in any order.
    pub fn push(&mut self, packet: RtpIn, now: Instant) {
        if self.ssrc.is_some_and(|s| s != packet.ssrc) {
            self.restart();
        }
        self.ssrc = Some(packet.ssrc);
        let mut near = self.next.unwrap_or(u64::from(packet.sequence) + (1 << 16));
        let mut number = unwrap_u16(near, packet.sequence);
        if number.abs_diff(near) > MAX_JUMP {
            self.restart();
            near = u64::from(packet.sequence) + (1 << 16);
            number = near;
        }
        if number < near || self.held.contains_key(&number) {
            self.stats.late += 1;
            return;
        }
        self.next.get_or_insert(number);
        self.held.insert(number, (packet, now));
    }

    /// The next packet or gap, if it is time for it.
    pub fn poll(&mut self, now: Instant) -> Option<AudioIn> {
        let next = self.next?;
        let (first, (_, since)) = self.held.first_key_value()?;
        let first = *first;
        if first == next {
            let (packet, _) = self.held.remove(&first)?;
            self.next = Some(first + 1);
            self.stats.packets += 1;
            let ticks = match self.clock {
                None => i64::from(packet.timestamp),
                Some(last) => last + i64::from(packet.timestamp.wrapping_sub(last as u32) as i32),
            };
            self.clock = Some(ticks);
            if packet.payload.is_empty() {
                return self.poll(now); // Padding takes a number and no time.
            }
            return Some(AudioIn::Packet {
                payload: packet.payload,
                timestamp_us: ticks * 125 / 6,
                marker: packet.marker,
                received: packet.received,
            });
        }
        if now.saturating_duration_since(*since) < WAIT && self.held.len() < MAX_HELD {
            return None;
        }
        let count = (first - next).min(MAX_JUMP) as u32;
        self.next = Some(first);
        self.stats.lost += u64::from(count);
        Some(AudioIn::Lost { count })
    }

    /// When [`AudioReorder::poll`] will have something although nothing comes in.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held.first_key_value().map(|(_, (_, since))| *since + WAIT)
    }

    /// Counters.
    pub fn stats(&self) -> AudioReorderStats {
        self.stats
    }

    fn restart(&mut self) {
        self.held.clear();
        self.next = None;
        self.clock = None;
        self.stats.restarts += 1;
    }
}
