//! The link and its drain loop.

use crate::candidate::{Candidate, Named};
use crate::channels::Channel;
use crate::config::{Certificate, LinkConfig};
use crate::data_pacer::DataPacer;
use crate::engine::{self, Ssrcs};
use crate::error::LinkError;
use crate::event::{IceState, LinkEvent, LinkState, MessageKind, Negotiated, Transmit};
use crate::first_flight::FirstFlight;
use crate::hold::Hold;
use crate::limits::is_rtcp;
use crate::local::Local;
use crate::media::RtpOut;
use crate::mirror::Mirror;
use crate::pacer::Pacer;
use crate::resend::Resend;
use crate::sdp::Slot;
use crate::sdp::remote::RemoteCodec;
use crate::silence::Silence;
use crate::stats::{Drops, LinkStats};
use crate::tap::{self, Shared};
use bytes::{Bytes, BytesMut};
use rtc::peer_connection::RTCPeerConnection;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::{
    RTCDtlsTransport, RTCDtlsTransportState, RTCIceCandidate, RTCSctpTransportState,
};
use rtc::rtp_transceiver::RTCRtpSenderId;
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Datagrams that wait for ICE (driver rule D2).
pub const MAX_HELD_DATAGRAMS: usize = 32;
/// First byte of a DTLS record with application data (RFC 6347, section 4.1).
const APPLICATION_DATA: u8 = 23;
/// Datagrams that wait for an ICE restart: the peer may be a round trip behind us, and goes on sending on the old pair.
const MAX_HELD_IN_RESTART: usize = 512;
/// Candidates that wait for a description, and candidates taken in one ICE generation.
pub const MAX_QUEUED_CANDIDATES: usize = 64;
/// Candidates whose `.local` name is being resolved.
pub(crate) const MAX_NAMED_CANDIDATES: usize = 16;
/// A held datagram is a handshake record or an early media packet; nothing longer is worth holding.
const MAX_HELD_BYTES: usize = 1500;
pub(crate) const MAX_QUEUED_RTP: usize = 4096;
const MAX_QUEUED_MESSAGES: usize = 256;
const MAX_QUEUED_MESSAGE_BYTES: usize = 8 << 20;
pub(crate) const MAX_QUEUED_TRANSMITS: usize = 8192;
/// Calls that one drive of the engine may answer.
const MAX_TOUCHED: usize = 64;

/// One link to one peer. See the crate's documentation for its life.
pub struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) certificate: Certificate,
    pub(crate) pc: RTCPeerConnection,
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) ssrcs: Ssrcs,
    pub(crate) state: LinkState,
    pub(crate) ice: IceState,
    pub(crate) negotiated: Negotiated,
    pub(crate) channels: BTreeMap<usize, Channel>,
    pub(crate) data_channel: Option<usize>,
    pub(crate) stats: LinkStats,
    // Negotiation.
    pub(crate) slots: Vec<Slot>,
    /// The slots of our offer that is not answered yet.
    pub(crate) offered: Option<Vec<Slot>>,
    /// The offer of an ICE restart: the engine gets it with its answer, and uses the old pair until then.
    pub(crate) staged: Option<RTCSessionDescription>,
    /// The engine has new credentials that it was not told to use yet.
    pub(crate) engine_staged: bool,
    pub(crate) established: bool,
    /// Our `a=setup` once DTLS has its roles.
    pub(crate) setup: Option<&'static str>,
    pub(crate) audio_sender: Option<RTCRtpSenderId>,
    pub(crate) video_sender: Option<RTCRtpSenderId>,
    pub(crate) session_id: u64,
    pub(crate) version: u64,
    pub(crate) local_ufrag: String,
    pub(crate) remote_ufrag: String,
    pub(crate) remote_fingerprint: String,
    pub(crate) local_candidates: Vec<Local>,
    pub(crate) next_foundation: u32,
    pub(crate) remote_candidates: Vec<Candidate>,
    pub(crate) queued_candidates: VecDeque<Candidate>,
    /// Candidates whose address is not known yet.
    pub(crate) named_candidates: Vec<Named>,
    pub(crate) mirror: Mirror,
    // Media.
    pub(crate) audio_codec: Option<RemoteCodec>,
    pub(crate) video_codec: Option<RemoteCodec>,
    pub(crate) video_types: Vec<(u8, remotemedia_media::VideoCodec)>,
    pub(crate) audio_out: RtpOut,
    pub(crate) video_out: RtpOut,
    // Queues.
    pub(crate) events: VecDeque<LinkEvent>,
    pub(crate) transmits: VecDeque<Transmit>,
    /// Messages that wait for an ICE restart.
    pub(crate) deferred: VecDeque<(usize, MessageKind, Bytes)>,
    pub(crate) queued_rtp: usize,
    pub(crate) queued_messages: usize,
    pub(crate) queued_message_bytes: usize,
    paused: bool,
    hold: Hold,
    held: VecDeque<(SocketAddr, SocketAddr, Bytes)>,
    pub(crate) resend: Resend,
    pub(crate) silence: Silence,
    pub(crate) first_flight: FirstFlight,
    pub(crate) pacer: Pacer,
    pub(crate) data_pacer: DataPacer,
    /// When the last picture was given to us.
    pub(crate) video_sent: Option<Instant>,
    timeout: Option<Instant>,
    now: Instant,
    /// Calls since the engine was driven last.
    touched: usize,
    pub(crate) selected: Option<(SocketAddr, SocketAddr)>,
}

