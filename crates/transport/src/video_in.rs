//! Puts the pictures of one peer together and decodes them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use remotemedia_link::{AssembledFrame, MediaKind, RtpIn, VideoAssembler};
use remotemedia_media::{VideoCodec, VideoDecoder};
use remotemedia_pipeline::{Data, Item};

use crate::PeerId;
use crate::shared::{Command, Every, Shared};
use crate::stats::InboundCounters;
use crate::times::MediaTimes;

/// A keyframe that does not come is asked for again after this.
const KEYFRAME_RETRY: Duration = Duration::from_millis(300);

pub(crate) struct VideoIn {
    shared: Weak<Shared>,
    peer: PeerId,
    counters: Arc<InboundCounters>,
    times: Arc<MediaTimes>,
    decoding: Option<Decoding>,
    keyframe_request: Every,
}

struct Decoding {
    codec: VideoCodec,
    assembler: VideoAssembler,
    decoder: VideoDecoder,
    needs_keyframe: bool,
}

impl VideoIn {
    pub(crate) fn new(
        shared: Weak<Shared>,
        peer: PeerId,
        counters: Arc<InboundCounters>,
        times: Arc<MediaTimes>,
    ) -> VideoIn {
        let keyframe_request = Every::new(KEYFRAME_RETRY);
        VideoIn { shared, peer, counters, times, decoding: None, keyframe_request }
    }

    /// Takes a packet, or the time it asked for. Returns when it wants to be called again.
    pub(crate) fn run(&mut self, packet: Option<RtpIn>) -> Option<Instant> {
        let shared = self.shared.upgrade()?;
        let now = match packet {
            Some(packet) => self.push(packet, &shared)?,
            None => Instant::now(),
        };
        let Self { peer, counters, times, keyframe_request, .. } = self;
        let d = self.decoding.as_mut()?;
        while let Some(frame) = d.assembler.poll(now) {
            d.decode(&frame, &shared, peer, counters, times);
        }
        counters.set_hold(d.assembler.stats().hold);
        let lost = d.assembler.take_keyframe_request();
        if (lost || d.needs_keyframe) && keyframe_request.allows(Instant::now()) {
            shared.commands.push(Command::RequestKeyframe { peer: peer.clone() });
        }
        d.assembler.poll_timeout()
    }

    /// Returns as of when to look at what there is: what seems missing may be among the packets that wait behind this one.
    fn push(&mut self, packet: RtpIn, shared: &Shared) -> Option<Instant> {
        let codec = packet.codec?;
        if self.decoding.as_ref().is_none_or(|d| d.codec != codec) {
            let Ok(decoder) = VideoDecoder::new(codec, shared.frames.clone()) else {
                self.counters.decode_errors.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            let assembler = VideoAssembler::new(codec);
            self.decoding = Some(Decoding { codec, assembler, decoder, needs_keyframe: true });
        }
        self.times.arrived(&packet);
        let received = packet.received;
        self.decoding.as_mut()?.assembler.push(packet);
        Some(received)
    }
}

impl Decoding {
    fn decode(
        &mut self,
        frame: &AssembledFrame,
        shared: &Shared,
        peer: &PeerId,
        counters: &InboundCounters,
        times: &MediaTimes,
    ) {
        counters.frames_received.fetch_add(1, Ordering::Relaxed);
        if self.needs_keyframe && !frame.keyframe {
            counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let timestamp_us = times.timestamp_us(MediaKind::Video, frame.rtp_timestamp);
        match self.decoder.decode(&frame.data, timestamp_us) {
            Ok(picture) => {
                self.needs_keyframe = false;
                if let Some(picture) = picture {
                    counters.frames_decoded.fetch_add(1, Ordering::Relaxed);
                    counters.set_size(picture.width(), picture.height());
                    shared.deliver(peer, Item::new(Data::Video(picture)));
                }
            }
            Err(_) => {
                counters.decode_errors.fetch_add(1, Ordering::Relaxed);
                self.needs_keyframe = true;
            }
        }
    }
}
