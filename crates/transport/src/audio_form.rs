//! In which form sound is coded for those who get it. Pure decisions.

use remotemedia_link::PeerAudio;
use remotemedia_media::{AudioFramer, MediaError, OPUS_RATE, OpusEncoder};

use crate::AudioConfig;

/// Percent of loss that the encoder makes itself ready for at most: more would leave too little for the sound itself.
const MAX_EXPECTED_LOSS: u8 = 30;
/// The least that Opus codes (RFC 7587, section 6.1).
const MIN_BITRATE_BPS: u32 = 6_000;

/// How sound is coded so that all who get it can take it, and nothing is coded that none of them plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) frame_ms: u32,
    pub(crate) bitrate_bps: u32,
    pub(crate) mono: bool,
    pub(crate) playback_rate: u32,
    pub(crate) expected_loss_pct: u8,
}

impl Form {
    /// Given what the receivers want (RFC 7587, section 6.1) and the percent of the sound that each loses.
    pub(crate) fn new(config: &AudioConfig, receivers: impl Iterator<Item = (PeerAudio, u8)>) -> Form {
        let full = Form {
            frame_ms: config.frame_ms.into(),
            bitrate_bps: config.bitrate_bps(),
            mono: true,
            playback_rate: 0,
            expected_loss_pct: 0,
        };
        let mut form = receivers.fold(full, |form, (wants, loss)| Form {
            frame_ms: form.frame_ms.min(wants.max_ptime_ms.unwrap_or(u32::MAX)),
            bitrate_bps: form.bitrate_bps.min(wants.max_average_bitrate.unwrap_or(u32::MAX)),
            mono: form.mono && !wants.stereo,
            playback_rate: form.playback_rate.max(wants.max_playback_rate.unwrap_or(OPUS_RATE)),
            // Copies for those that lose packets cost everybody's quality: only while somebody does who can use them.
            expected_loss_pct: form.expected_loss_pct.max(if wants.fec { loss } else { 0 }),
        });
        form.frame_ms = [60, 40, 20].into_iter().find(|ms| *ms <= form.frame_ms).unwrap_or(10);
        form.bitrate_bps = form.bitrate_bps.max(MIN_BITRATE_BPS);
        form.expected_loss_pct = form.expected_loss_pct.min(MAX_EXPECTED_LOSS);
        form
    }

    /// Has them go on in this form.
    pub(crate) fn apply(self, framer: &mut AudioFramer, encoder: &mut OpusEncoder) -> Result<(), MediaError> {
        framer.set_frame_ms(self.frame_ms)?;
        encoder.set_frame_ms(self.frame_ms)?;
        encoder.set_bitrate(self.bitrate_bps)?;
        encoder.set_mono(self.mono)?;
        encoder.set_max_playback_rate(self.playback_rate)?;
        encoder.set_expected_loss(self.expected_loss_pct)
    }
}

#[cfg(test)]
mod tests {
    use remotemedia_media::OpusEncoderConfig;

    use super::*;

    #[test]
    fn everyone_can_take_what_is_coded_and_nothing_is_coded_for_nobody() {
        let config = AudioConfig { channels: 2, frame_ms: 60, ..AudioConfig::default() };
        let form = |receivers: &[(PeerAudio, u8)]| Form::new(&config, receivers.iter().cloned());
        let stereo = PeerAudio { stereo: true, fec: true, ..PeerAudio::default() };
        let phone = PeerAudio {
            max_average_bitrate: Some(12_000),
            max_playback_rate: Some(8_000),
            max_ptime_ms: Some(30),
            ..PeerAudio::default()
        };
        let full = form(&[(stereo.clone(), 5)]);
        let expected = Form {
            frame_ms: 60,
            bitrate_bps: 64_000,
            mono: false,
            playback_rate: 48_000,
            expected_loss_pct: 5,
        };
        assert_eq!(full, expected);
        let small = form(&[(phone.clone(), 99)]);
        let expected = Form {
            frame_ms: 20,
            bitrate_bps: 12_000,
            mono: true,
            playback_rate: 8_000,
            expected_loss_pct: 0,
        };
        assert_eq!(small, expected);
        let both = form(&[(phone, 99), (stereo, 99)]);
        assert_eq!(both, Form { mono: false, playback_rate: 48_000, expected_loss_pct: 30, ..small });
        let absurd = PeerAudio {
            max_average_bitrate: Some(0),
            max_playback_rate: Some(0),
            max_ptime_ms: Some(0),
            ..PeerAudio::default()
        };
        let least = form(&[(absurd, 0)]);
        assert_eq!((least.frame_ms, least.bitrate_bps), (10, 6_000));
        let mut encoder = OpusEncoder::new(OpusEncoderConfig { channels: 2, ..Default::default() }).unwrap();
        let mut framer = AudioFramer::new(2, 20).unwrap();
        for form in [full, small, both, least] {
            form.apply(&mut framer, &mut encoder).unwrap();
            assert_eq!(framer.frame_samples(), encoder.config().frame_samples());
        }
    }
}
