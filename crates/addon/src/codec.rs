//! The codecs as classes of their own.

use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::{AsyncTask, Buffer, ClassInstance, Either, Env, Result, Task, Uint8Array};
use napi_derive::napi;
use remotemedia_media::{
    AudioFrame, AudioFramer, EncodedFrame, MediaError, OpusDecoder, OpusEncoder, OpusEncoderConfig,
    VideoCodec, VideoContent, VideoDecoder, VideoEncoder, VideoEncoderConfig, VideoFrame,
};

use crate::error::NativeError;
use crate::frame::{Frame, frame_pool};
use crate::item::ItemOut;

/// How audio is encoded; ranges are checked in TypeScript and again in the codec.
#[napi(object, object_to_js = false)]
pub struct AudioEncoderOptions {
    /// 1 or 2.
    pub channels: u32,
    /// bit/s.
    pub bitrate_bps: u32,
    /// 10, 20, 40 or 60.
    pub frame_ms: u32,
    /// In-band forward error correction.
    pub fec: bool,
    /// Discontinuous transmission.
    pub dtx: bool,
    /// 0 to 10.
    pub complexity: u32,
    /// 0 to 100.
    pub expected_loss_pct: u32,
}

/// One Opus packet.
#[napi(object, object_from_js = false)]
pub struct AudioPacket {
    /// Its bytes.
    pub data: Buffer,
    /// When its first sample was captured, in microseconds.
    pub timestamp_us: i64,
}

/// Opus encoder. Takes any rate and length, gives whole packets.
#[napi(js_name = "NativeAudioEncoder")]
pub struct AudioEncoder(Option<(AudioFramer, OpusEncoder)>);

/// Opus decoder.
#[napi(js_name = "NativeAudioDecoder")]
pub struct AudioDecoder {
    decoder: Option<OpusDecoder>,
    channels: u16,
}

/// How video is encoded.
#[napi(object, object_to_js = false)]
pub struct VideoEncoderOptions {
    /// `vp9`, `vp8` or `h264`.
    pub codec: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// bit/s.
    pub bitrate_bps: u32,
    /// Frames a second.
    pub max_fps: u32,
    /// Speed step; absent: adapts.
    pub cpu_used: Option<i32>,
    /// `motion`, `detail` or `text`.
    pub content: String,
    /// 1 to 3.
    pub temporal_layers: u32,
}

/// What changes of a running encoder; absent: stays.
#[napi(object, object_to_js = false)]
pub struct VideoEncoderChanges {
    /// bit/s.
    pub bitrate_bps: Option<u32>,
    /// Frames a second.
    pub max_fps: Option<u32>,
    /// 1 to 3.
    pub temporal_layers: Option<u32>,
}

/// One encoded picture.
#[napi(object, object_from_js = false)]
pub struct VideoPacket {
    /// A VP8 or VP9 frame, or an H.264 access unit in Annex B form.
    pub data: Buffer,
    /// Decodable without anything before it.
    pub keyframe: bool,
    /// Microseconds.
    pub timestamp_us: i64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// 0 for what others need.
    pub temporal_layer: u32,
}

type Shared<T> = Arc<Mutex<Option<T>>>;

/// Video encoder. Encoding runs off the JavaScript thread; TypeScript keeps calls in order.
#[napi(js_name = "NativeVideoEncoder")]
pub struct JsVideoEncoder(Shared<VideoEncoder>);

/// Video decoder. Decoding runs off the JavaScript thread; TypeScript keeps calls in order.
#[napi(js_name = "NativeVideoDecoder")]
pub struct JsVideoDecoder(Shared<VideoDecoder>);

/// One call of an encoder on a worker.
pub struct EncodeTask {
    encoder: Shared<VideoEncoder>,
    frame: Option<VideoFrame>,
    keyframe: bool,
}

/// One call of a decoder on a worker.
pub struct DecodeTask {
    decoder: Shared<VideoDecoder>,
    data: Vec<u8>,
    timestamp_us: i64,
}

