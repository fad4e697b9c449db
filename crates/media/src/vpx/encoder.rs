//! VP8 and VP9 encoding for real-time transmission.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use vpx_sys::vp8e_enc_control_id::{self as control, *};
use vpx_sys::{
    VP8_EFLAG_FORCE_ARF, VP8_EFLAG_FORCE_GF, VP8_EFLAG_NO_REF_ARF, VP8_EFLAG_NO_REF_GF, VP8_EFLAG_NO_UPD_ARF,
    VP8_EFLAG_NO_UPD_ENTROPY, VP8_EFLAG_NO_UPD_GF, VP8_EFLAG_NO_UPD_LAST, VPX_DL_REALTIME,
    VPX_EFLAG_FORCE_KF, VPX_ENCODER_ABI_VERSION, VPX_ERROR_RESILIENT_DEFAULT, VPX_FRAME_IS_KEY,
    vpx_codec_control_, vpx_codec_cx_pkt_kind, vpx_codec_enc_cfg_t, vpx_codec_enc_config_default,
    vpx_codec_enc_config_set, vpx_codec_enc_init_ver, vpx_codec_encode, vpx_codec_err_t,
    vpx_codec_get_cx_data, vpx_codec_vp8_cx, vpx_codec_vp9_cx, vpx_enc_pass, vpx_image_t, vpx_img_fmt,
    vpx_img_wrap, vpx_kf_mode, vpx_rational, vpx_rc_mode,
};

use super::{Context, error_text};
use crate::frame::VideoFrame;
use crate::{EncodedFrame, MediaError, VideoCodec, VideoContent, VideoEncoderConfig};

pub(crate) struct VpxEncoder {
    context: Context,
    /// What was last handed to libvpx; a change of bitrate starts from it.
    settings: vpx_codec_enc_cfg_t,
    codec: VideoCodec,
    keyframe_owed: bool,
    /// What libvpx has its buffers for, from the first picture on.
    built: Option<(u32, u32)>,
    /// The longest sides since the last keyframe.
    longest: (u32, u32),
    layers: LayerPattern,
}

// SAFETY: the settings hold two pointers to two-pass statistics, which are null in one-pass mode; see `Context` for the
// rest.
unsafe impl Send for VpxEncoder {}

/// Microseconds, so presentation times need no conversion.
const TIMEBASE: vpx_rational = vpx_rational { num: 1, den: 1_000_000 };
/// Below this fill of its buffer, in percent, rate control leaves pictures out.
const DROP_THRESHOLD: u32 = 30;
/// Rate control's buffer, in milliseconds of the bitrate: all of it, at the start, and what it aims at.
const BUFFER_MS: (u32, u32, u32) = (1000, 500, 600);

impl VpxEncoder {
    pub fn new(config: &VideoEncoderConfig, speed: i32) -> Result<VpxEncoder, MediaError> {
        let codec = config.codec;
        let failed = |reason| MediaError::Codec { codec: codec.name(), operation: "start", reason };
        // SAFETY: both return a static interface.
        let interface =
            unsafe { if codec == VideoCodec::Vp9 { vpx_codec_vp9_cx() } else { vpx_codec_vp8_cx() } };
        let mut settings = MaybeUninit::<vpx_codec_enc_cfg_t>::uninit();
        // SAFETY: libvpx fills all of it when it returns VPX_CODEC_OK.
        let mut settings = unsafe {
            match vpx_codec_enc_config_default(interface, settings.as_mut_ptr(), 0) {
                vpx_codec_err_t::VPX_CODEC_OK => settings.assume_init(),
                error => return Err(failed(error_text(error))),
            }
        };
        fill_settings(&mut settings, config);
        // SAFETY: an init function; the settings are copied by it.
        let context = unsafe {
            Context::new(|raw| {
                vpx_codec_enc_init_ver(raw, interface, &settings, 0, VPX_ENCODER_ABI_VERSION as c_int)
            })
        };
        let size = (config.width, config.height);
        let mut encoder = VpxEncoder {
            context: context.map_err(failed)?,
            settings,
            codec,
            keyframe_owed: false,
            built: None,
            longest: size,
            layers: LayerPattern::new(config.temporal_layers),
        };
        encoder.set_controls(config, speed)?;
        Ok(encoder)
    }

