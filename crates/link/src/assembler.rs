//! Frames out of RTP packets.

use crate::depacketize::{Partial, Piece, append, inspect};
use crate::event::RtpIn;
use crate::nack::unwrap_u16;
use crate::patience::Patience;
use crate::playout::Playout;
use bytes::Bytes;
use remotemedia_media::VideoCodec;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One frame as it was encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledFrame {
    /// A VP8 or VP9 frame, an H.264 access unit in Annex B form, or an AV1 temporal unit in low-overhead form.
    pub data: Bytes,
    /// Decodable without anything before it.
    pub keyframe: bool,
    /// The RTP timestamp without its wrap, in microseconds.
    pub timestamp_us: i64,
    /// The RTP timestamp, 90 kHz.
    pub rtp_timestamp: u32,
    /// How it is coded.
    pub codec: VideoCodec,
}

/// Counters of a [`VideoAssembler`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AssemblerStats {
    /// Frames given out.
    pub frames: u64,
    /// Packets that came after their place was given up, or twice.
    pub late: u64,
    /// Packets thrown away on the way to the next keyframe.
    pub skipped: u64,
    /// Packets that are malformed or too many.
    pub bad: u64,
    /// Times a gap was given up.
    pub gaps: u64,
    /// How long a missing packet is waited for now.
    pub patience: Duration,
    /// How long a frame that is as fast as the fastest is held back now, for an even pace.
    pub hold: Duration,
}

/// Puts the packets of one video stream in order and makes frames of them.
///
/// It waits for a missing packet while newer frames wait less than a deadline, then goes on at the next keyframe. The deadline is
/// learnt from how long missing packets take: 80 to 600 ms, 150 before the first. A delta frame never comes out after a gap, or
/// before the first keyframe.
///
/// Where frames become whole unevenly, by 30 ms or more, they are held back up to 200 ms and come out at the pace of their
/// timestamps; elsewhere a whole frame comes out at once. It holds at most 2048 packets and 64 frames, 4 MiB of each.
#[derive(Debug)]
pub struct VideoAssembler {
    codec: VideoCodec,
    patience: Patience,
    playout: Playout,
    packets: BTreeMap<u64, Held>,
    bytes: usize,
    /// The packet that must come next; `None`: wait for a keyframe.
    next: Option<u64>,
    highest: Option<u64>,
    ssrc: Option<u32>,
    clock: Option<i64>,
    now: Option<Instant>,
    keyframe_wanted: bool,
    asked: Option<Instant>,
    stats: AssemblerStats,
}

#[derive(Debug)]
struct Held {
    packet: RtpIn,
    /// `None` for padding.
    piece: Option<Piece>,
}

const MAX_PACKETS: usize = 2048;
const MAX_BYTES: usize = 4 << 20;
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// A jump that no loss explains.
const MAX_JUMP: u64 = 4096;

enum Found {
    /// The frame is whole; its last packet.
    Whole(u64),
    /// A packet is missing, or more are to come.
    Part,
}

impl VideoAssembler {
    /// An assembler that waits for its first keyframe.
    pub fn new(codec: VideoCodec) -> Self {
        Self {
            codec,
            patience: Patience::default(),
            playout: Playout::new(),
            packets: BTreeMap::new(),
            bytes: 0,
            next: None,
            highest: None,
            ssrc: None,
            clock: None,
            now: None,
            keyframe_wanted: false,
            asked: None,
            stats: AssemblerStats::default(),
        }
    }

