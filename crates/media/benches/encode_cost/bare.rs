//! libvpx as its own example programs use it: nothing between the pictures and its C interface.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use remotemedia_media::VideoFrame;
use vpx_sys::vp8e_enc_control_id::*;
use vpx_sys::*;

pub struct Bare {
    context: Box<vpx_codec_ctx_t>,
    pts: i64,
}

impl Bare {
    /// The settings that `VideoEncoder` uses for `VideoContent::Motion`.
    pub fn new(width: u32, height: u32, bitrate_bps: u32, fps: u32, speed: i32) -> Bare {
        // SAFETY: plain calls of libvpx in the order that its documentation gives; each result is checked.
        unsafe {
            let interface = vpx_codec_vp9_cx();
            let mut settings = MaybeUninit::<vpx_codec_enc_cfg_t>::uninit();
            ok(vpx_codec_enc_config_default(interface, settings.as_mut_ptr(), 0));
            let mut settings = settings.assume_init();
            settings.g_w = width;
            settings.g_h = height;
            settings.g_timebase = vpx_rational { num: 1, den: 1_000_000 };
            settings.g_threads = 1;
            settings.g_error_resilient = VPX_ERROR_RESILIENT_DEFAULT;
            settings.g_pass = vpx_enc_pass::VPX_RC_ONE_PASS;
            settings.g_lag_in_frames = 0;
            settings.rc_end_usage = vpx_rc_mode::VPX_CBR;
            settings.rc_target_bitrate = bitrate_bps / 1000;
            settings.rc_resize_allowed = 0;
            settings.rc_min_quantizer = 2;
            settings.rc_max_quantizer = 52;
            settings.rc_undershoot_pct = 50;
            settings.rc_overshoot_pct = 50;
            (settings.rc_buf_sz, settings.rc_buf_initial_sz, settings.rc_buf_optimal_sz) = (1000, 500, 600);
            settings.rc_dropframe_thresh = 30;
            settings.kf_mode = vpx_kf_mode::VPX_KF_DISABLED;
            let mut context: Box<vpx_codec_ctx_t> = Box::new(std::mem::zeroed());
            let version = VPX_ENCODER_ABI_VERSION as c_int;
            ok(vpx_codec_enc_init_ver(&mut *context, interface, &settings, 0, version));
            for (control, value) in [
                (VP8E_SET_CPUUSED, speed),
                (VP8E_SET_STATIC_THRESHOLD, 1),
                (VP8E_SET_MAX_INTRA_BITRATE_PCT, (600 * fps / 20) as c_int),
                (VP9E_SET_AQ_MODE, 3),
                (VP9E_SET_TUNE_CONTENT, 0),
                (VP9E_SET_NOISE_SENSITIVITY, 0),
                (VP9E_SET_FRAME_PARALLEL_DECODING, 0),
                (VP9E_SET_TILE_COLUMNS, 0),
                (VP9E_SET_ROW_MT, 0),
            ] {
                ok(vpx_codec_control_(&mut *context, control as c_int, value));
            }
            Bare { context, pts: 0 }
        }
    }

    /// Bytes of one picture.
    pub fn encode(&mut self, frame: &VideoFrame, step_us: i64) -> usize {
        // SAFETY: as above; the image describes planes that outlive the call, and libvpx only reads them.
        unsafe {
            let mut image = MaybeUninit::<vpx_image_t>::uninit();
            let planes = frame.planes();
            let (width, height) = (frame.width(), frame.height());
            let first = planes[0].data.as_ptr().cast_mut();
            vpx_img_wrap(image.as_mut_ptr(), vpx_img_fmt::VPX_IMG_FMT_I420, width, height, 1, first);
            let mut image = image.assume_init();
            for (n, plane) in planes.into_iter().enumerate() {
                image.planes[n] = plane.data.as_ptr().cast_mut();
                image.stride[n] = plane.stride as c_int;
            }
            let context: *mut vpx_codec_ctx_t = &mut *self.context;
            ok(vpx_codec_encode(context, &image, self.pts, step_us as _, 0, VPX_DL_REALTIME as _));
            self.pts += step_us;
            let (mut position, mut bytes) = (std::ptr::null(), 0);
            while let Some(packet) = vpx_codec_get_cx_data(context, &mut position).as_ref() {
                if packet.kind == vpx_codec_cx_pkt_kind::VPX_CODEC_CX_FRAME_PKT {
                    bytes += packet.data.frame.sz as usize;
                }
            }
            bytes
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here.
        unsafe { vpx_codec_destroy(&mut *self.context) };
    }
}

fn ok(code: vpx_codec_err_t) {
    assert_eq!(code, vpx_codec_err_t::VPX_CODEC_OK);
}

/// CPU time of this thread, in seconds.
#[cfg(unix)]
pub fn thread_seconds() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: it fills the struct where it returns 0.
    let time = unsafe {
        assert_eq!(libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()), 0);
        time.assume_init()
    };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Time, in seconds: elsewhere this is only of use on an idle machine.
#[cfg(not(unix))]
pub fn thread_seconds() -> f64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed().as_secs_f64()
}
