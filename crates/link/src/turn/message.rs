//! STUN messages to and from a server, on the engine's codec.

use super::TurnError;
use bytes::Bytes;
use rtc::crypto::{HashAlgorithm, RTCCrypto};
use rtc::stun::attributes::{
    ATTR_ALTERNATE_SERVER, ATTR_ERROR_CODE, ATTR_LIFETIME, ATTR_MAPPED_ADDRESS, ATTR_MESSAGE_INTEGRITY,
    AttrType,
};
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{
    CLASS_ERROR_RESPONSE, MAGIC_COOKIE, MESSAGE_HEADER_SIZE, Message, MessageClass, MessageType, Method,
    TransactionId,
};
use rtc::stun::xoraddr::XorMappedAddress;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bytes before the payload of a ChannelData message (RFC 8656, section 12.4).
pub(super) const CHANNEL_HEADER: usize = 4;
/// REALM and NONCE are at most this long (RFC 8489, section 14.9).
pub(super) const MAX_CHALLENGE: usize = 763;
const MAX_REASON: usize = 128;

/// Writes one message.
pub(super) struct Writer(Message);

impl Writer {
    /// A message with a new transaction id.
    pub fn new(method: Method, class: MessageClass) -> Self {
        let mut message = Message::new();
        message.transaction_id = TransactionId::new();
        message.typ = MessageType::new(method, class);
        message.write_header();
        Self(message)
    }

    pub fn id(&self) -> TransactionId {
        self.0.transaction_id
    }

    pub fn attribute(mut self, kind: AttrType, value: &[u8]) -> Self {
        self.0.add(kind, value);
        self
    }

    /// An address, XORed.
    pub fn address(mut self, kind: AttrType, address: SocketAddr) -> Self {
        // Writing into a growing vector has no way to fail.
        let _ = XorMappedAddress { ip: address.ip(), port: address.port() }.add_to_as(&mut self.0, kind);
        self
    }

    /// MESSAGE-INTEGRITY, the last attribute.
    pub fn integrity(mut self, key: &[u8], crypto: &dyn RTCCrypto) -> Result<Self, TurnError> {
        use rtc::stun::message::Setter;
        MessageIntegrity::new_raw_integrity_with_provider(key, crypto)
            .add_to(&mut self.0)
            .map_err(|_| TurnError::Protocol("no HMAC-SHA1 here"))?;
        Ok(self)
    }

    pub fn finish(self) -> Bytes {
        Bytes::from(self.0.raw)
    }
}

/// The key of the long-term credential mechanism (RFC 8489, section 9.2.2). Strings are taken as they are: those of
/// printable ASCII are their own OpaqueString form.
pub(super) fn long_term_key(
    username: &str,
    realm: &[u8],
    credential: &str,
    crypto: &dyn RTCCrypto,
) -> Result<Vec<u8>, TurnError> {
    let input = [username.as_bytes(), b":", realm, b":", credential.as_bytes()].concat();
    crypto.hash(HashAlgorithm::Md5, &input).map_err(|_| TurnError::Protocol("no MD5 here"))
}

/// A ChannelData message, padded for a stream.
pub(super) fn channel_data(number: u16, payload: &[u8], stream: bool) -> Bytes {
    let length = CHANNEL_HEADER + payload.len();
    let padded = if stream { length.next_multiple_of(4) } else { length };
    let mut out = Vec::with_capacity(padded);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    out.extend_from_slice(payload);
    out.resize(padded, 0);
    Bytes::from(out)
}

/// Channel number and payload of a ChannelData message.
pub(super) fn parse_channel_data(data: &[u8]) -> Option<(u16, &[u8])> {
    let (header, rest) = data.split_first_chunk::<CHANNEL_HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // Over UDP too, padding may follow.
    Some((u16::from_be_bytes([header[0], header[1]]), rest.get(..length)?))
}

/// A received message. Attributes after MESSAGE-INTEGRITY are as good as absent (RFC 8489, section 14.5).
pub(super) struct Received(Message);

