//! Patience: how long a try may be silent, and when to give up.
//!
//! Invariant: an operation that makes progress is never given up, however long it takes; one that
//! makes none ends after [`Patience::give_up`]. So a slow or often broken way only takes longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long to wait for a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Patience {
    /// A try is abandoned after so long without a byte.
    pub stall: Duration,
    /// An operation is given up after so long without progress over all its tries.
    pub give_up: Duration,
    /// First pause between tries. Doubles with each try without progress.
    pub pause_min: Duration,
    /// Longest pause between tries.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            give_up: Duration::from_mins(15),
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(15),
        }
    }
}

/// What a request waits for, which says how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// An answer that the store has at hand.
    Answer,
    /// An answer that takes the store so many times as long.
    Long(u32),
    /// That so many bytes arrive: nobody tells how many of them have.
    Body(u64),
}

/// How fast bodies arrive, from those that did.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: AtomicU64,
}

/// What is taken for granted before the first body has arrived, and at least after one was late:
/// slower ways cannot carry builds.
const PACE_MIN: u64 = 32 << 10;

/// A body may take so many times as long as the last one. Half as much would take a way that many
/// uploads share for a stall.
const PACE_SLACK: u64 = 8;

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_per_second: AtomicU64::new(PACE_MIN) }
    }
}

impl Pace {
    /// How long a try may take.
    pub(crate) fn limit(&self, patience: &Patience, work: Work) -> Duration {
        match work {
            Work::Answer => patience.stall,
            Work::Long(times) => patience.stall * times,
            Work::Body(bytes) => {
                let pace = self.bytes_per_second.load(Ordering::Relaxed);
                patience.stall + Duration::from_millis(bytes.saturating_mul(1000) / pace)
            }
        }
    }

    /// A try ended well after this time.
    pub(crate) fn on_done(&self, work: Work, took: Duration) {
        let Work::Body(bytes) = work else { return };
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let pace = bytes.saturating_mul(1000) / millis / PACE_SLACK;
        // Small bodies tell of the store's answer, not of the way.
        if bytes >= BODY_TOLD_MIN {
            self.bytes_per_second.store(pace.max(PACE_MIN), Ordering::Relaxed);
        }
    }

    /// A try took longer than its limit: the next one may take longer, in case the way is slow.
    pub(crate) fn on_late(&self, work: Work) {
        if matches!(work, Work::Body(_)) {
            let pace = self.bytes_per_second.load(Ordering::Relaxed) / 4;
            self.bytes_per_second.store(pace.max(PACE_MIN), Ordering::Relaxed);
        }
    }
}

/// Least bytes of a body by which the way is judged.
const BODY_TOLD_MIN: u64 = 1 << 20;

/// The tries of one operation.
#[derive(Debug)]
pub(crate) struct Tries {
    patience: Patience,
    last_progress: Instant,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, last_progress: Instant::now(), pause: patience.pause_min }
    }

    /// Something arrived that need not be asked for again.
    pub(crate) fn on_progress(&mut self) {
        self.last_progress = Instant::now();
        self.pause = self.patience.pause_min;
    }

    /// Waits before the next try, or says how long there was no progress if it is time to give up.
    pub(crate) async fn pause(&mut self) -> Result<(), Duration> {
        let silent = self.last_progress.elapsed();
        if silent >= self.patience.give_up {
            return Err(silent);
        }
        // Not in step with others that the store turned away at the same time.
        let jitter = self.pause.mul_f64(0.5 + 0.5 * random_part());
        tokio::time::sleep(jitter).await;
        self.pause = (self.pause * 2).min(self.patience.pause_max);
        Ok(())
    }
}

/// A number from 0 to 1. Good enough to part clients; nothing depends on it being unknown.
fn random_part() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let number = RandomState::new().hash_one(0_u8) >> 32;
    f64::from(u32::try_from(number).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an upload that stalls on a fast way is found soon, and a slow way is not mistaken.
    #[test]
    fn bodies_are_given_time_by_what_arrived_before() {
        let (patience, pace) = (Patience::default(), Pace::default());
        let part = Work::Body(8 << 20);
        let seconds = |pace: &Pace| pace.limit(&patience, part).as_secs();
        assert_eq!(seconds(&pace), 30 + 256);
        pace.on_done(part, Duration::from_secs(1));
        assert_eq!(seconds(&pace), 30 + 8);
        pace.on_done(Work::Body(100), Duration::from_secs(10));
        assert_eq!(seconds(&pace), 30 + 8, "a small body says nothing");
        for _ in 0..9 {
            pace.on_late(part);
        }
        assert_eq!(seconds(&pace), 30 + 256);
        assert_eq!(pace.limit(&patience, Work::Answer).as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_never_given_up() {
        let patience = Patience { give_up: Duration::from_mins(1), ..Patience::default() };
        let mut tries = Tries::new(patience);
        let started = Instant::now();
        while started.elapsed() < Duration::from_mins(10) {
            tries.pause().await.unwrap();
            tries.on_progress();
        }
        let silent = loop {
            if let Err(silent) = tries.pause().await {
                break silent;
            }
        };
        assert!(silent >= patience.give_up && silent < patience.give_up + patience.pause_max);
    }
}
