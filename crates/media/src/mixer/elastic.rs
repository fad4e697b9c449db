//! Sound that is pushed at one clock's pace and pulled at another's.

use std::time::Instant;

use super::Pulled;
use super::drift::{BEHIND, DriftControl, Reader};
use crate::{AudioFrame, MediaError, OPUS_RATE, Resampler};

const RATE: f64 = OPUS_RATE as f64;
/// What is kept ready beyond what the frames' length and the jitter ask for, in seconds.
const MARGIN_S: f64 = 0.003;
/// Arrivals are looked at for twice this long, in seconds.
const WINDOW_S: f64 = 2.0;
/// Jitter that was seen is half forgotten after this long, in seconds.
const MEMORY_S: f64 = 20.0;
/// A pause this long, in seconds, is no jitter: what comes behind it is a stream of its own.
const PAUSE_S: f64 = 0.15;
/// Once this much more waits than should, in seconds, and for this long, it is skipped and not played faster.
const EXCESS_S: f64 = 0.06;
const EXCESS_FOR_S: f64 = 1.0;
/// More than this never waits beyond a frame's own length, in seconds.
const MOST_S: f64 = 1.0;
/// A beginning fades in, and a skip fades over, in this many frames: 5 ms.
const FADE: usize = OPUS_RATE as usize / 200;
/// An end that came without notice goes on for 5 ms and fades out in 15 ms more.
const HOLD: usize = OPUS_RATE as usize / 200;
const TAIL: usize = OPUS_RATE as usize / 50;
/// How much of what was played is remembered, to go on from: 20 ms.
const RECENT: usize = OPUS_RATE as usize / 50;

/// A buffer between a source that pushes frames of any format when it has them and a mixer that pulls 48 kHz at its own pace.
///
/// It holds one frame and what the arrivals' jitter asks for, no more: what comes is heard that much later. A clock that is off is
/// followed by playing up to 0.1 % faster or slower. When it runs dry, the sound goes on for some milliseconds and fades out, and
/// fades in again when there is enough.
pub struct ElasticBuffer {
    channels: usize,
    resampler: Resampler,
    /// Interleaved: [`BEHIND`] frames or more that were read, then those to read.
    buffer: Vec<f32>,
    /// The frame to read next.
    at: usize,
    reader: Reader,
    control: DriftControl,
    arrivals: Arrivals,
    playing: bool,
    /// Frames until it has faded in.
    fading: usize,
    /// What is still to be heard of what ended, interleaved.
    leaving: Vec<f32>,
    recent: Vec<f32>,
    excess_for: f64,
    /// When the end of what came last was captured, and the first sample of the last pull.
    end_us: i64,
    captured_us: i64,
    underruns: u64,
    dropped: u64,
}

/// When frames come, compared with how long they are.
#[derive(Default)]
struct Arrivals {
    start: Option<Instant>,
    last: f64,
    /// Frames that came since the start.
    pushed: u64,
    window: Window,
    before: Window,
    window_ends: f64,
    jitter: f64,
    /// The longest frame lately, in seconds.
    chunk: f64,
}

/// How late frames were, in seconds: the earliest, and the two latest.
#[derive(Clone, Copy)]
struct Window {
    earliest: f64,
    latest: f64,
    second: f64,
}

impl ElasticBuffer {
    /// A buffer that gives `channels` (1 or 2).
    pub fn new(channels: u16) -> Result<ElasticBuffer, MediaError> {
        let resampler = Resampler::new(OPUS_RATE, channels)?;
        let channels = usize::from(channels);
        Ok(ElasticBuffer {
            channels,
            resampler,
            buffer: vec![0.0; BEHIND * channels],
            at: BEHIND,
            reader: Reader::new(),
            control: DriftControl::default(),
            arrivals: Arrivals::default(),
            playing: false,
            fading: 0,
            leaving: Vec::new(),
            recent: Vec::new(),
            excess_for: 0.0,
            end_us: 0,
            captured_us: 0,
            underruns: 0,
            dropped: 0,
        })
    }

