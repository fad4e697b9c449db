//! Who is loud, who is heard, and who speaks.

use std::time::Duration;

use super::input::Input;

/// The level of what is silent.
const SILENCE_DB: f64 = -120.0;
/// Time constants of the level, in seconds: it rises fast and falls slowly, as a word is heard.
const RISE_S: f64 = 0.03;
const FALL_S: f64 = 0.2;
/// An input that was above the gate stays open for this long after.
const GATE_HOLD: f64 = 0.4;

/// To take a place among those heard, one must be this much louder than the quietest of them,
const MARGIN_DB: f64 = 3.0;
/// for this long,
const CHALLENGE: Duration = Duration::from_millis(200);
/// and the other one must have had the place for this long.
const TENURE: Duration = Duration::from_millis(500);

/// To become the one who speaks, one must be this much louder than who does,
const SPEAKER_MARGIN_DB: f64 = 4.0;
/// for this long: a cough is shorter.
const TAKEOVER: Duration = Duration::from_millis(600);
/// Where that one has fallen silent, it takes this long.
const SUCCESSION: Duration = Duration::from_millis(200);
/// Nobody speaks when all were silent for this long.
const NOBODY: Duration = Duration::from_secs(2);

/// How loud an input is.
pub(super) struct Level {
    mean_square: f64,
    open_for: f64,
    /// How long it has been among those heard, or wanted to be.
    tenure: Duration,
    challenge: Duration,
}

/// Chooses the loudest, with hysteresis.
pub(super) struct Selector {
    max: Option<usize>,
}

/// Tells who speaks, with hysteresis.
pub(super) struct SpeakerDetector<K> {
    current: Option<K>,
    candidate: Option<(K, Duration)>,
    quiet_for: Duration,
}

impl Default for Level {
    fn default() -> Self {
        Level { mean_square: 0.0, open_for: 0.0, tenure: Duration::ZERO, challenge: Duration::ZERO }
    }
}

impl Level {
    /// Takes the mean square of the next `seconds`.
    pub fn observe(&mut self, mean_square: f64, seconds: f64, gate_db: f64) {
        let time = if mean_square > self.mean_square { RISE_S } else { FALL_S };
        let share = 1.0 - (-seconds / time).exp();
        self.mean_square += (mean_square - self.mean_square) * share;
        // The gate looks at what is there now: a word's beginning isn't waited for.
        if db(mean_square) >= gate_db {
            self.open_for = GATE_HOLD;
        } else {
            self.open_for -= seconds;
        }
    }

    /// In dB of full scale, -120 in silence.
    pub fn db(&self) -> f64 {
        db(self.mean_square)
    }

    /// It is, or was just now, above the gate.
    pub fn is_open(&self) -> bool {
        self.open_for > 0.0
    }
}

fn db(mean_square: f64) -> f64 {
    (10.0 * mean_square.log10()).max(SILENCE_DB)
}

impl Selector {
    pub fn new(max: Option<usize>) -> Selector {
        Selector { max }
    }

    pub fn set_max(&mut self, max: Option<usize>) {
        self.max = max;
    }

    /// Marks those that are heard in this tick.
    pub fn choose<'a>(&self, inputs: impl Iterator<Item = &'a mut Input>, tick: Duration) {
        let mut inputs: Vec<&mut Input> = inputs.collect();
        let Some(max) = self.max else {
            inputs.iter_mut().for_each(|input| input.selected = true);
            return;
        };
        for input in &mut inputs {
            // A place is for who sounds.
            input.selected &= input.level.is_open() && !input.is_leaving();
            input.level.tenure = if input.selected { input.level.tenure + tick } else { Duration::ZERO };
        }
        // The loudest first, among those that are heard and among those that want to be.
        inputs.retain(|input| input.level.is_open() && !input.is_leaving());
        inputs.sort_by(|a, b| b.level.db().total_cmp(&a.level.db()));
        let (mut heard, mut others): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|input| input.selected);
        // Fewer places than before: the quietest leave.
        for input in heard.drain(max.min(heard.len())..) {
            input.selected = false;
        }
        let free = (max - heard.len()).min(others.len());
        for input in others.drain(..free) {
            input.selected = true;
            heard.push(input);
        }
        heard.sort_by(|a, b| b.level.db().total_cmp(&a.level.db()));
        let mut quietest = heard.into_iter().rev();
        for challenger in others {
            let Some(holder) = quietest.next() else { break };
            if challenger.level.db() < holder.level.db() + MARGIN_DB {
                challenger.level.challenge = Duration::ZERO;
                continue;
            }
            challenger.level.challenge += tick;
            if challenger.level.challenge >= CHALLENGE && holder.level.tenure >= TENURE {
                holder.selected = false;
                challenger.selected = true;
                challenger.level.challenge = Duration::ZERO;
            }
        }
    }
}

impl<K: Ord + Clone> SpeakerDetector<K> {
    pub fn new() -> SpeakerDetector<K> {
        SpeakerDetector { current: None, candidate: None, quiet_for: Duration::ZERO }
    }

    pub fn current(&self) -> Option<&K> {
        self.current.as_ref()
    }

    /// Looks at this tick's levels. Says who speaks now and who did before, when that changes.
    pub fn observe<'a>(
        &mut self,
        inputs: impl Iterator<Item = (&'a K, &'a Input)> + Clone,
        tick: Duration,
    ) -> Option<(Option<K>, Option<K>)>
    where
        K: 'a,
    {
        let sounding = inputs.filter(|(_, input)| input.level.is_open() && !input.is_leaving());
        let current = self.current.as_ref();
        let holds =
            sounding.clone().find(|(key, _)| Some(*key) == current).map(|(_, input)| input.level.db());
        let loudest = sounding.max_by(|a, b| a.1.level.db().total_cmp(&b.1.level.db()));
        let Some((key, input)) = loudest else {
            self.candidate = None;
            self.quiet_for += tick;
            let gone = self.quiet_for >= NOBODY && self.current.is_some();
            return gone.then(|| (None, self.current.take()));
        };
        self.quiet_for = Duration::ZERO;
        let wins =
            Some(key) != current && holds.is_none_or(|holder| input.level.db() >= holder + SPEAKER_MARGIN_DB);
        if !wins {
            self.candidate = None;
            return None;
        }
        let so_far = match self.candidate.take() {
            Some((candidate, time)) if candidate == *key => time + tick,
            _ => tick,
        };
        // The first one to speak at all needn't wait.
        let wait = if holds.is_some() { TAKEOVER } else { SUCCESSION };
        if so_far < wait && self.current.is_some() {
            self.candidate = Some((key.clone(), so_far));
            return None;
        }
        Some((Some(key.clone()), self.current.replace(key.clone())))
    }
}
