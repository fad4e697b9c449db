//! So that a page in Chromium can send in the very turn in which our channel opens.
//!
//! Chromium announces a channel that the peer created as open before its own transport is told that it is, and drops what
//! the page sends in between, silently. When DATA_CHANNEL_OPEN comes before the COOKIE-ACK that ends the SCTP handshake, in
//! one datagram with it, the channel is there first and opens in order. The records are the same; only their order and the
//! datagram's boundary change.
//!
//! Others are left alone: a receiver may discard DATA before COOKIE-ACK (RFC 9260, section 6), and some do.

use rtc::shared::TaggedBytesMut;

/// A DTLS record with application data (RFC 6347, section 4.1).
const APPLICATION_DATA: u8 = 23;
const MAX_DATAGRAM: usize = 1200;

/// Arranges the first flight of SCTP once, where that is due.
#[derive(Default)]
pub(crate) struct FirstFlight {
    due: bool,
}

impl FirstFlight {
    /// An answer to our first offer came. It is due when that offer created a channel, the peer is libwebrtc, and we are the
    /// DTLS server and so the side that sends COOKIE-ACK.
    pub fn answered(&mut self, sdp: &str, our_channel: bool, server: bool) {
        // libwebrtc alone writes the space; others write `a=msid-semantic:WMS *` or nothing.
        let libwebrtc = sdp.lines().any(|line| line.starts_with("a=msid-semantic: WMS"));
        self.due = our_channel && server && libwebrtc;
    }

    /// Still to be arranged.
    pub fn due(&self) -> bool {
        self.due
    }

    /// `pass` is what the engine wrote when the SCTP handshake ended: COOKIE-ACK, then our DATA_CHANNEL_OPENs.
    pub fn arrange(&mut self, pass: &mut Vec<TaggedBytesMut>) {
        self.due = false;
        let is_data = |m: &TaggedBytesMut| m.message.first() == Some(&APPLICATION_DATA);
        let Some(first) = pass.iter().position(is_data) else { return };
        let Some(last) = pass.iter().rposition(is_data).filter(|last| *last > first) else { return };
        let cookie_ack = pass.remove(first);
        pass.insert(last, cookie_ack);
        let mut at = first;
        while at + 1 < pass.len() {
            let (a, b) = (&pass[at], &pass[at + 1]);
            let same_path = a.transport.peer_addr == b.transport.peer_addr
                && a.transport.local_addr == b.transport.local_addr;
            if is_data(a) && is_data(b) && same_path && a.message.len() + b.message.len() <= MAX_DATAGRAM {
                let next = pass.remove(at + 1);
                pass[at].message.extend_from_slice(&next.message);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rtc::shared::{TransportContext, TransportProtocol};
    use std::time::Instant;

    fn record(first: u8, rest: &[u8], port: u16) -> TaggedBytesMut {
        let mut message = BytesMut::from(&[first][..]);
        message.extend_from_slice(rest);
        let transport = TransportContext {
            local_addr: ([127, 0, 0, 1], 1).into(),
            peer_addr: ([127, 0, 0, 1], port).into(),
            ecn: None,
            transport_protocol: TransportProtocol::UDP,
        };
        TaggedBytesMut { now: Instant::now(), transport, message }
    }

    fn bytes(pass: &[TaggedBytesMut]) -> Vec<Vec<u8>> {
        pass.iter().map(|m| m.message.to_vec()).collect()
    }

    #[test]
    fn the_open_comes_before_the_cookie_ack_in_one_datagram() {
        let mut flight = FirstFlight::default();
        flight.answered("v=0\r\na=msid-semantic: WMS\r\n", true, true);
        assert!(flight.due());
        let mut pass = vec![
            record(0, b"stun", 9),
            record(23, b"ack", 9),
            record(23, b"open", 9),
            record(23, b"more", 9),
        ];
        flight.arrange(&mut pass);
        assert_eq!(bytes(&pass), [b"\0stun".to_vec(), b"\x17open\x17more\x17ack".to_vec()]);
        assert!(!flight.due(), "once");
    }

    #[test]
    fn nothing_is_joined_across_paths_or_over_the_size_of_a_datagram() {
        let mut flight = FirstFlight::default();
        let mut pass = vec![record(23, b"ack", 9), record(23, &[1; 1197], 9)];
        flight.arrange(&mut pass);
        assert_eq!(pass.len(), 2);
        assert_eq!(&pass[1].message[..], b"\x17ack");
        let mut pass = vec![record(23, b"ack", 9), record(23, b"open", 8)];
        flight.arrange(&mut pass);
        assert_eq!(pass.len(), 2);
    }

    #[test]
    fn only_for_libwebrtc_as_dtls_client_and_a_channel_of_ours() {
        for (sdp, channel, server) in [
            ("a=msid-semantic:WMS *", true, true),
            ("v=0", true, true),
            ("a=msid-semantic: WMS", false, true),
            ("a=msid-semantic: WMS", true, false),
        ] {
            let mut flight = FirstFlight::default();
            flight.answered(sdp, channel, server);
            assert!(!flight.due(), "{sdp} {channel} {server}");
        }
    }
}
