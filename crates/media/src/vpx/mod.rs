//! A thin safe wrapper around libvpx for VP8 and VP9.
//!
//! `unsafe` stays in this folder. Each codec context is owned by one value, made by `*_init_ver` and destroyed once.

#![allow(unsafe_code)]

mod decoder;
mod encoder;

use std::ffi::CStr;

use vpx_sys::{
    vpx_codec_ctx_t, vpx_codec_destroy, vpx_codec_err_t, vpx_codec_err_to_string, vpx_codec_error_detail,
};

pub(crate) use decoder::VpxDecoder;
pub(crate) use encoder::VpxEncoder;

/// An initialised codec context.
struct Context {
    /// Boxed so that it never moves: libvpx doesn't promise not to remember where it is.
    raw: Box<vpx_codec_ctx_t>,
}

// SAFETY: libvpx keeps no thread-local state; a context may be used from any thread, one at a time, which `&mut`
// guarantees.
unsafe impl Send for Context {}

impl Context {
    /// # Safety
    ///
    /// `init` must be one of libvpx's `*_init_ver` functions, which make a valid context of a zeroed one or fail. What
    /// it is given must outlive the call only.
    unsafe fn new(init: impl FnOnce(*mut vpx_codec_ctx_t) -> vpx_codec_err_t) -> Result<Context, String> {
        // SAFETY: a context is a C struct of pointers, integers and an error code for which 0 (VPX_CODEC_OK) is valid;
        // libvpx itself zeroes it first.
        let mut raw: Box<vpx_codec_ctx_t> = Box::new(unsafe { std::mem::zeroed() });
        match init(&mut *raw) {
            // From here on it has to be destroyed.
            vpx_codec_err_t::VPX_CODEC_OK => Ok(Context { raw }),
            // A context whose initialisation failed has been cleaned up by libvpx.
            error => Err(error_text(error)),
        }
    }

    fn check(&mut self, code: vpx_codec_err_t) -> Result<(), String> {
        if code == vpx_codec_err_t::VPX_CODEC_OK {
            return Ok(());
        }
        // SAFETY: the context is initialised; the detail is null or a C string that lives until the next call.
        let detail = unsafe {
            let detail = vpx_codec_error_detail(&mut *self.raw);
            (!detail.is_null()).then(|| CStr::from_ptr(detail).to_string_lossy().into_owned())
        };
        Err(detail.unwrap_or_else(|| error_text(code)))
    }

    fn as_mut(&mut self) -> *mut vpx_codec_ctx_t {
        &mut *self.raw
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here. The result says no more than "it was no context".
        unsafe { vpx_codec_destroy(&mut *self.raw) };
    }
}

fn error_text(code: vpx_codec_err_t) -> String {
    // SAFETY: always a static C string.
    unsafe { CStr::from_ptr(vpx_codec_err_to_string(code)) }.to_string_lossy().into_owned()
}
