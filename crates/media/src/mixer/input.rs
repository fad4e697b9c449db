//! One input of a mixer: what it gives in a tick, and how much of that is heard.

use std::time::{Duration, Instant};

use super::elastic::ElasticBuffer;
use super::limiter::Limiter;
use super::speakers::Level;
use super::{AudioSource, Pulled};
use crate::{AudioFrame, MediaError, OPUS_RATE};

/// A change of what is heard is spread over this many frames: 20 ms.
const RAMP: usize = OPUS_RATE as usize / 50;
/// An input that begins to sound opens within this many frames: 5 ms.
const OPENING: usize = OPUS_RATE as usize / 200;

pub(super) struct Input {
    source: Source,
    samples: Vec<f32>,
    /// What was added to the sum, as it was added.
    added: Vec<f64>,
    adds: bool,
    pulled: Pulled,
    gain: f32,
    muted: bool,
    leaving: bool,
    /// Among the loudest; the selector's to set.
    pub selected: bool,
    factor: Ramp,
    pub level: Level,
    /// Of its owner's output, while that differs from everybody's.
    pub limiter: Option<Limiter>,
    concealed_ticks: u64,
    /// When it last gave something.
    heard: Option<Instant>,
}

/// A factor that goes to its target in even steps.
#[derive(Clone, Copy, Default)]
struct Ramp {
    value: f32,
    target: f32,
    left: usize,
}

enum Source {
    Elastic(Box<ElasticBuffer>),
    Pulled(Box<dyn AudioSource>),
}

/// One input at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct InputStats {
    /// Its level in dB of full scale (RMS), smoothed; -120 in silence.
    pub level_db: f64,
    /// It is heard: not muted, not below the gate, among the loudest.
    pub heard: bool,
    /// Sound that waits in it, in microseconds.
    pub buffered_us: i64,
    /// How much faster its clock runs than ours, in parts per million, as far as is known.
    pub drift_ppm: f64,
    /// Ticks for which it had too little and something was made up.
    pub concealed_ticks: u64,
    /// Times it ran dry while it sounded.
    pub underruns: u64,
    /// Sound dropped because too much waited, in microseconds.
    pub dropped_us: i64,
}

impl Input {
    pub fn pushed(buffer: ElasticBuffer) -> Input {
        Input::new(Source::Elastic(Box::new(buffer)))
    }

    pub fn pulled(source: Box<dyn AudioSource>) -> Input {
        Input::new(Source::Pulled(source))
    }

    fn new(source: Source) -> Input {
        Input {
            source,
            samples: Vec::new(),
            added: Vec::new(),
            adds: false,
            pulled: Pulled::Silence,
            gain: 1.0,
            muted: false,
            leaving: false,
            selected: false,
            factor: Ramp::default(),
            level: Level::default(),
            limiter: None,
            concealed_ticks: 0,
            heard: None,
        }
    }

    pub fn push(&mut self, frame: &AudioFrame, now: Instant) -> Result<(), MediaError> {
        match &mut self.source {
            Source::Elastic(buffer) => buffer.push(frame, now),
            // It brings its own sound: what is pushed beside that is not heard.
            Source::Pulled(_) => Ok(()),
        }
    }

    pub fn set(&mut self, gain: f32, muted: bool) {
        (self.gain, self.muted) = (gain, muted);
    }

    pub fn leave(&mut self) {
        self.leaving = true;
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// It is leaving, and was heard out.
    pub fn has_left(&self) -> bool {
        self.leaving && self.factor.is_zero()
    }

    /// It gave something in this tick, or may in the next although nothing is pushed.
    pub fn is_awake(&self) -> bool {
        self.pulled != Pulled::Silence || matches!(self.source, Source::Pulled(_))
    }

    /// How long it has given nothing.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard))
    }

    /// When the first sample of this tick was captured, if it is one that was sent.
    pub fn captured_us(&self) -> Option<i64> {
        (self.pulled == Pulled::Audio).then(|| match &self.source {
            Source::Elastic(buffer) => buffer.captured_us(),
            Source::Pulled(source) => source.captured_us(),
        })
    }

    /// Takes this tick's sound from the source and looks how loud it is.
    pub fn pull(&mut self, due: Instant, frames: usize, channels: usize, gate_db: f64) {
        self.samples.clear();
        self.samples.resize(frames * channels, 0.0);
        self.pulled = match &mut self.source {
            Source::Elastic(buffer) => buffer.pull(due, &mut self.samples),
            Source::Pulled(source) => source.pull(due, &mut self.samples),
        };
        if self.is_awake() || self.heard.is_none() {
            self.heard = Some(due);
        }
        self.concealed_ticks += u64::from(self.pulled == Pulled::Concealed);
        let quiet = self.muted || self.leaving || self.pulled == Pulled::Silence;
        let energy: f64 = if quiet {
            0.0
        } else {
            let gain = f64::from(self.gain);
            self.samples.iter().map(|sample| (f64::from(*sample) * gain).powi(2)).sum()
        };
        let seconds = frames as f64 / f64::from(OPUS_RATE);
        self.level.observe(energy / self.samples.len().max(1) as f64, seconds, gate_db);
    }

    /// Adds it to the sum, and keeps exactly what was added.
    pub fn add_to(&mut self, sum: &mut [f64], channels: usize) {
        let heard = self.selected && !self.muted && !self.leaving && self.level.is_open();
        self.factor.aim(if heard { self.gain } else { 0.0 });
        self.adds = !self.factor.is_zero();
        if !self.adds {
            return;
        }
        self.added.clear();
        for frame in self.samples.chunks_exact(channels) {
            let factor = self.factor.next();
            self.added.extend(frame.iter().map(|sample| f64::from(sample * factor)));
        }
        for (all, own) in sum.iter_mut().zip(&self.added) {
            *all += own;
        }
    }

    /// What it added to the sum; `None` where that is nothing at all.
    pub fn added(&self) -> Option<&[f64]> {
        self.adds.then_some(&self.added)
    }

    pub fn stats(&self) -> InputStats {
        let (buffered_us, drift_ppm, underruns, dropped_us) = match &self.source {
            Source::Elastic(buffer) => {
                (buffer.buffered_us(), buffer.drift_ppm(), buffer.underruns(), buffer.dropped_us())
            }
            Source::Pulled(source) => (source.buffered_us(), 0.0, 0, 0),
        };
        InputStats {
            level_db: self.level.db(),
            heard: self.adds,
            buffered_us,
            drift_ppm,
            concealed_ticks: self.concealed_ticks,
            underruns,
            dropped_us,
        }
    }
}

impl Ramp {
    fn aim(&mut self, target: f32) {
        if self.target == target {
            return;
        }
        self.target = target;
        self.left = if self.value == 0.0 { OPENING } else { RAMP };
    }

    fn next(&mut self) -> f32 {
        match self.left {
            0 => {}
            1 => (self.value, self.left) = (self.target, 0),
            left => {
                self.value += (self.target - self.value) / left as f32;
                self.left -= 1;
            }
        }
        self.value
    }

    /// It is zero and stays so.
    fn is_zero(&self) -> bool {
        self.value == 0.0 && self.left == 0
    }
}
