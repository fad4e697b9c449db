//! One encoder and one decoder for all video codecs.

use std::time::Instant;

#[cfg(feature = "av1")]
use crate::av1::Av1Decoder;
#[cfg(feature = "h264")]
use crate::h264::{H264Decoder, H264Encoder};
use crate::pacing::{FrameClock, SpeedGovernor};
use crate::vpx::{VpxDecoder, VpxEncoder};
use crate::{EncodedFrame, FramePool, MediaError, VideoCodec, VideoFrame, check_dimensions, is_keyframe};

/// What the pictures show, after W3C's `contentHint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoContent {
    /// A camera: rather blurred than jerky.
    #[default]
    Motion,
    /// Something with detail that matters: rather fewer pictures than blurred ones.
    Detail,
    /// A screen with text: as `Detail`, with the codec's tools for screens.
    Text,
}

/// How a [`VideoEncoder`] encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoEncoderConfig {
    /// The codec.
    pub codec: VideoCodec,
    /// Width of the first frame, in pixels.
    pub width: u32,
    /// Height of the first frame, in pixels.
    pub height: u32,
    /// Target, 10000 to 100000000 bits a second.
    pub bitrate_bps: u32,
    /// Frames a second to expect, 1 to 240. Frames may come slower.
    pub max_fps: u32,
    /// Threads inside the codec, 1 to 16; `None` chooses by size and cores. H.264 always has one.
    pub threads: Option<u32>,
    /// Speed step, 0 (best) to 16 (fastest); VP9 stops at 9, and H.264 knows fast (8 and up), medium and best (below 6).
    /// `None` starts fast and adapts to how long encoding takes.
    pub cpu_used: Option<i32>,
    /// What the pictures show.
    pub content: VideoContent,
    /// Temporal layers, 1 to 3; H.264 has one. Each layer above the lowest may be left out by whoever passes the stream on,
    /// which halves the frame rate: a picture needs none of a higher layer than its own.
    pub temporal_layers: u8,
}

/// Encodes pictures for real-time transmission: one in, at most one out, no delay.
///
/// Constant bitrate, one spatial layer, no keyframes but the first, those asked for, and those that a new size needs (H.264
/// adds some at scene changes). All settings but the codec and the speed can be changed while it runs.
pub struct VideoEncoder {
    config: VideoEncoderConfig,
    backend: EncoderBackend,
    clock: FrameClock,
    governor: Option<SpeedGovernor>,
}

/// Decodes what a [`VideoEncoder`] or another real-time sender made: one in, at most one out, no delay.
///
/// Damaged input is an `Err` and never more: the decoder then refuses delta frames until a keyframe has been decoded.
pub struct VideoDecoder {
    codec: VideoCodec,
    backend: DecoderBackend,
    pool: FramePool,
    needs_keyframe: bool,
}

enum EncoderBackend {
    Vpx(Box<VpxEncoder>),
    #[cfg(feature = "h264")]
    H264(Box<H264Encoder>),
}

enum DecoderBackend {
    Vpx(VpxDecoder),
    #[cfg(feature = "h264")]
    H264(H264Decoder),
    #[cfg(feature = "av1")]
    Av1(Av1Decoder),
}

impl VideoEncoderConfig {
    /// 1.5 Mbit/s, 30 frames a second, the rest chosen by the encoder.
    pub fn new(codec: VideoCodec, width: u32, height: u32) -> VideoEncoderConfig {
        VideoEncoderConfig {
            codec,
            width,
            height,
            bitrate_bps: 1_500_000,
            max_fps: 30,
            threads: None,
            cpu_used: None,
            content: VideoContent::Motion,
            temporal_layers: 1,
        }
    }

    /// The speed step to begin with, and the range it adapts in.
    pub(crate) fn speed(&self) -> (i32, (i32, i32)) {
        let (start, range) = match self.codec {
            VideoCodec::Vp9 => (9, (7, 9)),
            VideoCodec::Vp8 => (8, (6, 12)),
            VideoCodec::H264 | VideoCodec::Av1 => (8, (8, 8)),
        };
        let top = if self.codec == VideoCodec::Vp9 { 9 } else { 16 };
        match self.cpu_used {
            Some(fixed) => (fixed.min(top), (fixed.min(top), fixed.min(top))),
            None => (start, range),
        }
    }

    /// Threads for libvpx: half of the cores at most, and no more than a picture of this size keeps busy.
    pub(crate) fn thread_count(&self) -> u32 {
        self.threads.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let useful = match u64::from(self.width) * u64::from(self.height) {
                0..=230_400 => 1,
                230_401..=921_600 => 2,
                921_601..=2_073_600 => 4,
                _ => 8,
            };
            useful.min(cores / 2).max(1)
        })
    }
}

