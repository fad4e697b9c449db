//! Playing a stream a little faster or slower than it came, without anybody hearing it.

use std::sync::OnceLock;

/// Taps of the filter. It looks this many frames ahead less one half.
const TAPS: usize = 24;
/// Frames it looks ahead: what it needs beyond the frame it is at.
pub(super) const AHEAD: usize = TAPS / 2;
/// Frames it looks back.
pub(super) const BEHIND: usize = TAPS / 2 - 1;
/// Places between two frames for which there are coefficients; those between them are interpolated.
const PHASES: usize = 128;

/// A speed never differs from 1 by more than this, in parts per million: two thousandths of a semitone.
const MAX_PPM: f64 = 1000.0;
/// What a millisecond of error is answered with, in parts per million: it is gone in some ten seconds.
const PPM_A_MS: f64 = 100.0;
/// In which time a lasting error is answered as much again, in seconds. With the above the loop is damped by 0.7.
const INTEGRAL_S: f64 = 20.0;
/// Of an error, at most this much is taken for the clock's, in milliseconds.
const CLOCK_MS: f64 = 1.0;
/// An error that isn't acted on, in milliseconds: workers aren't punctual to the sample.
const DEAD_MS: f64 = 0.4;

/// Reads frames at places between those there are. The ratio is close to one, so the filter only delays: it passes everything up to
/// 19 kHz.
pub(super) struct Reader {
    /// Between the frame it is at and the next, 0 to 1.
    between: f64,
}

/// Keeps a delay at its target by small changes of speed: a slow proportional-integral controller.
#[derive(Default)]
pub(super) struct DriftControl {
    integral_ppm: f64,
}

impl Reader {
    pub fn new() -> Reader {
        Reader { between: 0.0 }
    }

    /// Appends up to `frames` frames to `out`, read from `from` at frame `at` on, one every `1 + ppm / 1e6` frames. Returns where it
    /// stands then; it ends early where [`AHEAD`] frames aren't there. There must be [`BEHIND`] frames before `at`.
    pub fn read(
        &mut self,
        from: &[f32],
        channels: usize,
        mut at: usize,
        frames: usize,
        ppm: f64,
        out: &mut Vec<f32>,
    ) -> usize {
        let there = from.len() / channels;
        if ppm == 0.0 && self.between == 0.0 {
            let count = frames.min(there.saturating_sub(at + AHEAD));
            out.extend_from_slice(&from[at * channels..(at + count) * channels]);
            return at + count;
        }
        let step = 1.0 + ppm / 1e6;
        let table = coefficients();
        for _ in 0..frames {
            if at + AHEAD >= there {
                break;
            }
            let place = self.between * PHASES as f64;
            let phase = (place as usize).min(PHASES - 1);
            let blend = (place - phase as f64) as f32;
            let (low, high) = (&table[phase], &table[phase + 1]);
            let mut taps = [0.0; TAPS];
            for (tap, (low, high)) in taps.iter_mut().zip(low.iter().zip(high)) {
                *tap = low + (high - low) * blend;
            }
            let first = (at - BEHIND) * channels;
            let window = &from[first..first + TAPS * channels];
            if channels == 1 {
                out.push(taps.iter().zip(window).map(|(tap, sample)| tap * sample).sum());
            } else {
                for channel in 0..channels {
                    let samples = window.iter().skip(channel).step_by(channels);
                    out.push(taps.iter().zip(samples).map(|(tap, sample)| tap * sample).sum());
                }
            }
            self.between += step;
            let whole = self.between as usize;
            at += whole;
            self.between -= whole as f64;
        }
        at
    }

    /// How many frames `frames` take at this speed, those it looks ahead at included.
    pub fn needs(&self, frames: usize, ppm: f64) -> usize {
        let last = self.between + frames.saturating_sub(1) as f64 * (1.0 + ppm / 1e6);
        last as usize + 1 + AHEAD
    }
}

impl DriftControl {
    /// Takes how much more delay there is than there should be, in milliseconds, once every `seconds`. Says how much faster to play,
    /// in parts per million.
    pub fn observe(&mut self, error_ms: f64, seconds: f64) -> f64 {
        let error = error_ms.signum() * (error_ms.abs() - DEAD_MS).max(0.0);
        // A large error is a change of plan, such as more jitter to be ready for, and says nothing of the clock.
        let lasting = error.clamp(-CLOCK_MS, CLOCK_MS);
        self.integral_ppm += lasting * PPM_A_MS * seconds / INTEGRAL_S;
        self.integral_ppm = self.integral_ppm.clamp(-MAX_PPM, MAX_PPM);
        let proportional = error * PPM_A_MS;
        (proportional + self.integral_ppm).clamp(-MAX_PPM, MAX_PPM)
    }

    /// What lasts of it: how much faster the other clock runs.
    pub fn drift_ppm(&self) -> f64 {
        self.integral_ppm
    }

    /// Another stream.
    pub fn reset(&mut self) {
        *self = DriftControl::default();
    }
}

