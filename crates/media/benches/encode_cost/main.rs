//! What encoding a natural-looking clip costs, of one core, beside bare libvpx with the same settings, in turns.
//!
//!     cargo bench -p remotemedia-media --bench encode_cost            both, and the ratio of their medians
//!     cargo bench -p remotemedia-media --bench encode_cost -- --check fails over 30 % of a core, or 1.10 times bare libvpx
//!
//! The clip (`data/talk.ivf`, VP9) is rendered, not filmed: `scripts/make-clip.mjs`. 1280x720, 30 pictures a second, at
//! 1.5 Mbit/s and speed step 9, on one thread. Time is the thread's own (CPU time), so that other programs matter little.

use std::process::ExitCode;

use remotemedia_media::{FramePool, VideoCodec, VideoDecoder, VideoEncoder, VideoEncoderConfig, VideoFrame};

mod bare;
use bare::Bare;

const FPS: f64 = 30.0;
const STEP_US: i64 = 33_333;
const BITRATE_BPS: u32 = 1_500_000;
const SPEED: i32 = 9;
/// Turns of each; the first is not counted.
const ROUNDS: usize = 9;
const MOST_PERCENT: f64 = 30.0;
const MOST_RATIO: f64 = 1.10;

/// One pass over the clip: seconds of CPU time, and bytes.
struct Pass {
    seconds: f64,
    bytes: usize,
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let rounds = if cfg!(debug_assertions) { 2 } else { ROUNDS };
    let pool = FramePool::default();
    let clip = clip(&pool);
    let length = clip.len() as f64 / FPS;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut bytes = (0, 0);
    for round in 0..rounds {
        // Each goes first as often as the other.
        let pair = if round % 2 == 0 {
            let ours = run_ours(&clip);
            (ours, run_bare(&clip))
        } else {
            let bare = run_bare(&clip);
            (run_ours(&clip), bare)
        };
        bytes = (pair.0.bytes, pair.1.bytes);
        if round > 0 {
            ours.push(pair.0.seconds / length * 100.0);
            bare.push(pair.1.seconds / length * 100.0);
        }
    }
    let kbps = |bytes: usize| bytes as f64 * 8.0 / length / 1000.0;
    let (our_median, bare_median) = (median(&mut ours), median(&mut bare));
    let ratio = our_median / bare_median;
    println!(
        "VP9 720p30, speed {SPEED}, one thread, {} pictures, median of {} turns",
        clip.len(),
        ours.len()
    );
    println!("  VideoEncoder  {our_median:5.1} % of a core   {:.0} kbit/s", kbps(bytes.0));
    println!("  bare libvpx   {bare_median:5.1} % of a core   {:.0} kbit/s", kbps(bytes.1));
    println!("  ratio of the medians {ratio:.3}");
    println!(
        "{{\"bench\":\"codec\",\"percentOfCore\":{our_median:.2},\"bareLibvpxPercent\":{bare_median:.2},\"ratio\":{ratio:.4},\"turns\":{}}}",
        ours.len()
    );
    if check && (our_median >= MOST_PERCENT || ratio > MOST_RATIO) {
        eprintln!("over {MOST_PERCENT} % of a core, or over {MOST_RATIO} times bare libvpx");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The committed clip, decoded.
fn clip(pool: &FramePool) -> Vec<VideoFrame> {
    let file = include_bytes!("../data/talk.ivf");
    let mut decoder = VideoDecoder::new(VideoCodec::Vp9, pool.clone()).expect("a decoder");
    let (mut rest, mut frames) = (&file[32..], Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<12>() {
        let size = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (data, after) = after.split_at(size);
        rest = after;
        if let Some(frame) = decoder.decode(data, frames.len() as i64 * STEP_US).expect("the clip is whole") {
            frames.push(frame);
        }
    }
    frames
}

fn run_ours(clip: &[VideoFrame]) -> Pass {
    let config = VideoEncoderConfig {
        bitrate_bps: BITRATE_BPS,
        max_fps: FPS as u32,
        threads: Some(1),
        cpu_used: Some(SPEED),
        ..VideoEncoderConfig::new(VideoCodec::Vp9, clip[0].width(), clip[0].height())
    };
    let mut encoder = VideoEncoder::new(config).expect("an encoder");
    timed(|| {
        let encoded = clip.iter().filter_map(|frame| encoder.encode(frame, false).expect("encodes"));
        encoded.map(|frame| frame.data.len()).sum()
    })
}

fn run_bare(clip: &[VideoFrame]) -> Pass {
    let mut bare = Bare::new(clip[0].width(), clip[0].height(), BITRATE_BPS, FPS as u32, SPEED);
    timed(|| clip.iter().map(|frame| bare.encode(frame, STEP_US)).sum())
}

fn timed(work: impl FnOnce() -> usize) -> Pass {
    let before = bare::thread_seconds();
    let bytes = work();
    Pass { seconds: bare::thread_seconds() - before, bytes }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