    /// One packet in, in any order. Audio is ignored.
    pub fn push(&mut self, packet: RtpIn) {
        let Some(codec) = packet.codec else { return };
        let now = self.now.map_or(packet.received, |n| n.max(packet.received));
        self.now = Some(now);
        if codec != self.codec || self.ssrc.is_some_and(|s| s != packet.ssrc) {
            self.codec = codec;
            self.restart();
        }
        self.ssrc = Some(packet.ssrc);
        let near = self.highest.unwrap_or(u64::from(packet.sequence) + (1 << 16));
        let number = unwrap_u16(near, packet.sequence);
        if number > near + MAX_JUMP {
            self.give_up();
        }
        self.patience.came(number, now);
        self.patience.jumped(near + 1, number.saturating_sub(1), now);
        let late = self.next.is_some_and(|n| number < n) || number + MAX_JUMP < near;
        if late || self.packets.contains_key(&number) {
            self.stats.late += 1;
            return;
        }
        let piece = if packet.payload.is_empty() { None } else { inspect(codec, &packet.payload) };
        if piece.is_none() && !packet.payload.is_empty() {
            // Its place stays empty, and the gap is dealt with like any other.
            self.stats.bad += 1;
            return;
        }
        self.highest = Some(near.max(number));
        self.bytes += packet.payload.len();
        self.packets.insert(number, Held { packet, piece });
        if self.packets.len() > MAX_PACKETS || self.bytes > MAX_BYTES {
            self.stats.bad += 1;
            self.give_up();
        }
    }

    /// The next frame, if it is whole and it is time for it.
    pub fn poll(&mut self, now: Instant) -> Option<AssembledFrame> {
        let whole_at = self.now.unwrap_or(now);
        self.now = Some(whole_at.max(now));
        while let Some(frame) = self.assemble() {
            self.stats.frames += 1;
            self.playout.push(frame, whole_at);
        }
        self.playout.pop(now)
    }