impl Link {
    /// A link that has not begun to negotiate.
    ///
    /// # Errors
    /// [`LinkError::Argument`] for a configuration out of range, [`LinkError::Engine`] if the engine can't start.
    pub fn new(now: Instant, config: LinkConfig, certificate: &Certificate) -> Result<Link, LinkError> {
        config.validate()?;
        let random = || std::hash::RandomState::new().build_hasher().finish();
        let numbers = random();
        let ssrcs = Ssrcs {
            audio: (numbers as u32) & !3 | 1,
            video: (numbers as u32) & !3 | 2,
            video_rtx: (numbers as u32) & !3 | 3,
        };
        let shared = Arc::new(Mutex::new(Shared::new(now, ssrcs.audio, ssrcs.video, config.bandwidth())));
        tap::lock(&shared).rtx_ssrc = ssrcs.video_rtx;
        let pc = engine::build(now, &config, certificate, &shared, false)?;
        Ok(Link {
            certificate: certificate.clone(),
            pc,
            shared,
            ssrcs,
            state: LinkState::New,
            ice: IceState::New,
            negotiated: Negotiated::default(),
            channels: BTreeMap::new(),
            data_channel: None,
            stats: LinkStats::default(),
            slots: Vec::new(),
            offered: None,
            staged: None,
            engine_staged: false,
            established: false,
            setup: None,
            audio_sender: None,
            video_sender: None,
            // 62 bits: the field is a signed 64-bit number in some parsers.
            session_id: random() >> 2,
            version: 0,
            local_ufrag: String::new(),
            remote_ufrag: String::new(),
            remote_fingerprint: String::new(),
            local_candidates: Vec::new(),
            next_foundation: 0,
            remote_candidates: Vec::new(),
            queued_candidates: VecDeque::new(),
            named_candidates: Vec::new(),
            mirror: Mirror::default(),
            audio_codec: None,
            video_codec: None,
            video_types: Vec::new(),
            audio_out: RtpOut::new(random()),
            video_out: RtpOut::new(random()),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            deferred: VecDeque::new(),
            queued_rtp: 0,
            queued_messages: 0,
            queued_message_bytes: 0,
            paused: false,
            hold: Hold::default(),
            held: VecDeque::new(),
            resend: Resend::default(),
            silence: Silence::new(now),
            first_flight: FirstFlight::default(),
            pacer: Pacer::default(),
            data_pacer: DataPacer::default(),
            video_sent: None,
            timeout: None,
            now,
            touched: 0,
            selected: None,
            config,
        })
    }

    /// The username fragment that the peer puts before the colon in its STUN checks, for the owner's demultiplexer.
    /// Changes with an ICE restart; empty before the first description.
    pub fn local_ufrag(&self) -> String {
        self.local_ufrag.clone()
    }

