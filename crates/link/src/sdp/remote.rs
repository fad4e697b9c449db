//! From a peer's description to what the engine is told, and to what the link has to know.

use super::{Direction, Parsed, Section, Slot, SlotState, find, parse};
use crate::config::LinkConfig;
use crate::engine::{AV1_FMTP, H264_FMTP, VP9_FMTP, opus_fmtp};
use crate::error::LinkError;
use crate::event::PeerAudio;
use remotemedia_media::VideoCodec;
use std::fmt::Write as _;

/// A peer's description, checked and reduced.
#[derive(Debug)]
pub(crate) struct Remote {
    /// What the engine is given.
    pub engine: String,
    /// Every m-line in order.
    pub slots: Vec<Slot>,
    pub audio: Option<RemoteMedia>,
    pub video: Option<RemoteMedia>,
    /// The peer's `a=max-message-size`, when there is a data section.
    pub data: Option<usize>,
    pub peer_audio: PeerAudio,
    pub ufrag: String,
    /// SHA-256, upper case.
    pub fingerprint: String,
    /// Candidate lines, without `a=`.
    pub candidates: Vec<String>,
    pub setup: Setup,
}

/// An audio or video section that both sides can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteMedia {
    pub mid: String,
    /// As the peer wrote it.
    pub direction: Direction,
    /// By our preference.
    pub codecs: Vec<RemoteCodec>,
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
}

impl RemoteMedia {
    /// What we send of them: the first that can be encoded; the first of all where none can.
    pub fn sent(&self) -> Option<&RemoteCodec> {
        let can = |c: &&RemoteCodec| c.codec.is_none_or(VideoCodec::can_encode);
        self.codecs.iter().find(can).or(self.codecs.first())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteCodec {
    /// `None`: Opus.
    pub codec: Option<VideoCodec>,
    pub payload_type: u8,
    pub rtx: Option<u8>,
    /// It asks for keyframes, and answers such requests, by FIR (RFC 5104) and not by PLI (RFC 4585).
    pub fir_only: bool,
}

/// Who begins DTLS (RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    Actpass,
    Active,
    Passive,
}

/// What to judge a description by.
pub(crate) struct Judge<'a> {
    pub config: &'a LinkConfig,
    pub answer: bool,
    /// The m-lines so far: agreed ones, or for an answer the ones offered.
    pub slots: &'a [Slot],
}

const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const TWCC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

struct Transport<'a> {
    ufrag: &'a str,
    pwd: &'a str,
    fingerprint: String,
    setup: Setup,
}

