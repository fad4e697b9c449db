//! `WebRtcTransport`'s native half.

use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{AsyncTask, ClassInstance, Either, Env, Function, Result, Task};
use napi_derive::napi;
use remotemedia_media::{VideoCodec, VideoContent};
use remotemedia_pipeline::Data;
use remotemedia_transport::{
    AudioConfig, ChannelOptions, Config, DataMode, IceCandidate, IceTransportPolicy, Message,
    PeerAnnouncement, PeerId, RelayProtocol, Retry, RouteConfig, RouteTo, SessionId, Signal, StunServer,
    Track, Transport, TransportError, TurnServer, VideoConfig,
};

use crate::error::NativeError;
use crate::event::{NativeEvent, event_out};
use crate::frame::Frame;
use crate::item::ItemIn;
use crate::runner::{JsPlan, JsRunner};
use crate::stats::{NativePath, NativeQuality, milliseconds, path_out, quality_out};
use crate::wake::Wake;

/// Settings; TypeScript has checked them and filled in defaults.
#[napi(object, object_to_js = false)]
pub struct TransportOptions {
    /// Our id.
    pub peer_id: String,
    /// Remote peers at most.
    pub max_peers: u32,
    /// Connect to everyone announced.
    pub auto_connect: bool,
    /// `reliable`, `unordered`, `unreliable`; absent: no data channel.
    pub data_mode: Option<String>,
    /// Preferred first.
    pub video_codecs: Vec<String>,
    /// Only these.
    pub allow_peers: Option<Vec<String>>,
    /// Never these.
    pub deny_peers: Option<Vec<String>>,
    /// Try failed connections again.
    pub retry_enabled: bool,
    /// Attempts; absent: no limit.
    pub retry_max_attempts: Option<u32>,
    /// Milliseconds.
    pub retry_initial_delay_ms: u32,
    /// Milliseconds.
    pub retry_max_delay_ms: u32,
    /// How long a silent connection is kept, milliseconds.
    pub grace_ms: u32,
    /// STUN servers.
    pub stun_servers: Vec<StunServerOptions>,
    /// TURN servers; absent: `setTurnServers` brings them, whenever `turnServersNeeded` asks.
    pub turn_servers: Option<Vec<TurnServerOptions>>,
    /// Use relays only.
    pub relay_only: bool,
    /// Certificates that vouch for TURN servers over TLS, PEM.
    pub tls_roots: Option<String>,
    /// bit/s.
    pub audio_bitrate_bps: Option<u32>,
    /// 1 or 2.
    pub audio_channels: u32,
    /// 10, 20, 40 or 60.
    pub audio_frame_ms: u32,
    /// Forward error correction.
    pub audio_fec: bool,
    /// Discontinuous transmission.
    pub audio_dtx: bool,
    /// 0 to 10.
    pub audio_complexity: u32,
    /// bit/s.
    pub video_start_bitrate_bps: Option<u32>,
    /// bit/s.
    pub video_max_bitrate_bps: u32,
    /// Frames a second.
    pub video_max_fps: u32,
    /// Pixels.
    pub video_max_width: u32,
    /// Pixels.
    pub video_max_height: u32,
    /// `motion`, `detail` or `text`.
    pub video_content: String,
}

/// A STUN server.
#[napi(object, object_to_js = false)]
pub struct StunServerOptions {
    /// Name or address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u32,
}

/// A TURN server.
#[napi(object, object_to_js = false)]
pub struct TurnServerOptions {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u32,
    /// `udp`, `tcp` or `tls`.
    pub protocol: String,
    /// User name.
    pub username: String,
    /// Password.
    pub credential: String,
}

/// A peer as signaling announces it.
#[napi(object, object_to_js = false)]
pub struct Announcement {
    /// Its id.
    pub peer_id: String,
    /// What it says it can do.
    pub capabilities: Vec<String>,
    /// Its own data, as JSON.
    pub user_data: Option<String>,
}

/// A peer as it is right now.
#[napi(object, object_from_js = false)]
pub struct NativePeer {
    /// Its id.
    pub peer_id: String,
    /// W3C state.
    pub state: &'static str,
    /// Why it is in that state: a stable word.
    pub reason_code: &'static str,
    /// The same with details, for people.
    pub reason: String,
    /// The way to it.
    pub path: Option<NativePath>,
    /// Round trip on it, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// It takes audio.
    pub audio: bool,
    /// What video it takes.
    pub video_codec: Option<&'static str>,
    /// How good the connection is.
    pub quality: Option<NativeQuality>,
    /// Bytes not yet acknowledged.
    pub buffered_amount: f64,
}

