//! What the transport tells its owner: one bounded queue and one coalesced wake-up.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use remotemedia_media::{AudioFrame, VideoFrame};

use crate::{
    Message, PeerAnnouncement, PeerId, PeerStats, PeerStatus, QualityReport, Reason, SessionId, Signal,
    TransportError,
};

/// Received messages that wait for the owner, in bytes a peer, before that peer is made to wait. It goes on at half of it.
pub const MAX_WAITING_MESSAGE_BYTES: usize = 4 << 20;
/// Received audio that waits for the owner, a peer: older samples are dropped beyond it.
pub const MAX_WAITING_AUDIO_US: i64 = 100_000;
const MAX_WAITING_EVENTS: usize = 65_536;

/// One thing that happened, in the order it did (audio and video frames are ordered among their own kind).
#[derive(Debug)]
pub enum Event {
    /// Send this to `peer` through signaling.
    Signal {
        /// Whom it is for.
        peer: PeerId,
        /// What to send.
        signal: Signal,
    },
    /// The answer to a `connect_peer`.
    Connected {
        /// The number `connect_peer` was called with.
        request: u32,
        /// The peer asked for.
        peer: PeerId,
        /// Its channel is open, or why not.
        result: Result<(), TransportError>,
    },
    /// A peer announced itself in the room.
    PeerJoined(PeerAnnouncement),
    /// A peer left the room.
    PeerLeft {
        /// Who.
        peer: PeerId,
        /// Why, as far as is known.
        reason: Reason,
    },
    /// The connection to a peer changed.
    PeerState {
        /// Who.
        peer: PeerId,
        /// Its state now, and why.
        status: PeerStatus,
    },
    /// The connection to a peer goes another way now, in the same state.
    PeerPath {
        /// Who.
        peer: PeerId,
        /// With the new path.
        status: PeerStatus,
    },
    /// The connection to a peer is better or worse than before.
    Quality {
        /// Who.
        peer: PeerId,
        /// The verdict.
        report: QualityReport,
    },
    /// A data channel message arrived.
    Message {
        /// Who sent it.
        peer: PeerId,
        /// The channel: 0 is the built-in one.
        channel: u32,
        /// What it is.
        message: Message,
    },
    /// What waits to be sent to `peer` on `channel` has fallen below the low-water mark.
    Drained {
        /// Whom it waits for.
        peer: PeerId,
        /// The channel: 0 is the built-in one.
        channel: u32,
    },
    /// A reliable channel ended before all its messages were acknowledged, and how they fared: together they are all that was
    /// accepted for it. Not told when the transport itself is closed.
    Undelivered {
        /// Whom they were for.
        peer: PeerId,
        /// The channel: 0 is the built-in one.
        channel: u32,
        /// How many the peer's side is known to have.
        acknowledged: u64,
        /// Those that were sent and may have arrived, in the order of their sending.
        unknown: Vec<Message>,
        /// Those that were not sent, which follow on the ones above.
        unsent: Vec<Message>,
    },
    /// A channel opened with `open_channel`, or by the peer, is ready.
    ChannelOpen {
        /// At the other end.
        peer: PeerId,
        /// Its number in this transport, never 0.
        channel: u32,
        /// Its label.
        label: String,
        /// Messages arrive in order.
        ordered: bool,
        /// Messages are sent again until they arrive.
        reliable: bool,
    },
    /// A channel is closed; nothing more comes from it.
    ChannelClosed {
        /// At the other end.
        peer: PeerId,
        /// Its number.
        channel: u32,
    },
    /// Decoded audio. Comes only while audio is subscribed to.
    Audio {
        /// Who sent it.
        peer: PeerId,
        /// The samples.
        frame: AudioFrame,
    },
    /// A decoded picture. Comes only while video is subscribed to.
    Video {
        /// Who sent it.
        peer: PeerId,
        /// The picture.
        frame: VideoFrame,
    },
    /// What `finish_session` began is done.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// The answer to a `request_stats`.
    Stats {
        /// The number it was called with.
        request: u32,
        /// One entry a peer there is a link with.
        peers: Vec<PeerStats>,
    },
    /// The transport is to be given TURN servers: at the start if [`crate::Config::asks_turn_servers`] says so, then whenever
    /// a server refuses the credentials. [`crate::Transport::set_turn_servers`] is the answer.
    TurnServersNeeded,
    /// This host has other addresses than before, or a peer's or our NAT has another mapping: connections over other sockets, such as the owner's signaling, may be dead.
    AddressesChanged,
    /// Something failed that no call waits for.
    Error {
        /// The peer concerned, if one is.
        peer: Option<PeerId>,
        /// What failed.
        error: TransportError,
    },
}

