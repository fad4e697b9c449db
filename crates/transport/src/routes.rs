//! Where what leaves a session's graph is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use remotemedia_pipeline::{Audience, Data, Item, Kind, Plan};

use crate::mix_out::MixJob;
use crate::outputs::SourceKey;
use crate::peer::Peer;
use crate::session::SessionId;
use crate::shared::{Command, Shared};
use crate::{Message, PeerId, TransportError};

/// What a route carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Track {
    /// Decoded audio.
    Audio,
    /// Decoded pictures.
    Video,
    /// Messages of the built-in channel.
    Data,
}

impl Track {
    /// What items of it are.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Track::Audio => &[Kind::Audio],
            Track::Video => &[Kind::Video],
            Track::Data => &[Kind::Text, Kind::Json, Kind::Binary],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Track::Audio => "audio",
            Track::Video => "video",
            Track::Data => "data",
        }
    }
}

/// Who gets what a route gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    /// The peer it came from.
    Sender,
    /// Every connected peer but the one it came from.
    Others,
    /// Every connected peer.
    All,
    /// These, where they are connected.
    Peers(Vec<PeerId>),
}

/// One route: from peers, through the graph, to peers.
///
/// What a node makes of several peers' media (a mix, a composed picture) comes from nobody: `Others` and `All` are everybody then, as a
/// mixer leaves each listener's own part out by itself, and `Sender` those whose media the route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Whose media; `None`: everybody's.
    pub from: Option<Vec<PeerId>>,
    /// Which of it.
    pub track: Track,
    /// The output that is sent: `node.port`, or `node` for those of a node's outputs that give the track's kind (all of them where none
    /// does).
    pub through: String,
    /// To whom.
    pub to: RouteTo,
}

pub(crate) struct Route {
    pub(crate) id: u64,
    pub(crate) session: SessionId,
    pub(crate) config: RouteConfig,
    node: String,
    ports: Vec<(String, Kind)>,
}

impl Route {
    /// A route needs an output that exists; through another it would never send anything.
    pub(crate) fn new(
        id: u64,
        session: SessionId,
        config: RouteConfig,
        plan: &Plan,
    ) -> Result<Route, TransportError> {
        let all = plan.output_ports(&config.through);
        if all.is_empty() {
            let (through, known) = (&config.through, plan.open_outputs());
            let message = format!("'{through}' is no output node of the graph; those are: {known}");
            return Err(TransportError::Config { field: "through", message });
        }
        let kinds = config.track.kinds();
        if !plan.leads_to(kinds, &config.through) {
            let (track, through) = (config.track.name(), &config.through);
            let takes = plan.takes().iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
            let message = format!("{track} doesn't lead to '{through}' in this graph, which takes: {takes}");
            return Err(TransportError::Config { field: "track", message });
        }
        let fits = |(_, kind): &&(&str, Kind)| {
            config.through.contains('.') || *kind == Kind::Any || kinds.contains(kind)
        };
        let chosen: Vec<_> = if all.iter().any(|port| fits(&port)) {
            all.iter().filter(fits).collect()
        } else {
            all.iter().collect()
        };
        let ports = chosen.into_iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        let node = config.through.split('.').next().unwrap_or_default().to_owned();
        Ok(Route { id, session, config, node, ports })
    }

    /// Whether it takes this of a peer in.
    pub(crate) fn takes(&self, peer: &str, track: Track) -> bool {
        let RouteConfig { from, track: own, .. } = &self.config;
        *own == track && from.as_ref().is_none_or(|from| from.iter().any(|id| &**id == peer))
    }

    /// Whether it sends what leaves by this output.
    pub(crate) fn sends(&self, node: &str, port: &str) -> bool {
        self.node == node && self.ports.iter().any(|(own, _)| own == port)
    }

    /// The same of an item whose port is not known.
    pub(crate) fn sends_kind(&self, node: &str, kind: Kind) -> bool {
        self.node == node && self.ports.iter().any(|(_, own)| own.accepts(kind))
    }

    /// Sends what came of something that this peer sent.
    pub(crate) fn send_of(&self, shared: &Arc<Shared>, from: &PeerId, item: Item) {
        let mut targets = shared.peers.connected();
        match &self.config.to {
            RouteTo::Sender => targets.retain(|p| p.id == *from),
            RouteTo::Others => targets.retain(|p| p.id != *from),
            RouteTo::All => {}
            RouteTo::Peers(ids) => targets.retain(|p| ids.contains(&p.id)),
        }
        self.send(shared, SourceKey::Route(self.id, from.clone()), item.data, targets);
    }

    /// Sends what nobody's media led to by itself. `instance`: of whom, where it comes from a peer's own nodes.
    pub(crate) fn send_made(&self, shared: &Arc<Shared>, instance: Option<&PeerId>, item: Item) {
        let mut targets = shared.peers.connected();
        match (&self.config.to, &self.config.from) {
            (RouteTo::Sender, Some(from)) => targets.retain(|p| from.contains(&p.id)),
            (RouteTo::Peers(ids), _) => targets.retain(|p| ids.contains(&p.id)),
            _ => {}
        }
        match (item.audience, instance) {
            (Some(Audience::One(listener)), instance) => {
                targets.retain(|p| p.id == listener);
                match item.data {
                    // From the mixer itself, which gives what all the others hear as well.
                    Data::Audio(frame) if instance.is_none() => {
                        let job = MixJob::Own { listener, frame, targets };
                        shared.outputs.send_mix(shared, self.id, job);
                    }
                    data => self.send(shared, SourceKey::Own(self.id, listener), data, targets),
                }
            }
            (Some(Audience::AllBut(others)), _) => {
                targets.retain(|p| !others.contains(&p.id));
                match item.data {
                    Data::Audio(frame) => {
                        shared.outputs.send_mix(shared, self.id, MixJob::Common { frame, targets });
                    }
                    data => self.send(shared, SourceKey::Mix(self.id), data, targets),
                }
            }
            (None, Some(instance)) => {
                if self.takes(instance, self.config.track) {
                    self.send_of(shared, instance, Item::new(item.data));
                }
            }
            (None, None) => self.send(shared, SourceKey::Mix(self.id), item.data, targets),
        }
    }

    fn send(&self, shared: &Arc<Shared>, key: SourceKey, data: Data, targets: Vec<Arc<Peer>>) {
        match data {
            Data::Video(frame) => shared.outputs.send_video(shared, key, frame, targets),
            Data::Audio(frame) => {
                shared.outputs.send_audio(shared, key, &self.config.through, frame, targets)
            }
            data => {
                let Some(message) = message(data) else { return };
                for peer in targets {
                    // A receiver that takes no more loses this one; the others don't wait for it.
                    if peer.enqueue(0, message.clone()).is_ok() {
                        shared.commands.push(Command::Pump { peer: peer.id.clone(), channel: 0 });
                    } else {
                        shared.counters.packets_refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

fn message(data: Data) -> Option<Message> {
    match data {
        Data::Text(text) => Some(Message::Text(Bytes::copy_from_slice(text.as_bytes()))),
        Data::Json(value) => serde_json::to_vec(&*value).ok().map(|bytes| Message::Json(bytes.into())),
        Data::Binary(bytes) => Some(Message::Binary(bytes)),
        _ => None,
    }
}
