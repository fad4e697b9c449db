//! Between I420 and RGBA: 8 bits, BT.601, limited range, as WebRTC's video is unless it says otherwise.

use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPlanarImage, YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
};

use crate::frame::{FrameError, FramePool, VideoFrame, check_dimensions, i420_len};

impl VideoFrame {
    /// Makes a picture from RGBA bytes, four a pixel, rows one behind the other. Alpha is left out.
    pub fn from_rgba(
        pool: &FramePool,
        data: &[u8],
        width: u32,
        height: u32,
        timestamp_us: i64,
    ) -> Result<VideoFrame, FrameError> {
        check_dimensions(width, height)?;
        check_len("RGBA", width, height, rgba_len(width, height), data.len())?;
        let mut frame = pool.get(width, height)?;
        let [y, u, v] = frame.planes_mut();
        let mut image = YuvPlanarImageMut {
            y_stride: y.stride as u32,
            u_stride: u.stride as u32,
            v_stride: v.stride as u32,
            y_plane: BufferStoreMut::Borrowed(y.data),
            u_plane: BufferStoreMut::Borrowed(u.data),
            v_plane: BufferStoreMut::Borrowed(v.data),
            width,
            height,
        };
        let converted = yuv::rgba_to_yuv420(
            &mut image,
            data,
            width * 4,
            YuvRange::Limited,
            YuvStandardMatrix::Bt601,
            YuvConversionMode::Balanced,
        );
        // Sizes are all it can refuse, and they were checked.
        converted.map_err(|_| FrameError::Dimensions { width, height })?;
        Ok(frame.freeze(timestamp_us))
    }

    /// Writes the picture as RGBA, four bytes a pixel, opaque. `out` has exactly [`rgba_len`](Self::rgba_len) bytes.
    pub fn copy_to_rgba(&self, out: &mut [u8]) -> Result<(), FrameError> {
        let (width, height) = (self.width(), self.height());
        check_len("RGBA", width, height, self.rgba_len(), out.len())?;
        let [y, u, v] = self.planes();
        let image = YuvPlanarImage {
            y_plane: y.data,
            y_stride: y.stride as u32,
            u_plane: u.data,
            u_stride: u.stride as u32,
            v_plane: v.data,
            v_stride: v.stride as u32,
            width,
            height,
        };
        yuv::yuv420_to_rgba(&image, out, width * 4, YuvRange::Limited, YuvStandardMatrix::Bt601)
            .map_err(|_| FrameError::Dimensions { width, height })
    }

    /// Copies the packed I420 picture. `out` has exactly [`i420_len`](Self::i420_len) bytes.
    pub fn copy_to_i420(&self, out: &mut [u8]) -> Result<(), FrameError> {
        let (width, height) = (self.width(), self.height());
        check_len("I420", width, height, i420_len(width, height), out.len())?;
        out.copy_from_slice(self.data());
        Ok(())
    }

    /// Bytes of the picture as RGBA.
    pub fn rgba_len(&self) -> usize {
        rgba_len(self.width(), self.height())
    }
}

fn rgba_len(width: u32, height: u32) -> usize {
    width as usize * height as usize * 4
}

fn check_len(
    format: &'static str,
    width: u32,
    height: u32,
    expected: usize,
    actual: usize,
) -> Result<(), FrameError> {
    if actual == expected {
        Ok(())
    } else {
        Err(FrameError::BufferSize { format, width, height, expected, actual })
    }
}