    pub fn encode(
        &mut self,
        frame: &VideoFrame,
        pts_us: i64,
        duration_us: i64,
        force_keyframe: bool,
    ) -> Result<Option<EncodedFrame>, MediaError> {
        self.keyframe_owed |= force_keyframe;
        let (flags, temporal_layer) =
            if self.keyframe_owed { (VPX_EFLAG_FORCE_KF, 0) } else { self.layers.next() };
        let image = self.image(frame)?;
        // SAFETY: the image describes `frame`'s planes, which outlive the call; libvpx only reads them, and copies them.
        let code = unsafe {
            vpx_codec_encode(
                self.context.as_mut(),
                &image,
                pts_us,
                duration_us as _,
                flags as _,
                VPX_DL_REALTIME as _,
            )
        };
        self.context.check(code).map_err(|reason| self.failed("encode", reason))?;
        self.built.get_or_insert((frame.width(), frame.height()));

        let mut parts: Vec<Bytes> = Vec::new();
        let mut keyframe = false;
        let mut position = std::ptr::null();
        loop {
            // SAFETY: an initialised encoder and its own cursor. A packet is valid until the next encode call.
            let packet = unsafe { vpx_codec_get_cx_data(self.context.as_mut(), &mut position).as_ref() };
            let Some(packet) = packet else { break };
            if packet.kind != vpx_codec_cx_pkt_kind::VPX_CODEC_CX_FRAME_PKT {
                continue;
            }
            // SAFETY: the kind says which field of the union holds; the buffer is `sz` bytes long.
            let data = unsafe {
                let part = packet.data.frame;
                keyframe |= part.flags & VPX_FRAME_IS_KEY != 0;
                std::slice::from_raw_parts(part.buf.cast::<u8>(), part.sz as usize)
            };
            parts.push(Bytes::copy_from_slice(data));
        }
        let data = match parts.len() {
            0 => return Ok(None),
            1 => parts.swap_remove(0),
            _ => parts
                .iter()
                .fold(BytesMut::new(), |mut all, part| {
                    all.extend_from_slice(part);
                    all
                })
                .freeze(),
        };
        // A frame of no bytes is libvpx's way to say that rate control left it out.
        if data.is_empty() {
            return Ok(None);
        }
        if keyframe {
            self.keyframe_owed = false;
            self.longest = (frame.width(), frame.height());
        }
        self.layers.encoded(keyframe);
        Ok(Some(EncodedFrame {
            data,
            keyframe,
            timestamp_us: frame.timestamp_us(),
            width: frame.width(),
            height: frame.height(),
            temporal_layer: if keyframe { 0 } else { temporal_layer },
        }))
    }

