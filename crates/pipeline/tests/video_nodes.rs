//! Crop, flip, overlays, compositor, and the nodes on the flow of items.

mod common;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use proptest::prelude::*;
use remotemedia_media::{FramePool, VideoFrame};
use remotemedia_pipeline::*;

fn one(node: &str) -> Session {
    session(&format!("{{version: v1, nodes: [{{id: n, {node}}}]}}"), &Registry::builtin())
}

fn send(session: &Session, frame: &VideoFrame) -> VideoFrame {
    let item = run(session, None, Item::new(Data::Video(frame.clone()))).unwrap().unwrap();
    let Data::Video(out) = item.data else { panic!("not video") };
    assert_eq!(out.timestamp_us(), frame.timestamp_us());
    out
}

/// Every pixel and every place of colour has a value of its own, as far as a byte goes.
fn pattern(width: u32, height: u32) -> VideoFrame {
    let mut frame = FramePool::default().get(width, height).unwrap();
    for (index, plane) in frame.planes_mut().into_iter().enumerate() {
        for (y, row) in plane.data.chunks_mut(plane.stride).enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                *value = (x * 7 + y * 31 + index * 101) as u8;
            }
        }
    }
    frame.freeze(42)
}

fn flat(width: u32, height: u32, yuv: [u8; 3]) -> VideoFrame {
    let mut frame = FramePool::default().get(width, height).unwrap();
    for (plane, value) in frame.planes_mut().into_iter().zip(yuv) {
        plane.data.fill(value);
    }
    frame.freeze(42)
}

/// Luma, and the colour of that place.
fn at(frame: &VideoFrame, x: usize, y: usize) -> [u8; 3] {
    let [luma, u, v] = frame.planes();
    [luma.data[y * luma.stride + x], u.data[y / 2 * u.stride + x / 2], v.data[y / 2 * v.stride + x / 2]]
}

fn close(a: [u8; 3], b: [u8; 3], by: i32) -> bool {
    a.iter().zip(b).all(|(a, b)| (i32::from(*a) - i32::from(b)).abs() <= by)
}

#[test]
fn crop_cuts_the_rectangle_out_pixel_by_pixel() {
    let frame = pattern(64, 48);
    let out = send(&one("node_type: Crop, params: {x: 10, y: 6, width: 20, height: 14}"), &frame);
    assert_eq!((out.width(), out.height()), (20, 14));
    for y in 0..14 {
        for x in 0..20 {
            assert_eq!(at(&out, x, y), at(&frame, x + 10, y + 6), "{x}, {y}");
        }
    }
    let size = |params: &str, width, height| {
        let out = send(&one(&format!("node_type: Crop, params: {{{params}}}")), &pattern(width, height));
        (out.width(), out.height())
    };
    assert_eq!(size("units: share, x: 0.25, width: 0.5", 1280, 720), (640, 720));
    assert_eq!(size("units: share, x: 0.25, width: 0.5", 640, 360), (320, 360), "a share follows the sender");
    assert_eq!(size("x: 11, width: 21, height: 15", 64, 48), (20, 14), "edges move to even pixels");
    assert_eq!(size("x: 1000, y: 1000, width: 50, height: 50", 64, 48), (2, 2), "within the picture");
    assert_eq!(size("x: 3", 5, 1), (3, 1));
    let untouched = one("node_type: Crop");
    assert_eq!(send(&untouched, &frame).data().as_ptr(), frame.data().as_ptr());
    let error = compile(
        "{version: v1, nodes: [{id: n, node_type: Crop, params: {units: share, x: 3}}]}",
        &Registry::builtin(),
    );
    assert!(error.unwrap_err().problem.contains("params.x is 3; in shares it is from 0 to 1"));
}