    /// One datagram in. `local` is the address of the socket it came to, as given to [`Link::add_local_candidate`].
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, data: &[u8]) {
        self.now = self.now.max(now);
        if self.state == LinkState::Closed {
            self.stats.drops.after_close += 1;
            return;
        }
        // RFC 7983: STUN 0-3, DTLS 20-63, RTP and RTCP 128-191.
        let known = matches!(data.first(), Some(0..=3 | 20..=63 | 128..=191));
        if !known || data.len() > 65_535 {
            self.stats.drops.unknown_datagram += 1;
            return;
        }
        self.stats.packets_received += 1;
        self.stats.bytes_received += data.len() as u64;
        if data[0] < 20 {
            self.stats.stun.packets_received += 1;
            self.stats.stun.bytes_received += data.len() as u64;
        }
        let catches_up = self.hear(now, local, remote, data);
        if data[0] >= 20 && matches!(self.ice, IceState::New | IceState::Checking) {
            let most = if self.resend.done { MAX_HELD_IN_RESTART } else { MAX_HELD_DATAGRAMS };
            if self.held.len() >= most || data.len() > MAX_HELD_BYTES {
                self.stats.drops.held_overflow += 1;
            } else {
                self.stats.held += 1;
                self.held.push_back((local, remote, Bytes::copy_from_slice(data)));
            }
            return;
        }
        self.feed(now, local, remote, data);
        if catches_up {
            self.engine_timeout(now);
            self.drain(now);
        }
        self.touch(now);
    }

    /// To be called when [`Link::poll_timeout`] has passed; calling it earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.state == LinkState::Closed {
            return;
        }
        if self.silence.stands() {
            self.keep_silence(now);
        }
        self.engine_timeout(now);
        self.release_video(now);
        self.drain(now);
        self.release_data(now);
        self.resend_if_due(now);
        self.suspect_if_due(now);
        self.rest_if_silent(now);
        self.schedule();
    }

    /// When [`Link::handle_timeout`] is due. At once, while what the last calls brought has not been polled.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.touched > 0 { Some(self.now) } else { self.timeout }
    }

    /// The next datagram to send. To be emptied after each batch of calls.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.drain_touched();
        let transmit = self.transmits.pop_front()?;
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += transmit.data.len() as u64;
        if transmit.data.first().is_some_and(|first| *first < 20) {
            self.stats.stun.packets_sent += 1;
            self.stats.stun.bytes_sent += transmit.data.len() as u64;
        }
        Some(transmit)
    }

    /// The next thing to know. Leaving messages here is how the peer is slowed down.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.drain_touched();
        let event = self.events.pop_front()?;
        match &event {
            LinkEvent::Rtp(_) => self.queued_rtp -= 1,
            LinkEvent::Message { data, .. } => {
                self.queued_messages -= 1;
                self.queued_message_bytes -= data.len();
            }
            _ => {}
        }
        if self.paused
            && !self.hold.is_on()
            && self.queued_messages < MAX_QUEUED_MESSAGES / 2
            && self.queued_message_bytes < MAX_QUEUED_MESSAGE_BYTES / 2
        {
            self.paused = false;
            self.drain(self.now);
            // The window update this may have written must not wait for the next datagram.
            self.timeout = Some(self.now);
        }
        Some(event)
    }

    /// While `hold`, messages stay with the engine, whose receive window tells the peer to wait: nothing is lost, and media goes on.
    /// Those that wait in [`Link::poll_event`] already are still given out, and one more every two seconds: a sender that has nothing
    /// acknowledged for a minute would give up for good.
    pub fn hold_messages(&mut self, now: Instant, hold: bool) {
        if !self.hold.set(hold) {
            return;
        }
        self.now = self.now.max(now);
        self.drain(self.now);
        // As above.
        self.timeout = Some(self.now);
    }

    /// `RTCPeerConnectionState`.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// `RTCIceConnectionState`.
    pub fn ice_state(&self) -> IceState {
        self.ice
    }

    /// What the descriptions agreed on so far.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Closes: the peer is told with an SCTP ABORT and a DTLS close_notify, which are in [`Link::poll_transmit`] then.
    pub fn close(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.state == LinkState::Closed {
            return;
        }
        self.engine_timeout(now);
        self.drain(now);
        self.free_data(now);
        let _ = self.pc.close();
        while let Some(message) = self.pc.poll_write() {
            self.push_transmit(message);
        }
        self.finish();
    }

    /// Drops so far, without asking the engine.
    pub fn drops(&self) -> Drops {
        self.stats.drops
    }

    pub(crate) fn last_now(&self) -> Instant {
        self.now
    }

    pub(crate) fn check_open(&self) -> Result<(), LinkError> {
        if self.state == LinkState::Closed { Err(LinkError::Closed) } else { Ok(()) }
    }

    fn feed(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, data: &[u8]) {
        if (20..=63).contains(&data[0]) && self.resend.heard(now, data) {
            self.stats.handshake_resends += self.resend.last.len() as u64;
            self.transmits.extend(self.resend.last.iter().cloned());
        }
        if data[0] < 20 {
            let before = self.mirror.mapped(local, remote);
            self.mirror.received(now, local, remote, data);
            if before.is_some() && before != self.mirror.mapped(local, remote) {
                self.mapping_changed(now, local, remote);
            }
        }
        let at = self.engine_time(now);
        let rtcp = is_rtcp(data);
        {
            let mut shared = tap::lock(&self.shared);
            if rtcp && !shared.limits.may_read(at) {
                self.stats.drops.rtcp_limited += 1;
                return;
            }
            (shared.measure.datagram, shared.rtcp_read) = (data.len(), 0);
        }
        let _ = self.pc.handle_read(TaggedBytesMut {
            now: at,
            transport: TransportContext {
                local_addr: local,
                peer_addr: remote,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            },
            message: BytesMut::from(data),
        });
        if rtcp {
            let mut shared = tap::lock(&self.shared);
            let packets = shared.rtcp_read;
            shared.limits.read(at, packets);
        }
        // Driver rule D5: events before the next datagram, or data on a channel that is about to open is lost.
        while let Some(event) = self.pc.poll_event() {
            self.engine_event(now, event);
        }
        // An alert is the only record that ends a session; the engine reports no event for it.
        if data[0] == 21 && self.dtls_closed() {
            self.drain(now);
            self.finish();
        }
    }

    /// Something went into the engine. While the link opens it is driven at once; later on a batch is driven together, by
    /// the poll that follows it: one SACK answers many datagrams, and small messages share a packet.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.touched += 1;
        if !(self.state == LinkState::Connected && self.resend.done) || self.touched >= MAX_TOUCHED {
            self.drain(now);
        }
    }

    fn drain_touched(&mut self) {
        if self.touched > 0 {
            self.drain(self.now);
        }
    }

    /// Driver rule D1: reads, events and writes until a whole pass yields nothing, then one kick of the engine's timers
    /// while it connects, because the first DTLS flight is only written there.
    pub(crate) fn drain(&mut self, now: Instant) {
        self.touched = 0;
        if self.state == LinkState::Closed {
            return;
        }
        let open = self.state == LinkState::Connected && self.resend.done;
        let mut kicked = open;
        loop {
            let mut any = false;
            loop {
                self.paused = self.hold.is_on()
                    || self.queued_messages >= MAX_QUEUED_MESSAGES
                    || self.queued_message_bytes >= MAX_QUEUED_MESSAGE_BYTES;
                let next = if !self.paused {
                    self.pc.poll_read()
                } else if let Some(media) = self.pc.poll_media_read() {
                    Some(media)
                } else if self.hold.may_pass(now) {
                    let message = self.pc.poll_data_read();
                    self.hold.passed(now, message.as_ref().map_or(0, data_len));
                    message
                } else {
                    None
                };
                let Some(message) = next else { break };
                any = true;
                self.engine_message(self.our_time(message.now), message.message);
            }
            while let Some(event) = self.pc.poll_event() {
                any = true;
                self.engine_event(now, event);
            }
            if self.first_flight.due() {
                any |= self.write_first_flight();
            }
            while let Some(message) = self.pc.poll_write() {
                // Writing brings nothing to read once the handshakes are through.
                any |= !open;
                self.push_transmit(message);
            }
            if any {
                continue;
            }
            if !matches!(self.ice, IceState::New | IceState::Checking)
                && let Some((local, remote, data)) = self.held.pop_front()
            {
                self.feed(now, local, remote, &data);
                if self.state == LinkState::Closed {
                    return;
                }
                continue;
            }
            if !self.deferred.is_empty() && matches!(self.ice, IceState::Connected | IceState::Completed) {
                self.flush_deferred(now);
                continue;
            }
            if kicked {
                break;
            }
            kicked = true;
            self.engine_timeout(now);
        }
        // What the opening itself made the engine write is recorded by now.
        self.resend.frozen |= self.resend.done;
        self.read_tap();
        self.release_data(now);
        self.schedule();
    }

    /// One whole pass of writes; the one with which the SCTP handshake ends is put in order for Chromium.
    fn write_first_flight(&mut self) -> bool {
        let mut pass: Vec<_> = std::iter::from_fn(|| self.pc.poll_write()).collect();
        if self.pc.sctp().is_some_and(|sctp| sctp.state() == RTCSctpTransportState::Connected) {
            self.first_flight.arrange(&mut pass);
        }
        let any = !pass.is_empty();
        for message in pass {
            self.push_transmit(message);
        }
        any
    }

    pub(crate) fn set_state(&mut self, state: LinkState) {
        if state != self.state {
            self.state = state;
            self.events.push_back(LinkEvent::State(state));
        }
    }

    /// The end, ours or the peer's.
    fn finish(&mut self) {
        let open: Vec<usize> = self.channels.keys().copied().collect();
        for id in open {
            self.channel_closed(id);
        }
        self.held.clear();
        self.pacer.clear();
        self.deferred.clear();
        self.resend = Resend::over();
        self.timeout = None;
        self.touched = 0;
        if self.ice != IceState::Closed {
            self.ice = IceState::Closed;
            self.events.push_back(LinkEvent::IceState(IceState::Closed));
        }
        self.set_state(LinkState::Closed);
    }

    fn push_transmit(&mut self, message: TaggedBytesMut) {
        let transmit = Transmit {
            local: message.transport.local_addr,
            remote: message.transport.peer_addr,
            data: message.message.freeze(),
        };
        let first = transmit.data.first().copied().unwrap_or(0);
        if first >= 20 {
            self.select(transmit.local, transmit.remote);
        } else {
            let now = self.our_time(message.now);
            self.mirror.sent(now, &transmit.data);
            self.silence.sent(now, &transmit, self.selected == Some((transmit.local, transmit.remote)));
        }
        if first == APPLICATION_DATA {
            self.silence.sent_data(self.our_time(message.now), &transmit.data);
        }
        if (20..=63).contains(&first) && !self.resend.frozen {
            self.resend.sent(message.now, transmit.clone());
        }
        if first == APPLICATION_DATA && self.data_pacer.holds(transmit.data.len()) {
            self.data_pacer.push(transmit);
        } else {
            self.transmits.push_back(transmit);
        }
    }

    fn resend_if_due(&mut self, now: Instant) {
        if self.resend.until.is_some_and(|until| now >= until) || self.state == LinkState::Failed {
            self.resend = Resend::over();
        }
        if self.resend.done {
            return;
        }
        if self.resend.at.is_some_and(|at| now >= at) {
            // Once DTLS is through, a handshake record is only sent again to a peer that asks by doing so itself: some take
            // an unasked one for a new handshake.
            let through = self.state == LinkState::Connected;
            let before = self.transmits.len();
            let again =
                self.resend.last.iter().filter(|t| !through || t.data.first() == Some(&APPLICATION_DATA));
            self.transmits.extend(again.cloned());
            self.stats.handshake_resends += (self.transmits.len() - before) as u64;
            self.resend.again(now);
        }
    }

    fn schedule(&mut self) {
        let mut next = self.pc.poll_timeout().filter(|_| !self.silence.stands()).map(|at| self.our_time(at));
        if let Some(at) = self.silence_due() {
            next = Some(next.map_or(at, |n| n.min(at)));
        }
        if !self.resend.done
            && let Some(at) = self.resend.at
        {
            next = Some(next.map_or(at, |n| n.min(at)));
        }
        for at in [self.pacer.next_at(), self.data_pacer.next_at(), self.hold.next_at(self.now)]
            .into_iter()
            .flatten()
        {
            next = Some(next.map_or(at, |n| n.min(at)));
        }
        self.timeout = next;
    }

    fn dtls_closed(&mut self) -> bool {
        let state = self.with_dtls(|dtls| dtls.state());
        matches!(state, Some(RTCDtlsTransportState::Closed | RTCDtlsTransportState::Failed))
    }

    /// ICE chose a pair: what is sent from now on takes it.
    pub(crate) fn read_selected(&mut self) {
        let pair = self.with_dtls(|dtls| dtls.ice_transport().get_selected_candidate_pair()).flatten();
        let addr = |c: &RTCIceCandidate| Some(SocketAddr::new(c.address.parse().ok()?, c.port));
        if let Some(pair) = pair
            && let (Some(local), Some(remote)) = (addr(pair.local()), addr(pair.remote()))
        {
            self.select(local, remote);
        }
    }

    fn select(&mut self, local: SocketAddr, remote: SocketAddr) {
        let pair = Some((local, remote));
        self.stats.pair_changes += u64::from(self.selected != pair);
        self.selected = pair;
    }

    fn with_dtls<T>(&mut self, read: impl FnOnce(RTCDtlsTransport<'_>) -> T) -> Option<T> {
        if let Some(sctp) = self.pc.sctp() {
            return Some(read(sctp.transport()));
        }
        let sender = self.audio_sender.or(self.video_sender)?;
        let sender = self.pc.rtp_sender(sender)?;
        Some(read(sender.transport()?))
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("state", &self.state).field("ice", &self.ice).finish_non_exhaustive()
    }
}

/// The bytes of a message of a data channel.
fn data_len(message: &rtc::peer_connection::message::TaggedRTCMessage) -> usize {
    match &message.message {
        rtc::peer_connection::message::RTCMessage::DataChannelMessage(_, message) => message.data.len(),
        _ => 0,
    }
}
