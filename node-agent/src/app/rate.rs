//! How fast bytes come in, over the last seconds.
//!
//! Pure: the time is a parameter. Allocates nothing: a download asks several times a second.

use std::time::Duration;

use tokio::time::Instant;

/// Span over which a rate is taken: long enough that chunks, which arrive whole, do not make it
/// jump, and short enough that a person sees a change.
const WINDOW: Duration = Duration::from_secs(3);

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateMeter {
    since: Instant,
    bytes: u64,
    /// Bytes of the last whole window, and its length.
    last: Option<(u64, Duration)>,
}

impl RateMeter {
    pub(super) const fn new(now: Instant, bytes: u64) -> Self {
        Self { since: now, bytes, last: None }
    }

    /// Takes in the count of all bytes so far.
    pub(super) fn on_bytes(&mut self, now: Instant, bytes: u64) {
        let span = now.duration_since(self.since);
        if span >= WINDOW {
            let last = Some((bytes.saturating_sub(self.bytes), span));
            *self = Self { since: now, bytes, last };
        }
    }

    /// Bytes per second; zero if nothing came for a whole window.
    pub(super) fn rate(&self, now: Instant, bytes: u64) -> u64 {
        let span = now.duration_since(self.since);
        let (bytes, span) = match self.last {
            // Nobody counted for so long because nothing came.
            _ if span >= WINDOW * 2 => (bytes.saturating_sub(self.bytes), span),
            Some(last) => last,
            None => (bytes.saturating_sub(self.bytes), span),
        };
        let nanos = span.as_nanos().max(Duration::from_millis(100).as_nanos());
        u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut meter = RateMeter::new(start, 1_000);
        assert_eq!(meter.rate(start, 1_000), 0);
        meter.on_bytes(at(1_000), 301_000);
        assert_eq!(meter.rate(at(1_000), 301_000), 300_000, "the first seconds count as well");
        meter.on_bytes(at(3_000), 901_000);
        meter.on_bytes(at(4_000), 911_000);
        assert_eq!(meter.rate(at(4_000), 911_000), 300_000, "of the last whole window");
        meter.on_bytes(at(6_000), 931_000);
        assert_eq!(meter.rate(at(6_100), 931_000), 10_000);
        assert_eq!(meter.rate(at(12_000), 931_000), 0, "nothing came since");
    }
}
