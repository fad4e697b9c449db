//! VP8 and VP9 decoding of input that nobody vouches for.

use std::ffi::c_int;

use vpx_sys::vp8_dec_control_id::VP8D_GET_FRAME_CORRUPTED;
use vpx_sys::{
    VPX_DECODER_ABI_VERSION, vpx_codec_control_, vpx_codec_dec_cfg_t, vpx_codec_dec_init_ver,
    vpx_codec_decode, vpx_codec_get_frame, vpx_codec_vp8_dx, vpx_codec_vp9_dx, vpx_image_t, vpx_img_fmt,
};

use super::Context;
use crate::bitstream::{vp8_header, vp9_frames, vp9_header};
use crate::frame::{FramePool, VideoFrame, check_dimensions};
use crate::{MediaError, VideoCodec};

pub(crate) struct VpxDecoder {
    context: Context,
    codec: VideoCodec,
    /// One VP9 frame with an index behind it, see [`with_index`].
    indexed: Vec<u8>,
}

impl VpxDecoder {
    pub fn new(codec: VideoCodec) -> Result<VpxDecoder, MediaError> {
        // One thread: in a call there are more pictures to decode than cores anyway.
        let config = vpx_codec_dec_cfg_t { threads: 1, w: 0, h: 0 };
        // SAFETY: an init function on a static interface; the configuration is copied by it.
        let context = unsafe {
            let interface = if codec == VideoCodec::Vp9 { vpx_codec_vp9_dx() } else { vpx_codec_vp8_dx() };
            Context::new(|raw| {
                vpx_codec_dec_init_ver(raw, interface, &config, 0, VPX_DECODER_ABI_VERSION as c_int)
            })
        };
        let failed = |reason| MediaError::Codec { codec: codec.name(), operation: "start", reason };
        Ok(VpxDecoder { context: context.map_err(failed)?, codec, indexed: Vec::new() })
    }

    pub fn decode(
        &mut self,
        data: &[u8],
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        if self.codec == VideoCodec::Vp8 {
            self.check_vp8(data)?;
            return self.decode_one(data, pool, timestamp_us);
        }
        let frames = vp9_frames(data).ok_or_else(|| self.corrupt("a superframe index that doesn't fit"))?;
        let mut shown = None;
        for frame in frames {
            self.check_vp9(frame)?;
            let indexed = with_index(std::mem::take(&mut self.indexed), frame);
            let result = self.decode_one(&indexed, pool, timestamp_us);
            self.indexed = indexed;
            shown = result?.or(shown);
        }
        Ok(shown)
    }

    fn decode_one(
        &mut self,
        data: &[u8],
        pool: &FramePool,
        timestamp_us: i64,
    ) -> Result<Option<VideoFrame>, MediaError> {
        let len = u32::try_from(data.len()).map_err(|_| self.corrupt("a frame of more than 4 GiB"))?;
        // SAFETY: an initialised decoder; libvpx reads `len` bytes and keeps no pointer to them.
        let code =
            unsafe { vpx_codec_decode(self.context.as_mut(), data.as_ptr(), len, std::ptr::null_mut(), 0) };
        self.context.check(code).map_err(|reason| self.corrupt(&reason))?;
        let mut position = std::ptr::null();
        let mut shown = None;
        loop {
            // SAFETY: an initialised decoder and its own cursor. The image is valid until the next decode call.
            let image = unsafe { vpx_codec_get_frame(self.context.as_mut(), &mut position).as_ref() };
            let Some(image) = image else { break };
            shown = Some(self.copy(image, pool)?.freeze(timestamp_us));
        }
        let mut damaged: c_int = 0;
        // SAFETY: the control writes one C int. It fails where there is no frame yet, and then there is nothing to say.
        let _ = unsafe {
            vpx_codec_control_(
                self.context.as_mut(),
                VP8D_GET_FRAME_CORRUPTED as c_int,
                &mut damaged as *mut c_int,
            )
        };
        if damaged != 0 {
            return Err(self.corrupt("a damaged frame, or one that refers to a damaged one"));
        }
        Ok(shown)
    }

    fn copy(&self, image: &vpx_image_t, pool: &FramePool) -> Result<crate::FrameMut, MediaError> {
        if image.fmt != vpx_img_fmt::VPX_IMG_FMT_I420 || image.bit_depth != 8 && image.bit_depth != 0 {
            return Err(MediaError::Unsupported {
                codec: self.codec.name(),
                what: "other colour than 8-bit 4:2:0",
            });
        }
        let (width, height) = (image.d_w, image.d_h);
        let mut frame = pool.get(width, height)?;
        let rows = |h: u32| h as usize;
        let sizes = [
            (width as usize, rows(height)),
            (width.div_ceil(2) as usize, rows(height.div_ceil(2))),
            (width.div_ceil(2) as usize, rows(height.div_ceil(2))),
        ];
        for (i, (to, (row, rows))) in frame.planes_mut().into_iter().zip(sizes).enumerate() {
            for (y, to) in to.data.chunks_exact_mut(to.stride).take(rows).enumerate() {
                // SAFETY: libvpx's plane has `rows` rows of at least `row` bytes, `stride` apart, and lives until the
                // next decode call; nothing writes to it meanwhile.
                let from = unsafe {
                    let start = image.planes[i].offset(y as isize * image.stride[i] as isize);
                    std::slice::from_raw_parts(start, row)
                };
                to[..row].copy_from_slice(from);
            }
        }
        Ok(frame)
    }

    fn check_vp8(&self, data: &[u8]) -> Result<(), MediaError> {
        let header = vp8_header(data).ok_or_else(|| self.corrupt("no VP8 frame header"))?;
        self.check_size(header.size)
    }

    fn check_vp9(&self, frame: &[u8]) -> Result<(), MediaError> {
        let header = vp9_header(frame).ok_or_else(|| self.corrupt("no VP9 frame header"))?;
        if header.profile != 0 {
            return Err(MediaError::Unsupported { codec: self.codec.name(), what: "a profile other than 0" });
        }
        self.check_size(header.size)
    }

    fn check_size(&self, size: Option<(u32, u32)>) -> Result<(), MediaError> {
        Ok(size.map_or(Ok(()), |(width, height)| check_dimensions(width, height))?)
    }

    fn corrupt(&self, reason: &str) -> MediaError {
        MediaError::Corrupt { codec: self.codec.name(), reason: reason.to_owned() }
    }
}

/// Puts a VP9 frame into `buffer`, with a superframe index behind it that lists just this frame.
///
/// Without an index libvpx takes whatever a frame leaves over for a further frame, whose header nobody has looked at: a
/// way around the size check. With one it decodes what is listed.
fn with_index(mut buffer: Vec<u8>, frame: &[u8]) -> Vec<u8> {
    // One frame, four bytes for its length.
    const MARKER: u8 = 0xc0 | 3 << 3;
    buffer.clear();
    buffer.extend_from_slice(frame);
    buffer.push(MARKER);
    buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    buffer.push(MARKER);
    buffer
}
