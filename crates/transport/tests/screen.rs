//! A screen with text over a narrow path: with `content: text` it stays sharp and comes less often.

mod common;

use std::time::{Duration, Instant};

use common::{Room, psnr};
use remotemedia_media::{FramePool, VideoCodec, VideoContent, VideoFrame, scale};
use remotemedia_testkit::Random;
use remotemedia_transport::{Config, Event, VideoConfig};

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
/// A character's cell; strokes are two pixels wide, as of a font of 16 pixels.
const CELL: (usize, usize) = (12, 24);
const NARROW_BPS: u32 = 300_000;
/// Pictures a second at the source, and how many of them a page stands still for.
const FPS: u32 = 30;
const STANDS: u32 = 30;

/// Lines of made-up characters on a light ground.
struct Document {
    font: Vec<[u8; 7]>,
    lines: Vec<Vec<Option<usize>>>,
}

impl Document {
    fn new() -> Document {
        let mut random = Random::new(4711);
        let font = (0..60).map(|_| std::array::from_fn(|_| random.next_u64() as u8 & 0x1f)).collect();
        let lines = (0..80)
            .map(|_| {
                let length = 20 + random.below(WIDTH as usize / CELL.0 - 24);
                (0..length).map(|_| (!random.chance(0.18)).then(|| random.below(60))).collect()
            })
            .collect();
        Document { font, lines }
    }

    /// What is on the screen once it was scrolled by so many lines.
    fn page(&self, pool: &FramePool, scrolled: usize) -> VideoFrame {
        let mut frame = pool.get(WIDTH, HEIGHT).unwrap();
        let [y, u, v] = frame.planes_mut();
        u.data.fill(128);
        v.data.fill(128);
        y.data.fill(230);
        let stride = y.stride;
        for (row, line) in self.lines.iter().cycle().skip(scrolled).take(HEIGHT as usize / CELL.1).enumerate()
        {
            for (column, glyph) in line.iter().enumerate() {
                let Some(glyph) = glyph else { continue };
                for (at, bits) in self.font[*glyph].iter().enumerate() {
                    for dot in (0..5).filter(|dot| bits >> dot & 1 == 1) {
                        let (left, top) = ((column + 2) * CELL.0 + 2 * dot, row * CELL.1 + 5 + 2 * at);
                        for line in [top, top + 1] {
                            y.data[line * stride + left..][..2].fill(25);
                        }
                    }
                }
            }
        }
        frame.freeze(0)
    }
}

/// Mean structural similarity of blocks of 8x8 (Wang et al. 2004), without a window.
fn ssim(a: &[u8], b: &[u8], width: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for (a, b) in a.chunks_exact(8 * width).zip(b.chunks_exact(8 * width)) {
        for x in (0..width - 7).step_by(8) {
            let (mut sa, mut sb, mut saa, mut sbb, mut sab) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for row in 0..8 {
                for i in row * width + x..row * width + x + 8 {
                    let (p, q) = (f64::from(a[i]), f64::from(b[i]));
                    (sa, sb) = (sa + p, sb + q);
                    (saa, sbb, sab) = (saa + p * p, sbb + q * q, sab + p * q);
                }
            }
            let (ma, mb) = (sa / 64.0, sb / 64.0);
            let (va, vb, cov) = (saa / 64.0 - ma * ma, sbb / 64.0 - mb * mb, sab / 64.0 - ma * mb);
            let (c1, c2) = (6.5025, 58.5225);
            sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[derive(Debug)]
struct Seen {
    sizes: Vec<(u32, u32)>,
    pictures: usize,
    psnr_db: f64,
    ssim: f64,
}

/// Sends a document that is scrolled by a line each second, and looks at what comes of it after the first seconds.
fn share(codec: VideoCodec, content: VideoContent) -> Seen {
    const SETTLES: u32 = 4 * FPS;
    const END: u32 = 9 * FPS;
    let video = VideoConfig {
        content,
        start_bitrate_bps: Some(NARROW_BPS),
        max_bitrate_bps: NARROW_BPS,
        ..VideoConfig::default()
    };
    let config = Config { video, video_codecs: vec![codec], ..Config::default() };
    let mut room = Room::new();
    let a = room.join("a", config.clone());
    let b = room.join("b", config);
    room.connect_all();
    room.members[b].transport.subscribe(false, true);
    let (document, pool) = (Document::new(), FramePool::default());
    let pages: Vec<VideoFrame> = (0..=(END / STANDS) as usize).map(|n| document.page(&pool, n)).collect();
    let (start, mut sent, mut seen) = (Instant::now(), 0, Vec::new());
    room.run_until("the document was read", |members| {
        let due = END.min(sent + 2);
        while sent < due && start.elapsed() >= Duration::from_micros(33_333) * sent {
            let page = &pages[(sent / STANDS) as usize];
            let timestamp_us = i64::from(sent) * 33_333;
            members[a].transport.send_video("b", page.with_timestamp_us(timestamp_us)).unwrap();
            sent += 1;
        }
        for event in members[b].events.drain(..) {
            if let Event::Video { frame, .. } = event
                && sent > SETTLES
            {
                seen.push(frame);
            }
        }
        sent == END
    });
    let mut sizes: Vec<_> = seen.iter().map(|f| (f.width(), f.height())).collect();
    sizes.sort_unstable();
    sizes.dedup();
    // A few of them, each beside the page that it shows.
    let few = seen.iter().step_by((seen.len() / 12).max(1));
    let mut readings: Vec<(f64, f64)> = few
        .map(|frame| {
            let large = scale(frame, &pool, WIDTH, HEIGHT).unwrap();
            let luma = |frame: &VideoFrame| -> Vec<u8> {
                let plane = &frame.planes()[0];
                plane.data.chunks(plane.stride).flat_map(|row| row[..WIDTH as usize].to_vec()).collect()
            };
            let shown = luma(&large);
            let of =
                |page: &VideoFrame| (psnr(&luma(page), &shown), ssim(&luma(page), &shown, WIDTH as usize));
            pages.iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
        })
        .collect();
    readings.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (psnr_db, ssim) = readings[readings.len() / 2];
    Seen { sizes, pictures: seen.len(), psnr_db, ssim }
}

#[test]
fn text_stays_sharp_at_300_kbit_and_comes_less_often() {
    for codec in [VideoCodec::Vp9, VideoCodec::H264].into_iter().filter(|c| c.is_available()) {
        let (text, motion) = (share(codec, VideoContent::Text), share(codec, VideoContent::Motion));
        println!("{codec}: as text {text:?}, as motion {motion:?}");
        assert_eq!(text.sizes, [(WIDTH, HEIGHT)], "{codec}: it keeps its size");
        assert!(text.pictures >= 5, "{codec}: {text:?}");
        assert!(text.pictures < motion.pictures, "{codec}: fewer pictures");
        assert!(motion.sizes.iter().all(|size| size.0 < WIDTH), "{codec}: {motion:?}");
        assert!(text.psnr_db > 25.0 && text.psnr_db > motion.psnr_db + 6.0, "{codec}: PSNR");
        assert!(text.ssim > 0.93 && text.ssim > motion.ssim + 0.1, "{codec}: SSIM");
    }
}