    pub fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), MediaError> {
        self.settings.rc_target_bitrate = bitrate_bps.div_ceil(1000);
        self.apply_settings("change the bitrate")
    }

    /// The rate itself libvpx takes from the presentation times.
    pub fn set_framerate(&mut self, max_fps: u32) -> Result<(), MediaError> {
        self.control(VP8E_SET_MAX_INTRA_BITRATE_PCT, max_intra_percent(max_fps))
    }

    pub fn set_layers(&mut self, layers: u8) {
        self.layers.set(layers);
    }

    /// Pictures of another size follow. False if that takes a new encoder: VP8's only refer to pictures of their own size, and
    /// libvpx's growing beyond what it was built for has had bugs (CVE-2023-44488).
    pub fn resize(&mut self, width: u32, height: u32) -> Result<bool, MediaError> {
        let Some((most_wide, most_high)) = self.built else { return Ok(false) };
        if self.codec != VideoCodec::Vp9 || width > most_wide || height > most_high {
            return Ok(false);
        }
        // A reference may be twice as long and wide as what refers to it (VP9 bitstream specification, 8.5.2.3).
        let (longest_wide, longest_high) = self.longest;
        self.keyframe_owed |= 2 * width < longest_wide || 2 * height < longest_high;
        self.longest = (longest_wide.max(width), longest_high.max(height));
        (self.settings.g_w, self.settings.g_h) = (width, height);
        self.apply_settings("change the size")?;
        Ok(true)
    }

    fn apply_settings(&mut self, operation: &'static str) -> Result<(), MediaError> {
        // SAFETY: an initialised encoder; the settings are copied.
        let code = unsafe { vpx_codec_enc_config_set(self.context.as_mut(), &self.settings) };
        self.context.check(code).map_err(|reason| self.failed(operation, reason))
    }

    pub fn set_speed(&mut self, speed: i32) -> Result<(), MediaError> {
        // VP8 takes a negative number as "this step", a positive one as "adapt by yourself, by the clock".
        let value = if self.codec == VideoCodec::Vp9 { speed } else { -speed };
        self.control(VP8E_SET_CPUUSED, value)
    }

    fn set_controls(&mut self, config: &VideoEncoderConfig, speed: i32) -> Result<(), MediaError> {
        self.set_speed(speed)?;
        let screen = config.content == VideoContent::Text;
        self.control(VP8E_SET_STATIC_THRESHOLD, if screen { 100 } else { 1 })?;
        self.control(VP8E_SET_MAX_INTRA_BITRATE_PCT, max_intra_percent(config.max_fps))?;
        if self.codec == VideoCodec::Vp8 {
            self.control(VP8E_SET_NOISE_SENSITIVITY, 0)?;
            self.control(VP8E_SET_TOKEN_PARTITIONS, 0)?;
            return self.control(VP8E_SET_SCREEN_CONTENT_MODE, c_int::from(screen));
        }
        const CYCLIC_REFRESH: c_int = 3;
        self.control(VP9E_SET_AQ_MODE, CYCLIC_REFRESH)?;
        self.control(VP9E_SET_TUNE_CONTENT, c_int::from(screen))?;
        self.control(VP9E_SET_NOISE_SENSITIVITY, 0)?;
        self.control(VP9E_SET_FRAME_PARALLEL_DECODING, 0)?;
        // A tile column for each thread, as a power of two; libvpx lowers it for narrow pictures.
        let threads = self.settings.g_threads;
        self.control(VP9E_SET_TILE_COLUMNS, threads.ilog2() as c_int)?;
        self.control(VP9E_SET_ROW_MT, c_int::from(threads > 1))
        // VP9E_SET_SVC stays untouched: on its own, without SVC parameters, it turns rate control off without a word.
    }

    fn control(&mut self, id: control, value: c_int) -> Result<(), MediaError> {
        // SAFETY: an initialised encoder; every control used here reads one C int.
        let code = unsafe { vpx_codec_control_(self.context.as_mut(), id as c_int, value) };
        self.context.check(code).map_err(|reason| self.failed("take a setting", reason))
    }

    fn image(&self, frame: &VideoFrame) -> Result<vpx_image_t, MediaError> {
        let mut image = MaybeUninit::<vpx_image_t>::uninit();
        let [y, u, v] = frame.planes();
        let data = y.data.as_ptr().cast_mut();
        // SAFETY: given a buffer, libvpx fills the image in and allocates nothing; `data` isn't read here.
        let mut image = unsafe {
            let made = vpx_img_wrap(
                image.as_mut_ptr(),
                vpx_img_fmt::VPX_IMG_FMT_I420,
                frame.width(),
                frame.height(),
                1,
                data,
            );
            if made.is_null() {
                return Err(self.failed("describe a picture", "a size it doesn't take".into()));
            }
            image.assume_init()
        };
        // libvpx guesses even strides; ours are the planes' own.
        for (i, plane) in [y, u, v].into_iter().enumerate() {
            image.planes[i] = plane.data.as_ptr().cast_mut();
            image.stride[i] = plane.stride as c_int;
        }
        Ok(image)
    }

    fn failed(&self, operation: &'static str, reason: String) -> MediaError {
        MediaError::Codec { codec: self.codec.name(), operation, reason }
    }
}

/// Which pictures refer to which, so that those of higher layers can be left out.
///
/// The last-frame buffer holds the newest picture of layer 0. Of three layers, the golden-frame buffer holds the newest of
/// layer 1. A picture of the highest layer is held by none.
struct LayerPattern {
    layers: u8,
    /// Pictures since the pattern began.
    at: usize,
    /// The buffers may hold pictures of higher layers, which whatever comes next must not refer to.
    unclean: bool,
}

