//! Cutting pictures out, and turning them.

use remotemedia_media::{FrameMut, FramePool, VideoFrame};

use super::{simple, unexpected};
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// `Crop`: `in` (video) -> `out` (video). Cuts a rectangle out of each picture.
///
/// In `pixels`, or in `share` of the picture: a sender may change its size at any time. The edges are moved to even
/// pixels, as colour has half the resolution, and to within the picture; at least 2x2 pixels are left.
pub(super) fn crop() -> NodeSpec {
    NodeSpec {
        node_type: "Crop".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params: vec![
            ParamSpec::choice("units", &["pixels", "share"], "pixels").about("what the other four are in"),
            ParamSpec::number("x", 0.0, 8192.0, 0.0).unit("px or share").about("left edge"),
            ParamSpec::number("y", 0.0, 8192.0, 0.0).unit("px or share").about("top edge"),
            ParamSpec::number("width", 0.0, 8192.0, 0.0).unit("px or share").about("0: up to the right edge"),
            ParamSpec::number("height", 0.0, 8192.0, 0.0)
                .unit("px or share")
                .about("0: down to the lower edge"),
        ],
        same_kind: false,
        load: simple(Crop::new),
    }
}

struct Crop {
    share: bool,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    pool: FramePool,
}

impl Crop {
    fn new(params: &Params) -> Result<Crop, NodeError> {
        let mut crop =
            Crop { share: false, x: 0.0, y: 0.0, width: 0.0, height: 0.0, pool: FramePool::default() };
        crop.set_params(params)?;
        Ok(crop)
    }

    /// From where to where, in pixels: even, within `size`, at least 2 wide where `size` is.
    fn span(&self, start: f64, length: f64, size: u32) -> (usize, usize) {
        let unit = if self.share { f64::from(size) } else { 1.0 };
        let even = |n: f64| (n.round().clamp(0.0, f64::from(size)) as u32) & !1;
        let start = even(start * unit).min(size.saturating_sub(2) & !1);
        let end = if length > 0.0 { even(f64::from(start) + length * unit).max(start + 2) } else { size };
        (start as usize, end.min(size) as usize)
    }
}

impl Node for Crop {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        let (left, right) = self.span(self.x, self.width, frame.width());
        let (top, bottom) = self.span(self.y, self.height, frame.height());
        if (right - left, bottom - top) == (frame.width() as usize, frame.height() as usize) {
            out.push(0, item);
            return Ok(());
        }
        let mut cut = get(&self.pool, right - left, bottom - top)?;
        for (index, (from, to)) in frame.planes().iter().zip(cut.planes_mut()).enumerate() {
            let half = usize::from(index > 0);
            let (left, top) = (left >> half, top >> half);
            let rows = from.data.chunks_exact(from.stride).skip(top);
            for (to, from) in to.data.chunks_exact_mut(to.stride).zip(rows) {
                let width = to.len();
                to.copy_from_slice(&from[left..left + width]);
            }
        }
        let cut = cut.freeze(frame.timestamp_us());
        out.push(0, item.derive(Data::Video(cut)));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        let number = |name: &str| params.number(name).unwrap_or(0.0);
        self.share = params.word("units") == Some("share");
        (self.x, self.y, self.width, self.height) =
            (number("x"), number("y"), number("width"), number("height"));
        let over = [("x", self.x), ("y", self.y), ("width", self.width), ("height", self.height)]
            .into_iter()
            .find(|(_, value)| self.share && *value > 1.0);
        match over {
            Some((name, value)) => Err(NodeError::Param {
                node: String::new(),
                problem: format!("params.{name} is {value}; in shares it is from 0 to 1"),
            }),
            None => Ok(()),
        }
    }
}

/// `Flip`: `in` (video) -> `out` (video). Mirrors pictures, then turns them clockwise.
pub(super) fn flip() -> NodeSpec {
    NodeSpec {
        node_type: "Flip".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params: vec![
            ParamSpec::bool("horizontal", true).about("left becomes right"),
            ParamSpec::bool("vertical", false).about("top becomes bottom"),
            ParamSpec::integer("rotate", 0, 270, 0).unit("degrees").about("clockwise: 0, 90, 180 or 270"),
        ],
        same_kind: false,
        load: simple(Flip::new),
    }
}

struct Flip {
    /// What to do with a row, with the rows, and whether rows become columns; in this order.
    mirror_x: bool,
    mirror_y: bool,
    turn: bool,
    pool: FramePool,
}

impl Flip {
    fn new(params: &Params) -> Result<Flip, NodeError> {
        let mut flip = Flip { mirror_x: false, mirror_y: false, turn: false, pool: FramePool::default() };
        flip.set_params(params)?;
        Ok(flip)
    }

    fn plane(&self, from: &[u8], width: usize, to: &mut [u8]) {
        let height = from.len() / width;
        if self.turn {
            return transpose(from, width, self.mirror_x, self.mirror_y, to);
        }
        for (y, to) in to.chunks_exact_mut(width).enumerate() {
            let y = if self.mirror_y { height - 1 - y } else { y };
            to.copy_from_slice(&from[y * width..][..width]);
            if self.mirror_x {
                to.reverse();
            }
        }
    }
}

/// Mirrors, then makes columns of rows, in squares that fit into the cache.
fn transpose(from: &[u8], width: usize, mirror_x: bool, mirror_y: bool, to: &mut [u8]) {
    const SIDE: usize = 32;
    let height = from.len() / width;
    for top in (0..height).step_by(SIDE) {
        for left in (0..width).step_by(SIDE) {
            for x in left..(left + SIDE).min(width) {
                let column = if mirror_x { width - 1 - x } else { x };
                let row = &mut to[x * height..][..height];
                for (y, out) in row.iter_mut().enumerate().take((top + SIDE).min(height)).skip(top) {
                    let y = if mirror_y { height - 1 - y } else { y };
                    *out = from[y * width + column];
                }
            }
        }
    }
}

impl Node for Flip {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        if !(self.mirror_x || self.mirror_y || self.turn) {
            out.push(0, item);
            return Ok(());
        }
        let turned = self.turned(frame)?;
        out.push(0, item.derive(Data::Video(turned)));
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        let (x, y) = (params.bool("horizontal"), params.bool("vertical"));
        // A quarter turn clockwise is columns for rows with the rows upside down before.
        let (turn, turn_x, turn_y) = match params.integer("rotate").unwrap_or(0) {
            0 => (false, false, false),
            90 => (true, false, true),
            180 => (false, true, true),
            270 => (true, true, false),
            other => {
                let problem = format!("params.rotate is {other}, not 0, 90, 180 or 270");
                return Err(NodeError::Param { node: String::new(), problem });
            }
        };
        (self.mirror_x, self.mirror_y, self.turn) = (x != turn_x, y != turn_y, turn);
        Ok(())
    }
}

impl Flip {
    fn turned(&self, frame: &VideoFrame) -> Result<VideoFrame, NodeError> {
        let (w, h) = (frame.width() as usize, frame.height() as usize);
        let (width, height) = if self.turn { (h, w) } else { (w, h) };
        let mut out = get(&self.pool, width, height)?;
        for (from, to) in frame.planes().iter().zip(out.planes_mut()) {
            self.plane(from.data, from.stride, to.data);
        }
        Ok(out.freeze(frame.timestamp_us()))
    }
}

fn get(pool: &FramePool, width: usize, height: usize) -> Result<FrameMut, NodeError> {
    pool.get(width as u32, height as u32).map_err(|error| NodeError::failed(error.to_string()))
}