/// What was dropped or is waiting on the way to the owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Pictures replaced by a newer one before the owner took them.
    pub video_dropped: u64,
    /// Audio frames dropped because the owner was late.
    pub audio_dropped: u64,
    /// Events dropped because too many waited.
    pub events_dropped: u64,
    /// Message bytes waiting now.
    pub message_bytes: usize,
}

pub(crate) struct EventQueue {
    inner: Mutex<Waiting>,
    /// `None` once the owner has closed the transport: it may keep things alive that should go.
    wake: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    woken: AtomicBool,
    video_dropped: AtomicU64,
    audio_dropped: AtomicU64,
    events_dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    audio: HashMap<PeerId, VecDeque<AudioFrame>>,
    video: HashMap<PeerId, VideoFrame>,
    /// Of `events`, how many are messages: those are bounded by their bytes.
    message_count: usize,
    /// Bytes of each peer's messages, and whether it is made to wait for them to be taken.
    messages: HashMap<PeerId, (usize, bool)>,
}

impl EventQueue {
    pub(crate) fn new(wake: Box<dyn Fn() + Send + Sync>) -> EventQueue {
        EventQueue {
            inner: Mutex::default(),
            wake: Mutex::new(Some(wake)),
            woken: AtomicBool::new(false),
            video_dropped: AtomicU64::new(0),
            audio_dropped: AtomicU64::new(0),
            events_dropped: AtomicU64::new(0),
        }
    }

    /// As [`EventQueue::push`], for a message. True: its peer is to wait, until [`EventQueue::drain`] says otherwise.
    pub(crate) fn push_message(&self, peer: PeerId, channel: u32, message: Message) -> bool {
        let full = {
            let mut waiting = crate::lock(&self.inner);
            let (bytes, held) = waiting.messages.entry(peer.clone()).or_default();
            *bytes += message.cost();
            let full = *bytes > MAX_WAITING_MESSAGE_BYTES && !*held;
            *held |= full;
            waiting.events.push_back(Event::Message { peer, channel, message });
            waiting.message_count += 1;
            full
        };
        self.wake_owner();
        full
    }

