//! What is sent: each source of audio or video is encoded once a codec, whoever gets it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFrame, VideoFrame};
use remotemedia_pipeline::{Mailbox, Policy};

use crate::audio_out::AudioOut;
use crate::event::Event;
use crate::lines::Lines;
use crate::mix_out::{MixJob, MixOut};
use crate::peer::Peer;
use crate::shared::{Every, Shared};
use crate::stats::spoken;
use crate::video_out::VideoOut;
use crate::{PeerId, TransportError};

/// Sources kept at once; the one that was quiet longest gives way.
const MAX_SOURCES: usize = 256;
/// Audio frames that may wait for the encoder of one source, and of one mixer for all its listeners.
const MAX_WAITING_AUDIO: usize = 25;
const MAX_WAITING_MIX: usize = 1024;
/// How often it is told that pictures are left out.
const COMPLAINT: Duration = Duration::from_secs(10);

/// Where outgoing media comes from. Frames of one source belong together: they share an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SourceKey {
    /// `send_to_peer`.
    Unicast(PeerId),
    /// `broadcast`, to all but these.
    Broadcast(Vec<PeerId>),
    /// A route, for what this peer sends.
    Route(u64, PeerId),
    /// A route, for what is made of several peers' media.
    Mix(u64),
    /// The same, for one listener with something of its own.
    Own(u64, PeerId),
}

/// What a receiver sees as one: a listener's own mix and everybody's are the same stream.
pub(crate) type Stream = SourceKey;

/// One encoding of a stream.
pub(crate) struct VideoSource {
    pub(crate) id: u64,
    /// The stream: all its encodings have the same clock.
    pub(crate) stream: u64,
    keyframe_wanted: AtomicBool,
}

pub(crate) struct VideoJob {
    pub(crate) frame: VideoFrame,
    pub(crate) targets: Vec<Arc<Peer>>,
}

pub(crate) struct AudioJob {
    pub(crate) frame: AudioFrame,
    /// Which of the places it could come from: a change of it is no reason for a click.
    pub(crate) origin: String,
    pub(crate) targets: Vec<Arc<Peer>>,
}

#[derive(Default)]
pub(crate) struct Outputs {
    next_id: AtomicU64,
    clock: AtomicU64,
    video: Mutex<HashMap<SourceKey, (Mailbox<VideoJob>, u64)>>,
    audio: Mutex<HashMap<SourceKey, (Mailbox<AudioJob>, u64)>>,
    /// Of mixers, by route.
    mixes: Mutex<HashMap<u64, Mailbox<MixJob>>>,
    lines: Lines,
    complaint: Mutex<Option<Every>>,
}

impl SourceKey {
    pub(crate) fn broadcast(exclude: &[PeerId]) -> SourceKey {
        let mut exclude = exclude.to_vec();
        exclude.sort();
        exclude.dedup();
        SourceKey::Broadcast(exclude)
    }

    fn stream(&self) -> Stream {
        match self {
            SourceKey::Own(route, _) => SourceKey::Mix(*route),
            other => other.clone(),
        }
    }

    /// Whether a route gives this instead of that: what is made of several peers' media, or each peer's.
    pub(crate) fn replaces(&self, other: &SourceKey) -> bool {
        match (self, other) {
            (SourceKey::Mix(own), SourceKey::Route(other, _))
            | (SourceKey::Route(own, _), SourceKey::Mix(other)) => own == other,
            _ => false,
        }
    }

    fn is_of_route(&self, route: u64) -> bool {
        match self {
            SourceKey::Route(own, _) | SourceKey::Mix(own) | SourceKey::Own(own, _) => *own == route,
            SourceKey::Unicast(_) | SourceKey::Broadcast(_) => false,
        }
    }

    fn is_of_peer(&self, peer: &PeerId) -> bool {
        match self {
            SourceKey::Unicast(own) | SourceKey::Route(_, own) | SourceKey::Own(_, own) => own == peer,
            SourceKey::Mix(_) | SourceKey::Broadcast(_) => false,
        }
    }
}

impl VideoSource {
    pub(crate) fn new(id: u64, stream: u64) -> VideoSource {
        VideoSource { id, stream, keyframe_wanted: AtomicBool::new(false) }
    }

    /// The next picture must be decodable by itself.
    pub(crate) fn want_keyframe(&self) {
        self.keyframe_wanted.store(true, Ordering::Release);
    }

    pub(crate) fn wants_keyframe(&self) -> bool {
        self.keyframe_wanted.load(Ordering::Acquire)
    }

    pub(crate) fn keyframe_made(&self) {
        self.keyframe_wanted.store(false, Ordering::Release);
    }
}

