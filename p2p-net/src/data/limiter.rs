//! A cap on the bytes that a process sends, shared by all of its uploads.

use std::sync::Mutex;

use p2p_core::ByteRate;
use tokio::time::{Instant, sleep_until};

/// Bytes let through at once. Small against any rate worth capping, so that uploads share the rate
/// evenly; large enough that the bookkeeping does not show.
pub(crate) const SLICE_BYTES: usize = 64 << 10;

/// Lets bytes through at a rate, first come, first served.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Option<ByteRate>,
    /// When the line is free again.
    free_at: Mutex<Instant>,
}

impl Limiter {
    /// A limiter of `rate`; `None` lets everything through.
    pub(crate) fn new(rate: Option<ByteRate>) -> Self {
        Self { rate, free_at: Mutex::new(Instant::now()) }
    }

    /// Whether anything is ever held back.
    pub(crate) const fn is_limiting(&self) -> bool {
        self.rate.is_some()
    }

    /// Waits until `bytes` may be sent. Cancelling forfeits the place in the line.
    pub(crate) async fn admit(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let start = {
            let mut free_at = self.free_at.lock().expect("no code panics while it holds the lock");
            let start = (*free_at).max(Instant::now());
            *free_at = start + rate.occupancy(bytes as u64);
            start
        };
        sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_leave_at_the_rate_whoever_sends_them() {
        let limiter = Limiter::new(ByteRate::new(1_000));
        let start = Instant::now();
        let sender = || async {
            for _ in 0..5 {
                limiter.admit(100).await;
            }
        };
        tokio::join!(sender(), sender());
        limiter.admit(0).await;
        assert_eq!(start.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let start = Instant::now();
        Limiter::new(None).admit(1 << 30).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
