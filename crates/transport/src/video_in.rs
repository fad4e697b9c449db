//! Puts the pictures of one peer together and decodes them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use remotemedia_link::{AssembledFrame, MediaKind, RtpIn, VideoAssembler};
use remotemedia_media::{VideoCodec, VideoDecoder};
use remotemedia_pipeline::{Data, Item};

use crate::PeerId;
use crate::keyframes::KeyframeRequests;
use crate::shared::{Command, Shared};
use crate::stats::InboundCounters;
use crate::times::MediaTimes;

pub(crate) struct VideoIn {
    shared: Weak<Shared>,
    peer: PeerId,
    counters: Arc<InboundCounters>,
    times: Arc<MediaTimes>,
    decoding: Option<Decoding>,
    requests: KeyframeRequests,
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
        let requests = KeyframeRequests::default();
        VideoIn { shared, peer, counters, times, decoding: None, requests }
    }

    /// Takes a packet, or the time it asked for. Returns when it wants to be called again.
    pub(crate) fn run(&mut self, packet: Option<RtpIn>) -> Option<Instant> {
        let shared = self.shared.upgrade()?;
        let now = match packet {
            Some(packet) => self.push(packet, &shared)?,
            None => Instant::now(),
        };
        let Self { peer, counters, times, requests, .. } = self;
        let d = self.decoding.as_mut()?;
        while let Some(frame) = d.assembler.poll(now) {
            if d.decode(&frame, &shared, peer, counters, times) && frame.keyframe {
                requests.came();
            }
        }
        counters.set_hold(d.assembler.stats().hold);
        let lost = d.assembler.take_keyframe_request();
        if (lost || d.needs_keyframe) && requests.needed(Instant::now()) {
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
    /// Returns whether the decoder took it.
    fn decode(
        &mut self,
        frame: &AssembledFrame,
        shared: &Shared,
        peer: &PeerId,
        counters: &InboundCounters,
        times: &MediaTimes,
    ) -> bool {
        counters.frames_received.fetch_add(1, Ordering::Relaxed);
        if self.needs_keyframe && !frame.keyframe {
            counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let begun = Instant::now();
        let timestamp_us = times.timestamp_us(MediaKind::Video, frame.rtp_timestamp);
        match self.decoder.decode(&frame.data, timestamp_us) {
            Ok(picture) => {
                self.needs_keyframe = false;
                if let Some(picture) = picture {
                    counters.decoded(begun, Instant::now(), frame.keyframe);
                    counters.set_size(picture.width(), picture.height());
                    shared.deliver(peer, Item::new(Data::Video(picture)));
                }
                true
            }
            Err(_) => {
                counters.decode_errors.fetch_add(1, Ordering::Relaxed);
                self.needs_keyframe = true;
                false
            }
        }
    }
}
