//! Encodes the pictures of one source: once for each codec that its receivers take, and for slow receivers apart.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use remotemedia_media::{EncodedFrame, VideoCodec, VideoEncoder, VideoEncoderConfig, VideoFrame, scale};

use crate::event::Event;
use crate::ladder::{Format, Hardness, Ladder, MAX_RUNGS, format};
use crate::outputs::{VideoJob, VideoSource};
use crate::peer::Peer;
use crate::shared::{Command, Every, Shared};
use crate::{TransportError, VideoConfig};

/// Keyframes asked for by receivers are at least this far apart: they are large, and asking is cheap.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_millis(250);
/// … and this far after two in a row: who still asks then is not helped by more of them.
const KEYFRAME_REST: Duration = Duration::from_secs(1);
/// Pictures are left out while what was made takes this much longer than the path should need for it.
const DEBT: Duration = Duration::from_millis(250);
const MAX_DEBT: Duration = Duration::from_millis(500);
/// Rate control is given this long to follow a lower bitrate.
const SETTLES: Duration = Duration::from_secs(2);
/// A format is kept at least this long before pictures are made larger or more frequent again.
const MIN_TIME_BEFORE_UP: Duration = Duration::from_secs(4);
/// Changes of the bitrate below this share are not worth telling the encoder.
const BITRATE_STEP: f64 = 0.03;

pub(crate) struct VideoOut {
    shared: Weak<Shared>,
    /// Number of the stream, whatever encodes it.
    stream: u64,
    ladders: HashMap<VideoCodec, Ladder>,
    rungs: HashMap<(VideoCodec, usize), Rung>,
    last_timestamp_us: Option<i64>,
    complaint: Every,
}

/// One encoder and what it is set to.
struct Rung {
    source: Arc<VideoSource>,
    encoder: VideoEncoder,
    format: Format,
    formatted: Instant,
    bitrate_bps: u32,
    /// The last two.
    keyframes: [Option<Instant>; 2],
    last_timestamp_us: Option<i64>,
    /// The last picture that was given, made or left out.
    given_us: Option<i64>,
    /// Time as the encoder sees it.
    clock_us: i64,
    debt: Debt,
    hardness: Hardness,
    lowered: Option<Instant>,
}

/// What was made beyond the bitrate: rate control takes a while to follow, the path does not wait for it.
#[derive(Default)]
struct Debt {
    bits: f64,
    at: Option<Instant>,
}

impl VideoOut {
    pub(crate) fn new(shared: Weak<Shared>, stream: u64) -> VideoOut {
        VideoOut {
            shared,
            stream,
            ladders: HashMap::new(),
            rungs: HashMap::new(),
            last_timestamp_us: None,
            complaint: Every::new(Duration::from_secs(1)),
        }
    }

    pub(crate) fn encode(&mut self, job: VideoJob) {
        let Some(shared) = self.shared.upgrade() else { return };
        let config = &shared.config.video;
        if too_soon(&mut self.last_timestamp_us, job.frame.timestamp_us(), config.max_fps) {
            return;
        }
        let mut by_codec: HashMap<VideoCodec, Vec<Arc<Peer>>> = HashMap::new();
        for peer in job.targets {
            if let Some(codec) = peer.video_codec() {
                by_codec.entry(codec).or_default().push(peer);
            }
        }
        self.ladders.retain(|codec, _| by_codec.contains_key(codec));
        self.rungs.retain(|(codec, _), _| by_codec.contains_key(codec));
        let (width, height) = fit(job.frame.width(), job.frame.height(), config.max_width, config.max_height);
        let full = Format { width, height, fps: config.max_fps };
        let mut scaled = Scaled { shared: &shared, full: job.frame, others: Vec::new() };
        for (codec, targets) in by_codec {
            let receivers: Vec<_> = targets
                .iter()
                .map(|peer| (peer.id.clone(), f64::from(config.share(peer.video_bps(), width, height))))
                .collect();
            let levels = self.ladders.entry(codec).or_default().assign(&receivers);
            for level in 0..MAX_RUNGS {
                let of_level = |n: &usize| levels[*n] == level;
                let members: Vec<usize> = (0..targets.len()).filter(of_level).collect();
                if members.is_empty() {
                    self.rungs.remove(&(codec, level));
                    continue;
                }
                let bps = members.iter().map(|n| receivers[*n].1).fold(f64::INFINITY, f64::min);
                // What is not known to be narrow is not taken for it: rate control may exceed its bitrate there.
                let path = members.iter().filter_map(|n| targets[*n].video_bps()).min().map(f64::from);
                match self.encode_one(&mut scaled, config, (codec, level), full, bps, path) {
                    Ok(Some(frame)) => shared.commands.push(Command::Video {
                        source: self.rungs[&(codec, level)].source.clone(),
                        codec,
                        targets: members.iter().map(|n| targets[*n].clone()).collect(),
                        frame,
                    }),
                    Ok(None) => {}
                    Err(message) => {
                        if self.complaint.allows(Instant::now()) {
                            let error = TransportError::Codec { message };
                            shared.events.push(Event::Error { peer: None, error });
                        }
                    }
                }
            }
        }
    }

