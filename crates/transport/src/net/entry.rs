//! One link with what belongs to it: channels, media in and out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use remotemedia_link::{
    ChannelId, ChannelOptions, Link, LinkError, LinkState, LinkStats, MediaKind, MessageKind, RtpIn,
};
use remotemedia_media::{EncodedFrame, VideoCodec};
use remotemedia_pipeline::{Mailbox, Policy, Push};

use super::judge::Judge;
use super::out_clock::OutClock;
use crate::audio_in::AudioIn;
use crate::event::Event;
use crate::outputs::VideoSource;
use crate::pace::PerSecond;
use crate::peer::{Handed, Peer, Remains};
use crate::routes::Track;
use crate::shared::Shared;
use crate::stats::InboundCounters;
use crate::times::MediaTimes;
use crate::video_in::VideoIn;
use crate::{
    InboundStats, Message, OutboundStats, PeerChannelStats, PeerStats, SocketCounters, TransportError,
};

/// The label of the built-in channel.
const BUILT_IN_LABEL: &str = "data";
/// RTP packets that may wait for a decoder: a second of video at 8 Mbit/s.
const MAX_WAITING_PACKETS: usize = 1024;
/// Channels a peer may have open with us.
const MAX_CHANNELS: usize = 256;
/// How often encoders are told what the path carries.
const BANDWIDTH_INTERVAL: Duration = Duration::from_millis(50);
/// Of what the peer reports of lost sound, as much counts each time: a report is of some 50 packets, and this makes it two seconds.
const LOSS_SMOOTHING: f64 = 0.025;
/// Sound that was sent within this time will go on.
const SPEAKS: Duration = Duration::from_secs(1);
/// RTP and its protection around 50 packets of sound a second.
const AUDIO_HEADERS_BPS: u32 = 12_000;

pub(crate) struct Entry {
    pub(crate) link: Link,
    pub(crate) peer: Arc<Peer>,
    /// The built-in channel is open.
    pub(crate) open: bool,
    /// Local candidates that the peer has not been told.
    pub(crate) candidates: Vec<String>,
    /// Our user name of the last description; `None` before the first.
    pub(crate) generation: Option<String>,
    /// The peer was told that no more candidates come in this generation.
    pub(crate) candidates_done: bool,
    /// When what the peer sends was captured.
    pub(crate) times: Arc<MediaTimes>,
    channels: BTreeMap<u32, ChannelId>,
    numbers: HashMap<ChannelId, u32>,
    /// Opened by our owner under a number it chose; the engine reports them open later.
    opening: HashMap<ChannelId, u32>,
    next_number: u32,
    to_pump: BTreeSet<u32>,
    audio_in: Inbound,
    video_in: Inbound,
    audio_out: OutboundStats,
    video_out: OutboundStats,
    out_clock: OutClock,
    video_source: Option<(Arc<VideoSource>, VideoCodec)>,
    last_audio: Option<Instant>,
    /// The share of our sound that the peer did not get, over some seconds.
    audio_loss: f64,
    next_bandwidth: Option<Instant>,
    video_rate: PerSecond,
    pub(super) judge: Judge,
}

/// Received media on its way to a decode worker.
struct Inbound {
    mailbox: Mailbox<RtpIn>,
    counters: Arc<InboundCounters>,
}