impl VideoEncoder {
    /// An encoder, or [`MediaError::Config`] with the field that is out of range.
    pub fn new(config: VideoEncoderConfig) -> Result<VideoEncoder, MediaError> {
        check_dimensions(config.width, config.height)?;
        check_bitrate(config.bitrate_bps)?;
        check_fps(config.max_fps)?;
        if let Some(threads) = config.threads {
            check("threads", threads.into(), (1..=16).contains(&threads), "1 to 16")?;
        }
        if let Some(speed) = config.cpu_used {
            check("cpu_used", speed.into(), (0..=16).contains(&speed), "0 to 16")?;
        }
        check_layers(config.codec, config.temporal_layers)?;
        let (speed, range) = config.speed();
        Ok(VideoEncoder {
            backend: EncoderBackend::new(&config, speed)?,
            clock: FrameClock::new(config.max_fps),
            governor: (range.0 < range.1).then(|| SpeedGovernor::new(speed, range)),
            config,
        })
    }

    /// The settings in force; width and height are those of the last frame.
    pub fn config(&self) -> &VideoEncoderConfig {
        &self.config
    }

    /// Encodes one picture; `None` when rate control left it out.
    ///
    /// A picture of another size than the last reconfigures the encoder. It is a keyframe then, but for VP9 where no side is
    /// longer than it was at the start, nor below half of what it was since the last keyframe. Only the differences of the timestamps matter, and they may repeat or go back. A keyframe that was asked for and fell to
    /// rate control is made from the next picture.
    ///
    /// H.264 takes pictures of at least 16x16, and leaves out the last column or row of an odd size.
    pub fn encode(
        &mut self,
        frame: &VideoFrame,
        force_keyframe: bool,
    ) -> Result<Option<EncodedFrame>, MediaError> {
        if (frame.width(), frame.height()) != (self.config.width, self.config.height) {
            self.resize(frame.width(), frame.height())?;
        }
        let (pts_us, duration_us) = self.clock.next(frame.timestamp_us());
        let started = Instant::now();
        let encoded = match &mut self.backend {
            EncoderBackend::Vpx(vpx) => vpx.encode(frame, pts_us, duration_us, force_keyframe)?,
            #[cfg(feature = "h264")]
            EncoderBackend::H264(h264) => h264.encode(frame, pts_us, force_keyframe)?,
        };
        let took_us = started.elapsed().as_micros() as i64;
        if let Some(speed) = self.governor.as_mut().and_then(|g| g.observe(took_us, duration_us)) {
            match &mut self.backend {
                EncoderBackend::Vpx(vpx) => vpx.set_speed(speed)?,
                #[cfg(feature = "h264")]
                EncoderBackend::H264(_) => {}
            }
        }
        Ok(encoded)
    }

    /// Changes the target, 10000 to 100000000 bits a second. Costs no keyframe.
    pub fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), MediaError> {
        check_bitrate(bitrate_bps)?;
        match &mut self.backend {
            EncoderBackend::Vpx(vpx) => vpx.set_bitrate(bitrate_bps)?,
            #[cfg(feature = "h264")]
            EncoderBackend::H264(h264) => h264.set_bitrate(bitrate_bps)?,
        }
        self.config.bitrate_bps = bitrate_bps;
        Ok(())
    }

    /// Changes the frame rate to expect, 1 to 240 frames a second. Costs no keyframe.
    pub fn set_framerate(&mut self, max_fps: u32) -> Result<(), MediaError> {
        check_fps(max_fps)?;
        match &mut self.backend {
            EncoderBackend::Vpx(vpx) => vpx.set_framerate(max_fps)?,
            #[cfg(feature = "h264")]
            EncoderBackend::H264(h264) => h264.set_framerate(max_fps)?,
        }
        self.clock.set_max_fps(max_fps);
        self.config.max_fps = max_fps;
        Ok(())
    }

    /// Changes the number of temporal layers, 1 to 3, or 1 for H.264. Costs no keyframe.
    pub fn set_temporal_layers(&mut self, layers: u8) -> Result<(), MediaError> {
        check_layers(self.config.codec, layers)?;
        match &mut self.backend {
            EncoderBackend::Vpx(vpx) => vpx.set_layers(layers),
            #[cfg(feature = "h264")]
            EncoderBackend::H264(_) => {}
        }
        self.config.temporal_layers = layers;
        Ok(())
    }

    fn resize(&mut self, width: u32, height: u32) -> Result<(), MediaError> {
        let config = VideoEncoderConfig { width, height, ..self.config };
        let goes_on = match &mut self.backend {
            EncoderBackend::Vpx(vpx) => vpx.resize(width, height)?,
            #[cfg(feature = "h264")]
            EncoderBackend::H264(_) => false,
        };
        if !goes_on {
            let (speed, range) = config.speed();
            self.backend = EncoderBackend::new(&config, speed)?;
            self.governor = (range.0 < range.1).then(|| SpeedGovernor::new(speed, range));
        }
        self.config = config;
        Ok(())
    }
}

