//! Moments on a node's own time line.
//!
//! The core never reads a clock: a driver makes these from the operating system's clock, the
//! simulator from its event queue. Spans are `core::time::Duration`.

use core::time::Duration;

/// A moment, in nanoseconds since this node started counting.
///
/// Moments of different nodes must not be compared.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The moment at which the node started counting.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after [`Self::ZERO`].
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `since_start` after [`Self::ZERO`]. Saturates after 584 years.
    pub fn from_start(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since [`Self::ZERO`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`.
    ///
    /// # Panics
    ///
    /// If `earlier` is the later one. Time that runs backwards is a driver bug, and rounding it up
    /// to zero would only turn the bug into a stall.
    pub fn since(self, earlier: Self) -> Duration {
        assert!(earlier <= self, "time ran backwards from {earlier:?} to {self:?}");
        Duration::from_nanos(self.0 - earlier.0)
    }

    /// The moment `span` after `self`. Saturates at the end of the time line,
    /// which no timer reaches.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// `first`, doubled `times` times, but never more than `most`.
pub(crate) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}

/// How long something usually takes, given that it last took `newest`, which counts for an eighth.
pub(crate) fn smoothed(usual: Duration, newest: Duration) -> Duration {
    (usual * 7 + newest) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_between_two_moments_is_their_distance() {
        let early = Instant::from_nanos(5);
        assert_eq!(early.after(Duration::from_nanos(7)).since(early), Duration::from_nanos(7));
    }

    #[test]
    fn doubling_ends_at_the_most() {
        let (first, most) = (Duration::from_secs(5), Duration::from_secs(30));
        let waits = [0, 1, 2, 3, u32::MAX].map(|times| doubled(first, times, most).as_secs());
        assert_eq!(waits, [5, 10, 20, 30, 30]);
    }

    #[test]
    #[should_panic(expected = "time ran backwards")]
    fn time_that_runs_backwards_is_a_bug() {
        let _ = Instant::ZERO.since(Instant::from_nanos(1));
    }
}
