//! Scaling of pictures, plane by plane.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::frame::{FramePool, VideoFrame, check_dimensions};
use crate::{FrameError, MediaError};

/// Scales pictures and keeps its working memory from one to the next.
#[derive(Default)]
pub struct Scaler {
    resizer: Resizer,
}

impl Scaler {
    /// A scaler without memory yet.
    pub fn new() -> Scaler {
        Scaler::default()
    }

    /// The picture at another size, stretched to it, under the same timestamp.
    ///
    /// A triangle filter as wide as the reduction needs, so fine patterns don't shimmer. The same size costs nothing.
    pub fn scale(
        &mut self,
        frame: &VideoFrame,
        pool: &FramePool,
        width: u32,
        height: u32,
    ) -> Result<VideoFrame, MediaError> {
        check_dimensions(width, height)?;
        if (width, height) == (frame.width(), frame.height()) {
            return Ok(frame.clone());
        }
        let mut out = pool.get(width, height)?;
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        let sizes = |w: u32, h: u32| [(w, h), (w.div_ceil(2), h.div_ceil(2)), (w.div_ceil(2), h.div_ceil(2))];
        let from = frame.planes().into_iter().zip(sizes(frame.width(), frame.height()));
        let to = out.planes_mut().into_iter().zip(sizes(width, height));
        for ((source, (sw, sh)), (target, (tw, th))) in from.zip(to) {
            // Planes are packed, so a plane's bytes are a picture of one byte a pixel.
            let refused = |_| FrameError::Dimensions { width, height };
            let source = ImageRef::new(sw, sh, source.data, PixelType::U8).map_err(refused)?;
            let mut target = Image::from_slice_u8(tw, th, target.data, PixelType::U8).map_err(refused)?;
            self.resizer.resize(&source, &mut target, &options).map_err(|e| MediaError::Codec {
                codec: "scaler",
                operation: "scale",
                reason: e.to_string(),
            })?;
        }
        Ok(out.freeze(frame.timestamp_us()))
    }
}

/// Scales one picture; for a stream of them a [`Scaler`] is a little faster.
pub fn scale(
    frame: &VideoFrame,
    pool: &FramePool,
    width: u32,
    height: u32,
) -> Result<VideoFrame, MediaError> {
    Scaler::new().scale(frame, pool, width, height)
}
