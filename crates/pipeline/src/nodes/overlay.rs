//! Text and images over pictures.

use std::sync::Arc;

use ab_glyph::{Font, FontArc, FontRef, ScaleFont};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, Resizer};
use remotemedia_media::{FramePool, MAX_DIMENSION, MAX_PIXELS};

use super::blend::{ANCHORS, Anchor, Sprite, copy};
use super::unexpected;
use crate::data::{Data, Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeFactory, NodeSpec, ParamSpec, Params, PortSpec};

/// DejaVu Sans, cut down to Latin, Greek, Cyrillic and some symbols.
static FONT: &[u8] = include_bytes!("../../font/DejaVuSans.ttf");
/// Characters of a text at most.
const MAX_TEXT: usize = 500;
/// Lines of a text at most.
const MAX_LINES: usize = 20;
/// Bytes of a font file, or of an image file, at most.
const MAX_FILE: u64 = 32 << 20;

/// `OverlayText`: `text` (text), `in` (video) -> `out` (video). Writes a text on each picture.
///
/// An item at `text` replaces the parameter's from the picture of the same pass on. Lines break at `\n` and where the
/// picture ends. The font that is built in has Latin, Greek and Cyrillic; `font` names another file (TrueType or OpenType).
/// Scripts that need shaping (Arabic, Indic) aren't drawn right.
pub(super) fn text() -> NodeSpec {
    let mut params = vec![
        ParamSpec::text("text", MAX_TEXT, "").about("what is written"),
        ParamSpec::number("size", 6.0, 400.0, 32.0).unit("px").about("height of a line's letters"),
        ParamSpec::colour("color", "#ffffff").about("of the letters"),
        ParamSpec::colour("background", "#00000099").about("of the box behind them; `#00000000` for none"),
        ParamSpec::text("font", 1024, "").fixed().about("a font file on this machine; empty: DejaVu Sans"),
    ];
    params.extend(place_params("bottom-left"));
    NodeSpec {
        node_type: "OverlayText".to_owned(),
        inputs: vec![PortSpec::new("text", Kind::Text), PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params,
        same_kind: false,
        load: Arc::new(|params| {
            let font = load_font(params.text("font").unwrap_or(""))?;
            let factory = move |params: &Params| {
                Ok(Box::new(OverlayText {
                    font: font.clone(),
                    params: params.clone(),
                    text: params.text("text").unwrap_or("").to_owned(),
                    place: Place::new(params),
                    drawn: None,
                    pool: FramePool::default(),
                }) as Box<dyn Node>)
            };
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
    }
}

/// `OverlayImage`: `in` (video) -> `out` (video). Lays a PNG image with its transparency over each picture.
pub(super) fn image() -> NodeSpec {
    let mut params = vec![
        ParamSpec::text("path", 1024, "").fixed().about("a PNG file on this machine"),
        ParamSpec::text("data", 1 << 20, "")
            .fixed()
            .about("or a PNG in base64, as it is or as a `data:` URL; give one of the two"),
        ParamSpec::integer("width", 0, 8192, 0).unit("px").about("its width in the picture; 0: its own"),
        ParamSpec::number("opacity", 0.0, 1.0, 1.0).about("multiplied with the image's own"),
    ];
    params.extend(place_params("top-right"));
    NodeSpec {
        node_type: "OverlayImage".to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Video)],
        outputs: vec![PortSpec::new("out", Kind::Video)],
        params,
        same_kind: false,
        load: Arc::new(|params| {
            let image = Arc::new(load_image(params)?);
            let factory = move |params: &Params| {
                let sprite = image.sprite(params)?;
                let (image, place) = (image.clone(), Place::new(params));
                Ok(Box::new(OverlayImage { image, sprite, place, pool: FramePool::default() })
                    as Box<dyn Node>)
            };
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
    }
}

fn place_params(usual: &str) -> [ParamSpec; 2] {
    [
        ParamSpec::choice("position", ANCHORS, usual).about("where in the picture"),
        ParamSpec::integer("margin", 0, 4096, 24).unit("px").about("from the edges of the picture"),
    ]
}

#[derive(Clone, Copy)]
struct Place {
    anchor: Anchor,
    margin: i64,
}

impl Place {
    fn new(params: &Params) -> Place {
        Place {
            anchor: Anchor::from_word(params.word("position").unwrap_or("")),
            margin: params.integer("margin").unwrap_or(24),
        }
    }

    /// The picture with something over it.
    fn put(&self, item: Item, sprite: &Sprite, pool: &FramePool, out: &mut Emit) -> Result<(), NodeError> {
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        let mut copy = copy(pool, frame)?;
        let (x, y) = self.anchor.place(sprite.size(), (frame.width(), frame.height()), self.margin);
        sprite.over(&mut copy, x, y);
        let frame = copy.freeze(frame.timestamp_us());
        out.push(0, item.derive(Data::Video(frame)));
        Ok(())
    }
}

struct OverlayText {
    font: FontArc,
    params: Params,
    text: String,
    place: Place,
    /// The text as it was drawn last, and for which size of picture.
    drawn: Option<((u32, u32), Sprite)>,
    pool: FramePool,
}

const TEXT_PORT: usize = 0;

impl Node for OverlayText {
    fn process(&mut self, port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        if port == TEXT_PORT {
            let Data::Text(text) = &item.data else { return Err(unexpected(&item)) };
            self.text = text.chars().take(MAX_TEXT).collect();
            self.drawn = None;
            return Ok(());
        }
        let Data::Video(frame) = &item.data else { return Err(unexpected(&item)) };
        if self.text.trim().is_empty() {
            out.push(0, item);
            return Ok(());
        }
        let size = (frame.width(), frame.height());
        if self.drawn.as_ref().is_none_or(|(drawn, _)| *drawn != size) {
            self.drawn = Some((size, self.draw(size)));
        }
        match &self.drawn {
            Some((_, sprite)) => self.place.put(item, sprite, &self.pool, out),
            None => Ok(()),
        }
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        if params.text("text") != self.params.text("text") {
            self.text = params.text("text").unwrap_or("").to_owned();
        }
        self.place = Place::new(params);
        self.params = params.clone();
        self.drawn = None;
        Ok(())
    }
}

impl OverlayText {
    fn draw(&self, (width, height): (u32, u32)) -> Sprite {
        let size = self.params.number("size").unwrap_or(32.0) as f32;
        let colour = |name: &str| self.params.colour(name).unwrap_or_default();
        let (front, back) = (colour("color"), colour("background"));
        let font = self.font.as_scaled(size);
        let pad = (size * 0.3).ceil();
        let margin = self.place.margin as f32;
        // Nothing larger than the picture is drawn, whatever is asked for.
        let most = (width as f32 - 2.0 * (margin + pad)).max(size);
        let lines = wrap(&self.text, &font, most);
        let step = font.height() + font.line_gap();
        let widest = lines.iter().map(|line| advance(line, &font)).fold(0.0, f32::max).min(most);
        let box_width = ((widest + 2.0 * pad).ceil() as u32).clamp(1, width);
        let box_height = ((step * lines.len() as f32 + 2.0 * pad).ceil() as u32).clamp(1, height);
        let mut cover = vec![0f32; box_width as usize * box_height as usize];
        for (index, line) in lines.iter().enumerate() {
            let baseline = pad + font.ascent() + step * index as f32;
            let mut x = pad;
            let mut before = None;
            for c in line.chars() {
                let id = font.glyph_id(c);
                if let Some(before) = before {
                    x += font.kern(before, id);
                }
                before = Some(id);
                let glyph = id.with_scale_and_position(size, ab_glyph::point(x, baseline));
                x += font.h_advance(id);
                let Some(outline) = font.outline_glyph(glyph) else { continue };
                let bounds = outline.px_bounds();
                outline.draw(|dx, dy, share| {
                    let (px, py) = (bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy));
                    if (0..i64::from(box_width)).contains(&px) && (0..i64::from(box_height)).contains(&py) {
                        let at = &mut cover[(py * i64::from(box_width) + px) as usize];
                        *at = (*at + share).min(1.0);
                    }
                });
            }
        }
        let mut rgba = Vec::with_capacity(cover.len() * 4);
        for share in cover {
            rgba.extend(mix(back, front, share));
        }
        Sprite::from_rgba(&rgba, box_width, box_height, 1.0)
    }
}

/// One colour over another, neither multiplied by its opacity.
fn mix(back: [u8; 4], front: [u8; 4], share: f32) -> [u8; 4] {
    let over = share * f32::from(front[3]) / 255.0;
    let under = f32::from(back[3]) / 255.0 * (1.0 - over);
    let alpha = over + under;
    let channel = |n: usize| {
        let sum = f32::from(front[n]) * over + f32::from(back[n]) * under;
        if alpha > 0.0 { (sum / alpha).round() as u8 } else { 0 }
    };
    [channel(0), channel(1), channel(2), (alpha * 255.0).round() as u8]
}

/// Breaks a text where it must and where a line is full, between words where there are any.
fn wrap<F: Font>(text: &str, font: &impl ScaleFont<F>, most: f32) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split_whitespace() {
            let longer = if current.is_empty() { word.to_owned() } else { format!("{current} {word}") };
            if advance(&longer, font) <= most || current.is_empty() {
                current = longer;
            } else {
                lines.push(std::mem::replace(&mut current, word.to_owned()));
            }
        }
        lines.push(current);
    }
    lines.truncate(MAX_LINES);
    lines
}

