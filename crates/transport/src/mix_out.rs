//! Encodes what a mixer gives out: one encoding for each listener with a mix of its own, one for all the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use remotemedia_media::AudioFrame;

use crate::event::Event;
use crate::lane::Lane;
use crate::peer::Peer;
use crate::shared::{Command, Every, Shared};
use crate::{PeerId, TransportError};

/// Packets that a new encoder is given before those that are sent: by then it says the same as the one before it, and a receiver
/// doesn't hear the change.
const WARM_UP: usize = 2;
/// Listeners with a mix of their own, at most.
const MAX_OWN: usize = 256;

/// One tick's mix, in this order: each own one, then the common one.
pub(crate) enum MixJob {
    /// A listener's own mix.
    Own { listener: PeerId, frame: AudioFrame, targets: Vec<Arc<Peer>> },
    /// What all the others hear. Ends the tick.
    Common { frame: AudioFrame, targets: Vec<Arc<Peer>> },
}

/// All encodings of one mixer and route. They begin packets at the same ticks and have one clock, so that a listener can change from
/// one to another between two packets and see one stream go on.
pub(crate) struct MixOut {
    shared: Weak<Shared>,
    source: u64,
    /// What came of this tick so far.
    tick: HashMap<PeerId, (AudioFrame, Vec<Arc<Peer>>)>,
    own: HashMap<PeerId, OwnLane>,
    common: Option<Lane>,
    /// The last common frames, the newest last: what everybody heard who had none of their own.
    history: VecDeque<AudioFrame>,
    /// Ticks since the last whole packet.
    into: usize,
    complaint: Every,
}

struct OwnLane {
    lane: Lane,
    targets: Vec<Arc<Peer>>,
    /// It had a mix of its own in this tick, and in this packet.
    fed: bool,
    used: bool,
}

impl MixOut {
    pub(crate) fn new(shared: Weak<Shared>, source: u64) -> MixOut {
        MixOut {
            shared,
            source,
            tick: HashMap::new(),
            own: HashMap::new(),
            common: None,
            history: VecDeque::new(),
            into: 0,
            complaint: Every::new(Duration::from_secs(1)),
        }
    }

    pub(crate) fn run(&mut self, job: MixJob) {
        match job {
            MixJob::Own { listener, frame, targets } => {
                if self.tick.len() < MAX_OWN {
                    self.tick.insert(listener, (frame, targets));
                }
            }
            MixJob::Common { frame, targets } => {
                let Some(shared) = self.shared.upgrade() else { return };
                if let Err(message) = self.encode(&shared, frame, targets) {
                    // Encoders that fail are made anew.
                    self.own.clear();
                    self.common = None;
                    if self.complaint.allows(Instant::now()) {
                        let error = TransportError::Codec { message };
                        shared.events.push(Event::Error { peer: None, error });
                    }
                }
            }
        }
    }

    fn encode(
        &mut self,
        shared: &Shared,
        common: AudioFrame,
        mut targets: Vec<Arc<Peer>>,
    ) -> Result<(), String> {
        let packet_us = i64::from(shared.config.audio.frame_ms) * 1000;
        let ticks = usize::try_from(packet_us / common.duration_us().max(1)).unwrap_or(1).max(1);
        for (listener, (frame, targets)) in std::mem::take(&mut self.tick) {
            let own = match self.own.remove(&listener) {
                Some(own) => own,
                None => {
                    let lane = self.warm(shared, ticks)?;
                    OwnLane { lane, targets: Vec::new(), fed: false, used: false }
                }
            };
            let mut own = OwnLane { targets, fed: true, used: true, ..own };
            own.lane.push(&frame)?;
            self.own.insert(listener, own);
        }
        // Who has fallen silent hears what all hear from here on, and is one of them with the next packet.
        for own in self.own.values_mut() {
            if !std::mem::take(&mut own.fed) {
                own.lane.push(&common)?;
            }
        }
        targets.retain(|peer| !self.own.contains_key(&peer.id));
        if self.common.is_none() && !targets.is_empty() {
            self.common = Some(self.warm(shared, ticks)?);
        }
        if let Some(lane) = &mut self.common {
            lane.push(&common)?;
        }
        self.history.push_back(common);
        while self.history.len() > ticks * (WARM_UP + 1) {
            self.history.pop_front();
        }
        self.into += 1;
        if self.into < ticks {
            return Ok(());
        }
        self.into = 0;
        for own in self.own.values_mut() {
            send(shared, self.source, &mut own.lane, &own.targets)?;
        }
        self.own.retain(|_, own| std::mem::take(&mut own.used));
        match &mut self.common {
            Some(lane) if !targets.is_empty() => send(shared, self.source, lane, &targets)?,
            _ => self.common = None,
        }
        Ok(())
    }

    /// A new encoding that has heard what everybody heard until now.
    fn warm(&self, shared: &Shared, ticks: usize) -> Result<Lane, String> {
        let mut lane = Lane::new(&shared.config.audio, &shared.counters.audio_encoders)?;
        let whole = (self.history.len().saturating_sub(self.into) / ticks).min(WARM_UP) * ticks;
        let count = (whole + self.into).min(self.history.len());
        for frame in self.history.range(self.history.len() - count..) {
            lane.push(frame)?;
        }
        while lane.packet()?.is_some() {}
        Ok(lane)
    }
}

/// Sends what is whole.
fn send(shared: &Shared, source: u64, lane: &mut Lane, targets: &[Arc<Peer>]) -> Result<(), String> {
    lane.suit(targets)?;
    while let Some((packet, timestamp_us)) = lane.packet()? {
        let targets: Vec<_> = targets.iter().filter(|peer| peer.audio()).cloned().collect();
        if let (Some(packet), false) = (packet, targets.is_empty()) {
            shared.commands.push(Command::Audio { source, targets, packet, timestamp_us });
        }
    }
    Ok(())
}