/// A windowed sinc for each place between two frames, scaled to pass a constant unchanged.
fn coefficients() -> &'static [[f32; TAPS]] {
    static TABLE: OnceLock<Vec<[f32; TAPS]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let half = TAPS as f64 / 2.0;
        let tap = |x: f64| {
            let sinc =
                if x == 0.0 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
            // Kaiser's window.
            const BETA: f64 = 7.0;
            let inside = (1.0 - (x / half).powi(2)).max(0.0).sqrt();
            sinc * bessel_i0(BETA * inside) / bessel_i0(BETA)
        };
        let place = |phase: usize| {
            let between = phase as f64 / PHASES as f64;
            let taps: [f64; TAPS] = std::array::from_fn(|k| tap(k as f64 - BEHIND as f64 - between));
            let sum: f64 = taps.iter().sum();
            taps.map(|tap| (tap / sum) as f32)
        };
        (0..=PHASES).map(place).collect()
    })
}

/// The modified Bessel function of the first kind and order zero, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let mut sum = 1.0;
    let mut term = 1.0;
    for k in 1..40 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hz: f64, frames: usize) -> Vec<f32> {
        (0..frames).map(|i| (std::f64::consts::TAU * hz * i as f64 / 48_000.0).sin() as f32).collect()
    }

    /// What a sine becomes at this speed, compared with the sine it should be: the worst error in dB.
    fn error_db(hz: f64, ppm: f64) -> f64 {
        let input = sine(hz, 48_000 * 2);
        let mut out = Vec::new();
        let end = Reader::new().read(&input, 1, BEHIND, 90_000, ppm, &mut out);
        assert_eq!(out.len(), 90_000);
        assert!((end as f64 - BEHIND as f64 - 90_000.0 * (1.0 + ppm / 1e6)).abs() <= 1.0);
        let worst = out.iter().enumerate().map(|(i, sample)| {
            let at = BEHIND as f64 + i as f64 * (1.0 + ppm / 1e6);
            (f64::from(*sample) - (std::f64::consts::TAU * hz * at / 48_000.0).sin()).abs()
        });
        20.0 * worst.fold(0.0, f64::max).log10()
    }

    #[test]
    fn a_sine_stays_a_sine_at_any_speed() {
        for ppm in [-1000.0, -200.0, 3.0, 200.0, 1000.0] {
            for (hz, limit) in [(100.0, -75.0), (1000.0, -75.0), (8000.0, -65.0), (15_000.0, -50.0)] {
                let error = error_db(hz, ppm);
                assert!(error < limit, "{hz} Hz at {ppm} ppm: {error:.1} dB");
            }
        }
        assert!(error_db(1000.0, 0.0) < -140.0, "no change of speed is no change at all");
    }

    #[test]
    fn reading_in_pieces_is_reading_at_once() {
        let input: Vec<f32> = sine(700.0, 9600).iter().flat_map(|s| [*s, -s]).collect();
        let (mut once, mut pieces) = (Vec::new(), Vec::new());
        Reader::new().read(&input, 2, BEHIND, 9000, 321.0, &mut once);
        let (mut reader, mut at) = (Reader::new(), BEHIND);
        for count in [1, 7, 480, 960, 3000, 4552] {
            assert!(at + reader.needs(count, 321.0) <= 9600);
            at = reader.read(&input, 2, at, count, 321.0, &mut pieces);
        }
        assert_eq!(once, pieces);
        assert!(once.chunks_exact(2).all(|s| s[0] == -s[1]));
    }

    #[test]
    fn what_it_needs_is_exactly_what_it_takes() {
        for ppm in [-900.0, -1.0, 0.0, 77.0, 1000.0] {
            let mut reader = Reader::new();
            let input = vec![0.25; 48_000];
            let mut at = BEHIND;
            for _ in 0..40 {
                let needs = reader.needs(960, ppm);
                let mut out = Vec::new();
                let short = Reader { between: reader.between }.read(
                    &input[..at + needs - 1],
                    1,
                    at,
                    960,
                    ppm,
                    &mut out,
                );
                assert!(out.len() < 960, "{short}");
                out.clear();
                at = reader.read(&input[..at + needs], 1, at, 960, ppm, &mut out);
                assert_eq!(out.len(), 960);
            }
        }
    }

    /// The delay of a stream whose clock is off, over time, as the controller makes it.
    fn run(drift_ppm: f64, start_ms: f64, seconds: usize) -> Vec<(f64, f64)> {
        let mut control = DriftControl::default();
        let mut error = start_ms;
        (0..seconds * 50)
            .map(|_| {
                let ppm = control.observe(error, 0.02);
                error += (drift_ppm - ppm) * 0.02 / 1000.0;
                (error, ppm)
            })
            .collect()
    }

    #[test]
    fn a_clock_that_is_off_is_followed_without_overshoot_that_matters() {
        for drift in [-200.0, 200.0] {
            let course = run(drift, 0.0, 120);
            let worst = course.iter().map(|(error, _)| error.abs()).fold(0.0, f64::max);
            assert!(worst < 2.0, "{worst} ms off at {drift} ppm");
            let (error, ppm) = course[course.len() - 1];
            assert!(error.abs() < DEAD_MS + 0.1 && (ppm - drift).abs() < 20.0, "{error} ms, {ppm} ppm");
        }
        let course = run(0.0, 10.0, 90);
        assert!(course.iter().all(|(_, ppm)| ppm.abs() <= MAX_PPM));
        assert!(course[course.len() - 1].0.abs() < 1.0);
        assert!(course.iter().all(|(error, _)| *error > -1.5), "it comes back gently");
    }
}
