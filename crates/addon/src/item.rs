//! `TransportData` on its way in and out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use napi::bindgen_prelude::{ClassInstance, Float32Array, Uint8Array};
use napi_derive::napi;
use remotemedia_media::AudioFrame;
use remotemedia_pipeline::{Data, Item};

use crate::error::NativeError;
use crate::frame::Frame;

/// What comes from JavaScript. A picture travels beside it, as a handle.
#[napi(object, object_to_js = false)]
pub struct ItemIn {
    /// `audio`, `video`, `text`, `json`, `binary` or `audioMix`.
    pub kind: String,
    /// Audio: interleaved samples.
    pub samples: Option<Float32Array>,
    /// Audio: hertz.
    pub sample_rate: Option<u32>,
    /// Audio: 1 or 2.
    pub channels: Option<u32>,
    /// Text, or JSON as text.
    pub text: Option<String>,
    /// Bytes.
    pub data: Option<Uint8Array>,
    /// `audioMix`: what is to be summed.
    pub inputs: Option<Vec<AudioParts>>,
    /// Microseconds.
    pub timestamp_us: Option<i64>,
    /// The sender's count.
    pub sequence: Option<i64>,
    /// Whatever the application attached.
    pub metadata: Option<HashMap<String, String>>,
}

/// One input of a mix.
#[napi(object, object_to_js = false)]
pub struct AudioParts {
    /// Interleaved samples.
    pub samples: Float32Array,
    /// Hertz.
    pub sample_rate: u32,
    /// 1 or 2.
    pub channels: u32,
}

/// What goes to JavaScript.
#[napi(object, object_from_js = false)]
pub struct ItemOut {
    /// `audio`, `video`, `text`, `json`, `binary` or `audioMix`.
    pub kind: &'static str,
    /// Audio: interleaved samples.
    pub samples: Option<Float32Array>,
    /// Audio: hertz.
    pub sample_rate: Option<u32>,
    /// Audio: 1 or 2.
    pub channels: Option<u32>,
    /// Video.
    pub frame: Option<Frame>,
    /// Text, or JSON as text.
    pub text: Option<String>,
    /// Bytes.
    pub data: Option<Uint8Array>,
    /// `audioMix`.
    pub inputs: Option<Vec<ItemOut>>,
    /// Microseconds.
    pub timestamp_us: i64,
    /// The sender's count.
    pub sequence: Option<i64>,
    /// Whatever the application attached.
    pub metadata: Option<HashMap<String, String>>,
}

impl ItemIn {
    pub(crate) fn into_item(self, frame: Option<ClassInstance<'_, Frame>>) -> Result<Item, NativeError> {
        let missing = |what: &str| NativeError::config(format_args!("{what} is missing"));
        let at = self.timestamp_us.unwrap_or(0);
        let data = match self.kind.as_str() {
            "audio" => {
                let parts = AudioParts {
                    samples: self.samples.ok_or_else(|| missing("samples"))?,
                    sample_rate: self.sample_rate.ok_or_else(|| missing("sampleRate"))?,
                    channels: self.channels.ok_or_else(|| missing("channels"))?,
                };
                Data::Audio(parts.into_frame(at)?)
            }
            "video" => {
                let frame = frame.ok_or_else(|| missing("frame"))?;
                let frame = frame.share().ok_or_else(|| NativeError::closed("frame"))?;
                Data::Video(frame.with_timestamp_us(self.timestamp_us.unwrap_or(frame.timestamp_us())))
            }
            "text" => Data::Text(self.text.ok_or_else(|| missing("text"))?.into()),
            "json" => {
                let text = self.text.ok_or_else(|| missing("value"))?;
                let value = serde_json::from_str(&text)
                    .map_err(|e| NativeError::config(format_args!("value is not JSON: {e}")))?;
                Data::Json(Arc::new(value))
            }
            "binary" => Data::Binary(self.data.ok_or_else(|| missing("data"))?.to_vec().into()),
            "audioMix" => {
                let inputs = self.inputs.ok_or_else(|| missing("inputs"))?;
                Data::AudioMix(Arc::new(
                    inputs.into_iter().map(|a| a.into_frame(at)).collect::<Result<_, _>>()?,
                ))
            }
            other => return Err(NativeError::config(format_args!("'{other}' is no kind of data"))),
        };
        let mut item = Item::new(data);
        if let Some(timestamp_us) = self.timestamp_us {
            item.timestamp_us = timestamp_us;
        }
        item.sequence = self.sequence.and_then(|s| u64::try_from(s).ok());
        item.metadata = self.metadata.map(|m| Arc::new(m.into_iter().collect::<BTreeMap<_, _>>()));
        Ok(item)
    }
}

