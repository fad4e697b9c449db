//! The STUN client, under virtual time.

// Only its codec is used here.
#[allow(dead_code)]
#[path = "turn/fake.rs"]
mod fake;

use fake::{ERROR_CODE, MAPPED_ADDRESS, Stun, error_code, xored};
use remotemedia_link::turn::{StunClient, StunError, StunEvent};
use remotemedia_testkit::Mutator;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn start() -> (Instant, StunClient, Stun) {
    let now = Instant::now();
    let mut client = StunClient::new(now, "203.0.113.1:3478".parse().expect("an address"));
    let request = client.poll_transmit().expect("a request");
    assert!(client.poll_transmit().is_none());
    let request = Stun::parse(&request).expect("STUN");
    assert_eq!((request.method, request.class, request.attributes.len()), (1, 0, 0));
    (now, client, request)
}

fn mapped() -> SocketAddr {
    "198.51.100.20:61000".parse().expect("an address")
}

fn answer(request: &Stun, class: u16, attributes: Vec<(u16, Vec<u8>)>) -> Vec<u8> {
    Stun { method: 1, class, id: request.id, attributes }.encode(None)
}

#[test]
fn the_address_is_told_once() {
    for six in [false, true] {
        let (now, mut client, request) = start();
        let mapped = if six { "[2001:db8::5]:61000".parse().expect("an address") } else { mapped() };
        let answer = answer(&request, 2, vec![(MAPPED_ADDRESS, xored(mapped, &request.id))]);
        assert!(client.handle_data(now, &answer));
        assert_eq!(client.poll_event(), Some(StunEvent::Mapped(mapped)));
        assert_eq!((client.poll_timeout(), client.poll_transmit()), (None, None));
        assert!(client.handle_data(now, &answer), "a duplicate is the client's too");
        client.handle_timeout(now + Duration::from_secs(60));
        assert_eq!(client.poll_event(), None);
    }
}

#[test]
fn an_old_server_tells_it_plainly() {
    let (now, mut client, request) = start();
    let plain = vec![(1, vec![0, 1, 0xee, 0x48, 198, 51, 100, 20])];
    assert!(client.handle_data(now, &answer(&request, 2, plain)));
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(mapped())));
}

#[test]
fn it_is_asked_seven_times() {
    let (start, mut client, request) = start();
    let mut sent = vec![0];
    let end = loop {
        let now = client.poll_timeout().expect("a timer");
        client.handle_timeout(now);
        if let Some(bytes) = client.poll_transmit() {
            assert_eq!(Stun::parse(&bytes).expect("STUN").id, request.id, "the same request");
            sent.push((now - start).as_millis());
        }
        if let Some(event) = client.poll_event() {
            break (event, now - start);
        }
    };
    assert_eq!(sent, [0, 100, 300, 700, 1500, 3100, 6300]);
    assert_eq!(end, (StunEvent::Failed(StunError::Timeout), Duration::from_millis(7900)));
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn errors_and_empty_answers_end_it() {
    for (class, attributes, error) in [
        (3, vec![(ERROR_CODE, error_code(420))], StunError::Refused { code: 420 }),
        (3, vec![], StunError::Refused { code: 500 }),
        (2, vec![], StunError::NoAddress),
        (2, vec![(MAPPED_ADDRESS, vec![0, 1, 0x21, 0x12, 0x21, 0x12, 0xa4, 0x42])], StunError::NoAddress),
        (2, vec![(MAPPED_ADDRESS, vec![0, 1, 1])], StunError::NoAddress),
        (2, vec![(MAPPED_ADDRESS, vec![0, 2, 1, 1, 9, 9, 9, 9])], StunError::NoAddress),
    ] {
        let (now, mut client, request) = start();
        assert!(client.handle_data(now, &answer(&request, class, attributes)));
        assert_eq!(client.poll_event(), Some(StunEvent::Failed(error)));
    }
}

#[test]
fn what_is_another_s_is_left_alone() {
    let (now, mut client, mut request) = start();
    for class in [0, 1] {
        assert!(!client.handle_data(now, &answer(&request, class, vec![])), "class {class}");
    }
    let right = answer(&request, 2, vec![(MAPPED_ADDRESS, xored(mapped(), &request.id))]);
    let allocate = Stun { method: 3, class: 2, id: request.id, attributes: Vec::new() }.encode(None);
    assert!(!client.handle_data(now, &allocate));
    request.id[3] ^= 1;
    assert!(!client.handle_data(now, &answer(&request, 2, vec![])));
    let mut mutator = Mutator::new(2);
    for _ in 0..20_000 {
        let bad = mutator.bytes(&right);
        // A change of the class or the address alone can't be told: a binding isn't signed.
        if bad.len() != right.len() || bad[2..20] != right[2..20] {
            assert!(!client.handle_data(now, &bad), "{bad:02x?}");
        }
    }
    assert!(client.handle_data(now, &right));
}
