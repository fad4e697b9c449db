//! Encodes the audio of one source, once, for all who get it.

use std::sync::Weak;
use std::time::{Duration, Instant};

use crate::TransportError;
use crate::event::Event;
use crate::lane::Lane;
use crate::outputs::AudioJob;
use crate::shared::{Command, Every, Shared};

pub(crate) struct AudioOut {
    shared: Weak<Shared>,
    source: u64,
    lane: Option<Lane>,
    complaint: Every,
}

impl AudioOut {
    pub(crate) fn new(shared: Weak<Shared>, source: u64) -> AudioOut {
        AudioOut { shared, source, lane: None, complaint: Every::new(Duration::from_secs(1)) }
    }

    pub(crate) fn encode(&mut self, job: AudioJob) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Err(message) = self.try_encode(&shared, job)
            && self.complaint.allows(Instant::now())
        {
            shared.events.push(Event::Error { peer: None, error: TransportError::Codec { message } });
        }
    }

    fn try_encode(&mut self, shared: &Shared, job: AudioJob) -> Result<(), String> {
        let lane = match &mut self.lane {
            Some(lane) => lane,
            none => none.insert(Lane::new(&shared.config.audio, &shared.counters.audio_encoders)?),
        };
        lane.push_from(&job.origin, &job.frame)?;
        let targets: Vec<_> = job.targets.into_iter().filter(|p| p.audio()).collect();
        lane.suit(&targets)?;
        while let Some((packet, timestamp_us)) = lane.packet()? {
            if let (Some(packet), false) = (packet, targets.is_empty()) {
                let (source, targets) = (self.source, targets.clone());
                shared.commands.push(Command::Audio { source, targets, packet, timestamp_us });
            }
        }
        Ok(())
    }
}
