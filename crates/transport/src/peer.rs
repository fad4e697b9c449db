//! What other threads know of a peer, and what they have given the net thread to send to it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use remotemedia_link::{CandidateKind, PeerAudio, RelayProtocol, SelectedPair};
use remotemedia_media::VideoCodec;

use crate::ledger::Ledger;
use crate::stats::SourceCounters;
use crate::{Message, PeerId, PeerState, QualityReport, Reason, TransportError};

/// A send is done at once while less than this waits for the peer, in bytes; above it, [`crate::Event::Drained`] tells when.
pub const HIGH_WATER_BYTES: usize = 1 << 20;
/// [`crate::Event::Drained`] comes when no more than this is left, in bytes.
pub const LOW_WATER_BYTES: usize = 256 << 10;
/// Nothing is taken for a channel that has this much waiting, in bytes.
pub const MAX_WAITING_BYTES: usize = 64 << 20;

/// Shared by the net thread (which writes it), workers and the owner (who read it).
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    status: Mutex<PeerStatus>,
    video_codec: AtomicU8,
    audio: AtomicBool,
    /// How it wants its sound.
    wanted_audio: Mutex<PeerAudio>,
    max_message_size: AtomicUsize,
    /// What the path carries of video, in bit/s; 0: not known.
    video_bps: AtomicU32,
    /// Who wants its messages to wait: a set of [`Hold`].
    held: AtomicU8,
    audio_loss: AtomicU8,
    /// What we were given to send to it.
    pub(crate) audio_source: Mutex<SourceCounters>,
    pub(crate) video_source: Mutex<SourceCounters>,
    quality: Mutex<Option<QualityReport>>,
    channels: Mutex<HashMap<u32, Outbox>>,
}

/// Why a peer is made to wait with its messages.
#[derive(Clone, Copy)]
pub(crate) enum Hold {
    /// Too many are on their way to the owner.
    Events = 1,
    /// The owner says so.
    Owner = 2,
}

/// Where the connection to a peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// State of the connection.
    pub state: PeerState,
    /// Why it is in that state.
    pub reason: Reason,
    /// The way to the peer; while it is `disconnected`, the last one.
    pub path: Option<PeerPath>,
    /// Round trip on that path as of a second ago at most, once it was measured.
    pub round_trip: Option<Duration>,
}

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPath {
    /// What our end is.
    pub local: CandidateKind,
    /// What the peer's end is.
    pub remote: CandidateKind,
    /// How our TURN server is reached, where our end is a relay.
    pub relay_protocol: Option<RelayProtocol>,
    /// IPv6, between the two ends.
    pub ipv6: bool,
}

/// Messages of one channel, waiting for room in the engine.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) queue: VecDeque<Message>,
    /// In the queue, and in the engine until acknowledged.
    queued_bytes: usize,
    engine_bytes: usize,
    /// Somebody was told to wait for `Drained`.
    waited_for: bool,
    closed: bool,
    /// `None` where nobody promises that messages arrive.
    ledger: Option<Ledger>,
}

/// What became of the messages of a reliable channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// How many arrived.
    pub(crate) acknowledged: u64,
    /// Those that may have.
    pub(crate) unknown: Vec<Message>,
    /// Those that never left.
    pub(crate) unsent: Vec<Message>,
}

/// What the link said to a message.
pub(crate) enum Handed {
    /// It has it.
    Taken,
    /// It has no room now.
    Later,
    /// It will never take it.
    Refused,
}

/// All peers there is or was a link with.
#[derive(Default)]
pub(crate) struct Peers {
    map: RwLock<HashMap<PeerId, Arc<Peer>>>,
}

impl Peer {
    pub(crate) fn new(id: PeerId) -> Peer {
        Peer {
            id,
            status: Mutex::new(PeerStatus {
                state: PeerState::New,
                reason: Reason::Announced,
                path: None,
                round_trip: None,
            }),
            video_codec: AtomicU8::new(0),
            audio: AtomicBool::new(false),
            wanted_audio: Mutex::default(),
            max_message_size: AtomicUsize::new(0),
            video_bps: AtomicU32::new(0),
            held: AtomicU8::new(0),
            audio_loss: AtomicU8::new(0),
            audio_source: Mutex::default(),
            video_source: Mutex::default(),
            quality: Mutex::new(None),
            channels: Mutex::default(),
        }
    }

    /// The last verdict on the connection; `None` while there is none.
    pub(crate) fn quality(&self) -> Option<QualityReport> {
        *crate::lock(&self.quality)
    }

