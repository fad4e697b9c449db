//! Which receivers share an encoder, and what it makes of a picture at its bitrate. Pure decisions.

use std::collections::HashMap;

use remotemedia_media::{VideoCodec, VideoContent};

use crate::PeerId;

/// Encoders of one source and codec at most.
pub(crate) const MAX_RUNGS: usize = 3;
/// A receiver that takes at least this share of what the best one takes has its encoder; below the second share it has the last.
const SHARES: [f64; MAX_RUNGS - 1] = [0.5, 0.15];
/// How far beyond a border a receiver must be to change: each change costs a keyframe.
const HYSTERESIS: f64 = 1.25;
/// Sizes that a picture is encoded in, of its own size.
const SCALES: [f64; 5] = [1.0, 0.75, 0.5, 0.375, 0.25];
/// Bits for a pixel of a picture, below which it is better smaller or rarer.
const LEAST_BITS_PER_PIXEL: f64 = 0.02;
/// Going back up needs this much more than staying.
const MORE_TO_GO_UP: f64 = 1.4;
const LEAST_SIDE: u32 = 90;
const LEAST_FPS: u32 = 5;

/// How hard the pictures are to encode: 1 for ordinary ones. Learned from how many have to be left out.
#[derive(Debug)]
pub(crate) struct Hardness {
    factor: f64,
    asked: u32,
    left_out: u32,
    easy: u32,
}

/// Pictures that one judgement of their hardness covers.
const JUDGED: u32 = 15;
const TOO_MANY_LEFT_OUT: u32 = 5;
const EASY_JUDGEMENTS: u32 = 8;
const HARDEST: f64 = 8.0;

impl Default for Hardness {
    fn default() -> Self {
        Self { factor: 1.0, asked: 0, left_out: 0, easy: 0 }
    }
}

impl Hardness {
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// A single picture took what half a second should have.
    pub(crate) fn too_hard(&mut self) {
        self.factor = (self.factor * 1.5).min(HARDEST);
        (self.asked, self.left_out, self.easy) = (0, 0, 0);
    }

    /// One picture was made, or left out because those before it took too many bits.
    pub(crate) fn learn(&mut self, left_out: bool) {
        self.asked += 1;
        self.left_out += u32::from(left_out);
        if self.asked < JUDGED {
            return;
        }
        if self.left_out >= TOO_MANY_LEFT_OUT {
            self.factor = (self.factor * 1.5).min(HARDEST);
            self.easy = 0;
        } else if self.left_out == 0 {
            self.easy += 1;
            if self.easy >= EASY_JUDGEMENTS {
                self.factor = (self.factor / 1.2).max(1.0);
                self.easy = 0;
            }
        }
        (self.asked, self.left_out) = (0, 0);
    }
}

/// Remembers who had which rung.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    rungs: HashMap<PeerId, usize>,
}

/// How pictures are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) fps: u32,
}

impl Ladder {
    /// The rung of each receiver, given the bit/s it can take. Rung 0 is the best; each rung is encoded for the least of its
    /// receivers, so that a slow one never lowers one of a higher rung.
    pub(crate) fn assign(&mut self, receivers: &[(PeerId, f64)]) -> Vec<usize> {
        let best = receivers.iter().map(|(_, bps)| *bps).fold(1.0, f64::max);
        let rungs: Vec<usize> = receivers
            .iter()
            .map(|(peer, bps)| {
                let share = bps / best;
                let at = |share: f64| SHARES.iter().filter(|border| share < **border).count();
                match self.rungs.get(peer) {
                    // Within the margin it stays where it is.
                    Some(&now) if (at(share * HYSTERESIS)..=at(share / HYSTERESIS)).contains(&now) => now,
                    _ => at(share),
                }
            })
            .collect();
        self.rungs = receivers.iter().map(|(peer, _)| peer.clone()).zip(rungs.iter().copied()).collect();
        rungs
    }
}

