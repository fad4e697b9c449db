//! Streaming sample rate and channel conversion.

use std::sync::Arc;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Resampler as _, SincInterpolationParameters, WindowFunction, calculate_cutoff,
};

use crate::timeline::Timeline;
use crate::{AudioFrame, MediaError};

/// The lowest sample rate taken, in hertz.
pub const MIN_SAMPLE_RATE: u32 = 8_000;
/// The highest sample rate taken, in hertz.
pub const MAX_SAMPLE_RATE: u32 = 192_000;

/// The longest frame taken in one call, in seconds.
const MAX_FRAME_SECONDS: usize = 10;
/// Taps of the filter at the lower of the two rates: 64 samples of delay.
const SINC_LEN: usize = 128;
/// How many times `SINC_LEN` a filter may get when the rate goes down by more than that.
const MAX_SINC_SCALE: usize = 24;

/// Converts a stream of audio frames to one rate and channel count.
///
/// Stateful: give it the frames of one stream, in order. What comes out for a frame is about as long as the frame; a few
/// milliseconds stay inside until the next one. The first output sample is the first input sample (the filter's delay is
/// cut off), and timestamps are carried to the sample. A frame of another rate or channel count starts afresh, which
/// loses those few milliseconds.
pub struct Resampler {
    output_rate: u32,
    output_channels: u16,
    input: Option<(u32, u16)>,
    stage: Option<Stage>,
    timeline: Timeline,
    /// Input frames taken, and output frames given, since the stage was made.
    taken: u64,
    given: u64,
}

/// The part that only exists where the rates differ.
struct Stage {
    engine: Async<f32>,
    ratio: f64,
    /// Interleaved input, in output channels, that doesn't fill a chunk yet.
    pending: Vec<f32>,
    chunk: Vec<f32>,
    /// Output frames still to be cut off: the filter's delay.
    to_trim: usize,
    /// Where, in input frames, the first output frame after that lies: less than one output frame behind the first.
    offset: f64,
}

impl Resampler {
    /// A converter to `output_rate` (8000 to 192000 Hz) and `output_channels` (1 or 2).
    pub fn new(output_rate: u32, output_channels: u16) -> Result<Resampler, MediaError> {
        check_rate(output_rate)?;
        if !matches!(output_channels, 1 | 2) {
            return Err(MediaError::Config {
                field: "channels",
                value: output_channels.into(),
                allowed: "1 or 2",
            });
        }
        Ok(Resampler {
            output_rate,
            output_channels,
            input: None,
            stage: None,
            timeline: Timeline::default(),
            taken: 0,
            given: 0,
        })
    }

    /// Converts one frame. The result may be empty while the filter fills.
    ///
    /// Stereo becomes mono by the mean of both channels, mono becomes stereo by doubling. A sample that is no number, or
    /// an infinite one, counts as 0.
    pub fn process(&mut self, frame: &AudioFrame) -> Result<AudioFrame, MediaError> {
        check_frame(frame)?;
        if self.input != Some((frame.sample_rate, frame.channels)) {
            self.restart(frame.sample_rate, frame.channels)?;
        }
        self.timeline.note(self.taken, frame.sample_rate, frame.timestamp_us);
        self.taken += frame.frames() as u64;

        let Some(stage) = &mut self.stage else {
            self.given = self.taken;
            if frame.channels == self.output_channels && frame.samples.iter().all(|s| s.is_finite()) {
                return Ok(frame.clone());
            }
            let mut samples = Vec::new();
            convert_channels(frame, self.output_channels, &mut samples);
            return Ok(AudioFrame {
                samples: Arc::new(samples),
                channels: self.output_channels,
                ..frame.clone()
            });
        };
        convert_channels(frame, self.output_channels, &mut stage.pending);
        let mut samples = Vec::new();
        stage.run(usize::from(self.output_channels), &mut samples)?;
        Ok(self.stamp(samples, frame.sample_rate))
    }

    /// Ends the stream: what is still inside, and then it is as new.
    pub fn flush(&mut self) -> Result<AudioFrame, MediaError> {
        let rate = self.input.map_or(self.output_rate, |(rate, _)| rate);
        let mut samples = Vec::new();
        if let Some(stage) = &mut self.stage {
            let channels = usize::from(self.output_channels);
            let owed = (self.taken as f64 * stage.ratio).ceil() as u64;
            let missing = owed.saturating_sub(self.given) as usize * channels;
            while samples.len() < missing {
                let silence = stage.engine.input_frames_next() * channels;
                stage.pending.resize(stage.pending.len().max(silence), 0.0);
                stage.run(channels, &mut samples)?;
            }
            samples.truncate(missing);
        }
        let rest = self.stamp(samples, rate);
        self.input = None;
        self.stage = None;
        Ok(rest)
    }

    /// The rate it gives, in hertz.
    pub fn output_rate(&self) -> u32 {
        self.output_rate
    }

    /// The channels it gives.
    pub fn output_channels(&self) -> u16 {
        self.output_channels
    }