    fn encode_one(
        &mut self,
        scaled: &mut Scaled<'_>,
        config: &VideoConfig,
        key: (VideoCodec, usize),
        full: Format,
        bps: f64,
        path: Option<f64>,
    ) -> Result<Option<EncodedFrame>, String> {
        let now = Instant::now();
        let timestamp_us = scaled.full.timestamp_us();
        let rung = match self.rungs.entry(key) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                let format = format(full, None, bps, key.0, config.content, 1.0);
                let encoder = VideoEncoder::new(VideoEncoderConfig {
                    bitrate_bps: bps as u32,
                    max_fps: format.fps,
                    content: config.content,
                    ..VideoEncoderConfig::new(key.0, format.width, format.height)
                })
                .map_err(|e| e.to_string())?;
                let source = VideoSource::new(scaled.shared.outputs.id(), self.stream);
                e.insert(Rung {
                    source: Arc::new(source),
                    encoder,
                    format,
                    formatted: now,
                    bitrate_bps: bps as u32,
                    keyframes: [None; 2],
                    last_timestamp_us: None,
                    given_us: None,
                    clock_us: 0,
                    debt: Debt::default(),
                    hardness: Hardness::default(),
                    lowered: None,
                })
            }
        };
        rung.follow(now, key.0, config, full, bps)?;
        if too_soon(&mut rung.last_timestamp_us, timestamp_us, rung.format.fps) {
            return Ok(None);
        }
        let step_us = rung.given_us.replace(timestamp_us).map_or(0, |last| timestamp_us.saturating_sub(last));
        let path = path.unwrap_or(f64::INFINITY).max(bps);
        let left_out = rung.debt.too_high(now, path);
        // Just after a step down rate control is still on its way.
        if rung.lowered.is_none_or(|at| now - at > SETTLES) {
            rung.hardness.learn(left_out);
        }
        if left_out {
            return Ok(None);
        }
        let frame = scaled.at(rung.format.width, rung.format.height)?;
        let force = rung.source.wants_keyframe() && rung.may_make_keyframe(now);
        // Rate control gives a picture the bits of the whole time since the one before. The time of those that were left out is what
        // the path needs to catch up.
        rung.clock_us = rung.clock_us.saturating_add(step_us);
        let frame = frame.with_timestamp_us(rung.clock_us);
        let mut encoded = rung.encoder.encode(&frame, force).map_err(|e| e.to_string())?;
        if let Some(frame) = &mut encoded {
            frame.timestamp_us = timestamp_us;
            let bits = frame.data.len() as f64 * 8.0;
            rung.debt.bits += bits;
            if !frame.keyframe && bits > path * MAX_DEBT.as_secs_f64() {
                rung.hardness.too_hard();
            }
            if frame.keyframe {
                rung.keyframes = [Some(now), rung.keyframes[0]];
                rung.source.keyframe_made();
            }
        }
        Ok(encoded)
    }
}