/// What to make of pictures of this size and rate at this bitrate. `now` is what is made of them at present.
pub(crate) fn format(
    full: Format,
    now: Option<Format>,
    bps: f64,
    codec: VideoCodec,
    content: VideoContent,
    hardness: f64,
) -> Format {
    let least = LEAST_BITS_PER_PIXEL * hardness * if codec == VideoCodec::Vp9 { 1.0 } else { 1.35 };
    let scaled = |scale: f64| {
        let even = |v: u32| ((f64::from(v) * scale).round() as u32 & !1).max(2);
        match scale {
            1.0 => full,
            _ => Format { width: even(full.width), height: even(full.height), ..full },
        }
    };
    // More is asked of what is better than what there is.
    let need = |format: &Format| {
        let pixels = |f: &Format| f64::from(f.width) * f64::from(f.height) * f64::from(f.fps);
        let up = now.is_some_and(|now| pixels(format) > pixels(&now) * 1.01);
        pixels(format) * least * if up { MORE_TO_GO_UP } else { 1.0 }
    };
    let large = |f: &&Format| f.width.min(f.height) >= LEAST_SIDE;
    match content {
        VideoContent::Motion => {
            let sizes: Vec<Format> = SCALES.iter().map(|s| scaled(*s)).collect();
            let fits = sizes.iter().filter(large).find(|f| need(f) <= bps);
            // Where even the smallest is too much, rate control leaves pictures out.
            *fits.or_else(|| sizes.iter().rfind(large)).unwrap_or(&full)
        }
        VideoContent::Detail | VideoContent::Text => {
            let rates = [full.fps, full.fps * 2 / 3, full.fps / 2, full.fps / 3, full.fps / 6];
            let rates = rates.map(|fps| Format { fps: fps.max(LEAST_FPS.min(full.fps)), ..full });
            *rates.iter().find(|f| need(f) <= bps).unwrap_or(&rates[4])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HD: Format = Format { width: 1280, height: 720, fps: 30 };

    fn motion(now: Option<Format>, bps: f64) -> Format {
        format(HD, now, bps, VideoCodec::Vp9, VideoContent::Motion, 1.0)
    }

    #[test]
    fn motion_gives_up_size_and_detail_gives_up_pictures() {
        assert_eq!(motion(None, 1.5e6), HD);
        assert_eq!(motion(None, 4e5), Format { width: 960, height: 540, fps: 30 });
        assert_eq!(motion(None, 1.5e5), Format { width: 640, height: 360, fps: 30 });
        assert_eq!(motion(None, 1e4), Format { width: 320, height: 180, fps: 30 });
        for content in [VideoContent::Detail, VideoContent::Text] {
            let detail = |bps| format(HD, None, bps, VideoCodec::Vp9, content, 1.0);
            assert_eq!(detail(1.5e6), HD);
            assert_eq!(detail(3e5), Format { fps: 15, ..HD });
            assert_eq!(detail(1e4), Format { fps: 5, ..HD });
        }
        let small = Format { width: 64, height: 48, fps: 30 };
        assert_eq!(format(small, None, 1e4, VideoCodec::Vp8, VideoContent::Motion, 1.0), small);
    }

    #[test]
    fn pictures_that_are_hard_to_encode_are_made_smaller_until_all_of_them_go() {
        let mut hardness = Hardness::default();
        // A picture of this takes four times the ordinary bits, so at full size three of four have to be left out.
        let mut now = motion(None, 6e5);
        for n in 0..300u32 {
            let pixels = f64::from(now.width * now.height);
            let fit = 6e5 / (pixels * 30.0 * LEAST_BITS_PER_PIXEL * 4.0);
            hardness.learn(fit < 1.0 && n % 4 >= (fit * 4.0) as u32);
            now = format(HD, Some(now), 6e5, VideoCodec::Vp9, VideoContent::Motion, hardness.factor());
        }
        assert!((320..=640).contains(&now.width), "{now:?} {hardness:?}");
        (0..3000).for_each(|_| hardness.learn(false));
        assert_eq!(hardness.factor(), 1.0);
    }

    #[test]
    fn a_bitrate_at_the_border_does_not_switch_to_and_fro() {
        let mut now = motion(None, 1.5e6);
        let mut changes = 0;
        for n in 0..1000 {
            let next = motion(Some(now), 560_000.0 + 60_000.0 * (f64::from(n) / 7.0).sin());
            changes += u32::from(next != now);
            now = next;
        }
        assert_eq!(changes, 1);
    }

    #[test]
    fn a_slow_receiver_has_a_rung_of_its_own_and_three_are_the_most() {
        let id = |n: usize| PeerId::from(format!("p{n}"));
        let mut ladder = Ladder::default();
        assert_eq!(ladder.assign(&[(id(0), 2e6)]), [0]);
        assert_eq!(ladder.assign(&[(id(0), 2e6), (id(1), 1.9e6), (id(2), 4e5), (id(3), 6e4)]), [0, 0, 1, 2]);
        let mut changes = 0;
        let mut before = ladder.assign(&[(id(0), 2e6), (id(1), 1e6)]);
        for n in 0..1000 {
            let second = 1e6 * (1.0 + 0.15 * (f64::from(n) / 5.0).sin());
            let now = ladder.assign(&[(id(0), 2e6), (id(1), second)]);
            changes += usize::from(now != before);
            before = now;
        }
        assert_eq!(changes, 0, "within the margin nobody moves");
        assert_eq!(ladder.assign(&[(id(0), 2e6), (id(1), 7e5)]), [0, 1]);
        assert_eq!(ladder.assign(&[(id(0), 2e6), (id(1), 1.3e6)]), [0, 0]);
        assert!(ladder.assign(&[]).is_empty() && ladder.rungs.is_empty());
    }
}
