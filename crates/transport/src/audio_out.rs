//! Encodes the audio of one source, once, for all who get it.

use std::sync::Weak;
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFramer, OPUS_RATE, OpusEncoder, OpusEncoderConfig, is_dtx_packet};

use crate::TransportError;
use crate::event::Event;
use crate::outputs::AudioJob;
use crate::shared::{Command, Every, Shared};

/// Percent of loss that the encoder makes itself ready for at most: more would leave too little for the sound itself.
const MAX_EXPECTED_LOSS: u8 = 30;

pub(crate) struct AudioOut {
    shared: Weak<Shared>,
    source: u64,
    state: Option<State>,
    samples: Vec<f32>,
    complaint: Every,
}

struct State {
    framer: AudioFramer,
    encoder: OpusEncoder,
    /// What a packet gives begins so much before the frame it was made of.
    lookahead_us: i64,
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
        let State { framer, encoder, lookahead_us } = match &mut self.state {
            Some(state) => state,
            None => {
                let mut encoder = OpusEncoder::new(OpusEncoderConfig {
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
                let lookahead = encoder.lookahead().map_err(|e| e.to_string())?;
                let lookahead_us = i64::from(lookahead) * 1_000_000 / i64::from(OPUS_RATE);
                self.state.insert(State { framer, encoder, lookahead_us })
            }
        };
        // Copies for those that lose packets cost everybody's quality: only while somebody does.
        let loss = job.targets.iter().map(|peer| peer.audio_loss()).max().unwrap_or(0).min(MAX_EXPECTED_LOSS);
        if loss != encoder.config().expected_loss_pct {
            encoder.set_expected_loss(loss).map_err(|e| e.to_string())?;
        }
        framer.push(&job.frame).map_err(|e| e.to_string())?;
        let targets: Vec<_> = job.targets.into_iter().filter(|p| p.audio()).collect();
        while let Some(timestamp_us) = framer.pop(&mut self.samples) {
            let packet = encoder.encode(&self.samples).map_err(|e| e.to_string())?;
            if !is_dtx_packet(&packet) && !targets.is_empty() {
                let (source, targets) = (self.source, targets.clone());
                let timestamp_us = timestamp_us - *lookahead_us;
                shared.commands.push(Command::Audio { source, targets, packet, timestamp_us });
            }
        }
        Ok(())
    }
}
