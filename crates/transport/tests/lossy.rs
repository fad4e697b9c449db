//! Two transports with a lossy path between them: what is lost is asked for again, and a hole that stays is mended by a keyframe.

mod common;

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::Room;
use common::detour::detour;
use remotemedia_media::{FramePool, VideoCodec, VideoFrame};
use remotemedia_testkit::Random;
use remotemedia_transport::{Config, Event, PeerStats};

/// Payload types of retransmissions (RFC 4588), as our offers number them.
const RTX: [u8; 3] = [97, 99, 107];

/// Datagrams of the two sides pass through here, because each is told this address instead of the other's.
struct LossyPath {
    /// Of 1000 media packets, how many are lost.
    loss: Arc<AtomicU32>,
    lost: Arc<AtomicU64>,
    /// Loses every retransmission: what is lost once stays lost.
    no_rtx: Arc<AtomicBool>,
    /// Where what is for the first and the second member goes in.
    doors: [SocketAddr; 2],
    hosts: [Arc<std::sync::Mutex<Option<SocketAddr>>>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl LossyPath {
    fn new() -> LossyPath {
        let sockets: Vec<Arc<UdpSocket>> =
            (0..2).map(|_| Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap())).collect();
        let mut path = LossyPath {
            loss: Arc::default(),
            lost: Arc::default(),
            no_rtx: Arc::default(),
            doors: [0, 1].map(|i| sockets[i].local_addr().unwrap()),
            hosts: [Arc::default(), Arc::default()],
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (side, seed) in [(0usize, 7), (1, 8)] {
            let (inward, outward) = (sockets[side].clone(), sockets[1 - side].clone());
            inward.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let (loss, lost, no_rtx) = (path.loss.clone(), path.lost.clone(), path.no_rtx.clone());
            let (host, stop) = (path.hosts[side].clone(), path.stop.clone());
            path.threads.push(std::thread::spawn(move || {
                let mut random = Random::new(seed);
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((len, _)) = inward.recv_from(&mut buffer) else { continue };
                    // RFC 7983: RTP and RTCP.
                    let media = (128..=191).contains(&buffer[0]);
                    let rtx = media && RTX.contains(&(buffer[1] & 0x7f)) && no_rtx.load(Ordering::Relaxed);
                    if rtx || media && random.below(1000) < loss.load(Ordering::Relaxed) as usize {
                        lost.fetch_add(1, Ordering::Relaxed);
                    } else if let Some(to) = *host.lock().unwrap() {
                        let _ = outward.send_to(&buffer[..len], to);
                    }
                }
            }));
        }
        path
    }
}

impl Drop for LossyPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A call of two through a lossy path: pictures from the first to the second.
struct Call {
    room: Room,
    path: Arc<LossyPath>,
    pool: FramePool,
    start: Instant,
    sent: u32,
    seen: VecDeque<VideoFrame>,
}

impl Call {
    fn new(codec: VideoCodec) -> Call {
        let path = Arc::new(LossyPath::new());
        let mut room = Room::new();
        let through = path.clone();
        room.tamper =
            Some(Box::new(move |from, _, signal| detour(signal, through.doors[from], &through.hosts[from])));
        let config = Config { video_codecs: vec![codec], ..Config::default() };
        room.join("a", config.clone());
        room.join("b", config);
        room.connect_all();
        room.members[1].transport.subscribe(false, true);
        Call { room, path, pool: FramePool::default(), start: Instant::now(), sent: 0, seen: VecDeque::new() }
    }

    /// Shows the pattern at 30 pictures a second for a time; the other side's pictures are in `seen`.
    fn show(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let Self { room, pool, start, sent, seen, .. } = self;
        room.run_until("the pattern is shown", |members| {
            let behind = *sent + 2;
            while *sent < behind && start.elapsed() >= Duration::from_millis(33) * *sent {
                let frame = common::pattern(pool, 640, 360, *sent, i64::from(*sent) * 33_333);
                members[0].transport.send_video("b", frame).unwrap();
                *sent += 1;
            }
            for event in members[1].events.drain(..) {
                if let Event::Video { frame, .. } = event {
                    seen.push_back(frame);
                }
            }
            Instant::now() >= end
        });
    }

