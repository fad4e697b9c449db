//! How good each connection is, from what is counted of it.

use std::time::{Duration, Instant};

use remotemedia_link::{LinkStats, MediaKind};
use remotemedia_mesh::PeerState;

use super::Net;
use super::entry::Entry;
use crate::event::Event;
use crate::pace::PaceTotals;
use crate::{PeerId, QualityMeter, QualityReport, QualitySample, VideoConfig};

/// A loss share of fewer packets says nothing.
const LEAST_PACKETS: f64 = 10.0;
/// What is sent is judged by the path's capacity while there is something, and once the estimate had time to find it.
const SENDS: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(15);

/// The verdict on one connection, and the counts it was made of.
#[derive(Default)]
pub(crate) struct Judge {
    meter: QualityMeter,
    before: Option<Before>,
    /// Since when pictures have been sent without a pause.
    sending: Option<Instant>,
}

#[derive(Clone)]
struct Before {
    at: Instant,
    link: LinkStats,
    pace: PaceTotals,
    /// Packets given to the decoder, and pictures that it made of them.
    packets: u64,
    decoded: u64,
}

impl Net {
    /// Takes a look at a peer's connection, about once a second.
    pub(super) fn judge(&mut self, peer: &PeerId) {
        let Some(entry) = self.by_peer.get(peer).and_then(|id| self.links.get_mut(id)) else { return };
        // From the first time that it is connected; what it goes through later is what is judged.
        if entry.judge.before.is_none() && entry.peer.state() != PeerState::Connected {
            return;
        }
        if let Some(report) = entry.judge(Instant::now(), &self.shared.config.video) {
            entry.peer.set_quality(Some(report));
            self.shared.events.push(Event::Quality { peer: peer.clone(), report });
        }
    }
}

impl Entry {
    fn judge(&mut self, now: Instant, video: &VideoConfig) -> Option<QualityReport> {
        let link = self.link.stats();
        let media = self.inbound(MediaKind::Video);
        let (pace, packets, decoded) = (media.pace, media.packets, media.frames_decoded);
        let next = Before { at: now, link, pace, packets, decoded };
        let before = self.judge.before.replace(next.clone());
        let silent = now.saturating_duration_since(self.link.last_heard());
        let mut sample = before.map_or(QualitySample::default(), |before| compare(&before, &next));
        sample.silent = silent;
        sample.round_trip = next.link.round_trip.map(|d| d.as_secs_f64());
        sample.bandwidth = self.headroom(now, video, &next.link);
        self.judge.meter.observe(now, &sample)
    }

    /// What the path carries of what the pictures are worth.
    fn headroom(&mut self, now: Instant, video: &VideoConfig, link: &LinkStats) -> Option<f64> {
        let source = crate::lock(&self.peer.video_source).snapshot(now);
        let sends = source.last.is_some_and(|at| now.saturating_duration_since(at) < SENDS);
        self.judge.sending = self.judge.sending.filter(|_| sends).or(sends.then_some(now));
        if now.saturating_duration_since(self.judge.sending?) < WARM_UP {
            return None;
        }
        let worth = f64::from(video.bitrate_bps(source.width, source.height));
        Some((link.bandwidth?.target_bps / worth).min(1.0))
    }
}

/// What happened between two looks.
fn compare(before: &Before, now: &Before) -> QualitySample {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let (a, b) = (&before.link, &now.link);
    let lost_in = [(&a.audio_in, &b.audio_in), (&a.video_in, &b.video_in)].map(|(a, b)| {
        let (lost, came) = ((b.lost - a.lost).max(0) as f64, (b.packets - a.packets) as f64);
        (lost + came >= LEAST_PACKETS).then(|| lost / (lost + came))
    });
    // What the peer says of ours, if it said something since.
    let lost_out = [(&a.audio_out, &b.audio_out), (&a.video_out, &b.video_out)].map(|(a, b)| {
        (b.reports_received > a.reports_received && b.packets > a.packets).then_some(b.fraction_lost)
    });
    let jitter_in = (b.audio_in.packets > a.audio_in.packets).then_some(b.audio_in.jitter_seconds);
    let out = (&a.audio_out, &b.audio_out);
    let jitter_out = (out.1.reports_received > out.0.reports_received && out.1.packets > out.0.packets)
        .then_some(out.1.jitter_seconds);
    let frozen = (seconds > 0.0 && now.packets > before.packets).then(|| {
        if now.decoded == before.decoded && before.decoded > 0 {
            // Packets come and no picture does.
            1.0
        } else {
            ((now.pace.frozen - before.pace.frozen).as_secs_f64() / seconds).min(1.0)
        }
    });
    QualitySample {
        loss: worst(lost_in.into_iter().chain(lost_out)),
        jitter: worst([jitter_in, jitter_out]),
        frozen,
        ..QualitySample::default()
    }
}

fn worst(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().flatten().reduce(f64::max)
}
