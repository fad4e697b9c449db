//! Raw frames: pooled I420 pictures and interleaved float audio.

use std::sync::{Arc, Mutex, Weak};

/// The largest width or height accepted anywhere: 8192 pixels.
pub const MAX_DIMENSION: u32 = 8192;
/// The largest picture accepted anywhere, in pixels: 4096 x 4096.
pub const MAX_PIXELS: u64 = 4096 * 4096;

/// One decoded or captured picture in I420 (8-bit planar YUV 4:2:0, BT.601 limited range).
///
/// Cloning shares the pixels. The buffer goes back to its pool when the last clone is dropped.
#[derive(Clone)]
pub struct VideoFrame {
    buf: Arc<FrameBuf>,
    timestamp_us: i64,
}

/// One plane of an I420 picture.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    /// Rows, `stride` bytes apart; exactly `stride * rows` bytes.
    pub data: &'a [u8],
    /// Bytes from one row to the next; at least the plane's width.
    pub stride: usize,
}

/// One writable plane of an I420 picture.
pub struct PlaneMut<'a> {
    /// Rows, `stride` bytes apart; exactly `stride * rows` bytes.
    pub data: &'a mut [u8],
    /// Bytes from one row to the next; at least the plane's width.
    pub stride: usize,
}

/// A picture that nobody else can see yet. [`FrameMut::freeze`] makes it a [`VideoFrame`].
pub struct FrameMut {
    buf: FrameBuf,
}

/// Gives out picture buffers and takes them back. Clones share one pool.
///
/// It keeps at most `max_idle` unused buffers of the size asked for last, so a change of resolution frees the old ones.
#[derive(Clone)]
pub struct FramePool {
    inner: Arc<PoolInner>,
}

/// Why a picture can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, or over [`MAX_DIMENSION`] or [`MAX_PIXELS`].
    #[error(
        "a picture of {width}x{height} is outside 1x1 to {MAX_DIMENSION}x{MAX_DIMENSION} and {MAX_PIXELS} pixels"
    )]
    Dimensions {
        /// Width asked for, in pixels.
        width: u32,
        /// Height asked for, in pixels.
        height: u32,
    },
    /// The bytes given don't hold a picture of the size named.
    #[error("a {format} picture of {width}x{height} takes {expected} bytes, the buffer has {actual}")]
    BufferSize {
        /// `I420` or `RGBA`.
        format: &'static str,
        /// Width, in pixels.
        width: u32,
        /// Height, in pixels.
        height: u32,
        /// Bytes such a picture takes.
        expected: usize,
        /// Bytes there were.
        actual: usize,
    },
}

/// A run of audio samples, interleaved, nominally within -1.0..=1.0. Cloning shares the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioFrame {
    /// Interleaved samples; the length is a multiple of `channels`.
    pub samples: Arc<Vec<f32>>,
    /// Samples a second and channel, in hertz.
    pub sample_rate: u32,
    /// 1 (mono) or 2 (stereo, left first).
    pub channels: u16,
    /// When the first sample was captured, in microseconds on the sender's media clock.
    pub timestamp_us: i64,
}

struct FrameBuf {
    data: Vec<u8>,
    width: u32,
    height: u32,
    pool: Weak<PoolInner>,
}

struct PoolInner {
    idle: Mutex<Vec<Vec<u8>>>,
    max_idle: usize,
}

impl VideoFrame {
    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.buf.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.buf.height
    }

    /// When the picture was captured, in microseconds on the sender's media clock.
    pub fn timestamp_us(&self) -> i64 {
        self.timestamp_us
    }

    /// The same pixels under another timestamp.
    pub fn with_timestamp_us(&self, timestamp_us: i64) -> VideoFrame {
        VideoFrame { buf: self.buf.clone(), timestamp_us }
    }

    /// Luma, then blue difference, then red difference.
    pub fn planes(&self) -> [Plane<'_>; 3] {
        let [y, u, v] = plane_layout(self.buf.width, self.buf.height);
        let plane =
            |p: &PlaneLayout| Plane { data: &self.buf.data[p.offset..p.offset + p.len], stride: p.stride };
        [plane(&y), plane(&u), plane(&v)]
    }

    /// Bytes of the packed I420 picture, without padding.
    pub fn i420_len(&self) -> usize {
        i420_len(self.buf.width, self.buf.height)
    }

    /// The whole buffer: the three planes one behind the other, tightly packed (stride = plane width).
    pub fn data(&self) -> &[u8] {
        &self.buf.data
    }

    /// Makes a picture from tightly packed I420 bytes.
    pub fn from_i420(
        pool: &FramePool,
        data: &[u8],
        width: u32,
        height: u32,
        timestamp_us: i64,
    ) -> Result<VideoFrame, FrameError> {
        check_dimensions(width, height)?;
        let expected = i420_len(width, height);
        if data.len() != expected {
            return Err(FrameError::BufferSize {
                format: "I420",
                width,
                height,
                expected,
                actual: data.len(),
            });
        }
        let mut frame = pool.get(width, height)?;
        frame.buf.data.copy_from_slice(data);
        Ok(frame.freeze(timestamp_us))
    }
}

