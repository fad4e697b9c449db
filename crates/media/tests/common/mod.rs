//! Signals that are made, and measures of what became of them.

#![allow(dead_code)]

use remotemedia_media::{AudioFrame, FramePool, VideoFrame};
use std::sync::Arc;

/// A seeded generator: the same numbers in every run.
pub struct XorShift(pub u64);

impl XorShift {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Interleaved sine samples from sample `start` on, the same in each channel.
pub fn sine(hz: f64, amplitude: f64, rate: u32, channels: u16, start: usize, frames: usize) -> Vec<f32> {
    (start..start + frames)
        .flat_map(|i| {
            let s = amplitude * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin();
            std::iter::repeat_n(s as f32, usize::from(channels))
        })
        .collect()
}

pub fn audio(samples: Vec<f32>, sample_rate: u32, channels: u16, timestamp_us: i64) -> AudioFrame {
    AudioFrame { samples: Arc::new(samples), sample_rate, channels, timestamp_us }
}

pub fn channel(samples: &[f32], channels: usize, which: usize) -> Vec<f32> {
    samples.iter().skip(which).step_by(channels).copied().collect()
}

/// Amplitude of the component at `hz`, through a Hann window.
pub fn amplitude_at(samples: &[f32], rate: u32, hz: f64) -> f64 {
    goertzel(&hann(samples), rate, hz)
}

/// The frequency with the most energy between `from` and `to`, to 0.1 Hz, and its amplitude.
pub fn peak(samples: &[f32], rate: u32, from: f64, to: f64) -> (f64, f64) {
    let windowed = hann(samples);
    let best = |from: f64, to: f64, step: f64| {
        let count = ((to - from) / step).round() as usize;
        (0..=count)
            .map(|i| from + i as f64 * step)
            .map(|hz| (hz, goertzel(&windowed, rate, hz)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap()
    };
    let (coarse, _) = best(from, to, 1.0);
    best(coarse - 1.0, coarse + 1.0, 0.1)
}

fn hann(samples: &[f32]) -> Vec<f64> {
    let n = samples.len() as f64;
    let window = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n).cos();
    samples.iter().enumerate().map(|(i, s)| f64::from(*s) * window(i)).collect()
}

/// Goertzel's recurrence. The window halves the mean, and a sine's energy is in two halves of the spectrum: hence the 4.
fn goertzel(windowed: &[f64], rate: u32, hz: f64) -> f64 {
    let turn = 2.0 * (std::f64::consts::TAU * hz / f64::from(rate)).cos();
    let (a, b) = windowed.iter().fold((0.0, 0.0), |(a, b), s| (s + turn * a - b, a));
    (a * a + b * b - turn * a * b).sqrt() / windowed.len() as f64 * 4.0
}

pub fn db(ratio: f64) -> f64 {
    20.0 * ratio.log10()
}

/// A natural-ish moving picture: smooth waves that drift, some texture, and a bright disc that crosses.
pub fn pattern(pool: &FramePool, width: u32, height: u32, index: usize, timestamp_us: i64) -> VideoFrame {
    let mut frame = pool.get(width, height).unwrap();
    let (w, h, t) = (width as f32, height as f32, index as f32);
    // Rows and columns apart, so that a debug build makes a picture in a millisecond or two.
    let wave = |n: u32, speed: f32, len: f32| -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + t * speed) / len).sin()).collect()
    };
    let (col, row) = (wave(width, 2.0, w / 9.0), wave(height, -1.0, h / 7.0));
    let disc = (w * (0.5 + 0.35 * (t / 40.0).sin()), h * (0.5 + 0.3 * (t / 27.0).cos()), h * 0.16);
    let shift = index * 2;
    let [y, u, v] = frame.planes_mut();
    for (j, line) in y.data.chunks_exact_mut(y.stride).enumerate() {
        for (i, pixel) in line.iter_mut().enumerate() {
            let (dx, dy) = (i as f32 - disc.0, j as f32 - disc.1);
            let texture = (((i + shift) / 4 * 7 + j / 4 * 13) % 11) as f32 * 1.5;
            let mut value = 110.0 + 45.0 * col[i] * row[j] + 20.0 * row[j] + texture;
            if dx * dx + dy * dy < disc.2 * disc.2 {
                value = 205.0 - texture;
            }
            *pixel = value as u8;
        }
    }
    for (plane, base, sign) in [(u, 118.0, 1.0f32), (v, 136.0, -1.0)] {
        for (j, line) in plane.data.chunks_exact_mut(plane.stride).enumerate() {
            for (i, pixel) in line.iter_mut().enumerate() {
                *pixel = (base
                    + sign * 24.0 * col[(2 * i).min(col.len() - 1)]
                    + 10.0 * row[(2 * j).min(row.len() - 1)]) as u8;
            }
        }
    }
    frame.freeze(timestamp_us)
}

/// Peak signal-to-noise ratio of two runs of bytes, in dB; 100 where they are the same.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    if sum == 0.0 { 100.0 } else { 10.0 * (255.0f64.powi(2) * a.len() as f64 / sum).log10() }
}

/// Resident memory of this process, in KiB.
pub fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// AV1 of [`pattern`], a keyframe each six pictures, made with ffmpeg and libaom: `160x96` (12 pictures) or `320x180` (6).
pub fn av1(size: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/data/av1-{size}.ivf", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let (mut rest, mut out) = (&file[32..], Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<12>() {
        let (data, after) = after.split_at(u32::from_le_bytes(*header.first_chunk().unwrap()) as usize);
        out.push(data.to_vec());
        rest = after;
    }
    out
}