impl Debt {
    /// Whether the next picture is better left out, on a path that carries this much.
    fn too_high(&mut self, now: Instant, path: f64) -> bool {
        let passed = self.at.replace(now).map_or(Duration::ZERO, |at| now - at);
        if path.is_infinite() {
            self.bits = 0.0;
            return false;
        }
        // What was made is on its way; what was not made is not saved up.
        self.bits = (self.bits - path * passed.as_secs_f64()).clamp(0.0, path * MAX_DEBT.as_secs_f64());
        self.bits > path * DEBT.as_secs_f64()
    }
}

impl Rung {
    fn may_make_keyframe(&self, now: Instant) -> bool {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now - at);
        let [last, before] = self.keyframes;
        let rest = if since(before) < 2 * KEYFRAME_REST { KEYFRAME_REST } else { MIN_KEYFRAME_INTERVAL };
        since(last) >= rest
    }

    /// Takes over what the receivers can take now.
    fn follow(
        &mut self,
        now: Instant,
        codec: VideoCodec,
        config: &VideoConfig,
        full: Format,
        bps: f64,
    ) -> Result<(), String> {
        let pixels = |f: Format| u64::from(f.width) * u64::from(f.height) * u64::from(f.fps);
        let next = format(full, Some(self.format), bps, codec, config.content, self.hardness.factor());
        let up = pixels(next) > pixels(self.format) && self.format != full;
        if next != self.format && !(up && now - self.formatted < MIN_TIME_BEFORE_UP) {
            if next.fps != self.format.fps {
                self.encoder.set_framerate(next.fps).map_err(|e| e.to_string())?;
            }
            (self.format, self.formatted) = (next, now);
        }
        let off = bps / f64::from(self.bitrate_bps.max(1)) - 1.0;
        if off < -0.15 {
            self.lowered = Some(now);
        }
        if off.abs() > BITRATE_STEP {
            self.encoder.set_bitrate(bps as u32).map_err(|e| e.to_string())?;
            self.bitrate_bps = bps as u32;
        }
        Ok(())
    }
}

/// One picture in the sizes that it was asked for in.
struct Scaled<'a> {
    shared: &'a Shared,
    full: VideoFrame,
    others: Vec<VideoFrame>,
}

impl Scaled<'_> {
    fn at(&mut self, width: u32, height: u32) -> Result<VideoFrame, String> {
        let is = |frame: &&VideoFrame| (frame.width(), frame.height()) == (width, height);
        if let Some(frame) = std::iter::once(&self.full).chain(&self.others).find(is) {
            return Ok(frame.clone());
        }
        let frame = scale(&self.full, &self.shared.frames, width, height).map_err(|e| e.to_string())?;
        self.others.push(frame.clone());
        Ok(frame)
    }
}

/// Whether a picture comes faster than this frame rate, with room for jitter.
fn too_soon(last_timestamp_us: &mut Option<i64>, timestamp_us: i64, max_fps: u32) -> bool {
    let interval = 1_000_000 / i64::from(max_fps.max(1));
    let soon = last_timestamp_us
        .is_some_and(|last| (0..interval * 3 / 4).contains(&timestamp_us.saturating_sub(last)));
    if !soon {
        *last_timestamp_us = Some(timestamp_us);
    }
    soon
}

/// The largest even size within the bounds that keeps the shape.
fn fit(width: u32, height: u32, max_width: u32, max_height: u32) -> (u32, u32) {
    if width <= max_width && height <= max_height {
        return (width, height);
    }
    let ratio = f64::min(f64::from(max_width) / f64::from(width), f64::from(max_height) / f64::from(height));
    let even = |v: u32| (((f64::from(v) * ratio) as u32) & !1).max(2);
    (even(width), even(height))
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn pictures_are_only_made_smaller_and_keep_their_shape() {
        assert_eq!(fit(640, 480, 1920, 1080), (640, 480));
        assert_eq!(fit(3840, 2160, 1920, 1080), (1920, 1080));
        assert_eq!(fit(1080, 1920, 1920, 1080), (606, 1080));
        assert_eq!(fit(8000, 2, 1920, 1080), (1920, 2));
    }
}
