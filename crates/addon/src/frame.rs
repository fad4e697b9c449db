//! `VideoFrame`: a handle on native pixels.

use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::{ArrayBuffer, Either, Env, ObjectFinalize, Result, Uint8Array};
use napi_derive::napi;
use remotemedia_media::{FramePool, VideoFrame};

use crate::error::NativeError;

/// A picture. Its bytes stay native until they are asked for.
#[napi(js_name = "NativeVideoFrame", custom_finalize)]
pub struct Frame {
    slot: Arc<Slot>,
    width: u32,
    height: u32,
    timestamp_us: i64,
    /// Bytes that V8 was told of.
    accounted: i64,
}

/// Holds the pixels for a handle and for the views on them. Emptied by `close()`, once the views are detached.
struct Slot(Mutex<Option<VideoFrame>>);

impl Frame {
    pub(crate) fn new(frame: VideoFrame) -> Frame {
        Frame {
            width: frame.width(),
            height: frame.height(),
            timestamp_us: frame.timestamp_us(),
            accounted: 0,
            slot: Arc::new(Slot(Mutex::new(Some(frame)))),
        }
    }

    /// A reference of the caller's own; `None` after `close()`.
    pub(crate) fn share(&self) -> Option<VideoFrame> {
        self.slot.get()
    }
}

impl Slot {
    fn get(&self) -> Option<VideoFrame> {
        self.0.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }

    fn take(&self) -> Option<VideoFrame> {
        self.0.lock().unwrap_or_else(|p| p.into_inner()).take()
    }
}

#[napi]
impl Frame {
    /// Makes a picture of tightly packed `I420` or `RGBA` bytes, which are copied.
    #[napi(catch_unwind)]
    pub fn from(
        data: &[u8],
        format: String,
        width: u32,
        height: u32,
        timestamp_us: i64,
    ) -> Either<Frame, NativeError> {
        let pool = frame_pool();
        let frame = match format.as_str() {
            "I420" => VideoFrame::from_i420(pool, data, width, height, timestamp_us),
            _ => VideoFrame::from_rgba(pool, data, width, height, timestamp_us),
        };
        match frame {
            Ok(frame) => Either::A(Frame::new(frame)),
            Err(error) => Either::B(NativeError::config(error)),
        }
    }

    /// Tells V8 what this handle holds, so that garbage collection knows how much there is to gain.
    #[napi(catch_unwind)]
    pub fn account(&mut self, env: Env) -> Result<()> {
        if self.accounted == 0
            && let Some(frame) = self.slot.get()
        {
            self.accounted = frame.data().len() as i64;
            env.adjust_external_memory(self.accounted)?;
        }
        Ok(())
    }

    /// Width in pixels.
    #[napi(getter)]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[napi(getter)]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// When it was captured, in microseconds.
    #[napi(getter)]
    pub fn timestamp_us(&self) -> i64 {
        self.timestamp_us
    }

    /// Whether `close()` was called.
    #[napi(getter)]
    pub fn closed(&self) -> bool {
        self.slot.get().is_none()
    }

    /// Copies the pixels as tightly packed `I420` or `RGBA`.
    #[napi(catch_unwind)]
    pub fn copy_to(&self, mut out: Uint8Array, format: String) -> Option<NativeError> {
        let Some(frame) = self.slot.get() else { return Some(NativeError::closed("frame")) };
        // SAFETY: this is a synchronous call on the JavaScript thread, the only one that may touch the array.
        let out = unsafe { out.as_mut() };
        let result = if format == "I420" { frame.copy_to_i420(out) } else { frame.copy_to_rgba(out) };
        result.err().map(NativeError::config)
    }

    /// The whole I420 buffer without copying, valid until `detach` is called with it. Read-only by contract: other
    /// holders of the frame see the same memory.
    #[napi(catch_unwind)]
    pub fn view<'env>(&self, env: &'env Env) -> Result<Option<ArrayBuffer<'env>>> {
        let Some(frame) = self.slot.get() else { return Ok(None) };
        let data = frame.data();
        let (pointer, len) = (data.as_ptr().cast_mut(), data.len());
        let keep = self.slot.clone();
        // SAFETY: the memory lives in `slot` as long as this view does, unless `close()` empties it, which detaches the
        // view first. Nothing writes through the pointer here.
        let buffer = unsafe { ArrayBuffer::from_external(env, pointer, len, keep, |_, keep| drop(keep)) }?;
        Ok(Some(buffer))
    }

    /// Another handle on the same pixels; `null` after `close()`.
    #[napi(catch_unwind)]
    pub fn clone_handle(&self) -> Option<Frame> {
        self.slot.get().map(|f| Frame::new(f.with_timestamp_us(self.timestamp_us)))
    }

    /// Lets the pixels go, and detaches the view on them. Calling it again does nothing.
    #[napi(catch_unwind)]
    pub fn close(&mut self, env: Env, view: Option<ArrayBuffer<'_>>) -> Result<()> {
        env.adjust_external_memory(-std::mem::take(&mut self.accounted))?;
        if let Some(view) = view {
            view.detach()?;
        }
        drop(self.slot.take());
        Ok(())
    }
}

impl ObjectFinalize for Frame {
    fn finalize(self, env: Env) -> Result<()> {
        env.adjust_external_memory(-self.accounted)?;
        Ok(())
    }
}

/// One pool for all frames that JavaScript makes.
pub(crate) fn frame_pool() -> &'static FramePool {
    static POOL: std::sync::OnceLock<FramePool> = std::sync::OnceLock::new();
    POOL.get_or_init(|| FramePool::new(16))
}