#[test]
fn flip_mirrors_and_turns() {
    let frame = pattern(10, 6);
    type Map = fn(usize, usize) -> (usize, usize);
    let cases: [(&str, (u32, u32), Map); 6] = [
        ("horizontal: true", (10, 6), |x, y| (9 - x, y)),
        ("horizontal: false, vertical: true", (10, 6), |x, y| (x, 5 - y)),
        ("horizontal: false, rotate: 90", (6, 10), |x, y| (y, 5 - x)),
        ("horizontal: false, rotate: 180", (10, 6), |x, y| (9 - x, 5 - y)),
        ("horizontal: false, rotate: 270", (6, 10), |x, y| (9 - y, x)),
        ("horizontal: true, rotate: 90", (6, 10), |x, y| (9 - y, 5 - x)),
    ];
    for (params, size, map) in cases {
        let out = send(&one(&format!("node_type: Flip, params: {{{params}}}")), &frame);
        assert_eq!((out.width(), out.height()), size, "{params}");
        for y in 0..size.1 as usize {
            for x in 0..size.0 as usize {
                let (from_x, from_y) = map(x, y);
                assert_eq!(at(&out, x, y), at(&frame, from_x, from_y), "{params}: {x}, {y}");
            }
        }
    }
    let error = compile(
        "{version: v1, nodes: [{id: n, node_type: Flip, params: {rotate: 45}}]}",
        &Registry::builtin(),
    );
    assert!(error.unwrap_err().problem.contains("params.rotate is 45, not 0, 90, 180 or 270"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn four_quarter_turns_are_none_at_any_size(width in 1u32..80, height in 1u32..80) {
        let session = one("node_type: Flip, params: {horizontal: false, rotate: 90}");
        let frame = pattern(width, height);
        let mut out = frame.clone();
        for _ in 0..4 {
            out = send(&session, &out);
        }
        prop_assert!(out.data() == frame.data());
    }

    #[test]
    fn a_crop_is_within_the_picture_whatever_is_asked(
        width in 1u32..200, height in 1u32..200,
        x in 0.0f64..300.0, y in 0.0f64..300.0, w in 0.0f64..300.0, h in 0.0f64..300.0,
    ) {
        let session = one(&format!("node_type: Crop, params: {{x: {x}, y: {y}, width: {w}, height: {h}}}"));
        let out = send(&session, &pattern(width, height));
        prop_assert!(out.width() >= width.min(2) && out.width() <= width);
        prop_assert!(out.height() >= height.min(2) && out.height() <= height);
    }
}

/// Red of this opacity, `width` x `height`, as a PNG in base64.
fn png_base64(width: u32, height: u32, alpha: u8) -> String {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels: Vec<u8> = (0..width * height).flat_map(|_| [255, 0, 0, alpha]).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n > chunk.len() { '=' } else { digit as char });
        }
    }
    text
}

/// Red in BT.601.
const RED: [u8; 3] = [81, 90, 240];
const GREY: [u8; 3] = [120, 128, 128];

#[test]
fn an_image_lies_over_the_picture_at_its_place_with_its_opacity() {
    let frame = flat(160, 120, GREY);
    let over = |params: &str, alpha| {
        let data = png_base64(40, 20, alpha);
        send(&one(&format!("node_type: OverlayImage, params: {{data: \"{data}\", {params}}}")), &frame)
    };
    let out = over("margin: 10, position: top-right", 255);
    for (x, y, expected) in [
        (109, 20, GREY),
        (110, 10, RED),
        (149, 29, RED),
        (150, 20, GREY),
        (130, 9, GREY),
        (130, 30, GREY),
        (5, 5, GREY),
    ] {
        assert!(close(at(&out, x, y), expected, 1), "{x}, {y}: {:?}", at(&out, x, y));
    }
    let half = over("margin: 0, position: bottom-left", 128);
    assert!(close(at(&half, 10, 110), [100, 109, 184], 2), "{:?}", at(&half, 10, 110));
    let quarter = over("margin: 0, position: bottom-left, opacity: 0.5", 128);
    assert!(close(at(&quarter, 10, 110), [110, 119, 156], 2), "{:?}", at(&quarter, 10, 110));
    let wide = over("margin: 0, position: center, width: 80", 255);
    for (x, y, expected) in [(41, 41, RED), (118, 78, RED), (38, 60, GREY), (122, 60, GREY), (80, 38, GREY)] {
        assert!(close(at(&wide, x, y), expected, 6), "{x}, {y}: {:?}", at(&wide, x, y));
    }
    // Larger than the picture, and partly outside it.
    let huge = over("margin: 0, position: center, width: 400", 255);
    assert!(close(at(&huge, 0, 60), RED, 6) && close(at(&huge, 159, 60), RED, 6));
}

