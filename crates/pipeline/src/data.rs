//! What travels through a graph.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use remotemedia_media::{AudioFrame, VideoFrame};

use crate::error::NodeError;
use crate::ticket::Ticket;

/// The most inputs one mix has.
const MAX_MIX_INPUTS: usize = 256;

/// One piece of media or data. Cloning shares the contents, JSON excepted.
#[derive(Debug, Clone)]
pub enum Data {
    /// Interleaved float samples.
    Audio(AudioFrame),
    /// A raw picture.
    Video(VideoFrame),
    /// Text.
    Text(Arc<str>),
    /// A JSON value.
    Json(Arc<serde_json::Value>),
    /// Bytes.
    Binary(Bytes),
    /// Audio of several sources at one time, to be summed.
    AudioMix(Arc<Vec<AudioFrame>>),
    /// Where in a picture there is a person. Only between nodes.
    Mask(Arc<Mask>),
}

/// The kind of a [`Data`], and what a port takes or gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// [`Data::Audio`].
    Audio,
    /// [`Data::Video`].
    Video,
    /// [`Data::Text`].
    Text,
    /// [`Data::Json`].
    Json,
    /// [`Data::Binary`].
    Binary,
    /// [`Data::AudioMix`].
    AudioMix,
    /// [`Data::Mask`].
    Mask,
    /// On a port: whatever comes. Never the kind of an item.
    Any,
}

/// How sure it is that there is a person at each place of a picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

/// Whom something is for that a node made out of what several peers sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// This peer only: its own mix.
    One(Arc<str>),
    /// Everybody but these, who have their own.
    AllBut(Arc<[Arc<str>]>),
}

/// One [`Data`] with what is known about it.
#[derive(Debug, Clone)]
pub struct Item {
    /// The contents.
    pub data: Data,
    /// When it was captured, in microseconds: on the transport's clock for what a peer sent, on the sender's for anything else.
    pub timestamp_us: i64,
    /// The sender's count, where there is one.
    pub sequence: Option<u64>,
    /// Whatever the application attached.
    pub metadata: Option<Arc<BTreeMap<String, String>>>,
    /// The peer it came from, where it came from one. In a node that peers share it tells their items apart.
    pub source: Option<Arc<str>>,
    /// Whom it is for, where a node that peers share made it. `None`: for whom its route says.
    pub audience: Option<Audience>,
    /// Something was dropped between this and the one before: what filters state over time may want to start afresh.
    pub discontinuity: bool,
    /// Leads back to whoever waits for what becomes of it.
    pub ticket: Option<Ticket>,
}

impl Data {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Data::Audio(_) => Kind::Audio,
            Data::Video(_) => Kind::Video,
            Data::Text(_) => Kind::Text,
            Data::Json(_) => Kind::Json,
            Data::Binary(_) => Kind::Binary,
            Data::AudioMix(_) => Kind::AudioMix,
            Data::Mask(_) => Kind::Mask,
        }
    }

    /// Refuses audio whose fields contradict each other, before any node sees it.
    pub(crate) fn check(&self) -> Result<(), NodeError> {
        let invalid = |problem: String| NodeError::Invalid { kind: self.kind(), problem };
        match self {
            Data::Audio(frame) => check_audio(frame).map_err(invalid),
            Data::AudioMix(frames) if frames.len() > MAX_MIX_INPUTS => {
                Err(invalid(format!("{} inputs, at most {MAX_MIX_INPUTS} are mixed", frames.len())))
            }
            Data::AudioMix(frames) => frames.iter().try_for_each(check_audio).map_err(invalid),
            _ => Ok(()),
        }
    }
}

fn check_audio(frame: &AudioFrame) -> Result<(), String> {
    if !(1..=2).contains(&frame.channels) {
        return Err(format!("{} channels, there are 1 or 2", frame.channels));
    }
    if !(8_000..=192_000).contains(&frame.sample_rate) {
        return Err(format!("a sample rate of {} Hz is outside 8000..=192000", frame.sample_rate));
    }
    if !frame.samples.len().is_multiple_of(usize::from(frame.channels)) {
        return Err(format!(
            "{} samples don't make whole frames of {} channels",
            frame.samples.len(),
            frame.channels
        ));
    }
    // Ten seconds: far over any packet, far under what would hurt.
    if frame.frames() as u64 > u64::from(frame.sample_rate) * 10 {
        return Err(format!("{} ms in one item, at most 10000 are taken", frame.duration_us() / 1000));
    }
    Ok(())
}

impl Kind {
    /// Whether an item or output of `other` may go into a port of this kind.
    pub fn accepts(self, other: Kind) -> bool {
        self == other || self == Kind::Any || other == Kind::Any
    }

    /// Its name in manifests and messages: `audio`, `video`, `text`, `json`, `binary`, `audioMix`, `mask`, `any`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
            Kind::Text => "text",
            Kind::Json => "json",
            Kind::Binary => "binary",
            Kind::AudioMix => "audioMix",
            Kind::Mask => "mask",
            Kind::Any => "any",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        let all = [
            Kind::Audio,
            Kind::Video,
            Kind::Text,
            Kind::Json,
            Kind::Binary,
            Kind::AudioMix,
            Kind::Mask,
            Kind::Any,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Mask {
    /// A mask of `width` x `height` bytes, row by row: 255 is a person, 0 is not. `None` when the sizes don't agree.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Option<Mask> {
        let fits = width > 0 && height > 0 && u64::from(width) * u64::from(height) == data.len() as u64;
        fits.then_some(Mask { width, height, data })
    }

    /// Width in mask pixels; it covers the whole width of the picture.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in mask pixels; it covers the whole height of the picture.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Rows of `width` bytes: 255 is a person, 0 is not.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({}x{})", self.width, self.height)
    }
}

impl Item {
    /// An item that nobody waits for. Audio and video bring their own timestamp; other kinds have 0 until it is set.
    pub fn new(data: Data) -> Item {
        let timestamp_us = match &data {
            Data::Audio(frame) => frame.timestamp_us,
            Data::Video(frame) => frame.timestamp_us(),
            Data::AudioMix(frames) => frames.first().map_or(0, |frame| frame.timestamp_us),
            _ => 0,
        };
        Item {
            data,
            timestamp_us,
            sequence: None,
            metadata: None,
            source: None,
            audience: None,
            discontinuity: false,
            ticket: None,
        }
    }

    /// Other contents under the same heading: timestamp, sequence, metadata, source, audience, ticket.
    pub fn derive(&self, data: Data) -> Item {
        Item {
            data,
            timestamp_us: self.timestamp_us,
            sequence: self.sequence,
            metadata: self.metadata.clone(),
            source: self.source.clone(),
            audience: self.audience.clone(),
            discontinuity: self.discontinuity,
            ticket: self.ticket.clone(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.data.kind()
    }

    /// How long it lasts where it is audio, else 0.
    pub(crate) fn duration_us(&self) -> i64 {
        match &self.data {
            Data::Audio(frame) => frame.duration_us(),
            Data::AudioMix(frames) => frames.iter().map(AudioFrame::duration_us).max().unwrap_or(0),
            _ => 0,
        }
    }
}
