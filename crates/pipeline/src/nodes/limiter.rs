//! Keeps peaks under a ceiling.

use std::collections::VecDeque;
use std::sync::Arc;

use remotemedia_media::AudioFrame;

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// Frames that follow each other closer than this are one stream: senders round their timestamps.
const TOLERANCE_US: i64 = 20_000;

/// `Limiter`: `in` (audio) -> `out` (audio). No sample leaves it above the ceiling, and nothing is clipped on the way.
///
/// It looks ahead: the gain is down before a peak comes, so the sound comes out `lookahead_ms` late, with its timestamps
/// right. All channels get the same gain. A sample that is no number counts as 0.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "Limiter".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::number("ceiling_db", -60.0, 0.0, -1.0)
                .unit("dBFS")
                .about("no sample is above this, in either direction"),
            ParamSpec::number("gain_db", -24.0, 48.0, 0.0).unit("dB").about("applied before it"),
            ParamSpec::number("lookahead_ms", 0.5, 20.0, 5.0)
                .unit("ms")
                .about("how early the gain begins to go down; the delay it adds"),
            ParamSpec::number("release_ms", 5.0, 5000.0, 100.0)
                .unit("ms")
                .about("in which time most of the gain comes back"),
        ],
        same_kind: false,
        load: simple(Limiter::new),
    }
}

struct Limiter {
    settings: Settings,
    stream: Option<Stream>,
}

#[derive(Clone, Copy, PartialEq)]
struct Settings {
    ceiling: f32,
    gain: f32,
    lookahead_ms: f64,
    release_ms: f64,
}

/// What belongs to one run of frames of one format.
struct Stream {
    rate: u32,
    channels: usize,
    window: usize,
    /// Frames not given out yet, interleaved, with the gain before the limiter applied.
    delayed: VecDeque<f32>,
    /// The gains that each frame needs, as far as they can still be the least of a window: position and gain, rising.
    least: VecDeque<(u64, f32)>,
    /// The gain after release, of each frame in the window, and their sum.
    smooth: VecDeque<f32>,
    sum: f64,
    released: f32,
    taken: u64,
    /// When the next frame to come is expected.
    next_us: i64,
}

impl Limiter {
    fn new(params: &Params) -> Result<Limiter, NodeError> {
        Ok(Limiter { settings: Settings::new(params), stream: None })
    }
}

impl Settings {
    fn new(params: &Params) -> Settings {
        let number = |name: &str, usual: f64| params.number(name).unwrap_or(usual);
        let factor = |db: f64| 10f64.powf(db / 20.0) as f32;
        Settings {
            ceiling: factor(number("ceiling_db", -1.0)),
            gain: factor(number("gain_db", 0.0)),
            lookahead_ms: number("lookahead_ms", 5.0),
            release_ms: number("release_ms", 100.0),
        }
    }
}

impl Stream {
    fn new(frame: &AudioFrame, settings: &Settings) -> Stream {
        let window =
            (f64::from(frame.sample_rate) * settings.lookahead_ms / 1000.0).round().max(1.0) as usize;
        Stream {
            rate: frame.sample_rate,
            channels: usize::from(frame.channels),
            window,
            delayed: VecDeque::new(),
            least: VecDeque::new(),
            smooth: VecDeque::from(vec![1.0; window]),
            sum: window as f64,
            released: 1.0,
            taken: 0,
            next_us: frame.timestamp_us,
        }
    }

    fn follows(&self, frame: &AudioFrame) -> bool {
        self.rate == frame.sample_rate
            && self.channels == usize::from(frame.channels)
            && (frame.timestamp_us - self.next_us).abs() <= TOLERANCE_US
    }