fn advance<F: Font>(text: &str, font: &impl ScaleFont<F>) -> f32 {
    let mut before = None;
    text.chars().fold(0.0, |width, c| {
        let id = font.glyph_id(c);
        let kern = before.map_or(0.0, |before| font.kern(before, id));
        before = Some(id);
        width + kern + font.h_advance(id)
    })
}

fn load_font(path: &str) -> Result<FontArc, String> {
    if path.is_empty() {
        let font = FontRef::try_from_slice(FONT).map_err(|error| format!("the font built in: {error}"))?;
        return Ok(FontArc::from(font));
    }
    let bytes = read("font", path)?;
    FontArc::try_from_vec(bytes)
        .map_err(|error| format!("params.font: {path} is no font that is known: {error}"))
}

fn read(param: &str, path: &str) -> Result<Vec<u8>, String> {
    let failed = |problem: &dyn std::fmt::Display| format!("params.{param}: {path} can't be read: {problem}");
    let size = std::fs::metadata(path).map_err(|error| failed(&error))?;
    if !size.is_file() {
        return Err(failed(&"it is no file"));
    }
    if size.len() > MAX_FILE {
        return Err(failed(&format_args!("it is {} bytes long, at most {MAX_FILE} are taken", size.len())));
    }
    std::fs::read(path).map_err(|error| failed(&error))
}

