//! Lines through times that two clocks tell.

use std::collections::VecDeque;

/// One clock -> another, by the fastest of what comes from one to the other: the lower edge of the arrivals.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// The fastest arrival of each second, oldest first.
    seconds: VecDeque<Point>,
    /// When the last of them began.
    began: i64,
    slope: Option<f64>,
}

/// One stream's media time -> the peer's wall clock, by its sender reports.
#[derive(Debug, Default)]
pub(super) struct Line {
    points: VecDeque<Point>,
    slope: f64,
    offset: f64,
    /// How far the last report was off, if it was far.
    doubtful: Option<i64>,
}

/// What a report turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    /// It agrees with those before, or is the first.
    Fits,
    /// It does not; it is believed once another one agrees with it.
    Doubtful,
    /// One of the clocks was set: the line begins anew.
    Jumped,
}

/// A time on one clock, and how far the other one is ahead of it.
#[derive(Debug, Clone, Copy)]
struct Point {
    x: i64,
    ahead: i64,
}

const SECOND_US: i64 = 1_000_000;
/// Seconds that are looked at.
const MAX_SECONDS: usize = 60;
/// Before that a difference in pace is smaller than what jitter makes of it.
const MIN_SLOPE_SPAN_US: i64 = 20 * SECOND_US;
/// So many seconds in a row that differ from the `BEFORE` before them, all by more than `SHIFT_US`, are another way.
const SHIFT_SECONDS: usize = 4;
const BEFORE: usize = 10;
const SHIFT_US: f64 = 5_000.0;
/// Nothing comes before it was sent, and nothing takes that long to come: the sender's clock was set.
const TOO_EARLY_US: i64 = 2 * SECOND_US;
const TOO_LATE_US: i64 = 10 * SECOND_US;
/// Quartz is off by 200 millionths at most; sound cards by a little more.
const MAX_SLOPE: f64 = 0.001;

const MAX_REPORTS: usize = 20;
const MAX_REPORTS_SPAN_US: i64 = 120 * SECOND_US;
const MIN_REPORTS_SPAN_US: i64 = 10 * SECOND_US;
/// Further off, a report doesn't fit the others.
const DOUBTFUL_US: i64 = 100_000;
const AGREES_US: i64 = 50_000;

impl Envelope {
    /// What was sent at `x` of the one clock came at `at` of the other; microseconds.
    pub fn arrived(&mut self, x: i64, at: i64) {
        let ahead = at.saturating_sub(x);
        if let Some(expected) = self.at(x) {
            let late = at.saturating_sub(expected);
            if !(-TOO_EARLY_US..=TOO_LATE_US).contains(&late) {
                *self = Envelope::default();
            }
        }
        let point = Point { x, ahead };
        match self.seconds.back_mut() {
            Some(last) if at.saturating_sub(self.began) < SECOND_US => {
                // Within a second the pace doesn't matter.
                if ahead < last.ahead {
                    *last = point;
                }
            }
            _ => {
                self.settle();
                self.seconds.push_back(point);
                if self.seconds.len() > MAX_SECONDS {
                    self.seconds.pop_front();
                }
                self.began = at;
            }
        }
    }

    /// `x` on the other clock. `None` before the first arrival.
    pub fn at(&self, x: i64) -> Option<i64> {
        let slope = self.slope.unwrap_or(0.0);
        let last = self.seconds.back()?.x;
        let ahead = self.seconds.iter().map(|p| p.level(last, slope)).fold(f64::INFINITY, f64::min);
        let ahead = ahead - slope * (last as f64 - x as f64);
        Some(x.saturating_add(ahead.round() as i64))
    }

    /// By how much the other clock gets ahead, of one.
    pub fn slope(&self) -> Option<f64> {
        self.slope
    }

    /// A second is over: finds the pace, and whether the way changed.
    fn settle(&mut self) {
        let count = self.seconds.len();
        if count > 2 * SHIFT_SECONDS {
            let slope = self.slope.unwrap_or(0.0);
            let x = self.seconds[count - 1].x;
            let (before, recent) = self.seconds.make_contiguous().split_at_mut(count - SHIFT_SECONDS);
            let level = median(before.iter().rev().take(BEFORE).map(|p| p.level(x, slope)));
            let off: Vec<f64> = recent.iter().map(|p| p.level(x, slope) - level).collect();
            if off.iter().all(|o| *o > SHIFT_US) || off.iter().all(|o| *o < -SHIFT_US) {
                let shift = median(off.iter().copied()) as i64;
                before.iter_mut().for_each(|p| p.ahead = p.ahead.saturating_add(shift));
            }
        }
        self.slope = theil_sen(&self.seconds, MIN_SLOPE_SPAN_US);
    }
}

impl Line {
    /// The peer says that `media` of the stream was at `wall` of its clock; microseconds.
    pub fn reported(&mut self, media: i64, wall: i64) -> Reported {
        let point = Point { x: media, ahead: wall.saturating_sub(media) };
        let off = self.at(media).map_or(0, |expected| wall.saturating_sub(expected));
        let jumped = if off.saturating_abs() <= DOUBTFUL_US {
            false
        } else if self.doubtful.is_some_and(|d| d.saturating_sub(off).saturating_abs() <= AGREES_US) {
            self.points.clear();
            true
        } else {
            self.doubtful = Some(off);
            return Reported::Doubtful;
        };
        self.doubtful = None;
        self.points.push_back(point);
        while self.points.len() > MAX_REPORTS
            || self.points.front().is_some_and(|p| media.saturating_sub(p.x) > MAX_REPORTS_SPAN_US)
        {
            self.points.pop_front();
        }
        self.slope = theil_sen(&self.points, MIN_REPORTS_SPAN_US).unwrap_or(0.0);
        self.offset = median(self.points.iter().map(|p| p.level(0, self.slope)));
        if jumped { Reported::Jumped } else { Reported::Fits }
    }

    /// `media` on the peer's wall clock. `None` before the first report.
    pub fn at(&self, media: i64) -> Option<i64> {
        let ahead = self.offset + self.slope * media as f64;
        self.is_known().then(|| media.saturating_add(ahead.round() as i64))
    }

    /// The other way round: the media time at `wall`.
    pub fn media(&self, wall: i64) -> Option<i64> {
        let media = (wall as f64 - self.offset) / (1.0 + self.slope);
        self.is_known().then_some(media.round() as i64)
    }

    pub fn is_known(&self) -> bool {
        !self.points.is_empty()
    }
}

impl Point {
    /// How far ahead the other clock is at `x`, by this point.
    fn level(&self, x: i64, slope: f64) -> f64 {
        self.ahead as f64 + slope * (x as f64 - self.x as f64)
    }
}

/// The median of the slopes between the points: it takes no notice of a few that are far off (Theil 1950, Sen 1968).
fn theil_sen(points: &VecDeque<Point>, min_span: i64) -> Option<f64> {
    let (first, last) = (points.front()?, points.back()?);
    if last.x.saturating_sub(first.x) < min_span {
        return None;
    }
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, a) in points.iter().enumerate() {
        for b in points.range(i + 1..) {
            let run = b.x as f64 - a.x as f64;
            // Neighbours say more about jitter than about pace.
            if run.abs() >= min_span as f64 / 4.0 {
                slopes.push((b.ahead as f64 - a.ahead as f64) / run);
            }
        }
    }
    if slopes.is_empty() {
        return None;
    }
    Some(median(slopes.into_iter()).clamp(-MAX_SLOPE, MAX_SLOPE))
}

/// Zero of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