impl Entry {
    pub(crate) fn new(mut link: Link, peer: Arc<Peer>, shared: &Arc<Shared>) -> Entry {
        let weak = Arc::downgrade(shared);
        let audio_counters = Arc::new(InboundCounters::default());
        let times = Arc::new(MediaTimes::new(shared.started));
        let epoch = Instant::now();
        link.set_media_epoch(epoch);
        let mut audio = AudioIn::new(
            weak.clone(),
            peer.id.clone(),
            shared.config.audio.channels,
            audio_counters.clone(),
            times.clone(),
        );
        let audio_mailbox =
            shared.audio_pool.timed("decode audio", MAX_WAITING_PACKETS, Policy::DropOldest, move |packet| {
                audio.run(packet)
            });
        let video_counters = Arc::new(InboundCounters::default());
        let mut video = VideoIn::new(weak, peer.id.clone(), video_counters.clone(), times.clone());
        let video_mailbox =
            shared.video_pool.timed("decode video", MAX_WAITING_PACKETS, Policy::DropOldest, move |packet| {
                video.run(packet)
            });
        Entry {
            link,
            peer,
            open: false,
            candidates: Vec::new(),
            generation: None,
            candidates_done: false,
            times,
            channels: BTreeMap::new(),
            numbers: HashMap::new(),
            opening: HashMap::new(),
            // Numbers of the peer's channels count down from the top, those of our owner up from 1.
            next_number: u32::MAX,
            to_pump: BTreeSet::new(),
            audio_in: Inbound { mailbox: audio_mailbox, counters: audio_counters },
            video_in: Inbound { mailbox: video_mailbox, counters: video_counters },
            audio_out: OutboundStats::default(),
            video_out: OutboundStats::default(),
            out_clock: OutClock::new(epoch),
            video_source: None,
            last_audio: None,
            audio_loss: 0.0,
            next_bandwidth: None,
            video_rate: PerSecond::default(),
            judge: Judge::default(),
        }
    }

    /// Has the peer's messages wait, or not, as those want who take them.
    pub(crate) fn apply_hold(&mut self, now: Instant) {
        self.link.hold_messages(now, self.peer.is_held());
    }

    /// Tells other threads what this peer takes.
    pub(crate) fn publish_negotiated(&self) {
        let negotiated = self.link.negotiated();
        self.peer.set_wanted_audio(&negotiated.peer_audio);
        self.peer.set_negotiated(negotiated.audio, negotiated.video, negotiated.max_message_size);
    }

    // Channels

    /// Gives an open channel its number; 0 is the built-in one.
    pub(crate) fn channel_opened(&mut self, id: ChannelId, label: &str, ours: bool) -> Option<u32> {
        if let Some(number) = self.numbers.get(&id) {
            return Some(*number);
        }
        let number = match self.opening.remove(&id) {
            Some(number) => number,
            None if label == BUILT_IN_LABEL && !self.channels.contains_key(&0) => 0,
            None if ours || self.channels.len() >= MAX_CHANNELS => return None,
            None => {
                self.next_number -= 1;
                self.next_number
            }
        };
        self.channels.insert(number, id);
        self.numbers.insert(id, number);
        Some(number)
    }

    pub(crate) fn channel_closed(&mut self, id: ChannelId) -> Option<u32> {
        self.opening.remove(&id);
        let number = self.numbers.remove(&id)?;
        self.channels.remove(&number);
        self.open &= number != 0;
        Some(number)
    }

    pub(crate) fn channel_number(&self, id: ChannelId) -> Option<u32> {
        self.numbers.get(&id).copied()
    }

    pub(crate) fn open_channel(
        &mut self,
        now: Instant,
        number: u32,
        label: &str,
        options: ChannelOptions,
        shared: &Shared,
    ) {
        match self.link.open_channel(now, label, options) {
            Ok(id) => {
                self.opening.insert(id, number);
            }
            Err(error) => {
                let error = TransportError::Codec { message: format!("channel '{label}': {error}") };
                shared.events.push(Event::Error { peer: Some(self.peer.id.clone()), error });
                shared.events.push(Event::ChannelClosed { peer: self.peer.id.clone(), channel: number });
            }
        }
    }

    pub(crate) fn close_channel(&mut self, now: Instant, number: u32) {
        let opening = self.opening.iter().find(|(_, n)| **n == number).map(|(id, _)| *id);
        if let Some(id) = self.channels.get(&number).copied().or(opening) {
            self.link.close_channel(now, id);
        }
    }

    pub(crate) fn wants_pump(&mut self, channel: u32) {
        self.to_pump.insert(channel);
    }