    fn restart(&mut self, rate: u32, channels: u16) -> Result<(), MediaError> {
        self.stage = if rate == self.output_rate {
            None
        } else {
            Some(Stage::new(rate, self.output_rate, usize::from(self.output_channels))?)
        };
        self.input = Some((rate, channels));
        self.timeline.clear();
        self.taken = 0;
        self.given = 0;
        Ok(())
    }

    fn stamp(&mut self, samples: Vec<f32>, input_rate: u32) -> AudioFrame {
        let offset = self.stage.as_ref().map_or(0.0, |stage| stage.offset);
        let position = self.given as f64 * f64::from(input_rate) / f64::from(self.output_rate) + offset;
        let timestamp_us = self.timeline.at(position, input_rate);
        self.given += (samples.len() / usize::from(self.output_channels)) as u64;
        AudioFrame {
            samples: Arc::new(samples),
            sample_rate: self.output_rate,
            channels: self.output_channels,
            timestamp_us,
        }
    }
}

impl Stage {
    fn new(input_rate: u32, output_rate: u32, channels: usize) -> Result<Stage, MediaError> {
        let ratio = f64::from(output_rate) / f64::from(input_rate);
        // Going down, the filter has to be that much longer for the same steepness.
        let scale = (input_rate.div_ceil(output_rate) as usize).clamp(1, MAX_SINC_SCALE);
        let window = WindowFunction::Blackman2;
        let mut parameters = SincInterpolationParameters::new(SINC_LEN * scale, window);
        // Relative to the lower rate, where the filter counts as `SINC_LEN` long however long it is.
        parameters.f_cutoff = Some(calculate_cutoff(SINC_LEN, window));
        // 5 ms at a time, so little waits for more.
        let chunk = (input_rate / 200) as usize;
        let engine =
            Async::new_sinc(ratio, 1.0, &parameters, chunk, channels, FixedAsync::Input).map_err(|e| {
                MediaError::Codec { codec: "resampler", operation: "start", reason: e.to_string() }
            })?;
        // Its first output frame lies half a filter, less one output frame, ahead of the first input frame.
        let lead = (SINC_LEN * scale / 2) as f64;
        let to_trim = (lead * ratio - 1.0 - 1e-9).ceil();
        let offset = ((to_trim + 1.0) / ratio - lead).max(0.0);
        Ok(Stage { engine, ratio, pending: Vec::new(), chunk: Vec::new(), to_trim: to_trim as usize, offset })
    }

    /// Converts every whole chunk of `pending`, appending to `out`.
    fn run(&mut self, channels: usize, out: &mut Vec<f32>) -> Result<(), MediaError> {
        let failed = |reason: String| MediaError::Codec { codec: "resampler", operation: "convert", reason };
        let mut done = 0;
        loop {
            let need = self.engine.input_frames_next();
            let Some(input) = self.pending.get(done..done + need * channels) else { break };
            let space = self.engine.output_frames_next();
            self.chunk.resize(space * channels, 0.0);
            let source = InterleavedSlice::new(input, channels, need).map_err(|e| failed(e.to_string()))?;
            let mut sink = InterleavedSlice::new_mut(&mut self.chunk, channels, space)
                .map_err(|e| failed(e.to_string()))?;
            let (read, written) = self
                .engine
                .process_into_buffer(&source, &mut sink, None)
                .map_err(|e| failed(e.to_string()))?;
            done += read * channels;
            let cut = self.to_trim.min(written);
            self.to_trim -= cut;
            out.extend_from_slice(&self.chunk[cut * channels..written * channels]);
        }
        self.pending.drain(..done);
        Ok(())
    }
}

/// Refuses what isn't an audio frame of a rate, a channel count and a length that is handled.
pub(crate) fn check_frame(frame: &AudioFrame) -> Result<(), MediaError> {
    let ok = (MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&frame.sample_rate)
        && matches!(frame.channels, 1 | 2)
        && frame.samples.len().is_multiple_of(usize::from(frame.channels))
        && frame.frames() <= frame.sample_rate as usize * MAX_FRAME_SECONDS;
    if ok {
        Ok(())
    } else {
        Err(MediaError::AudioFormat {
            sample_rate: frame.sample_rate,
            channels: frame.channels,
            samples: frame.samples.len(),
        })
    }
}

fn check_rate(rate: u32) -> Result<(), MediaError> {
    if (MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&rate) {
        Ok(())
    } else {
        Err(MediaError::Config { field: "sample_rate", value: rate.into(), allowed: "8000 to 192000" })
    }
}

/// Appends a frame's samples to `out` with another channel count.
fn convert_channels(frame: &AudioFrame, channels: u16, out: &mut Vec<f32>) {
    let finite = |s: &f32| if s.is_finite() { *s } else { 0.0 };
    match (frame.channels, channels) {
        (2, 1) => out.extend(frame.samples.chunks_exact(2).map(|s| (finite(&s[0]) + finite(&s[1])) * 0.5)),
        (1, 2) => out.extend(frame.samples.iter().flat_map(|s| [finite(s); 2])),
        _ => out.extend(frame.samples.iter().map(finite)),
    }
}