impl Judge<'_> {
    pub fn read(&self, text: &str) -> Result<Remote, LinkError> {
        let parsed = parse(text)?;
        self.check_order(&parsed)?;
        let mut remote = Remote {
            engine: String::new(),
            slots: Vec::new(),
            audio: None,
            video: None,
            data: None,
            peer_audio: PeerAudio::default(),
            ufrag: String::new(),
            fingerprint: String::new(),
            candidates: Vec::new(),
            setup: Setup::Actpass,
        };
        let bundle: Option<Vec<&str>> = find_bundle(&parsed);
        let mut transport: Option<Transport<'_>> = None;
        let mut tagged: Option<&str> = None;
        let mut body = String::new();
        let mut accepted: Vec<&str> = Vec::new();
        for (index, section) in parsed.sections.iter().enumerate() {
            // A refused section may leave out its mid; it keeps the one it was offered under.
            let spare = self.slots.get(index).map_or_else(|| format!("refused{index}"), |s| s.mid.clone());
            let mid = match section.mid() {
                Some(mid) => mid,
                None if section.is_rejected() && section.attr("mid").is_none() => {
                    remote.slots.push(slot(section, &spare, SlotState::Rejected));
                    continue;
                }
                None => return Err(LinkError::BadSdp("an m-line without a usable a=mid")),
            };
            if parsed.sections[..index].iter().any(|s| s.mid() == Some(mid)) {
                return Err(LinkError::BadSdp("two m-lines with one mid"));
            }
            let bundled = |tag: &str| bundle.as_ref().is_some_and(|b| b.contains(&tag) && b.contains(&mid));
            let alone = tagged.is_none_or(bundled);
            let mut state = SlotState::Rejected;
            if !section.is_rejected() && alone {
                state = self.accept(section, &parsed, mid, &mut remote, &mut body);
            }
            if state != SlotState::Rejected {
                let found = transport_of(section, &parsed, transport.as_ref())?;
                if let Some(first) = &transport {
                    if (first.ufrag, first.pwd) != (found.ufrag, found.pwd)
                        || first.fingerprint != found.fingerprint
                    {
                        return Err(LinkError::BadSdp(
                            "bundled m-lines with different ICE or DTLS parameters",
                        ));
                    }
                } else {
                    transport = Some(found);
                    tagged = Some(mid);
                }
                accepted.push(mid);
            }
            remote.slots.push(slot(section, mid, state));
        }
        let transport = transport.ok_or(LinkError::BadSdp("no m-line in common"))?;
        for section in &parsed.sections {
            let lines = section.all("candidate").take(64).map(|c| format!("candidate:{c}"));
            remote.candidates.extend(lines);
        }
        remote.candidates.truncate(64);
        remote.ufrag = transport.ufrag.to_owned();
        remote.fingerprint.clone_from(&transport.fingerprint);
        remote.setup = transport.setup;
        remote.engine = engine_text(&parsed, &transport, &accepted, &body);
        Ok(remote)
    }

    /// M-lines never change places; a refused one may be given a new purpose (RFC 8829, section 5.2.2).
    fn check_order(&self, parsed: &Parsed<'_>) -> Result<(), LinkError> {
        let count = parsed.sections.len();
        if self.answer && count != self.slots.len() || count < self.slots.len() {
            return Err(LinkError::BadSdp("m-lines are missing or added"));
        }
        for (slot, section) in self.slots.iter().zip(&parsed.sections) {
            let same = section.mid() == Some(slot.mid.as_str()) && section.media == slot.media;
            let reused = slot.state == SlotState::Rejected && !self.answer;
            let dropped = section.is_rejected() && section.media == slot.media;
            if !same && !reused && !dropped {
                return Err(LinkError::BadSdp("m-lines changed their order"));
            }
        }
        Ok(())
    }

    fn accept(
        &self,
        section: &Section<'_>,
        parsed: &Parsed<'_>,
        mid: &str,
        remote: &mut Remote,
        body: &mut String,
    ) -> SlotState {
        let slot = self.slots.iter().find(|s| s.mid == mid);
        if slot.is_some_and(|s| s.state == SlotState::Rejected && self.answer) {
            return SlotState::Rejected;
        }
        // One section a kind: another of the same kind is refused, also when it comes first in a later offer.
        let taken = |state: SlotState| self.slots.iter().any(|s| s.state == state && s.mid != mid);
        let rtp = section.proto.contains("RTP/SAVP");
        match section.media {
            "audio" if rtp && self.config.audio && remote.audio.is_none() && !taken(SlotState::Audio) => {
                let Some(media) = self.media(section, parsed, mid, false, body) else {
                    return SlotState::Rejected;
                };
                remote.peer_audio = peer_audio(section, &media);
                remote.audio = Some(media);
                SlotState::Audio
            }
            "video" if rtp && self.config.video && remote.video.is_none() && !taken(SlotState::Video) => {
                let Some(media) = self.media(section, parsed, mid, true, body) else {
                    return SlotState::Rejected;
                };
                remote.video = Some(media);
                SlotState::Video
            }
            "application"
                if self.config.data.is_some() && remote.data.is_none() && !taken(SlotState::Data) =>
            {
                if section.formats != ["webrtc-datachannel"] || !section.proto.ends_with("DTLS/SCTP") {
                    return SlotState::Rejected;
                }
                // RFC 8841: absent means 64 KiB, 0 means no limit.
                let limit = match section.attr("max-message-size").map(|v| v.trim().parse::<u64>()) {
                    None | Some(Err(_)) => 65536,
                    Some(Ok(0)) => usize::MAX,
                    Some(Ok(n)) => usize::try_from(n).unwrap_or(usize::MAX),
                };
                let port =
                    section.attr("sctp-port").and_then(|p| p.trim().parse::<u16>().ok()).unwrap_or(5000);
                let _ = write!(
                    body,
                    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n\
                     a=sendrecv\r\na=sctp-port:{port}\r\na=max-message-size:{}\r\n\u{1}",
                    self.config.max_message_size
                );
                remote.data = Some(limit);
                SlotState::Data
            }
            _ => SlotState::Rejected,
        }
    }

    /// Writes an audio or video section for the engine; `None` if there is no codec in common.
    fn media(
        &self,
        section: &Section<'_>,
        parsed: &Parsed<'_>,
        mid: &str,
        video: bool,
        body: &mut String,
    ) -> Option<RemoteMedia> {
        let codecs = self.codecs(section, video);
        if codecs.is_empty() {
            return None;
        }
        let (ssrc, rtx_ssrc) = ssrcs(section);
        let mut types: Vec<String> = codecs.iter().map(|c| c.payload_type.to_string()).collect();
        types.extend(codecs.iter().filter_map(|c| c.rtx).map(|r| r.to_string()));
        let kind = if video { "video" } else { "audio" };
        // The engine is always told sendrecv: it stops a transceiver for good on `inactive`, and makes none that could
        // turn around later on `recvonly`. Directions are kept by the link.
        let _ = write!(
            body,
            "m={kind} 9 UDP/TLS/RTP/SAVPF {}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=sendrecv\r\na=rtcp-mux\r\n\
             a=rtcp-rsize\r\n\u{1}",
            types.join(" ")
        );
        for (id, uri) in extensions(section) {
            let _ = write!(body, "a=extmap:{id} {uri}\r\n");
        }
        for codec in &codecs {
            let pt = codec.payload_type;
            let (name, fmtp) = match codec.codec {
                None => ("opus/48000/2", opus_fmtp(self.config)),
                Some(VideoCodec::Vp8) => ("VP8/90000", String::new()),
                Some(VideoCodec::Vp9) => ("VP9/90000", VP9_FMTP.to_owned()),
                Some(VideoCodec::H264) => ("H264/90000", H264_FMTP.to_owned()),
                Some(VideoCodec::Av1) => ("AV1/90000", AV1_FMTP.to_owned()),
            };
            let _ = write!(body, "a=rtpmap:{pt} {name}\r\n");
            if !fmtp.is_empty() {
                let _ = write!(body, "a=fmtp:{pt} {fmtp}\r\n");
            }
            for feedback in feedbacks(section, pt) {
                let _ = write!(body, "a=rtcp-fb:{pt} {feedback}\r\n");
            }
            if let Some(rtx) = codec.rtx {
                let _ = write!(body, "a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={pt}\r\n");
            }
        }
        if let Some(ssrc) = ssrc {
            if let Some(rtx) = rtx_ssrc {
                let _ = write!(body, "a=ssrc-group:FID {ssrc} {rtx}\r\n");
            }
            let _ = write!(body, "a=msid:peer {kind}\r\na=ssrc:{ssrc} cname:peer\r\n");
            if let Some(rtx) = rtx_ssrc {
                let _ = write!(body, "a=ssrc:{rtx} cname:peer\r\n");
            }
        }
        let direction = Direction::of(section, &parsed.attrs);
        Some(RemoteMedia { mid: mid.to_owned(), direction, codecs, ssrc, rtx_ssrc })
    }

    fn codecs(&self, section: &Section<'_>, video: bool) -> Vec<RemoteCodec> {
        let payload_types: Vec<u8> = section
            .formats
            .iter()
            .filter_map(|f| f.parse().ok())
            // 64 to 95 can't be told from RTCP on one port (RFC 5761, section 4).
            .filter(|pt| *pt < 64 || (96..128).contains(pt))
            .collect();
        let value = |key: &str, pt: u8| {
            section.all(key).find_map(|v| {
                let (number, rest) = v.split_once(' ')?;
                (number.parse::<u8>().ok()? == pt).then_some(rest.trim())
            })
        };
        let codec_of =
            |pt: u8| -> Option<Option<VideoCodec>> {
                let map = value("rtpmap", pt)?.to_ascii_lowercase();
                let fmtp = value("fmtp", pt).unwrap_or("");
                match (video, map.as_str()) {
                    (false, "opus/48000/2") => Some(None),
                    (true, "vp8/90000") => Some(Some(VideoCodec::Vp8)),
                    (true, "vp9/90000") => matches!(parameter(fmtp, "profile-id"), None | Some("0"))
                        .then_some(Some(VideoCodec::Vp9)),
                    (true, "av1/90000") => matches!(parameter(fmtp, "profile"), None | Some("0"))
                        .then_some(Some(VideoCodec::Av1)),
                    (true, "h264/90000") => is_constrained_baseline(fmtp).then_some(Some(VideoCodec::H264)),
                    _ => None,
                }
            };
        let rtx_of = |pt: u8| {
            payload_types.iter().copied().find(|rtx| {
                value("rtpmap", *rtx).is_some_and(|m| m.eq_ignore_ascii_case("rtx/90000"))
                    && value("fmtp", *rtx).and_then(|f| parameter(f, "apt")).and_then(|a| a.parse().ok())
                        == Some(pt)
            })
        };
        let wanted: Vec<Option<VideoCodec>> =
            if video { self.config.video_codecs.iter().map(|c| Some(*c)).collect() } else { vec![None] };
        let mut out: Vec<RemoteCodec> = Vec::new();
        for codec in wanted {
            let Some(pt) = payload_types.iter().copied().find(|pt| codec_of(*pt) == Some(codec)) else {
                continue;
            };
            if !out.iter().any(|c| c.codec == codec) {
                let rtx = if video { rtx_of(pt) } else { None };
                let feedback = feedbacks(section, pt);
                let fir_only = feedback.contains(&"ccm fir") && !feedback.contains(&"nack pli");
                out.push(RemoteCodec { codec, payload_type: pt, rtx, fir_only });
            }
        }
        out
    }
}

