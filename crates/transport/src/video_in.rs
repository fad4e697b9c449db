//! Puts the pictures of one peer together and decodes them.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use remotemedia_link::{RtpIn, VideoAssembler};
use remotemedia_media::{VideoCodec, VideoDecoder};
use remotemedia_pipeline::{Data, Item};

use crate::PeerId;
use crate::shared::{Command, Every, Shared};
use crate::stats::InboundCounters;
use std::sync::Arc;

/// A keyframe that does not come is asked for again after this.
const KEYFRAME_RETRY: Duration = Duration::from_millis(300);

pub(crate) struct VideoIn {
    shared: Weak<Shared>,
    peer: PeerId,
    counters: Arc<InboundCounters>,
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
    pub(crate) fn new(shared: Weak<Shared>, peer: PeerId, counters: Arc<InboundCounters>) -> VideoIn {
        VideoIn { shared, peer, counters, decoding: None, keyframe_request: Every::new(KEYFRAME_RETRY) }
    }

    pub(crate) fn receive(&mut self, packet: RtpIn) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(codec) = packet.codec else { return };
        if self.decoding.as_ref().is_none_or(|d| d.codec != codec) {
            let Ok(decoder) = VideoDecoder::new(codec, shared.frames.clone()) else {
                self.counters.decode_errors.fetch_add(1, Ordering::Relaxed);
                return;
            };
            self.decoding = Some(Decoding {
                codec,
                assembler: VideoAssembler::new(codec),
                decoder,
                needs_keyframe: true,
            });
        }
        let Some(d) = &mut self.decoding else { return };
        d.assembler.push(packet);
        while let Some(frame) = d.assembler.poll() {
            self.counters.frames_received.fetch_add(1, Ordering::Relaxed);
            if d.needs_keyframe && !frame.keyframe {
                self.counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match d.decoder.decode(&frame.data, frame.timestamp_us) {
                Ok(picture) => {
                    d.needs_keyframe = false;
                    if let Some(picture) = picture {
                        self.counters.frames_decoded.fetch_add(1, Ordering::Relaxed);
                        self.counters.set_size(picture.width(), picture.height());
                        shared.deliver(&self.peer, Item::new(Data::Video(picture)));
                    }
                }
                Err(_) => {
                    self.counters.decode_errors.fetch_add(1, Ordering::Relaxed);
                    d.needs_keyframe = true;
                }
            }
        }
        let lost = d.assembler.take_keyframe_request();
        if (lost || d.needs_keyframe) && self.keyframe_request.allows(Instant::now()) {
            shared.commands.push(Command::RequestKeyframe { peer: self.peer.clone() });
        }
    }
}
