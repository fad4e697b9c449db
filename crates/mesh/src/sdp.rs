//! The two lines of an SDP that the mesh reads.

/// Which RTCPeerConnection wrote a description: user name and session id of its `o=` line. RFC 8866 §5.2 makes them
/// unique, RFC 8829 §5.2.2 keeps them for the life of a connection and lets only the version count up. So an offer with the
/// session of the link we have is a renegotiation of that link, and one with another session comes from a new link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session(String);

impl Session {
    /// `None` if the text has no well-formed `o=` line, and so is no SDP.
    pub(crate) fn of(sdp: &str) -> Option<Self> {
        let mut lines = sdp.lines();
        if lines.next()?.trim_end() != "v=0" {
            return None;
        }
        let mut origin = lines.next()?.strip_prefix("o=")?.split_ascii_whitespace();
        let (user, id, version) = (origin.next()?, origin.next()?, origin.next()?);
        let digits =
            |text: &str| !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_digit());
        (user.len() <= 128 && digits(id) && digits(version)).then(|| Self(format!("{user} {id}")))
    }
}

/// The first `a=ice-ufrag` (RFC 8839 §5.4): the name of an ICE generation. A description with another one than before
/// restarts ICE, and an answer to a restart always has another one.
pub(crate) fn ice_ufrag(sdp: &str) -> Option<String> {
    let ufrag = sdp.lines().find_map(|line| line.trim_end().strip_prefix("a=ice-ufrag:"))?;
    (ufrag.len() <= 256).then(|| ufrag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ice_generation_is_read_and_bounded() {
        assert_eq!(ice_ufrag("v=0\r\na=ice-ufrag:abcd\r\na=ice-ufrag:efgh\r\n").as_deref(), Some("abcd"));
        assert_eq!(ice_ufrag(&format!("a=ice-ufrag:{}", "x".repeat(257))), None);
        assert_eq!(ice_ufrag("v=0\r\n"), None);
    }

    #[test]
    fn the_version_is_not_part_of_the_session_but_the_id_is() {
        let sdp = |origin: &str| Session::of(&format!("v=0\r\no={origin} IN IP4 127.0.0.1\r\ns=-\r\n"));
        assert!(sdp("- 42 1").is_some());
        assert_eq!(sdp("- 42 1"), sdp("- 42 2"));
        assert_ne!(sdp("- 42 1"), sdp("- 43 1"));
        assert_ne!(sdp("- 42 1"), sdp("mozilla 42 1"));
    }

    #[test]
    fn what_has_no_origin_is_no_sdp() {
        for text in [
            "",
            "hello",
            "v=0",
            "v=0\r\ns=-\r\n",
            "v=0\no=\n",
            "v=0\no=- x 1 IN IP4 0\n",
            "v=0\no=- 1\n",
            "o=- 1 1",
        ] {
            assert_eq!(Session::of(text), None, "{text:?}");
        }
    }
}
