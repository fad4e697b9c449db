//! Properties of the video assembler over sequences of arrivals, under virtual time.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use remotemedia_link::{AssembledFrame, MediaKind, RtpIn, VideoAssembler};
use remotemedia_media::VideoCodec;

const FRAME_US: u64 = 33_333;

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// A VP8 stream: every frame has so many packets, every so many frames is a keyframe.
#[derive(Debug, Clone)]
struct Stream {
    sequence: u16,
    timestamp: u32,
    packets: usize,
    keys: usize,
}

impl Stream {
    fn plain() -> Stream {
        Stream { sequence: 0, timestamp: 0, packets: 3, keys: 1_000_000 }
    }

    fn packet(&self, n: usize, received: Instant) -> RtpIn {
        let (frame, index) = (n / self.packets, n % self.packets);
        let mut payload = vec![if index == 0 { 0x10 } else { 0 }];
        if index == 0 {
            // The first bit of a VP8 frame says that it is no keyframe; a keyframe has a start code and a size.
            let key = frame.is_multiple_of(self.keys);
            payload.extend([u8::from(!key), 0, 0, 0x9d, 1, 0x2a, 64, 0, 64, 0]);
        }
        payload.extend((n as u32).to_be_bytes());
        RtpIn {
            kind: MediaKind::Video,
            codec: Some(VideoCodec::Vp8),
            ssrc: 1,
            sequence: self.sequence.wrapping_add(n as u16),
            timestamp: self.timestamp.wrapping_add(frame as u32 * 3000),
            marker: index + 1 == self.packets,
            payload: Bytes::from(payload),
            received,
        }
    }

    fn sent(&self, n: usize) -> Duration {
        us((n / self.packets) as u64 * FRAME_US)
    }

    /// The frame's number, if it is whole and as it was sent.
    fn check(&self, frame: &AssembledFrame) -> Option<usize> {
        let number =
            |at: usize| Some(u32::from_be_bytes(frame.data.get(at..at + 4)?.try_into().ok()?) as usize);
        let first = number(10)?;
        let whole = (1..self.packets).all(|i| number(10 + 4 * i) == Some(first + i));
        (whole && frame.data.len() == 10 + 4 * self.packets).then_some(first / self.packets)
    }
}

struct Run {
    assembler: VideoAssembler,
    start: Instant,
    now: Duration,
    /// When each frame came out, and which it was.
    out: Vec<(Duration, usize)>,
    keyframe_requests: usize,
}

impl Run {
    fn play(stream: &Stream, arrivals: &[(usize, Option<Duration>)]) -> Run {
        let assembler = VideoAssembler::new(VideoCodec::Vp8);
        let (start, out) = (Instant::now(), Vec::new());
        let mut run = Run { assembler, start, now: Duration::ZERO, out, keyframe_requests: 0 };
        let mut events: Vec<_> = arrivals.iter().filter_map(|(n, at)| at.map(|at| (at, *n))).collect();
        events.sort();
        for (at, n) in events {
            run.until(stream, at);
            run.assembler.push(stream.packet(n, start + at));
            run.until(stream, at);
        }
        run.until(stream, run.now + Duration::from_secs(5));
        assert_eq!(run.assembler.poll_timeout(), None, "nothing is stuck");
        run
    }

    fn until(&mut self, stream: &Stream, end: Duration) {
        loop {
            while let Some(frame) = self.assembler.poll(self.start + self.now) {
                let number = stream.check(&frame).expect("a frame as it was sent");
                let timestamp = stream.timestamp.wrapping_add(number as u32 * 3000);
                assert_eq!(frame.rtp_timestamp, timestamp);
                self.out.push((self.now, number));
            }
            self.keyframe_requests += usize::from(self.assembler.take_keyframe_request());
            let next = self.assembler.poll_timeout().map(|at| at.saturating_duration_since(self.start));
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
        }
        self.now = self.now.max(end);
    }
}

fn evenly(stream: &Stream, frames: usize, late: impl Fn(usize) -> u64) -> Vec<(usize, Option<Duration>)> {
    (0..frames * stream.packets).map(|n| (n, Some(stream.sent(n) + us(late(n / stream.packets))))).collect()
}

#[test]
fn on_an_even_path_no_frame_is_held() {
    let stream = Stream::plain();
    // 12 ms of unevenness: encoding takes as long as it takes.
    let late = |frame: usize| frame as u64 * 7919 % 12_000;
    let run = Run::play(&stream, &evenly(&stream, 600, late));
    assert_eq!(run.out.len(), 600);
    for (at, frame) in &run.out {
        assert_eq!(*at, stream.sent(frame * 3) + us(late(*frame)));
    }
    assert_eq!(run.assembler.stats().hold, Duration::ZERO);
}

