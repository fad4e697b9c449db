//! Encodes the pictures of one source, once for each codec that its receivers take.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use remotemedia_media::{VideoCodec, VideoEncoder, VideoEncoderConfig, VideoFrame, scale};

use crate::event::Event;
use crate::outputs::{VideoJob, VideoSource};
use crate::peer::Peer;
use crate::shared::{Command, Every, Shared};
use crate::{TransportError, VideoConfig};

/// Keyframes asked for by receivers are at least this far apart: they are large, and asking is cheap.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) struct VideoOut {
    shared: Weak<Shared>,
    source: Arc<VideoSource>,
    encoders: HashMap<VideoCodec, Encoder>,
    last_timestamp_us: Option<i64>,
    complaint: Every,
}

struct Encoder {
    encoder: VideoEncoder,
    size: (u32, u32),
    last_keyframe: Option<Instant>,
}

impl VideoOut {
    pub(crate) fn new(shared: Weak<Shared>, source: Arc<VideoSource>) -> VideoOut {
        let complaint = Every::new(Duration::from_secs(1));
        VideoOut { shared, source, encoders: HashMap::new(), last_timestamp_us: None, complaint }
    }

    pub(crate) fn encode(&mut self, job: VideoJob) {
        let Some(shared) = self.shared.upgrade() else { return };
        let config = &shared.config.video;
        if self.too_soon(job.frame.timestamp_us(), config.max_fps) {
            return;
        }
        let mut by_codec: HashMap<VideoCodec, Vec<Arc<Peer>>> = HashMap::new();
        for peer in job.targets {
            if let Some(codec) = peer.video_codec() {
                by_codec.entry(codec).or_default().push(peer);
            }
        }
        self.encoders.retain(|codec, _| by_codec.contains_key(codec));
        for (codec, targets) in by_codec {
            match self.encode_one(&shared, config, codec, &job.frame) {
                Ok(Some(frame)) => {
                    shared.commands.push(Command::Video {
                        source: self.source.clone(),
                        codec,
                        targets,
                        frame,
                    });
                }
                Ok(None) => {}
                Err(message) => {
                    if self.complaint.allows(Instant::now()) {
                        shared
                            .events
                            .push(Event::Error { peer: None, error: TransportError::Codec { message } });
                    }
                }
            }
        }
    }

    fn encode_one(
        &mut self,
        shared: &Shared,
        config: &VideoConfig,
        codec: VideoCodec,
        frame: &VideoFrame,
    ) -> Result<Option<remotemedia_media::EncodedFrame>, String> {
        let size = fit(frame.width(), frame.height(), config.max_width, config.max_height);
        let scaled;
        let frame = if size == (frame.width(), frame.height()) {
            frame
        } else {
            scaled = scale(frame, &shared.frames, size.0, size.1).map_err(|e| e.to_string())?;
            &scaled
        };
        let bitrate_bps = config.bitrate_bps(size.0, size.1);
        let entry = match self.encoders.entry(codec) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                let encoder = VideoEncoder::new(VideoEncoderConfig {
                    bitrate_bps,
                    max_fps: config.max_fps,
                    ..VideoEncoderConfig::new(codec, size.0, size.1)
                })
                .map_err(|e| e.to_string())?;
                e.insert(Encoder { encoder, size, last_keyframe: None })
            }
        };
        if entry.size != size {
            entry.size = size;
            entry.encoder.set_bitrate(bitrate_bps).map_err(|e| e.to_string())?;
        }
        let now = Instant::now();
        let recent = entry.last_keyframe.is_some_and(|at| now - at < MIN_KEYFRAME_INTERVAL);
        let force = self.source.wants_keyframe(codec) && !recent;
        let encoded = entry.encoder.encode(frame, force).map_err(|e| e.to_string())?;
        if encoded.as_ref().is_some_and(|f| f.keyframe) {
            entry.last_keyframe = Some(now);
            self.source.keyframe_made(codec);
        }
        Ok(encoded)
    }

    /// Drops what comes faster than the highest frame rate, with room for jitter.
    fn too_soon(&mut self, timestamp_us: i64, max_fps: u32) -> bool {
        let interval = 1_000_000 / i64::from(max_fps.max(1));
        let soon =
            self.last_timestamp_us.is_some_and(|last| (0..interval * 3 / 4).contains(&(timestamp_us - last)));
        if !soon {
            self.last_timestamp_us = Some(timestamp_us);
        }
        soon
    }
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
