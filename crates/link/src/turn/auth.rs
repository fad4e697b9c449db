//! Which credentials a request carries (RFC 8489, section 9.2).

use super::TurnError;
use super::message::{Received, Writer, long_term_key};
use super::transaction::Transaction;
use bytes::Bytes;
use rtc::crypto::RTCCrypto;
use rtc::stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use std::time::{Duration, Instant};

/// USERNAME is shorter than 509 bytes (RFC 8489, section 14.3).
const MAX_USERNAME: usize = 508;
const MAX_CREDENTIAL: usize = 1024;
/// How often a request is sent again at once with a new nonce or realm.
const MAX_STALE: u32 = 8;
/// How many credentials in a row may be refused.
const MAX_REFUSED: u32 = 3;
/// While an allocation lives, how often other credentials are asked for.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub username: String,
    pub credential: String,
}

impl Credentials {
    pub fn check(&self) -> Result<(), TurnError> {
        if !(1..=MAX_USERNAME).contains(&self.username.len()) {
            return Err(TurnError::Argument("a TURN username has 1 to 508 bytes"));
        }
        if self.credential.len() > MAX_CREDENTIAL {
            return Err(TurnError::Argument("a TURN credential has at most 1024 bytes"));
        }
        Ok(())
    }
}

/// What a refusal means for the request that got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it again at once.
    Again,
    /// It waits for other credentials.
    Park,
    /// A server that finds each of its nonces stale.
    Loop,
    /// The answer has no nonce or realm to go on with.
    Malformed,
}

/// What a request was signed with.
pub(super) struct Signed {
    /// The key of its integrity, and of its answer's.
    pub key: Vec<u8>,
    realm: Vec<u8>,
    credentials: Credentials,
    generation: u32,
}

/// Realm, nonce and credentials of one server.
pub(super) struct Auth {
    newest: Credentials,
    /// Those of the allocation, once the server said that no others will do (441).
    pinned: Option<Credentials>,
    /// With which the allocation was made.
    made_with: Option<Credentials>,
    /// Counts the credentials that were set.
    generation: u32,
    challenge: Option<Challenge>,
    /// Since when requests wait for other credentials, and when to ask for them.
    waiting: Option<Waiting>,
    refused: u32,
}

struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Waiting {
    since: Instant,
    ask_at: Instant,
}

impl Auth {
    pub fn new(credentials: Credentials) -> Self {
        Self {
            newest: credentials,
            pinned: None,
            made_with: None,
            generation: 0,
            challenge: None,
            waiting: None,
            refused: 0,
        }
    }

    /// Finishes a request, with credentials if the server wants some.
    pub fn sign(
        &self,
        request: Writer,
        crypto: &dyn RTCCrypto,
    ) -> Result<(Bytes, Option<Signed>), TurnError> {
        let Some(Challenge { realm, nonce }) = &self.challenge else { return Ok((request.finish(), None)) };
        let credentials = self.pinned.as_ref().unwrap_or(&self.newest).clone();
        let key = long_term_key(&credentials.username, realm, &credentials.credential, crypto)?;
        let request = request
            .attribute(ATTR_USERNAME, credentials.username.as_bytes())
            .attribute(ATTR_REALM, realm)
            .attribute(ATTR_NONCE, nonce)
            .integrity(&key, crypto)?;
        let signed = Signed { key, realm: realm.clone(), credentials, generation: self.generation };
        Ok((request.finish(), Some(signed)))
    }

    /// 438: the nonce is stale.
    pub fn stale(&mut self, answer: &Received, transaction: &Transaction) -> Verdict {
        let Some(nonce) = answer.challenge(ATTR_NONCE) else { return Verdict::Malformed };
        let Some(challenge) = &mut self.challenge else { return Verdict::Malformed };
        challenge.nonce = nonce;
        if let Some(realm) = answer.challenge(ATTR_REALM) {
            challenge.realm = realm;
        }
        if transaction.stale < MAX_STALE { Verdict::Again } else { Verdict::Loop }
    }

    /// 401: credentials are wanted, or these are refused.
    pub fn unauthorized(&mut self, answer: &Received, transaction: &Transaction) -> Verdict {
        let (realm, nonce) = (answer.challenge(ATTR_REALM), answer.challenge(ATTR_NONCE));
        let Some(signed) = &transaction.signed else {
            let (Some(realm), Some(nonce)) = (realm, nonce) else { return Verdict::Malformed };
            self.challenge = Some(Challenge { realm, nonce });
            return if transaction.stale < MAX_STALE { Verdict::Again } else { Verdict::Loop };
        };
        let other_realm = realm.as_ref().is_some_and(|r| *r != signed.realm);
        if let (Some(realm), Some(nonce)) = (realm, nonce) {
            self.challenge = Some(Challenge { realm, nonce });
        }
        if signed.generation != self.generation || (other_realm && transaction.stale < MAX_STALE) {
            return Verdict::Again;
        }
        Verdict::Park
    }

    /// 441: the allocation was made under another name. True if the request may be sent again under that one.
    pub fn wrong_name(&mut self, transaction: &Transaction) -> bool {
        let Some(signed) = &transaction.signed else { return false };
        let Some(made_with) = self.made_with.as_ref().filter(|c| **c != signed.credentials) else {
            return false;
        };
        self.pinned = Some(made_with.clone());
        self.generation += 1;
        transaction.stale < MAX_STALE
    }

    /// A request with credentials succeeded.
    pub fn accepted(&mut self) {
        self.refused = 0;
    }

    /// There is an allocation, made with these.
    pub fn allocated(&mut self, made_with: Option<&Signed>) {
        self.made_with = made_with.map(|signed| signed.credentials.clone());
    }

    /// There is none any more: the newest credentials will do again.
    pub fn lost(&mut self) {
        if self.pinned.take().is_some() {
            self.generation += 1;
            self.waiting = None;
        }
        self.made_with = None;
    }

    /// Other credentials. False if they are the same.
    pub fn set(&mut self, credentials: Credentials) -> bool {
        if credentials == self.newest {
            return false;
        }
        self.newest = credentials;
        self.pinned = None;
        self.generation += 1;
        self.waiting = None;
        true
    }

    /// A request waits for other credentials. True if they are to be asked for.
    pub fn park(&mut self, now: Instant) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        self.refused += 1;
        self.waiting = Some(Waiting { since: now, ask_at: now + ASK_AGAIN });
        true
    }

    /// Too many were refused in a row.
    pub fn hopeless(&self) -> bool {
        self.refused > MAX_REFUSED
    }

    /// Since when requests wait.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.waiting.map(|w| w.since)
    }

    /// When to ask for credentials again.
    pub fn ask_at(&self) -> Option<Instant> {
        self.waiting.map(|w| w.ask_at)
    }

    /// They have been asked for again.
    pub fn asked(&mut self, now: Instant) {
        if let Some(waiting) = &mut self.waiting {
            waiting.ask_at = now + ASK_AGAIN;
        }
    }
}
