//! The sound of one peer: its packets in, and out of the jitter buffer when they are due.

use std::sync::{Arc, Weak};
use std::time::Instant;

use remotemedia_link::{MediaKind, RtpIn};
use remotemedia_media::{AudioChunk, AudioFrame, AudioPacket, JitterBuffer};
use remotemedia_pipeline::{Data, Item};

use crate::PeerId;
use crate::shared::Shared;
use crate::stats::InboundCounters;
use crate::times::MediaTimes;

pub(crate) struct AudioIn {
    shared: Weak<Shared>,
    peer: PeerId,
    counters: Arc<InboundCounters>,
    times: Arc<MediaTimes>,
    channels: u16,
    /// Made with the first packet: most links never see one.
    buffer: Option<JitterBuffer>,
    samples: Vec<f32>,
}

impl AudioIn {
    pub(crate) fn new(
        shared: Weak<Shared>,
        peer: PeerId,
        channels: u16,
        counters: Arc<InboundCounters>,
        times: Arc<MediaTimes>,
    ) -> AudioIn {
        AudioIn { shared, peer, counters, times, channels, buffer: None, samples: Vec::new() }
    }

    /// Takes a packet, or the time it asked for. Returns when it wants to be called again.
    pub(crate) fn run(&mut self, packet: Option<RtpIn>) -> Option<Instant> {
        let shared = self.shared.upgrade()?;
        if self.buffer.is_none() {
            self.buffer = JitterBuffer::new(self.channels).ok();
        }
        let buffer = self.buffer.as_mut()?;
        let now = match packet {
            Some(packet) => {
                self.times.arrived(&packet);
                let RtpIn { ssrc, sequence, timestamp, payload, received, .. } = packet;
                buffer.push(AudioPacket { ssrc, sequence, timestamp, payload }, received);
                // What seems missing may be among the packets that wait behind this one: it is as late as when this came.
                received
            }
            None => Instant::now(),
        };
        while let Some(chunk) = buffer.pull(now, &mut self.samples) {
            self.counters.heard(&self.samples, self.channels);
            let item = item(chunk, &self.samples, self.channels, &self.times);
            shared.deliver(&self.peer, item);
        }
        self.counters.set_jitter(buffer.stats());
        buffer.due()
    }
}

fn item(chunk: AudioChunk, samples: &[f32], channels: u16, times: &MediaTimes) -> Item {
    let timestamp_us = times.timestamp_us(MediaKind::Audio, chunk.timestamp);
    let samples = Arc::new(samples.to_vec());
    let frame = AudioFrame { samples, sample_rate: 48_000, channels, timestamp_us };
    Item { discontinuity: chunk.after_gap, ..Item::new(Data::Audio(frame)) }
}
