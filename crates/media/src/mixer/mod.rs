//! A conference mixer: everybody hears everybody but itself, on a clock that waits for nobody.

mod drift;
mod elastic;
mod input;
mod limiter;
mod speakers;

pub use elastic::ElasticBuffer;
pub use input::InputStats;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{AudioFrame, MediaError, OPUS_RATE, Resampler};
use input::Input;
use limiter::Limiter;
use speakers::{Selector, SpeakerDetector};

/// The most inputs one mixer takes.
pub const MAX_MIX_INPUTS: usize = 256;

/// Ticks that are late by more than this, all together, are left out: nobody wants to hear them any more.
const MAX_LATE: Duration = Duration::from_millis(200);
/// A mixer whose inputs were all silent for this long stops ticking until something comes.
const IDLE: Duration = Duration::from_secs(2);
/// An input of which nothing was heard for this long is forgotten, but for its gain. It comes back with its first frame.
const FORGET: Duration = Duration::from_secs(60);

/// How a [`Mixer`] works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixerConfig {
    /// Milliseconds a tick: 20, or 10 where latency matters more than packets.
    pub tick_ms: u32,
    /// Channels of everything that comes out: 1 (mono) or 2 (stereo, left first).
    pub channels: u16,
    /// How many inputs are heard at once, 1 to 256: the loudest, with hysteresis. `None`: all.
    pub max_active: Option<usize>,
    /// An input below this level, in dB of full scale, is silent: it adds nothing, and hears what all the silent hear. -100
    /// to -20.
    pub gate_db: f64,
}

impl Default for MixerConfig {
    /// 20 ms, mono, all heard, silence below -60 dBFS.
    fn default() -> Self {
        MixerConfig { tick_ms: 20, channels: 1, max_active: None, gate_db: -60.0 }
    }
}

/// Where an input's sound comes from, when it is pulled and not pushed: a jitter buffer.
pub trait AudioSource: Send {
    /// Fills `out` with the next sound: interleaved, 48 kHz, in the mixer's channels. It must not wait. `now` is when the tick
    /// was due.
    ///
    /// It hides its own gaps: what it gives is played as it is.
    fn pull(&mut self, now: Instant, out: &mut [f32]) -> Pulled;

    /// Sound that waits in it, in microseconds.
    fn buffered_us(&self) -> i64 {
        0
    }

    /// When the first sample of the last pull was captured, in microseconds on the sender's media clock.
    fn captured_us(&self) -> i64 {
        0
    }
}

/// What a source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// What was sent.
    Audio,
    /// Made up, at least in part: something is late or lost.
    Concealed,
    /// Nothing.
    Silence,
}

/// What comes out of one tick. Timestamps begin with that of the first sound there was, and go on by the mixer's own clock.
#[derive(Debug, Clone)]
pub struct Mixed<K> {
    /// What everybody hears who adds nothing to it: the sum.
    pub common: AudioFrame,
    /// What each of those hears who is heard by others: the sum without itself. In the order of the keys.
    pub own: Vec<(K, AudioFrame)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MixerEvent<K> {
    /// Another one speaks now, or nobody.
    ActiveSpeaker {
        /// Who; `None`: it has been silent for two seconds.
        now: Option<K>,
        /// Who it was before.
        before: Option<K>,
    },
}

/// Counters of a mixer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MixerStats {
    /// Ticks given out.
    pub ticks: u64,
    /// Ticks left out because the caller came too late.
    pub ticks_skipped: u64,
    /// Samples that a limiter held down, in all outputs.
    pub limited_samples: u64,
}

