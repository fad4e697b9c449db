//! How good the connection to a peer is, in one word, and what makes it worse: a pure state machine.
//!
//! `docs/quality.md` gives the thresholds and the reason for each.

use std::time::{Duration, Instant};

/// How good a connection is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Nothing is noticed.
    Excellent,
    /// Noticed by who looks for it.
    Good,
    /// A conversation works, with effort.
    Fair,
    /// A conversation hardly works.
    Poor,
    /// Nothing comes from the peer.
    Lost,
}

/// What makes a connection worse than excellent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QualityCause {
    /// RTP packets are lost.
    Loss,
    /// The path is long.
    RoundTrip,
    /// Packets of sound come unevenly.
    Jitter,
    /// Pictures that we receive stand still.
    Freezes,
    /// The path carries less than the pictures that we send are worth.
    Bandwidth,
    /// Nothing is heard from the peer.
    Silence,
}

/// What was measured since the sample before. `None`: there was nothing to measure it by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QualitySample {
    /// For how long nothing has come from the peer.
    pub silent: Duration,
    /// Share of the RTP packets that the path lost, before any repair; the worse direction. 0 to 1.
    pub loss: Option<f64>,
    /// Round trip in seconds.
    pub round_trip: Option<f64>,
    /// Interarrival jitter of sound in seconds (RFC 3550); the worse direction.
    pub jitter: Option<f64>,
    /// Share of the time in which the peer's pictures stood still that should have moved, 0 to 1.
    pub frozen: Option<f64>,
    /// Share that the path carries of the bitrate that our pictures are worth, 0 to 1.
    pub bandwidth: Option<f64>,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QualityReport {
    /// How good it is.
    pub quality: Quality,
    /// What is worst; `None` while it is excellent.
    pub cause: Option<QualityCause>,
    /// The measurements behind it, smoothed.
    pub sample: QualitySample,
}

/// Judges one connection from samples of about a second each. Sans-IO: time is an argument.
///
/// Measurements are smoothed; a grade gets better only when its measurement is clearly (20 %) past the threshold; and the verdict
/// changes for the worse when it was worse for two seconds, for the better when it was better for five. Silence counts at once.
#[derive(Debug, Default)]
pub struct QualityMeter {
    at: Option<Instant>,
    measures: [Measure; 5],
    verdict: Option<(Quality, Option<QualityCause>)>,
    worse: Option<Since>,
    better: Option<Since>,
}

/// Thresholds of the grades below excellent (a measurement above the first is `Good`, above the second `Fair`, above the third
/// `Poor`), and the time in which a measurement settles, in seconds.
struct Scale {
    cause: QualityCause,
    above: [f64; 3],
    settles: f64,
}

/// By weight: of two that are equally bad the first is told.
const SCALES: [Scale; 5] = [
    Scale { cause: QualityCause::Freezes, above: [0.005, 0.03, 0.15], settles: 6.0 },
    Scale { cause: QualityCause::Loss, above: [0.01, 0.03, 0.08], settles: 5.0 },
    Scale { cause: QualityCause::Jitter, above: [0.015, 0.03, 0.06], settles: 2.0 },
    Scale { cause: QualityCause::RoundTrip, above: [0.15, 0.3, 0.8], settles: 2.0 },
    // What is missing of the bitrate.
    Scale { cause: QualityCause::Bandwidth, above: [0.4, 0.65, 0.85], settles: 3.0 },
];
/// To be better than a threshold is to be this far below it.
const CLEARLY: f64 = 0.8;
const WORSE_AFTER: Duration = Duration::from_secs(2);
const BETTER_AFTER: Duration = Duration::from_secs(5);
/// A peer that is heard again is not lost any more after this.
const HEARD_AFTER: Duration = Duration::from_secs(1);
/// Three checks in a row went unanswered (one goes out every 500 ms).
const SILENT: Duration = Duration::from_millis(1800);
/// As long as ICE takes to be `disconnected`.
const LOST: Duration = Duration::from_secs(4);
/// A measurement that is not renewed is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Measure {
    value: Option<f64>,
    at: Option<Instant>,
    grade: usize,
}

