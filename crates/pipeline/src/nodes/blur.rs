//! Blurs what is behind a person.

use remotemedia_media::{FramePool, VideoFrame};

use super::picture::PlaneScaler;
use super::plane::{self, Enlarger};
use super::{simple, unexpected};
use crate::data::{Data, Item, Kind, Mask};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// Three boxes in a row are close to a Gaussian.
const PASSES: usize = 3;
/// Variance that shrinking (a box) and enlarging (a triangle) add by themselves, in small pixels.
const RESIZING: f32 = 1.0 / 12.0 + 1.0 / 6.0;

/// `BackgroundBlur`: `mask` (mask, must be connected) and `in` (video) -> `out` (video).
///
/// Each picture is blurred where the latest mask says background. Until a first mask has come, all of it is: what is
/// behind a person is never shown by accident. People's colours don't bleed into the background.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "BackgroundBlur".to_owned(),
        inputs: vec![PortSpec::connected("mask", Kind::Mask), PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params: vec![
            ParamSpec::integer("radius", 1, 64, 12).unit("px").about("standard deviation of the blur"),
            ParamSpec::number("softness", 0.0, 1.0, 0.5)
                .about("width of the transition at the edge, as a share of the mask's own"),
            ParamSpec::number("smoothing", 0.0, 0.95, 0.3)
                .about("how much of the previous mask stays, against flicker; 0 follows at once"),
        ],
        same_kind: false,
        load: simple(Blur::new),
    }
}

const MASK_PORT: usize = 0;

struct Blur {
    radius: f32,
    softness: f32,
    smoothing: f32,
    /// The mask smoothed over time, before the edge is shaped.
    mask: Option<Smoothed>,
    pool: FramePool,
    scaler: PlaneScaler,
    work: Work,
}

struct Smoothed {
    width: u32,
    height: u32,
    /// 0..=255.
    values: Vec<f32>,
}

/// Buffers kept from picture to picture; their size follows the picture's.
#[derive(Default)]
struct Work {
    /// The shaped mask at its own size, and at the size of the blur: 255 keeps the pixel.
    alpha: Vec<u8>,
    alpha_small: Vec<u8>,
    /// The same at full size, of luma and of chroma, where the size of the blur would lose detail of the mask.
    alpha_full: Option<[Vec<u8>; 2]>,
    /// The three planes at the size of the blur.
    small: [Vec<u8>; 3],
    /// Y, U, V and weight of a pixel together, so that one sum in the loops is one vector.
    pixels: Vec<[f32; 4]>,
    passed: Vec<[f32; 4]>,
    sums: Vec<[f32; 4]>,
    /// Working memory of the scaling.
    column_sums: Vec<u16>,
    mixed: [Vec<u16>; 2],
    /// One row at full size: blurred, and its alpha.
    row: Vec<u8>,
    row_alpha: Vec<u8>,
}

impl Blur {
    fn new(params: &Params) -> Result<Blur, NodeError> {
        let mut blur = Blur {
            radius: 12.0,
            softness: 0.5,
            smoothing: 0.3,
            mask: None,
            pool: FramePool::default(),
            scaler: PlaneScaler::default(),
            work: Work::default(),
        };
        blur.set_params(params)?;
        Ok(blur)
    }

    fn take_mask(&mut self, mask: &Mask) {
        let values = mask.data().iter().map(|value| f32::from(*value));
        match &mut self.mask {
            Some(known) if (known.width, known.height) == (mask.width(), mask.height()) => {
                let keep = self.smoothing;
                known
                    .values
                    .iter_mut()
                    .zip(values)
                    .for_each(|(old, new)| *old = *old * keep + new * (1.0 - keep));
            }
            other => {
                *other =
                    Some(Smoothed { width: mask.width(), height: mask.height(), values: values.collect() })
            }
        }
    }