    /// When [`VideoAssembler::poll`] will have something, or give something up, although nothing comes in.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let overdue = self.next.and_then(|start| self.waiting_since(start));
        let overdue = overdue.map(|since| since + self.patience.deadline());
        [self.playout.due(), overdue].into_iter().flatten().min()
    }

    /// True once each time the sender has to be asked for a keyframe; raised again while none comes.
    pub fn take_keyframe_request(&mut self) -> bool {
        std::mem::take(&mut self.keyframe_wanted)
    }

    /// Counters.
    pub fn stats(&self) -> AssemblerStats {
        AssemblerStats { patience: self.patience.deadline(), hold: self.playout.hold(), ..self.stats }
    }

    fn assemble(&mut self) -> Option<AssembledFrame> {
        loop {
            if self.next.is_none() && !self.seek() {
                self.want_keyframe();
                return None;
            }
            self.skip_padding();
            let start = self.next?;
            match self.find(start) {
                Found::Whole(last) => {
                    if let Some(frame) = self.take(start, last) {
                        return Some(frame);
                    }
                    self.stats.bad += 1;
                    self.give_up();
                }
                Found::Part => {
                    let since = self.waiting_since(start);
                    let now = self.now?;
                    if since.is_none_or(|s| now.saturating_duration_since(s) < self.patience.deadline()) {
                        return None;
                    }
                    self.give_up();
                }
            }
        }
    }

    fn restart(&mut self) {
        self.packets.clear();
        self.bytes = 0;
        self.next = None;
        self.highest = None;
        self.ssrc = None;
        self.asked = None;
        self.patience.restart();
        if let Some(now) = self.now {
            self.playout.restart(now);
        }
    }

    /// Leaves what can't be completed: the packets up to the next keyframe that is not the one being waited for.
    fn give_up(&mut self) {
        self.stats.gaps += 1;
        let after = self.next.take();
        let key = self
            .packets
            .iter()
            .find(|(n, h)| after.is_none_or(|a| **n > a) && h.key_start())
            .map(|(n, _)| *n);
        let keep = match key {
            Some(key) => self.packets.split_off(&key),
            None => BTreeMap::new(),
        };
        self.stats.skipped += self.packets.len() as u64;
        self.packets = keep;
        self.bytes = self.packets.values().map(|h| h.packet.payload.len()).sum();
        if self.packets.len() > MAX_PACKETS || self.bytes > MAX_BYTES {
            // One endless keyframe.
            self.stats.skipped += self.packets.len() as u64;
            self.packets.clear();
            self.bytes = 0;
        }
    }

    /// Moves to the first keyframe held, if there is one.
    fn seek(&mut self) -> bool {
        let Some(key) = self.packets.iter().find(|(_, h)| h.key_start()).map(|(n, _)| *n) else {
            // Deltas are of no use any more; a packet of a keyframe whose start is still to come is.
            let recent = self.highest.unwrap_or(0).saturating_sub(256);
            let keep = self.packets.split_off(&recent);
            self.stats.skipped += self.packets.len() as u64;
            self.bytes -= self.packets.values().map(|h| h.packet.payload.len()).sum::<usize>();
            self.packets = keep;
            return false;
        };
        let keep = self.packets.split_off(&key);
        self.stats.skipped += self.packets.len() as u64;
        self.bytes -= self.packets.values().map(|h| h.packet.payload.len()).sum::<usize>();
        self.packets = keep;
        self.next = Some(key);
        self.asked = None;
        true
    }

    fn want_keyframe(&mut self) {
        let Some(now) = self.now else { return };
        if self.packets.is_empty() && self.stats.gaps == 0 {
            return;
        }
        if self.asked.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN) {
            self.asked = Some(now);
            self.keyframe_wanted = true;
        }
    }

    fn skip_padding(&mut self) {
        while let Some(next) = self.next
            && self.packets.get(&next).is_some_and(|h| h.piece.is_none())
        {
            self.packets.remove(&next);
            self.next = Some(next + 1);
        }
    }

    fn find(&self, start: u64) -> Found {
        let Some(first) = self.packets.get(&start) else { return Found::Part };
        let mut number = start;
        let mut held = first;
        loop {
            if held.packet.marker && held.piece.is_some() {
                return Found::Whole(number);
            }
            let Some(following) = self.packets.get(&(number + 1)) else { return Found::Part };
            if following.packet.timestamp != first.packet.timestamp {
                // The marker is not there though nothing is missing: the change of the timestamp ends the frame too.
                return Found::Whole(number);
            }
            number += 1;
            held = following;
        }
    }

    fn take(&mut self, start: u64, last: u64) -> Option<AssembledFrame> {
        let mut data = Vec::new();
        let (mut key, mut partial, mut whole) = (false, Partial::default(), true);
        let mut timestamp = 0;
        for number in start..=last {
            let held = self.packets.remove(&number)?;
            self.bytes -= held.packet.payload.len();
            timestamp = held.packet.timestamp;
            let Some(piece) = held.piece else { continue };
            // VP8, VP9 and AV1 tell it at the start; for H.264 any slice tells it.
            key |= piece.key_start && self.codec != VideoCodec::H264
                || piece.key && self.codec == VideoCodec::H264;
            whole &= append(self.codec, &held.packet.payload, piece.skip, &mut partial, &mut data).is_some();
        }
        self.next = Some(last + 1);
        if !whole || partial.is_open() || data.is_empty() {
            return None;
        }
        Some(AssembledFrame {
            data: data.into(),
            keyframe: key,
            timestamp_us: self.unwrap_time(timestamp),
            rtp_timestamp: timestamp,
            codec: self.codec,
        })
    }

    fn unwrap_time(&mut self, timestamp: u32) -> i64 {
        let ticks = match self.clock {
            None => i64::from(timestamp),
            Some(last) => last + i64::from(timestamp.wrapping_sub(last as u32) as i32),
        };
        self.clock = Some(ticks);
        ticks * 100 / 9
    }

    /// Since when something newer than the frame that begins at `start` waits for it.
    fn waiting_since(&self, start: u64) -> Option<Instant> {
        let current = self.packets.get(&start).map(|h| h.packet.timestamp);
        let newer =
            self.packets.values().filter(|h| h.piece.is_some() && Some(h.packet.timestamp) != current);
        newer.map(|h| h.packet.received).min()
    }
}

impl Held {
    fn key_start(&self) -> bool {
        self.piece.is_some_and(|p| p.key_start)
    }
}