fn slot(section: &Section<'_>, mid: &str, state: SlotState) -> Slot {
    Slot {
        mid: mid.to_owned(),
        media: section.media.to_owned(),
        proto: section.proto.to_owned(),
        formats: section.formats.join(" "),
        state,
    }
}

fn transport_of<'a>(
    section: &Section<'a>,
    parsed: &Parsed<'a>,
    first: Option<&Transport<'a>>,
) -> Result<Transport<'a>, LinkError> {
    let get = |key| section.attr(key).or_else(|| find(&parsed.attrs, key));
    let ice = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/' || c == '-' || c == '_' || c == '=';
    let valid = |v: &&str, least: usize| (least..=256).contains(&v.len()) && v.chars().all(ice);
    let ufrag = get("ice-ufrag").or(first.map(|f| f.ufrag)).filter(|v| valid(v, 4));
    let pwd = get("ice-pwd").or(first.map(|f| f.pwd)).filter(|v| valid(v, 22));
    let (Some(ufrag), Some(pwd)) = (ufrag, pwd) else {
        return Err(LinkError::BadSdp("no usable a=ice-ufrag and a=ice-pwd"));
    };
    let prints =
        section.all("fingerprint").chain(parsed.attrs.iter().filter(|a| a.0 == "fingerprint").map(|a| a.1));
    let fingerprint = prints
        .filter_map(|v| v.split_once(' '))
        .find(|(algorithm, value)| algorithm.eq_ignore_ascii_case("sha-256") && is_sha256(value.trim()))
        .map(|(_, value)| value.trim().to_ascii_uppercase())
        .or_else(|| first.map(|f| f.fingerprint.clone()))
        .ok_or(LinkError::BadSdp("no a=fingerprint with sha-256"))?;
    let setup = match get("setup") {
        None | Some("actpass") => Setup::Actpass,
        Some("active") => Setup::Active,
        Some("passive") => Setup::Passive,
        Some(_) => return Err(LinkError::BadSdp("an a=setup that is not known")),
    };
    Ok(Transport { ufrag, pwd, fingerprint, setup })
}

