//! Finds speech in audio.

use std::collections::BTreeMap;
use std::sync::Arc;

use ort::value::TensorRef;
use remotemedia_media::Resampler;
use serde_json::json;

use super::onnx::Model;
use super::unexpected;
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeFactory, NodeSpec, ParamSpec, Params, PortSpec};

const MODEL: &str = "silero_vad_16k.onnx";
/// What the model hears: mono, in windows of 32 ms, each with the end of the one before.
const RATE: u32 = 16_000;
const WINDOW: usize = 512;
const WINDOW_US: i64 = 32_000;
const CONTEXT: usize = 64;
const STATE: usize = 2 * 128;
/// A jump of the timestamps beyond this is another stream.
const TOLERANCE_US: i64 = 500_000;

/// `Vad`: `in` (audio) -> `out` (the same audio), `events` (json). Voice activity detection by the Silero model. Needs ONNX
/// Runtime and the model.
///
/// At `events`: `{"type": "speechStart", "atUs", "probability"}` and `{"type": "speechEnd", "atUs", "durationMs"}`, under the
/// timestamp they name: events come later than what they tell of. The audio has the metadata `speech` (`true` or `false`)
/// and `speechProbability`, of the latest window.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "Vad".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio), PortSpec::new("events", Kind::Json)],
        params: vec![
            ParamSpec::number("threshold", 0.05, 0.95, 0.5).about("probability from which on it is speech"),
            ParamSpec::number("neg_threshold", 0.01, 0.95, 0.35).optional().about(
                "probability below which speech ends; 0.15 less than `threshold` where it isn't given",
            ),
            ParamSpec::integer("min_speech_ms", 0, 5000, 96)
                .unit("ms")
                .about("what is shorter is no speech; how much later the start is told"),
            ParamSpec::integer("min_silence_ms", 0, 10_000, 320)
                .unit("ms")
                .about("what is shorter is no pause; how much later the end is told"),
            ParamSpec::integer("pad_ms", 0, 1000, 32)
                .unit("ms")
                .about("speech is told to begin so much earlier and to end so much later"),
        ],
        same_kind: false,
        load: Arc::new(|_| {
            let model = Arc::new(Model::load(MODEL)?);
            let factory = move |params: &Params| {
                Ok(Box::new(Vad {
                    model: model.clone(),
                    detector: Detector::new(Settings::new(params)),
                    stream: None,
                    state: [0.0; STATE],
                    probability: 0.0,
                }) as Box<dyn Node>)
            };
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
    }
}

const EVENTS_PORT: usize = 1;

struct Vad {
    model: Arc<Model>,
    detector: Detector,
    stream: Option<Stream>,
    state: [f32; STATE],
    probability: f64,
}

/// One run of frames that follow each other.
struct Stream {
    resampler: Resampler,
    /// The end of the last window, and what is behind it.
    pending: Vec<f32>,
    next_us: i64,
}

/// From probabilities of windows to spans of speech. Pure.
struct Detector {
    settings: Settings,
    /// Since when there might be speech, or is.
    start_us: Option<i64>,
    speaking: bool,
    /// Since when there might be a pause.
    pause_us: Option<i64>,
}

#[derive(Clone, Copy)]
struct Settings {
    threshold: f64,
    neg_threshold: f64,
    min_speech_us: i64,
    min_silence_us: i64,
    pad_us: i64,
}

#[derive(Debug, PartialEq)]
enum Event {
    Start { at_us: i64 },
    End { at_us: i64, duration_us: i64 },
}

impl Settings {
    fn new(params: &Params) -> Settings {
        let us = |name: &str, usual: i64| params.integer(name).unwrap_or(usual) * 1000;
        let threshold = params.number("threshold").unwrap_or(0.5);
        let neg = params.number("neg_threshold").unwrap_or((threshold - 0.15).max(0.01));
        Settings {
            threshold,
            neg_threshold: neg.min(threshold),
            min_speech_us: us("min_speech_ms", 96),
            min_silence_us: us("min_silence_ms", 320),
            pad_us: us("pad_ms", 32),
        }
    }
}

impl Detector {
    fn new(settings: Settings) -> Detector {
        Detector { settings, start_us: None, speaking: false, pause_us: None }
    }

    /// A window that began at `at_us`.
    fn window(&mut self, at_us: i64, probability: f64) -> Option<Event> {
        let end_us = at_us + WINDOW_US;
        if probability >= self.settings.threshold {
            self.pause_us = None;
            let start = *self.start_us.get_or_insert(at_us);
            if !self.speaking && end_us - start >= self.settings.min_speech_us {
                self.speaking = true;
                return Some(Event::Start { at_us: start - self.settings.pad_us });
            }
            return None;
        }
        if self.speaking && probability < self.settings.neg_threshold {
            let pause = *self.pause_us.get_or_insert(at_us);
            if end_us - pause >= self.settings.min_silence_us {
                return self.end(pause);
            }
        }
        if !self.speaking {
            self.start_us = None;
        }
        None
    }

    /// Nothing follows what ended at `at_us`.
    fn cut(&mut self, at_us: i64) -> Option<Event> {
        let at_us = self.pause_us.unwrap_or(at_us);
        if self.speaking {
            return self.end(at_us);
        }
        self.start_us = None;
        None
    }

    fn end(&mut self, at_us: i64) -> Option<Event> {
        let start = self.start_us.take()? - self.settings.pad_us;
        let at_us = at_us + self.settings.pad_us;
        (self.speaking, self.pause_us) = (false, None);
        Some(Event::End { at_us, duration_us: at_us - start })
    }
}

