//! Brings speech to one loudness.

use std::sync::Arc;

use remotemedia_media::AudioFrame;

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// Loudness is measured over blocks this long.
const BLOCK_MS: u32 = 10;
/// The level is a mean over about this many blocks of speech: syllables are not to be heard pumping. What is suddenly much
/// louder moves a mean of squares at once.
const MEMORY_BLOCKS: f32 = 100.0;
/// A gain that goes down, because it became loud, does so this much faster than one that goes up.
const DOWN_FASTER: f32 = 8.0;

/// `Agc`: `in` (audio) -> `out` (audio). Automatic gain control: speech comes out at `target_db` whether it is near the
/// microphone or far away.
///
/// What is quieter than the gate counts as a pause and holds the gain, so that noise isn't raised in pauses. All channels
/// get the same gain; samples stay within -1..=1, but put a `Limiter` behind it where peaks must not be cut.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "Agc".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::number("target_db", -40.0, -6.0, -20.0)
                .unit("dBFS")
                .about("level (RMS) of speech behind it"),
            ParamSpec::number("max_gain_db", 0.0, 40.0, 24.0).unit("dB").about("never louder than by this"),
            ParamSpec::number("min_gain_db", -40.0, 0.0, -24.0).unit("dB").about("never softer than by this"),
            ParamSpec::number("gate_db", -90.0, -20.0, -55.0)
                .unit("dBFS")
                .about("what is below (RMS) is a pause and holds the gain"),
            ParamSpec::number("speed_db_s", 0.5, 60.0, 6.0)
                .unit("dB/s")
                .about("how fast the gain rises; it falls eight times as fast"),
        ],
        same_kind: false,
        load: simple(Agc::new),
    }
}

struct Agc {
    settings: Settings,
    /// Mean square of speech lately; `None` before the first.
    speech: Option<f32>,
    gain_db: f32,
    /// Of the block that isn't whole yet: sum of squares, and samples.
    sum: f32,
    count: usize,
    rate: u32,
}

struct Settings {
    target_db: f32,
    max_gain_db: f32,
    min_gain_db: f32,
    gate: f32,
    speed_db_s: f32,
}

impl Agc {
    fn new(params: &Params) -> Result<Agc, NodeError> {
        Ok(Agc { settings: Settings::new(params), speech: None, gain_db: 0.0, sum: 0.0, count: 0, rate: 0 })
    }

    /// A whole block of this mean square: where the gain goes.
    fn block(&mut self, mean_square: f32) {
        let settings = &self.settings;
        if mean_square < settings.gate {
            return;
        }
        let known = self.speech.unwrap_or(mean_square);
        let speech = known + (mean_square - known) / MEMORY_BLOCKS;
        self.speech = Some(speech);
        let wanted = settings.target_db - 10.0 * speech.log10();
        let wanted = wanted.clamp(settings.min_gain_db, settings.max_gain_db);
        let step = settings.speed_db_s * BLOCK_MS as f32 / 1000.0;
        self.gain_db += (wanted - self.gain_db).clamp(-step * DOWN_FASTER, step);
    }
}

impl Settings {
    fn new(params: &Params) -> Settings {
        let number = |name: &str, usual: f64| params.number(name).unwrap_or(usual) as f32;
        Settings {
            target_db: number("target_db", -20.0),
            max_gain_db: number("max_gain_db", 24.0),
            min_gain_db: number("min_gain_db", -24.0),
            gate: 10f32.powf(number("gate_db", -55.0) / 10.0),
            speed_db_s: number("speed_db_s", 6.0),
        }
    }
}

impl Node for Agc {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        if self.rate != frame.sample_rate {
            (self.rate, self.sum, self.count) = (frame.sample_rate, 0.0, 0);
        }
        let channels = usize::from(frame.channels.max(1));
        let block = (frame.sample_rate * BLOCK_MS / 1000).max(1) as usize;
        let mut samples = Vec::with_capacity(frame.samples.len());
        let mut rest = frame.samples.as_slice();
        while !rest.is_empty() {
            let frames = (rest.len() / channels).min(block - self.count);
            let (now, later) = rest.split_at(frames * channels);
            rest = later;
            let finite = now.iter().map(|sample| if sample.is_finite() { *sample } else { 0.0 });
            self.sum += finite.clone().map(|sample| sample * sample).sum::<f32>() / channels as f32;
            self.count += frames;
            let from = self.gain_db;
            if self.count >= block {
                let mean_square = self.sum / self.count as f32;
                (self.sum, self.count) = (0.0, 0);
                self.block(mean_square.min(1e12));
            }
            // From one gain to the next in a straight line, so that it doesn't click.
            let (from, to) = (10f32.powf(from / 20.0), 10f32.powf(self.gain_db / 20.0));
            let step = (to - from) / frames.max(1) as f32;
            samples.extend(finite.enumerate().map(|(index, sample)| {
                (sample * (from + step * (index / channels + 1) as f32)).clamp(-1.0, 1.0)
            }));
        }
        let even = AudioFrame { samples: Arc::new(samples), ..frame.clone() };
        out.push(0, item.derive(Data::Audio(even)));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.settings = Settings::new(params);
        Ok(())
    }
}
