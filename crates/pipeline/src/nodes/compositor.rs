//! One picture of many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remotemedia_media::{FrameMut, FramePool, VideoFrame};

use super::blend::yuv;
use super::layout::{LayoutKind, Rect, layout};
use super::picture::PlaneScaler;
use super::unexpected;
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::manifest::Scope;
use crate::spec::{Emit, Node, NodeFactory, NodeSpec, ParamSpec, Params, PortSpec};

/// Sources shown at most.
const MAX_TILES: usize = 64;
/// What a tile is shaped like where there is a choice.
const ASPECT: f64 = 16.0 / 9.0;

/// `Compositor`: `in` (video), `control` (json) -> `out` (video). One picture of many, at a rate of its own: it takes the
/// latest picture of each source (peer) when its clock says so and waits for nobody.
///
/// The tile that matters, which the layouts `speaker` and `pip` show large, is that of `main`, else the one that is there
/// longest. It is shared by all peers. `control` takes `{"main": "<peer id>"}`, or null for none, such as an active speaker. Nothing comes out before
/// the first picture. Timestamps go on from the first picture's by the time that has passed since.
pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        node_type: "Compositor".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video), PortSpec::new("control", Kind::Json)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params: vec![
            ParamSpec::integer("width", 16, 4096, 1280)
                .unit("px")
                .about("of the picture that comes out; even"),
            ParamSpec::integer("height", 16, 4096, 720)
                .unit("px")
                .about("of the picture that comes out; even"),
            ParamSpec::number("fps", 1.0, 60.0, 30.0).unit("pictures/s").about("of its own clock"),
            ParamSpec::choice("layout", &["grid", "speaker", "pip"], "grid")
                .about("all alike; one large and a strip; or small ones over one that fills the picture"),
            ParamSpec::choice("fit", &["cover", "contain"], "cover")
                .about("cut off what is too much, or show all of it with bars"),
            ParamSpec::integer("gap", 0, 128, 8).unit("px").about("between tiles"),
            ParamSpec::colour("background", "#16191d").about("behind and between the tiles"),
            ParamSpec::text("main", 128, "").about("the peer whose tile matters"),
            ParamSpec::integer("timeout_ms", 200, 60_000, 5000)
                .unit("ms")
                .about("a source that is silent for so long is taken out"),
        ],
        same_kind: false,
        load: Arc::new(|_| Ok(Box::new(Factory) as Box<dyn NodeFactory>)),
    }
}

struct Factory;

impl NodeFactory for Factory {
    fn create(&self, params: &Params) -> Result<Box<dyn Node>, NodeError> {
        Ok(Box::new(Compositor::new(params)?))
    }

    fn scope(&self) -> Scope {
        Scope::Shared
    }
}

struct Compositor {
    settings: Settings,
    /// Set from outside by `control`; wins over the parameter.
    main: Option<Arc<str>>,
    /// In the order they came.
    tiles: Vec<Tile>,
    /// The first picture's timestamp, and when it came.
    start: Option<(Instant, i64)>,
    changed: bool,
    last: Option<VideoFrame>,
    pool: FramePool,
    scaler: PlaneScaler,
}

#[derive(Clone, PartialEq)]
struct Settings {
    width: u32,
    height: u32,
    period: Duration,
    layout: LayoutKind,
    cover: bool,
    gap: u32,
    background: [u8; 3],
    main: Option<Arc<str>>,
    timeout: Duration,
}

struct Tile {
    source: Option<Arc<str>>,
    frame: VideoFrame,
    seen: Instant,
    /// At the size it was last shown at, with a pool of its own: sizes differ from tile to tile.
    scaled: Option<VideoFrame>,
    pool: FramePool,
}

impl Compositor {
    fn new(params: &Params) -> Result<Compositor, NodeError> {
        Ok(Compositor {
            settings: Settings::new(params)?,
            main: None,
            tiles: Vec::new(),
            start: None,
            changed: true,
            last: None,
            pool: FramePool::default(),
            scaler: PlaneScaler::default(),
        })
    }

