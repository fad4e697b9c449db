//! Opus (RFC 6716) through libopus: 48 kHz, float samples, one packet at a time.

use bytes::Bytes;
use opusic_c::{
    Application, Bandwidth, Bitrate, Channels, Decoder, Encoder, ErrorCode, InbandFec, SampleRate,
};

use crate::MediaError;

/// The rate everything runs at here, and RTP's clock rate for Opus (RFC 7587): 48 kHz.
pub const OPUS_RATE: u32 = 48_000;
/// The longest packet there is, in samples a channel: 120 ms.
pub const MAX_OPUS_FRAME: usize = 5760;

/// Three 20 ms frames of 1275 bytes and their framing: more than 60 ms at 510 kbit/s can take.
const MAX_PACKET: usize = 4000;
/// Opus frames are multiples of 2.5 ms.
const FRAME_STEP: usize = 120;

/// How an [`OpusEncoder`] encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpusEncoderConfig {
    /// 1 (mono) or 2 (stereo).
    pub channels: u16,
    /// 6000 to 510000 bits a second.
    pub bitrate_bps: u32,
    /// 10, 20, 40 or 60 milliseconds a packet.
    pub frame_ms: u32,
    /// In-band forward error correction: a coarse copy of the frame before, once `expected_loss_pct` is above zero.
    pub fec: bool,
    /// Discontinuous transmission: silence becomes packets that needn't be sent, see [`is_dtx_packet`].
    pub dtx: bool,
    /// 0 (fastest) to 10 (best).
    pub complexity: u8,
    /// Packet loss to be ready for, 0 to 100 percent.
    pub expected_loss_pct: u8,
}

/// Makes Opus packets from 48 kHz float samples.
pub struct OpusEncoder {
    encoder: Encoder,
    config: OpusEncoderConfig,
    packet: Vec<u8>,
    finite: Vec<f32>,
}

/// Makes 48 kHz float samples from Opus packets, and fills in for those that were lost.
pub struct OpusDecoder {
    decoder: Decoder,
    channels: usize,
}

impl Default for OpusEncoderConfig {
    /// Mono speech: 32 kbit/s, 20 ms, FEC on, DTX off, complexity 9.
    fn default() -> Self {
        OpusEncoderConfig {
            channels: 1,
            bitrate_bps: 32_000,
            frame_ms: 20,
            fec: true,
            dtx: false,
            complexity: 9,
            expected_loss_pct: 0,
        }
    }
}

impl OpusEncoderConfig {
    /// Samples of one packet, all channels together.
    pub fn frame_samples(&self) -> usize {
        self.frame_ms as usize * OPUS_RATE as usize / 1000 * usize::from(self.channels)
    }
}

impl OpusEncoder {
    /// An encoder, or [`MediaError::Config`] with the field that is out of range.
    pub fn new(config: OpusEncoderConfig) -> Result<OpusEncoder, MediaError> {
        let channels = channel_count(config.channels)?;
        check_frame_ms(config.frame_ms)?;
        check_bitrate(config.bitrate_bps)?;
        check_complexity(config.complexity)?;
        check_loss(config.expected_loss_pct)?;
        // Speech gets the coder that models a voice; stereo is more often music or a mix.
        let application = if config.channels == 1 { Application::Voip } else { Application::Audio };
        let mut encoder = Encoder::new(channels, SampleRate::Hz48000, application)
            .map_err(codec_error("create an encoder"))?;
        let set = codec_error("take its settings");
        encoder.set_bitrate(Bitrate::Value(config.bitrate_bps)).map_err(&set)?;
        encoder.set_complexity(config.complexity).map_err(&set)?;
        encoder.set_dtx(config.dtx).map_err(&set)?;
        encoder.set_inband_fec(if config.fec { InbandFec::Mode1 } else { InbandFec::Off }).map_err(&set)?;
        encoder.set_packet_loss(config.expected_loss_pct).map_err(&set)?;
        Ok(OpusEncoder { encoder, config, packet: vec![0; MAX_PACKET], finite: Vec::new() })
    }

    /// The settings in force.
    pub fn config(&self) -> &OpusEncoderConfig {
        &self.config
    }

    /// Encodes exactly one frame of interleaved samples, nominally within -1.0..=1.0.
    ///
    /// `samples` holds [`OpusEncoderConfig::frame_samples`] of them, else it is [`MediaError::SampleCount`]. A sample
    /// that is no number, or an infinite one, counts as 0.
    pub fn encode(&mut self, samples: &[f32]) -> Result<Bytes, MediaError> {
        let expected = self.config.frame_samples();
        if samples.len() != expected {
            return Err(MediaError::SampleCount { expected, actual: samples.len() });
        }
        let samples = if samples.iter().all(|s| s.is_finite()) {
            samples
        } else {
            self.finite.clear();
            self.finite.extend(samples.iter().map(|s| if s.is_finite() { *s } else { 0.0 }));
            &self.finite
        };
        let len =
            self.encoder.encode_float_to_slice(samples, &mut self.packet).map_err(codec_error("encode"))?;
        Ok(Bytes::copy_from_slice(&self.packet[..len]))
    }

