//! What everybody hears in a conference.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFrame, Mixed, Mixer, MixerConfig, MixerEvent, mix};
use serde_json::{Value, json};

use super::unexpected;
use crate::data::{Audience, Data, Item, Kind};
use crate::error::NodeError;
use crate::manifest::Scope;
use crate::spec::{Emit, Node, NodeFactory, NodeSpec, ParamSpec, Params, PortSpec};

const IN: usize = 0;
const OUT: usize = 0;
const EVENTS: usize = 1;

/// `AudioMixer`, also called `ConferenceMixer`: `in` (audio), `mix` (audioMix) -> `out` (audio), `events` (json). Everybody hears
/// everybody but itself.
///
/// It is shared by all peers. On a clock that waits for nobody it gives each peer that is heard a mix without itself, and one mix
/// for all the others; what comes late is concealed, then silent. It adds one tick, 3 ms and the jitter of what comes in. Sound that
/// belongs to no peer is heard by all.
///
/// `events` tells who speaks, in a form that `Compositor.control` takes: `{"event": "activeSpeaker", "main": "bob", "before": "ann"}`;
/// null where nobody does or did. An `audioMix` is summed at once, without the clock: its result is what comes out for it.
///
/// By peer there are `gain_db` (-60..=24) and `muted`.
pub(super) fn spec(name: &str) -> NodeSpec {
    NodeSpec {
        node_type: name.to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio), PortSpec::new("mix", Kind::AudioMix)],
        outputs: vec![PortSpec::new("out", Kind::Audio), PortSpec::new("events", Kind::Json)],
        params: vec![
            ParamSpec::bool("low_latency", false).fixed().about("ticks of 10 ms instead of 20"),
            ParamSpec::integer("channels", 1, 2, 1).fixed().about("of what comes out"),
            ParamSpec::integer("max_active", 1, 256, 256)
                .about("peers that are heard at once: the loudest, with hysteresis"),
            ParamSpec::number("gate_db", -100.0, -20.0, -60.0)
                .unit("dBFS")
                .about("what is softer is silent, and adds nothing"),
        ],
        same_kind: false,
        load: Arc::new(|_| Ok(Box::new(Factory) as Box<dyn NodeFactory>)),
    }
}

struct Factory;

impl NodeFactory for Factory {
    fn create(&self, params: &Params) -> Result<Box<dyn Node>, NodeError> {
        let config = config(params);
        Ok(Box::new(AudioMixer { config, mixer: Mixer::new(config).map_err(failed)? }))
    }

    fn scope(&self) -> Scope {
        Scope::Shared
    }

    fn source_params(&self) -> Vec<ParamSpec> {
        vec![
            ParamSpec::number("gain_db", -60.0, 24.0, 0.0).unit("dB").about("how much louder it is"),
            ParamSpec::bool("muted", false).about("nobody hears it"),
        ]
    }
}

struct AudioMixer {
    config: MixerConfig,
    mixer: Mixer<Arc<str>>,
}

fn config(params: &Params) -> MixerConfig {
    MixerConfig {
        tick_ms: if params.bool("low_latency") { 10 } else { 20 },
        channels: params.integer("channels").unwrap_or(1) as u16,
        max_active: params.integer("max_active").map(|most| most as usize).filter(|most| *most < 256),
        gate_db: params.number("gate_db").unwrap_or(-60.0),
    }
}

fn failed(error: impl std::fmt::Display) -> NodeError {
    NodeError::failed(error.to_string())
}

impl AudioMixer {
    fn give(mixed: Mixed<Arc<str>>, out: &mut Emit) {
        let item = |frame: AudioFrame, audience| Item { audience, ..Item::new(Data::Audio(frame)) };
        let mut own = Vec::with_capacity(mixed.own.len());
        for (source, frame) in mixed.own {
            // What is nobody's has no listener of its own.
            if !source.is_empty() {
                own.push(source.clone());
                out.push(OUT, item(frame, Some(Audience::One(source))));
            }
        }
        out.push(OUT, item(mixed.common, Some(Audience::AllBut(own.into()))));
    }
}

impl Node for AudioMixer {
    fn process(&mut self, port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        match (&item.data, port) {
            (Data::Audio(frame), IN) => {
                let source = item.source.clone().unwrap_or_else(|| "".into());
                self.mixer.push(&source, frame, Instant::now()).map_err(failed)
            }
            (Data::AudioMix(frames), _) => {
                let sum = mix(frames).map_err(failed)?;
                out.push(OUT, item.derive(Data::Audio(sum)));
                Ok(())
            }
            _ => Err(unexpected(&item)),
        }
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.config = config(params);
        self.mixer.set_max_active(self.config.max_active);
        self.mixer.set_gate_db(self.config.gate_db);
        Ok(())
    }

    fn tick_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.config.tick_ms.into()))
    }

    fn tick(&mut self, now: Instant, out: &mut Emit) -> Result<(), NodeError> {
        self.mixer.set_grid(now);
        while let Some(mixed) = self.mixer.tick(now) {
            AudioMixer::give(mixed, out);
        }
        while let Some(MixerEvent::ActiveSpeaker { now, before }) = self.mixer.poll_event() {
            let event =
                json!({ "event": "activeSpeaker", "main": now.as_deref(), "before": before.as_deref() });
            out.push(EVENTS, Item::new(Data::Json(Arc::new(event))));
        }
        Ok(())
    }

    fn set_source_param(&mut self, source: &str, name: &str, value: &Value) -> Result<(), NodeError> {
        match (name, value.as_f64(), value.as_bool()) {
            ("gain_db", Some(gain_db), _) => self.mixer.set_gain(&source.into(), gain_db),
            ("muted", _, Some(muted)) => self.mixer.set_muted(&source.into(), muted),
            _ => {}
        }
        Ok(())
    }

    fn source_gone(&mut self, source: &str) {
        self.mixer.remove(&source.into());
    }
}