#[test]
fn frames_over_a_jittery_path_come_out_at_their_own_pace_and_soon_again_at_once() {
    let stream = Stream::plain();
    let late = |frame: usize| if (100..500).contains(&frame) { frame as u64 * 7919 % 80_000 } else { 0 };
    let run = Run::play(&stream, &evenly(&stream, 900, late));
    assert_eq!(run.out.len(), 900);
    let pace = |range: std::ops::Range<usize>, out: &dyn Fn(usize) -> Duration| {
        range.map(|n| (out(n + 1).saturating_sub(out(n))).abs_diff(us(FRAME_US))).max().unwrap()
    };
    let (out, arrival) = (|n: usize| run.out[n].0, |n: usize| stream.sent(3 * n) + us(late(n)));
    println!("uneven by {:?} on arrival, {:?} held", pace(300..480, &arrival), pace(300..480, &out));
    assert!(pace(300..480, &out) < us(25_000) && pace(300..480, &arrival) > us(30_000));
    assert_eq!(out(899), arrival(899), "not held any more");
}

#[test]
fn the_wait_for_a_lost_packet_follows_how_long_resending_takes() {
    // Each tenth frame lacks a packet at first.
    let stream = Stream::plain();
    let run = |takes: u64| {
        let mut arrivals = evenly(&stream, 200, |_| 0);
        for frame in (5..200).step_by(10) {
            arrivals[frame * 3 + 1].1 = Some(stream.sent(frame * 3) + us(takes));
        }
        Run::play(&stream, &arrivals)
    };
    let near = run(20_000);
    assert_eq!((near.out.len(), near.assembler.stats().gaps), (200, 0));
    assert_eq!(near.assembler.stats().patience, Duration::from_millis(80));
    // Longer than is waited at first: what comes too late teaches to wait for the next.
    let far = run(250_000);
    assert!(far.assembler.stats().gaps <= 2, "{:?}", far.assembler.stats());
    assert!(far.assembler.stats().patience >= Duration::from_millis(500));
    let never = Run::play(&stream, &{
        let mut arrivals = evenly(&stream, 40, |_| 0);
        arrivals[31].1 = None;
        arrivals
    });
    assert_eq!(never.out.len(), 10);
    assert!(never.keyframe_requests >= 1);
}

fn stream() -> impl Strategy<Value = Stream> {
    (any::<u16>(), any::<u32>(), 1..6usize, prop_oneof![Just(1_000_000usize), 5..60usize])
        .prop_map(|(sequence, timestamp, packets, keys)| Stream { sequence, timestamp, packets, keys })
}

fn late() -> impl Strategy<Value = u64> {
    prop_oneof![5 => Just(0u64), 2 => 0..25_000u64, 1 => 0..300_000u64]
}

/// How each packet fares: lost, or late by so much; and again, if it comes twice.
fn fates(most: usize) -> impl Strategy<Value = Vec<(Option<u64>, Option<u64>)>> {
    let fate = (prop::option::weighted(0.97, late()), prop::option::weighted(0.05, late()));
    prop::collection::vec(fate, 1..most)
}

fn arrivals(stream: &Stream, fates: &[(Option<u64>, Option<u64>)]) -> Vec<(usize, Option<Duration>)> {
    let at = |n: usize, late: &Option<u64>| (n, late.map(|late| stream.sent(n) + us(late)));
    fates.iter().enumerate().flat_map(|(n, (first, again))| [at(n, first), at(n, again)]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the path does: whole, in order, never twice, never a delta frame after a hole, and nothing waits for long.
    #[test]
    fn frames_come_out_whole_in_order_and_once(stream in stream(), fates in fates(500)) {
        let arrivals = arrivals(&stream, &fates);
        let run = Run::play(&stream, &arrivals);
        for pair in run.out.windows(2) {
            prop_assert!(pair[1].1 > pair[0].1);
            prop_assert!(pair[1].1 == pair[0].1 + 1 || pair[1].1.is_multiple_of(stream.keys), "{pair:?}");
        }
        let first = run.out.first().map(|(_, frame)| *frame);
        prop_assert!(first.is_none_or(|frame| frame.is_multiple_of(stream.keys)));
        // From when all of a frame is there: the patience with the ones before, and the longest hold.
        let mut whole = vec![Duration::ZERO; fates.len() / stream.packets + 1];
        for (n, at) in &arrivals {
            let frame = &mut whole[n / stream.packets];
            *frame = (*frame).max(at.unwrap_or_default());
        }
        for (at, frame) in &run.out {
            prop_assert!(*at <= whole[*frame] + Duration::from_millis(600 + 200), "{frame} at {at:?}");
        }
    }

    /// After a burst of jitter, however bad, frames are not held any more.
    #[test]
    fn the_hold_converges_after_a_burst(stream in stream(), fates in fates(300), calm in 0..25_000u64) {
        let mut all = arrivals(&stream, &fates);
        let from = fates.len().next_multiple_of(stream.packets * stream.keys.min(60));
        let stream = Stream { keys: stream.keys.min(60), ..stream };
        let quiet = |n: usize| calm * ((n / stream.packets) as u64 * 7919 % 1000) / 1000;
        let packets = from..from + 300 * stream.packets;
        all.extend(packets.clone().map(|n| (n, Some(stream.sent(n) + us(quiet(n))))));
        let run = Run::play(&stream, &all);
        prop_assert_eq!(run.assembler.stats().hold, Duration::ZERO);
        for (at, frame) in &run.out[run.out.len() - 20..] {
            let n = frame * stream.packets;
            prop_assert_eq!(*at, stream.sent(n) + us(quiet(n)));
        }
    }
}