/// For how long the verdict should be another one, and the nearest one to the present of those that it should have been.
#[derive(Debug, Clone, Copy)]
struct Since {
    at: Instant,
    quality: Quality,
    cause: Option<QualityCause>,
}

impl QualityMeter {
    /// Takes a sample. Returns the verdict if it is another one than before.
    pub fn observe(&mut self, now: Instant, sample: &QualitySample) -> Option<QualityReport> {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        let missing = sample.bandwidth.map(|share| 1.0 - share);
        let values = [sample.frozen, sample.loss, sample.jitter, sample.round_trip, missing];
        // By silence nothing but silence is learnt.
        if sample.silent < SILENT {
            for ((measure, scale), value) in self.measures.iter_mut().zip(&SCALES).zip(values) {
                measure.take(now, passed, scale, value);
            }
        }
        let (quality, cause) = self.judge(sample.silent);
        let Some((present, why)) = self.verdict else {
            return self.decide(quality, cause, sample.silent);
        };
        let silent = cause == Some(QualityCause::Silence);
        if quality > present {
            let since = Since::extend(&mut self.worse, now, quality, cause, Ord::min);
            self.better = None;
            if silent || now.saturating_duration_since(since.at) >= WORSE_AFTER {
                let (quality, cause) = if silent { (quality, cause) } else { (since.quality, since.cause) };
                return self.decide(quality, cause, sample.silent);
            }
        } else if quality < present {
            let since = Since::extend(&mut self.better, now, quality, cause, Ord::max);
            self.worse = None;
            let wait = if why == Some(QualityCause::Silence) { HEARD_AFTER } else { BETTER_AFTER };
            if now.saturating_duration_since(since.at) >= wait {
                return self.decide(since.quality, since.cause, sample.silent);
            }
        } else {
            // As bad as before, perhaps for another reason.
            (self.worse, self.better) = (None, None);
            self.verdict = Some((present, cause));
        }
        None
    }

    /// The present verdict; `None` before the first sample.
    pub fn verdict(&self) -> Option<(Quality, Option<QualityCause>)> {
        self.verdict
    }

    fn judge(&self, silent: Duration) -> (Quality, Option<QualityCause>) {
        if silent >= SILENT {
            let quality = if silent >= LOST { Quality::Lost } else { Quality::Poor };
            return (quality, Some(QualityCause::Silence));
        }
        let mut worst = (Quality::Excellent, None);
        for (measure, scale) in self.measures.iter().zip(&SCALES) {
            let quality = [Quality::Excellent, Quality::Good, Quality::Fair, Quality::Poor][measure.grade];
            if quality > worst.0 {
                worst = (quality, Some(scale.cause));
            }
        }
        worst
    }

    fn decide(
        &mut self,
        quality: Quality,
        cause: Option<QualityCause>,
        silent: Duration,
    ) -> Option<QualityReport> {
        let before = self.verdict.replace((quality, cause));
        (self.worse, self.better) = (None, None);
        if before.is_some_and(|(before, _)| before == quality) {
            return None;
        }
        let [frozen, loss, jitter, round_trip, missing] = [0, 1, 2, 3, 4].map(|n| self.measures[n].value);
        let bandwidth = missing.map(|missing| 1.0 - missing);
        let sample = QualitySample { silent, loss, round_trip, jitter, frozen, bandwidth };
        Some(QualityReport { quality, cause, sample })
    }
}

