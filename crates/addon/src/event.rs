//! What the transport tells TypeScript.

use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use remotemedia_transport::{Event, Message, PeerId, PeerStatus, Signal};

use crate::error::NativeError;
use crate::item::ItemOut;
use crate::stats::{
    NativePath, NativeQuality, PeerStatsOut, milliseconds, path_out, peer_stats, quality_out,
};

/// Something that happened. `kind` says which fields there are.
#[napi(object, object_from_js = false)]
pub struct NativeEvent {
    /// `offer`, `answer`, `candidate`, `signalError`, `connected`, `joined`, `left`, `state`, `path`, `message`, `drained`,
    /// `channelOpen`, `channelClosed`, `media`, `stats`, `turnServersNeeded`, `addresses`,
    /// `undelivered`, `quality`, `error`.
    pub kind: &'static str,
    /// The peer concerned.
    pub peer_id: Option<String>,
    /// SDP, candidate line, reason, state or label.
    pub text: Option<String>,
    /// Why a state changed; the mid of a candidate.
    pub detail: Option<String>,
    /// Why a state changed or a peer left: a stable word.
    pub code: Option<String>,
    /// The way to the peer.
    pub path: Option<NativePath>,
    /// Round trip on it, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// The request answered, the channel, or a candidate's section.
    pub number: Option<u32>,
    /// A received message or media.
    pub item: Option<ItemOut>,
    /// How many messages were acknowledged, of a channel that ended.
    pub acknowledged: Option<f64>,
    /// Messages that may have arrived.
    pub unknown: Option<Vec<ItemOut>>,
    /// Messages that were not sent.
    pub unsent: Option<Vec<ItemOut>>,
    /// Ordered, for channels.
    pub ordered: Option<bool>,
    /// Reliable, for channels.
    pub reliable: Option<bool>,
    /// What failed.
    pub error: Option<NativeError>,
    /// The answer to `requestStats`.
    pub stats: Option<Vec<PeerStatsOut>>,
    /// How good the connection is.
    pub quality: Option<NativeQuality>,
}

pub(crate) fn event_out(event: Event) -> NativeEvent {
    match event {
        Event::Signal { peer, signal } => match signal {
            Signal::Offer(sdp) => NativeEvent { text: Some(sdp), ..empty("offer", Some(peer)) },
            Signal::Answer(sdp) => NativeEvent { text: Some(sdp), ..empty("answer", Some(peer)) },
            Signal::Candidate(c) => NativeEvent {
                text: Some(c.candidate),
                detail: c.sdp_mid,
                number: c.sdp_m_line_index.map(u32::from),
                ..empty("candidate", Some(peer))
            },
            Signal::Error { code, message } => NativeEvent {
                text: Some(message),
                detail: Some(code.to_string()),
                ..empty("signalError", Some(peer))
            },
        },
        Event::Connected { request, peer, result } => NativeEvent {
            number: Some(request),
            error: result.err().map(Into::into),
            ..empty("connected", Some(peer))
        },
        Event::PeerJoined(p) => NativeEvent {
            text: p.user_data,
            detail: Some(serde_json::to_string(&p.capabilities).unwrap_or_default()),
            ..empty("joined", Some(p.peer_id))
        },
        Event::PeerLeft { peer, reason } => NativeEvent {
            text: Some(reason.to_string()),
            code: Some(reason.code().to_owned()),
            ..empty("left", Some(peer))
        },
        Event::PeerState { peer, status } => status_out("state", peer, status),
        Event::PeerPath { peer, status } => status_out("path", peer, status),
        Event::Quality { peer, report } => {
            NativeEvent { quality: Some(quality_out(report)), ..empty("quality", Some(peer)) }
        }
        Event::Message { peer, channel, message } => match message_out(message) {
            Some(item) => {
                NativeEvent { number: Some(channel), item: Some(item), ..empty("message", Some(peer)) }
            }
            None => {
                let message = "sent a text message that is not UTF-8; it was dropped".to_owned();
                let error = NativeError { code: "ERR_SIGNALING", message, peer_id: Some(peer.to_string()) };
                NativeEvent { error: Some(error), ..empty("error", Some(peer)) }
            }
        },
        Event::Drained { peer, channel } => {
            NativeEvent { number: Some(channel), ..empty("drained", Some(peer)) }
        }
        Event::ChannelOpen { peer, channel, label, ordered, reliable } => NativeEvent {
            number: Some(channel),
            text: Some(label),
            ordered: Some(ordered),
            reliable: Some(reliable),
            ..empty("channelOpen", Some(peer))
        },
        Event::ChannelClosed { peer, channel } => {
            NativeEvent { number: Some(channel), ..empty("channelClosed", Some(peer)) }
        }
        Event::Undelivered { peer, channel, acknowledged, unknown, unsent } => {
            let items = |messages: Vec<Message>| Some(messages.into_iter().filter_map(message_out).collect());
            NativeEvent {
                number: Some(channel),
                acknowledged: Some(acknowledged as f64),
                unknown: items(unknown),
                unsent: items(unsent),
                ..empty("undelivered", Some(peer))
            }
        }
        Event::Audio { peer, frame } => {
            NativeEvent { item: Some(ItemOut::audio(frame)), ..empty("media", Some(peer)) }
        }
        Event::Video { peer, frame } => {
            NativeEvent { item: Some(ItemOut::video(frame)), ..empty("media", Some(peer)) }
        }
        Event::Stats { request, peers } => NativeEvent {
            number: Some(request),
            stats: Some(peers.into_iter().map(peer_stats).collect()),
            ..empty("stats", None)
        },
        Event::SessionClosed { session } => {
            NativeEvent { number: Some(session.0 as u32), ..empty("sessionClosed", None) }
        }
        Event::AddressesChanged => empty("addresses", None),
        Event::TurnServersNeeded => empty("turnServersNeeded", None),
        Event::Error { peer, error } => NativeEvent { error: Some(error.into()), ..empty("error", peer) },
    }
}

fn empty(kind: &'static str, peer: Option<PeerId>) -> NativeEvent {
    NativeEvent {
        kind,
        peer_id: peer.map(|p| p.to_string()),
        text: None,
        detail: None,
        code: None,
        path: None,
        round_trip_ms: None,
        number: None,
        item: None,
        acknowledged: None,
        unknown: None,
        unsent: None,
        ordered: None,
        reliable: None,
        error: None,
        stats: None,
        quality: None,
    }
}

fn status_out(kind: &'static str, peer: PeerId, status: PeerStatus) -> NativeEvent {
    NativeEvent {
        text: Some(status.state.as_str().to_owned()),
        detail: Some(status.reason.to_string()),
        code: Some(status.reason.code().to_owned()),
        path: status.path.map(path_out),
        round_trip_ms: status.round_trip.map(milliseconds),
        ..empty(kind, Some(peer))
    }
}

fn message_out(message: Message) -> Option<ItemOut> {
    let text = |kind, bytes: bytes::Bytes| {
        String::from_utf8(bytes.into())
            .ok()
            .map(|text| ItemOut { text: Some(text), ..ItemOut::empty(kind, 0) })
    };
    match message {
        Message::Text(bytes) => text("text", bytes),
        Message::Json(bytes) => text("json", bytes),
        Message::Binary(bytes) => {
            Some(ItemOut { data: Some(Uint8Array::new(bytes.into())), ..ItemOut::empty("binary", 0) })
        }
    }
}
