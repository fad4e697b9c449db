//! Audio in pieces of one length.

use std::sync::Arc;

use remotemedia_media::AudioFrame;

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, MAX_EMITTED, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// Frames that follow each other closer than this are one stream.
const TOLERANCE_US: i64 = 20_000;

/// `Chunk`: `in` (audio) -> `out` (audio). Cuts audio into pieces of one length. What doesn't fill a piece waits for more;
/// after a gap it is dropped.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "Chunk".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Audio)],
        outputs: vec![PortSpec::new("out", Kind::Audio)],
        params: vec![
            ParamSpec::integer("ms", 1, 1000, 20).unit("ms").about("length of a piece"),
            ParamSpec::integer("samples", 0, 192_000, 0)
                .about("the same in samples of a channel; 0: by `ms`"),
        ],
        same_kind: false,
        load: simple(|params| {
            let mut chunk = Chunk { ms: 20, samples: 0, rest: None };
            chunk.set_params(params)?;
            Ok(chunk)
        }),
    }
}

struct Chunk {
    ms: usize,
    samples: usize,
    rest: Option<Rest>,
}

/// What doesn't fill a piece yet.
struct Rest {
    samples: Vec<f32>,
    rate: u32,
    channels: u16,
    /// When what comes next is expected.
    next_us: i64,
}

impl Node for Chunk {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Audio(frame) = &item.data else { return Err(unexpected(&item)) };
        let channels = usize::from(frame.channels.max(1));
        let follows = |rest: &Rest| {
            (rest.rate, rest.channels) == (frame.sample_rate, frame.channels)
                && (rest.next_us - frame.timestamp_us).abs() <= TOLERANCE_US
        };
        let kept = self.rest.take().filter(|rest| !item.discontinuity && follows(rest));
        let mut samples = kept.map_or_else(Vec::new, |rest| rest.samples);
        let waited = samples.len() / channels;
        samples.extend(frame.samples.iter());
        let us = |frames: usize| frames as i64 * 1_000_000 / i64::from(frame.sample_rate.max(1));
        let start_us = frame.timestamp_us - us(waited);
        let length = match self.samples {
            0 => (frame.sample_rate as usize * self.ms / 1000).max(1),
            samples => samples,
        };
        if samples.len() / channels / length > MAX_EMITTED {
            let frames = samples.len() / channels;
            return Err(NodeError::failed(format!("{frames} samples are too many for pieces of {length}")));
        }
        let mut pieces = samples.chunks_exact(length * channels);
        for (index, piece) in pieces.by_ref().enumerate() {
            let timestamp_us = start_us + us(index * length);
            let piece = AudioFrame { samples: Arc::new(piece.to_vec()), timestamp_us, ..frame.clone() };
            let mut item = item.derive(Data::Audio(piece));
            item.timestamp_us = timestamp_us;
            item.discontinuity &= index == 0;
            out.push(0, item);
        }
        self.rest = Some(Rest {
            samples: pieces.remainder().to_vec(),
            rate: frame.sample_rate,
            channels: frame.channels,
            next_us: frame.timestamp_us + frame.duration_us(),
        });
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.ms = params.integer("ms").unwrap_or(20) as usize;
        self.samples = params.integer("samples").unwrap_or(0) as usize;
        Ok(())
    }
}
