//! The one audio and the one video track of each receiver, and who may use them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFrame, Mixer, MixerConfig};
use remotemedia_pipeline::{Mailbox, Policy};

use crate::PeerId;
use crate::lane::Lane;
use crate::outputs::Stream;
use crate::peer::Peer;
use crate::shared::{Command, Shared};
use crate::stats::spoken;

/// What was sent within this time is still on.
const AUDIO_ON: Duration = Duration::from_secs(1);
const VIDEO_ON: Duration = Duration::from_secs(2);
/// A desk is kept this long after its inputs have become one: it would be needed again with the next word.
const DESK_KEPT: Duration = Duration::from_secs(10);
/// Streams to one receiver that are told apart.
const MAX_STREAMS: usize = 256;
/// Frames that may wait for a desk.
const MAX_WAITING: usize = 256;

/// Who sends what to each receiver right now.
#[derive(Default)]
pub(crate) struct Lines {
    audio: Mutex<HashMap<PeerId, AudioLine>>,
    video: Mutex<HashMap<PeerId, (Stream, Instant)>>,
}

/// All that is sent to one receiver as sound. Where that is more than one stream it is mixed: there is one track.
#[derive(Default)]
struct AudioLine {
    streams: Vec<(Stream, Instant)>,
    desk: Option<Mailbox<DeskJob>>,
    /// Since when there has been no need of it.
    idle: Option<Instant>,
}

/// What a desk is given.
enum DeskJob {
    Frame(Stream, AudioFrame),
    /// This stream is over.
    End(Stream),
}

impl Lines {
    /// Of these receivers, those who hear this stream and nothing else. The others are given the frame here, with all they hear.
    pub(crate) fn audio(
        &self,
        shared: &Arc<Shared>,
        stream: &Stream,
        frame: &AudioFrame,
        mut targets: Vec<Arc<Peer>>,
        id: impl Fn() -> u64,
    ) -> Vec<Arc<Peer>> {
        let now = Instant::now();
        let mut lines = crate::lock(&self.audio);
        targets.retain(|peer| {
            let line = lines.entry(peer.id.clone()).or_default();
            for over in line.note(stream, now) {
                if let Some(desk) = &line.desk {
                    let _ = desk.push(DeskJob::End(over));
                }
            }
            if line.streams.len() > 1 {
                line.idle = None;
                line.desk.get_or_insert_with(|| desk(shared, peer.clone(), id()));
            } else if line.desk.is_some() {
                let idle = *line.idle.get_or_insert(now);
                if now.saturating_duration_since(idle) > DESK_KEPT {
                    line.desk = None;
                }
            }
            let Some(desk) = &line.desk else { return true };
            let _ = desk.push(DeskJob::Frame(stream.clone(), frame.clone()));
            false
        });
        targets
    }

    /// Of these receivers, those whose picture this stream is. A picture can't be mixed: who came first has the track until it is
    /// quiet. The others are counted.
    pub(crate) fn video(&self, stream: &Stream, targets: &mut Vec<Arc<Peer>>) -> usize {
        let now = Instant::now();
        let before = targets.len();
        let mut lines = crate::lock(&self.video);
        targets.retain(|peer| {
            let (holder, seen) = lines.entry(peer.id.clone()).or_insert_with(|| (stream.clone(), now));
            if holder != stream && now.saturating_duration_since(*seen) > VIDEO_ON {
                *holder = stream.clone();
            }
            let holds = holder == stream;
            if holds {
                *seen = now;
            }
            holds
        });
        before - targets.len()
    }

    pub(crate) fn remove_peer(&self, peer: &PeerId) {
        crate::lock(&self.audio).remove(peer);
        crate::lock(&self.video).remove(peer);
    }

    /// These streams are over: what they had is free at once.
    pub(crate) fn end(&self, over: impl Fn(&Stream) -> bool) {
        for line in crate::lock(&self.audio).values_mut() {
            let (ended, on): (Vec<_>, Vec<_>) = line.streams.drain(..).partition(|(stream, _)| over(stream));
            line.streams = on;
            if line.streams.is_empty() {
                line.desk = None;
            }
            if let Some(desk) = &line.desk {
                for (stream, _) in ended {
                    let _ = desk.push(DeskJob::End(stream));
                }
            }
        }
        crate::lock(&self.video).retain(|_, (stream, _)| !over(stream));
    }

    pub(crate) fn clear(&self) {
        crate::lock(&self.audio).clear();
        crate::lock(&self.video).clear();
    }
}

impl AudioLine {
    /// Takes note of a stream that is on, and forgets those that aren't. Returns those that it takes the place of: a route that was led
    /// through a mixer gives its mix instead of each peer's stream, or the other way round.
    fn note(&mut self, stream: &Stream, now: Instant) -> Vec<Stream> {
        let on = |(known, seen): &(Stream, Instant)| {
            known == stream || now.saturating_duration_since(*seen) < AUDIO_ON
        };
        self.streams.retain(on);
        let mut over = Vec::new();
        if let Some((_, seen)) = self.streams.iter_mut().find(|(known, _)| known == stream) {
            *seen = now;
        } else if self.streams.len() < MAX_STREAMS {
            let (replaced, kept) = self.streams.drain(..).partition(|(known, _)| stream.replaces(known));
            self.streams = kept;
            self.streams.push((stream.clone(), now));
            over = Vec::into_iter(replaced).map(|(stream, _)| stream).collect();
        }
        over
    }
}

/// Mixes what comes, on a clock of its own, and sends it to one receiver.
fn desk(shared: &Arc<Shared>, peer: Arc<Peer>, source: u64) -> Mailbox<DeskJob> {
    let weak: Weak<Shared> = Arc::downgrade(shared);
    let config = MixerConfig { channels: shared.config.audio.channels, ..MixerConfig::default() };
    let mut mixer = Mixer::new(config).ok();
    let mut lane: Option<Lane> = None;
    shared.audio_pool.timed("mix for one", MAX_WAITING, Policy::DropOldest, move |job: Option<DeskJob>| {
        let (shared, mixer) = (weak.upgrade()?, mixer.as_mut()?);
        let now = Instant::now();
        match job {
            // A frame that is none is refused as it is by an encoder: it isn't heard.
            Some(DeskJob::Frame(stream, frame)) => drop(mixer.push(&stream, &frame, now)),
            Some(DeskJob::End(stream)) => mixer.remove(&stream),
            None => {}
        }
        while let Some(mixed) = mixer.tick(now) {
            if lane.is_none() {
                lane = Lane::new(&shared.config.audio, &shared.counters.audio_encoders).ok();
            }
            let lane = lane.as_mut()?;
            lane.suit(std::slice::from_ref(&peer)).ok()?;
            spoken(&mixed.common, std::slice::from_ref(&peer));
            lane.push(&mixed.common).ok()?;
            while let Ok(Some((packet, timestamp_us))) = lane.packet() {
                if let (Some(packet), true) = (packet, peer.audio()) {
                    let targets = vec![peer.clone()];
                    shared.commands.push(Command::Audio { source, targets, packet, timestamp_us });
                }
            }
        }
        mixer.poll_timeout()
    })
}