    fn take(&mut self, source: Option<Arc<str>>, frame: &VideoFrame, now: Instant) {
        self.start.get_or_insert((now, frame.timestamp_us()));
        self.changed = true;
        if let Some(tile) = self.tiles.iter_mut().find(|tile| tile.source == source) {
            (tile.frame, tile.seen, tile.scaled) = (frame.clone(), now, None);
        } else if self.tiles.len() < MAX_TILES {
            // More than that can't be told apart in a picture: those that were here first stay.
            let (frame, pool) = (frame.clone(), FramePool::new(2));
            self.tiles.push(Tile { source, frame, seen: now, scaled: None, pool });
        }
    }

    fn forget(&mut self, gone: impl Fn(&Tile) -> bool) {
        let before = self.tiles.len();
        self.tiles.retain(|tile| !gone(tile));
        self.changed |= self.tiles.len() != before;
    }

    fn compose(&mut self) -> Result<VideoFrame, NodeError> {
        let Settings { width, height, layout: kind, gap, cover, background, .. } = self.settings;
        let places = layout(kind, width, height, gap, ASPECT, self.tiles.len());
        let main = self.main.as_ref().or(self.settings.main.as_ref());
        let first =
            main.and_then(|main| self.tiles.iter().position(|tile| tile.source.as_ref() == Some(main)));
        let first = first.unwrap_or(0);
        let order = std::iter::once(first).chain((0..self.tiles.len()).filter(|index| *index != first));

        let mut canvas = get(&self.pool, width, height)?;
        for (plane, value) in canvas.planes_mut().into_iter().zip(background) {
            plane.data.fill(value);
        }
        for (place, index) in places.into_iter().zip(order) {
            let tile = &mut self.tiles[index];
            let (inner, from) = fit(place, tile.frame.width(), tile.frame.height(), cover);
            let size = (inner.width, inner.height);
            let scaled = match &tile.scaled {
                Some(scaled) if (scaled.width(), scaled.height()) == size => scaled,
                _ => {
                    let scaled = shrink(&mut self.scaler, &tile.pool, &tile.frame, from, size)?;
                    tile.scaled.insert(scaled)
                }
            };
            put(&mut canvas, scaled, inner);
        }
        Ok(canvas.freeze(0))
    }
}

impl Settings {
    fn new(params: &Params) -> Result<Settings, NodeError> {
        let size = |name: &str, usual: i64| params.integer(name).unwrap_or(usual) as u32;
        let (width, height) = (size("width", 1280) & !1, size("height", 720) & !1);
        remotemedia_media::check_dimensions(width, height).map_err(|error| NodeError::Param {
            node: String::new(),
            problem: format!("params.width and params.height: {error}"),
        })?;
        let [r, g, b, _] = params.colour("background").unwrap_or_default();
        Ok(Settings {
            width,
            height,
            period: Duration::from_secs_f64(1.0 / params.number("fps").unwrap_or(30.0)),
            layout: match params.word("layout") {
                Some("speaker") => LayoutKind::Speaker,
                Some("pip") => LayoutKind::PictureInPicture,
                _ => LayoutKind::Grid,
            },
            cover: params.word("fit") != Some("contain"),
            gap: size("gap", 8),
            background: yuv(r, g, b),
            main: params.text("main").filter(|main| !main.is_empty()).map(Arc::from),
            timeout: Duration::from_millis(params.integer("timeout_ms").unwrap_or(5000) as u64),
        })
    }
}

/// A cut-out of a picture: left, top, width and height, in its pixels.
type Cut = (f64, f64, f64, f64);

