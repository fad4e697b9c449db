//! Encodes the audio of one source, once, for all who get it.

use std::sync::Weak;
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFramer, OpusEncoder, OpusEncoderConfig, is_dtx_packet};

use crate::TransportError;
use crate::event::Event;
use crate::outputs::AudioJob;
use crate::shared::{Command, Every, Shared};

pub(crate) struct AudioOut {
    shared: Weak<Shared>,
    source: u64,
    state: Option<(AudioFramer, OpusEncoder)>,
    samples: Vec<f32>,
    complaint: Every,
}

impl AudioOut {
    pub(crate) fn new(shared: Weak<Shared>, source: u64) -> AudioOut {
        AudioOut {
            shared,
            source,
            state: None,
            samples: Vec::new(),
            complaint: Every::new(Duration::from_secs(1)),
        }
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
        let config = &shared.config.audio;
        let (framer, encoder) = match &mut self.state {
            Some(state) => state,
            None => {
                let encoder = OpusEncoder::new(OpusEncoderConfig {
                    channels: config.channels,
                    bitrate_bps: config.bitrate_bps(),
                    frame_ms: config.frame_ms.into(),
                    fec: config.fec,
                    dtx: config.dtx,
                    complexity: config.complexity,
                    ..OpusEncoderConfig::default()
                })
                .map_err(|e| e.to_string())?;
                let framer =
                    AudioFramer::new(config.channels, config.frame_ms.into()).map_err(|e| e.to_string())?;
                self.state.insert((framer, encoder))
            }
        };
        framer.push(&job.frame).map_err(|e| e.to_string())?;
        let targets: Vec<_> = job.targets.into_iter().filter(|p| p.audio()).collect();
        while let Some(timestamp_us) = framer.pop(&mut self.samples) {
            let packet = encoder.encode(&self.samples).map_err(|e| e.to_string())?;
            if !is_dtx_packet(&packet) && !targets.is_empty() {
                let (source, targets) = (self.source, targets.clone());
                shared.commands.push(Command::Audio { source, targets, packet, timestamp_us });
            }
        }
        Ok(())
    }
}