impl VideoDecoder {
    /// A decoder whose pictures come from `pool`.
    pub fn new(codec: VideoCodec, pool: FramePool) -> Result<VideoDecoder, MediaError> {
        Ok(VideoDecoder { codec, backend: DecoderBackend::new(codec)?, pool, needs_keyframe: true })
    }

    /// The codec.
    pub fn codec(&self) -> VideoCodec {
        self.codec
    }

    /// Decodes one encoded picture (an H.264 access unit in Annex B form, an AV1 temporal unit in low-overhead form); `None` when it shows nothing.
    ///
    /// A size over the limits of [`check_dimensions`] is refused before the codec allocates for it.
    pub fn decode(&mut self, data: &[u8], timestamp_us: i64) -> Result<Option<VideoFrame>, MediaError> {
        if self.needs_keyframe && !self.may_start_with(data) {
            return Err(MediaError::NeedsKeyframe { codec: self.codec.name() });
        }
        let result = match &mut self.backend {
            DecoderBackend::Vpx(vpx) => vpx.decode(data, &self.pool, timestamp_us),
            #[cfg(feature = "h264")]
            DecoderBackend::H264(h264) => h264.decode(data, &self.pool, timestamp_us),
            #[cfg(feature = "av1")]
            DecoderBackend::Av1(av1) => av1.decode(data, &self.pool, timestamp_us),
        };
        match &result {
            Ok(Some(_)) => self.needs_keyframe = false,
            Ok(None) => {}
            Err(_) => self.needs_keyframe = true,
        }
        result
    }

    /// Whether only a keyframe helps: at the start, and after damaged input. Ask the sender for one (RTCP PLI).
    pub fn needs_keyframe(&self) -> bool {
        self.needs_keyframe
    }

    fn may_start_with(&self, data: &[u8]) -> bool {
        // H.264's parameter sets may come ahead, in a packet of their own.
        is_keyframe(self.codec, data) || self.codec == VideoCodec::H264 && only_parameter_sets(data)
    }
}

impl EncoderBackend {
    fn new(config: &VideoEncoderConfig, speed: i32) -> Result<EncoderBackend, MediaError> {
        match config.codec {
            VideoCodec::Vp8 | VideoCodec::Vp9 => {
                Ok(EncoderBackend::Vpx(Box::new(VpxEncoder::new(config, speed)?)))
            }
            #[cfg(feature = "h264")]
            VideoCodec::H264 => Ok(EncoderBackend::H264(Box::new(H264Encoder::new(config, speed)?))),
            #[cfg(not(feature = "h264"))]
            VideoCodec::H264 => Err(left_out("H264")),
            VideoCodec::Av1 => Err(MediaError::Unsupported { codec: "AV1", what: "encoding" }),
        }
    }
}

impl DecoderBackend {
    fn new(codec: VideoCodec) -> Result<DecoderBackend, MediaError> {
        match codec {
            VideoCodec::Vp8 | VideoCodec::Vp9 => Ok(DecoderBackend::Vpx(VpxDecoder::new(codec)?)),
            #[cfg(feature = "h264")]
            VideoCodec::H264 => Ok(DecoderBackend::H264(H264Decoder::new()?)),
            #[cfg(not(feature = "h264"))]
            VideoCodec::H264 => Err(left_out("H264")),
            #[cfg(feature = "av1")]
            VideoCodec::Av1 => Ok(DecoderBackend::Av1(Av1Decoder::new()?)),
            #[cfg(not(feature = "av1"))]
            VideoCodec::Av1 => Err(left_out("AV1")),
        }
    }
}

#[cfg(not(all(feature = "av1", feature = "h264")))]
fn left_out(codec: &'static str) -> MediaError {
    MediaError::Unsupported { codec, what: "a build without it" }
}

fn only_parameter_sets(data: &[u8]) -> bool {
    let mut nals = crate::bitstream::h264_nals(data).peekable();
    nals.peek().is_some() && nals.all(|nal| !crate::bitstream::is_slice(nal))
}

fn check_bitrate(value: u32) -> Result<(), MediaError> {
    check("bitrate_bps", value.into(), (10_000..=100_000_000).contains(&value), "10000 to 100000000")
}

fn check_fps(value: u32) -> Result<(), MediaError> {
    check("max_fps", value.into(), (1..=240).contains(&value), "1 to 240")
}

fn check_layers(codec: VideoCodec, layers: u8) -> Result<(), MediaError> {
    if codec == VideoCodec::H264 {
        return check("temporal_layers", layers.into(), layers == 1, "1 for H264");
    }
    check("temporal_layers", layers.into(), (1..=3).contains(&layers), "1 to 3")
}

fn check(field: &'static str, value: i64, ok: bool, allowed: &'static str) -> Result<(), MediaError> {
    if ok { Ok(()) } else { Err(MediaError::Config { field, value, allowed }) }
}