    /// The worst picture's PSNR in dB. The first one is looked for in the whole pattern, those after it by their timestamps.
    fn worst_psnr(&self, frames: &[VideoFrame]) -> f64 {
        let against = |frame: &VideoFrame, n: u32| {
            let shown = common::pattern(&self.pool, 640, 360, n, 0);
            common::psnr(frame.planes()[0].data, shown.planes()[0].data)
        };
        let first = (0..self.sent).max_by(|a, b| against(&frames[0], *a).total_cmp(&against(&frames[0], *b)));
        let numbered = frames.iter().map(|frame| {
            let steps = (frame.timestamp_us() - frames[0].timestamp_us() + 16_667) / 33_333;
            against(frame, first.unwrap() + steps as u32)
        });
        numbered.fold(f64::INFINITY, f64::min)
    }

    fn stats(&mut self, member: usize) -> PeerStats {
        self.room.members[member].transport.request_stats(1, None);
        let mut stats = None;
        let Self { room, seen, .. } = self;
        room.run_until("stats", |members| {
            for event in members[member].events.drain(..) {
                match event {
                    Event::Stats { mut peers, .. } => stats = peers.pop(),
                    Event::Video { frame, .. } => seen.push_back(frame),
                    _ => {}
                }
            }
            stats.is_some()
        });
        stats.unwrap()
    }
}

#[test]
fn what_is_lost_is_sent_again_and_no_picture_is_missing() {
    let mut call = Call::new(VideoCodec::Vp8);
    call.show(Duration::from_secs(1));
    call.path.loss.store(50, Ordering::Relaxed);
    call.show(Duration::from_secs(5));
    call.path.loss.store(0, Ordering::Relaxed);
    call.show(Duration::from_secs(1));
    let (a, b) = (call.stats(0).link.video_out, call.stats(1));
    let lost = call.path.lost.load(Ordering::Relaxed);
    println!(
        "{lost} media packets lost, {} NACKs, {} retransmitted, {} of {} pictures seen",
        b.link.video_in.nacks_sent,
        b.link.video_in.retransmitted,
        call.seen.len(),
        call.sent
    );
    assert!(lost >= 10, "the path lost {lost} packets only");
    assert!(b.link.video_in.retransmitted >= 5 && a.nacks_received >= 1, "{a:?}");
    // A retransmission can be lost as well, and then a keyframe ends the wait: hence not all, but almost.
    assert!(call.seen.len() as f64 >= 0.93 * f64::from(call.sent), "{} of {}", call.seen.len(), call.sent);
    let frames: Vec<_> = call.seen.drain(10..).collect();
    let worst = call.worst_psnr(&frames);
    assert!(worst > 30.0, "worst PSNR {worst:.1} dB");
}

#[test]
fn a_hole_that_stays_is_mended_by_a_keyframe_that_the_receiver_asks_for() {
    let mut call = Call::new(VideoCodec::Vp9);
    call.show(Duration::from_secs(1));
    let before = call.stats(0);
    call.path.no_rtx.store(true, Ordering::Relaxed);
    call.path.loss.store(1000, Ordering::Relaxed);
    call.show(Duration::from_millis(300));
    let frozen = call.seen.len();
    call.path.loss.store(0, Ordering::Relaxed);
    let healed = Instant::now();
    while call.seen.len() <= frozen {
        call.show(Duration::from_millis(50));
        assert!(healed.elapsed() < Duration::from_secs(3), "no picture after the hole");
    }
    println!("the first picture came {} ms after the hole", healed.elapsed().as_millis());
    call.show(Duration::from_secs(1));
    let (a, b) = (call.stats(0), call.stats(1));
    assert!(b.link.video_in.plis_sent >= 1, "{:?}", b.link.video_in);
    assert!(a.link.video_out.plis_received > before.link.video_out.plis_received);
    assert!(a.video_out.keyframes > before.video_out.keyframes, "{:?}", a.video_out);
    let after: Vec<_> = call.seen.drain(frozen..).collect();
    assert!(after.len() >= 20, "{} pictures after the hole", after.len());
    let worst = call.worst_psnr(&after);
    assert!(worst > 30.0, "worst PSNR {worst:.1} dB");
}
