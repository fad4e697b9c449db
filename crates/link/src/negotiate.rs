//! Offers, answers and candidates.

use crate::candidate::{self, Candidate, Line, Named};
use crate::config::DataMode;
use crate::engine;
use crate::error::LinkError;
use crate::event::{LinkEvent, LinkState};
use crate::link::{Link, MAX_NAMED_CANDIDATES, MAX_QUEUED_CANDIDATES};
use crate::sdp::local::{Local, offer_slots};
use crate::sdp::remote::{Judge, Remote, RemoteMedia, Setup};
use crate::sdp::{Direction, Slot, SlotState, find, parse};
use crate::tap;
use rtc::data_channel::RTCDataChannelInit;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use std::net::IpAddr;
use std::time::Instant;

impl Link {
    /// Makes an offer and sets it as the local description. The first one carries a sendrecv audio and a sendrecv video
    /// section and the data section, as configured. With `ice_restart` it has new ICE credentials; the pair in use is kept
    /// until the answer is taken.
    ///
    /// # Errors
    /// [`LinkError::WrongState`] while another offer of ours is unanswered, [`LinkError::Closed`].
    pub fn create_offer(&mut self, now: Instant, ice_restart: bool) -> Result<String, LinkError> {
        self.check_open()?;
        if self.offered.is_some() {
            return Err(LinkError::WrongState("a second offer"));
        }
        if !self.established {
            self.prepare_first_offer()?;
        }
        if ice_restart && self.established {
            self.pc.restart_ice();
            self.engine_staged = true;
        }
        let offer = self.pc.create_offer(None)?;
        let text = offer.sdp.clone();
        if self.engine_staged {
            self.staged = Some(offer);
        } else {
            self.pc.set_local_description(self.engine_time(now), offer)?;
            self.restore_local_candidates()?;
        }
        let slots = offer_slots(&text, &self.slots)?;
        let sdp = self.write_local(&text, &slots, "actpass", Direction::BOTH, Direction::BOTH)?;
        self.offered = Some(slots);
        self.drain(now);
        Ok(sdp)
    }

