//! How long to wait before trying again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Waits that double from a first one up to a longest one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first`, never waits longer than `max`.
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The wait after one more failure.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait
    }

    /// Starts over, after a success.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Up to a quarter less, so that hosts that wait for the same do not all come at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let draw = u32::try_from(RandomState::new().hash_one(0) % 256).unwrap_or_default();
    wait * (1_024 - draw) / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(5), seconds(60));
        let waits: Vec<_> = (0..6).map(|_| backoff.after_failure().as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.after_failure(), seconds(5));
    }
}
