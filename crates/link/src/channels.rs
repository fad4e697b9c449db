//! Data channels.

use crate::config::{ChannelOptions, DataMode};
use crate::data_pacer::Pace;
use crate::error::LinkError;
use crate::event::{ChannelId, IceState, LinkEvent, LinkState, MessageKind, Transmit};
use crate::link::{Link, MAX_QUEUED_TRANSMITS};
use crate::negotiate::channel_init;
use crate::stats::{CandidateKind, ChannelStats};
use crate::tap;
use bytes::{Bytes, BytesMut};
use rtc::data_channel::RTCDataChannelInit;
use std::time::{Duration, Instant};

/// Channels at once, ours and the peer's; the peer's next one is closed as it opens.
const MAX_CHANNELS: usize = 256;
/// Pictures that were sent within this time will go on.
const GOES_ON: Duration = Duration::from_secs(1);
/// Messages that wait for an ICE restart.
const MAX_DEFERRED: usize = 1024;

/// What the link knows of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    mode: Option<DataMode>,
    pub(crate) open: bool,
    pub(crate) stats: ChannelStats,
}

impl Link {
    /// Opens a further channel in-band. [`LinkEvent::ChannelOpen`] says when it is open.
    ///
    /// # Errors
    /// [`LinkError::NotNegotiated`] if the peer has no data section, [`LinkError::Argument`] for a label over 65 535
    /// or a protocol over 255 bytes or the 257th channel, [`LinkError::Closed`].
    pub fn open_channel(
        &mut self,
        now: Instant,
        label: &str,
        options: ChannelOptions,
    ) -> Result<ChannelId, LinkError> {
        self.check_open()?;
        if self.config.data.is_none() || self.established && !self.negotiated.data {
            return Err(LinkError::NotNegotiated("data channels"));
        }
        if label.len() > 65_535 || options.protocol.len() > 255 {
            return Err(LinkError::Argument("a label over 65535 or a protocol over 255 bytes"));
        }
        if self.channels.len() >= MAX_CHANNELS {
            return Err(LinkError::Argument("more than 256 channels"));
        }
        let id = self.new_channel(label, channel_init(options.mode, options.protocol), options.mode)?;
        self.drain(now);
        Ok(ChannelId(id))
    }

    /// Sends one message, or nothing of it. An empty message is allowed.
    ///
    /// # Errors
    /// [`LinkError::MessageTooLarge`], [`LinkError::NotUtf8`], [`LinkError::BufferFull`],
    /// [`LinkError::ChannelNotOpen`], [`LinkError::Closed`].
    pub fn send_message(
        &mut self,
        now: Instant,
        channel: ChannelId,
        kind: MessageKind,
        data: &[u8],
    ) -> Result<(), LinkError> {
        self.check_open()?;
        if !self.channels.get(&channel.0).is_some_and(|c| c.open) {
            return Err(LinkError::ChannelNotOpen);
        }
        let limit = self.negotiated.max_message_size;
        if data.len() > limit {
            return Err(LinkError::MessageTooLarge { size: data.len(), limit });
        }
        if kind == MessageKind::Text && std::str::from_utf8(data).is_err() {
            return Err(LinkError::NotUtf8);
        }
        let full = self.transmits.len() >= MAX_QUEUED_TRANSMITS || self.deferred.len() >= MAX_DEFERRED;
        if full || self.buffered_amount(channel) + data.len() > self.config.max_buffered_bytes {
            return Err(LinkError::BufferFull);
        }
        if self.ice == IceState::Checking {
            // An ICE restart is under way and the engine has no pair: it would write the packets to nowhere, and SCTP
            // would notice after a second or two.
            self.deferred.push_back((channel.0, kind, Bytes::copy_from_slice(data)));
        } else {
            self.engine_send(now, channel.0, kind, data)?;
        }
        self.stats.messages_sent += 1;
        if let Some(channel) = self.channels.get_mut(&channel.0) {
            channel.stats.messages_sent += 1;
            channel.stats.bytes_sent += data.len() as u64;
        }
        self.touch(now);
        Ok(())
    }

    /// Sends what waited for an ICE restart.
    pub(crate) fn flush_deferred(&mut self, now: Instant) {
        while let Some((channel, kind, data)) = self.deferred.pop_front() {
            if let Err(error) = self.engine_send(now, channel, kind, &data) {
                tracing::debug!(%error, "a message that waited for an ICE restart can't be sent: its channel is gone");
            }
        }
    }

    /// Bytes that are better given to a channel at a time, not to fill a path that media is sent on; `None`: any number.
    pub fn data_window(&self) -> Option<usize> {
        self.data_pace().map(|pace| pace.window())
    }

