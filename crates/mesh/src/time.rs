//! Time as the mesh knows it: a number the owner passes in.

use std::ops::Add;
use std::time::Duration;

/// Microseconds since any fixed moment of the owner's choice, on a clock that does not go back. A `now` that is
/// earlier than one given before is taken as that earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The owner's starting moment.
    pub const ZERO: Self = Self(0);

    /// The moment `us` microseconds after [`Time::ZERO`].
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since [`Time::ZERO`].
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is still to come.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates at the end of time, so that a timeout of `Duration::MAX` means never.
impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}
