//! How long a download spent in each of its phases, for reports and measurements.
//!
//! Only counts; what a phase means is in `p2p_net::Phase`. Phases that share a word share a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2p_net::Phase;

/// Which phases a download went through so far, some of them perhaps twice.
#[derive(Debug)]
pub(super) struct PhaseTimes {
    started: Instant,
    now_in: Option<(Phase, Instant)>,
    spent: BTreeMap<&'static str, Duration>,
}

impl PhaseTimes {
    /// No phase yet; the download began at `started`.
    pub(super) const fn new(started: Instant) -> Self {
        Self { started, now_in: None, spent: BTreeMap::new() }
    }

    /// When the download began.
    pub(super) const fn started(&self) -> Instant {
        self.started
    }

    /// Notes that the download is in `phase`. Returns whether that is news.
    pub(super) fn enter(&mut self, phase: Phase) -> bool {
        let is_news = self.now_in.is_none_or(|(known, _)| known != phase);
        if is_news {
            self.end();
            self.now_in = Some((phase, Instant::now()));
        }
        is_news
    }

    /// The download has left the phase that it was in.
    pub(super) fn end(&mut self) {
        if let Some((phase, since)) = self.now_in.take() {
            *self.spent.entry(phase_word(phase)).or_default() += since.elapsed();
        }
    }

    /// Seconds by the word that people see for the phase.
    pub(super) fn in_seconds(&self) -> BTreeMap<&'static str, f64> {
        self.spent.iter().map(|(word, spent)| (*word, spent.as_secs_f64())).collect()
    }
}

/// The word that people see for a phase.
pub(super) const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Locating => "locating",
        Phase::Resuming => "resuming",
        Phase::Downloading => "fetching",
        Phase::Verifying => "verifying",
        Phase::Serving => "complete",
        _ => "working",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_that_were_left_are_counted_and_repeats_are_no_news() {
        let mut times = PhaseTimes::new(Instant::now());
        let entered = [Phase::Locating, Phase::Downloading, Phase::Downloading, Phase::Verifying];
        assert_eq!(entered.map(|phase| times.enter(phase)), [true, true, false, true]);
        let words = |times: &PhaseTimes| times.in_seconds().into_keys().collect::<Vec<_>>();
        assert_eq!(words(&times), ["fetching", "locating"]);
        times.end();
        assert_eq!(words(&times), ["fetching", "locating", "verifying"]);
    }
}