impl FrameMut {
    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.buf.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.buf.height
    }

    /// Luma, then blue difference, then red difference. What is in them before you write is unspecified.
    pub fn planes_mut(&mut self) -> [PlaneMut<'_>; 3] {
        let [y, u, v] = plane_layout(self.buf.width, self.buf.height);
        let (y_data, rest) = self.buf.data.split_at_mut(u.offset);
        let (u_data, v_data) = rest.split_at_mut(u.len);
        [
            PlaneMut { data: y_data, stride: y.stride },
            PlaneMut { data: u_data, stride: u.stride },
            PlaneMut { data: v_data, stride: v.stride },
        ]
    }

    /// The whole buffer, laid out as [`VideoFrame::data`].
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buf.data
    }

    /// Ends writing: from here on the picture is shared and never changes.
    pub fn freeze(self, timestamp_us: i64) -> VideoFrame {
        VideoFrame { buf: Arc::new(self.buf), timestamp_us }
    }
}

impl FramePool {
    /// A pool that keeps at most `max_idle` unused buffers.
    pub fn new(max_idle: usize) -> FramePool {
        FramePool { inner: Arc::new(PoolInner { idle: Mutex::new(Vec::new()), max_idle }) }
    }

    /// A buffer for a picture of this size: an unused one where there is one, else a new one.
    pub fn get(&self, width: u32, height: u32) -> Result<FrameMut, FrameError> {
        check_dimensions(width, height)?;
        let len = i420_len(width, height);
        let reused = {
            let mut idle = lock(&self.inner.idle);
            idle.retain(|b| b.len() == len);
            idle.pop()
        };
        let data = reused.unwrap_or_else(|| vec![0; len]);
        Ok(FrameMut { buf: FrameBuf { data, width, height, pool: Arc::downgrade(&self.inner) } })
    }

    /// Unused buffers kept right now.
    pub fn idle(&self) -> usize {
        lock(&self.inner.idle).len()
    }
}

impl Default for FramePool {
    fn default() -> Self {
        FramePool::new(8)
    }
}

impl Drop for FrameBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let mut idle = lock(&pool.idle);
            if idle.len() < pool.max_idle {
                idle.push(std::mem::take(&mut self.data));
            }
        }
    }
}

impl std::fmt::Debug for VideoFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VideoFrame({}x{} at {} us)", self.width(), self.height(), self.timestamp_us)
    }
}

impl AudioFrame {
    /// Samples a channel.
    pub fn frames(&self) -> usize {
        self.samples.len() / usize::from(self.channels.max(1))
    }

    /// How long it lasts, in microseconds.
    pub fn duration_us(&self) -> i64 {
        self.frames() as i64 * 1_000_000 / i64::from(self.sample_rate.max(1))
    }
}

/// Bytes of a tightly packed I420 picture; odd sizes round the chroma planes up.
pub fn i420_len(width: u32, height: u32) -> usize {
    let (w, h) = (width as usize, height as usize);
    w * h + 2 * w.div_ceil(2) * h.div_ceil(2)
}

/// Refuses a size outside the limits, before anything is allocated for it.
pub fn check_dimensions(width: u32, height: u32) -> Result<(), FrameError> {
    let ok = (1..=MAX_DIMENSION).contains(&width)
        && (1..=MAX_DIMENSION).contains(&height)
        && u64::from(width) * u64::from(height) <= MAX_PIXELS;
    if ok { Ok(()) } else { Err(FrameError::Dimensions { width, height }) }
}

struct PlaneLayout {
    offset: usize,
    len: usize,
    stride: usize,
}

fn plane_layout(width: u32, height: u32) -> [PlaneLayout; 3] {
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    [
        PlaneLayout { offset: 0, len: w * h, stride: w },
        PlaneLayout { offset: w * h, len: cw * ch, stride: cw },
        PlaneLayout { offset: w * h + cw * ch, len: cw * ch, stride: cw },
    ]
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_reused_once_the_last_clone_is_gone() {
        let pool = FramePool::new(2);
        let frame = pool.get(64, 48).unwrap().freeze(7);
        let address = frame.data().as_ptr();
        let clone = frame.with_timestamp_us(8);
        drop(frame);
        assert_eq!(pool.idle(), 0);
        drop(clone);
        assert_eq!(pool.idle(), 1);
        assert_eq!(pool.get(64, 48).unwrap().freeze(0).data().as_ptr(), address);
    }

    #[test]
    fn odd_sizes_round_chroma_up_and_bad_sizes_are_refused() {
        assert_eq!(i420_len(5, 3), 15 + 2 * 3 * 2);
        let pool = FramePool::default();
        assert!(matches!(pool.get(0, 1), Err(FrameError::Dimensions { .. })));
        assert!(matches!(pool.get(16_384, 16_384), Err(FrameError::Dimensions { .. })));
        assert!(matches!(
            VideoFrame::from_i420(&pool, &[0; 10], 4, 4, 0),
            Err(FrameError::BufferSize { expected: 24, actual: 10, .. })
        ));
    }
}
