//! When media was captured, on our own clock.

mod fit;
#[cfg(test)]
mod tests;

use std::time::Instant;

use fit::{Envelope, Line, Reported};

/// Maps the RTP timestamps of one peer's streams to one clock of ours, so that what the peer captured together has one
/// timestamp, whatever it is and however long it took to come.
///
/// Sender reports (RFC 3550, section 6.4.1) say which RTP timestamp belongs to which time of the peer's wall clock: a line is
/// laid through those of each stream. The stream that takes the least time from capture to us says what the peer's wall clock
/// is on ours, by its fastest packets: a timestamp is the time of capture and that shortest way. A stream without reports is
/// mapped by its own fastest packets; when its first report comes, its timestamps move over by an eighth of their pace, so
/// they never go back. They keep the stream's own pace to the microsecond until they are off by 3 ms.
///
/// The reports are the peer's word. What they say is used only where it is within two seconds of when the packets came.
#[derive(Debug)]
pub struct PeerClock {
    /// Zero of the timestamps.
    epoch: Instant,
    /// The first wall clock time heard of: times are counted from there, across the end of the NTP era.
    ntp_zero: Option<u64>,
    /// Grows when the peer's wall clock was set.
    era: u32,
    /// Until then the streams that have not reported since may do so: before, nobody's timestamps change.
    settling_until: i64,
    streams: Vec<Stream>,
}

/// One stream of a [`PeerClock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(usize);

#[derive(Debug)]
struct Stream {
    rate: i64,
    ssrc: Option<u32>,
    /// The last RTP timestamp, with its wraps undone.
    ticks: Option<i64>,
    /// When the last packet came.
    heard: i64,
    /// The stream's media time -> our clock, by its own packets alone.
    own: Envelope,
    /// The stream's media time -> the peer's wall clock.
    line: Line,
    line_era: u32,
    /// How far what is told is from the media time: kept while the reports contradict each other.
    offset_us: Option<i64>,
    /// Media time and timestamp told last.
    told: Option<(i64, i64)>,
    /// What is told moves towards what it should be.
    moving: bool,
    /// No timestamp is less than this.
    floor: i64,
}

/// Reports that put a stream further from when its packets came are not believed.
const BELIEVABLE_US: i64 = 2_000_000;
/// Timestamps that are this far behind jump; anything else is made up for bit by bit.
const STEP_US: i64 = 1_000_000;
/// How long the reports of all streams are waited for after the peer's wall clock was set.
const SETTLING_US: i64 = 15_000_000;
/// A stream that was quiet for longer says nothing about the way.
const FRESH_US: i64 = 60_000_000;
/// Timestamps that are this near are left alone.
const NEAR_US: i64 = 3_000;
/// The share of its pace by which a timestamp moves towards what it should be.
const SLEW: i64 = 8;

impl PeerClock {
    /// A clock whose timestamps count from `epoch`.
    pub fn new(epoch: Instant) -> PeerClock {
        PeerClock { epoch, ntp_zero: None, era: 0, settling_until: i64::MIN, streams: Vec::new() }
    }

    /// Another stream of the same peer, with an RTP clock of `rate` (1 to 1 000 000) hertz.
    pub fn add_stream(&mut self, rate: u32) -> StreamId {
        self.streams.push(Stream {
            rate: i64::from(rate.clamp(1, 1_000_000)),
            ssrc: None,
            ticks: None,
            heard: i64::MIN,
            own: Envelope::default(),
            line: Line::default(),
            line_era: 0,
            offset_us: None,
            told: None,
            moving: false,
            floor: i64::MIN,
        });
        StreamId(self.streams.len() - 1)
    }

    /// An RTP packet came: each one, in order of arrival.
    pub fn arrived(&mut self, stream: StreamId, ssrc: u32, rtp: u32, at: Instant) {
        let at = self.local(at);
        let stream = &mut self.streams[stream.0];
        stream.belongs_to(ssrc);
        let media = stream.media_us(rtp);
        stream.own.arrived(media, at);
        stream.heard = at;
    }

    /// A sender report came: `ntp` is 32.32 fixed-point seconds since 1900, `rtp` the stream's timestamp at that time.
    pub fn reported(&mut self, stream: StreamId, ssrc: u32, ntp: u64, rtp: u32, at: Instant) {
        // RFC 3550: zero if there is no wall clock.
        if ntp == 0 {
            return;
        }
        let at = self.local(at);
        let zero = *self.ntp_zero.get_or_insert(ntp);
        let wall = ((i128::from(ntp.wrapping_sub(zero) as i64) * 1_000_000) >> 32) as i64;
        let (era, stream) = (self.era, &mut self.streams[stream.0]);
        stream.belongs_to(ssrc);
        let media = stream.media_us(rtp);
        match stream.line.reported(media, wall) {
            Reported::Doubtful => {}
            Reported::Fits => stream.line_era = era,
            // Another stream saw the same before.
            Reported::Jumped if stream.line_era != era => stream.line_era = era,
            Reported::Jumped => {
                self.era = era.wrapping_add(1);
                stream.line_era = self.era;
                self.settling_until = at.saturating_add(SETTLING_US);
            }
        }
    }

