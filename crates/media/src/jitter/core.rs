//! What a jitter buffer decides, for any decoder.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{AudioChunk, AudioPacket, ChunkSource, JitterStats};
use crate::DelayFilter;

/// What is needed of a decoder. Frames are samples a channel; `false` means that there is nothing usable in `out`.
pub(super) trait Decode {
    /// How long a packet says it is; `None` if it is none.
    fn frames(packet: &[u8]) -> Option<usize>;
    /// Whether it holds a copy of the packet before.
    fn has_fec(packet: &[u8]) -> bool;
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> bool;
    /// The `frames` before `packet`, from the copy in it.
    fn recover(&mut self, packet: &[u8], frames: usize, out: &mut Vec<f32>) -> bool;
    fn conceal(&mut self, frames: usize, out: &mut Vec<f32>) -> bool;
    fn reset(&mut self);
}

pub(super) struct Core<D> {
    decoder: D,
    channels: usize,
    held: BTreeMap<u64, Held>,
    ssrc: Option<u32>,
    /// The newest packet: its number and time, with their wraps undone.
    newest: Option<(u64, i64)>,
    /// Which of the packets up to the newest came; the lowest bit is the newest.
    seen: u128,
    /// A packet that is far from all others, and when it came: the next one tells whether a stream begins there.
    stray: Option<(AudioPacket, Instant)>,
    /// The number to be given out next, and the time that comes next; `None` before the first.
    next: Option<(u64, i64)>,
    /// What is made up for a loss that was given up, before the packet behind it.
    fills: VecDeque<Fill>,
    /// What comes next begins softly.
    soft: bool,
    /// Length of the packet before.
    last_frames: i64,
    filter: DelayFilter,
    hold: Duration,
    stats: JitterStats,
}

struct Held {
    ticks: i64,
    /// 0 for padding, which takes a number and no time.
    frames: i64,
    payload: Bytes,
    received: Instant,
}

struct Fill {
    /// When it was decided.
    at: Instant,
    ticks: i64,
    frames: usize,
    /// The packet with a copy of it.
    copy: Option<Bytes>,
    /// It fades out: what follows is not made up for.
    fades: bool,
}

const MAX_HELD: usize = 256;
/// A sequence number further away is another stream, if the one behind it is as well.
const MAX_JUMP: u64 = 500;
/// The share of packets that are waited for.
const COVERED: f64 = 0.98;
const MAX_TARGET: Duration = Duration::from_millis(200);
/// Less jitter than this is not worth waiting for: what receives sound copes with it.
const QUIET: Duration = Duration::from_millis(10);
/// How fast the delay changes, as a share of what comes meanwhile: it grows by a half of it and shrinks by a twentieth.
const GROW: u32 = 2;
const SHRINK: u32 = 20;
/// However the clocks jump, nothing waits longer.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// What others have overtaken is given this much more: it delays nothing, as the ones behind it are due later.
const REORDER: Duration = Duration::from_millis(10);
/// The longest loss that is made up for: 100 ms.
const MAX_MADE_UP: i64 = 4800;
/// What ends in nothing fades out over 20 ms, and what begins after nothing fades in over 5 ms.
const FADE_OUT: usize = 960;
const FADE_IN: usize = 240;
/// A sender's timestamps may be off by as much: 5 ms.
const TOLERANCE: i64 = 240;
/// Opus's shortest frame, 2.5 ms.
const STEP: i64 = 120;

impl<D: Decode> Core<D> {
    pub fn new(decoder: D, channels: u16) -> Core<D> {
        Core {
            decoder,
            channels: usize::from(channels),
            held: BTreeMap::new(),
            ssrc: None,
            newest: None,
            seen: 0,
            stray: None,
            next: None,
            fills: VecDeque::new(),
            soft: false,
            last_frames: 960,
            filter: DelayFilter::new(COVERED),
            hold: Duration::ZERO,
            stats: JitterStats::default(),
        }
    }

    pub fn push(&mut self, packet: AudioPacket, now: Instant) {
        if self.ssrc.is_some_and(|ssrc| ssrc != packet.ssrc) {
            self.restart();
        }
        self.ssrc = Some(packet.ssrc);
        let near = self.newest.map_or(first_number(&packet), |(number, _)| number);
        let number = unwrap(near, packet.sequence);
        if number.abs_diff(near) <= MAX_JUMP {
            self.stray = None;
            return self.take(packet, number, now);
        }
        match self.stray.take() {
            Some((first, came)) if packet.sequence.wrapping_sub(first.sequence) == 1 => {
                self.restart();
                let number = first_number(&first);
                self.take(first, number, came);
                self.take(packet, number + 1, now);
            }
            _ => self.stray = Some((packet, now)),
        }
    }