    /// Takes a frame of any format that came at `now`. [`MediaError::AudioFormat`] when it is none that is handled.
    pub fn push(&mut self, frame: &AudioFrame, now: Instant) -> Result<(), MediaError> {
        let frame = self.resampler.process(frame)?;
        if frame.samples.is_empty() {
            return Ok(());
        }
        if self.arrivals.is_new(now) {
            self.arrivals = Arrivals::default();
            self.control.reset();
        }
        self.arrivals.note(now, frame.frames());
        self.end_us = frame.timestamp_us.saturating_add(frame.duration_us());
        self.buffer.extend(frame.samples.iter());
        // Nobody pulls: what waits must not grow.
        let most = ((self.arrivals.chunk + MOST_S) * RATE) as usize;
        if let Some(excess) = self.waiting().checked_sub(most).filter(|excess| *excess > 0) {
            self.skip_to(self.at + excess);
            self.playing = false;
        }
        Ok(())
    }

    /// Fills `out` with the sound of the tick that was due at `due`.
    pub fn pull(&mut self, due: Instant, out: &mut [f32]) -> Pulled {
        out.fill(0.0);
        let frames = out.len() / self.channels;
        let tick_s = frames as f64 / RATE;
        if !self.playing {
            self.begin(due, frames);
        }
        let mut pulled = Pulled::Silence;
        let mut done = 0;
        if self.playing {
            pulled = Pulled::Audio;
            self.captured_us = self.end_us.saturating_sub(self.buffered_us());
            let error = self.delay_after(due, frames) - self.arrivals.target();
            let ppm = self.control.observe(error * 1000.0, tick_s);
            self.excess_for = if error > EXCESS_S { self.excess_for + tick_s } else { 0.0 };
            if self.excess_for >= EXCESS_FOR_S {
                self.skip((error * RATE) as usize, frames);
            }
            let mut read = Vec::with_capacity(out.len());
            self.at = self.reader.read(&self.buffer, self.channels, self.at, frames, ppm, &mut read);
            done = read.len() / self.channels;
            self.fade_in(&mut read);
            out[..read.len()].copy_from_slice(&read);
        }
        if !self.leaving.is_empty() {
            let count = self.leaving.len().min(out.len());
            for (sample, leaving) in out.iter_mut().zip(self.leaving.drain(..count)) {
                *sample += leaving;
            }
            if pulled == Pulled::Silence {
                pulled = Pulled::Concealed;
            }
        }
        if self.playing && done < frames {
            self.run_dry(done, out);
            pulled = Pulled::Concealed;
        }
        self.remember(out);
        self.compact();
        pulled
    }

    /// Sound that waits, in microseconds.
    pub fn buffered_us(&self) -> i64 {
        (self.waiting() as f64 / RATE * 1e6) as i64
    }

    /// When the first sample of the last pull was captured, in microseconds on the source's clock.
    pub fn captured_us(&self) -> i64 {
        self.captured_us
    }

    /// How much faster the source's clock runs than the one it is pulled by, in parts per million, as far as is known.
    pub fn drift_ppm(&self) -> f64 {
        self.control.drift_ppm()
    }

    /// Times it ran dry while it sounded.
    pub fn underruns(&self) -> u64 {
        self.underruns
    }

    /// Sound dropped because more waited than was needed, in microseconds.
    pub fn dropped_us(&self) -> i64 {
        (self.dropped as f64 / RATE * 1e6) as i64
    }

    fn waiting(&self) -> usize {
        self.buffer.len() / self.channels - self.at
    }

    /// The delay, once `frames` more are played: from when a frame's last sample could have been here at the earliest, to when it is
    /// played. In seconds.
    fn delay_after(&self, due: Instant, frames: usize) -> f64 {
        let played = self.arrivals.pushed as f64 - self.waiting() as f64 + frames as f64;
        self.arrivals.expected(due) - played / RATE
    }

    /// Begins to play if there is enough, with exactly as much delay as is needed.
    fn begin(&mut self, due: Instant, frames: usize) {
        let needs = self.reader.needs(frames, 0.0);
        let excess = self.delay_after(due, frames) - self.arrivals.target();
        if self.waiting() < needs || excess < 0.0 {
            return;
        }
        let excess = ((excess * RATE) as usize).min(self.waiting() - needs);
        self.skip_to(self.at + excess);
        self.reader = Reader::new();
        self.playing = true;
        self.fading = FADE;
        self.excess_for = 0.0;
    }