    /// When the media of this RTP timestamp was captured, in microseconds since the epoch.
    ///
    /// To be asked in the order of the stream: what it gives never goes back, and grows with the RTP timestamp.
    pub fn timestamp_us(&mut self, stream: StreamId, rtp: u32) -> i64 {
        let media = self.streams[stream.0].media_us(rtp);
        let (wall, settled) = (self.streams[stream.0].wall(media, self.era), self.is_settled());
        let shared = wall.filter(|_| settled).and_then(|wall| self.on_our_clock(wall));
        let stream = &mut self.streams[stream.0];
        let own = stream.own.at(media).unwrap_or(media);
        let wanted = match stream.offset_us {
            Some(offset) if !settled && stream.line.is_known() => media.saturating_add(offset),
            _ => shared.unwrap_or(own),
        };
        let believable = wanted.saturating_sub(own).saturating_abs() <= BELIEVABLE_US;
        let wanted = if believable { wanted } else { own };
        stream.offset_us = Some(wanted.saturating_sub(media));
        let told = match stream.told {
            None => wanted,
            Some((before, told)) => {
                let step = media.saturating_sub(before);
                let natural = told.saturating_add(step);
                let error = wanted.saturating_sub(natural);
                let near = if stream.moving { NEAR_US / 8 } else { NEAR_US };
                stream.moving = error.saturating_abs() > near;
                if step <= 0 || error > STEP_US {
                    wanted
                } else if !stream.moving {
                    natural
                } else {
                    let share = if error < -STEP_US { 2 } else { SLEW };
                    natural.saturating_add(error.clamp(-step / share, step / share))
                }
            }
        };
        let told = told.max(stream.floor);
        stream.floor = told;
        stream.told = Some((media, told));
        told
    }

    /// Whether the timestamps of this stream come from the peer's wall clock: those of two streams that both do can be compared.
    pub fn is_synchronized(&self, stream: StreamId) -> bool {
        let stream = &self.streams[stream.0];
        stream.line.is_known() && stream.line_era == self.era
    }

    /// By how many millionths the stream's clock is faster than ours. `None` until it was watched for 20 s.
    pub fn drift_ppm(&self, stream: StreamId) -> Option<f64> {
        self.streams[stream.0].own.slope().map(|slope| slope * -1e6)
    }

    /// The peer's wall clock on ours, by the stream that is here first.
    fn on_our_clock(&self, wall: i64) -> Option<i64> {
        let newest = self.streams.iter().map(|s| s.heard).max()?;
        let fresh = self.streams.iter().filter(|s| newest.saturating_sub(s.heard) <= FRESH_US);
        fresh.filter_map(|s| s.own.at(s.line.media(wall).filter(|_| s.line_era == self.era)?)).min()
    }

    /// False while the peer's wall clock was set for some of its streams and perhaps not for others.
    fn is_settled(&self) -> bool {
        let newest = self.streams.iter().map(|s| s.heard).max().unwrap_or(i64::MAX);
        let waits = |s: &Stream| s.line.is_known() && s.line_era != self.era;
        newest > self.settling_until || !self.streams.iter().any(waits)
    }

    fn local(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.epoch) {
            Some(after) => after.as_micros() as i64,
            None => -(self.epoch.duration_since(at).as_micros() as i64),
        }
    }
}

impl Stream {
    fn belongs_to(&mut self, ssrc: u32) {
        if self.ssrc.replace(ssrc).is_some_and(|before| before != ssrc) {
            self.ticks = None;
            self.own = Envelope::default();
            self.line = Line::default();
            self.offset_us = None;
            self.told = None;
        }
    }

    /// A media time on the peer's wall clock, if the reports say it.
    fn wall(&self, media: i64, era: u32) -> Option<i64> {
        self.line.at(media).filter(|_| self.line_era == era)
    }

    /// The RTP timestamp nearest to the last one, in microseconds.
    fn media_us(&mut self, rtp: u32) -> i64 {
        let ticks = match self.ticks {
            None => i64::from(rtp),
            Some(last) => last.saturating_add(i64::from(rtp.wrapping_sub(last as u32) as i32)),
        };
        self.ticks = Some(ticks);
        (i128::from(ticks) * 1_000_000 / i128::from(self.rate)) as i64
    }
}