/// A route.
#[napi(object, object_to_js = false)]
pub struct RouteOptions {
    /// Whose; absent: everybody's.
    pub from: Option<Vec<String>>,
    /// `audio`, `video` or `data`.
    pub track: String,
    /// The output node.
    pub through: String,
    /// `sender`, `others`, `all`; absent: `to_peers`.
    pub to: Option<String>,
    /// These.
    pub to_peers: Option<Vec<String>>,
}

/// Totals.
#[napi(object, object_from_js = false)]
pub struct NativeCounters {
    /// Datagrams of nobody here.
    pub unknown_datagrams: f64,
    /// Peers that wait because their messages are not taken.
    pub held_peers: f64,
    /// Media lost to an overloaded net thread.
    pub media_commands_dropped: f64,
    /// Pictures left out because their receiver was shown another stream.
    pub pictures_in_conflict: f64,
    /// Opus encoders that run now: a conference has one for each listener who is heard by others, and one for all who are silent.
    pub audio_encoders: f64,
    /// Invalid offers, answers, candidates.
    pub signals_refused: f64,
    /// Media and messages that could not be sent.
    pub packets_refused: f64,
    /// Announcements with a bad id or too much data, and peers beyond the roster.
    pub announcements_dropped: f64,
    /// Offers of denied peers.
    pub denied_offers: f64,
    /// Offers there was no room for.
    pub refused_offers: f64,
    /// Offers and answers that are no SDP, too long, or not accepted.
    pub bad_descriptions: f64,
    /// Answers without an offer.
    pub unexpected_answers: f64,
    /// Candidates of unknown peers.
    pub unknown_candidates: f64,
    /// Candidates too long or beyond the limit of a negotiation.
    pub dropped_candidates: f64,
    /// Links that failed.
    pub failed_links: f64,
    /// `.local` names of candidates resolved.
    pub names_resolved: f64,
    /// `.local` names of candidates not resolved.
    pub names_unresolved: f64,
    /// Pictures replaced before JavaScript took them.
    pub video_dropped: f64,
    /// Audio dropped because JavaScript was late.
    pub audio_dropped: f64,
    /// Events dropped.
    pub events_dropped: f64,
    /// Message bytes waiting for JavaScript.
    pub message_bytes: f64,
}

/// A running transport.
#[napi(js_name = "NativeTransport")]
pub struct JsTransport {
    pub(crate) transport: Arc<Transport>,
}

/// `close` on a worker: it joins threads.
pub struct CloseTask(Arc<Transport>);

#[napi]
impl JsTransport {
    /// Starts a transport. `wake` is called when `drain` has something to give.
    #[napi]
    pub fn open(
        env: Env,
        options: TransportOptions,
        wake: Function<'_, (), ()>,
    ) -> Result<Either<JsTransport, NativeError>> {
        let wake = Wake::new(&wake)?;
        let transport = match config(options).and_then(|c| Ok(Transport::new(c, move || wake.call())?)) {
            Ok(transport) => Arc::new(transport),
            Err(error) => return Ok(Either::B(error)),
        };
        // A worker thread or the process can end without close(): the threads end with it.
        let at_exit = Arc::downgrade(&transport);
        env.add_env_cleanup_hook((), move |()| {
            if let Some(transport) = at_exit.upgrade() {
                transport.close();
            }
        })?;
        Ok(Either::A(JsTransport { transport }))
    }

    /// Takes what happened, at most `max` events beside frames.
    #[napi(catch_unwind)]
    pub fn drain(&self, max: u32) -> Vec<NativeEvent> {
        let mut events = Vec::new();
        self.transport.drain(max as usize, &mut events);
        events.into_iter().map(event_out).collect()
    }

    /// We are in the room with these.
    #[napi(catch_unwind)]
    pub fn announced(&self, peers: Vec<Announcement>) {
        self.transport.announced(peers.into_iter().map(announcement).collect());
    }

    /// A peer joined after us.
    #[napi(catch_unwind)]
    pub fn peer_joined(&self, peer: Announcement) {
        self.transport.peer_joined(announcement(peer));
    }

