//! Leads what a member sends another through a socket of the test's.

use std::net::SocketAddr;
use std::sync::Mutex;

use remotemedia_transport::Signal;

/// A signal whose loopback candidate is replaced by the door in front of it, and that tells no other. The address goes to `host`.
pub fn detour(signal: Signal, door: SocketAddr, host: &Mutex<Option<SocketAddr>>) -> Option<Signal> {
    let rewrite = |text: &str| {
        let mut out = String::new();
        for line in text.split_inclusive("\r\n") {
            let Some(at) = line.find("candidate:") else {
                out.push_str(line);
                continue;
            };
            let mut fields: Vec<String> = line[at..].split_whitespace().map(str::to_owned).collect();
            if fields.get(4).map(String::as_str) != Some("127.0.0.1") {
                continue;
            }
            *host.lock().unwrap() = Some(format!("{}:{}", fields[4], fields[5]).parse().unwrap());
            fields[5] = door.port().to_string();
            let end = if line.ends_with("\r\n") { "\r\n" } else { "" };
            out.push_str(&format!("{}{}{end}", &line[..at], fields.join(" ")));
        }
        out
    };
    match signal {
        Signal::Offer(sdp) => Some(Signal::Offer(rewrite(&sdp))),
        Signal::Answer(sdp) => Some(Signal::Answer(rewrite(&sdp))),
        Signal::Candidate(mut candidate) => {
            let whole = candidate.candidate.is_empty();
            candidate.candidate = rewrite(&candidate.candidate);
            (whole || !candidate.candidate.is_empty()).then_some(Signal::Candidate(candidate))
        }
        other => Some(other),
    }
}
