//! H.264 constrained baseline through openh264.
//!
//! The safe `openh264` crate does the encoding and decoding; `unsafe` is only needed to set an option while encoding,
//! which the crate has no safe call for.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, Profile, RateControlMode, UsageType,
};
use openh264::formats::YUVSource;
use openh264::{OpenH264API, Timestamp};
use openh264_sys2::{
    ENCODER_OPTION, ENCODER_OPTION_BITRATE, ENCODER_OPTION_FRAME_RATE, ENCODER_OPTION_MAX_BITRATE,
    SBitrateInfo, SPATIAL_LAYER_0, SPATIAL_LAYER_ALL,
};

use crate::bitstream::{NAL_IDR, NAL_PPS, NAL_SPS, NAL_SUBSET_SPS, h264_nals, h264_sps, nal_type};
use crate::frame::{FramePool, Plane, VideoFrame, check_dimensions};
use crate::{EncodedFrame, MediaError, VideoContent, VideoEncoderConfig};

pub(crate) struct H264Encoder {
    encoder: Encoder,
    bitrate_bps: u32,
    /// The target openh264 has, which `bitrate_bps` is ahead of until the first frame.
    applied_bps: u32,
    max_fps: u32,
    /// openh264 takes options only after it has seen a frame.
    started: bool,
    keyframe_owed: bool,
}

pub(crate) struct H264Decoder {
    decoder: Decoder,
    /// The parameter sets of the last unit that had any, as a hash.
    sets: Option<u64>,
    /// Something was damaged, or may have been, since the decoder was made.
    doubtful: bool,
}

/// A picture as openh264 reads it: even sizes only.
struct Source<'a> {
    planes: [Plane<'a>; 3],
    width: usize,
    height: usize,
}

const NAME: &str = "H264";

impl H264Encoder {
    pub fn new(config: &VideoEncoderConfig, speed: i32) -> Result<H264Encoder, MediaError> {
        if config.width < 16 || config.height < 16 {
            return Err(MediaError::Unsupported { codec: NAME, what: "a picture smaller than 16x16" });
        }
        let complexity = match speed {
            ..=5 => Complexity::High,
            6..=7 => Complexity::Medium,
            _ => Complexity::Low,
        };
        let screen = config.content == VideoContent::Text;
        let settings = EncoderConfig::new()
            .bitrate(BitRate::from_bps(config.bitrate_bps))
            .max_frame_rate(FrameRate::from_hz(config.max_fps as f32))
            .rate_control_mode(RateControlMode::Bitrate)
            .skip_frames(true)
            .usage_type(if screen {
                UsageType::ScreenContentRealTime
            } else {
                UsageType::CameraVideoRealTime
            })
            // openh264 has neither for screens, and says so on the standard error output when left to turn them off.
            .adaptive_quantization(!screen)
            .background_detection(!screen)
            .profile(Profile::Baseline)
            .complexity(complexity)
            // One slice a picture, so more threads would have nothing to do.
            .num_threads(1);
        let encoder =
            Encoder::with_api_config(OpenH264API::from_source(), settings).map_err(failed("start"))?;
        Ok(H264Encoder {
            encoder,
            bitrate_bps: config.bitrate_bps,
            applied_bps: config.bitrate_bps,
            max_fps: config.max_fps,
            started: false,
            keyframe_owed: false,
        })
    }

    pub fn encode(
        &mut self,
        frame: &VideoFrame,
        pts_us: i64,
        force: bool,
    ) -> Result<Option<EncodedFrame>, MediaError> {
        let source = Source {
            planes: frame.planes(),
            width: frame.width() as usize & !1,
            height: frame.height() as usize & !1,
        };
        self.keyframe_owed |= force;
        if self.started && self.keyframe_owed {
            self.encoder.force_intra_frame();
        }
        let time = Timestamp::from_millis(u64::try_from(pts_us / 1000).unwrap_or(0));
        let (data, kind) = {
            let stream = self.encoder.encode_at(&source, time).map_err(failed("encode"))?;
            (Bytes::from(stream.to_vec()), stream.frame_type())
        };
        if !self.started {
            self.started = true;
            self.apply_bitrate(self.bitrate_bps)?;
            self.set_framerate(self.max_fps)?;
        }
        if matches!(kind, FrameType::Skip | FrameType::Invalid) || data.is_empty() {
            return Ok(None);
        }
        let keyframe = kind == FrameType::IDR;
        if keyframe {
            self.keyframe_owed = false;
        }
        Ok(Some(EncodedFrame {
            data,
            keyframe,
            timestamp_us: frame.timestamp_us(),
            width: source.width as u32,
            height: source.height as u32,
            temporal_layer: 0,
        }))
    }