#[test]
fn an_image_may_be_a_file_and_what_is_none_is_refused_at_load() {
    let folder = std::env::temp_dir().join(format!("remotemedia-overlay-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("red.png");
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 3, 3);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(vec![255, 0, 0]);
    encoder.write_header().unwrap().write_image_data(&[0; 9]).unwrap();
    std::fs::write(&path, &file).unwrap();
    let session = one(&format!(
        "node_type: OverlayImage, params: {{path: \"{}\", margin: 0, position: top-left}}",
        path.display()
    ));
    let out = send(&session, &flat(16, 16, GREY));
    assert!(close(at(&out, 1, 1), RED, 1), "a palette is fine: {:?}", at(&out, 1, 1));
    assert!(close(at(&out, 4, 1), GREY, 1));

    std::fs::write(folder.join("not.png"), b"GIF89a").unwrap();
    std::fs::write(folder.join("broken.png"), &file[..file.len() - 20]).unwrap();
    // A header that claims 65535 x 65535 pixels.
    let mut huge = file.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    std::fs::write(folder.join("huge.png"), &huge).unwrap();
    let refused = |params: String, text: &str| {
        let yaml =
            format!("{{version: v1, nodes: [{{id: n, node_type: OverlayImage, params: {{{params}}}}}]}}");
        let error = compile(&yaml, &Registry::builtin()).unwrap_err();
        assert_eq!(error.place, "node \"n\"");
        assert!(error.problem.contains(text), "{error}");
    };
    refused(format!("path: {}", folder.join("not.png").display()), "is no PNG");
    refused(format!("path: {}", folder.join("broken.png").display()), "the image: is");
    refused(format!("path: {}", folder.join("huge.png").display()), "the image: ");
    refused(format!("path: {}", folder.join("nowhere.png").display()), "can't be read");
    refused(format!("path: {}", folder.display()), "is no file");
    refused("data: '*'".to_owned(), "is not base64");
    refused("margin: 1".to_owned(), "must be given");
    refused(format!("path: x, data: \"{}\"", png_base64(1, 1, 255)), "and not both");
    let fixed = one(&format!("node_type: OverlayImage, params: {{data: \"{}\"}}", png_base64(1, 1, 255)));
    let error = fixed.set_param("n", "path", "x".into()).unwrap_err().to_string();
    assert!(error.contains("reload the manifest"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// The rectangle in which two pictures differ: left, top, right, bottom.
fn changed(before: &VideoFrame, after: &VideoFrame) -> Option<(usize, usize, usize, usize)> {
    let (width, height) = (before.width() as usize, before.height() as usize);
    let mut found: Option<(usize, usize, usize, usize)> = None;
    for y in 0..height {
        for x in (0..width).filter(|x| at(before, *x, y)[0] != at(after, *x, y)[0]) {
            let (l, t, r, b) = found.unwrap_or((x, y, x, y));
            found = Some((l.min(x), t.min(y), r.max(x), b.max(y)));
        }
    }
    found
}

#[test]
fn text_is_written_at_its_place_and_can_be_replaced_in_a_call() {
    let frame = flat(640, 360, GREY);
    let session = one(
        "node_type: OverlayText, params: {text: 'Hello, Zoë', size: 40, margin: 20, position: bottom-left}",
    );
    let out = send(&session, &frame);
    let (left, top, right, bottom) = changed(&frame, &out).unwrap();
    assert_eq!((left, bottom), (20, 339), "at the lower left, 20 pixels from both edges");
    assert!(
        (60..80).contains(&(bottom - top)) && (150..330).contains(&(right - left)),
        "{left}, {top} to {right}, {bottom}"
    );
    // White letters on a darker box: the box keeps a third of what is below it.
    let luma: Vec<u8> = (top..bottom)
        .flat_map(|y| (left..right).map(move |x| (x, y)))
        .map(|(x, y)| at(&out, x, y)[0])
        .collect();
    let share =
        |of: std::ops::Range<u8>| luma.iter().filter(|v| of.contains(v)).count() as f64 / luma.len() as f64;
    assert!((0.04..0.35).contains(&share(220..236)), "letters: {}", share(220..236));
    assert!(share(50..65) > 0.5, "box: {}", share(50..65));

    // Twice as long a text is about twice as wide; a text in the same pass comes first.
    let sent = begin(&session, None, text("Hello, Zoë Hello, Zoë"));
    let longer = send(&session, &frame);
    assert!(sent.recv_timeout(LONG).unwrap().unwrap().is_none());
    let (_, _, longer_right, _) = changed(&frame, &longer).unwrap();
    let ratio = (longer_right - left) as f64 / (right - left) as f64;
    assert!((1.8..2.2).contains(&ratio), "{ratio}");
    session.set_param("n", "text", "".into()).unwrap();
    assert_eq!(
        send(&session, &frame).data().as_ptr(),
        frame.data().as_ptr(),
        "nothing to write costs nothing"
    );
}

#[test]
fn long_texts_are_wrapped_and_nothing_is_drawn_outside() {
    let frame = flat(320, 180, GREY);
    let words = vec!["word"; 60].join(" ");
    for (params, frame) in [
        (format!("text: '{words}', size: 20, position: top, margin: 10"), &frame),
        (format!("text: '{}', size: 60, position: center", "W".repeat(300)), &frame),
        ("text: \"one\\ntwo\\n\\nfour\", size: 400, position: bottom-right".to_owned(), &frame),
        (format!("text: '{words}', size: 400, margin: 4096"), &flat(3, 5, GREY)),
    ] {
        let out = send(&one(&format!("node_type: OverlayText, params: {{{params}}}")), frame);
        assert_eq!((out.width(), out.height()), (frame.width(), frame.height()));
    }
    let session = one(&format!(
        "node_type: OverlayText, params: {{text: '{words}', size: 20, position: top, margin: 10}}"
    ));
    let (left, top, right, bottom) = changed(&frame, &send(&session, &frame)).unwrap();
    assert!(left >= 10 && right < 310 && top >= 10, "{left}, {top} to {right}, {bottom}");
    assert!(bottom > 100, "it takes several lines");
}

#[test]
fn tee_drop_and_throttle() {
    let (tx, rx) = channel();
    let sink: Arc<dyn Fn(Item) + Send + Sync> = Arc::new(move |item| tx.send(item).unwrap());
    let tee = one("node_type: Tee");
    tee.push(None, text("a"), None, sink.clone()).unwrap();
    assert_eq!(text_of(&rx.recv_timeout(LONG).unwrap()), "a");
    assert_eq!(text_of(&rx.recv_timeout(LONG).unwrap()), "a");

    let passed = |session: &Session, items: Vec<Item>| -> Vec<(i64, bool)> {
        let out = items.into_iter().filter_map(|item| run(session, None, item).unwrap());
        out.map(|item| (item.timestamp_us, item.discontinuity)).collect()
    };
    let frames =
        |count: i64, every_us: i64| (0..count).map(|n| picture(16, 16, n * every_us)).collect::<Vec<_>>();
    assert_eq!(passed(&one("node_type: Drop"), frames(5, 1)), []);
    let third = one("node_type: Drop, params: {every: 3}");
    assert_eq!(
        passed(&third, frames(7, 10)),
        [(0, false), (10, false), (30, true), (40, false), (60, true)],
        "what follows a gap says so"
    );

    // 30 pictures a second become 10, evenly; 25 become 10 on average.
    let ten = one("node_type: Throttle, params: {rate: 10}");
    let times: Vec<i64> = passed(&ten, frames(300, 33_333)).iter().map(|(at, _)| *at).collect();
    assert!((99..=101).contains(&times.len()), "{}", times.len());
    assert!(times.windows(2).all(|pair| (90_000..=110_000).contains(&(pair[1] - pair[0]))));
    let ten = one("node_type: Throttle, params: {rate: 10}");
    let count = passed(&ten, frames(250, 40_000)).len();
    assert!((99..=101).contains(&count), "{count}");
    let slow = one("node_type: Throttle, params: {rate: 100}");
    assert_eq!(passed(&slow, frames(50, 33_333)).len(), 50, "what is slower passes");
    // A clock that jumps, either way, stops nothing.
    let jumps: Vec<Item> = [0, 10_000_000, 10_100_000, 5, 100_005].map(|us| picture(16, 16, us)).into();
    assert_eq!(passed(&one("node_type: Throttle, params: {rate: 10}"), jumps).len(), 5);
    let texts = (0..20).map(|n| text(&n.to_string())).collect();
    assert_eq!(
        passed(&one("node_type: Throttle, params: {rate: 0.1}"), texts).len(),
        1,
        "text goes by our clock"
    );
}

/// A compositor, the pictures it gives out, and a way to send it one of a peer.
struct Stage {
    session: Session,
    frames: Arc<Mutex<Vec<(Instant, VideoFrame)>>>,
}

impl Stage {
    fn new(params: &str) -> Stage {
        let yaml =
            format!("{{version: v1, nodes: [{{id: c, node_type: Compositor, params: {{{params}}}}}]}}");
        let frames: Arc<Mutex<Vec<(Instant, VideoFrame)>>> = Arc::default();
        let into = frames.clone();
        let on_output: OutputHook = Arc::new(move |_, node, item| {
            let Data::Video(frame) = item.data else { panic!("not video") };
            assert_eq!((node, item.timestamp_us), ("c", frame.timestamp_us()));
            into.lock().unwrap().push((Instant::now(), frame));
        });
        let options = SessionOptions { on_output: Some(on_output), ..SessionOptions::default() };
        Stage {
            session: Session::new(compile(&yaml, &Registry::builtin()).unwrap(), pool(), options),
            frames,
        }
    }

    fn show(&self, peer: &str, frame: VideoFrame) {
        let item = Item { source: Some(peer.into()), ..Item::new(Data::Video(frame)) };
        assert!(run(&self.session, None, item).unwrap().is_none());
    }

    /// Waits for a picture that is as it should be.
    fn until(&self, what: &str, is: impl Fn(&VideoFrame) -> bool) -> VideoFrame {
        let since = Instant::now();
        loop {
            if let Some((_, frame)) = self.frames.lock().unwrap().last().filter(|(_, frame)| is(frame)) {
                return frame.clone();
            }
            assert!(since.elapsed() < LONG, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

const BLUE: [u8; 3] = [41, 240, 110];
const GREEN: [u8; 3] = [145, 54, 34];
/// #000000.
const BLACK: [u8; 3] = [16, 128, 128];

#[test]
fn the_compositor_puts_each_peer_in_its_place_and_waits_for_nobody() {
    let stage =
        Stage::new("width: 640, height: 360, fps: 50, gap: 0, background: '#000000', timeout_ms: 600");
    std::thread::sleep(Duration::from_millis(60));
    assert!(stage.frames.lock().unwrap().is_empty(), "nothing before the first picture");
    stage.show("red", flat(320, 180, RED));
    stage.until("red alone", |frame| close(at(frame, 2, 2), RED, 1) && close(at(frame, 637, 357), RED, 1));
    stage.show("blue", flat(640, 480, BLUE));
    stage.show("green", flat(180, 320, GREEN));
    let frame = stage.until("all three", |frame| close(at(frame, 320, 300), GREEN, 1));
    assert!(close(at(&frame, 100, 100), RED, 1) && close(at(&frame, 500, 100), BLUE, 1));
    assert!(close(at(&frame, 100, 300), BLACK, 1), "the last row is centred");
    // The place of a tile belongs to its peer, whoever sends when.
    stage.show("red", flat(320, 180, GREY));
    stage.until("grey for red", |frame| close(at(frame, 100, 100), GREY, 1));
    // Who stalls is taken out, and the others get the room.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        stage.show("blue", flat(640, 480, BLUE));
        std::thread::sleep(Duration::from_millis(20));
        if close(at(&stage.frames.lock().unwrap().last().unwrap().1, 10, 10), BLUE, 1) {
            break;
        }
    }
    stage.until("blue alone", |frame| {
        close(at(frame, 10, 10), BLUE, 1) && close(at(frame, 630, 350), BLUE, 1)
    });
    stage.session.remove_peer("blue");
    stage.until("nobody", |frame| close(at(frame, 320, 180), BLACK, 1));

    let frames = stage.frames.lock().unwrap().clone();
    let times: Vec<i64> = frames.iter().map(|(_, frame)| frame.timestamp_us()).collect();
    assert_eq!(times[0].clamp(42, 100_000), times[0], "time goes on from the first picture's");
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    let span = frames[frames.len() - 1].0 - frames[0].0;
    let (count, due) = ((frames.len() - 1) as f64, span.as_secs_f64() * 50.0);
    assert!((due * 0.8 - 2.0..due + 2.0).contains(&count), "{count} pictures, {due:.1} were due");
    let told = (times[times.len() - 1] - times[0]) as f64 / 1e6;
    assert!((told - span.as_secs_f64()).abs() < 0.05, "{told} s of timestamps in {span:?}");
}

#[test]
fn the_compositor_shows_the_one_that_matters_large_and_fits_as_asked() {
    let stage = Stage::new(
        "width: 640, height: 360, fps: 60, gap: 0, layout: speaker, fit: contain, background: '#000000'",
    );
    stage.show("red", flat(100, 100, RED));
    stage.show("blue", flat(100, 100, BLUE));
    let frame = stage.until("red large", |frame| close(at(frame, 320, 100), RED, 1));
    assert!(close(at(&frame, 20, 100), BLACK, 1), "bars beside a square");
    assert!(close(at(&frame, 320, 320), BLUE, 1));
    let control =
        |value: serde_json::Value| run(&stage.session, None, Item::new(Data::Json(Arc::new(value))));
    control(serde_json::json!({"main": "blue"})).unwrap();
    stage.until("blue large", |frame| {
        close(at(frame, 320, 100), BLUE, 1) && close(at(frame, 320, 320), RED, 1)
    });
    assert!(control(serde_json::json!({"large": 1})).is_err());
    stage.session.set_param("c", "main", "red".into()).unwrap();
    control(serde_json::json!({"main": null})).unwrap();
    stage.until("red again", |frame| close(at(frame, 320, 100), RED, 1));
    stage.session.set_param("c", "layout", "pip".into()).unwrap();
    stage.until("pip", |frame| close(at(frame, 320, 180), RED, 1) && close(at(frame, 560, 320), BLUE, 1));
    stage.session.set_param("c", "width", 320.into()).unwrap();
    stage.until("smaller", |frame| frame.width() == 320);
}

#[test]
fn the_compositor_keeps_a_bounded_number_of_sources() {
    let stage = Stage::new("width: 320, height: 180, fps: 10");
    for n in 0..200 {
        stage.show(&format!("p{n}"), flat(16, 16, RED));
    }
    stage.until("a picture", |_| true);
    assert_eq!(stage.session.stats().nodes[0].errors, 0);
}