    /// Leaves out about `excess` frames, where the sound is most like itself, and fades over.
    fn skip(&mut self, excess: usize, frames: usize) {
        self.excess_for = 0.0;
        let most = self.waiting().saturating_sub(self.reader.needs(frames, 1000.0) + 2 * FADE);
        let (least, most) = (excess.saturating_sub(FADE).max(1), most.min(excess + FADE));
        if least > most {
            return;
        }
        let mono = |at: usize| {
            self.buffer[at * self.channels..][..FADE * self.channels]
                .chunks_exact(self.channels)
                .map(|frame| frame.iter().sum::<f32>())
        };
        let here: Vec<f32> = mono(self.at).collect();
        let likeness = |skip: usize| {
            let (mut product, mut energy) = (0.0, 1e-9);
            for (a, b) in here.iter().zip(mono(self.at + skip)) {
                product += a * b;
                energy += b * b;
            }
            product / f32::sqrt(energy)
        };
        let best = (least..=most).max_by(|a, b| likeness(*a).total_cmp(&likeness(*b))).unwrap_or(least);
        let mut old = Vec::new();
        Reader::new().read(&self.buffer, self.channels, self.at, FADE, 0.0, &mut old);
        for (index, frame) in old.chunks_exact_mut(self.channels).enumerate() {
            let factor = 1.0 - (index + 1) as f32 / FADE as f32;
            frame.iter_mut().for_each(|sample| *sample *= factor);
        }
        if self.leaving.len() < old.len() {
            self.leaving.resize(old.len(), 0.0);
        }
        self.leaving.iter_mut().zip(&old).for_each(|(leaving, sample)| *leaving += sample);
        self.skip_to(self.at + best);
        self.reader = Reader::new();
        self.fading = FADE;
    }

    fn skip_to(&mut self, at: usize) {
        self.dropped += (at - self.at) as u64;
        self.at = at;
    }

    fn fade_in(&mut self, samples: &mut [f32]) {
        for frame in samples.chunks_exact_mut(self.channels) {
            if self.fading == 0 {
                return;
            }
            self.fading -= 1;
            let factor = 1.0 - self.fading as f32 / FADE as f32;
            frame.iter_mut().for_each(|sample| *sample *= factor);
        }
    }

    /// There is nothing from frame `done` of `out` on: goes on with what was heard last, and fades out.
    fn run_dry(&mut self, done: usize, out: &mut [f32]) {
        self.underruns += 1;
        self.playing = false;
        // The few frames that the filter would have needed are of no use by themselves.
        self.at = self.buffer.len() / self.channels;
        let played = &out[..done * self.channels];
        let kept = (RECENT * self.channels).saturating_sub(played.len()).min(self.recent.len());
        let mut heard = self.recent[self.recent.len() - kept..].to_vec();
        heard.extend_from_slice(&played[played.len().saturating_sub(RECENT * self.channels)..]);
        let tail = continuation(&heard, self.channels);
        let now = tail.len().min(out.len() - done * self.channels);
        for (sample, tail) in out[done * self.channels..].iter_mut().zip(&tail[..now]) {
            *sample += tail;
        }
        self.leaving = tail[now..].to_vec();
    }

    fn remember(&mut self, out: &[f32]) {
        self.recent.extend_from_slice(out);
        let excess = self.recent.len().saturating_sub(RECENT * self.channels);
        self.recent.drain(..excess);
    }

    fn compact(&mut self) {
        const LAZY: usize = 8192;
        if self.at > BEHIND + LAZY {
            self.buffer.drain(..(self.at - BEHIND) * self.channels);
            self.at = BEHIND;
        }
    }
}

impl Arrivals {
    /// Whether what comes now has nothing to do with what came before.
    fn is_new(&self, now: Instant) -> bool {
        let Some(start) = self.start else { return true };
        let passed = now.saturating_duration_since(start).as_secs_f64() - self.last;
        passed > PAUSE_S.max(3.0 * self.chunk)
    }

