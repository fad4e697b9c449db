//! Nodes on audio.

use std::sync::Arc;

use remotemedia_media::{AudioFrame, Resampler};

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// A change of gain is spread over this long, so that it doesn't click.
const RAMP_US: u64 = 10_000;

/// `Gain`: `in` (audio) -> `out` (audio). Makes it louder or softer. A change is spread over 10 ms.
pub(super) fn gain() -> NodeSpec {
    NodeSpec {
        node_type: "Gain".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::number("gain_db", -60.0, 24.0, 0.0)
                .optional()
                .unit("dB")
                .about("0 where neither is given"),
            ParamSpec::number("gain", 0.0, 16.0, 1.0)
                .optional()
                .about("the same as a factor; not together with `gain_db`"),
            ParamSpec::bool("clip", true).about("holds samples within -1..=1"),
        ],
        same_kind: false,
        load: simple(Gain::new),
    }
}

struct Gain {
    target: f32,
    now: f32,
    clip: bool,
}

impl Gain {
    fn new(params: &Params) -> Result<Gain, NodeError> {
        let target = factor(params)?;
        Ok(Gain { target, now: target, clip: params.bool("clip") })
    }
}

fn factor(params: &Params) -> Result<f32, NodeError> {
    match (params.number("gain_db"), params.number("gain")) {
        (Some(_), Some(_)) => Err(NodeError::Param {
            node: String::new(),
            problem: "params.gain and params.gain_db are both given; give one".to_owned(),
        }),
        (Some(db), None) => Ok(10f64.powf(db / 20.0) as f32),
        (None, gain) => Ok(gain.unwrap_or(1.0) as f32),
    }
}

impl Node for Gain {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        if self.now == 1.0 && self.target == 1.0 && !self.clip {
            out.push(0, item);
            return Ok(());
        }
        let mut samples = Vec::with_capacity(frame.samples.len());
        let channels = usize::from(frame.channels.max(1));
        let ramp_frames = (u64::from(frame.sample_rate) * RAMP_US / 1_000_000).max(1) as usize;
        let ramped = if self.now == self.target { 0 } else { ramp_frames.min(frame.frames()) };
        let (ramp, rest) = frame.samples.split_at(ramped * channels);
        let step = (self.target - self.now) / ramped.max(1) as f32;
        for (index, frame) in ramp.chunks_exact(channels).enumerate() {
            let gain = self.now + step * (index + 1) as f32;
            samples.extend(frame.iter().map(|sample| sample * gain));
        }
        let gain = self.target;
        samples.extend(rest.iter().map(|sample| sample * gain));
        if frame.frames() > 0 {
            self.now = self.target;
        }
        if self.clip {
            samples.iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
        }
        let louder = AudioFrame { samples: Arc::new(samples), ..frame.clone() };
        out.push(0, item.derive(Data::Audio(louder)));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.target = factor(params)?;
        self.clip = params.bool("clip");
        Ok(())
    }
}

/// `Resample`: `in` (audio) -> `out` (audio). Converts to one sample rate and channel count.
///
/// A few milliseconds stay inside until the next item; timestamps are carried to the sample.
pub(super) fn resample() -> NodeSpec {
    NodeSpec {
        node_type: "Resample".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::integer("rate", 8_000, 192_000, 48_000).unit("Hz").about("samples a second"),
            ParamSpec::integer("channels", 1, 2, 1).optional().about("as the input where it isn't given"),
        ],
        same_kind: false,
        load: simple(Resample::new),
    }
}

struct Resample {
    rate: u32,
    channels: Option<u16>,
    resampler: Option<Resampler>,
}

impl Resample {
    fn new(params: &Params) -> Result<Resample, NodeError> {
        Ok(Resample {
            rate: params.integer("rate").unwrap_or(48_000) as u32,
            channels: params.integer("channels").map(|channels| channels as u16),
            resampler: None,
        })
    }
}

impl Node for Resample {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        let channels = self.channels.unwrap_or(frame.channels);
        if item.discontinuity || self.resampler.as_ref().is_some_and(|r| r.output_channels() != channels) {
            self.resampler = None;
        }
        let failed = |error: remotemedia_media::MediaError| NodeError::failed(error.to_string());
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(self.rate, channels).map_err(failed)?),
        };
        let converted = resampler.process(frame).map_err(failed)?;
        if converted.frames() > 0 {
            let timestamp_us = converted.timestamp_us;
            let mut item = item.derive(Data::Audio(converted));
            item.timestamp_us = timestamp_us;
            out.push(0, item);
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        *self = Resample::new(params)?;
        Ok(())
    }
}