const ONLY_LAST: u32 = VP8_EFLAG_NO_REF_GF | VP8_EFLAG_NO_REF_ARF;
const KEEP_OTHERS: u32 = VP8_EFLAG_NO_UPD_GF | VP8_EFLAG_NO_UPD_ARF;
const BASE: (u32, u8) = (ONLY_LAST | KEEP_OTHERS, 0);
/// It leaves no trace.
const DISPOSABLE: u32 = VP8_EFLAG_NO_UPD_LAST | KEEP_OTHERS | VP8_EFLAG_NO_UPD_ENTROPY;
const TWO_LAYERS: [(u32, u8); 2] = [BASE, (ONLY_LAST | DISPOSABLE, 1)];
const THREE_LAYERS: [(u32, u8); 4] = [
    BASE,
    (ONLY_LAST | DISPOSABLE, 2),
    (ONLY_LAST | VP8_EFLAG_NO_UPD_LAST | VP8_EFLAG_NO_UPD_ARF | VP8_EFLAG_NO_UPD_ENTROPY, 1),
    (VP8_EFLAG_NO_REF_ARF | DISPOSABLE, 2),
];

impl LayerPattern {
    fn new(layers: u8) -> LayerPattern {
        LayerPattern { layers, at: 0, unclean: false }
    }

    fn set(&mut self, layers: u8) {
        if layers != self.layers {
            self.unclean |= self.layers > 1;
            (self.layers, self.at) = (layers, 0);
        }
    }

    /// Flags and layer of the next picture.
    fn next(&self) -> (u32, u8) {
        match self.layers {
            // The first one after layers takes every buffer over.
            1 if self.unclean => (ONLY_LAST | VP8_EFLAG_FORCE_GF | VP8_EFLAG_FORCE_ARF, 0),
            1 => (0, 0),
            2 => TWO_LAYERS[self.at % 2],
            _ => THREE_LAYERS[self.at % 4],
        }
    }

    /// One was made; what rate control leaves out doesn't count.
    fn encoded(&mut self, keyframe: bool) {
        if keyframe || self.layers == 1 {
            self.unclean = false;
        }
        self.at = if keyframe { 1 } else { self.at + 1 };
    }
}

fn fill_settings(settings: &mut vpx_codec_enc_cfg_t, config: &VideoEncoderConfig) {
    let vp9 = config.codec == VideoCodec::Vp9;
    settings.g_w = config.width;
    settings.g_h = config.height;
    settings.g_timebase = TIMEBASE;
    settings.g_threads = config.thread_count();
    settings.g_error_resilient = VPX_ERROR_RESILIENT_DEFAULT;
    settings.g_pass = vpx_enc_pass::VPX_RC_ONE_PASS;
    settings.g_lag_in_frames = 0;
    settings.rc_end_usage = vpx_rc_mode::VPX_CBR;
    settings.rc_target_bitrate = config.bitrate_bps.div_ceil(1000);
    settings.rc_resize_allowed = 0;
    settings.rc_min_quantizer = 2;
    settings.rc_max_quantizer = match (config.content, vp9) {
        (VideoContent::Motion, true) => 52,
        (VideoContent::Motion, false) => 56,
        // Where detail matters, pictures are left out before they get this coarse.
        (VideoContent::Detail | VideoContent::Text, _) => 42,
    };
    settings.rc_undershoot_pct = if vp9 { 50 } else { 100 };
    settings.rc_overshoot_pct = if vp9 { 50 } else { 15 };
    (settings.rc_buf_sz, settings.rc_buf_initial_sz, settings.rc_buf_optimal_sz) = BUFFER_MS;
    settings.rc_dropframe_thresh = DROP_THRESHOLD;
    // Keyframes when asked for, and no others.
    settings.kf_mode = vpx_kf_mode::VPX_KF_DISABLED;
}

/// The most a keyframe may take, in percent of a frame's share: half of the buffer it aims at, and three frames at least.
fn max_intra_percent(max_fps: u32) -> c_int {
    let (_, _, optimal_ms) = BUFFER_MS;
    (optimal_ms * max_fps / 20).max(300) as c_int
}