    fn blur(&mut self, frame: &VideoFrame) -> Result<VideoFrame, NodeError> {
        let (w, h) = (frame.width() as usize, frame.height() as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        // A wide blur has no detail to lose at a quarter of the size; the cost doesn't grow with the radius.
        let shrink = if self.radius >= 4.0 { 4 } else { 2 };
        // Through chroma, so that both come out the same however odd the sizes are.
        let (sw, sh) = (cw.div_ceil(shrink / 2), ch.div_ceil(shrink / 2));
        let work = &mut self.work;
        work.alpha_small.resize(sw * sh, 0);
        match &self.mask {
            Some(mask) => {
                shape(&mask.values, self.softness, &mut work.alpha);
                let from = (work.alpha.as_slice(), mask.width, mask.height);
                self.scaler.scale(from, (&mut work.alpha_small, sw as u32, sh as u32))?;
                if sw < mask.width as usize || sh < mask.height as usize {
                    let full = work.alpha_full.get_or_insert_default();
                    for (full, (w, h)) in full.iter_mut().zip([(w, h), (cw, ch)]) {
                        full.resize(w * h, 0);
                        self.scaler.scale(from, (full, w as u32, h as u32))?;
                    }
                } else {
                    work.alpha_full = None;
                }
            }
            None => {
                work.alpha_small.fill(0);
                work.alpha_full = None;
            }
        }

        let planes = frame.planes();
        let sizes = [(w, h, shrink), (cw, ch, shrink / 2), (cw, ch, shrink / 2)];
        for ((plane, (w, _, factor)), small) in planes.iter().zip(sizes).zip(&mut work.small) {
            small.resize(sw * sh, 0);
            plane::shrink(plane.data, w, factor, small, &mut work.column_sums);
        }
        work.gather();
        for radius in box_radii((self.radius / shrink as f32).powi(2) - RESIZING) {
            blur_columns(&work.pixels, &mut work.passed, &mut work.sums, sw, sh, radius);
            blur_rows(&work.passed, &mut work.pixels, sw, radius);
        }
        work.scatter();

        let mut out = self
            .pool
            .get(frame.width(), frame.height())
            .map_err(|error| NodeError::failed(error.to_string()))?;
        for (index, (target, size)) in out.planes_mut().into_iter().zip(sizes).enumerate() {
            work.mix(index, planes[index].data, size, sw, target.data);
        }
        Ok(out.freeze(frame.timestamp_us()))
    }
}

impl Work {
    /// Packs the small planes, each weighted by how much it is background. A little weight is left everywhere: where a
    /// person fills the picture there still is something to divide by.
    fn gather(&mut self) {
        let [y, u, v] = &self.small;
        self.pixels.clear();
        self.pixels.extend(y.iter().zip(u).zip(v).zip(&self.alpha_small).map(|(((y, u), v), alpha)| {
            let weight = f32::from(255 - alpha) + 1.0;
            [f32::from(*y) * weight, f32::from(*u) * weight, f32::from(*v) * weight, weight]
        }));
        self.passed.resize(self.pixels.len(), [0.0; 4]);
    }

    fn scatter(&mut self) {
        let [y, u, v] = &mut self.small;
        for (((pixel, y), u), v) in self.pixels.iter().zip(y).zip(u).zip(v) {
            let scale = 1.0 / pixel[3].max(1e-3);
            *y = (pixel[0] * scale + 0.5) as u8;
            *u = (pixel[1] * scale + 0.5) as u8;
            *v = (pixel[2] * scale + 0.5) as u8;
        }
    }