impl AudioParts {
    fn into_frame(self, timestamp_us: i64) -> Result<AudioFrame, NativeError> {
        let AudioParts { samples, sample_rate, channels } = self;
        if !(1..=2).contains(&channels) {
            return Err(NativeError::config(format_args!("channels is {channels}, allowed are 1 and 2")));
        }
        if !(8_000..=192_000).contains(&sample_rate) {
            return Err(NativeError::config(format_args!(
                "sampleRate is {sample_rate}, allowed are 8000 to 192000"
            )));
        }
        if samples.len() % channels as usize != 0 {
            return Err(NativeError::config(format_args!(
                "samples has {} values, which is no multiple of {channels} channels",
                samples.len()
            )));
        }
        Ok(AudioFrame {
            samples: Arc::new(samples.to_vec()),
            sample_rate,
            channels: channels as u16,
            timestamp_us,
        })
    }
}

impl ItemOut {
    pub(crate) fn audio(frame: AudioFrame) -> ItemOut {
        let AudioFrame { samples, sample_rate, channels, timestamp_us } = frame;
        let samples = Arc::try_unwrap(samples).unwrap_or_else(|shared| (*shared).clone());
        ItemOut {
            samples: Some(Float32Array::new(samples)),
            sample_rate: Some(sample_rate),
            channels: Some(channels.into()),
            ..ItemOut::empty("audio", timestamp_us)
        }
    }

    pub(crate) fn video(frame: remotemedia_media::VideoFrame) -> ItemOut {
        let timestamp_us = frame.timestamp_us();
        ItemOut { frame: Some(Frame::new(frame)), ..ItemOut::empty("video", timestamp_us) }
    }

    pub(crate) fn new(item: Item) -> ItemOut {
        let Item { data, timestamp_us, sequence, metadata, .. } = item;
        let out = match data {
            Data::Audio(frame) => ItemOut::audio(frame),
            Data::Video(frame) => ItemOut::video(frame.with_timestamp_us(timestamp_us)),
            Data::Text(text) => {
                ItemOut { text: Some(text.to_string()), ..ItemOut::empty("text", timestamp_us) }
            }
            Data::Json(value) => {
                ItemOut { text: Some(value.to_string()), ..ItemOut::empty("json", timestamp_us) }
            }
            Data::Binary(bytes) => ItemOut {
                data: Some(Uint8Array::new(bytes.into())),
                ..ItemOut::empty("binary", timestamp_us)
            },
            Data::AudioMix(frames) => {
                let inputs = frames.iter().cloned().map(ItemOut::audio).collect();
                ItemOut { inputs: Some(inputs), ..ItemOut::empty("audioMix", timestamp_us) }
            }
            // Masks stay between native nodes; a JavaScript node sees one as a grey picture's bytes.
            Data::Mask(mask) => ItemOut {
                data: Some(Uint8Array::new(mask.data().to_vec())),
                text: Some(format!("{}x{}", mask.width(), mask.height())),
                ..ItemOut::empty("mask", timestamp_us)
            },
        };
        let metadata = metadata.map(|m| m.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        ItemOut { timestamp_us, sequence: sequence.map(|s| s as i64), metadata, ..out }
    }

    pub(crate) fn empty(kind: &'static str, timestamp_us: i64) -> ItemOut {
        ItemOut {
            kind,
            samples: None,
            sample_rate: None,
            channels: None,
            frame: None,
            text: None,
            data: None,
            inputs: None,
            timestamp_us,
            sequence: None,
            metadata: None,
        }
    }
}
