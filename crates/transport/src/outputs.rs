//! What is sent: each source of audio or video is encoded once a codec, whoever gets it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use remotemedia_media::{AudioFrame, VideoFrame};
use remotemedia_pipeline::{Mailbox, Policy};

use crate::PeerId;
use crate::audio_out::AudioOut;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::video_out::VideoOut;

/// Sources kept at once; the one that was quiet longest gives way.
const MAX_SOURCES: usize = 256;
/// Audio frames that may wait for the encoder of one source.
const MAX_WAITING_AUDIO: usize = 25;

/// Where outgoing media comes from. Frames of one source belong together: they share an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum SourceKey {
    /// `send_to_peer`.
    Unicast(PeerId),
    /// `broadcast`, to all but these.
    Broadcast(Vec<PeerId>),
    /// A route, for what this peer sends.
    Route(u64, PeerId),
}

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
    pub(crate) targets: Vec<Arc<Peer>>,
}

#[derive(Default)]
pub(crate) struct Outputs {
    next_id: AtomicU64,
    clock: AtomicU64,
    video: Mutex<HashMap<SourceKey, (Mailbox<VideoJob>, u64)>>,
    audio: Mutex<HashMap<SourceKey, (Mailbox<AudioJob>, u64)>>,
}

impl SourceKey {
    pub(crate) fn broadcast(exclude: &[PeerId]) -> SourceKey {
        let mut exclude = exclude.to_vec();
        exclude.sort();
        exclude.dedup();
        SourceKey::Broadcast(exclude)
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
        targets: Vec<Arc<Peer>>,
    ) {
        if targets.is_empty() {
            return;
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
        frame: AudioFrame,
        targets: Vec<Arc<Peer>>,
    ) {
        if targets.is_empty() {
            return;
        }
        let mailbox = self.source(&self.audio, key, || {
            let weak: Weak<Shared> = Arc::downgrade(shared);
            let mut out = AudioOut::new(weak, self.id());
            shared
                .audio_pool
                .bounded("encode audio", MAX_WAITING_AUDIO, Policy::DropOldest, move |job| out.encode(job))
        });
        let _ = mailbox.push(AudioJob { frame, targets });
    }

    /// Forgets the encoders that only served this peer, or that processed what it sent.
    pub(crate) fn remove_peer(&self, peer: &PeerId) {
        let concerns = |key: &SourceKey| match key {
            SourceKey::Unicast(p) | SourceKey::Route(_, p) => p == peer,
            SourceKey::Broadcast(_) => false,
        };
        crate::lock(&self.video).retain(|key, _| !concerns(key));
        crate::lock(&self.audio).retain(|key, _| !concerns(key));
    }

    pub(crate) fn remove_route(&self, route: u64) {
        let concerns = |key: &SourceKey| matches!(key, SourceKey::Route(r, _) if *r == route);
        crate::lock(&self.video).retain(|key, _| !concerns(key));
        crate::lock(&self.audio).retain(|key, _| !concerns(key));
    }

    pub(crate) fn clear(&self) {
        crate::lock(&self.video).clear();
        crate::lock(&self.audio).clear();
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