/// Sums what its inputs give and takes from the sum, for each listener, its own part: mix-minus.
///
/// Sans-IO: times are the caller's monotonic clock. [`poll_timeout`](Self::poll_timeout) says when the next tick is due,
/// [`tick`](Self::tick) gives it. What an input has not brought by then is made up for a few milliseconds and is silence after
/// that; no tick waits.
pub struct Mixer<K> {
    config: MixerConfig,
    frames: usize,
    inputs: BTreeMap<K, Input>,
    /// Of inputs, those not there yet among them.
    gains: BTreeMap<K, Setting>,
    selector: Selector,
    speakers: SpeakerDetector<K>,
    events: VecDeque<MixerEvent<K>>,
    limiter: Limiter,
    /// When the first tick with any sound was due, and when that sound was captured.
    epoch: Option<(Instant, i64)>,
    grid: Option<Instant>,
    next: Option<Instant>,
    last_sound: Option<Instant>,
    sum: Vec<f64>,
    stats: MixerStats,
}

#[derive(Clone, Copy)]
struct Setting {
    gain: f32,
    muted: bool,
}

impl<K: Ord + Clone> Mixer<K> {
    /// A mixer without inputs, or [`MediaError::Config`] with the field that is out of range.
    pub fn new(config: MixerConfig) -> Result<Mixer<K>, MediaError> {
        let check = |field, ok, value: f64, allowed| {
            if ok { Ok(()) } else { Err(MediaError::Config { field, value: value as i64, allowed }) }
        };
        check("tick_ms", matches!(config.tick_ms, 10 | 20), config.tick_ms.into(), "10 or 20")?;
        check("channels", matches!(config.channels, 1 | 2), config.channels.into(), "1 or 2")?;
        check("gate_db", (-100.0..=-20.0).contains(&config.gate_db), config.gate_db, "-100 to -20")?;
        let active = config.max_active.unwrap_or(1);
        check("max_active", (1..=MAX_MIX_INPUTS).contains(&active), active as f64, "1 to 256")?;
        Ok(Mixer {
            config,
            frames: (config.tick_ms * OPUS_RATE / 1000) as usize,
            inputs: BTreeMap::new(),
            gains: BTreeMap::new(),
            selector: Selector::new(config.max_active),
            speakers: SpeakerDetector::new(),
            events: VecDeque::new(),
            limiter: Limiter::new(config.channels),
            epoch: None,
            grid: None,
            next: None,
            last_sound: None,
            sum: Vec::new(),
            stats: MixerStats::default(),
        })
    }

    /// Sound of an input, in any format; it becomes one with its first. [`MediaError::AudioFormat`] when it is none that is
    /// handled, [`MediaError::Config`] beyond [`MAX_MIX_INPUTS`].
    pub fn push(&mut self, key: &K, frame: &AudioFrame, now: Instant) -> Result<(), MediaError> {
        let channels = self.config.channels;
        let input = self.input(key, || Ok(Input::pushed(ElasticBuffer::new(channels)?)))?;
        input.push(frame, now)?;
        self.wake(now);
        Ok(())
    }

    /// An input that is pulled: `source` is asked in each tick. It replaces the one that was there under this key.
    pub fn attach(&mut self, key: &K, source: Box<dyn AudioSource>, now: Instant) -> Result<(), MediaError> {
        self.inputs.remove(key);
        self.input(key, || Ok(Input::pulled(source)))?;
        self.wake(now);
        Ok(())
    }

    /// The input ends: it fades out within the next tick.
    pub fn remove(&mut self, key: &K) {
        self.gains.remove(key);
        if let Some(input) = self.inputs.get_mut(key) {
            input.leave();
        }
    }

    /// Makes an input louder or softer, in dB, -60 to 24; the change takes 20 ms. It may come before the input does.
    pub fn set_gain(&mut self, key: &K, gain_db: f64) {
        let gain = 10f64.powf(gain_db.clamp(-60.0, 24.0) / 20.0) as f32;
        self.set(key, |setting| setting.gain = gain);
    }

    /// Silences an input for the others, or ends that; the change takes 20 ms. It may come before the input does.
    pub fn set_muted(&mut self, key: &K, muted: bool) {
        self.set(key, |setting| setting.muted = muted);
    }

    /// How many are heard at once from now on; `None`: all.
    pub fn set_max_active(&mut self, max_active: Option<usize>) {
        self.config.max_active = max_active.map(|max| max.clamp(1, MAX_MIX_INPUTS));
        self.selector.set_max(self.config.max_active);
    }

