//! p50, p99 and the last of many times, of which some may never come.
//!
//! Invariant: what never comes ranks behind everything that comes, so no rank hides a failure.

use core::time::Duration;

/// Times by rank. Those that never come rank behind all others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Ranks {
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) last: Option<Duration>,
}

impl Ranks {
    /// Sorts `times`.
    pub(crate) fn of(times: &mut [Option<Duration>]) -> Self {
        times.sort_unstable_by_key(|time| time.unwrap_or(Duration::MAX));
        let at = |rank: usize| times.get(rank.saturating_sub(1)).copied().flatten();
        let count = times.len();
        Self { p50: at(count.div_ceil(2)), p99: at((count * 99).div_ceil(100)), last: at(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_never_come_rank_last() {
        let second = |seconds| Some(Duration::from_secs(seconds));
        let mut times = vec![None, second(3), second(1), second(2)];
        let ranks = Ranks::of(&mut times);
        assert_eq!(ranks, Ranks { p50: second(2), p99: None, last: None });
        assert_eq!(Ranks::of(&mut []), Ranks::default());
    }
}