    pub fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), MediaError> {
        if self.started {
            self.apply_bitrate(bitrate_bps)?;
        }
        // Not started: the first frame applies it.
        self.bitrate_bps = bitrate_bps;
        Ok(())
    }

    pub fn set_framerate(&mut self, max_fps: u32) -> Result<(), MediaError> {
        self.max_fps = max_fps;
        if self.started {
            // SAFETY: ENCODER_OPTION_FRAME_RATE reads one C float.
            unsafe { self.set_option(ENCODER_OPTION_FRAME_RATE, &mut (max_fps as f32))? };
        }
        Ok(())
    }

    /// The maximum has to be above the target at all times, or openh264 refuses the target; where both are the same it
    /// stays below the target. So it goes up first, and comes down last.
    fn apply_bitrate(&mut self, bitrate_bps: u32) -> Result<(), MediaError> {
        let maximum = |target: u32| SBitrateInfo { iLayer: SPATIAL_LAYER_0, iBitrate: (target * 2) as i32 };
        let steps = [
            (ENCODER_OPTION_MAX_BITRATE, maximum(bitrate_bps.max(self.applied_bps))),
            (
                ENCODER_OPTION_BITRATE,
                SBitrateInfo { iLayer: SPATIAL_LAYER_ALL, iBitrate: bitrate_bps as i32 },
            ),
            (ENCODER_OPTION_MAX_BITRATE, maximum(bitrate_bps)),
        ];
        for (option, mut value) in steps {
            // SAFETY: both options read one SBitrateInfo.
            unsafe { self.set_option(option, &mut value)? };
        }
        self.applied_bps = bitrate_bps;
        Ok(())
    }

    /// # Safety
    ///
    /// `value` must be of the type that `ISVCEncoder::SetOption` reads for `option`.
    #[allow(unsafe_code)]
    unsafe fn set_option<T>(&mut self, option: ENCODER_OPTION, value: &mut T) -> Result<(), MediaError> {
        // SAFETY: the encoder is alive as long as `self`; openh264 copies from `value` and doesn't keep the pointer; its
        // type is the caller's promise. No option used here changes what the safe crate relies on.
        let code =
            unsafe { self.encoder.raw_api().set_option(option, std::ptr::from_mut(value).cast::<c_void>()) };
        if code == 0 {
            Ok(())
        } else {
            Err(MediaError::Codec {
                codec: NAME,
                operation: "change a setting",
                reason: format!("code {code}"),
            })
        }
    }
}

impl H264Decoder {
    pub fn new() -> Result<H264Decoder, MediaError> {
        Ok(H264Decoder { decoder: open_decoder()?, sets: None, doubtful: false })
    }

    /// Decodes one access unit.
    ///
    /// What damage left behind, parameter sets above all, can make openh264 refuse whole pictures long after. So a keyframe that brings
    /// its own parameter sets is given to a new decoder if anything was refused, or other parameter sets were seen, before it.
    pub fn decode(
        &mut self,
        data: &[u8],
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        check_parameter_sets(data)?;
        if let Some(sets) = parameter_sets(data) {
            self.doubtful |= self.sets.is_some_and(|before| before != sets);
            self.sets = Some(sets);
        }
        if self.doubtful && stands_alone(data) {
            self.decoder = open_decoder()?;
            self.doubtful = false;
        }
        let result = self.decode_once(data, pool, timestamp_us);
        self.doubtful |= !matches!(result, Ok(Some(_)));
        result
    }

    fn decode_once(
        &mut self,
        data: &[u8],
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        let Some(picture) = self.decoder.decode(data).map_err(|e| corrupt(&e.to_string()))? else {
            return Ok(None);
        };
        let (width, height) = picture.dimensions();
        let (stride_y, stride_u, stride_v) = picture.strides();
        let mut frame = pool.get(width as u32, height as u32)?;
        let planes = [
            (picture.y(), stride_y, width),
            (picture.u(), stride_u, width / 2),
            (picture.v(), stride_v, width / 2),
        ];
        for (to, (from, stride, row)) in frame.planes_mut().into_iter().zip(planes) {
            for (to, from) in to.data.chunks_exact_mut(to.stride).zip(from.chunks(stride.max(1))) {
                let from = from.get(..row).ok_or_else(|| corrupt("a picture narrower than it says"))?;
                to[..row].copy_from_slice(from);
            }
        }
        Ok(Some(frame.freeze(timestamp_us)))
    }
}

impl YUVSource for Source<'_> {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.planes[0].stride, self.planes[1].stride, self.planes[2].stride)
    }

    fn y(&self) -> &[u8] {
        self.planes[0].data
    }

    fn u(&self) -> &[u8] {
        self.planes[1].data
    }

    fn v(&self) -> &[u8] {
        self.planes[2].data
    }
}

/// Looks at every parameter set before openh264 does, since that is what it allocates by.
fn check_parameter_sets(data: &[u8]) -> Result<(), MediaError> {
    let mut nals = h264_nals(data).peekable();
    if nals.peek().is_none() {
        return Err(corrupt("no NAL unit in it"));
    }
    for nal in nals.filter(|nal| matches!(nal_type(nal), NAL_SPS | NAL_SUBSET_SPS)) {
        let sps = h264_sps(nal).ok_or_else(|| corrupt("an unreadable parameter set"))?;
        check_dimensions(sps.coded.0, sps.coded.1)?;
        if !sps.chroma_420 {
            return Err(MediaError::Unsupported { codec: NAME, what: "other colour than 4:2:0" });
        }
    }
    Ok(())
}

fn open_decoder() -> Result<Decoder, MediaError> {
    // A picture comes out as soon as it is in: constrained baseline doesn't reorder.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config).map_err(failed("start"))
}

/// A hash of all parameter sets in it; `None` where there is none.
fn parameter_sets(data: &[u8]) -> Option<u64> {
    let mut sets =
        h264_nals(data).filter(|nal| matches!(nal_type(nal), NAL_SPS | NAL_PPS | NAL_SUBSET_SPS)).peekable();
    sets.peek()?;
    let mut hasher = std::hash::DefaultHasher::new();
    sets.for_each(|nal| nal.hash(&mut hasher));
    Some(hasher.finish())
}

/// Whether it has an IDR slice and a sequence parameter set before it.
fn stands_alone(data: &[u8]) -> bool {
    let mut sps = false;
    h264_nals(data).any(|nal| {
        sps |= nal_type(nal) == NAL_SPS;
        sps && nal_type(nal) == NAL_IDR
    })
}

fn corrupt(reason: &str) -> MediaError {
    MediaError::Corrupt { codec: NAME, reason: reason.to_owned() }
}

fn failed(operation: &'static str) -> impl Fn(openh264::Error) -> MediaError {
    move |e| MediaError::Codec { codec: NAME, operation, reason: e.to_string() }
}