/// Where in its place a picture goes, and what of it.
fn fit(place: Rect, width: u32, height: u32, cover: bool) -> (Rect, Cut) {
    let (w, h) = (f64::from(width), f64::from(height));
    let (pw, ph) = (f64::from(place.width), f64::from(place.height));
    if cover {
        let scale = (pw / w).max(ph / h);
        let (cw, ch) = ((pw / scale).min(w), (ph / scale).min(h));
        return (place, ((w - cw) / 2.0, (h - ch) / 2.0, cw, ch));
    }
    let scale = (pw / w).min(ph / h);
    let even = |n: f64, most: u32| ((n.round() as u32) & !1).clamp(2, most);
    let (width, height) = (even(w * scale, place.width), even(h * scale, place.height));
    let inner = Rect {
        x: place.x + (((place.width - width) / 2) & !1),
        y: place.y + (((place.height - height) / 2) & !1),
        width,
        height,
    };
    (inner, (0.0, 0.0, w, h))
}

fn shrink(
    scaler: &mut PlaneScaler,
    pool: &FramePool,
    frame: &VideoFrame,
    cut: Cut,
    (width, height): (u32, u32),
) -> Result<VideoFrame, NodeError> {
    let mut out = get(pool, width, height)?;
    let (left, top, w, h) = cut;
    for (index, (from, to)) in frame.planes().iter().zip(out.planes_mut()).enumerate() {
        let half = if index > 0 { 2.0 } else { 1.0 };
        let rows = (from.data.len() / from.stride) as u32;
        let cut = (left / half, top / half, w / half, h / half);
        let size = (to.stride as u32, (to.data.len() / to.stride) as u32);
        scaler.scale_part((from.data, from.stride as u32, rows), cut, (to.data, size.0, size.1))?;
    }
    Ok(out.freeze(0))
}

fn put(canvas: &mut FrameMut, tile: &VideoFrame, place: Rect) {
    for (index, (to, from)) in canvas.planes_mut().into_iter().zip(tile.planes()).enumerate() {
        let half = u32::from(index > 0);
        let (left, top) = ((place.x >> half) as usize, (place.y >> half) as usize);
        let rows = to.data.chunks_exact_mut(to.stride).skip(top);
        for (to, from) in rows.zip(from.data.chunks_exact(from.stride)) {
            to[left..left + from.len()].copy_from_slice(from);
        }
    }
}

fn get(pool: &FramePool, width: u32, height: u32) -> Result<FrameMut, NodeError> {
    pool.get(width, height).map_err(|error| NodeError::failed(error.to_string()))
}

impl Node for Compositor {
    fn process(&mut self, _port: usize, item: Item, _out: &mut Emit) -> Result<(), NodeError> {
        match &item.data {
            Data::Video(frame) => self.take(item.source.clone(), frame, Instant::now()),
            Data::Json(value) => {
                let main = value.get("main").ok_or_else(|| {
                    NodeError::failed("control takes {\"main\": \"<peer id>\"} or {\"main\": null}")
                })?;
                self.main = main.as_str().map(Arc::from);
                self.changed = true;
            }
            _ => return Err(unexpected(&item)),
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.settings = Settings::new(params)?;
        self.changed = true;
        Ok(())
    }

    fn tick_every(&self) -> Option<Duration> {
        Some(self.settings.period)
    }

    fn tick(&mut self, now: Instant, out: &mut Emit) -> Result<(), NodeError> {
        let Some((start, start_us)) = self.start else { return Ok(()) };
        let timeout = self.settings.timeout;
        self.forget(|tile| now.saturating_duration_since(tile.seen) > timeout);
        let timestamp_us = start_us + now.saturating_duration_since(start).as_micros() as i64;
        let frame = match &self.last {
            Some(last) if !self.changed => last.clone(),
            _ => self.compose()?,
        };
        self.changed = false;
        self.last = Some(frame.clone());
        out.push(0, Item::new(Data::Video(frame.with_timestamp_us(timestamp_us))));
        Ok(())
    }

    fn source_gone(&mut self, source: &str) {
        self.forget(|tile| tile.source.as_deref() == Some(source));
        if self.main.as_deref() == Some(source) {
            self.main = None;
        }
    }
}