    /// Moves waiting messages into the engine as far as `window` allows.
    pub(crate) fn pump(&mut self, now: Instant, window: usize, shared: &Shared) {
        // What waits here is known not to have been sent, should the link not come back.
        if self.to_pump.is_empty() || self.link.state() != LinkState::Connected {
            return;
        }
        let Self { link, peer, channels, to_pump, .. } = self;
        let window = link.data_window().map_or(window, |most| most.min(window));
        to_pump.retain(|number| {
            let Some(&id) = channels.get(number) else { return false };
            let mut refused = 0;
            let before = link.buffered_amount(id);
            peer.observe(*number, link.last_heard(), before);
            let drained = peer.pump(*number, window, before, |message| {
                let (kind, data) = match message {
                    Message::Text(data) => (MessageKind::Text, data.clone()),
                    Message::Binary(data) => (MessageKind::Binary, data.clone()),
                    Message::Json(data) => (MessageKind::Text, [b"\x1e", &data[..]].concat().into()),
                };
                match link.send_message(now, id, kind, &data) {
                    Ok(()) => Handed::Taken,
                    // It ends with the channel, or goes out when there is room.
                    Err(LinkError::BufferFull | LinkError::ChannelNotOpen | LinkError::Closed) => {
                        Handed::Later
                    }
                    Err(error) => {
                        tracing::debug!(%error, "message refused");
                        refused += 1;
                        Handed::Refused
                    }
                }
            });
            shared.counters.packets_refused.fetch_add(refused, Ordering::Relaxed);
            if drained {
                shared.events.push(Event::Drained { peer: peer.id.clone(), channel: *number });
            }
            // Until all is acknowledged, each round may have made room.
            peer.buffered_amount(*number) > 0
        });
    }

    /// What the peer has by now. For the last time, if the link is about to be closed.
    pub(crate) fn observe_channels(&mut self) {
        if self.link.state() == LinkState::Closed {
            return;
        }
        for (number, id) in &self.channels {
            self.peer.observe(*number, self.link.last_heard(), self.link.buffered_amount(*id));
        }
    }

    /// Nothing more is sent on this channel; tells what that leaves undone.
    pub(crate) fn end_channel(&self, number: u32, shared: &Shared, tell: bool) {
        if let Some(remains) = self.peer.close_channel(number, self.link.last_heard()).filter(|_| tell) {
            let Remains { acknowledged, unknown, unsent } = remains;
            let peer = self.peer.id.clone();
            shared.events.push(Event::Undelivered { peer, channel: number, acknowledged, unknown, unsent });
        }
    }

    // Media in