    pub fn due(&self) -> Option<Instant> {
        if let Some(fill) = self.fills.front() {
            return Some(fill.at);
        }
        let (number, first) = self.held.first_key_value()?;
        if self.held.len() >= MAX_HELD {
            return Some(first.received);
        }
        let (ticks, wait) = match self.hole_before(*number, first) {
            Some((_, time)) => (time, self.hold + REORDER),
            None => (first.ticks, self.hold),
        };
        let due = self.filter.due(micros(ticks)).map_or(first.received, |due| due + wait);
        Some(due.min(first.received + MAX_WAIT))
    }

    pub fn pull(&mut self, now: Instant, out: &mut Vec<f32>) -> Option<AudioChunk> {
        loop {
            if self.due().is_none_or(|due| due > now) {
                return None;
            }
            let chunk = match self.fills.pop_front() {
                Some(fill) => self.fill(fill, out),
                None => self.play(now, out),
            };
            if chunk.is_some() {
                return chunk;
            }
        }
    }

    pub fn stats(&self) -> JitterStats {
        JitterStats { target: self.hold, ..self.stats }
    }

    fn take(&mut self, packet: AudioPacket, number: u64, now: Instant) {
        let (newest, ticks) = match self.newest {
            None => (number, i64::from(packet.timestamp)),
            Some((newest, last)) => {
                (newest, last + i64::from(packet.timestamp.wrapping_sub(last as u32) as i32))
            }
        };
        if self.is_double(newest, number) {
            self.stats.duplicates += 1;
            return;
        }
        let frames = if packet.payload.is_empty() { Some(0) } else { D::frames(&packet.payload) };
        let Some(frames) = frames else {
            self.stats.bad += 1;
            return;
        };
        if number >= newest {
            self.newest = Some((number, ticks));
        }
        self.filter.arrived(micros(ticks), now);
        self.adapt();
        if self.next.is_some_and(|(next, _)| number < next) {
            self.stats.late += 1;
            return;
        }
        self.held
            .insert(number, Held { ticks, frames: frames as i64, payload: packet.payload, received: now });
        if self.held.len() > MAX_HELD {
            self.held.pop_first();
            self.stats.removed += 1;
        }
    }

    /// Notes that this number came. True if it had before.
    fn is_double(&mut self, newest: u64, number: u64) -> bool {
        let ahead = number.saturating_sub(newest);
        self.seen = self.seen.checked_shl(ahead.min(128) as u32).unwrap_or(0);
        // One that is further back is late anyway.
        let place = 1u128.checked_shl(newest.saturating_sub(number).min(128) as u32).unwrap_or(0);
        let known = self.seen & place != 0;
        self.seen |= place;
        known
    }

    /// Moves the delay towards what the jitter asks for.
    fn adapt(&mut self) {
        let spread = self.filter.spread();
        let wanted = if spread < QUIET { Duration::ZERO } else { spread.min(MAX_TARGET) };
        let length = Duration::from_micros(micros(self.last_frames).unsigned_abs());
        self.hold = wanted.clamp(self.hold.saturating_sub(length / SHRINK), self.hold + length / GROW);
    }

    /// The number and time that should come before this packet, if they are missing.
    fn hole_before(&self, number: u64, held: &Held) -> Option<(u64, i64)> {
        self.next.filter(|(next, time)| number > *next && held.ticks > *time)
    }

    /// Gives out the first packet, or gives up what is missing before it.
    fn play(&mut self, now: Instant, out: &mut Vec<f32>) -> Option<AudioChunk> {
        let (number, held) = self.held.pop_first()?;
        if let Some((next, time)) = self.hole_before(number, &held) {
            self.give_up(number - next, time, &held, now);
            self.next = Some((number, held.ticks));
            self.held.insert(number, held);
            return None;
        }
        let after_gap = self.next.is_some_and(|(_, time)| held.ticks - time > TOLERANCE);
        if held.frames == 0 {
            self.next = Some((number + 1, self.next.map_or(held.ticks, |(_, time)| time)));
            return None;
        }
        self.next = Some((number + 1, held.ticks + held.frames));
        self.last_frames = held.frames;
        self.stats.packets += 1;
        self.stats.delay = now.saturating_duration_since(held.received);
        self.stats.total_delay += self.stats.delay * held.frames as u32;
        self.stats.total_target += self.hold * held.frames as u32;
        if self.decoder.decode(&held.payload, out) {
            self.stats.decoded_samples += (out.len() / self.channels) as u64;
            return self.give(held.ticks, ChunkSource::Decoded, after_gap, out);
        }
        self.stats.bad += 1;
        let (ticks, frames) = (held.ticks, held.frames as usize);
        self.soft |= after_gap;
        self.fill(Fill { at: now, ticks, frames, copy: None, fades: false }, out)
    }

