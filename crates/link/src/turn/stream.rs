//! Messages out of a TCP or TLS stream.

use bytes::{Buf, Bytes, BytesMut};

/// The most bytes that may wait in a [`StreamDeframer`]: two of the longest messages.
pub const MAX_STREAM_BUFFER: usize = 2 * (STUN_HEADER + 65_536);

const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Cuts a stream into STUN messages and ChannelData (RFC 8656, section 12.5).
#[derive(Debug, Default)]
pub struct StreamDeframer {
    buffer: BytesMut,
    broken: bool,
}

/// The stream can't be read any further; it is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// What comes next is neither STUN nor ChannelData.
    #[error("the TURN server's stream is neither STUN nor ChannelData")]
    Malformed,
    /// More than [`MAX_STREAM_BUFFER`] was pushed without taking messages out.
    #[error("too much of the TURN server's stream waits")]
    Overflow,
}

impl StreamDeframer {
    /// An empty one, for a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the stream.
    ///
    /// # Errors
    /// [`StreamError::Overflow`] when the caller doesn't pop. Nothing is taken then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if self.broken {
            return Err(StreamError::Malformed);
        }
        if self.buffer.len() + bytes.len() > MAX_STREAM_BUFFER {
            return Err(StreamError::Overflow);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message, without padding; `None` until more is pushed.
    ///
    /// # Errors
    /// [`StreamError::Malformed`], from then on always.
    pub fn pop(&mut self) -> Result<Option<Bytes>, StreamError> {
        if self.broken {
            return Err(StreamError::Malformed);
        }
        let Some((message, padded)) = self.next_len()? else { return Ok(None) };
        if self.buffer.len() < padded {
            return Ok(None);
        }
        let mut out = self.buffer.split_to(padded);
        out.truncate(message);
        Ok(Some(out.freeze()))
    }

    /// Bytes that wait for the rest of their message.
    pub fn buffered(&self) -> usize {
        self.buffer.remaining()
    }

    /// Length of the next message, without and with padding.
    fn next_len(&mut self) -> Result<Option<(usize, usize)>, StreamError> {
        let b = &self.buffer[..];
        if b.len() < CHANNEL_HEADER {
            // A wrong first byte is told at once.
            return if b.first().is_some_and(|first| first >> 6 > 1) { self.fail() } else { Ok(None) };
        }
        let length = usize::from(u16::from_be_bytes([b[2], b[3]]));
        match b[0] >> 6 {
            0 => {
                let cookie = &b[4..b.len().min(8)];
                if !length.is_multiple_of(4) || !MAGIC_COOKIE.starts_with(cookie) {
                    return self.fail();
                }
                Ok(Some((STUN_HEADER + length, STUN_HEADER + length)))
            }
            1 => {
                let message = CHANNEL_HEADER + length;
                Ok(Some((message, message.next_multiple_of(4))))
            }
            _ => self.fail(),
        }
    }

    fn fail<T>(&mut self) -> Result<T, StreamError> {
        self.broken = true;
        self.buffer = BytesMut::new();
        Err(StreamError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remotemedia_testkit::{Mutator, Random};

    fn stun(length: usize) -> Vec<u8> {
        let mut out = vec![1, 1];
        out.extend_from_slice(&(length as u16).to_be_bytes());
        out.extend_from_slice(&MAGIC_COOKIE);
        out.extend((0..12 + length).map(|i| i as u8));
        out
    }

    fn channel(length: usize) -> Vec<u8> {
        let mut out = vec![0x40, 7];
        out.extend_from_slice(&(length as u16).to_be_bytes());
        out.extend((0..length).map(|i| i as u8));
        out
    }

    #[test]
    fn messages_come_out_whole_however_the_stream_is_cut() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut wire = Vec::new();
            let mut sent = Vec::new();
            for _ in 0..20 {
                let message = if random.chance(0.5) {
                    stun(4 * random.below(300))
                } else {
                    channel([0, 1, 2, 3, 1200, 65_535][random.below(6)])
                };
                wire.extend_from_slice(&message);
                // The padding may be anything.
                wire.resize(wire.len().next_multiple_of(4), 0xee);
                sent.push(message);
            }
            let mut deframer = StreamDeframer::new();
            let (mut got, mut rest) = (Vec::new(), &wire[..]);
            while !rest.is_empty() {
                let cut = (1 + random.below(3000)).min(rest.len());
                deframer.push(&rest[..cut]).expect("room");
                rest = &rest[cut..];
                while let Some(message) = deframer.pop().expect("well-formed") {
                    got.push(message.to_vec());
                }
            }
            assert!(got == sent, "seed {seed}");
            assert_eq!(deframer.buffered(), 0);
        }
    }

    #[test]
    fn another_protocol_is_told_at_once_and_for_good() {
        for bad in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[0x80], &[0, 1, 0, 2], &[0, 1, 0, 4, 0x21, 0x13]] {
            let mut deframer = StreamDeframer::new();
            deframer.push(bad).expect("room");
            // "HTTP" begins like a ChannelData of channel 0x4854 and 21,588 bytes; the client doesn't know that channel.
            if bad[0] == b'H' {
                assert_eq!(deframer.pop(), Ok(None));
                continue;
            }
            assert_eq!(deframer.pop(), Err(StreamError::Malformed), "{bad:?}");
            assert_eq!(deframer.push(&stun(0)), Err(StreamError::Malformed));
            assert_eq!(deframer.pop(), Err(StreamError::Malformed));
        }
    }

    #[test]
    fn damaged_streams_stay_bounded() {
        let whole = [stun(8), channel(5), vec![0; 3], stun(400), channel(1200)].concat();
        let mut mutator = Mutator::new(5);
        let mut failed = 0;
        for _ in 0..3000 {
            let mut deframer = StreamDeframer::new();
            for _ in 0..4 {
                if deframer.push(&mutator.bytes(&whole)).is_err() {
                    break;
                }
                loop {
                    match deframer.pop() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => {
                            failed += 1;
                            break;
                        }
                    }
                }
                assert!(deframer.buffered() <= MAX_STREAM_BUFFER);
            }
        }
        assert!(failed > 100, "{failed}");
    }

    #[test]
    fn what_nobody_pops_is_refused() {
        let mut deframer = StreamDeframer::new();
        let chunk = channel(1200);
        let pushed = (0..1000).take_while(|_| deframer.push(&chunk).is_ok()).count();
        assert_eq!(pushed, MAX_STREAM_BUFFER / chunk.len());
        assert_eq!(deframer.push(&chunk), Err(StreamError::Overflow));
        let popped = (0..2000).take_while(|_| matches!(deframer.pop(), Ok(Some(_)))).count();
        assert_eq!(popped, pushed);
        deframer.push(&chunk).expect("room again");
    }
}