    /// Samples a channel that the decoded signal comes later than the one encoded.
    pub fn lookahead(&mut self) -> Result<u32, MediaError> {
        self.encoder.get_look_ahead().map_err(codec_error("tell its delay"))
    }

    /// Changes the bitrate: 6000 to 510000 bits a second.
    pub fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), MediaError> {
        check_bitrate(bitrate_bps)?;
        self.encoder.set_bitrate(Bitrate::Value(bitrate_bps)).map_err(codec_error("set the bitrate"))?;
        self.config.bitrate_bps = bitrate_bps;
        Ok(())
    }

    /// Changes the loss to be ready for, 0 to 100 percent; above zero it turns FEC on where that is configured.
    pub fn set_expected_loss(&mut self, percent: u8) -> Result<(), MediaError> {
        check_loss(percent)?;
        self.encoder.set_packet_loss(percent).map_err(codec_error("set the expected loss"))?;
        self.config.expected_loss_pct = percent;
        Ok(())
    }

    /// Changes the length of a packet, 10, 20, 40 or 60 milliseconds.
    pub fn set_frame_ms(&mut self, frame_ms: u32) -> Result<(), MediaError> {
        check_frame_ms(frame_ms)?;
        self.config.frame_ms = frame_ms;
        Ok(())
    }

    /// Has two channels coded as their mean, for receivers that prefer mono; what is encoded keeps its channels. Changing it
    /// costs nothing.
    pub fn set_mono(&mut self, mono: bool) -> Result<(), MediaError> {
        let channels = mono.then_some(Channels::Mono);
        self.encoder.set_force_channels(channels).map_err(codec_error("set the channels"))
    }

    /// Codes nothing that a receiver can't play: its rate is 8000 to 48000 samples a second (RFC 7587, `maxplaybackrate`).
    pub fn set_max_playback_rate(&mut self, rate: u32) -> Result<(), MediaError> {
        let bandwidth = match rate {
            0..12_000 => Bandwidth::Narrow,
            12_000..16_000 => Bandwidth::Medium,
            16_000..24_000 => Bandwidth::Wide,
            24_000..48_000 => Bandwidth::Superwide,
            _ => Bandwidth::Full,
        };
        self.encoder.set_max_bandwidth(bandwidth).map_err(codec_error("set the bandwidth"))
    }

    /// Changes the complexity, 0 (fastest) to 10 (best).
    pub fn set_complexity(&mut self, complexity: u8) -> Result<(), MediaError> {
        check_complexity(complexity)?;
        self.encoder.set_complexity(complexity).map_err(codec_error("set the complexity"))?;
        self.config.complexity = complexity;
        Ok(())
    }
}

impl OpusDecoder {
    /// A decoder that gives 1 or 2 channels, whatever the packets hold.
    pub fn new(channels: u16) -> Result<OpusDecoder, MediaError> {
        let count = channel_count(channels)?;
        let decoder = Decoder::new(count, SampleRate::Hz48000).map_err(codec_error("create a decoder"))?;
        Ok(OpusDecoder { decoder, channels: usize::from(channels) })
    }

    /// Channels it gives.
    pub fn channels(&self) -> u16 {
        self.channels as u16
    }

    /// Decodes one packet into `out` (what was in it goes, also on an error) and returns the samples a channel.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<usize, MediaError> {
        if packet.is_empty() {
            out.clear();
            return Err(corrupt("an empty packet"));
        }
        self.run(packet, MAX_OPUS_FRAME, false, out)
    }

    /// Makes up `frame_samples` samples a channel for a packet that never came, fading out over a few of them.
    ///
    /// A multiple of 120 (2.5 ms), at most [`MAX_OPUS_FRAME`].
    pub fn conceal(&mut self, frame_samples: usize, out: &mut Vec<f32>) -> Result<usize, MediaError> {
        check_step(frame_samples)?;
        self.run(&[], frame_samples, false, out)
    }

    /// Recovers the `frame_samples` samples a channel *before* `packet` from its in-band FEC; conceals where there is none.
    ///
    /// To be called with the packet that follows a lost one, before [`decode`](Self::decode) of the same packet.
    pub fn decode_fec(
        &mut self,
        packet: &[u8],
        frame_samples: usize,
        out: &mut Vec<f32>,
    ) -> Result<usize, MediaError> {
        check_step(frame_samples)?;
        if packet.is_empty() {
            out.clear();
            return Err(corrupt("an empty packet"));
        }
        self.run(packet, frame_samples, true, out)
    }

    /// Forgets what was decoded: another stream begins.
    pub fn reset(&mut self) {
        // It has no reason to fail, and a decoder that remembers the old stream is no worse than one that can't be made.
        let _ = self.decoder.reset();
    }

    fn run(
        &mut self,
        packet: &[u8],
        frames: usize,
        fec: bool,
        out: &mut Vec<f32>,
    ) -> Result<usize, MediaError> {
        out.clear();
        out.resize(frames * self.channels, 0.0);
        match self.decoder.decode_float_to_slice(packet, out, fec) {
            Ok(decoded) => {
                out.truncate(decoded * self.channels);
                Ok(decoded)
            }
            Err(code) => {
                out.clear();
                Err(match code {
                    ErrorCode::InvalidPacket | ErrorCode::BufferTooSmall | ErrorCode::BadArg => {
                        corrupt(code.message())
                    }
                    other => codec_error("decode")(other),
                })
            }
        }
    }
}

