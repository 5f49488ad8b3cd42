//! When to give up on a download.
//!
//! Pure: the time is an argument. Only time in which the network is waited for counts: reading a
//! large build back takes as long as the disk needs.

use std::time::Duration;

use tokio::time::Instant;

use crate::progress::{Phase, Progress};

/// As good as for ever; a longer time would be past what the clock can express.
const TIME_MAX: Duration = Duration::from_hours(24 * 365 * 30);

/// Time since the last progress, and how much of it is too much.
#[derive(Debug)]
pub(super) struct Patience {
    time: Duration,
    seen: Option<(Phase, u64)>,
    since: Instant,
}

impl Patience {
    /// Starts to wait at `now`.
    pub(super) const fn new(time: Duration, now: Instant) -> Self {
        let time = if time.as_secs() < TIME_MAX.as_secs() { time } else { TIME_MAX };
        Self { time, seen: None, since: now }
    }

    /// How long nothing may arrive.
    pub(super) const fn time(&self) -> Duration {
        self.time
    }

    /// When to look again at the latest. After [`Self::is_over`] said no it always lies ahead, so
    /// that a driver that waits for it does not spin.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.time
    }

    /// Notes where the download is at `now`. Returns whether nothing has changed for too long.
    pub(super) fn is_over(&mut self, now: Instant, progress: &Progress) -> bool {
        let seen = (progress.phase, progress.bytes_done);
        let waits_for_network = matches!(progress.phase, Phase::Locating | Phase::Downloading);
        // The first look is no progress: a download that never gets anywhere has used its time
        // from the start.
        let is_progress = self.seen.is_some_and(|before| before != seen);
        self.seen = Some(seen);
        if is_progress || !waits_for_network {
            self.since = now;
        }
        now >= self.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    fn at(phase: Phase, bytes_done: u64) -> Progress {
        Progress { phase, bytes_done, ..Progress::default() }
    }

    #[test]
    fn silence_ends_a_download_and_progress_does_not() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(TIMEOUT, start);
        let steps = [
            (0, at(Phase::Locating, 0), false),
            (59, at(Phase::Locating, 0), false),
            (59, at(Phase::Downloading, 0), false),
            (118, at(Phase::Downloading, 0), false),
            (118, at(Phase::Downloading, 9), false),
            (177, at(Phase::Downloading, 9), false),
            (178, at(Phase::Downloading, 9), true),
        ];
        for (seconds, progress, expected) in steps {
            assert_eq!(patience.is_over(after(seconds), &progress), expected, "{seconds} s");
        }
    }

    #[test]
    fn nobody_at_all_ends_it_after_the_timeout() {
        let start = Instant::now();
        let mut patience = Patience::new(TIMEOUT, start);
        assert_eq!(patience.deadline(), start + TIMEOUT);
        assert!(patience.is_over(start + TIMEOUT, &at(Phase::Locating, 0)));
    }

    #[test]
    fn no_time_is_too_long() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::MAX, start);
        assert!(!patience.is_over(start, &at(Phase::Locating, 0)));
    }

    #[test]
    fn work_of_the_disk_takes_as_long_as_it_takes() {
        for phase in [Phase::Resuming, Phase::Verifying, Phase::Serving] {
            let start = Instant::now();
            let mut patience = Patience::new(TIMEOUT, start);
            let later = start + TIMEOUT * 10;
            assert!(!patience.is_over(later, &at(phase, 0)));
            assert!(!patience.is_over(later + TIMEOUT / 2, &at(phase, 0)));
            assert!(patience.deadline() > later, "the driver would spin");
        }
    }
}