impl Measure {
    fn take(&mut self, now: Instant, passed: Duration, scale: &Scale, value: Option<f64>) {
        match (value.filter(|value| value.is_finite()), self.value) {
            (Some(value), Some(before)) => {
                let weight = 1.0 - (-passed.as_secs_f64() / scale.settles).exp();
                self.value = Some(before + (value.clamp(0.0, 10.0) - before) * weight);
                self.at = Some(now);
            }
            (Some(value), None) => (self.value, self.at) = (Some(value.clamp(0.0, 10.0)), Some(now)),
            (None, _) => {
                if self.at.is_some_and(|at| now.saturating_duration_since(at) >= FORGOTTEN) {
                    *self = Measure::default();
                }
            }
        }
        let grade = |factor: f64| {
            let value = self.value.unwrap_or(0.0);
            scale.above.iter().filter(|above| value > **above * factor).count()
        };
        self.grade = self.grade.clamp(grade(1.0), grade(CLEARLY));
    }
}

impl Since {
    fn extend(
        slot: &mut Option<Since>,
        now: Instant,
        quality: Quality,
        cause: Option<QualityCause>,
        nearer: fn(Quality, Quality) -> Quality,
    ) -> Since {
        let since = slot.get_or_insert(Since { at: now, quality, cause });
        if nearer(since.quality, quality) == quality {
            (since.quality, since.cause) = (quality, cause);
        }
        *since
    }
}

impl Quality {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
            Self::Lost => "lost",
        }
    }
}

impl QualityCause {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::RoundTrip => "round-trip",
            Self::Jitter => "jitter",
            Self::Freezes => "freezes",
            Self::Bandwidth => "bandwidth",
            Self::Silence => "silence",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remotemedia_testkit::Random;

    const FINE: QualitySample = QualitySample {
        silent: Duration::ZERO,
        loss: Some(0.0),
        round_trip: Some(0.03),
        jitter: Some(0.002),
        frozen: Some(0.0),
        bandwidth: Some(1.0),
    };

    /// A meter and its time, a sample a second.
    struct Run {
        meter: QualityMeter,
        start: Instant,
        second: u64,
    }

    impl Run {
        fn new() -> Run {
            let mut run = Run { meter: QualityMeter::default(), start: Instant::now(), second: 0 };
            assert_eq!(run.times(20, FINE), [(0, Quality::Excellent, None)]);
            run
        }

        fn once(&mut self, sample: QualitySample) -> Option<QualityReport> {
            let now = self.start + Duration::from_secs(self.second);
            self.second += 1;
            self.meter.observe(now, &sample)
        }

        /// The changes, with the second they came in.
        fn times(&mut self, count: u64, sample: QualitySample) -> Vec<(u64, Quality, Option<QualityCause>)> {
            let change = |n| self.once(sample).map(|r| (n, r.quality, r.cause));
            (0..count).filter_map(change).collect()
        }
    }

    #[test]
    fn each_cause_leads_to_each_grade() {
        use QualityCause::*;
        let cases: [(QualityCause, [QualitySample; 3]); 5] = [
            (Loss, [0.02, 0.05, 0.2].map(|loss| QualitySample { loss: Some(loss), ..FINE })),
            (RoundTrip, [0.2, 0.5, 1.0].map(|s| QualitySample { round_trip: Some(s), ..FINE })),
            (Jitter, [0.02, 0.04, 0.1].map(|s| QualitySample { jitter: Some(s), ..FINE })),
            (Freezes, [0.02, 0.1, 0.5].map(|share| QualitySample { frozen: Some(share), ..FINE })),
            (Bandwidth, [0.5, 0.25, 0.05].map(|share| QualitySample { bandwidth: Some(share), ..FINE })),
        ];
        for (cause, samples) in cases {
            for (sample, quality) in samples.into_iter().zip([Quality::Good, Quality::Fair, Quality::Poor]) {
                let mut run = Run::new();
                let (.., ended, why) = *run.times(30, sample).last().expect("a change");
                assert_eq!((ended, why), (quality, Some(cause)));
                let (second, ended, why) = *run.times(60, FINE).last().expect("a change");
                assert_eq!((ended, why), (Quality::Excellent, None), "{cause:?}");
                assert!(second >= 5, "{cause:?}: better after {second} s");
            }
        }
    }