    /// Takes an offer and answers it; the answer is set as the local description.
    ///
    /// # Errors
    /// [`LinkError::BadSdp`], with the link as it was; [`LinkError::WrongState`] while our own offer is unanswered (roll
    /// it back first); [`LinkError::Closed`].
    pub fn accept_offer(&mut self, now: Instant, sdp: &str) -> Result<String, LinkError> {
        self.check_open()?;
        if self.offered.is_some() {
            return Err(LinkError::WrongState("an offer while our own is unanswered"));
        }
        let remote = Judge { config: &self.config, answer: false, slots: &self.slots }.read(sdp)?;
        let offer = RTCSessionDescription::offer(remote.engine.clone())
            .map_err(|_| LinkError::BadSdp("unreadable"))?;
        if !self.established && remote.setup == Setup::Passive {
            self.rebuild(now, true)?;
        }
        // We had taken back a restart, but the engine has its credentials and will use them for this answer. A peer that did
        // not ask for a restart won't follow.
        let spoils = self.engine_staged && remote.ufrag == self.remote_ufrag;
        self.stir(now);
        let at = self.engine_time(now);
        if let Err(error) = self.pc.set_remote_description(at, offer) {
            return Err(self.undo_remote(at, &error));
        }
        let text = match self.answer_in_engine(at, &remote) {
            Ok(text) => text,
            Err(error) => return Err(self.undo_remote(at, &error)),
        };
        self.engine_staged = false;
        if spoils {
            self.events.push_back(LinkEvent::PathSuspect);
        }
        self.restore_local_candidates()?;
        // Roles are fixed by the first exchange; later answers repeat them (RFC 8842, section 5.3).
        let setup =
            *self.setup.get_or_insert(if remote.setup == Setup::Passive { "active" } else { "passive" });
        let direction =
            |m: &Option<RemoteMedia>| m.as_ref().map_or(Direction::BOTH, |m| m.direction.reversed());
        let (audio, video) = (direction(&remote.audio), direction(&remote.video));
        let answer = self.write_local(&text, &remote.slots, setup, audio, video)?;
        self.agree(now, remote);
        Ok(answer)
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    /// [`LinkError::BadSdp`], with the link as it was; [`LinkError::WrongState`] without an offer of ours;
    /// [`LinkError::Closed`].
    pub fn accept_answer(&mut self, now: Instant, sdp: &str) -> Result<(), LinkError> {
        self.check_open()?;
        let Some(offered) = &self.offered else { return Err(LinkError::WrongState("an answer")) };
        let remote = Judge { config: &self.config, answer: true, slots: offered }.read(sdp)?;
        let setup = match remote.setup {
            Setup::Active => "passive",
            Setup::Passive => "active",
            Setup::Actpass => return Err(LinkError::BadSdp("an answer must choose a=setup")),
        };
        if self.setup.is_some_and(|s| s != setup) {
            return Err(LinkError::BadSdp("the answer changes the DTLS roles"));
        }
        let answer = RTCSessionDescription::answer(remote.engine.clone())
            .map_err(|_| LinkError::BadSdp("unreadable"))?;
        // The engine binds its NACK responder and sender reports to the codec that the track names by now.
        for (media, sender, video) in
            [(&remote.audio, self.audio_sender, false), (&remote.video, self.video_sender, true)]
        {
            if let (Some(media), Some(id)) = (media, sender)
                && let Some(codec) = media.sent()
                && let Some(mut sender) = self.pc.rtp_sender(id)
            {
                sender.replace_track(engine::track(&self.config, self.ssrcs, video, Some(codec.codec)))?;
            }
        }
        self.stir(now);
        let at = self.engine_time(now);
        if let Some(offer) = self.staged.take() {
            self.pc.set_local_description(at, offer)?;
            self.engine_staged = false;
            self.restore_local_candidates()?;
        }
        self.pc.set_remote_description(at, answer)?;
        if !self.established {
            self.first_flight.answered(sdp, self.config.data.is_some(), setup == "passive");
        }
        self.setup = Some(setup);
        self.offered = None;
        self.agree(now, remote);
        Ok(())
    }

    /// Takes back our unanswered offer, so that the peer's can be accepted (glare; RFC 8829, section 4.1.10.2). Before
    /// the first agreement everything is made anew, with new ICE credentials. An offer with an ICE restart has changed
    /// nothing yet.
    ///
    /// # Errors
    /// [`LinkError::WrongState`] without an offer of ours, [`LinkError::Closed`].
    pub fn rollback(&mut self, now: Instant) -> Result<(), LinkError> {
        self.check_open()?;
        if self.offered.is_none() {
            return Err(LinkError::WrongState("a rollback"));
        }
        if self.staged.take().is_some() {
            // The engine never had it.
        } else if self.established {
            self.pc.set_local_description(self.engine_time(now), RTCSessionDescription::rollback(None)?)?;
            self.events.push_back(LinkEvent::NegotiationNeeded);
        } else {
            self.rebuild(now, false)?;
        }
        self.offered = None;
        self.drain(now);
        Ok(())
    }

    /// Takes a trickled candidate. One that comes before its description waits for it; one with a `.local` name waits for
    /// [`Link::resolve_candidate`]; TCP and RTCP candidates are counted and left; an empty line is the end of candidates.
    ///
    /// # Errors
    /// [`LinkError::BadCandidate`], [`LinkError::Closed`].
    pub fn add_remote_candidate(
        &mut self,
        candidate: &str,
        _sdp_mid: Option<&str>,
        _sdp_m_line_index: Option<u16>,
    ) -> Result<(), LinkError> {
        self.check_open()?;
        let bare = candidate.trim();
        if bare.is_empty() || bare == "candidate:" || bare == "a=end-of-candidates" {
            return Ok(());
        }
        match candidate::parse(bare)? {
            Line::Named(named) => self.named_candidate(named),
            Line::Tcp => self.stats.drops.candidate_tcp += 1,
            Line::Rtcp => self.stats.drops.candidate_other += 1,
            Line::Usable(candidate) => {
                self.candidate(candidate);
                self.drain(self.last_now());
            }
        }
        Ok(())
    }

    /// The answer to [`LinkEvent::ResolveName`]: the address behind a `.local` name, or that there is none.
    pub fn resolve_candidate(&mut self, name: &str, ip: Option<IpAddr>) {
        if self.check_open().is_err() {
            return;
        }
        let (found, rest) =
            std::mem::take(&mut self.named_candidates).into_iter().partition(|n| n.name == name);
        self.named_candidates = rest;
        for named in found {
            match ip.map(|ip| named.at(ip)) {
                Some(Ok(candidate)) => self.candidate(candidate),
                _ => self.stats.drops.candidate_mdns += 1,
            }
        }
        self.drain(self.last_now());
    }

    fn named_candidate(&mut self, named: Named) {
        if self.named_candidates.len() == MAX_NAMED_CANDIDATES {
            self.stats.drops.candidate_mdns += 1;
            return;
        }
        if !self.named_candidates.iter().any(|n| n.name == named.name) {
            self.events.push_back(LinkEvent::ResolveName { name: named.name.clone() });
        }
        self.named_candidates.push(named);
    }

    fn candidate(&mut self, candidate: Candidate) {
        // Everything is bundled, so mid and m-line index say nothing; the generation does.
        let other = candidate.ufrag.as_ref().is_some_and(|u| *u != self.remote_ufrag);
        if !self.established || other {
            if self.queued_candidates.len() == MAX_QUEUED_CANDIDATES {
                self.stats.drops.candidate_other += 1;
            } else {
                self.queued_candidates.push_back(candidate);
            }
            return;
        }
        if self.remote_candidates.iter().any(|c| c.addr == candidate.addr && c.kind == candidate.kind) {
            return;
        }
        if self.remote_candidates.len() == MAX_QUEUED_CANDIDATES {
            self.stats.drops.candidate_other += 1;
            return;
        }
        let taken = self.pc.add_remote_candidate(RTCIceCandidateInit {
            candidate: candidate.engine_line(),
            sdp_mid: Some("0".into()),
            sdp_mline_index: Some(0),
            ..Default::default()
        });
        match taken {
            Ok(()) => {
                self.remote_candidates.push(candidate);
                self.stir(self.last_now());
            }
            Err(_) => self.stats.drops.candidate_other += 1,
        }
    }

    fn prepare_first_offer(&mut self) -> Result<(), LinkError> {
        if self.config.audio && self.audio_sender.is_none() {
            self.audio_sender =
                Some(self.pc.add_track(engine::track(&self.config, self.ssrcs, false, None))?);
        }
        if self.config.video && self.video_sender.is_none() {
            self.video_sender =
                Some(self.pc.add_track(engine::track(&self.config, self.ssrcs, true, None))?);
        }
        if let Some(mode) = self.config.data
            && self.data_channel.is_none()
        {
            let id = self.new_channel("data", channel_init(mode, String::new()), mode)?;
            self.data_channel = Some(id);
        }
        Ok(())
    }

    fn answer_in_engine(
        &mut self,
        now: Instant,
        remote: &Remote,
    ) -> Result<String, rtc::shared::error::Error> {
        for (media, video) in [(&remote.audio, false), (&remote.video, true)] {
            let sender = if video { self.video_sender } else { self.audio_sender };
            if let Some(codec) = media.as_ref().and_then(RemoteMedia::sent)
                && sender.is_none()
            {
                let id =
                    self.pc.add_track(engine::track(&self.config, self.ssrcs, video, Some(codec.codec)))?;
                *(if video { &mut self.video_sender } else { &mut self.audio_sender }) = Some(id);
            }
        }
        let answer = self.pc.create_answer(None)?;
        let text = answer.sdp.clone();
        self.pc.set_local_description(now, answer)?;
        Ok(text)
    }

    /// Takes the peer's offer back out of the engine after it refused it.
    fn undo_remote(&mut self, now: Instant, error: &rtc::shared::error::Error) -> LinkError {
        tracing::debug!(%error, "the engine refused a description");
        let undone = if self.established {
            RTCSessionDescription::rollback(None).and_then(|r| self.pc.set_remote_description(now, r)).is_ok()
        } else {
            self.rebuild(now, false).is_ok()
        };
        if undone { LinkError::BadSdp("the engine refused it") } else { LinkError::Engine(error.to_string()) }
    }

    /// A fresh engine, as if nothing had been negotiated. Only before the first agreement.
    fn rebuild(&mut self, now: Instant, answer_as_client: bool) -> Result<(), LinkError> {
        self.pc = engine::build(now, &self.config, &self.certificate, &self.shared, answer_as_client)?;
        (self.audio_sender, self.video_sender, self.data_channel) = (None, None, None);
        self.channels.clear();
        self.slots.clear();
        self.restore_local_candidates()
    }

    fn write_local(
        &mut self,
        engine: &str,
        slots: &[Slot],
        setup: &'static str,
        audio: Direction,
        video: Direction,
    ) -> Result<String, LinkError> {
        let parsed = parse(engine)?;
        if let Some(ufrag) = parsed.sections.iter().find_map(|s| s.attr("ice-ufrag")) {
            self.local_ufrag = ufrag.to_owned();
        } else if let Some(ufrag) = find(&parsed.attrs, "ice-ufrag") {
            self.local_ufrag = ufrag.to_owned();
        }
        self.version += 1;
        let candidates = self.local_lines();
        Local {
            config: &self.config,
            slots,
            setup,
            audio,
            video,
            session_id: self.session_id,
            version: self.version,
            candidates: &candidates,
        }
        .write(engine)
    }

    /// Both descriptions are set: takes over what they say.
    fn agree(&mut self, now: Instant, remote: Remote) {
        self.established = true;
        self.slots = remote.slots;
        let n = &mut self.negotiated;
        let slots = &self.slots;
        let live = |state| slots.iter().any(|s| s.state == state);
        let recv = |m: &Option<RemoteMedia>| m.as_ref().is_some_and(|m| m.direction.recv);
        let send = |m: &Option<RemoteMedia>| m.as_ref().is_some_and(|m| m.direction.send);
        n.audio = live(SlotState::Audio) && recv(&remote.audio);
        n.audio_receive = send(&remote.audio);
        n.peer_audio = remote.peer_audio;
        let video_codecs = remote.video.as_ref().map(|v| v.codecs.clone()).unwrap_or_default();
        let sent = remote.video.as_ref().and_then(RemoteMedia::sent).cloned();
        let video = sent.as_ref().filter(|_| recv(&remote.video)).and_then(|c| c.codec);
        n.video = video.filter(|codec| codec.can_encode());
        n.video_receive = if send(&remote.video) {
            video_codecs.iter().filter_map(|c| c.codec).collect()
        } else {
            Vec::new()
        };
        n.data = remote.data.is_some();
        n.max_message_size = remote.data.unwrap_or(0).min(self.config.max_message_size);
        self.audio_codec = remote.audio.as_ref().and_then(|a| a.codecs.first().cloned());
        // Where we can send none of them, keyframes are still asked for.
        self.video_codec = sent;
        self.video_types = video_codecs.iter().filter_map(|c| Some((c.payload_type, c.codec?))).collect();
        let mut shared = tap::lock(&self.shared);
        shared.apt = video_codecs.iter().filter_map(|c| Some((c.rtx?, c.payload_type))).collect();
        shared.video_types = video_codecs.iter().map(|c| c.payload_type).collect();
        shared.audio_types = self.audio_codec.iter().map(|c| c.payload_type).collect();
        shared
            .declare(remote.audio.as_ref().and_then(|a| a.ssrc), remote.video.as_ref().and_then(|v| v.ssrc));
        if let Some(video) = remote.video.as_ref().filter(|v| v.ssrc.is_some()) {
            shared.remote_rtx = video.rtx_ssrc;
        }
        drop(shared);
        self.remote_fingerprint = remote.fingerprint;
        if self.remote_ufrag != remote.ufrag {
            self.stats.ice_restarts += u64::from(!self.remote_ufrag.is_empty());
            self.remote_ufrag = remote.ufrag;
            self.remote_candidates.clear();
            self.named_candidates.clear();
        }
        for line in &remote.candidates {
            // A bad line in a description is no reason to refuse the rest.
            if self.add_remote_candidate(line, None, None).is_err() {
                self.stats.drops.candidate_other += 1;
            }
        }
        for candidate in std::mem::take(&mut self.queued_candidates) {
            if candidate.ufrag.as_ref().is_some_and(|u| *u != self.remote_ufrag) {
                self.stats.drops.candidate_other += 1;
            } else {
                self.candidate(candidate);
            }
        }
        if self.state == LinkState::New {
            self.set_state(LinkState::Connecting);
        }
        self.drain(now);
    }
}

/// The engine's form of a mode.
pub(crate) fn channel_init(mode: DataMode, protocol: String) -> RTCDataChannelInit {
    RTCDataChannelInit {
        ordered: mode == DataMode::Reliable,
        max_retransmits: (mode == DataMode::Unreliable).then_some(0),
        protocol,
        ..Default::default()
    }
}