    /// Below which level, in dB of full scale, an input is silent from now on; -100 to -20.
    pub fn set_gate_db(&mut self, gate_db: f64) {
        self.config.gate_db = gate_db.clamp(-100.0, -20.0);
    }

    /// Has its ticks lie whole ticks from `at`, from the first one or the next rest on: for callers with a clock of their own.
    pub fn set_grid(&mut self, at: Instant) {
        self.grid = Some(at);
        if self.epoch.is_none() && self.next.is_some() {
            self.next = Some(at);
        }
    }

    /// When the next tick is due. `None`: not before something comes in.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The tick that is due, if one is. A caller that is late calls until there is none. Nothing comes before the first sound.
    pub fn tick(&mut self, now: Instant) -> Option<Mixed<K>> {
        loop {
            let mut due = self.next.filter(|due| *due <= now)?;
            let tick = self.tick_time();
            let late = now.saturating_duration_since(due);
            if late > MAX_LATE {
                let skipped = (late.as_nanos() / tick.as_nanos()) as u32;
                self.stats.ticks_skipped += u64::from(skipped);
                due += tick * skipped;
            }
            self.next = Some(due + tick);
            let mixed = self.mix(due);
            let idle = self.last_sound.is_none_or(|last| due.saturating_duration_since(last) > IDLE);
            // That nobody speaks any more is told first.
            if idle && self.speakers.current().is_none() {
                self.next = None;
            }
            if mixed.is_some() {
                self.stats.ticks += 1;
                return mixed;
            }
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<MixerEvent<K>> {
        self.events.pop_front()
    }

    /// Who speaks.
    pub fn active_speaker(&self) -> Option<&K> {
        self.speakers.current()
    }

    /// The inputs there are, with what is known of each, in the order of the keys.
    pub fn inputs(&self) -> impl Iterator<Item = (&K, InputStats)> {
        self.inputs.iter().map(|(key, input)| (key, input.stats()))
    }

    /// The counters now.
    pub fn stats(&self) -> MixerStats {
        self.stats
    }

    fn mix(&mut self, due: Instant) -> Option<Mixed<K>> {
        let Self { inputs, selector, speakers, config, frames, sum, .. } = self;
        let channels = usize::from(config.channels);
        for input in inputs.values_mut() {
            input.pull(due, *frames, channels, config.gate_db);
        }
        let tick = Duration::from_millis(config.tick_ms.into());
        selector.choose(inputs.values_mut(), tick);
        if let Some((now, before)) = speakers.observe(inputs.iter(), tick) {
            self.events.push_back(MixerEvent::ActiveSpeaker { now, before });
        }
        // Summed and subtracted in f64: what is added and taken away again leaves nothing behind.
        sum.clear();
        sum.resize(*frames * channels, 0.0);
        for input in inputs.values_mut() {
            input.add_to(sum, channels);
        }
        if inputs.values().any(Input::is_awake) {
            self.last_sound = Some(due);
        }
        if self.epoch.is_none() {
            let captured_us = inputs.values().find_map(Input::captured_us)?;
            self.epoch = Some((due, captured_us));
        }
        let (epoch, captured_us) = self.epoch?;
        let timestamp_us =
            captured_us.saturating_add(due.saturating_duration_since(epoch).as_micros() as i64);
        let limited = &mut self.stats.limited_samples;
        let mut frame = |samples: Vec<f32>, limiter: &mut Limiter| {
            let mut samples = samples;
            *limited += limiter.run(&mut samples);
            AudioFrame {
                samples: Arc::new(samples),
                sample_rate: OPUS_RATE,
                channels: config.channels,
                timestamp_us,
            }
        };
        let mut own = Vec::new();
        for (key, input) in inputs.iter_mut() {
            let Some(added) = input.added() else {
                input.limiter = None;
                continue;
            };
            let samples = sum.iter().zip(added).map(|(all, own)| (all - own) as f32).collect();
            let mut limiter = input.limiter.take().unwrap_or_else(|| self.limiter.clone());
            own.push((key.clone(), frame(samples, &mut limiter)));
            input.limiter = Some(limiter);
        }
        let common = frame(sum.iter().map(|sample| *sample as f32).collect(), &mut self.limiter);
        inputs.retain(|_, input| !input.has_left() && input.silent_for(due) < FORGET);
        Some(Mixed { common, own })
    }

    fn tick_time(&self) -> Duration {
        Duration::from_millis(self.config.tick_ms.into())
    }

    fn wake(&mut self, now: Instant) {
        if self.next.is_none() {
            self.next = Some(self.first_tick(now));
            self.last_sound = Some(now);
        }
    }

    /// The first time on the grid that is later than `now`.
    fn first_tick(&self, now: Instant) -> Instant {
        let tick = self.tick_time();
        let Some(grid) = self.grid else { return now + tick };
        let passed = now.saturating_duration_since(grid).as_nanos() / tick.as_nanos();
        grid + tick * (passed as u32 + 1)
    }

    fn input(
        &mut self,
        key: &K,
        make: impl FnOnce() -> Result<Input, MediaError>,
    ) -> Result<&mut Input, MediaError> {
        // One that is leaving and comes back starts afresh.
        if self.inputs.get(key).is_some_and(Input::is_leaving) {
            self.inputs.remove(key);
        }
        if !self.inputs.contains_key(key) {
            if self.inputs.len() >= MAX_MIX_INPUTS {
                return Err(MediaError::Config {
                    field: "inputs",
                    value: MAX_MIX_INPUTS as i64 + 1,
                    allowed: "at most 256",
                });
            }
            let mut input = make()?;
            if let Some(Setting { gain, muted }) = self.gains.get(key) {
                input.set(*gain, *muted);
            }
            self.inputs.insert(key.clone(), input);
        }
        // It is there: it was, or has just been put there.
        self.inputs.get_mut(key).ok_or(MediaError::Config { field: "inputs", value: 0, allowed: "" })
    }

    fn set(&mut self, key: &K, change: impl FnOnce(&mut Setting)) {
        if self.gains.len() >= 4 * MAX_MIX_INPUTS && !self.gains.contains_key(key) {
            return;
        }
        let setting = self.gains.entry(key.clone()).or_insert(Setting { gain: 1.0, muted: false });
        change(setting);
        if let Some(input) = self.inputs.get_mut(key) {
            input.set(setting.gain, setting.muted);
        }
    }
}

/// Sums frames of one time, each of any format, at once: in the rate and with the channels of the first, as long as the longest, held
/// within full scale. [`MediaError::AudioFormat`] when one of them is none that is handled; nothing is a frame of no samples.
pub fn mix(frames: &[AudioFrame]) -> Result<AudioFrame, MediaError> {
    let Some(first) = frames.first() else {
        let timestamp_us = 0;
        return Ok(AudioFrame { samples: Arc::default(), sample_rate: OPUS_RATE, channels: 1, timestamp_us });
    };
    let mut sum: Vec<f64> = Vec::new();
    for frame in frames {
        let mut resampler = Resampler::new(first.sample_rate, first.channels)?;
        let converted = resampler.process(frame)?;
        let rest = resampler.flush()?;
        let samples = converted.samples.iter().chain(rest.samples.iter());
        let length = converted.samples.len() + rest.samples.len();
        sum.resize(sum.len().max(length), 0.0);
        sum.iter_mut().zip(samples).for_each(|(sum, sample)| *sum += f64::from(*sample));
    }
    let mut samples: Vec<f32> = sum.into_iter().map(|sample| sample as f32).collect();
    Limiter::new(first.channels).run(&mut samples);
    Ok(AudioFrame { samples: Arc::new(samples), ..first.clone() })
}

impl<K> std::fmt::Debug for Mixer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mixer")
            .field("inputs", &self.inputs.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