    /// A peer left.
    #[napi(catch_unwind)]
    pub fn peer_left(&self, peer_id: String) {
        self.transport.peer_left(peer_id.into());
    }

    /// A peer says that it leaves.
    #[napi(catch_unwind)]
    pub fn peer_disconnected(&self, peer_id: String, reason: Option<String>) {
        self.transport.peer_disconnected(peer_id.into(), reason);
    }

    /// An offer came.
    #[napi(catch_unwind)]
    pub fn offer(&self, peer_id: String, sdp: String) {
        self.transport.signal(peer_id.into(), Signal::Offer(sdp));
    }

    /// An answer came.
    #[napi(catch_unwind)]
    pub fn answer(&self, peer_id: String, sdp: String) {
        self.transport.signal(peer_id.into(), Signal::Answer(sdp));
    }

    /// A candidate came.
    #[napi(catch_unwind)]
    pub fn candidate(&self, peer_id: String, candidate: String, sdp_mid: Option<String>, index: Option<u32>) {
        let sdp_m_line_index = index.and_then(|i| u16::try_from(i).ok());
        let candidate = IceCandidate { candidate, sdp_mid, sdp_m_line_index };
        self.transport.signal(peer_id.into(), Signal::Candidate(candidate));
    }

    /// What we sent to a peer could not be delivered.
    #[napi(catch_unwind)]
    pub fn signal_error(&self, peer_id: String, code: i32, message: String) {
        self.transport.signal(peer_id.into(), Signal::Error { code, message });
    }

    /// The TURN servers from now on.
    #[napi(catch_unwind)]
    pub fn set_turn_servers(&self, servers: Vec<TurnServerOptions>) -> Option<NativeError> {
        let servers = match turn_servers(servers) {
            Ok(servers) => servers,
            Err(error) => return Some(error),
        };
        self.transport.set_turn_servers(servers).err().map(NativeError::from)
    }

    /// The signaling connection is gone.
    #[napi(catch_unwind)]
    pub fn signaling_lost(&self) {
        self.transport.signaling_lost();
    }

    /// The signaling connection is back.
    #[napi(catch_unwind)]
    pub fn signaling_restored(&self) {
        self.transport.signaling_restored();
    }

    /// A `connected` event with `request` follows.
    #[napi(catch_unwind)]
    pub fn connect_peer(&self, peer_id: String, request: u32, timeout_ms: f64) {
        let timeout = Duration::from_millis(timeout_ms.max(0.0) as u64);
        self.transport.connect_peer(peer_id.into(), request, timeout);
    }

    /// Nobody waits for this request any more.
    #[napi(catch_unwind)]
    pub fn cancel_connect(&self, request: u32) {
        self.transport.cancel_connect(request);
    }

    /// Ends a connection.
    #[napi(catch_unwind)]
    pub fn disconnect_peer(&self, peer_id: String, reason: String) {
        self.transport.disconnect_peer(peer_id.into(), reason);
    }

    /// Everyone there is or was a link with.
    #[napi(catch_unwind)]
    pub fn peers(&self) -> Vec<NativePeer> {
        let peers = self.transport.peers().into_iter();
        peers
            .map(|p| NativePeer {
                peer_id: p.id.to_string(),
                state: p.status.state.as_str(),
                reason_code: p.status.reason.code(),
                reason: p.status.reason.to_string(),
                path: p.status.path.map(path_out),
                round_trip_ms: p.status.round_trip.map(milliseconds),
                audio: p.audio,
                video_codec: p.video_codec.map(codec_name),
                quality: p.quality.map(quality_out),
                buffered_amount: p.buffered_amount as f64,
            })
            .collect()
    }

    /// Hands over a message. True: room for more; false: wait for `drained`.
    #[napi(catch_unwind)]
    pub fn send_text(
        &self,
        peer_id: String,
        channel: u32,
        text: String,
        json: bool,
    ) -> Either<bool, NativeError> {
        let message = if json { Message::Json(text.into()) } else { Message::Text(text.into()) };
        sent(self.transport.send_message(&peer_id, channel, message))
    }

