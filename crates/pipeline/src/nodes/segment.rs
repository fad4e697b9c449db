//! Finds the person in a picture.

use std::sync::Arc;

use ort::value::TensorRef;
use remotemedia_media::VideoFrame;

use super::onnx::Model;
use super::picture::PlaneScaler;
use super::plane::shrink;
use super::unexpected;
use crate::data::{Data, Item, Kind, Mask};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeFactory, NodeSpec, ParamSpec, Params, PortSpec};

const MODEL: &str = "selfie_segmentation_landscape.onnx";
const WIDTH: u32 = 256;
const HEIGHT: u32 = 144;
const PIXELS: usize = (WIDTH * HEIGHT) as usize;

/// `PersonSegmenter`: `in` (video) -> `mask` (mask of 256x144). Finds the person in a picture. Needs ONNX Runtime and the
/// model.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "PersonSegmenter".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("mask", Kind::Mask)],
        params: vec![
            ParamSpec::integer("every", 1, 10, 1)
                .unit("pictures")
                .about("looks at each n-th only; who uses the mask keeps the last"),
        ],
        same_kind: false,
        load: Arc::new(|_| {
            let model = Arc::new(Model::load(MODEL)?);
            let factory =
                move |params: &Params| Ok(Box::new(Segmenter::new(model.clone(), params)) as Box<dyn Node>);
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
    }
}

struct Segmenter {
    model: Arc<Model>,
    every: u64,
    seen: u64,
    scaler: PlaneScaler,
    small: Vec<u8>,
    sums: Vec<u16>,
    /// Y, U and V, each at the model's size.
    planes: [Vec<u8>; 3],
    rgb: Vec<f32>,
}

impl Segmenter {
    fn new(model: Arc<Model>, params: &Params) -> Segmenter {
        Segmenter {
            model,
            every: every(params),
            seen: 0,
            scaler: PlaneScaler::default(),
            small: Vec::new(),
            sums: Vec::new(),
            planes: std::array::from_fn(|_| vec![0; PIXELS]),
            rgb: vec![0.0; PIXELS * 3],
        }
    }

    fn mask(&mut self, frame: &VideoFrame) -> Result<Mask, NodeError> {
        let (w, h) = (frame.width(), frame.height());
        let sizes = [(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))];
        for ((from, (w, h)), to) in frame.planes().iter().zip(sizes).zip(&mut self.planes) {
            // The whole part of the reduction by means of blocks; what is left is little work.
            let factor = (w / WIDTH).min(h / HEIGHT).clamp(1, 256);
            let (sw, sh) = (w.div_ceil(factor), h.div_ceil(factor));
            self.small.resize(sw as usize * sh as usize, 0);
            shrink(from.data, w as usize, factor as usize, &mut self.small, &mut self.sums);
            self.scaler.scale((&self.small, sw, sh), (to, WIDTH, HEIGHT))?;
        }
        let [y, u, v] = &self.planes;
        to_rgb(y, u, v, &mut self.rgb);
        let rgb = &self.rgb;
        let data = self.model.with(|session| infer(session, rgb)).map_err(NodeError::failed)?;
        Mask::new(WIDTH, HEIGHT, data)
            .ok_or_else(|| NodeError::failed("the model gave a mask of another size"))
    }
}

fn every(params: &Params) -> u64 {
    params.integer("every").map_or(1, |every| every as u64)
}

fn infer(session: &mut ort::session::Session, rgb: &[f32]) -> Result<Vec<u8>, String> {
    let shape = [1usize, HEIGHT as usize, WIDTH as usize, 3];
    let input = TensorRef::from_array_view((shape, rgb)).map_err(|error| error.to_string())?;
    let outputs = session.run(ort::inputs!["input" => input]).map_err(|error| error.to_string())?;
    let mask = outputs.get("mask").ok_or("the model has no output \"mask\"")?;
    let (_, values) = mask.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
    // A cast of a float saturates, and no number becomes 0.
    Ok(values.iter().map(|p| (p * 255.0 + 0.5) as u8).collect())
}

/// BT.601 limited range to RGB in 0..=1, interleaved.
fn to_rgb(y: &[u8], u: &[u8], v: &[u8], rgb: &mut [f32]) {
    const SCALE_Y: f32 = 1.0 / 219.0;
    const SCALE_C: f32 = 1.0 / 224.0;
    for (((out, y), u), v) in rgb.chunks_exact_mut(3).zip(y).zip(u).zip(v) {
        let y = (f32::from(*y) - 16.0) * SCALE_Y;
        let u = (f32::from(*u) - 128.0) * SCALE_C;
        let v = (f32::from(*v) - 128.0) * SCALE_C;
        out[0] = (y + 1.402 * v).clamp(0.0, 1.0);
        out[1] = (y - 0.344_136 * u - 0.714_136 * v).clamp(0.0, 1.0);
        out[2] = (y + 1.772 * u).clamp(0.0, 1.0);
    }
}

impl Node for Segmenter {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        let due = self.seen.is_multiple_of(self.every);
        self.seen += 1;
        if due {
            let mask = self.mask(frame)?;
            out.push(0, item.derive(Data::Mask(Arc::new(mask))));
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.every = every(params);
        self.seen = 0;
        Ok(())
    }
}
