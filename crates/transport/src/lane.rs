//! One Opus encoding: samples of any shape in, packets out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use remotemedia_media::{AudioFrame, AudioFramer, OPUS_RATE, OpusEncoder, OpusEncoderConfig, is_dtx_packet};

use crate::AudioConfig;
use crate::audio_form::Form;
use crate::peer::Peer;

pub(crate) struct Lane {
    config: AudioConfig,
    /// As of now; `None`: as configured.
    form: Option<Form>,
    framer: AudioFramer,
    encoder: OpusEncoder,
    /// What a packet gives begins so much before the frame it was made of.
    lookahead_us: i64,
    samples: Vec<f32>,
    origin: String,
    /// The last sample of each channel that was taken in.
    last: Vec<f32>,
    /// How many there are.
    running: Arc<AtomicU64>,
}

/// A step between two origins is spread over this many frames: 5 ms.
const BRIDGE: usize = 240;

impl Lane {
    /// One more is counted in `running` as long as it lives.
    pub(crate) fn new(config: &AudioConfig, running: &Arc<AtomicU64>) -> Result<Lane, String> {
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
        let framer = AudioFramer::new(config.channels, config.frame_ms.into()).map_err(|e| e.to_string())?;
        let lookahead = encoder.lookahead().map_err(|e| e.to_string())?;
        let lookahead_us = i64::from(lookahead) * 1_000_000 / i64::from(OPUS_RATE);
        running.fetch_add(1, Ordering::Relaxed);
        Ok(Lane {
            config: config.clone(),
            form: None,
            framer,
            encoder,
            lookahead_us,
            samples: Vec::new(),
            origin: String::new(),
            last: Vec::new(),
            running: running.clone(),
        })
    }

    /// What is coded from here on is what all of these can take. While there are none it stays as it is.
    pub(crate) fn suit(&mut self, targets: &[Arc<Peer>]) -> Result<(), String> {
        if targets.is_empty() {
            return Ok(());
        }
        let receivers = targets.iter().map(|peer| (peer.wanted_audio(), peer.audio_loss()));
        let form = Form::new(&self.config, receivers);
        if self.form != Some(form) {
            form.apply(&mut self.framer, &mut self.encoder).map_err(|e| e.to_string())?;
            self.form = Some(form);
        }
        Ok(())
    }

    /// Takes samples in; [`Lane::packet`] gives what became whole.
    pub(crate) fn push(&mut self, frame: &AudioFrame) -> Result<(), String> {
        self.framer.push(frame).map_err(|e| e.to_string())
    }

    /// The same, of samples that may come from another place than those before: what would be a step there is none.
    pub(crate) fn push_from(&mut self, origin: &str, frame: &AudioFrame) -> Result<(), String> {
        let channels = usize::from(frame.channels.max(1));
        let end = frame.samples.chunks_exact(channels).next_back();
        let changed = self.origin != origin && self.last.len() == channels;
        let result = if changed { self.push(&bridged(frame, &self.last)) } else { self.push(frame) };
        if self.origin != origin {
            self.origin = origin.to_owned();
        }
        if let Some(end) = end {
            self.last = end.to_vec();
        }
        result
    }

    /// The next packet, and when its first sample was captured. None in the packet: it says no more than that silence goes on.
    pub(crate) fn packet(&mut self) -> Result<Option<(Option<Bytes>, i64)>, String> {
        let Some(timestamp_us) = self.framer.pop(&mut self.samples) else { return Ok(None) };
        let packet = self.encoder.encode(&self.samples).map_err(|e| e.to_string())?;
        let packet = (!is_dtx_packet(&packet)).then_some(packet);
        Ok(Some((packet, timestamp_us - self.lookahead_us)))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The frame, beginning at `last` and less and less off from there.
fn bridged(frame: &AudioFrame, last: &[f32]) -> AudioFrame {
    let channels = last.len();
    let mut samples = frame.samples.to_vec();
    let steps: Vec<f32> = last.iter().zip(&samples).map(|(last, first)| last - first).collect();
    for (at, frame) in samples.chunks_exact_mut(channels).take(BRIDGE).enumerate() {
        let share = 1.0 - at as f32 / BRIDGE as f32;
        frame.iter_mut().zip(&steps).for_each(|(sample, step)| *sample += step * share);
    }
    AudioFrame { samples: Arc::new(samples), ..frame.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_origin_makes_no_step() {
        let frame = |value: f32| AudioFrame {
            samples: Arc::new(vec![value; 960]),
            sample_rate: 48_000,
            channels: 1,
            timestamp_us: 0,
        };
        let mut lane = Lane::new(&AudioConfig::default(), &Arc::default()).unwrap();
        let mut all = Vec::new();
        for (origin, value) in [("a", 0.5), ("a", 0.5), ("b", -0.5), ("b", -0.5)] {
            lane.push_from(origin, &frame(value)).unwrap();
            while lane.framer.pop(&mut lane.samples).is_some() {
                all.extend_from_slice(&lane.samples);
            }
        }
        assert_eq!(all.len(), 4 * 960);
        assert!(all.windows(2).all(|w| (w[1] - w[0]).abs() < 0.005));
        assert_eq!((all[1919], all[1920], all[1920 + BRIDGE]), (0.5, 0.5, -0.5));
    }
}
