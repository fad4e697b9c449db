use std::cmp::Ordering;
use std::time::Instant;

/// Something to be called at a time. Of two at one time, the one made first is the earlier.
pub(super) struct Timer {
    pub at: Instant,
    pub number: u64,
    pub run: Box<dyn FnOnce() + Send>,
}

impl Ord for Timer {
    fn cmp(&self, other: &Timer) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Timer) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}