    pub(crate) fn push(&self, event: Event) {
        {
            let mut waiting = crate::lock(&self.inner);
            match event {
                Event::Video { peer, frame } => {
                    if waiting.video.insert(peer, frame).is_some() {
                        self.video_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Event::Audio { peer, frame } => {
                    let queue = waiting.audio.entry(peer).or_default();
                    queue.push_back(frame);
                    while queue.iter().map(AudioFrame::duration_us).sum::<i64>() > MAX_WAITING_AUDIO_US
                        && queue.len() > 1
                    {
                        queue.pop_front();
                        self.audio_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                event => {
                    if waiting.events.len() - waiting.message_count >= MAX_WAITING_EVENTS {
                        self.events_dropped.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    waiting.events.push_back(event);
                }
            }
        }
        self.wake_owner();
    }

    fn wake_owner(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(wake) = &*crate::lock(&self.wake)
        {
            wake();
        }
    }

    /// Takes what waits, at most `max` events beside the frames. Says whether more is left, and tells `release` of peers that need
    /// not wait any more.
    pub(crate) fn drain(&self, max: usize, out: &mut Vec<Event>, mut release: impl FnMut(PeerId)) -> bool {
        // Cleared before looking, so that a push from here on wakes again.
        self.woken.store(false, Ordering::Release);
        let mut guard = crate::lock(&self.inner);
        let waiting = &mut *guard;
        let take = waiting.events.len().min(max);
        for event in waiting.events.drain(..take) {
            waiting.message_count -= usize::from(matches!(event, Event::Message { .. }));
            if let Event::Message { peer, message, .. } = &event
                && let Some((bytes, held)) = waiting.messages.get_mut(peer)
            {
                *bytes -= message.cost();
                if *held && *bytes <= MAX_WAITING_MESSAGE_BYTES / 2 {
                    *held = false;
                    release(peer.clone());
                }
                if *bytes == 0 {
                    waiting.messages.remove(peer);
                }
            }
            out.push(event);
        }
        for (peer, frames) in waiting.audio.drain() {
            out.extend(frames.into_iter().map(|frame| Event::Audio { peer: peer.clone(), frame }));
        }
        out.extend(waiting.video.drain().map(|(peer, frame)| Event::Video { peer, frame }));
        !waiting.events.is_empty()
    }

    /// Nobody is woken any more.
    pub(crate) fn close(&self) {
        crate::lock(&self.wake).take();
    }

    pub(crate) fn counters(&self) -> EventCounters {
        EventCounters {
            video_dropped: self.video_dropped.load(Ordering::Relaxed),
            audio_dropped: self.audio_dropped.load(Ordering::Relaxed),
            events_dropped: self.events_dropped.load(Ordering::Relaxed),
            message_bytes: crate::lock(&self.inner).messages.values().map(|(bytes, _)| bytes).sum(),
        }
    }
}

impl Message {
    /// What a waiting message counts against the bound: its bytes and a little for itself.
    pub(crate) fn cost(&self) -> usize {
        const OWN: usize = 128;
        let bytes: &Bytes = match self {
            Message::Text(b) | Message::Json(b) | Message::Binary(b) => b,
        };
        bytes.len() + OWN
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn one_wake_for_many_events_and_frames_are_bounded() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let queue = EventQueue::new(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let peer: PeerId = "a".into();
        let pool = remotemedia_media::FramePool::default();
        for i in 0..50 {
            let samples = Arc::new(vec![0.0; 960]);
            let frame = AudioFrame { samples, sample_rate: 48_000, channels: 1, timestamp_us: i * 20_000 };
            queue.push(Event::Audio { peer: peer.clone(), frame });
            queue.push(Event::Video { peer: peer.clone(), frame: pool.get(16, 16).unwrap().freeze(i) });
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let mut out = Vec::new();
        assert!(!queue.drain(10, &mut out, |_| {}));
        let audio = out.iter().filter(|e| matches!(e, Event::Audio { .. })).count();
        assert_eq!(audio, 5, "100 ms of 20 ms frames");
        let video: Vec<_> = out
            .iter()
            .filter_map(
                |e| if let Event::Video { frame, .. } = e { Some(frame.timestamp_us()) } else { None },
            )
            .collect();
        assert_eq!(video, [49]);
        assert_eq!(queue.counters().audio_dropped, 45);
        assert_eq!(queue.counters().video_dropped, 49);
    }

    #[test]
    fn a_peer_waits_while_its_own_messages_are_not_taken() {
        let queue = EventQueue::new(Box::new(|| {}));
        let body = Bytes::from(vec![0; 1 << 20]);
        let push = |peer: &str| queue.push_message(peer.into(), 0, Message::Binary(body.clone()));
        assert_eq!([(); 5].map(|()| push("a")), [false, false, false, true, false], "told once");
        assert!(!push("b"), "another peer is not held for it");
        let mut released = Vec::new();
        let mut out = Vec::new();
        assert!(queue.drain(2, &mut out, |peer| released.push(peer)));
        assert!(released.is_empty());
        assert!(queue.drain(2, &mut out, |peer| released.push(peer)));
        assert_eq!(released, [PeerId::from("a")], "at half of it");
        assert!(!queue.drain(9, &mut out, |peer| released.push(peer)));
        assert_eq!((released.len(), out.len(), queue.counters().message_bytes), (1, 6, 0));
    }
}
