//! Keeps a sum within full scale by turning it down where it is too loud, and up again slowly.

use crate::OPUS_RATE;

/// Nothing gets louder than this: -1 dB of full scale.
const CEILING: f32 = 0.891_25;
/// The gain is decided for this many frames at a time: 1 ms.
const STEP: usize = OPUS_RATE as usize / 1000;
/// How much of the way back to 1 the gain goes in a step: half of it in some 100 ms.
const RELEASE: f32 = 0.007;
/// A gain this close to 1 is 1.
const OPEN: f32 = 0.9995;

/// A peak limiter without delay: it sees one tick at a time, and within it every peak before it comes.
#[derive(Clone)]
pub(super) struct Limiter {
    channels: usize,
    /// At the end of the last tick.
    gain: f32,
}

impl Limiter {
    pub fn new(channels: u16) -> Limiter {
        Limiter { channels: usize::from(channels), gain: 1.0 }
    }

    /// Limits one tick. Returns how many samples were held down.
    pub fn run(&mut self, samples: &mut [f32]) -> u64 {
        let block = STEP * self.channels;
        // What each step can bear.
        let bears: Vec<f32> = samples
            .chunks(block)
            .map(|step| {
                let peak = step.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
                if peak > CEILING { CEILING / peak } else { 1.0 }
            })
            .collect();
        if self.gain == 1.0 && bears.iter().all(|gain| *gain == 1.0) {
            return 0;
        }
        let mut held = 0;
        for (index, step) in samples.chunks_mut(block).enumerate() {
            let from = self.gain;
            let recovered = from + (1.0 - from) * RELEASE;
            // Down before the next step needs it, and never above what this one bears.
            let next = bears.get(index + 1).copied().unwrap_or(1.0);
            let to = recovered.min(bears[index]).min(next);
            let to = if to > OPEN { 1.0 } else { to };
            let frames = step.len() / self.channels;
            for (at, frame) in step.chunks_exact_mut(self.channels).enumerate() {
                let gain = from + (to - from) * (at + 1) as f32 / frames as f32;
                for sample in frame {
                    // Only the first millisecond of a tick can be louder than was foreseen.
                    let limited = (*sample * gain).clamp(-CEILING, CEILING);
                    held += u64::from(limited != *sample);
                    *sample = limited;
                }
            }
            self.gain = to;
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32, ticks: usize) -> Vec<f32> {
        (0..ticks * 960)
            .map(|i| amplitude * (std::f32::consts::TAU * 500.0 * i as f32 / 48_000.0).sin())
            .collect()
    }

    #[test]
    fn what_is_not_too_loud_is_left_alone_to_the_bit() {
        let before = tone(0.89, 3);
        let mut after = before.clone();
        let mut limiter = Limiter::new(1);
        assert_eq!(after.chunks_mut(960).map(|tick| limiter.run(tick)).sum::<u64>(), 0);
        assert_eq!(before, after);
    }

    #[test]
    fn what_is_too_loud_is_turned_down_without_a_jump_and_comes_back() {
        let mut samples = [tone(0.5, 5), tone(3.0, 25), tone(0.5, 100)].concat();
        let loud = samples.clone();
        let mut limiter = Limiter::new(1);
        let held: u64 = samples.chunks_mut(960).map(|tick| limiter.run(tick)).sum();
        assert!(held > 0);
        assert!(samples.iter().all(|sample| sample.abs() <= CEILING));
        // Where it has settled it is the same tone, smaller, and not a square of it.
        let ratio: Vec<f32> =
            (20 * 960..25 * 960).filter(|i| loud[*i].abs() > 0.1).map(|i| samples[i] / loud[i]).collect();
        let (least, most) =
            ratio.iter().fold((f32::MAX, 0.0f32), |(least, most), r| (least.min(*r), most.max(*r)));
        assert!(most / least < 1.1, "gain between {least} and {most}");
        assert!((most - CEILING / 3.0).abs() < 0.05, "{most}");
        // Back to itself within a second.
        let end = samples.len() - 48_000;
        assert!(samples[end..].iter().zip(&loud[end..]).all(|(a, b)| (a - b).abs() < 0.03));
        let jump = samples.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
        assert!(jump < 0.25, "a step of {jump} between two samples");
    }

    #[test]
    fn both_channels_are_turned_down_together() {
        let mut samples: Vec<f32> = tone(2.0, 4).iter().flat_map(|s| [*s, s / 4.0]).collect();
        Limiter::new(2).run(&mut samples);
        for pair in samples.chunks_exact(2).skip(960).filter(|pair| pair[0].abs() > 0.1) {
            assert!((pair[1] / pair[0] - 0.25).abs() < 1e-3);
        }
    }
}