    /// Takes samples in and appends what comes out: as many frames, less those that fill the window first.
    fn run(&mut self, samples: &[f32], settings: &Settings, out: &mut Vec<f32>) {
        let Settings { ceiling, gain, release_ms, .. } = *settings;
        let release = 1.0 - (-1000.0 / (release_ms * f64::from(self.rate))).exp() as f32;
        for frame in samples.chunks_exact(self.channels) {
            let mut peak = 0f32;
            for sample in frame {
                let sample = if sample.is_finite() { sample * gain } else { 0.0 };
                // Far above anything that is sound, and still a number after every product below.
                let sample = sample.clamp(-1e6, 1e6);
                peak = peak.max(sample.abs());
                self.delayed.push_back(sample);
            }
            let needed = if peak > ceiling { ceiling / peak } else { 1.0 };
            // The least of the last `window` frames: what is larger and older than the new one can't be it any more.
            while self.least.back().is_some_and(|(_, other)| *other >= needed) {
                self.least.pop_back();
            }
            self.least.push_back((self.taken, needed));
            if self.least.front().is_some_and(|(at, _)| at + (self.window as u64) <= self.taken) {
                self.least.pop_front();
            }
            let least = self.least.front().map_or(1.0, |(_, gain)| *gain);
            let risen = self.released + (1.0 - self.released) * release;
            // It comes ever nearer to 1 and, by itself, never there.
            self.released = least.min(if risen > 0.9999 { 1.0 } else { risen });
            // The mean over the window goes down in a straight line, and has arrived when the peak comes out.
            let oldest = self.smooth.pop_front().unwrap_or(1.0);
            self.smooth.push_back(self.released);
            self.sum += f64::from(self.released) - f64::from(oldest);
            self.taken += 1;
            if self.taken < self.window as u64 {
                continue;
            }
            let gain = (self.sum / self.window as f64) as f32;
            for sample in self.delayed.drain(..self.channels) {
                // What is left to cut is rounding.
                out.push((sample * gain).clamp(-ceiling, ceiling));
            }
        }
        // Rounding in a running sum adds up; a fresh one now and then doesn't.
        self.sum = self.smooth.iter().map(|gain| f64::from(*gain)).sum();
    }

    fn frame(&self, samples: Vec<f32>, end_us: i64) -> AudioFrame {
        let waiting = self.delayed.len() / self.channels;
        let frames = samples.len() / self.channels + waiting;
        AudioFrame {
            samples: Arc::new(samples),
            sample_rate: self.rate,
            channels: self.channels as u16,
            timestamp_us: end_us - frames as i64 * 1_000_000 / i64::from(self.rate),
        }
    }

    /// What is still inside.
    fn rest(mut self, settings: &Settings) -> AudioFrame {
        let end_us = self.next_us;
        let inside = self.delayed.len();
        let mut samples = Vec::new();
        let silence = vec![0.0; self.window * self.channels];
        self.run(&silence, settings, &mut samples);
        samples.truncate(inside);
        self.delayed.clear();
        self.frame(samples, end_us)
    }
}

impl Node for Limiter {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        let mut give = |frame: AudioFrame| {
            if !frame.samples.is_empty() {
                let mut item = item.derive(Data::Audio(frame.clone()));
                item.timestamp_us = frame.timestamp_us;
                out.push(0, item);
            }
        };
        if frame.frames() == 0 {
            return Ok(());
        }
        if let Some(stream) = self.stream.take_if(|stream| item.discontinuity || !stream.follows(frame)) {
            give(stream.rest(&self.settings));
        }
        let stream = self.stream.get_or_insert_with(|| Stream::new(frame, &self.settings));
        stream.next_us = frame.timestamp_us + frame.duration_us();
        let mut samples = Vec::with_capacity(frame.samples.len());
        stream.run(&frame.samples, &self.settings, &mut samples);
        give(stream.frame(samples, stream.next_us));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        let settings = Settings::new(params);
        if settings.lookahead_ms != self.settings.lookahead_ms {
            self.stream = None;
        }
        self.settings = settings;
        Ok(())
    }
}