    /// Lets go what the pacer of data allows.
    pub(crate) fn release_data(&mut self, now: Instant) {
        let pace = self.data_pace();
        self.data_pacer.refill(now, pace);
        let Some((local, remote)) = self.selected else { return };
        let mut sent = 0;
        while let Some(transmit) = self.data_pacer.pop() {
            sent += transmit.data.len();
            // The pair may be another one by now.
            self.transmits.push_back(Transmit { local, remote, ..transmit });
        }
        if sent > 0 {
            tap::lock(&self.shared).bandwidth.on_data_sent(now, sent);
        }
    }

    /// Nothing waits any longer.
    pub(crate) fn free_data(&mut self, now: Instant) {
        self.data_pacer.refill(now, None);
        self.transmits.extend(std::iter::from_fn(|| self.data_pacer.pop()));
    }

    fn data_pace(&self) -> Option<Pace> {
        if self.state != LinkState::Connected {
            return None;
        }
        let relayed = || {
            self.path()
                .is_some_and(|path| [path.local_kind, path.remote_kind].contains(&CandidateKind::Relay))
        };
        let media = tap::lock(&self.shared).bandwidth.beside_media(self.last_now());
        let pictures =
            self.video_sent.is_some_and(|at| self.last_now().saturating_duration_since(at) < GOES_ON);
        Pace::new(media, pictures, self.established && relayed())
    }

    fn engine_send(
        &mut self,
        now: Instant,
        channel: usize,
        kind: MessageKind,
        data: &[u8],
    ) -> Result<(), LinkError> {
        let now = self.engine_time(now);
        let mut engine = self.pc.data_channel(channel).ok_or(LinkError::ChannelNotOpen)?;
        match kind {
            MessageKind::Binary => engine.send(now, BytesMut::from(data))?,
            MessageKind::Text => engine.send_text(now, String::from_utf8_lossy(data))?,
        }
        Ok(())
    }

    /// Bytes accepted on a channel that the peer has not acknowledged; 0 for a channel that is gone.
    pub fn buffered_amount(&mut self, channel: ChannelId) -> usize {
        let deferred = self.deferred.iter().filter(|(id, ..)| *id == channel.0).map(|(.., data)| data.len());
        let deferred: usize = deferred.sum();
        self.pc.data_channel(channel.0).map_or(0, |c| c.outstanding_bytes()) + deferred
    }

    /// Counters of one open channel.
    pub fn channel_stats(&self, channel: ChannelId) -> Option<ChannelStats> {
        self.channels.get(&channel.0).filter(|c| c.open).map(|c| c.stats.clone())
    }

    /// Closes one channel. Nothing happens if it is closed already.
    pub fn close_channel(&mut self, now: Instant, channel: ChannelId) {
        if self.check_open().is_err() || !self.channels.contains_key(&channel.0) {
            return;
        }
        if let Some(mut engine) = self.pc.data_channel(channel.0) {
            let _ = engine.close();
        }
        self.drain(now);
        self.channel_closed(channel.0);
    }

    pub(crate) fn new_channel(
        &mut self,
        label: &str,
        init: RTCDataChannelInit,
        mode: DataMode,
    ) -> Result<usize, LinkError> {
        let id = self.pc.create_data_channel(label, Some(init))?.id();
        self.channels.insert(id, Channel { mode: Some(mode), open: false, stats: ChannelStats::default() });
        Ok(id)
    }

    pub(crate) fn channel_opened(&mut self, id: usize) {
        let Some(mut engine) = self.pc.data_channel(id) else { return };
        if !self.channels.contains_key(&id) && self.channels.len() >= MAX_CHANNELS {
            let _ = engine.close();
            self.stats.drops.channel_limit += 1;
            return;
        }
        let (label, protocol) = (engine.label().to_owned(), engine.protocol().to_owned());
        let ordered = engine.ordered();
        let ours = self.channels.contains_key(&id);
        let channel = self.channels.entry(id).or_insert_with(|| Channel {
            mode: None,
            open: false,
            stats: ChannelStats::default(),
        });
        if channel.open {
            return;
        }
        channel.open = true;
        (channel.stats.label, channel.stats.protocol) = (label.clone(), protocol.clone());
        self.stats.channels_opened += 1;
        let mode = channel.mode;
        self.events.push_back(LinkEvent::ChannelOpen {
            id: ChannelId(id),
            label,
            protocol,
            ordered,
            ours,
            mode,
        });
    }

    pub(crate) fn channel_closed(&mut self, id: usize) {
        if self.data_channel == Some(id) {
            self.data_channel = None;
        }
        if let Some(channel) = self.channels.remove(&id) {
            self.stats.channels_closed += u64::from(channel.open);
            self.events.push_back(LinkEvent::ChannelClosed { id: ChannelId(id) });
        }
    }
}