    pub(crate) fn set_quality(&self, report: Option<QualityReport>) {
        *crate::lock(&self.quality) = report;
    }

    pub(crate) fn hold(&self, why: Hold, hold: bool) {
        if hold {
            self.held.fetch_or(why as u8, Ordering::AcqRel);
        } else {
            self.held.fetch_and(!(why as u8), Ordering::AcqRel);
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) != 0
    }

    pub(crate) fn state(&self) -> PeerState {
        crate::lock(&self.status).state
    }

    pub(crate) fn status(&self) -> PeerStatus {
        crate::lock(&self.status).clone()
    }

    /// Takes over a change of state, and returns all there is to tell about it.
    pub(crate) fn set_state(&self, state: PeerState, reason: Reason) -> PeerStatus {
        let mut status = crate::lock(&self.status);
        (status.state, status.reason) = (state, reason);
        if !matches!(state, PeerState::Connected | PeerState::Disconnected) {
            (status.path, status.round_trip) = (None, None);
        }
        status.clone()
    }

    /// Takes over which way the link goes. Returns the status if that is another way than before.
    pub(crate) fn set_path(&self, path: PeerPath, round_trip: Option<Duration>) -> Option<PeerStatus> {
        let mut status = crate::lock(&self.status);
        status.round_trip = round_trip;
        let before = status.path.replace(path);
        before.filter(|before| *before != path).map(|_| status.clone())
    }

    /// The codec this peer is sent, once negotiated.
    pub(crate) fn video_codec(&self) -> Option<VideoCodec> {
        match self.video_codec.load(Ordering::Acquire) {
            1 => Some(VideoCodec::Vp9),
            2 => Some(VideoCodec::Vp8),
            3 => Some(VideoCodec::H264),
            _ => None,
        }
    }

    /// What the path to this peer carries of video, in bit/s, once it is known.
    pub(crate) fn video_bps(&self) -> Option<u32> {
        Some(self.video_bps.load(Ordering::Relaxed)).filter(|bps| *bps > 0)
    }

    /// Percent of our sound that it lately did not get.
    pub(crate) fn audio_loss(&self) -> u8 {
        self.audio_loss.load(Ordering::Relaxed)
    }

    pub(crate) fn set_audio_loss(&self, percent: u8) {
        self.audio_loss.store(percent, Ordering::Relaxed);
    }

