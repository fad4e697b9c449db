//! The bandwidth estimate of two whole links over a path that is clamped and released: encrypted packets, real feedback.
#![allow(missing_docs)]

mod common;

use common::*;
use remotemedia_link::{LinkConfig, MessageKind};
use remotemedia_media::VideoCodec;
use remotemedia_testkit::{Path, Random};
use std::time::Duration;

const MBPS: u64 = 1_000_000;

fn clamped(bits_per_second: u64) -> Path {
    Path { bits_per_second, queue: ms(400), ..Path::clean(ms(25)) }
}

struct Call {
    pair: Pair,
    random: Random,
    index: usize,
}

impl Call {
    /// Sends what the estimate allows beside messages, 30 pictures and 50 packets of sound a second.
    fn run(&mut self, seconds: f64, mut each: impl FnMut(&mut Call, f64)) {
        for n in 0..(seconds * 30.0) as usize {
            let now = self.pair.instant();
            let link = &mut self.pair.peers[A].link;
            let target = link.bandwidth().map_or(1e6, |b| b.target_bps) - 60_000.0 - link.data_bps(now);
            let bytes = (target.max(40_000.0) / 8.0 / 30.0) as usize;
            let frame = frame(&mut self.random, VideoCodec::Vp8, self.index, bytes);
            self.index += 1;
            self.pair.peers[A].link.send_video(now, &frame).expect("sent");
            let sound = bytes::Bytes::from([&[0xfc][..], &[7; 90]].concat());
            self.pair.peers[A].link.send_audio(now, sound, self.index as i64 * 33_333).expect("sent");
            self.pair.settle();
            self.pair.run_for(Duration::from_micros(33_333));
            self.pair.peers[B].rtp.clear();
            each(self, n as f64 / 30.0);
        }
    }

    fn target(&self) -> f64 {
        self.pair.peers[A].link.bandwidth().expect("reports came").target_bps
    }
}

#[test]
fn a_clamped_path_is_followed_down_and_up() {
    let config = LinkConfig { max_bitrate_bps: 8_000_000, ..LinkConfig::default() };
    let mut pair = Pair::open(21, Path::clean(ms(25)), config.clone(), config);
    pair.net.set_path(clamped(5 * MBPS));
    let mut call = Call { pair, random: Random::new(3), index: 0 };
    call.run(20.0, |_, _| {});
    let before = call.target();
    assert!((3.5e6..6e6).contains(&before), "{before}");

    call.pair.net.set_path(clamped(MBPS / 2));
    let mut under = None;
    let mut queue: f64 = 0.0;
    call.run(10.0, |call, at| {
        if call.target() < 5e5 {
            under.get_or_insert(at);
        }
        if at > 5.0 {
            let bandwidth = call.pair.peers[A].link.bandwidth().unwrap();
            queue = queue.max(bandwidth.queueing_delay.as_secs_f64() * 1e3);
        }
    });
    let under = under.expect("it went below the clamp");

    call.pair.net.set_path(clamped(5 * MBPS));
    let mut back = None;
    call.run(15.0, |call, at| {
        if call.target() > 4e6 {
            back.get_or_insert(at);
        }
    });
    let back = back.expect("it came back");
    println!("under the clamp after {under:.1} s, queue then at most {queue:.0} ms, 80 % after {back:.1} s");
    assert!(under < 3.0 && queue < 100.0, "{under} {queue}");
}

#[test]
fn a_bulk_transfer_beside_a_call_keeps_the_queue_short_and_leaves_pictures_a_share() {
    let mut pair = Pair::open(22, Path::clean(ms(25)), LinkConfig::default(), LinkConfig::default());
    pair.net.set_path(clamped(2 * MBPS));
    let mut call = Call { pair, random: Random::new(3), index: 0 };
    call.run(8.0, |_, _| {});
    let channel = call.pair.peers[A].channel.expect("open");
    let message = vec![7; 16_384];
    let mut queue: f64 = 0.0;
    let mut data_bps: f64 = 0.0;
    let (seconds, before) = (12.0, call.pair.peers[B].messages.len());
    call.run(seconds, |call, at| {
        let now = call.pair.instant();
        let link = &mut call.pair.peers[A].link;
        let window = link.data_window().expect("media is sent beside");
        while link.buffered_amount(channel) < window {
            link.send_message(now, channel, MessageKind::Binary, &message).expect("taken");
        }
        if at > 3.0 {
            queue = queue.max(link.bandwidth().expect("reports").queueing_delay.as_secs_f64() * 1e3);
            data_bps = link.data_bps(now);
        }
    });
    let came = (call.pair.peers[B].messages.len() - before) as f64 * 16_384.0 * 8.0 / seconds;
    let target = call.target();
    println!("data {came:.0} bit/s of {target:.0}, queue at most {queue:.0} ms");
    assert!(came > 0.4e6 && data_bps < 0.85 * target, "{came} {data_bps} {target}");
    assert!(queue < 150.0, "{queue}");
    // Without media nothing is held back.
    call.pair.run_for(ms(3000));
    assert_eq!(call.pair.peers[A].link.data_window(), None);
}