struct OverlayImage {
    image: Arc<Rgba>,
    sprite: Sprite,
    place: Place,
    pool: FramePool,
}

/// An image, four bytes a pixel.
struct Rgba {
    data: Vec<u8>,
    width: u32,
    height: u32,
}

impl Node for OverlayImage {
    fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
        self.place.put(item, &self.sprite, &self.pool, out)
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.sprite = self.image.sprite(params)?;
        self.place = Place::new(params);
        Ok(())
    }
}

impl Rgba {
    fn sprite(&self, params: &Params) -> Result<Sprite, NodeError> {
        let opacity = params.number("opacity").unwrap_or(1.0);
        let width = params.integer("width").unwrap_or(0) as u32;
        if width == 0 || width == self.width {
            return Ok(Sprite::from_rgba(&self.data, self.width, self.height, opacity));
        }
        let height = u64::from(self.height) * u64::from(width) / u64::from(self.width);
        let height = (height as u32).max(1);
        remotemedia_media::check_dimensions(width, height).map_err(|error| NodeError::Param {
            node: String::new(),
            problem: format!("params.width: {error}"),
        })?;
        let failed = |error: &dyn std::fmt::Display| NodeError::failed(format!("scaling the image: {error}"));
        let source = ImageRef::new(self.width, self.height, &self.data, PixelType::U8x4);
        let source = source.map_err(|error| failed(&error))?;
        let mut target = Image::new(width, height, PixelType::U8x4);
        // Its default is a filter as wide as the reduction needs, with colours weighted by opacity.
        Resizer::new().resize(&source, &mut target, None).map_err(|error| failed(&error))?;
        Ok(Sprite::from_rgba(target.buffer(), width, height, opacity))
    }
}

fn load_image(params: &Params) -> Result<Rgba, String> {
    let given = |name: &str| params.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let bytes = match (given("path"), given("data")) {
        (Some(path), None) => read("path", &path)?,
        (None, Some(data)) => {
            let text = data.strip_prefix("data:image/png;base64,").unwrap_or(&data);
            base64(text).ok_or("params.data is not base64")?
        }
        _ => return Err("params.path or params.data must be given, and not both".to_owned()),
    };
    decode(&bytes).map_err(|problem| format!("the image: {problem}"))
}

fn decode(bytes: &[u8]) -> Result<Rgba, String> {
    // Four bytes a pixel, and as many again to work with.
    let limits = png::Limits { bytes: MAX_PIXELS as usize * 8 };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8() | png::Transformations::ALPHA);
    let mut reader = decoder.read_info().map_err(|error| format!("is no PNG: {error}"))?;
    let (width, height) = (reader.info().width, reader.info().height);
    if width > MAX_DIMENSION || height > MAX_DIMENSION || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width}x{height} pixels are more than {MAX_DIMENSION} or {MAX_PIXELS} in all"));
    }
    let mut data = vec![0; reader.output_buffer_size().ok_or("is too large")?];
    let info = reader.next_frame(&mut data).map_err(|error| format!("is broken: {error}"))?;
    data.truncate(info.buffer_size());
    let data = match info.color_type {
        png::ColorType::Rgba => data,
        png::ColorType::GrayscaleAlpha => {
            data.chunks_exact(2).flat_map(|grey| [grey[0], grey[0], grey[0], grey[1]]).collect()
        }
        other => return Err(format!("has pixels of a kind that isn't known: {other:?}")),
    };
    Ok(Rgba { data, width, height })
}

/// RFC 4648, with or without padding; white space is skipped.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}
