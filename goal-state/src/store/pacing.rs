//! How long to wait before looking or trying again, and what time it is.
//!
//! Every wait is spread ([`SPREAD_PER_MILLE`]), because the hosts of a region start together and
//! would otherwise ask together for ever. Not for anything that an attacker must not be able to
//! guess.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a store is read that cannot be watched, or while its watch is broken: the interval
/// that the whole system is built for (regional stores follow the global one at it).
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// First wait after a failure; short enough that a restart of etcd goes by without being noticed.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// How much shorter or longer a wait may be. Half would leave the hosts of a large region in one
/// crowd for minutes; double would make the longest waits noticeable.
const SPREAD_PER_MILLE: u32 = 200;

/// `duration`, made shorter or longer at random by at most [`SPREAD_PER_MILLE`].
pub(crate) fn jittered(duration: Duration) -> Duration {
    // The standard library seeds each thread's hashers from the operating system and changes the
    // seed with each; that is all the randomness needed here.
    let drawn = RandomState::new().build_hasher().finish() % u64::from(2 * SPREAD_PER_MILLE + 1);
    let per_mille = 1_000 - SPREAD_PER_MILLE + u32::try_from(drawn).expect("it is below 1,000");
    duration * per_mille / 1_000
}

/// The wait after `failures` failures in a row: doubles up to [`POLL_INTERVAL`]. Without jitter.
pub(crate) fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    if failures == 0 {
        Duration::ZERO
    } else {
        (BACKOFF_FIRST * (1 << doublings)).min(POLL_INTERVAL)
    }
}

/// Milliseconds since 1970 by this machine's clock; zero before that.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_fifth_and_varies() {
        let waits: Vec<_> = (0..200).map(|_| jittered(POLL_INTERVAL)).collect();
        assert!(waits.iter().all(|wait| (8_000..=12_000).contains(&wait.as_millis())), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn backoff_doubles_to_the_poll_interval() {
        let waits: Vec<_> = (0..9).map(|failures| backoff(failures).as_millis()).collect();
        assert_eq!(waits, [0, 250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(backoff(u32::MAX), POLL_INTERVAL);
    }
}
