//! The phases between a commit and the last restart, and which of them is to blame for a miss.
//!
//! Invariant: the budgets of all phases add up to the deadline, so that a deploy that misses it has
//! at least one phase over its budget.

use core::time::Duration;

/// A stretch of the way. Each begins where the one before ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// From the commit to a build in the main store.
    Build,
    /// One copy of it into the region's store.
    Replication,
    /// The goal reaches the regional store, and then the hosts, by polls.
    Goal,
    /// The hosts exchange chunks.
    Swarm,
    /// Each host reads the build back and hashes it.
    Verification,
    /// Hosts switch and restart, wave after wave.
    Switch,
}

/// How many there are.
pub(crate) const PHASE_COUNT: usize = 6;

/// All of them, in their order.
pub(crate) const PHASES: [Phase; PHASE_COUNT] = [
    Phase::Build,
    Phase::Replication,
    Phase::Goal,
    Phase::Swarm,
    Phase::Verification,
    Phase::Switch,
];

/// Seconds that the design's half hour gives to each phase. The design fixes the first two; the
/// rest is divided so that a full-size build fits: downloaded at a gigabit, read back at a disk's
/// usual rate and switched in waves.
const BUDGET_SECONDS: [u32; PHASE_COUNT] = [900, 600, 25, 135, 30, 110];

const ALL_SECONDS: u32 = 1_800;

impl Phase {
    /// How reports spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Replication => "replication",
            Self::Goal => "goal",
            Self::Swarm => "swarm",
            Self::Verification => "verification",
            Self::Switch => "switch",
        }
    }

    /// Its share of the way, if the way may take `deadline`.
    pub(crate) fn budget(self, deadline: Duration) -> Duration {
        let share = u128::from(BUDGET_SECONDS[self as usize]);
        let nanos = deadline.as_nanos() * share / u128::from(ALL_SECONDS);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// When the last host ended each phase, counted from the commit; `None` if it never did.
pub(crate) type Ends = [Option<Duration>; PHASE_COUNT];

/// What each phase took: from the end of the one before to its own.
pub(crate) fn spans(ends: &Ends) -> Ends {
    let mut before = Some(Duration::ZERO);
    ends.map(|end| {
        let span = end.zip(before).map(|(end, before)| end.saturating_sub(before));
        before = end;
        span
    })
}

/// The phase that took longest; one that never ended took longer than any other.
pub(crate) fn longest_phase(ends: &Ends) -> Phase {
    let took = |phase: &Phase| spans(ends)[*phase as usize].unwrap_or(Duration::MAX);
    first_of_most(took)
}

/// The phase that is to blame if `ends` misses `deadline`: the one farthest over its budget.
pub(crate) fn late_phase(ends: &Ends, deadline: Duration) -> Option<Phase> {
    let is_late = ends[PHASE_COUNT - 1].is_none_or(|end| end > deadline);
    let spans = spans(ends);
    let excess = |phase: &Phase| {
        spans[*phase as usize]
            .map_or(Duration::MAX, |span| span.saturating_sub(phase.budget(deadline)))
    };
    is_late.then(|| first_of_most(excess))
}

/// Of equals the earliest, because a phase that never ended keeps all after it from beginning.
fn first_of_most(key: impl Fn(&Phase) -> Duration) -> Phase {
    PHASES.into_iter().rev().max_by_key(key).unwrap_or(Phase::Build)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_mins(30);

    fn ends(seconds: [u64; PHASE_COUNT]) -> Ends {
        seconds.map(|seconds| Some(Duration::from_secs(seconds)))
    }

    #[test]
    fn budgets_add_up_to_the_deadline() {
        let all: Duration = PHASES.iter().map(|phase| phase.budget(DEADLINE)).sum();
        assert_eq!(all, DEADLINE);
    }

    #[test]
    fn phase_farthest_over_its_budget_is_to_blame() {
        let cases = [
            (ends([900, 1400, 1420, 1520, 1540, 1640]), None),
            (ends([1200, 1600, 1620, 1700, 1710, 1801]), Some(Phase::Build)),
            (ends([900, 1700, 1720, 1800, 1810, 1900]), Some(Phase::Replication)),
            (ends([900, 1400, 1420, 2000, 2010, 2100]), Some(Phase::Swarm)),
            (ends([900, 1400, 1420, 1500, 1510, 1900]), Some(Phase::Switch)),
        ];
        for (ends, expected) in cases {
            assert_eq!(late_phase(&ends, DEADLINE), expected, "{ends:?}");
        }
        let mut stuck = ends([900, 1400, 1420, 0, 0, 0]);
        stuck[3..].fill(None);
        assert_eq!(late_phase(&stuck, DEADLINE), Some(Phase::Swarm));
        assert_eq!(longest_phase(&stuck), Phase::Swarm);
        assert_eq!(longest_phase(&ends([900, 1400, 1420, 1500, 1510, 1900])), Phase::Build);
    }
}
