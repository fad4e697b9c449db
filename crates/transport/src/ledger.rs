//! Which messages of a reliable channel the peer has for certain.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Message;

/// The engine counts bytes that were acknowledged, also those behind a gap; which ones they are it doesn't tell. Behind a gap lies
/// no more than the receiver's window: 2 MiB at most of ours, 5 MiB of Chromium's.
const MOST_BEHIND_A_GAP: u64 = 8 << 20;
/// Nor more chunks than a gap block can name (RFC 9260, section 3.3.4), and a message is at least one.
const MOST_CHUNKS_BEHIND_A_GAP: usize = 65_536;
/// When nothing has been outstanding for so long, nothing is: what were lost would have been sent again.
const CERTAIN: Duration = Duration::from_millis(1500);

/// The messages handed to the engine that may not have arrived, in the order of their sending.
#[derive(Debug)]
pub(crate) struct Ledger {
    kept: VecDeque<(u64, Message)>,
    /// Bytes handed over so far.
    handed: u64,
    /// Messages the peer has.
    acknowledged: u64,
    /// Bytes that the engine may count as acknowledged though no message had them: those that opened the channel, and what stands
    /// for an empty message.
    slack: u64,
    /// Since when nothing was outstanding.
    idle_since: Option<Instant>,
}

impl Ledger {
    /// For a channel whose opening took `slack` bytes on it (RFC 8832, section 5).
    pub(crate) fn new(slack: u64) -> Ledger {
        Ledger { kept: VecDeque::new(), handed: 0, acknowledged: 0, slack, idle_since: None }
    }

    /// The engine has taken it.
    pub(crate) fn hand_over(&mut self, message: Message) {
        if message.wire_len() == 0 {
            self.slack += 1;
        }
        self.handed += message.wire_len() as u64;
        self.idle_since = None;
        self.kept.push_back((self.handed, message));
    }

    /// The engine says that `outstanding` bytes are not acknowledged. The peer was last heard at `heard`.
    pub(crate) fn observe(&mut self, heard: Instant, outstanding: usize) {
        let released = self.handed.saturating_sub(outstanding as u64);
        let sure = if outstanding == 0 {
            let since = *self.idle_since.get_or_insert(heard);
            if heard >= since + CERTAIN {
                self.slack = 0;
            }
            released.saturating_sub(self.slack)
        } else {
            self.idle_since = None;
            released.saturating_sub(self.slack + MOST_BEHIND_A_GAP)
        };
        let long_past = released.saturating_sub(self.slack);
        while let Some((end, _)) = self.kept.front()
            && (*end <= sure
                || self.kept.get(MOST_CHUNKS_BEHIND_A_GAP).is_some_and(|(later, _)| *later <= long_past))
        {
            self.kept.pop_front();
            self.acknowledged += 1;
        }
    }

    /// How many messages arrived, and those that may or may not have. The peer was last heard at `heard`.
    pub(crate) fn end(mut self, heard: Instant) -> (u64, Vec<Message>) {
        if self.idle_since.is_some() {
            self.observe(heard, 0);
        }
        (self.acknowledged, self.kept.into_iter().map(|(_, message)| message).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Message {
        Message::Binary(vec![0; len].into())
    }

    fn after(ms: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn what_is_behind_a_gap_says_nothing_of_what_is_before_it() {
        let mut ledger = Ledger::new(0);
        for _ in 0..10 {
            ledger.hand_over(message(1_000));
        }
        // All but the first may have been acknowledged, or all but the last.
        ledger.observe(after(0), 1_000);
        assert_eq!(ledger.acknowledged, 0);
        ledger.observe(after(1), 0);
        assert_eq!(ledger.acknowledged, 10);
        assert_eq!(ledger.end(after(2)), (10, vec![]));
    }

    #[test]
    fn in_a_long_transfer_what_is_far_behind_is_certain_and_the_rest_bounded() {
        let mut ledger = Ledger::new(0);
        let mut outstanding = 0;
        for n in 0..1_000 {
            ledger.hand_over(message(100_000));
            outstanding = (outstanding + 100_000).min(1_500_000);
            ledger.observe(after(n), outstanding);
            assert!(ledger.kept.len() <= 100, "{}", ledger.kept.len());
        }
        let sent = 1_000 * 100_000;
        let (acknowledged, unknown) = ledger.end(after(1_000));
        assert_eq!(acknowledged as usize + unknown.len(), 1_000);
        assert!(acknowledged * 100_000 <= sent - 1_500_000 - MOST_BEHIND_A_GAP);
        assert!(acknowledged > 850);
    }

    #[test]
    fn tiny_messages_are_bounded_by_their_number() {
        let mut ledger = Ledger::new(0);
        for n in 0..200_000 {
            ledger.hand_over(message(1));
            ledger.observe(after(n), 10);
        }
        assert!(ledger.kept.len() <= MOST_CHUNKS_BEHIND_A_GAP + 11, "{}", ledger.kept.len());
        assert_eq!(ledger.acknowledged as usize + ledger.kept.len(), 200_000);
    }

    #[test]
    fn what_opened_the_channel_is_not_taken_for_a_message() {
        let mut ledger = Ledger::new(16);
        ledger.hand_over(message(10));
        // The sixteen bytes were acknowledged, the ten perhaps not.
        ledger.observe(after(0), 0);
        assert_eq!(ledger.acknowledged, 0);
        ledger.observe(after(1_000), 0);
        assert_eq!(ledger.acknowledged, 0);
        ledger.observe(after(1_500), 0);
        assert_eq!(ledger.acknowledged, 1);
        // From then on the count is exact.
        ledger.hand_over(message(10));
        ledger.observe(after(1_600), 10);
        assert_eq!(ledger.acknowledged, 1);
        ledger.observe(after(1_601), 0);
        assert_eq!(ledger.acknowledged, 2);
        // An empty message is a byte on the way.
        ledger.hand_over(message(0));
        ledger.hand_over(message(1));
        ledger.observe(after(1_700), 0);
        assert_eq!(ledger.acknowledged, 3, "the empty one was sent first");
        assert_eq!(ledger.end(after(3_300)), (4, vec![]));
    }
}