impl Vad {
    /// How sure the model is that there is speech in a window.
    fn hear(&mut self, samples: &[f32]) -> Result<f64, String> {
        let state = &mut self.state;
        self.model.with(|session| {
            let text = |error: ort::Error| error.to_string();
            let input = TensorRef::from_array_view(([1usize, CONTEXT + WINDOW], samples)).map_err(text)?;
            let before = TensorRef::from_array_view(([2usize, 1, 128], &state[..])).map_err(text)?;
            let rate = [i64::from(RATE)];
            let rate = TensorRef::from_array_view(((), &rate[..])).map_err(text)?;
            let inputs = ort::inputs!["input" => input, "state" => before, "sr" => rate];
            let outputs = session.run(inputs).map_err(text)?;
            let output = outputs.get("output").ok_or("the model has no output \"output\"")?;
            let (_, probability) = output.try_extract_tensor::<f32>().map_err(text)?;
            let after = outputs.get("stateN").ok_or("the model has no output \"stateN\"")?;
            let (_, after) = after.try_extract_tensor::<f32>().map_err(text)?;
            if after.len() != STATE || probability.is_empty() {
                return Err("the model gave a state of another size".to_owned());
            }
            state.copy_from_slice(after);
            Ok(f64::from(probability[0]))
        })
    }

    fn tell(&self, event: Event, item: &Item, out: &mut Emit) {
        let (at_us, value) = match event {
            Event::Start { at_us } => (
                at_us,
                json!({"type": "speechStart", "atUs": at_us, "probability": rounded(self.probability)}),
            ),
            Event::End { at_us, duration_us } => (
                at_us,
                json!({"type": "speechEnd", "atUs": at_us, "durationMs": duration_us as f64 / 1000.0}),
            ),
        };
        let mut told = item.derive(Data::Json(Arc::new(value)));
        told.timestamp_us = at_us;
        out.push(EVENTS_PORT, told);
    }
}

impl Node for Vad {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        let failed = |error: remotemedia_media::MediaError| NodeError::failed(error.to_string());
        let mut events = Vec::new();
        let follows = |stream: &Stream| (frame.timestamp_us - stream.next_us).abs() <= TOLERANCE_US;
        if let Some(stream) = self.stream.take_if(|stream| !follows(stream)) {
            events.extend(self.detector.cut(stream.next_us));
            self.state = [0.0; STATE];
            self.probability = 0.0;
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream {
                resampler: Resampler::new(RATE, 1).map_err(failed)?,
                pending: vec![0.0; CONTEXT],
                next_us: frame.timestamp_us,
            },
        };
        let heard = stream.resampler.process(frame).map_err(failed)?;
        let waited = stream.pending.len() - CONTEXT;
        let mut at_us = heard.timestamp_us - waited as i64 * 1_000_000 / i64::from(RATE);
        stream.pending.extend(heard.samples.iter());
        stream.next_us = frame.timestamp_us + frame.duration_us();
        let mut start = 0;
        while stream.pending.len() - start >= CONTEXT + WINDOW {
            let window = &stream.pending[start..start + CONTEXT + WINDOW];
            self.probability = self.hear(window).map_err(NodeError::failed)?;
            events.extend(self.detector.window(at_us, self.probability));
            start += WINDOW;
            at_us += WINDOW_US;
        }
        stream.pending.drain(..start);
        self.stream = Some(stream);

        let mut metadata = item.metadata.as_deref().cloned().unwrap_or_else(BTreeMap::new);
        metadata.insert("speech".to_owned(), self.detector.speaking.to_string());
        metadata.insert("speechProbability".to_owned(), rounded(self.probability).to_string());
        let mut sound = item.clone();
        sound.metadata = Some(Arc::new(metadata));
        out.push(0, sound);
        for event in events {
            self.tell(event, &item, out);
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.detector.settings = Settings::new(params);
        Ok(())
    }
}

fn rounded(probability: f64) -> f64 {
    (probability * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detector(min_speech_ms: i64, min_silence_ms: i64) -> Detector {
        Detector::new(Settings {
            threshold: 0.5,
            neg_threshold: 0.35,
            min_speech_us: min_speech_ms * 1000,
            min_silence_us: min_silence_ms * 1000,
            pad_us: 30_000,
        })
    }

    /// What is told of these probabilities, and with which window.
    fn run(detector: &mut Detector, probabilities: &[f64]) -> Vec<(usize, Event)> {
        let windows = probabilities.iter().enumerate();
        windows
            .filter_map(|(n, p)| detector.window(n as i64 * WINDOW_US, *p).map(|event| (n, event)))
            .collect()
    }

    #[test]
    fn blips_are_no_speech_and_gasps_no_pauses() {
        let mut d = detector(96, 320);
        let mut heard = vec![0.0, 0.9, 0.9, 0.1];
        heard.extend([0.9; 10]);
        heard.extend([0.1, 0.2, 0.1]);
        heard.extend([0.8; 5]);
        heard.extend([0.4; 20]);
        heard.extend([0.1; 12]);
        let told = run(&mut d, &heard);
        // It starts with the third window in a row; what is between the thresholds neither starts nor ends anything.
        let (start, end) = (4 * WINDOW_US - 30_000, 42 * WINDOW_US + 30_000);
        assert_eq!(
            told,
            [(6, Event::Start { at_us: start }), (51, Event::End { at_us: end, duration_us: end - start }),]
        );
    }

    #[test]
    fn without_least_durations_every_window_counts_and_a_cut_ends_speech() {
        let mut d = detector(0, 0);
        let told = run(&mut d, &[0.0, 0.9, 0.1, 0.9]);
        assert_eq!(told.len(), 3);
        assert_eq!(d.cut(1_000_000), Some(Event::End { at_us: 1_030_000, duration_us: 1_030_000 - 66_000 }));
        assert_eq!(d.cut(2_000_000), None);
    }
}
