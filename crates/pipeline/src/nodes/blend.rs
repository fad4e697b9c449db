//! Laying one picture over another.

use remotemedia_media::{FrameMut, FramePool, VideoFrame};

use crate::error::NodeError;

/// Where in a picture something is put.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Anchor {
    /// 0 is the left or top edge, 1 the right or lower one, 0.5 the middle.
    x: f64,
    y: f64,
}

/// The words for [`Anchor`] in manifests.
pub(super) const ANCHORS: &[&str] =
    &["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"];

impl Anchor {
    pub fn from_word(word: &str) -> Anchor {
        let at = ANCHORS.iter().position(|known| *known == word).unwrap_or(0);
        Anchor { x: (at % 3) as f64 / 2.0, y: (at / 3) as f64 / 2.0 }
    }

    /// The upper left corner of something of `size` in a picture of `of`, `margin` away from the edges.
    pub fn place(&self, size: (u32, u32), of: (u32, u32), margin: i64) -> (i64, i64) {
        let along = |anchor: f64, size: u32, of: u32| {
            let room = i64::from(of) - i64::from(size) - 2 * margin;
            // Colour has half the resolution: only even places are exact.
            (margin + (room as f64 * anchor).round() as i64) & !1
        };
        (along(self.x, size.0, of.0), along(self.y, size.1, of.1))
    }
}

/// A picture with opacity, in the form that video has.
pub(super) struct Sprite {
    width: u32,
    height: u32,
    /// Luma, blue and red difference, each with its opacity beside it: 0..=256.
    planes: [Vec<(u8, u16)>; 3],
}

impl Sprite {
    /// From RGBA rows, four bytes a pixel, opacity not multiplied in. An odd size gets an invisible row or column.
    pub fn from_rgba(rgba: &[u8], width: u32, height: u32, opacity: f64) -> Sprite {
        let (w, h) = (width as usize, height as usize);
        let (even_w, even_h) = (w.next_multiple_of(2), h.next_multiple_of(2));
        let scale = (opacity.clamp(0.0, 1.0) * 256.0) as u32;
        let pixel = |x: usize, y: usize| {
            let at = (y * w + x) * 4;
            match rgba.get(at..at + 4) {
                Some(&[r, g, b, a]) if x < w => (yuv(r, g, b), u32::from(a) * scale / 255),
                _ => ([16, 128, 128], 0),
            }
        };
        let mut luma = Vec::with_capacity(even_w * even_h);
        for y in 0..even_h {
            for x in 0..even_w {
                let ([luminance, _, _], alpha) = pixel(x, y);
                luma.push((luminance, alpha as u16));
            }
        }
        let mut chroma = [Vec::new(), Vec::new()];
        for y in (0..even_h).step_by(2) {
            for x in (0..even_w).step_by(2) {
                let block = [pixel(x, y), pixel(x + 1, y), pixel(x, y + 1), pixel(x + 1, y + 1)];
                let total: u32 = block.iter().map(|(_, alpha)| alpha).sum();
                for (plane, out) in chroma.iter_mut().enumerate() {
                    // The colour of what is seen, not of what is invisible beside it.
                    let sum: u32 = block.iter().map(|(yuv, alpha)| u32::from(yuv[plane + 1]) * alpha).sum();
                    let mean = (sum + total / 2).checked_div(total).unwrap_or(128);
                    out.push((mean as u8, (total / 4) as u16));
                }
            }
        }
        let [u, v] = chroma;
        Sprite { width: even_w as u32, height: even_h as u32, planes: [luma, u, v] }
    }

    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Lays it over a picture with its upper left corner at `x`, `y` (even); what is outside isn't seen.
    pub fn over(&self, frame: &mut FrameMut, x: i64, y: i64) {
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        for (index, (plane, sprite)) in frame.planes_mut().into_iter().zip(&self.planes).enumerate() {
            let half = usize::from(index > 0);
            let (w, h) = if half == 1 { (width.div_ceil(2), height.div_ceil(2)) } else { (width, height) };
            let sprite_width = self.width as usize >> half;
            let (x, y) = (x >> half, y >> half);
            let (skip_x, skip_y) = ((-x).max(0) as usize, (-y).max(0) as usize);
            let (x, y) = (x.max(0) as usize, y.max(0) as usize);
            if x >= w || y >= h || skip_x >= sprite_width {
                continue;
            }
            let rows = plane.data.chunks_exact_mut(plane.stride).take(h).skip(y);
            for (to, from) in rows.zip(sprite.chunks_exact(sprite_width).skip(skip_y)) {
                for (to, (value, alpha)) in to[x..w].iter_mut().zip(&from[skip_x..]) {
                    let (under, over, alpha) = (u32::from(*to), u32::from(*value), u32::from(*alpha));
                    *to = ((under * (256 - alpha) + over * alpha + 128) >> 8) as u8;
                }
            }
        }
    }
}

/// A copy of a picture that can be written to.
pub(super) fn copy(pool: &FramePool, frame: &VideoFrame) -> Result<FrameMut, NodeError> {
    let mut copy =
        pool.get(frame.width(), frame.height()).map_err(|error| NodeError::failed(error.to_string()))?;
    copy.data_mut().copy_from_slice(frame.data());
    Ok(copy)
}

/// BT.601, limited range.
pub(super) fn yuv(r: u8, g: u8, b: u8) -> [u8; 3] {
    let (r, g, b) = (f32::from(r), f32::from(g), f32::from(b));
    let y = 16.0 + (65.481 * r + 128.553 * g + 24.966 * b) / 255.0;
    let u = 128.0 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255.0;
    let v = 128.0 + (112.0 * r - 93.786 * g - 18.214 * b) / 255.0;
    [y, u, v].map(|value| value.round().clamp(0.0, 255.0) as u8)
}
