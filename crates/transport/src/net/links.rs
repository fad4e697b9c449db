//! Links as the mesh asks for them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use remotemedia_link::Link;
use remotemedia_mesh::{IceCandidate, Input, LinkId, Time};

use super::Net;
use super::entry::Entry;
use crate::PeerId;

impl Net {
    pub(super) fn create_link(&mut self, now: Instant, id: LinkId, peer: PeerId) {
        let link = match Link::new(now, self.link_config.clone(), &self.certificate) {
            Ok(link) => link,
            Err(error) => {
                let reason = error.to_string();
                self.mesh.handle(self.time(now), Input::NegotiationFailed { link: id, reason });
                return;
            }
        };
        let shared_peer = self.shared.peers.get_or_insert(&peer);
        let mut entry = Entry::new(link, shared_peer, &self.shared);
        for candidate in &self.candidates {
            match entry.link.add_local_candidate(*candidate) {
                Ok(line) => entry.candidates.push(line),
                Err(error) => tracing::warn!(%error, "local candidate refused"),
            }
        }
        entry.apply_hold(now);
        self.demux.add_ufrag(entry.link.local_ufrag(), id);
        self.by_peer.insert(peer, id);
        self.links.insert(id, entry);
    }

    pub(super) fn destroy_link(&mut self, now: Instant, id: LinkId) {
        let Some(mut entry) = self.links.remove(&id) else { return };
        entry.observe_channels();
        entry.link.close(now);
        while let Some(transmit) = entry.link.poll_transmit() {
            if let Some(port) = self.ports.find(transmit.local) {
                self.ports.send(now, port, transmit.remote, &transmit.data);
            }
        }
        entry.closed(&self.shared, !self.closing);
        self.demux.remove(id);
        self.dirty.remove(&id);
        self.forget_names(id);
        if self.by_peer.get(&entry.peer.id) == Some(&id) {
            self.by_peer.remove(&entry.peer.id);
        }
    }

    pub(super) fn on_link<T>(
        &mut self,
        id: LinkId,
        call: impl FnOnce(&mut Link) -> Result<T, remotemedia_link::LinkError>,
    ) -> Result<T, String> {
        let Some(entry) = self.links.get_mut(&id) else { return Err("the link is gone".into()) };
        self.dirty.insert(id);
        call(&mut entry.link).map_err(|e| e.to_string())
    }

    pub(super) fn report<T>(
        &mut self,
        time: Time,
        link: LinkId,
        result: Result<T, String>,
        ok: impl FnOnce(LinkId, T) -> Input,
    ) {
        let input = match result {
            Ok(value) => ok(link, value),
            Err(reason) => {
                self.shared.counters.signals_refused.fetch_add(1, Ordering::Relaxed);
                Input::NegotiationFailed { link, reason }
            }
        };
        self.mesh.handle(time, input);
    }

    /// A description was made. It has a new name after an ICE restart; and the peer must know our addresses, those as well that
    /// are found later.
    pub(super) fn send_candidates(&mut self, now: Instant, link: LinkId) {
        let time = self.time(now);
        let Some(entry) = self.links.get_mut(&link) else { return };
        let ufrag = entry.link.local_ufrag();
        if entry.generation.as_ref() != Some(&ufrag) {
            self.demux.add_ufrag(ufrag.clone(), link);
            let restart = entry.generation.replace(ufrag).is_some();
            entry.candidates_done = false;
            if restart {
                self.look_again(now);
            }
        }
        self.tell_candidates(time, link);
    }

    /// Tells the peer what was found since. After the end of candidates nothing may follow in the same generation (RFC 8838,
    /// section 13); what is found then is in the next description.
    pub(super) fn tell_candidates(&mut self, time: Time, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        if entry.generation.is_none() {
            return;
        }
        let found = std::mem::take(&mut entry.candidates);
        if entry.candidates_done {
            return;
        }
        entry.candidates_done = self.gather.is_complete();
        let done = entry.candidates_done;
        for candidate in found {
            let candidate = IceCandidate { candidate, sdp_mid: Some("0".into()), sdp_m_line_index: Some(0) };
            self.mesh.handle(time, Input::LocalCandidate { link, candidate });
        }
        if done {
            self.mesh.handle(time, Input::LocalCandidatesDone { link });
        }
    }
}