    #[test]
    fn a_bad_second_is_not_told_and_a_bad_connection_within_four() {
        let mut run = Run::new();
        let bad = QualitySample { loss: Some(0.1), round_trip: Some(0.6), ..FINE };
        assert_eq!(run.once(bad), None);
        assert!(run.times(20, FINE).iter().all(|(_, quality, _)| *quality <= Quality::Good), "smoothed");
        let mut run = Run::new();
        let changes = run.times(10, QualitySample { loss: Some(0.3), ..FINE });
        assert!(changes[0].0 <= 4 && changes.last().expect("a change").1 == Quality::Poor, "{changes:?}");
    }

    #[test]
    fn a_measurement_at_a_threshold_does_not_flap() {
        let mut random = Random::new(7);
        let mut run = Run::new();
        let mut changes = 0;
        for _ in 0..600 {
            // Around 3 %, the border between good and fair, as loss is measured over a second of 80 packets.
            let lost = (0..80).filter(|_| random.chance(0.03)).count();
            changes +=
                usize::from(run.once(QualitySample { loss: Some(lost as f64 / 80.0), ..FINE }).is_some());
        }
        assert!(changes <= 24, "{changes} changes in 600 s");
        // Alternating far beyond both borders every three seconds: never five good seconds in a row.
        let mut run = Run::new();
        for _ in 0..60 {
            run.times(3, QualitySample { round_trip: Some(2.0), ..FINE });
            let better = run.times(3, FINE);
            assert!(better.iter().all(|(_, quality, _)| *quality >= Quality::Fair), "{better:?}");
        }
    }

    #[test]
    fn silence_counts_at_once_and_ends_soon() {
        let mut run = Run::new();
        let silent = |s| QualitySample { silent: Duration::from_secs(s), ..QualitySample::default() };
        assert_eq!(run.once(silent(1)), None);
        let report = run.once(silent(2)).expect("a change");
        assert_eq!((report.quality, report.cause), (Quality::Poor, Some(QualityCause::Silence)));
        assert_eq!(run.once(silent(3)), None);
        assert_eq!(run.once(silent(4)).map(|r| r.quality), Some(Quality::Lost));
        assert!(run.times(100, silent(60)).is_empty());
        let changes = run.times(10, FINE);
        assert_eq!(changes, [(1, Quality::Excellent, None)]);
    }

    #[test]
    fn what_is_no_longer_measured_is_forgotten() {
        let mut run = Run::new();
        let sound = QualitySample { loss: Some(0.2), ..FINE };
        assert_eq!(run.times(20, sound).last().map(|c| c.1), Some(Quality::Poor));
        let muted = QualitySample { loss: None, jitter: None, frozen: None, bandwidth: None, ..FINE };
        let changes = run.times(30, muted);
        assert_eq!(changes.len(), 1);
        assert!((14..=16).contains(&changes[0].0) && changes[0].1 == Quality::Excellent, "{changes:?}");
    }

    #[test]
    fn nothing_that_a_peer_reports_breaks_it() {
        let mut random = Random::new(3);
        let mut meter = QualityMeter::default();
        let mut now = Instant::now();
        for _ in 0..20_000 {
            let mut wild = || {
                let edges = [f64::NAN, f64::INFINITY, -1e300, 1e300, 0.0, -0.0, 0.03, f64::MIN_POSITIVE];
                random.chance(0.9).then(|| edges[random.below(edges.len())])
            };
            let sample = QualitySample {
                silent: Duration::ZERO,
                loss: wild(),
                round_trip: wild(),
                jitter: wild(),
                frozen: wild(),
                bandwidth: wild(),
            };
            now += Duration::from_millis(random.below(3000) as u64);
            let report = meter.observe(now, &sample);
            let values =
                report.map(|r| [r.sample.loss, r.sample.round_trip, r.sample.jitter, r.sample.frozen]);
            assert!(values.into_iter().flatten().flatten().all(|v| (0.0..=10.0).contains(&v)));
        }
    }
}
