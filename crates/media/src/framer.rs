//! Cuts audio of any shape into the exact frames an encoder takes.

use std::collections::VecDeque;

use crate::opus::OPUS_RATE;
use crate::resample::Resampler;
use crate::timeline::Timeline;
use crate::{AudioFrame, MediaError};

/// Takes audio frames of any rate, channel count and length, and hands out 48 kHz frames of one fixed length.
///
/// At most `limit_ms` of audio waits inside; beyond that the oldest goes, and [`dropped_samples`](Self::dropped_samples)
/// counts it.
pub struct AudioFramer {
    resampler: Resampler,
    frame_samples: usize,
    limit: usize,
    queue: VecDeque<f32>,
    timeline: Timeline,
    /// Samples a channel that ever left and entered the queue.
    left: u64,
    entered: u64,
    dropped: u64,
}

impl AudioFramer {
    /// Frames of `frame_ms` (1 to 120) and 1 or 2 channels; at most a second waits.
    pub fn new(channels: u16, frame_ms: u32) -> Result<AudioFramer, MediaError> {
        AudioFramer::with_limit(channels, frame_ms, 1000)
    }

    /// As [`new`](Self::new), but at most `limit_ms` waits: one frame at least, ten seconds at most.
    pub fn with_limit(channels: u16, frame_ms: u32, limit_ms: u32) -> Result<AudioFramer, MediaError> {
        check_frame_ms(frame_ms)?;
        if !(frame_ms..=10_000).contains(&limit_ms) {
            return Err(MediaError::Config {
                field: "limit_ms",
                value: limit_ms.into(),
                allowed: "frame_ms to 10000",
            });
        }
        let resampler = Resampler::new(OPUS_RATE, channels)?;
        let samples = |ms: u32| (ms * OPUS_RATE / 1000) as usize * usize::from(channels);
        Ok(AudioFramer {
            resampler,
            frame_samples: samples(frame_ms),
            limit: samples(limit_ms),
            queue: VecDeque::new(),
            timeline: Timeline::default(),
            left: 0,
            entered: 0,
            dropped: 0,
        })
    }

    /// Takes a frame in. [`MediaError::AudioFormat`] when it is none that is handled.
    pub fn push(&mut self, frame: &AudioFrame) -> Result<(), MediaError> {
        let frame = self.resampler.process(frame)?;
        if frame.samples.is_empty() {
            return Ok(());
        }
        self.timeline.note(self.entered, OPUS_RATE, frame.timestamp_us);
        self.entered += frame.frames() as u64;
        self.queue.extend(frame.samples.iter());
        if let Some(excess) = self.queue.len().checked_sub(self.limit + 1) {
            let excess = (excess + 1).next_multiple_of(usize::from(frame.channels));
            self.queue.drain(..excess);
            let frames = (excess / usize::from(frame.channels)) as u64;
            self.left += frames;
            self.dropped += frames;
            // Forgets the notes of what was dropped.
            self.timeline.at(self.left as f64, OPUS_RATE);
        }
        Ok(())
    }

    /// Fills `out` with the next whole frame, interleaved, and says when its first sample was captured (microseconds).
    ///
    /// `None`, and `out` empty, while there isn't a whole one.
    pub fn pop(&mut self, out: &mut Vec<f32>) -> Option<i64> {
        out.clear();
        if self.queue.len() < self.frame_samples {
            return None;
        }
        let timestamp_us = self.timeline.at(self.left as f64, OPUS_RATE);
        out.extend(self.queue.drain(..self.frame_samples));
        self.left += (self.frame_samples / usize::from(self.resampler.output_channels())) as u64;
        Some(timestamp_us)
    }

    /// Changes the length of a frame, 1 to 120; what waits is cut anew.
    pub fn set_frame_ms(&mut self, frame_ms: u32) -> Result<(), MediaError> {
        check_frame_ms(frame_ms)?;
        let channels = usize::from(self.resampler.output_channels());
        self.frame_samples = (frame_ms * OPUS_RATE / 1000) as usize * channels;
        self.limit = self.limit.max(self.frame_samples);
        Ok(())
    }

    /// Samples, all channels together, of one frame that [`pop`](Self::pop) gives.
    pub fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    /// Microseconds of audio that wait.
    pub fn buffered_us(&self) -> i64 {
        let frames = self.queue.len() / usize::from(self.resampler.output_channels());
        frames as i64 * 1_000_000 / i64::from(OPUS_RATE)
    }

    /// Samples a channel that were dropped because nobody took them.
    pub fn dropped_samples(&self) -> u64 {
        self.dropped
    }
}

fn check_frame_ms(frame_ms: u32) -> Result<(), MediaError> {
    if (1..=120).contains(&frame_ms) {
        return Ok(());
    }
    Err(MediaError::Config { field: "frame_ms", value: frame_ms.into(), allowed: "1 to 120" })
}