    pub(crate) fn set_video_bps(&self, bps: Option<u32>) {
        self.video_bps.store(bps.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn audio(&self) -> bool {
        self.audio.load(Ordering::Acquire)
    }

    pub(crate) fn wanted_audio(&self) -> PeerAudio {
        crate::lock(&self.wanted_audio).clone()
    }

    pub(crate) fn set_wanted_audio(&self, wanted: &PeerAudio) {
        crate::lock(&self.wanted_audio).clone_from(wanted);
    }

    pub(crate) fn set_negotiated(&self, audio: bool, video: Option<VideoCodec>, max_message_size: usize) {
        let code = match video {
            None => 0,
            Some(VideoCodec::Vp9) => 1,
            Some(VideoCodec::Vp8) => 2,
            Some(VideoCodec::H264) => 3,
            // It is received only.
            Some(VideoCodec::Av1) => 0,
        };
        self.video_codec.store(code, Ordering::Release);
        self.audio.store(audio, Ordering::Release);
        self.max_message_size.store(max_message_size, Ordering::Release);
    }

    /// Takes a message for `channel`. True: room for more; false: wait for `Drained`.
    pub(crate) fn enqueue(&self, channel: u32, message: Message) -> Result<bool, TransportError> {
        let limit = self.max_message_size.load(Ordering::Acquire);
        if message.wire_len() > limit {
            return Err(TransportError::MessageTooLarge {
                peer: self.id.clone(),
                size: message.wire_len(),
                limit,
            });
        }
        let mut channels = crate::lock(&self.channels);
        let Some(outbox) = channels.get_mut(&channel).filter(|o| !o.closed) else {
            return Err(TransportError::NotConnected { peer: self.id.clone() });
        };
        if outbox.buffered() + message.wire_len() > MAX_WAITING_BYTES {
            return Err(TransportError::SendQueueFull { peer: self.id.clone(), limit: MAX_WAITING_BYTES });
        }
        outbox.queued_bytes += message.wire_len();
        outbox.queue.push_back(message);
        let room = outbox.buffered() < HIGH_WATER_BYTES;
        outbox.waited_for |= !room;
        Ok(room)
    }

    /// Bytes accepted for `channel` that the peer has not acknowledged.
    pub(crate) fn buffered_amount(&self, channel: u32) -> usize {
        crate::lock(&self.channels).get(&channel).map_or(0, Outbox::buffered)
    }

    /// `overhead`: the bytes that opened the channel, if it is a reliable one.
    pub(crate) fn open_channel(&self, channel: u32, overhead: Option<usize>) {
        let ledger = overhead.map(|bytes| Ledger::new(bytes as u64));
        crate::lock(&self.channels).insert(channel, Outbox { ledger, ..Outbox::default() });
    }

    /// Takes nothing more for the channel. Returns what became of its messages, if it was a reliable one and that is in doubt.
    /// It was last heard at `heard`.
    pub(crate) fn close_channel(&self, channel: u32, heard: Instant) -> Option<Remains> {
        let outbox = crate::lock(&self.channels).remove(&channel)?;
        let (acknowledged, unknown) = outbox.ledger?.end(heard);
        let unsent: Vec<Message> = outbox.queue.into();
        let doubt = !unknown.is_empty() || !unsent.is_empty();
        doubt.then_some(Remains { acknowledged, unknown, unsent })
    }

    /// The numbers of the open channels.
    pub(crate) fn channels(&self) -> Vec<u32> {
        crate::lock(&self.channels).keys().copied().collect()
    }

    /// What the engine has not had acknowledged, when the peer was last heard.
    pub(crate) fn observe(&self, channel: u32, heard: Instant, engine_bytes: usize) {
        if let Some(ledger) = crate::lock(&self.channels).get_mut(&channel).and_then(|o| o.ledger.as_mut()) {
            ledger.observe(heard, engine_bytes);
        }
    }

    /// Moves messages into the engine while `window` allows. Returns true when a waiting sender can go on.
    pub(crate) fn pump(
        &self,
        channel: u32,
        window: usize,
        engine_bytes: usize,
        mut send: impl FnMut(&Message) -> Handed,
    ) -> bool {
        let mut channels = crate::lock(&self.channels);
        let Some(outbox) = channels.get_mut(&channel) else { return false };
        outbox.engine_bytes = engine_bytes;
        while outbox.engine_bytes < window {
            let Some(message) = outbox.queue.pop_front() else { break };
            match send(&message) {
                Handed::Later => {
                    outbox.queue.push_front(message);
                    break;
                }
                Handed::Refused => outbox.queued_bytes -= message.wire_len(),
                Handed::Taken => {
                    outbox.queued_bytes -= message.wire_len();
                    outbox.engine_bytes += message.wire_len();
                    if let Some(ledger) = &mut outbox.ledger {
                        ledger.hand_over(message);
                    }
                }
            }
        }
        let drained = outbox.waited_for && outbox.buffered() <= LOW_WATER_BYTES;
        if drained {
            outbox.waited_for = false;
        }
        drained
    }
}

impl From<SelectedPair> for PeerPath {
    fn from(pair: SelectedPair) -> PeerPath {
        PeerPath {
            local: pair.local_kind,
            remote: pair.remote_kind,
            relay_protocol: pair.relay_protocol,
            ipv6: pair.local.is_ipv6(),
        }
    }
}

impl Outbox {
    fn buffered(&self) -> usize {
        self.queued_bytes + self.engine_bytes
    }
}

impl Peers {
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Peer>> {
        crate::read(&self.map).get(id).cloned()
    }

    pub(crate) fn get_or_insert(&self, id: &PeerId) -> Arc<Peer> {
        crate::write(&self.map).entry(id.clone()).or_insert_with(|| Arc::new(Peer::new(id.clone()))).clone()
    }

    pub(crate) fn remove(&self, id: &str) {
        crate::write(&self.map).remove(id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        crate::read(&self.map).values().cloned().collect()
    }

    pub(crate) fn connected(&self) -> Vec<Arc<Peer>> {
        crate::read(&self.map).values().filter(|p| p.state() == PeerState::Connected).cloned().collect()
    }
}

impl Message {
    /// Bytes of it on the wire.
    pub fn wire_len(&self) -> usize {
        match self {
            Message::Text(b) | Message::Binary(b) => b.len(),
            Message::Json(b) => b.len() + 1,
        }
    }

    /// What a received frame means: a string that begins with U+001E (RFC 7464) is JSON.
    pub fn from_wire(is_text: bool, mut data: Bytes) -> Message {
        const RECORD_SEPARATOR: u8 = 0x1e;
        match (is_text, data.first()) {
            (false, _) => Message::Binary(data),
            (true, Some(&RECORD_SEPARATOR)) => Message::Json(data.split_off(1)),
            (true, _) => Message::Text(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(len: usize) -> Message {
        Message::Binary(Bytes::from(vec![0; len]))
    }

    fn take(message: &Message, sum: &mut usize) -> Handed {
        *sum += message.wire_len();
        Handed::Taken
    }

    #[test]
    fn senders_wait_above_high_water_and_go_on_at_low_water() {
        let peer = Peer::new("p".into());
        assert!(matches!(peer.enqueue(0, binary(1)), Err(TransportError::MessageTooLarge { .. })));
        peer.set_negotiated(true, None, 262_144);
        assert!(matches!(peer.enqueue(0, binary(1)), Err(TransportError::NotConnected { .. })));
        peer.open_channel(0, Some(16));
        assert!(matches!(
            peer.enqueue(0, binary(262_145)),
            Err(TransportError::MessageTooLarge { limit: 262_144, .. })
        ));
        let mut room = 0;
        while peer.enqueue(0, binary(100_000)).unwrap() {
            room += 1;
        }
        assert_eq!(room, 10);
        let mut sent = 0;
        let mut in_engine = 0;
        assert!(!peer.pump(0, 500_000, 0, |m| take(m, &mut in_engine)));
        assert_eq!(in_engine, 500_000);
        assert_eq!(peer.buffered_amount(0), 1_100_000);
        while !peer.pump(0, 500_000, 0, |m| take(m, &mut sent)) {
            assert!(sent <= 1_100_000);
        }
        assert!(peer.buffered_amount(0) <= LOW_WATER_BYTES + 500_000);
        assert!(peer.close_channel(0, Instant::now()).is_some());
        assert_eq!(peer.buffered_amount(0), 0);
    }

    #[test]
    fn what_waits_for_a_peer_is_bounded() {
        let peer = Peer::new("p".into());
        peer.set_negotiated(true, None, 1 << 20);
        peer.open_channel(0, Some(16));
        for _ in 0..64 {
            peer.enqueue(0, binary(1 << 20)).unwrap();
        }
        assert!(matches!(peer.enqueue(0, binary(1)), Err(TransportError::SendQueueFull { .. })));
    }

    #[test]
    fn each_message_is_acknowledged_unknown_or_unsent() {
        let peer = Peer::new("p".into());
        peer.set_negotiated(true, None, 1 << 20);
        peer.open_channel(0, Some(0));
        peer.open_channel(1, None);
        for n in 0..10 {
            peer.enqueue(0, binary(1_000 + n)).unwrap();
            peer.enqueue(1, binary(1)).unwrap();
        }
        let mut room = 3;
        let mut send = |_: &Message| {
            room -= 1;
            if room < 0 { Handed::Later } else { Handed::Taken }
        };
        peer.pump(0, 1 << 20, 0, &mut send);
        assert_eq!(peer.buffered_amount(0), 10_045, "what is not taken stays");
        peer.observe(0, Instant::now(), 0);
        let mut more = 2;
        peer.pump(0, 1 << 20, 0, |_| {
            more -= 1;
            if more < 0 { Handed::Later } else { Handed::Taken }
        });
        let remains = peer.close_channel(0, Instant::now()).unwrap();
        assert_eq!((remains.acknowledged, remains.unknown.len(), remains.unsent.len()), (3, 2, 5));
        assert_eq!(remains.unknown, [binary(1_003), binary(1_004)]);
        assert_eq!(peer.close_channel(1, Instant::now()), None, "nobody promised anything");
    }

    #[test]
    fn json_is_a_string_behind_a_record_separator() {
        assert_eq!(
            Message::from_wire(true, Bytes::from_static(b"\x1e{}")),
            Message::Json(Bytes::from_static(b"{}"))
        );
        assert_eq!(
            Message::from_wire(true, Bytes::from_static(b"{}")),
            Message::Text(Bytes::from_static(b"{}"))
        );
        assert_eq!(
            Message::from_wire(false, Bytes::from_static(b"\x1e")),
            Message::Binary(Bytes::from_static(b"\x1e"))
        );
        assert_eq!(Message::from_wire(true, Bytes::new()), Message::Text(Bytes::new()));
    }
}
