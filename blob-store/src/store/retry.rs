//! Patience: how long a try may be silent, and when to give up.
//!
//! Invariant: an operation that makes progress is never given up, however long it takes; one that
//! makes none ends after [`Patience::give_up`]. So a slow or often broken way only takes longer.

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

/// A request's body is given this much time for each of its bytes, on top of a stall: nobody tells
/// how much of it has arrived. Slower ways than 32 KiB/s cannot carry builds.
const BODY_BYTES_PER_SECOND: u64 = 32 << 10;

impl Patience {
    /// How long a request with a body of so many bytes may take.
    pub(crate) fn for_body(&self, bytes: u64) -> Duration {
        self.stall + Duration::from_secs(bytes / BODY_BYTES_PER_SECOND)
    }
}

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