fn engine_text(parsed: &Parsed<'_>, transport: &Transport<'_>, accepted: &[&str], body: &str) -> String {
    let setup = match transport.setup {
        Setup::Actpass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    };
    // The mark is not valid in SDP, so it can't have come from the peer.
    let shared =
        format!("a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=setup:{setup}\r\n", transport.ufrag, transport.pwd);
    let body = body.replace('\u{1}', &shared);
    let mut out = String::with_capacity(body.len() + 256);
    let _ = write!(
        out,
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {}\r\n",
        accepted.join(" "),
        transport.fingerprint
    );
    if find(&parsed.attrs, "ice-lite").is_some() {
        out.push_str("a=ice-lite\r\n");
    }
    out.push_str(&body);
    out
}

fn find_bundle<'a>(parsed: &Parsed<'a>) -> Option<Vec<&'a str>> {
    parsed
        .attrs
        .iter()
        .filter(|(k, _)| *k == "group")
        .find_map(|(_, v)| v.strip_prefix("BUNDLE"))
        .map(|v| v.split_whitespace().collect())
}

/// The main stream and its retransmission stream: the first FID group, else the first SSRC named.
fn ssrcs(section: &Section<'_>) -> (Option<u32>, Option<u32>) {
    for group in section.all("ssrc-group") {
        let mut fields = group.split_whitespace();
        if fields.next() == Some("FID")
            && let (Some(Ok(main)), Some(Ok(rtx))) =
                (fields.next().map(str::parse), fields.next().map(str::parse))
            && main != rtx
        {
            return (Some(main), Some(rtx));
        }
    }
    let first = section.all("ssrc").find_map(|v| v.split_whitespace().next()?.parse().ok());
    (first, None)
}

