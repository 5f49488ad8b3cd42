//! What failed and is tried again later: what the loop of an app remembers so that it neither
//! repeats itself nor gives up. The log hears of it as a trouble.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::brain::troubles::Retried;

/// Something that failed and is tried again later.
#[derive(Debug)]
pub(crate) struct Setback<T> {
    backoff: Backoff,
    /// The failure; `None` while all is well.
    last: Option<Failure<T>>,
}

#[derive(Debug)]
struct Failure<T> {
    what: T,
    reason: String,
    /// How long it waits before the next try.
    wait: Duration,
    /// Bytes that the disk lacks, if that is why.
    disk_short_bytes: Option<u64>,
    /// When to try again; `None` once that moment has come.
    rests_until: Option<Instant>,
}

impl<T> Setback<T> {
    /// No trouble yet; the first wait and the longest.
    pub(crate) const fn new(retry_first: Duration, retry_max: Duration) -> Self {
        Self { backoff: Backoff::new(retry_first, retry_max), last: None }
    }

    pub(crate) fn note(&mut self, what: T, reason: &str) {
        self.note_short(what, reason, None);
    }

    /// The same if the disk lacks `disk_short_bytes`.
    pub(crate) fn note_short(&mut self, what: T, reason: &str, disk_short_bytes: Option<u64>) {
        let wait = self.backoff.after_failure();
        let rests_until = Some(Instant::now() + wait);
        let reason = reason.to_owned();
        self.last = Some(Failure { what, reason, wait, disk_short_bytes, rests_until });
    }

    pub(crate) fn clear(&mut self) {
        self.backoff.reset();
        self.last = None;
    }

    /// What failed last, whether it rests or not.
    pub(crate) fn last(&self) -> Option<&T> {
        self.last.as_ref().map(|failure| &failure.what)
    }

    /// Why, and how long it waits, whether it rests or not.
    pub(crate) fn retried(&self) -> Option<Retried> {
        let failure = self.last.as_ref()?;
        Some(Retried { reason: failure.reason.clone(), wait: failure.wait })
    }

    /// Bytes that the disk lacked at the last failure.
    pub(crate) fn disk_short_bytes(&self) -> Option<u64> {
        self.last.as_ref()?.disk_short_bytes
    }

    /// What failed too recently to be tried again.
    pub(crate) fn resting(&self) -> Option<&T> {
        self.last.as_ref().filter(|failure| failure.rests_until.is_some()).map(|last| &last.what)
    }

    /// Waits until it is time to try again, if something rests.
    pub(crate) async fn next_try(&self) {
        match self.last.as_ref().and_then(|failure| failure.rests_until) {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn on_due(&mut self) {
        if let Some(failure) = &mut self.last {
            failure.rests_until = failure.rests_until.filter(|until| *until > Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what failed stays a trouble until it went well, so that the log tells it once.
    #[tokio::test(start_paused = true)]
    async fn failure_is_remembered_while_it_is_tried_again() {
        let mut setback = Setback::new(Duration::from_secs(1), Duration::from_secs(2));
        setback.note_short('a', "no room", Some(5));
        let retried = |seconds| {
            Some(Retried { reason: "no room".into(), wait: Duration::from_secs(seconds) })
        };
        assert_eq!((setback.retried(), setback.resting()), (retried(1), Some(&'a')));
        setback.next_try().await;
        setback.on_due();
        assert_eq!((setback.resting(), setback.last()), (None, Some(&'a')));
        assert_eq!(setback.disk_short_bytes(), Some(5));
        setback.note('a', "no room");
        assert_eq!(setback.retried(), retried(2));
        setback.clear();
        assert_eq!((setback.retried(), setback.last()), (None, None));
    }
}
