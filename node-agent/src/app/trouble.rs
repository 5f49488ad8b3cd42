//! What failed and is tried again later, and downloads that hang: what the loop of an app remembers
//! so that it neither repeats itself nor gives up.

use std::time::Duration;

use p2p_core::BuildId;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::backoff::Backoff;

/// Something that failed and is tried again later.
#[derive(Debug)]
pub(crate) struct Trouble<T> {
    backoff: Backoff,
    /// The failure; `None` while all is well.
    last: Option<Failure<T>>,
}

#[derive(Debug)]
struct Failure<T> {
    what: T,
    message: String,
    /// Bytes that the disk lacks, if that is why.
    disk_short_bytes: Option<u64>,
    /// When to try again; `None` once that moment has come.
    rests_until: Option<Instant>,
}

impl<T> Trouble<T> {
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
        let message = format!("{reason}; next try in {}", humantime::format_duration(wait));
        warn!("{message}");
        let rests_until = Some(Instant::now() + wait);
        self.last = Some(Failure { what, message, disk_short_bytes, rests_until });
    }

    pub(crate) fn clear(&mut self) {
        self.backoff.reset();
        self.last = None;
    }

    /// What failed last, whether it rests or not.
    pub(crate) fn last(&self) -> Option<&T> {
        self.last.as_ref().map(|failure| &failure.what)
    }

    pub(crate) fn message(&self) -> Option<&str> {
        self.last.as_ref().map(|failure| failure.message.as_str())
    }

    /// Bytes that the disk lacked at the last failure.
    pub(crate) fn disk_short_bytes(&self) -> Option<u64> {
        self.last.as_ref()?.disk_short_bytes
    }

    /// What failed too recently to be tried again.
    pub(crate) fn resting(&self) -> Option<&T> {
        self.last.as_ref().filter(|failure| failure.rests_until.is_some()).map(|last| &last.what)
    }

    /// Time until the next try; `None` if nothing rests.
    pub(crate) fn next_try_in(&self) -> Option<Duration> {
        let until = self.last.as_ref()?.rests_until?;
        Some(until.saturating_duration_since(Instant::now()))
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

/// Where the download stood when it was last looked at, to log that it hangs.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    /// Build, bytes here, and what is waited for; `None` while nothing is.
    seen: Option<(BuildId, u64, String)>,
    is_logged: bool,
}

impl Stall {
    /// Takes in a new look. Returns whether it is the first to show the same as the one before it.
    pub(crate) fn is_new(&mut self, look: Option<(BuildId, u64, String)>) -> bool {
        let is_same = look.is_some() && look == self.seen;
        let is_new = is_same && !self.is_logged;
        self.seen = look;
        self.is_logged = is_same;
        is_new
    }

    /// The last look.
    pub(crate) const fn seen(&self) -> Option<&(BuildId, u64, String)> {
        self.seen.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stall_is_logged_once_until_something_changes() {
        let look =
            |bytes: u64, reason: &str| Some((BuildId::of_manifest(b"x"), bytes, reason.to_owned()));
        let cases = [
            (look(1, "a"), false),
            (look(1, "a"), true),
            (look(1, "a"), false),
            (look(1, "b"), false),
            (look(1, "b"), true),
            (look(2, "b"), false),
            (None, false),
            (None, false),
            (look(2, "b"), false),
            (look(2, "b"), true),
        ];
        let mut stall = Stall::default();
        for (number, (look, expected)) in cases.into_iter().enumerate() {
            assert_eq!(stall.is_new(look), expected, "case {number}");
        }
    }
}
