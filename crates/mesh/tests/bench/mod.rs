//! One mesh on the bench: inputs by hand, and what it does about them.
#![allow(dead_code, missing_docs)]

use std::time::Duration;

use remotemedia_mesh::*;

pub const LONG: Duration = Duration::from_secs(10);

pub struct Bench {
    pub mesh: Mesh,
    pub now: Time,
}

impl Bench {
    pub fn new(config: MeshConfig) -> Self {
        Self { mesh: Mesh::new(config, Time::ZERO), now: Time::ZERO }
    }

    pub fn named(id: &str) -> Self {
        Self::new(MeshConfig::new(id))
    }

    pub fn give(&mut self, input: Input) -> Vec<Action> {
        self.mesh.handle(self.now, input);
        self.drain()
    }

    pub fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.mesh.poll()).collect()
    }

    pub fn wait(&mut self, duration: Duration) -> Vec<Action> {
        let end = self.now + duration;
        let mut actions = Vec::new();
        while let Some(at) = self.mesh.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.mesh.handle_timeout(at);
            actions.extend(self.drain());
        }
        self.now = end;
        actions
    }

    pub fn announced(&mut self, ids: &[&str]) -> Vec<Action> {
        self.give(Input::Announced { peers: ids.iter().map(|id| PeerAnnouncement::new(*id)).collect() })
    }

    pub fn link(&self, id: &str) -> LinkId {
        self.mesh.peer(id).and_then(|peer| peer.link).expect("a link")
    }

    pub fn state(&self, id: &str) -> PeerState {
        self.mesh.peer(id).expect("a peer").state
    }

    /// Our offer is out.
    pub fn offered(id: &str, to: &str) -> Self {
        let mut bench = Self::named(id);
        bench.announced(&[to]);
        let link = bench.link(to);
        bench.give(Input::OfferCreated { link, sdp: sdp(1, 1) });
        bench
    }

    /// We offered, and all went well. The peer's session is 100.
    pub fn connected(id: &str, to: &str) -> Self {
        let mut bench = Self::offered(id, to);
        let link = bench.link(to);
        bench.give(Input::Answer { peer: to.into(), sdp: sdp(100, 1) });
        bench.give(Input::AnswerAccepted { link });
        bench.give(Input::LinkState { link, state: LinkState::Connected });
        bench.give(Input::ChannelOpen { link });
        assert_eq!(bench.state(to), PeerState::Connected);
        bench
    }
}

pub fn sdp(session: u64, version: u32) -> String {
    format!("v=0\r\no=- {session} {version} IN IP4 127.0.0.1\r\ns=-\r\n")
}

pub fn offer(peer: &str, session: u64, version: u32) -> Input {
    Input::Offer { peer: peer.into(), sdp: sdp(session, version) }
}

pub fn candidate(n: usize) -> IceCandidate {
    IceCandidate { candidate: format!("candidate:{n}"), sdp_mid: Some("0".into()), sdp_m_line_index: Some(0) }
}

pub fn offers(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::CreateOffer { .. })).count()
}

pub fn has_links(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::CreateLink { .. } | Action::DestroyLink { .. }))
}

pub fn error_code(actions: &[Action]) -> Option<i32> {
    actions.iter().find_map(|action| match action {
        Action::Signal { signal: Signal::Error { code, .. }, .. } => Some(*code),
        _ => None,
    })
}

pub fn failure(actions: &[Action]) -> Option<ConnectError> {
    actions.iter().find_map(|action| match action {
        Action::ConnectFailed { error, .. } => Some(error.clone()),
        _ => None,
    })
}

pub fn done(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Connected { .. }))
}

pub fn connect(peer: &str, request: u64, timeout: Duration) -> Input {
    Input::Connect { peer: peer.into(), request: RequestId(request), timeout }
}