impl Received {
    /// `None` if this isn't one whole STUN message.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let header = data.first_chunk::<MESSAGE_HEADER_SIZE>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let whole = header[0] >> 6 == 0
            && header[4..8] == MAGIC_COOKIE.to_be_bytes()
            && length.is_multiple_of(4)
            && data.len() == MESSAGE_HEADER_SIZE + length;
        if !whole {
            return None;
        }
        let mut message = Message::new();
        message.unmarshal_binary(data).ok()?;
        Some(Self(message))
    }

    pub fn method(&self) -> Method {
        self.0.typ.method
    }

    pub fn class(&self) -> MessageClass {
        self.0.typ.class
    }

    pub fn id(&self) -> TransactionId {
        self.0.transaction_id
    }

    pub fn get(&self, kind: AttrType) -> Option<&[u8]> {
        let covered = self.0.attributes.0.iter().take_while(|a| a.typ != ATTR_MESSAGE_INTEGRITY);
        covered.into_iter().find(|a| a.typ == kind).map(|a| &a.value[..])
    }

    /// The value of an attribute, taken out.
    pub fn take(&mut self, kind: AttrType) -> Option<Bytes> {
        self.get(kind)?;
        let attribute = self.0.attributes.0.iter_mut().find(|a| a.typ == kind)?;
        Some(Bytes::from(std::mem::take(&mut attribute.value)))
    }

    /// A XORed address that could be somebody's.
    pub fn address(&self, kind: AttrType) -> Option<SocketAddr> {
        let value = self.get(kind)?;
        let mut xored = XorMappedAddress::default();
        let length = if value.get(1) == Some(&2) { 20 } else { 8 };
        if value.len() != length {
            return None;
        }
        xored.get_from_as(&self.0, kind).ok()?;
        usable(xored.ip, xored.port)
    }

    /// MAPPED-ADDRESS, of servers that know no other.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        plain_address(self.get(ATTR_MAPPED_ADDRESS)?)
    }

    /// ALTERNATE-SERVER.
    pub fn alternate_server(&self) -> Option<SocketAddr> {
        plain_address(self.get(ATTR_ALTERNATE_SERVER)?)
    }

    /// LIFETIME in seconds.
    pub fn lifetime(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(ATTR_LIFETIME)?.try_into().ok()?))
    }

    /// REALM or NONCE, within its bounds.
    pub fn challenge(&self, kind: AttrType) -> Option<Vec<u8>> {
        self.get(kind).filter(|v| !v.is_empty() && v.len() <= MAX_CHALLENGE).map(<[u8]>::to_vec)
    }

    /// ERROR-CODE and its reason, of an error answer; 500 if there is none to read.
    pub fn error(&self) -> Option<(u16, String)> {
        if self.class() != CLASS_ERROR_RESPONSE {
            return None;
        }
        let code = self.get(ATTR_ERROR_CODE).and_then(|value| {
            let (head, reason) = value.split_first_chunk::<4>()?;
            let (class, number) = (u16::from(head[2] & 7), u16::from(head[3]));
            let text = String::from_utf8_lossy(reason);
            let reason = text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
            ((3..=6).contains(&class) && number < 100).then_some((class * 100 + number, reason))
        });
        Some(code.unwrap_or((500, String::new())))
    }

    pub fn has_integrity(&self) -> bool {
        self.0.contains(ATTR_MESSAGE_INTEGRITY)
    }

    /// MESSAGE-INTEGRITY is there and right.
    pub fn verify(&mut self, key: &[u8], crypto: &dyn RTCCrypto) -> bool {
        MessageIntegrity::check(&mut self.0, key, crypto).is_ok()
    }
}

fn plain_address(value: &[u8]) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let ip: IpAddr = match head[1] {
        1 => <[u8; 4]>::try_from(ip).ok()?.into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
        _ => return None,
    };
    usable(ip, u16::from_be_bytes([head[2], head[3]]))
}

fn usable(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0 && !ip.is_unspecified() && !ip.is_multicast()).then_some(SocketAddr::new(ip, port))
}