    fn note(&mut self, now: Instant, frames: usize) {
        let at = now.saturating_duration_since(*self.start.get_or_insert(now)).as_secs_f64();
        let length = frames as f64 / RATE;
        let passed = at - self.last;
        self.last = at;
        self.pushed += frames as u64;
        self.chunk = length.max(self.chunk * 0.98);
        if at >= self.window_ends {
            (self.before, self.window) = (self.window, Window::default());
            self.window_ends = at + WINDOW_S;
        }
        self.window.note(at - self.pushed as f64 / RATE);
        // One frame that is late on its own is no jitter: the second latest counts.
        let second = self.window.second.max(self.before.second);
        let seen = (second - self.earliest()).max(0.0);
        self.jitter = seen.max(self.jitter * 0.5f64.powf(passed / MEMORY_S));
    }

    fn earliest(&self) -> f64 {
        self.window.earliest.min(self.before.earliest)
    }

    /// How much would have come by then if all frames were as early as the earliest, in seconds.
    fn expected(&self, at: Instant) -> f64 {
        let Some(start) = self.start else { return 0.0 };
        // A tick may be due before the frame that woke the mixer came.
        let at = match at.checked_duration_since(start) {
            Some(after) => after.as_secs_f64(),
            None => -start.duration_since(at).as_secs_f64(),
        };
        at - self.earliest()
    }

    /// The delay there should be: a frame, as it comes as a whole and is played bit by bit, and the jitter.
    fn target(&self) -> f64 {
        self.chunk + self.jitter + MARGIN_S
    }
}

impl Default for Window {
    fn default() -> Self {
        Window { earliest: f64::MAX, latest: f64::MIN, second: f64::MIN }
    }
}

impl Window {
    fn note(&mut self, late: f64) {
        self.earliest = self.earliest.min(late);
        if late > self.latest {
            self.second = self.latest;
            self.latest = late;
        } else {
            self.second = self.second.max(late);
        }
    }
}

/// What could come after `heard`: its last period again and again, without a step where it begins, fading out. Nothing after
/// silence.
fn continuation(heard: &[f32], channels: usize) -> Vec<f32> {
    const TEMPLATE: usize = OPUS_RATE as usize / 200;
    /// 500 Hz: of a higher tone, several periods are taken.
    const SHORTEST: usize = OPUS_RATE as usize / 500;
    const BRIDGE: usize = OPUS_RATE as usize / 1000;
    let frames = heard.len() / channels;
    let mono: Vec<f32> = heard.chunks_exact(channels).map(|frame| frame.iter().sum()).collect();
    if frames < TEMPLATE + SHORTEST || mono.iter().all(|sample| sample.abs() < 1e-4) {
        return Vec::new();
    }
    let last = &mono[frames - TEMPLATE..];
    let likeness = |lag: usize| {
        let (mut product, mut energy) = (0.0, 1e-9);
        for (a, b) in last.iter().zip(&mono[frames - TEMPLATE - lag..]) {
            product += a * b;
            energy += b * b;
        }
        product / f32::sqrt(energy)
    };
    let lag = (SHORTEST..=frames - TEMPLATE)
        .max_by(|a, b| likeness(*a).total_cmp(&likeness(*b)))
        .unwrap_or(SHORTEST);
    let mut all = heard.to_vec();
    for index in 0..TAIL * channels {
        all.push(all[heard.len() + index - lag * channels]);
    }
    let mut tail = all.split_off(heard.len());
    for channel in 0..channels {
        // Where a period joins the next there may be a step, which is spread over a millisecond.
        let before = heard.len() - channels + channel;
        let step = heard[before] - before.checked_sub(lag * channels).map_or(0.0, |at| heard[at]);
        for at in 0..BRIDGE {
            tail[at * channels + channel] += step * (1.0 - at as f32 / BRIDGE as f32);
        }
    }
    for (index, frame) in tail.chunks_exact_mut(channels).enumerate().skip(HOLD) {
        let way = ((index - HOLD) as f32 / (TAIL - HOLD) as f32).min(1.0);
        let factor = (0.5 * std::f32::consts::PI * way).cos().powi(2);
        frame.iter_mut().for_each(|sample| *sample *= factor);
    }
    tail
}
