//! Takes noise out of speech.

use std::collections::VecDeque;
use std::sync::Arc;

use nnnoiseless::DenoiseState;
use remotemedia_media::{AudioFrame, Resampler};

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// The network hears this rate only.
const RATE: u32 = 48_000;
/// Frames of one step, 10 ms, and how much later it gives out what it took in.
const BLOCK: usize = DenoiseState::FRAME_SIZE;
/// It was made for samples of 16 bits.
const SCALE: f32 = 32_768.0;
/// Frames that follow each other closer than this are one stream.
const TOLERANCE_US: i64 = 20_000;

/// `NoiseSuppression`: `in` (audio) -> `out` (audio). Takes steady and unsteady noise out of speech (RNNoise, by way of the
/// `nnnoiseless` crate); music suffers from it.
///
/// It works at 48 kHz and converts other rates both ways. What comes out is 10 ms late, with its timestamps right.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "NoiseSuppression".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::number("strength", 0.0, 1.0, 1.0)
                .about("share of the cleaned sound in what comes out; the rest is as it came"),
        ],
        same_kind: false,
        load: simple(|params| Ok(NoiseSuppression { strength: strength(params), stream: None })),
    }
}

fn strength(params: &Params) -> f32 {
    params.number("strength").unwrap_or(1.0) as f32
}

struct NoiseSuppression {
    strength: f32,
    stream: Option<Stream>,
}

/// One run of frames of one format.
struct Stream {
    rate: u32,
    channels: u16,
    next_us: i64,
    /// To the network's rate and back; `None` where it is that already.
    rates: Option<(Resampler, Resampler)>,
    lanes: Vec<Lane>,
}

/// One channel.
struct Lane {
    state: Box<DenoiseState<'static>>,
    /// Not processed yet, and as it came, for the frames that come out next.
    pending: VecDeque<f32>,
    dry: VecDeque<f32>,
    begun: bool,
}

impl Stream {
    fn new(frame: &AudioFrame) -> Result<Stream, NodeError> {
        let rates = if frame.sample_rate == RATE {
            None
        } else {
            let to = |rate| {
                Resampler::new(rate, frame.channels).map_err(|error| NodeError::failed(error.to_string()))
            };
            Some((to(RATE)?, to(frame.sample_rate)?))
        };
        let lane = |_| Lane {
            state: DenoiseState::new(),
            pending: VecDeque::new(),
            dry: VecDeque::new(),
            begun: false,
        };
        Ok(Stream {
            rate: frame.sample_rate,
            channels: frame.channels,
            next_us: frame.timestamp_us,
            rates,
            lanes: (0..frame.channels).map(lane).collect(),
        })
    }

    fn follows(&self, frame: &AudioFrame) -> bool {
        (self.rate, self.channels) == (frame.sample_rate, frame.channels)
            && (frame.timestamp_us - self.next_us).abs() <= TOLERANCE_US
    }

    fn process(&mut self, frame: &AudioFrame, strength: f32) -> Result<AudioFrame, NodeError> {
        let failed = |error: remotemedia_media::MediaError| NodeError::failed(error.to_string());
        self.next_us = frame.timestamp_us + frame.duration_us();
        let wide = match &mut self.rates {
            Some((up, _)) => up.process(frame).map_err(failed)?,
            None => frame.clone(),
        };
        let channels = self.lanes.len();
        // What is still inside is given out first. The dry samples are what was processed and isn't out yet.
        let inside = self.lanes.first().map_or(0, |lane| lane.pending.len() + lane.dry.len());
        let start = wide.timestamp_us - inside as i64 * 1_000_000 / i64::from(RATE);
        let mut samples: Vec<f32> = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let finite = |sample: &f32| if sample.is_finite() { sample.clamp(-8.0, 8.0) } else { 0.0 };
            lane.pending.extend(wide.samples.iter().skip(index).step_by(channels).map(finite));
            let cleaned = lane.run(strength);
            samples.resize(samples.len().max(cleaned.len() * channels), 0.0);
            for (frame, sample) in samples.chunks_exact_mut(channels).zip(cleaned) {
                frame[index] = sample;
            }
        }
        let clean = AudioFrame {
            samples: Arc::new(samples),
            sample_rate: RATE,
            channels: self.channels,
            timestamp_us: start,
        };
        match &mut self.rates {
            Some((_, down)) if clean.frames() > 0 => down.process(&clean).map_err(failed),
            _ => Ok(clean),
        }
    }
}

impl Lane {
    /// Processes every whole block.
    fn run(&mut self, strength: f32) -> Vec<f32> {
        let mut out = Vec::new();
        let (mut block, mut cleaned) = ([0.0; BLOCK], [0.0; BLOCK]);
        while self.pending.len() >= BLOCK {
            for (to, from) in block.iter_mut().zip(self.pending.drain(..BLOCK)) {
                *to = from * SCALE;
                self.dry.push_back(from);
            }
            self.state.process_frame(&mut cleaned, &block);
            // What comes out belongs to the block before; the first of all belongs to none.
            if std::mem::replace(&mut self.begun, true) {
                let dry = self.dry.drain(..BLOCK);
                out.extend(cleaned.iter().zip(dry).map(|(clean, dry)| {
                    let clean = if clean.is_finite() { clean / SCALE } else { 0.0 };
                    dry + (clean - dry) * strength
                }));
            }
        }
        out
    }
}

impl Node for NoiseSuppression {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        if frame.frames() == 0 {
            return Ok(());
        }
        if item.discontinuity || self.stream.as_ref().is_some_and(|stream| !stream.follows(frame)) {
            self.stream = None;
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(Stream::new(frame)?),
        };
        let clean = stream.process(frame, self.strength)?;
        if clean.frames() > 0 {
            let timestamp_us = clean.timestamp_us;
            let mut item = item.derive(Data::Audio(clean));
            item.timestamp_us = timestamp_us;
            out.push(0, item);
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.strength = strength(params);
        Ok(())
    }
}
