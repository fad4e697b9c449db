//! Says how loud it is.

use std::sync::Arc;

use serde_json::json;

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// What digital silence counts as: JSON has no minus infinity.
const SILENCE_DB: f64 = -120.0;

/// `LevelMeter`: `in` (audio) -> `out` (the same audio), `level` (json). Gives a level at a steady rate, measured over the
/// audio's own time: `{"type": "level", "rmsDb", "peakDb", "clipped", "durationMs"}`, in dBFS. Full scale is 0; a sine
/// at full scale has an RMS of -3.01. Digital silence is -120. `clipped` counts samples at full scale or beyond.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "LevelMeter".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio), PortSpec::new("level", Kind::Json)],
        params: vec![
            ParamSpec::integer("interval_ms", 10, 10_000, 100)
                .unit("ms")
                .about("of audio between two levels"),
        ],
        same_kind: false,
        load: simple(|params| {
            let mut meter = LevelMeter { interval_us: 0, sum: 0.0, peak: 0.0, clipped: 0, samples: 0, us: 0 };
            meter.set_params(params)?;
            Ok(meter)
        }),
    }
}

struct LevelMeter {
    interval_us: i64,
    sum: f64,
    peak: f32,
    clipped: u64,
    samples: u64,
    us: i64,
}

const LEVEL_PORT: usize = 1;

impl Node for LevelMeter {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        for sample in frame.samples.iter().filter(|sample| sample.is_finite()) {
            self.sum += f64::from(*sample) * f64::from(*sample);
            self.peak = self.peak.max(sample.abs());
            self.clipped += u64::from(sample.abs() >= 1.0);
        }
        self.samples += frame.samples.len() as u64;
        self.us += frame.duration_us();
        out.push(0, item.clone());
        // Half a sample of rounding isn't a reason to wait for another item.
        if self.us + 20 >= self.interval_us && self.samples > 0 {
            let db = |value: f64| (20.0 * value.log10()).max(SILENCE_DB);
            let rounded = |db: f64| (db * 100.0).round() / 100.0;
            let level = json!({
                "type": "level",
                "rmsDb": rounded(db((self.sum / self.samples as f64).sqrt())),
                "peakDb": rounded(db(f64::from(self.peak))),
                "clipped": self.clipped,
                "durationMs": self.us as f64 / 1000.0,
            });
            (self.sum, self.peak, self.clipped, self.samples, self.us) = (0.0, 0.0, 0, 0, 0);
            out.push(LEVEL_PORT, item.derive(Data::Json(Arc::new(level))));
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.interval_us = params.integer("interval_ms").unwrap_or(100) * 1000;
        Ok(())
    }
}