    /// Hands over a message. True: room for more; false: wait for `drained`.
    #[napi(catch_unwind)]
    pub fn send_binary(&self, peer_id: String, channel: u32, data: &[u8]) -> Either<bool, NativeError> {
        sent(self.transport.send_message(&peer_id, channel, Message::Binary(data.to_vec().into())))
    }

    /// Makes a peer wait with its messages, or lets it go on.
    #[napi(catch_unwind)]
    pub fn hold_messages(&self, peer_id: String, hold: bool) {
        self.transport.hold_messages(&peer_id, hold);
    }

    /// Bytes not yet acknowledged.
    #[napi(catch_unwind)]
    pub fn buffered_amount(&self, peer_id: String, channel: u32) -> f64 {
        self.transport.buffered_amount(&peer_id, channel) as f64
    }

    /// Opens a channel and gives its number; `channelOpen` or `channelClosed` follows.
    #[napi(catch_unwind)]
    pub fn open_channel(
        &self,
        peer_id: String,
        label: String,
        mode: String,
        protocol: String,
    ) -> Either<u32, NativeError> {
        let Some(mode) = data_mode(&mode) else {
            return Either::B(NativeError::config(format_args!("mode '{mode}' is not known")));
        };
        match self.transport.open_channel(&peer_id, label, ChannelOptions { mode, protocol }) {
            Ok(channel) => Either::A(channel),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Closes a channel.
    #[napi(catch_unwind)]
    pub fn close_channel(&self, peer_id: String, channel: u32) {
        self.transport.close_channel(&peer_id, channel);
    }

    /// Whether received audio and video come as events.
    #[napi(catch_unwind)]
    pub fn subscribe(&self, audio: bool, video: bool) {
        self.transport.subscribe(audio, video);
    }

    /// Sends audio or video to one peer.
    #[napi(catch_unwind)]
    pub fn send_media(
        &self,
        peer_id: String,
        item: ItemIn,
        frame: Option<ClassInstance<'_, Frame>>,
    ) -> Option<NativeError> {
        let data = match item.into_item(frame) {
            Ok(item) => item.data,
            Err(error) => return Some(error),
        };
        let result = match data {
            Data::Audio(frame) => self.transport.send_audio(&peer_id, frame),
            Data::Video(frame) => self.transport.send_video(&peer_id, frame),
            _ => return Some(NativeError::config("only audio and video are media")),
        };
        result.err().map(NativeError::from)
    }

    /// Sends audio or video to every connected peer but these. Gives an error for each peer that takes none.
    #[napi(catch_unwind)]
    pub fn broadcast_media(
        &self,
        exclude: Vec<String>,
        item: ItemIn,
        frame: Option<ClassInstance<'_, Frame>>,
    ) -> Vec<NativeError> {
        let data = match item.into_item(frame) {
            Ok(item) => item.data,
            Err(error) => return vec![error],
        };
        let exclude: Vec<PeerId> = exclude.into_iter().map(PeerId::from).collect();
        let errors = match data {
            Data::Audio(frame) => self.transport.broadcast_audio(frame, &exclude),
            Data::Video(frame) => self.transport.broadcast_video(frame, &exclude),
            _ => return vec![NativeError::config("only audio and video are media")],
        };
        errors.into_iter().map(NativeError::from).collect()
    }

    /// A `stats` event with `request` follows.
    #[napi(catch_unwind)]
    pub fn request_stats(&self, request: u32, peer_id: Option<String>) {
        self.transport.request_stats(request, peer_id.map(PeerId::from));
    }

    /// Totals.
    #[napi(catch_unwind)]
    pub fn counters(&self) -> NativeCounters {
        let c = self.transport.counters();
        NativeCounters {
            unknown_datagrams: c.unknown_datagrams as f64,
            held_peers: c.held_peers as f64,
            media_commands_dropped: c.media_commands_dropped as f64,
            pictures_in_conflict: c.pictures_in_conflict as f64,
            audio_encoders: c.audio_encoders as f64,
            signals_refused: c.signals_refused as f64,
            packets_refused: c.packets_refused as f64,
            names_resolved: c.names_resolved as f64,
            names_unresolved: c.names_unresolved as f64,
            announcements_dropped: (c.mesh.bad_announcements + c.mesh.roster_overflow) as f64,
            denied_offers: c.mesh.denied_offers as f64,
            refused_offers: c.mesh.refused_offers as f64,
            bad_descriptions: c.mesh.bad_descriptions as f64,
            unexpected_answers: c.mesh.unexpected_answers as f64,
            unknown_candidates: c.mesh.unknown_candidates as f64,
            dropped_candidates: c.mesh.dropped_candidates as f64,
            failed_links: c.mesh.failed_links as f64,
            video_dropped: c.events.video_dropped as f64,
            audio_dropped: c.events.audio_dropped as f64,
            events_dropped: c.events.events_dropped as f64,
            message_bytes: c.events.message_bytes as f64,
        }
    }

    /// Starts a session.
    #[napi(catch_unwind)]
    pub fn create_session(&self, plan: &JsPlan) -> Either<f64, NativeError> {
        match self.transport.create_session(plan.plan.clone()) {
            Ok(SessionId(id)) => Either::A(id as f64),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Runs an item through a session's graph. The runner gets a `done` task with `request`, unless an error is returned.
    #[napi(catch_unwind)]
    pub fn execute(
        &self,
        session: f64,
        runner: &JsRunner,
        request: u32,
        peer_id: Option<String>,
        item: ItemIn,
        frame: Option<ClassInstance<'_, Frame>>,
    ) -> Option<NativeError> {
        let item = match item.into_item(frame) {
            Ok(item) => item,
            Err(error) => return Some(error),
        };
        self.transport.execute(session_id(session), peer_id.as_deref(), item, runner.done(request));
        None
    }

    /// Adds a route and gives its number.
    #[napi(catch_unwind)]
    pub fn add_route(&self, session: f64, route: RouteOptions) -> Either<f64, NativeError> {
        match route_config(route)
            .and_then(|route| Ok(self.transport.add_route(session_id(session), route)?))
        {
            Ok(id) => Either::A(id as f64),
            Err(error) => Either::B(error),
        }
    }

    /// Replaces a route while it runs.
    #[napi(catch_unwind)]
    pub fn update_route(&self, route: f64, options: RouteOptions) -> Option<NativeError> {
        route_config(options).and_then(|config| Ok(self.transport.update_route(route as u64, config)?)).err()
    }

    /// Ends a route.
    #[napi(catch_unwind)]
    pub fn remove_route(&self, route: f64) {
        self.transport.remove_route(route as u64);
    }

    /// Changes a node's parameter, given as JSON.
    #[napi(catch_unwind)]
    pub fn set_param(&self, session: f64, node: String, name: String, value: String) -> Option<NativeError> {
        let value = match serde_json::from_str(&value) {
            Ok(value) => value,
            Err(error) => return Some(NativeError::config(error)),
        };
        self.transport.set_param(session_id(session), &node, &name, value).err().map(NativeError::from)
    }

    /// Switches a node on or off.
    #[napi(catch_unwind)]
    pub fn set_enabled(&self, session: f64, node: String, enabled: bool) -> Option<NativeError> {
        self.transport.set_enabled(session_id(session), &node, enabled).err().map(NativeError::from)
    }

    /// Ends everything and joins the threads.
    #[napi]
    pub fn close(&self) -> AsyncTask<CloseTask> {
        AsyncTask::new(CloseTask(self.transport.clone()))
    }
}

impl Task for CloseTask {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> Result<()> {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.0.close()));
        Ok(())
    }

    fn resolve(&mut self, _: Env, (): ()) -> Result<()> {
        Ok(())
    }
}

fn config(o: TransportOptions) -> std::result::Result<Config, NativeError> {
    let mut video_codecs = Vec::new();
    for name in &o.video_codecs {
        let codec: VideoCodec = name
            .parse()
            .map_err(|_| NativeError::config(format_args!("videoCodec '{name}' is not known")))?;
        // A build without H.264 or AV1 neither offers nor accepts it.
        if codec.is_available() {
            video_codecs.push(codec);
        }
    }
    Ok(Config {
        peer_id: o.peer_id,
        max_peers: o.max_peers as usize,
        auto_connect: o.auto_connect,
        allow_peers: o.allow_peers,
        deny_peers: o.deny_peers,
        retry: Retry {
            enabled: o.retry_enabled,
            max_attempts: o.retry_max_attempts,
            initial_delay: Duration::from_millis(o.retry_initial_delay_ms.into()),
            max_delay: Duration::from_millis(o.retry_max_delay_ms.into()),
        },
        grace: Duration::from_millis(o.grace_ms.into()),
        stun_servers: stun_servers(o.stun_servers)?,
        asks_turn_servers: o.turn_servers.is_none(),
        turn_servers: turn_servers(o.turn_servers.unwrap_or_default())?,
        ice_transport_policy: if o.relay_only { IceTransportPolicy::Relay } else { IceTransportPolicy::All },
        tls_roots: o.tls_roots.unwrap_or_default().into(),
        data: o.data_mode.as_deref().and_then(data_mode),
        video_codecs,
        audio: AudioConfig {
            bitrate_bps: o.audio_bitrate_bps,
            channels: o.audio_channels as u16,
            frame_ms: o.audio_frame_ms as u8,
            fec: o.audio_fec,
            dtx: o.audio_dtx,
            complexity: o.audio_complexity as u8,
        },
        video: VideoConfig {
            start_bitrate_bps: o.video_start_bitrate_bps,
            max_bitrate_bps: o.video_max_bitrate_bps,
            max_fps: o.video_max_fps,
            max_width: o.video_max_width,
            max_height: o.video_max_height,
            content: match o.video_content.as_str() {
                "detail" => VideoContent::Detail,
                "text" => VideoContent::Text,
                _ => VideoContent::Motion,
            },
        },
        ..Config::default()
    })
}

fn stun_servers(servers: Vec<StunServerOptions>) -> std::result::Result<Vec<StunServer>, NativeError> {
    servers.into_iter().map(|s| Ok(StunServer { port: port(s.port)?, host: s.host })).collect()
}

fn turn_servers(servers: Vec<TurnServerOptions>) -> std::result::Result<Vec<TurnServer>, NativeError> {
    let server = |s: TurnServerOptions| {
        let protocol = match s.protocol.as_str() {
            "udp" => RelayProtocol::Udp,
            "tcp" => RelayProtocol::Tcp,
            "tls" => RelayProtocol::Tls,
            other => {
                return Err(NativeError::config(format_args!("protocol '{other}' is none of udp, tcp, tls")));
            }
        };
        let TurnServerOptions { host, username, credential, .. } = s;
        Ok(TurnServer { host, port: port(s.port)?, protocol, username, credential })
    };
    servers.into_iter().map(server).collect()
}

fn port(port: u32) -> std::result::Result<u16, NativeError> {
    u16::try_from(port).map_err(|_| NativeError::config(format_args!("port {port} is above 65535")))
}

fn route_config(o: RouteOptions) -> std::result::Result<RouteConfig, NativeError> {
    let ids = |ids: Vec<String>| ids.into_iter().map(PeerId::from).collect::<Vec<_>>();
    let track = match o.track.as_str() {
        "audio" => Track::Audio,
        "video" => Track::Video,
        "data" => Track::Data,
        other => {
            return Err(NativeError::config(format_args!("track '{other}' is none of audio, video, data")));
        }
    };
    let to = match o.to.as_deref() {
        Some("sender") => RouteTo::Sender,
        Some("others") => RouteTo::Others,
        Some("all") => RouteTo::All,
        Some(other) => {
            return Err(NativeError::config(format_args!("to '{other}' is none of sender, others, all")));
        }
        None => RouteTo::Peers(ids(o.to_peers.unwrap_or_default())),
    };
    Ok(RouteConfig { from: o.from.map(ids), track, through: o.through, to })
}

fn sent(result: std::result::Result<bool, TransportError>) -> Either<bool, NativeError> {
    match result {
        Ok(room) => Either::A(room),
        Err(error) => Either::B(error.into()),
    }
}

fn announcement(a: Announcement) -> PeerAnnouncement {
    PeerAnnouncement { peer_id: a.peer_id.into(), capabilities: a.capabilities, user_data: a.user_data }
}

pub(crate) fn session_id(id: f64) -> SessionId {
    SessionId(id as u64)
}

fn data_mode(name: &str) -> Option<DataMode> {
    match name {
        "reliable" => Some(DataMode::Reliable),
        "unordered" => Some(DataMode::Unordered),
        "unreliable" => Some(DataMode::Unreliable),
        _ => None,
    }
}

pub(crate) fn codec_name(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::Vp9 => "vp9",
        VideoCodec::Vp8 => "vp8",
        VideoCodec::H264 => "h264",
        VideoCodec::Av1 => "av1",
    }
}
