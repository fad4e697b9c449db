//! AV1 decoding through libdav1d, of input that nobody vouches for.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;

use libdav1d_sys::{
    DAV1D_ERR, DAV1D_ERR_AGAIN, Dav1dContext, Dav1dData, Dav1dPicture, Dav1dPixelLayout, Dav1dSettings,
    dav1d_close, dav1d_data_create, dav1d_data_unref, dav1d_default_settings, dav1d_flush, dav1d_get_picture,
    dav1d_open, dav1d_picture_unref, dav1d_send_data,
};

use crate::MediaError;
use crate::bitstream::av1_obus;
use crate::frame::{FrameMut, FramePool, MAX_PIXELS, VideoFrame};

pub(crate) struct Av1Decoder {
    context: *mut Dav1dContext,
}

const NAME: &str = "AV1";
const OUT_OF_RANGE: c_int = DAV1D_ERR(libc::ERANGE);

// SAFETY: dav1d keeps no thread-local state; a context may be used from any thread, one at a time, which `&mut` guarantees.
unsafe impl Send for Av1Decoder {}

impl Av1Decoder {
    pub fn new() -> Result<Av1Decoder, MediaError> {
        let mut settings = MaybeUninit::<Dav1dSettings>::uninit();
        // SAFETY: it fills all of what it is given.
        let mut settings = unsafe {
            dav1d_default_settings(settings.as_mut_ptr());
            settings.assume_init()
        };
        // In a call there are more pictures to decode than cores anyway; and a picture comes out as soon as it is in.
        settings.n_threads = 1;
        settings.max_frame_delay = 1;
        settings.all_layers = 0;
        settings.frame_size_limit = MAX_PIXELS as _;
        // What hostile input is complained about is nobody's business.
        settings.logger.callback = None;
        let mut context = std::ptr::null_mut();
        // SAFETY: both are valid for the call, and the settings are copied by it.
        match unsafe { dav1d_open(&mut context, &settings) } {
            0 => Ok(Av1Decoder { context }),
            code => Err(failed("start", code)),
        }
    }

    /// Decodes one temporal unit; the last of several pictures counts.
    pub fn decode(
        &mut self,
        data: &[u8],
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        check_units(data)?;
        // SAFETY: a C struct of pointers and integers for which zero is valid: dav1d's own example begins so.
        let mut input: Dav1dData = unsafe { std::mem::zeroed() };
        // SAFETY: `input` is valid to write to; as many bytes are allocated as are then copied.
        unsafe {
            let bytes = dav1d_data_create(&mut input, data.len());
            if bytes.is_null() {
                return Err(failed("decode", DAV1D_ERR(libc::ENOMEM)));
            }
            std::ptr::copy_nonoverlapping(data.as_ptr(), bytes, data.len());
        }
        let result = self.run(&mut input, pool, timestamp_us);
        if result.is_err() {
            // SAFETY: made by `dav1d_data_create`, or taken over and emptied by `dav1d_send_data`; the context is open.
            unsafe {
                dav1d_data_unref(&mut input);
                dav1d_flush(self.context);
            }
        }
        result
    }

    fn run(
        &mut self,
        input: &mut Dav1dData,
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        let mut shown = None;
        loop {
            let mut progress = false;
            if input.sz > 0 {
                // SAFETY: an open context and data of `dav1d_data_create`.
                match unsafe { dav1d_send_data(self.context, input) } {
                    0 => progress = true,
                    DAV1D_ERR_AGAIN => {}
                    code => return Err(refused(code)),
                }
            }
            let mut picture = Picture::default();
            // SAFETY: an open context; a picture that is valid to write to.
            match unsafe { dav1d_get_picture(self.context, &mut picture.0) } {
                0 => shown = Some(picture.copy(pool)?.freeze(timestamp_us)),
                DAV1D_ERR_AGAIN if input.sz == 0 => return Ok(shown),
                DAV1D_ERR_AGAIN if progress => {}
                DAV1D_ERR_AGAIN => return Err(corrupt("data that leads nowhere")),
                code => return Err(refused(code)),
            }
        }
    }
}

impl Drop for Av1Decoder {
    fn drop(&mut self) {
        // SAFETY: opened by `dav1d_open`, and closed only here.
        unsafe { dav1d_close(&mut self.context) };
    }
}

/// A picture of dav1d's, given back at the end.
struct Picture(Dav1dPicture);

impl Default for Picture {
    fn default() -> Picture {
        // SAFETY: a C struct of pointers, integers and an enum whose zero is "monochrome".
        Picture(unsafe { std::mem::zeroed() })
    }
}

impl Picture {
    fn copy(&self, pool: &FramePool) -> Result<FrameMut, MediaError> {
        let Dav1dPicture { p, data, stride, .. } = &self.0;
        if p.layout != Dav1dPixelLayout::DAV1D_PIXEL_LAYOUT_I420 || p.bpc != 8 {
            return Err(MediaError::Unsupported { codec: NAME, what: "other colour than 8-bit 4:2:0" });
        }
        let (width, height) = (p.w.max(0) as u32, p.h.max(0) as u32);
        // It checks the dimensions.
        let mut frame = pool.get(width, height)?;
        let half = (width.div_ceil(2) as usize, height.div_ceil(2) as usize);
        let sizes = [(width as usize, height as usize), half, half];
        for (i, (to, (row, rows))) in frame.planes_mut().into_iter().zip(sizes).enumerate() {
            let (from, stride) = (data[i].cast::<u8>(), stride[i.min(1)]);
            for (y, to) in to.data.chunks_exact_mut(to.stride).take(rows).enumerate() {
                // SAFETY: dav1d's plane has `rows` rows of at least `row` bytes, `stride` apart, and lives until the picture
                // is given back; nothing writes to it any more.
                let from = unsafe { std::slice::from_raw_parts(from.offset(y as isize * stride), row) };
                to[..row].copy_from_slice(from);
            }
        }
        Ok(frame)
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: written by `dav1d_get_picture`, or zero.
        unsafe { dav1d_picture_unref(&mut self.0) };
    }
}

/// What is not made of whole units is kept from the decoder.
fn check_units(data: &[u8]) -> Result<(), MediaError> {
    let mut units = 0;
    for unit in av1_obus(data) {
        unit.ok_or_else(|| corrupt("a unit that doesn't fit"))?;
        units += 1;
    }
    if units == 0 { Err(corrupt("no unit in it")) } else { Ok(()) }
}

fn refused(code: c_int) -> MediaError {
    match code {
        OUT_OF_RANGE => MediaError::Unsupported { codec: NAME, what: "a picture of so many pixels" },
        _ => corrupt(&format!("code {code}")),
    }
}

fn corrupt(reason: &str) -> MediaError {
    MediaError::Corrupt { codec: NAME, reason: reason.to_owned() }
}

fn failed(operation: &'static str, code: c_int) -> MediaError {
    MediaError::Codec { codec: NAME, operation, reason: format!("code {code}") }
}