impl Outputs {
    /// Encodes a picture for these peers. A picture that still waits is replaced.
    pub(crate) fn send_video(
        &self,
        shared: &Arc<Shared>,
        key: SourceKey,
        frame: VideoFrame,
        mut targets: Vec<Arc<Peer>>,
    ) {
        let taken = self.lines.video(&key.stream(), &mut targets);
        if taken > 0 {
            self.complain(shared, taken);
        }
        if targets.is_empty() {
            return;
        }
        let now = Instant::now();
        for peer in &targets {
            crate::lock(&peer.video_source).picture(now, frame.width(), frame.height());
        }
        let mailbox = self.source(&self.video, key, || {
            let mut out = VideoOut::new(Arc::downgrade(shared), self.id());
            shared.video_pool.bounded("encode video", 1, Policy::Latest, move |job| out.encode(job))
        });
        let _ = mailbox.push(VideoJob { frame, targets });
    }

    /// Encodes samples for these peers. When too many wait, the oldest go.
    pub(crate) fn send_audio(
        &self,
        shared: &Arc<Shared>,
        key: SourceKey,
        origin: &str,
        frame: AudioFrame,
        targets: Vec<Arc<Peer>>,
    ) {
        let targets = self.lines.audio(shared, &key.stream(), &frame, targets, || self.id());
        if targets.is_empty() {
            return;
        }
        spoken(&frame, &targets);
        let mailbox = self.source(&self.audio, key, || {
            let weak: Weak<Shared> = Arc::downgrade(shared);
            let mut out = AudioOut::new(weak, self.id());
            shared
                .audio_pool
                .bounded("encode audio", MAX_WAITING_AUDIO, Policy::DropOldest, move |job| out.encode(job))
        });
        let _ = mailbox.push(AudioJob { frame, origin: origin.to_owned(), targets });
    }

    /// Encodes what a mixer gives out for a route: each listener's own mix and, last in a tick, that of all the others.
    pub(crate) fn send_mix(&self, shared: &Arc<Shared>, route: u64, job: MixJob) {
        let stream = SourceKey::Mix(route);
        let direct =
            |frame: &AudioFrame, targets| self.lines.audio(shared, &stream, frame, targets, || self.id());
        let job = match job {
            MixJob::Own { listener, frame, targets } => {
                let targets = direct(&frame, targets);
                if targets.is_empty() {
                    return;
                }
                spoken(&frame, &targets);
                MixJob::Own { listener, frame, targets }
            }
            MixJob::Common { frame, targets } => {
                let targets = direct(&frame, targets);
                spoken(&frame, &targets);
                MixJob::Common { frame, targets }
            }
        };
        let mut mixes = crate::lock(&self.mixes);
        let mailbox = mixes.entry(route).or_insert_with(|| {
            let mut out = MixOut::new(Arc::downgrade(shared), self.id());
            let handler = move |job| out.run(job);
            shared.audio_pool.bounded("encode a mix", MAX_WAITING_MIX, Policy::DropOldest, handler)
        });
        let _ = mailbox.push(job);
    }

    /// Pictures were left out because their receivers see others.
    fn complain(&self, shared: &Shared, count: usize) {
        shared.counters.pictures_in_conflict.fetch_add(count as u64, Ordering::Relaxed);
        let mut complaint = crate::lock(&self.complaint);
        if complaint.get_or_insert_with(|| Every::new(COMPLAINT)).allows(Instant::now()) {
            let message = "two streams of pictures for one receiver, which has one track: it is shown the one that came first. \
                A Compositor makes one of many"
                .to_owned();
            shared.events.push(Event::Error { peer: None, error: TransportError::Codec { message } });
        }
    }

    /// Forgets the encoders that only served this peer, or that processed what it sent.
    pub(crate) fn remove_peer(&self, peer: &PeerId) {
        crate::lock(&self.video).retain(|key, _| !key.is_of_peer(peer));
        crate::lock(&self.audio).retain(|key, _| !key.is_of_peer(peer));
        self.lines.end(|stream| stream.is_of_peer(peer));
        self.lines.remove_peer(peer);
    }

    pub(crate) fn remove_route(&self, route: u64) {
        crate::lock(&self.video).retain(|key, _| !key.is_of_route(route));
        crate::lock(&self.audio).retain(|key, _| !key.is_of_route(route));
        crate::lock(&self.mixes).remove(&route);
        self.lines.end(|stream| stream.is_of_route(route));
    }

    pub(crate) fn clear(&self) {
        crate::lock(&self.video).clear();
        crate::lock(&self.audio).clear();
        crate::lock(&self.mixes).clear();
        self.lines.clear();
    }

    pub(crate) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn source<J: Send + 'static>(
        &self,
        map: &Mutex<HashMap<SourceKey, (Mailbox<J>, u64)>>,
        key: SourceKey,
        make: impl FnOnce() -> Mailbox<J>,
    ) -> Mailbox<J> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut map = crate::lock(map);
        if let Some((mailbox, used)) = map.get_mut(&key) {
            *used = now;
            return mailbox.clone();
        }
        if map.len() >= MAX_SOURCES {
            let quietest = map.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            if let Some(quietest) = quietest {
                map.remove(&quietest);
            }
        }
        let mailbox = make();
        map.insert(key, (mailbox.clone(), now));
        mailbox
    }
}