#[napi]
impl AudioEncoder {
    /// Opens the encoder.
    #[napi(catch_unwind)]
    pub fn open(options: AudioEncoderOptions) -> Either<AudioEncoder, NativeError> {
        let config = OpusEncoderConfig {
            channels: options.channels as u16,
            bitrate_bps: options.bitrate_bps,
            frame_ms: options.frame_ms,
            fec: options.fec,
            dtx: options.dtx,
            complexity: options.complexity as u8,
            expected_loss_pct: options.expected_loss_pct as u8,
        };
        let parts = AudioFramer::new(config.channels, config.frame_ms)
            .and_then(|framer| Ok((framer, OpusEncoder::new(config)?)));
        match parts {
            Ok(parts) => Either::A(AudioEncoder(Some(parts))),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Takes samples, gives the packets that are whole.
    #[napi(catch_unwind)]
    pub fn encode(
        &mut self,
        samples: &[f32],
        sample_rate: u32,
        channels: u32,
        timestamp_us: i64,
    ) -> Either<Vec<AudioPacket>, NativeError> {
        let Some((framer, encoder)) = &mut self.0 else { return Either::B(NativeError::closed("encoder")) };
        let frame = AudioFrame {
            samples: Arc::new(samples.to_vec()),
            sample_rate,
            channels: channels as u16,
            timestamp_us,
        };
        let mut packets = Vec::new();
        let mut scratch = Vec::new();
        let result = framer.push(&frame).and_then(|()| {
            while let Some(timestamp_us) = framer.pop(&mut scratch) {
                let data = encoder.encode(&scratch)?;
                packets.push(AudioPacket { data: data.to_vec().into(), timestamp_us });
            }
            Ok(())
        });
        match result {
            Ok(()) => Either::A(packets),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Changes the bitrate from the next packet on.
    #[napi(catch_unwind)]
    pub fn set_bitrate(&mut self, bitrate_bps: u32) -> Option<NativeError> {
        let Some((_, encoder)) = &mut self.0 else { return Some(NativeError::closed("encoder")) };
        encoder.set_bitrate(bitrate_bps).err().map(|e| media_error(&e))
    }

    /// Frees the codec.
    #[napi]
    pub fn close(&mut self) {
        self.0 = None;
    }
}

#[napi]
impl AudioDecoder {
    /// Opens the decoder.
    #[napi(catch_unwind)]
    pub fn open(channels: u32) -> Either<AudioDecoder, NativeError> {
        match OpusDecoder::new(channels as u16) {
            Ok(decoder) => Either::A(AudioDecoder { decoder: Some(decoder), channels: channels as u16 }),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Decodes one packet, or with none conceals a lost one of `lost_samples` a channel.
    #[napi(catch_unwind)]
    pub fn decode(
        &mut self,
        packet: Option<Uint8Array>,
        lost_samples: u32,
        timestamp_us: i64,
    ) -> Either<ItemOut, NativeError> {
        let channels = self.channels;
        let Some(decoder) = &mut self.decoder else { return Either::B(NativeError::closed("decoder")) };
        let mut samples = Vec::new();
        let result = match packet {
            Some(packet) => decoder.decode(&packet, &mut samples),
            None => decoder.conceal(lost_samples as usize, &mut samples),
        };
        match result {
            Ok(_) => Either::A(ItemOut::audio(AudioFrame {
                samples: Arc::new(samples),
                sample_rate: 48_000,
                channels,
                timestamp_us,
            })),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Frees the codec.
    #[napi]
    pub fn close(&mut self) {
        self.decoder = None;
    }
}

#[napi]
impl JsVideoEncoder {
    /// Opens the encoder.
    #[napi(catch_unwind)]
    pub fn open(options: VideoEncoderOptions) -> Either<JsVideoEncoder, NativeError> {
        let Ok(codec) = options.codec.parse::<VideoCodec>() else {
            return Either::B(NativeError::config(format_args!("codec '{}' is not known", options.codec)));
        };
        let Some(content) = content(&options.content) else {
            return Either::B(NativeError::config(format_args!(
                "content '{}' is not known",
                options.content
            )));
        };
        let config = VideoEncoderConfig {
            bitrate_bps: options.bitrate_bps,
            max_fps: options.max_fps,
            cpu_used: options.cpu_used,
            content,
            temporal_layers: layers(options.temporal_layers),
            ..VideoEncoderConfig::new(codec, options.width, options.height)
        };
        match VideoEncoder::new(config) {
            Ok(encoder) => Either::A(JsVideoEncoder(Arc::new(Mutex::new(Some(encoder))))),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Encodes one picture; null when rate control dropped it.
    #[napi(ts_return_type = "Promise<VideoPacket | null | NativeError>")]
    pub fn encode(&self, frame: ClassInstance<'_, Frame>, keyframe: bool) -> AsyncTask<EncodeTask> {
        AsyncTask::new(EncodeTask { encoder: self.0.clone(), frame: frame.share(), keyframe })
    }

    /// Changes settings from the next picture on.
    #[napi(catch_unwind)]
    pub fn reconfigure(&self, changes: VideoEncoderChanges) -> Option<NativeError> {
        let mut guard = lock(&self.0);
        let Some(encoder) = guard.as_mut() else { return Some(NativeError::closed("encoder")) };
        let VideoEncoderChanges { bitrate_bps, max_fps, temporal_layers } = changes;
        // What the codec may refuse comes first; the others TypeScript has checked.
        let result = temporal_layers
            .map_or(Ok(()), |count| encoder.set_temporal_layers(layers(count)))
            .and_then(|()| bitrate_bps.map_or(Ok(()), |bps| encoder.set_bitrate(bps)))
            .and_then(|()| max_fps.map_or(Ok(()), |fps| encoder.set_framerate(fps)));
        result.err().map(|e| media_error(&e))
    }

    /// Frees the codec.
    #[napi]
    pub fn close(&self) {
        lock(&self.0).take();
    }
}

#[napi]
impl JsVideoDecoder {
    /// Opens the decoder.
    #[napi(catch_unwind)]
    pub fn open(codec: String) -> Either<JsVideoDecoder, NativeError> {
        let Ok(codec) = codec.parse::<VideoCodec>() else {
            return Either::B(NativeError::config(format_args!("codec '{codec}' is not known")));
        };
        match VideoDecoder::new(codec, frame_pool().clone()) {
            Ok(decoder) => Either::A(JsVideoDecoder(Arc::new(Mutex::new(Some(decoder))))),
            Err(error) => Either::B(media_error(&error)),
        }
    }

    /// Decodes one picture; null when it shows nothing.
    #[napi(ts_return_type = "Promise<NativeVideoFrame | null | NativeError>")]
    pub fn decode(&self, data: Uint8Array, timestamp_us: i64) -> AsyncTask<DecodeTask> {
        AsyncTask::new(DecodeTask { decoder: self.0.clone(), data: data.to_vec(), timestamp_us })
    }

    /// Frees the codec.
    #[napi]
    pub fn close(&self) {
        lock(&self.0).take();
    }
}

type Outcome<T> = std::result::Result<Option<T>, NativeError>;

impl Task for EncodeTask {
    type Output = Outcome<EncodedFrame>;
    type JsValue = Either<Option<VideoPacket>, NativeError>;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(guarded(|| {
            let frame = self.frame.take().ok_or_else(|| NativeError::closed("frame"))?;
            let mut guard = lock(&self.encoder);
            let encoder = guard.as_mut().ok_or_else(|| NativeError::closed("encoder"))?;
            encoder.encode(&frame, self.keyframe).map_err(|e| media_error(&e))
        }))
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> Result<Self::JsValue> {
        Ok(match output {
            Ok(encoded) => Either::A(encoded.map(|e| VideoPacket {
                data: e.data.to_vec().into(),
                keyframe: e.keyframe,
                timestamp_us: e.timestamp_us,
                width: e.width,
                height: e.height,
                temporal_layer: e.temporal_layer.into(),
            })),
            Err(error) => Either::B(error),
        })
    }
}

impl Task for DecodeTask {
    type Output = Outcome<VideoFrame>;
    type JsValue = Either<Option<Frame>, NativeError>;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(guarded(|| {
            let mut guard = lock(&self.decoder);
            let decoder = guard.as_mut().ok_or_else(|| NativeError::closed("decoder"))?;
            decoder.decode(&self.data, self.timestamp_us).map_err(|e| media_error(&e))
        }))
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> Result<Self::JsValue> {
        Ok(match output {
            Ok(frame) => Either::A(frame.map(Frame::new)),
            Err(error) => Either::B(error),
        })
    }
}

/// A panic in a worker would end the process: it becomes an error.
fn guarded<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(NativeError::codec("the codec panicked; close it and open another")))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn content(name: &str) -> Option<VideoContent> {
    match name {
        "motion" => Some(VideoContent::Motion),
        "detail" => Some(VideoContent::Detail),
        "text" => Some(VideoContent::Text),
        _ => None,
    }
}

/// One out of range stays so.
fn layers(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn media_error(error: &MediaError) -> NativeError {
    match error {
        MediaError::Config { .. } | MediaError::Frame(_) => NativeError::config(error),
        _ => NativeError::codec(error),
    }
}