fn extensions<'a>(section: &Section<'a>) -> Vec<(u8, &'a str)> {
    let mut out: Vec<(u8, &str)> = Vec::new();
    for value in section.all("extmap") {
        let mut fields = value.split_whitespace();
        let (Some(id), Some(uri)) = (fields.next(), fields.next()) else { continue };
        let Ok(id) = id.split('/').next().unwrap_or("").parse::<u8>() else { continue };
        let known = uri == MID_URI || uri == TWCC_URI;
        if known && (1..=14).contains(&id) && !out.iter().any(|(i, u)| *i == id || *u == uri) {
            out.push((id, uri));
        }
    }
    out
}

fn feedbacks(section: &Section<'_>, payload_type: u8) -> Vec<&'static str> {
    const KNOWN: [&str; 4] = ["nack", "nack pli", "ccm fir", "transport-cc"];
    let number = payload_type.to_string();
    let has = |feedback: &str| {
        section.all("rtcp-fb").any(|v| {
            v.split_once(' ').is_some_and(|(pt, f)| (pt == "*" || pt == number) && f.trim() == feedback)
        })
    };
    KNOWN.into_iter().filter(|f| has(f)).collect()
}

fn peer_audio(section: &Section<'_>, media: &RemoteMedia) -> PeerAudio {
    let Some(pt) = media.codecs.first().map(|c| c.payload_type.to_string()) else {
        return PeerAudio::default();
    };
    let fmtp = section.all("fmtp").find_map(|v| v.split_once(' ').filter(|(n, _)| *n == pt).map(|(_, f)| f));
    let fmtp = fmtp.unwrap_or("");
    let flag = |key| parameter(fmtp, key) == Some("1");
    PeerAudio {
        stereo: flag("stereo"),
        fec: flag("useinbandfec"),
        dtx: flag("usedtx"),
        max_average_bitrate: parameter(fmtp, "maxaveragebitrate").and_then(|v| v.parse().ok()),
        max_playback_rate: parameter(fmtp, "maxplaybackrate").and_then(|v| v.parse().ok()),
        ptime_ms: section.attr("ptime").and_then(|v| v.trim().parse().ok()),
        max_ptime_ms: section.attr("maxptime").and_then(|v| v.trim().parse().ok()),
    }
}

fn parameter<'a>(fmtp: &'a str, key: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|p| {
        let (name, value) = p.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case(key).then_some(value.trim())
    })
}

/// RFC 6184, section 8.1: profile_idc 0x42 with constraint_set1, and non-interleaved mode.
fn is_constrained_baseline(fmtp: &str) -> bool {
    let Some(level) = parameter(fmtp, "profile-level-id").filter(|p| p.len() == 6 && p.is_ascii()) else {
        return false;
    };
    let byte = |i: usize| u8::from_str_radix(&level[i..i + 2], 16);
    matches!((byte(0), byte(2)), (Ok(0x42), Ok(flags)) if flags & 0x40 != 0)
        && parameter(fmtp, "packetization-mode") == Some("1")
}

fn is_sha256(value: &str) -> bool {
    value.len() == 95
        && value.bytes().enumerate().all(|(i, b)| if i % 3 == 2 { b == b':' } else { b.is_ascii_hexdigit() })
}
