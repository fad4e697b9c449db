//! What the engine brings: messages, packets, changes of state.

use crate::event::{ChannelId, IceState, LinkEvent, LinkState, MediaKind, MessageKind, RtpIn};
use crate::link::{Link, MAX_QUEUED_RTP};
use crate::resend::{RESEND_AFTER_CONNECT, RESEND_FOR, Resend};
use crate::tap;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::state::{RTCIceConnectionState, RTCPeerConnectionState};
use std::time::Instant;

impl Link {
    pub(crate) fn read_tap(&mut self) {
        let mut shared = tap::lock(&self.shared);
        let keyframe = std::mem::take(&mut shared.keyframe_requested);
        let reports = std::mem::take(&mut shared.sender_reports);
        let undeclared = std::mem::take(&mut shared.undeclared);
        drop(shared);
        if keyframe && !self.events.iter().any(|e| matches!(e, LinkEvent::KeyframeRequested)) {
            self.events.push_back(LinkEvent::KeyframeRequested);
        }
        for (kind, ssrc, ntp, rtp_ts) in reports {
            if self.events.len() < MAX_QUEUED_RTP {
                self.events.push_back(LinkEvent::SenderReport { kind, ssrc, ntp, rtp_ts });
            }
        }
        for (received, packet) in undeclared {
            let video = self.video_types.iter().any(|(pt, _)| *pt == packet.header.payload_type);
            let kind = if video { MediaKind::Video } else { MediaKind::Audio };
            self.rtp(self.our_time(received), kind, packet);
        }
    }

    pub(crate) fn engine_message(&mut self, now: Instant, message: RTCMessage) {
        match message {
            RTCMessage::RtpPacket(track, packet) => {
                let kind = if track == "video" { MediaKind::Video } else { MediaKind::Audio };
                self.rtp(now, kind, packet);
            }
            RTCMessage::DataChannelMessage(id, message) => {
                let Some(channel) = self.channels.get_mut(&id) else { return };
                channel.stats.messages_received += 1;
                channel.stats.bytes_received += message.data.len() as u64;
                self.stats.messages_received += 1;
                self.queued_messages += 1;
                self.queued_message_bytes += message.data.len();
                let kind = if message.is_string { MessageKind::Text } else { MessageKind::Binary };
                let data = message.data.freeze();
                self.events.push_back(LinkEvent::Message { id: ChannelId(id), kind, data });
            }
            _ => {}
        }
    }

    fn rtp(&mut self, received: Instant, kind: MediaKind, packet: rtc::rtp::Packet) {
        let header = packet.header;
        let pt = header.payload_type;
        let codec = match kind {
            MediaKind::Video => {
                let found = self.video_types.iter().find(|(number, _)| *number == pt);
                let Some((_, codec)) = found else {
                    self.stats.drops.rtp_unknown += 1;
                    return;
                };
                Some(*codec)
            }
            MediaKind::Audio => {
                if self.audio_codec.as_ref().is_none_or(|c| c.payload_type != pt) {
                    self.stats.drops.rtp_unknown += 1;
                    return;
                }
                None
            }
        };
        if self.queued_rtp >= MAX_QUEUED_RTP {
            self.stats.drops.rtp_queue_full += 1;
            return;
        }
        self.queued_rtp += 1;
        self.events.push_back(LinkEvent::Rtp(RtpIn {
            kind,
            codec,
            ssrc: header.ssrc,
            sequence: header.sequence_number,
            timestamp: header.timestamp,
            marker: header.marker,
            payload: packet.payload,
            received,
        }));
    }

    pub(crate) fn engine_event(&mut self, now: Instant, event: RTCPeerConnectionEvent) {
        match event {
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
                let state = match state {
                    RTCPeerConnectionState::Connecting => LinkState::Connecting,
                    RTCPeerConnectionState::Connected => LinkState::Connected,
                    RTCPeerConnectionState::Disconnected => LinkState::Disconnected,
                    RTCPeerConnectionState::Failed => LinkState::Failed,
                    RTCPeerConnectionState::Closed => LinkState::Closed,
                    // The engine says `new` too where none of W3C's conditions holds, as between ICE and DTLS.
                    _ if self.established => LinkState::Connecting,
                    _ => LinkState::New,
                };
                if state == LinkState::Connected && self.resend.until.is_none() {
                    let wait = if self.negotiated.data { RESEND_FOR } else { RESEND_AFTER_CONNECT };
                    self.resend.until = Some(now + wait);
                }
                self.set_state(state);
            }
            RTCPeerConnectionEvent::OnIceConnectionStateChangeEvent(state) => {
                let state = match state {
                    RTCIceConnectionState::Checking => IceState::Checking,
                    RTCIceConnectionState::Connected => IceState::Connected,
                    RTCIceConnectionState::Completed => IceState::Completed,
                    RTCIceConnectionState::Disconnected => IceState::Disconnected,
                    RTCIceConnectionState::Failed => IceState::Failed,
                    RTCIceConnectionState::Closed => IceState::Closed,
                    _ => IceState::New,
                };
                if matches!(state, IceState::Connected | IceState::Completed) {
                    self.read_selected();
                }
                let again = self.silence.restarted().filter(|_| state == IceState::Connected);
                self.silence.ice_changed(now, state);
                if self.silence.restarted().is_some() && self.resend.done {
                    // Records that come twice from now on don't ask for the end of the handshake.
                    self.resend = Resend::over();
                }
                if let Some(since) = again {
                    self.repeat_recent(since);
                }
                if state != self.ice {
                    self.ice = state;
                    self.events.push_back(LinkEvent::IceState(state));
                }
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                self.resend.done = true;
                self.resend.until = Some(now + RESEND_FOR);
                self.channel_opened(id);
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(id)) => {
                self.channel_closed(id)
            }
            _ => {}
        }
    }
}
