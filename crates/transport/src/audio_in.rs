//! Puts the audio packets of one peer in order and decodes them; what is lost is made up from what is known.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use remotemedia_link::{AudioIn as Received, AudioReorder, RtpIn};
use remotemedia_media::{AudioFrame, OpusDecoder};
use remotemedia_pipeline::{Data, Item};

use crate::PeerId;
use crate::shared::Shared;
use crate::stats::InboundCounters;

/// Losses in a row that are concealed; a longer gap is a pause.
const MAX_CONCEALED: u32 = 10;

pub(crate) struct AudioIn {
    shared: Weak<Shared>,
    peer: PeerId,
    counters: Arc<InboundCounters>,
    reorder: AudioReorder,
    decoder: Option<OpusDecoder>,
    channels: u16,
    /// Samples a channel in the packet before.
    last_len: usize,
    next_timestamp_us: i64,
    lost: u32,
}

impl AudioIn {
    pub(crate) fn new(
        shared: Weak<Shared>,
        peer: PeerId,
        channels: u16,
        counters: Arc<InboundCounters>,
    ) -> AudioIn {
        AudioIn {
            shared,
            peer,
            counters,
            reorder: AudioReorder::new(),
            decoder: None,
            channels,
            last_len: 960,
            next_timestamp_us: 0,
            lost: 0,
        }
    }

    pub(crate) fn receive(&mut self, packet: RtpIn) {
        let Some(shared) = self.shared.upgrade() else { return };
        let now = packet.received;
        self.reorder.push(packet, now);
        while let Some(received) = self.reorder.poll(now) {
            match received {
                Received::Lost { count, .. } => self.lost = self.lost.saturating_add(count),
                Received::Packet { payload, timestamp_us, .. } => {
                    self.decode(&shared, &payload, timestamp_us)
                }
            }
        }
    }

    fn decode(&mut self, shared: &Shared, data: &[u8], timestamp_us: i64) {
        let decoder = match &mut self.decoder {
            Some(d) => d,
            None => match OpusDecoder::new(self.channels) {
                Ok(d) => self.decoder.insert(d),
                Err(_) => return,
            },
        };
        let lost = std::mem::take(&mut self.lost);
        if (1..=MAX_CONCEALED).contains(&lost) {
            for i in 0..lost {
                let mut samples = Vec::new();
                // The packet behind the last loss may carry a low-rate copy of it (RFC 6716 §2.1.7).
                let made = if i + 1 == lost {
                    decoder.decode_fec(data, self.last_len, &mut samples)
                } else {
                    decoder.conceal(self.last_len, &mut samples)
                };
                if made.is_ok() {
                    self.counters.concealed.fetch_add(1, Ordering::Relaxed);
                    let at = self.next_timestamp_us;
                    self.next_timestamp_us += self.last_len as i64 * 1_000_000 / 48_000;
                    emit(shared, &self.peer, samples, self.channels, at);
                }
            }
        }
        let mut samples = Vec::new();
        match decoder.decode(data, &mut samples) {
            Ok(_) => {
                self.counters.frames_decoded.fetch_add(1, Ordering::Relaxed);
                self.last_len = samples.len() / usize::from(self.channels);
                self.next_timestamp_us = timestamp_us + self.last_len as i64 * 1_000_000 / 48_000;
                emit(shared, &self.peer, samples, self.channels, timestamp_us);
            }
            Err(_) => {
                self.counters.decode_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn emit(shared: &Shared, peer: &PeerId, samples: Vec<f32>, channels: u16, timestamp_us: i64) {
    let frame = AudioFrame { samples: Arc::new(samples), sample_rate: 48_000, channels, timestamp_us };
    shared.deliver(peer, Item::new(Data::Audio(frame)));
}