    pub(crate) fn receive_rtp(&mut self, packet: RtpIn, shared: &Shared) {
        let (inbound, track) = match packet.kind {
            MediaKind::Audio => (&self.audio_in, Track::Audio),
            MediaKind::Video => (&self.video_in, Track::Video),
        };
        if !shared.wants(&self.peer.id, track) {
            return;
        }
        inbound.counters.packets.fetch_add(1, Ordering::Relaxed);
        match inbound.mailbox.push(packet) {
            Push::Pushed => {}
            Push::Dropped(old) => {
                inbound.counters.packets_dropped.fetch_add(old.len() as u64, Ordering::Relaxed);
            }
            Push::Refused(_) => {
                inbound.counters.packets_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    // Media out

    /// What was sent may be lost, and nothing is sent for a while: the picture has to begin anew.
    pub(crate) fn interrupted(&mut self) {
        self.video_source = None;
    }

    pub(crate) fn keyframe_requested(&mut self) {
        if let Some((source, _)) = &self.video_source {
            source.want_keyframe();
        }
    }

    pub(crate) fn send_audio(
        &mut self,
        now: Instant,
        source: u64,
        packet: Bytes,
        timestamp_us: i64,
        shared: &Shared,
    ) {
        let at = self.out_clock.audio(source, timestamp_us, now);
        let len = packet.len() as u64;
        match self.link.send_audio(now, packet, at) {
            Ok(()) => {
                self.last_audio = Some(now);
                self.audio_out.frames += 1;
                self.audio_out.packets += 1;
                self.audio_out.bytes += len;
            }
            Err(error) => count_refusal(shared, &error),
        }
    }

    pub(crate) fn send_video(
        &mut self,
        now: Instant,
        source: &Arc<VideoSource>,
        codec: VideoCodec,
        frame: &EncodedFrame,
        shared: &Shared,
    ) {
        if self.link.negotiated().video != Some(codec) {
            return;
        }
        let same = self.video_source.as_ref().is_some_and(|(s, c)| s.id == source.id && *c == codec);
        if !same && !frame.keyframe {
            // A decoder can't take over in the middle of a stream.
            source.want_keyframe();
            self.video_out.frames_skipped += 1;
            return;
        }
        if !same {
            self.video_source = Some((source.clone(), codec));
        }
        let at = self.out_clock.video(source.stream, frame.timestamp_us, now);
        let frame = EncodedFrame { timestamp_us: at, ..frame.clone() };
        match self.link.send_video(now, &frame) {
            Ok(packets) => {
                self.video_rate.add(now);
                self.video_out.frames += 1;
                self.video_out.keyframes += u64::from(frame.keyframe);
                self.video_out.packets += packets as u64;
                self.video_out.bytes += frame.data.len() as u64;
                self.video_out.width = frame.width;
                self.video_out.height = frame.height;
            }
            Err(error) => {
                // What was not sent leaves a hole that only a keyframe mends.
                source.want_keyframe();
                count_refusal(shared, &error);
            }
        }
    }

    /// Tells the encoders what the path carries of video: sound comes first, then messages.
    pub(crate) fn publish_bandwidth(&mut self, now: Instant, audio_bps: u32) {
        if self.next_bandwidth.is_some_and(|at| now < at) {
            return;
        }
        self.next_bandwidth = Some(now + BANDWIDTH_INTERVAL);
        self.audio_loss += (self.link.audio_loss() - self.audio_loss) * LOSS_SMOOTHING;
        self.peer.set_audio_loss((self.audio_loss * 100.0).round().clamp(0.0, 100.0) as u8);
        let speaks = self.last_audio.is_some_and(|at| now.saturating_duration_since(at) < SPEAKS);
        let audio = if speaks { f64::from(audio_bps + AUDIO_HEADERS_BPS) } else { 0.0 };
        let data = self.link.data_bps(now);
        self.peer.set_video_bps(self.link.bandwidth().map(|path| {
            // What is lost is sent again, and headers count.
            ((path.target_bps - audio - data) * 0.95 * (1.0 - path.loss.min(0.5))).max(1.0) as u32
        }));
    }

    // The end

    /// The link is gone: nothing waits any more, and its workers' state is freed.
    pub(crate) fn closed(&mut self, shared: &Shared, tell: bool) {
        for number in self.peer.channels() {
            self.end_channel(number, shared, tell);
        }
        for (number, _) in self.channels.iter().filter(|(n, _)| **n != 0) {
            shared.events.push(Event::ChannelClosed { peer: self.peer.id.clone(), channel: *number });
        }
        self.peer.set_negotiated(false, None, 0);
        self.peer.set_video_bps(None);
        self.peer.set_quality(None);
        self.audio_in.mailbox.close();
        self.video_in.mailbox.close();
        shared.outputs.remove_peer(&self.peer.id);
    }

    pub(crate) fn stats(&self, now: Instant, link: LinkStats, socket: SocketCounters) -> PeerStats {
        let channel = |(number, id): (&u32, &ChannelId)| {
            let buffered_amount = self.peer.buffered_amount(*number);
            Some(PeerChannelStats { channel: *number, link: self.link.channel_stats(*id)?, buffered_amount })
        };
        PeerStats {
            channels: self.channels.iter().filter_map(channel).collect(),
            local_fingerprint: self.link.local_fingerprint(),
            audio_source: crate::lock(&self.peer.audio_source).snapshot(now),
            video_source: crate::lock(&self.peer.video_source).snapshot(now),
            peer: self.peer.id.clone(),
            state: self.peer.state(),
            link,
            video_codec: self.peer.video_codec(),
            audio_in: self.inbound(MediaKind::Audio),
            video_in: self.inbound(MediaKind::Video),
            audio_out: self.audio_out,
            video_out: OutboundStats { per_second: self.video_rate.count(now), ..self.video_out },
            buffered_amount: self.peer.buffered_amount(0),
            socket,
        }
    }

    pub(super) fn inbound(&self, kind: MediaKind) -> InboundStats {
        let inbound = match kind {
            MediaKind::Audio => &self.audio_in,
            MediaKind::Video => &self.video_in,
        };
        InboundStats {
            drift_ppm: self.times.drift_ppm(kind),
            synchronized: self.times.is_synchronized(kind),
            ..inbound.counters.snapshot()
        }
    }
}

fn count_refusal(shared: &Shared, error: &LinkError) {
    shared.counters.packets_refused.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%error, "media refused");
}