/// Whether a packet made under DTX says no more than "still silent": two bytes at most, so it needn't be sent.
pub fn is_dtx_packet(packet: &[u8]) -> bool {
    packet.len() <= 2
}

/// Whether a packet holds a low-rate copy of the frame before it (in-band FEC, RFC 6716 sections 2.1.7 and 4.2.4).
pub fn opus_packet_has_fec(packet: &[u8]) -> bool {
    let Some((toc, rest)) = packet.split_first() else { return false };
    let config = toc >> 3;
    // Only SILK makes such copies; beyond 15 there is none in the packet.
    if config > 15 {
        return false;
    }
    let Some(first) = first_frame(toc & 3, rest).and_then(<[u8]>::first) else { return false };
    // A frame begins with a flag of voice activity for each 20 ms, then the one we want; for stereo all of it twice.
    let spans = match config {
        2 | 6 | 10 => 2,
        3 | 7 | 11 => 3,
        _ => 1,
    };
    let flag = |place: u8| first >> (7 - place) & 1 == 1;
    let stereo = toc & 4 != 0;
    flag(spans) || stereo && flag(2 * spans + 1)
}

/// The first frame of a packet, or what begins with it, behind the lengths (RFC 6716 section 3.2).
fn first_frame(code: u8, rest: &[u8]) -> Option<&[u8]> {
    // A length of a frame takes one byte below 252, else two.
    let skip_length = |rest: &[u8]| Some(if *rest.first()? < 252 { 1 } else { 2 });
    match code {
        0 | 1 => Some(rest),
        2 => match rest {
            [0, ..] => None,
            _ => rest.get(skip_length(rest)?..),
        },
        _ => {
            let (count, mut rest) = rest.split_first()?;
            if count & 0x40 != 0 {
                let padding = rest.iter().take_while(|byte| **byte == 255).count() + 1;
                rest = rest.get(padding..)?;
            }
            if count & 0x80 != 0 {
                if rest.first() == Some(&0) && count & 0x3f > 1 {
                    return None;
                }
                for _ in 1..count & 0x3f {
                    rest = rest.get(skip_length(rest)?..)?;
                }
            }
            Some(rest)
        }
    }
}

/// Samples a channel, at 48 kHz, that a packet holds by its own table of contents.
pub fn opus_packet_frames(packet: &[u8]) -> Result<usize, MediaError> {
    if packet.is_empty() {
        return Err(corrupt("an empty packet"));
    }
    opusic_c::utils::get_nb_samples(packet, SampleRate::Hz48000).map_err(|code| corrupt(code.message()))
}

fn channel_count(channels: u16) -> Result<Channels, MediaError> {
    match channels {
        1 => Ok(Channels::Mono),
        2 => Ok(Channels::Stereo),
        other => Err(MediaError::Config { field: "channels", value: other.into(), allowed: "1 or 2" }),
    }
}

fn check_bitrate(value: u32) -> Result<(), MediaError> {
    check("bitrate_bps", value, (6_000..=510_000).contains(&value), "6000 to 510000")
}

fn check_frame_ms(value: u32) -> Result<(), MediaError> {
    check("frame_ms", value, matches!(value, 10 | 20 | 40 | 60), "10, 20, 40 or 60")
}

fn check_complexity(value: u8) -> Result<(), MediaError> {
    check("complexity", value.into(), value <= 10, "0 to 10")
}

fn check_loss(value: u8) -> Result<(), MediaError> {
    check("expected_loss_pct", value.into(), value <= 100, "0 to 100")
}

fn check_step(samples: usize) -> Result<(), MediaError> {
    let ok = samples > 0 && samples <= MAX_OPUS_FRAME && samples.is_multiple_of(FRAME_STEP);
    check("frame_samples", samples.min(u32::MAX as usize) as u32, ok, "a multiple of 120 up to 5760")
}

fn check(field: &'static str, value: u32, ok: bool, allowed: &'static str) -> Result<(), MediaError> {
    if ok { Ok(()) } else { Err(MediaError::Config { field, value: value.into(), allowed }) }
}

fn corrupt(reason: &str) -> MediaError {
    MediaError::Corrupt { codec: "Opus", reason: reason.to_owned() }
}

fn codec_error(operation: &'static str) -> impl Fn(ErrorCode) -> MediaError {
    move |code| MediaError::Codec { codec: "Opus", operation, reason: code.message().to_owned() }
}