    /// Decides what is made up for `lost` packets from `time` on, before the packet `held`.
    fn give_up(&mut self, lost: u64, time: i64, held: &Held, now: Instant) {
        self.stats.lost += lost;
        let gap = held.ticks - time;
        // What is longer than the packets were is a pause of the sender.
        let missing = gap.min(self.last_frames.saturating_mul(lost as i64));
        let copied = if held.frames <= missing && D::has_fec(&held.payload) { held.frames } else { 0 };
        let made_up = (missing - copied).min(MAX_MADE_UP) / STEP * STEP;
        let skipped = gap - copied - made_up;
        let breaks = skipped > TOLERANCE;
        let mut done = 0;
        while done < made_up {
            let frames = self.last_frames.min(made_up - done);
            let (ticks, fades) = (time + done, breaks && done + frames == made_up);
            done += frames;
            let frames = frames as usize;
            self.fills.push_back(Fill { at: now, ticks, frames, copy: None, fades });
        }
        if copied > 0 {
            let (ticks, frames, copy) = (held.ticks - copied, copied as usize, Some(held.payload.clone()));
            self.fills.push_back(Fill { at: now, ticks, frames, copy, fades: false });
        }
        self.stats.concealments += u64::from(copied + made_up > 0);
        if breaks {
            self.stats.skipped_samples += skipped as u64;
            self.soft |= made_up == 0;
        }
    }

    fn fill(&mut self, fill: Fill, out: &mut Vec<f32>) -> Option<AudioChunk> {
        let recovered = fill.copy.is_some_and(|copy| self.decoder.recover(&copy, fill.frames, out));
        if !recovered && !self.decoder.conceal(fill.frames / STEP as usize * STEP as usize, out) {
            self.soft |= fill.fades;
            return None;
        }
        if fill.fades {
            let frames = out.len() / self.channels;
            for (n, samples) in out.chunks_mut(self.channels).enumerate() {
                let gain = (frames - n) as f32 / FADE_OUT.min(frames) as f32;
                samples.iter_mut().for_each(|sample| *sample *= gain.min(1.0));
            }
        }
        let samples = (out.len() / self.channels) as u64;
        let source = if recovered {
            self.stats.recovered_samples += samples;
            ChunkSource::Recovered
        } else {
            self.stats.concealed_samples += samples;
            ChunkSource::Concealed
        };
        let chunk = self.give(fill.ticks, source, false, out);
        self.soft = fill.fades;
        chunk
    }

    fn give(
        &mut self,
        ticks: i64,
        source: ChunkSource,
        after_gap: bool,
        out: &mut [f32],
    ) -> Option<AudioChunk> {
        let soft = std::mem::take(&mut self.soft);
        if soft {
            for (n, samples) in out.chunks_mut(self.channels).take(FADE_IN).enumerate() {
                samples.iter_mut().for_each(|sample| *sample *= n as f32 / FADE_IN as f32);
            }
        }
        let frames = out.len() / self.channels;
        Some(AudioChunk { timestamp: ticks as u32, frames, source, after_gap: after_gap || soft })
    }

    fn restart(&mut self) {
        self.held.clear();
        self.newest = None;
        self.seen = 0;
        self.stray = None;
        self.next = None;
        self.fills.clear();
        self.soft = false;
        self.filter.clear();
        self.decoder.reset();
        self.stats.restarts += 1;
    }
}

/// The number that a stream begins with: high enough for what it overtook.
fn first_number(packet: &AudioPacket) -> u64 {
    (1 << 16) + u64::from(packet.sequence)
}

/// The number nearest to `near` whose low 16 bits are `low`.
fn unwrap(near: u64, low: u16) -> u64 {
    near.saturating_add_signed(i64::from(low.wrapping_sub(near as u16) as i16))
}

/// 48 kHz samples in microseconds.
fn micros(ticks: i64) -> i64 {
    ticks.saturating_mul(125) / 6
}