    /// Enlarges a blurred plane and its alpha row by row and mixes the sharp one in, while the rows are in the cache.
    fn mix(
        &mut self,
        plane: usize,
        sharp: &[u8],
        size: (usize, usize, usize),
        small_width: usize,
        out: &mut [u8],
    ) {
        let (width, height, factor) = size;
        self.row.resize(width, 0);
        self.row_alpha.resize(width, 0);
        let [first, second] = std::mem::take(&mut self.mixed);
        let mut soft = Enlarger::new(&self.small[plane], small_width, factor, first);
        let full = self.alpha_full.as_ref().map(|[luma, chroma]| if plane == 0 { luma } else { chroma });
        let mut alpha = Enlarger::new(&self.alpha_small, small_width, factor, second);
        for ((y, sharp), out) in (0..height).zip(sharp.chunks_exact(width)).zip(out.chunks_exact_mut(width)) {
            soft.row(y, &mut self.row);
            let alpha = match full {
                Some(full) => &full[y * width..][..width],
                None => {
                    alpha.row(y, &mut self.row_alpha);
                    &self.row_alpha
                }
            };
            blend(sharp, &self.row, alpha, out);
        }
        self.mixed = [soft.finish(), alpha.finish()];
    }
}

/// Radii of boxes whose variances, (w^2 - 1) / 12 for a box of width w, add up to `variance` as nearly as they can.
fn box_radii(variance: f32) -> [usize; PASSES] {
    let one = |radius: usize| {
        let width = (2 * radius + 1) as f32;
        (width * width - 1.0) / 12.0
    };
    let mut small = 0;
    while one(small + 1) * PASSES as f32 <= variance {
        small += 1;
    }
    // Some of the boxes are one wider than the others.
    let step = one(small + 1) - one(small);
    let wider = ((variance - one(small) * PASSES as f32) / step).round().clamp(0.0, PASSES as f32) as usize;
    std::array::from_fn(|pass| small + usize::from(pass < wider))
}

/// Steepens the mask around one half: the softer, the wider the transition.
fn shape(values: &[f32], softness: f32, alpha: &mut Vec<u8>) {
    let width = (softness * 255.0).max(8.0);
    let low = (255.0 - width) / 2.0;
    let scale = 1.0 / width;
    alpha.clear();
    alpha.extend(values.iter().map(|value| {
        let t = ((value - low) * scale).clamp(0.0, 1.0);
        (t * t * (3.0 - 2.0 * t) * 255.0 + 0.5) as u8
    }));
}

/// `out` = `sharp` where alpha is 255, `soft` where it is 0.
fn blend(sharp: &[u8], soft: &[u8], alpha: &[u8], out: &mut [u8]) {
    for (((out, sharp), soft), alpha) in out.iter_mut().zip(sharp).zip(soft).zip(alpha) {
        let alpha = u16::from(*alpha);
        let mixed = u16::from(*sharp) * alpha + u16::from(*soft) * (255 - alpha) + 128;
        // Division by 255, exact for what two bytes can give.
        *out = ((mixed + (mixed >> 8)) >> 8) as u8;
    }
}

/// One box along the columns: a running sum for a whole row of them at once. Edges repeat.
fn blur_columns(
    from: &[[f32; 4]],
    to: &mut [[f32; 4]],
    sums: &mut Vec<[f32; 4]>,
    width: usize,
    height: usize,
    radius: usize,
) {
    let row = |y: usize| &from[y * width..(y + 1) * width];
    let scale = 1.0 / (2 * radius + 1) as f32;
    sums.clear();
    sums.extend(row(0).iter().map(|pixel| pixel.map(|value| value * (radius + 1) as f32)));
    for y in 1..=radius {
        add(sums, row(y.min(height - 1)));
    }
    for y in 0..height {
        let out = &mut to[y * width..(y + 1) * width];
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = sum.map(|value| value * scale);
        }
        let (enters, leaves) = (row((y + radius + 1).min(height - 1)), row(y.saturating_sub(radius)));
        for ((sum, enters), leaves) in sums.iter_mut().zip(enters).zip(leaves) {
            for ((sum, enters), leaves) in sum.iter_mut().zip(enters).zip(leaves) {
                *sum += enters - leaves;
            }
        }
    }
}

fn add(sums: &mut [[f32; 4]], row: &[[f32; 4]]) {
    for (sum, pixel) in sums.iter_mut().zip(row) {
        for (sum, value) in sum.iter_mut().zip(pixel) {
            *sum += value;
        }
    }
}

/// One box along the rows: a running sum of the four values of a pixel.
fn blur_rows(from: &[[f32; 4]], to: &mut [[f32; 4]], width: usize, radius: usize) {
    let scale = 1.0 / (2 * radius + 1) as f32;
    let last = width - 1;
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
        let mut sum = from[0].map(|value| value * (radius + 1) as f32);
        for x in 1..=radius {
            sum = plus(sum, from[x.min(last)]);
        }
        for (x, out) in to.iter_mut().enumerate() {
            *out = sum.map(|value| value * scale);
            sum = plus(sum, minus(from[(x + radius + 1).min(last)], from[x.saturating_sub(radius)]));
        }
    }
}

fn plus(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    std::array::from_fn(|i| a[i] + b[i])
}

fn minus(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    std::array::from_fn(|i| a[i] - b[i])
}

impl Node for Blur {
    fn process(&mut self, port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        match &item.data {
            Data::Mask(mask) if port == MASK_PORT => self.take_mask(mask),
            Data::Video(frame) => {
                let blurred = self.blur(frame)?;
                out.push(0, item.derive(Data::Video(blurred)));
            }
            _ => return Err(unexpected(&item)),
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.radius = params.integer("radius").map_or(12.0, |radius| radius as f32);
        self.softness = params.number("softness").map_or(0.5, |softness| softness as f32);
        self.smoothing = params.number("smoothing").map_or(0.3, |smoothing| smoothing as f32);
        Ok(())
    }
}
