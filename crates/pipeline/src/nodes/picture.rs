//! Scaling, as a node and as a helper for the nodes that work at other sizes.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use remotemedia_media::{FramePool, Scaler};

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// `Scale`: `in` (video) -> `out` (video). Brings pictures to a size.
pub(super) fn scale() -> NodeSpec {
    NodeSpec {
        node_type: "Scale".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params: vec![
            ParamSpec::integer("width", 2, 8192, 0).required().unit("px").about("of the picture"),
            ParamSpec::integer("height", 2, 8192, 0).required().unit("px").about("of the picture"),
            ParamSpec::choice("fit", &["stretch", "inside"], "stretch")
                .about("inside keeps the aspect ratio: the largest even size within width x height"),
        ],
        same_kind: false,
        load: simple(Scale::new),
    }
}

struct Scale {
    width: u32,
    height: u32,
    inside: bool,
    scaler: Scaler,
    pool: FramePool,
}

impl Scale {
    fn new(params: &Params) -> Result<Scale, NodeError> {
        let mut scale =
            Scale { width: 2, height: 2, inside: false, scaler: Scaler::new(), pool: FramePool::default() };
        scale.set_params(params)?;
        Ok(scale)
    }

    fn size(&self, width: u32, height: u32) -> (u32, u32) {
        if !self.inside {
            return (self.width, self.height);
        }
        let (w, h) = (u64::from(width), u64::from(height));
        let (most_w, most_h) = (u64::from(self.width), u64::from(self.height));
        // By width, unless that makes it too high.
        let (fit_w, fit_h) =
            if h * most_w <= most_h * w { (most_w, h * most_w / w) } else { (w * most_h / h, most_h) };
        let even = |n: u64| ((n as u32) & !1).max(2);
        (even(fit_w), even(fit_h))
    }
}

impl Node for Scale {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        let (width, height) = self.size(frame.width(), frame.height());
        let scaled = self.scaler.scale(frame, &self.pool, width, height);
        let scaled = scaled.map_err(|error| NodeError::failed(error.to_string()))?;
        out.push(0, item.derive(Data::Video(scaled)));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        let side = |name: &str| params.integer(name).map_or(2, |n| n as u32);
        (self.width, self.height) = (side("width"), side("height"));
        self.inside = params.word("fit") == Some("inside");
        remotemedia_media::check_dimensions(self.width, self.height).map_err(|error| NodeError::Param {
            node: String::new(),
            problem: format!("params.width and params.height: {error}"),
        })
    }
}

/// Brings packed planes of one byte a pixel to other sizes, and keeps its working memory.
#[derive(Default)]
pub(super) struct PlaneScaler {
    resizer: Resizer,
}

impl PlaneScaler {
    /// A part of a plane, given as left, top, width and height in its pixels, brought to `to.1` x `to.2` pixels.
    pub fn scale_part(
        &mut self,
        from: (&[u8], u32, u32),
        part: (f64, f64, f64, f64),
        to: (&mut [u8], u32, u32),
    ) -> Result<(), NodeError> {
        let failed = |error: &dyn std::fmt::Display| NodeError::failed(format!("scaling a plane: {error}"));
        let (width, height) = (f64::from(from.1), f64::from(from.2));
        let (left, top) = (part.0.clamp(0.0, width), part.1.clamp(0.0, height));
        let (part_w, part_h) = (part.2.min(width - left), part.3.min(height - top));
        let source = ImageRef::new(from.1, from.2, from.0, PixelType::U8).map_err(|e| failed(&e))?;
        let mut target = Image::from_slice_u8(to.1, to.2, to.0, PixelType::U8).map_err(|e| failed(&e))?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, part_w, part_h)
            .use_alpha(false);
        self.resizer.resize(&source, &mut target, &options).map_err(|e| failed(&e))
    }

    /// From `from.1` x `from.2` to `to.1` x `to.2` pixels, smoothly either way.
    pub fn scale(&mut self, from: (&[u8], u32, u32), to: (&mut [u8], u32, u32)) -> Result<(), NodeError> {
        if (from.1, from.2) == (to.1, to.2) {
            to.0.copy_from_slice(from.0);
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| NodeError::failed(format!("scaling a plane: {error}"));
        let source = ImageRef::new(from.1, from.2, from.0, PixelType::U8).map_err(|e| failed(&e))?;
        let mut target = Image::from_slice_u8(to.1, to.2, to.0, PixelType::U8).map_err(|e| failed(&e))?;
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        self.resizer.resize(&source, &mut target, &options).map_err(|e| failed(&e))
    }
}
