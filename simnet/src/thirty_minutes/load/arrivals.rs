//! When commits come, and how large each deploy is.
//!
//! Commits are a Poisson process whose rate follows the hours of a day.

use core::time::Duration;

use p2p_core::Prng;

use super::LoadPlan;
use crate::thirty_minutes::plan::Plan;

/// Most deploys a day. Even at the busiest hour a slot must be far from having two.
pub(super) const DEPLOYS_PER_DAY_MAX: u32 = 200_000;

/// Parts of the day's commits in each hour: few at night, most before and after noon.
const HOUR_WEIGHTS: [u32; 24] =
    [2, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 8, 9, 10, 10, 9, 8, 6, 5, 4, 3, 3, 2];

const HOUR: Duration = Duration::from_hours(1);

/// A slot has a commit or none: for slots this short that is a Poisson process.
const SLOT: Duration = Duration::from_millis(10);

const SLOTS_PER_HOUR: u64 = 360_000;

/// How many times builds are halved between the largest and the smallest.
const SIZE_OCTAVES: u64 = 10;

/// One deploy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Deploy {
    /// From the beginning of the run.
    pub(super) committed_at: Duration,
    /// Bytes that each host reads back.
    pub(super) build_size: u64,
    /// Bytes that regions and hosts do not have yet.
    pub(super) changed_size: u64,
    /// Hosts of each region.
    pub(super) hosts: u32,
}

/// All deploys of the run, in the order of their commits.
pub(super) fn draw_deploys(load: &LoadPlan, plan: &Plan, prng: &mut Prng) -> Vec<Deploy> {
    let (mut times, mut sizes) = (prng.split(), prng.split());
    let whole_day: u64 = HOUR_WEIGHTS.iter().map(|weight| u64::from(*weight)).sum();
    let slots_per_day = whole_day * SLOTS_PER_HOUR;
    let mut deploys = Vec::new();
    let mut at = Duration::ZERO;
    while at < load.duration {
        let hours = u64::from(load.from_hour) + at.as_secs() / HOUR.as_secs();
        let weight = HOUR_WEIGHTS[usize::try_from(hours % 24).unwrap_or(0)];
        let chance = u64::from(load.deploys_per_day) * u64::from(weight);
        if times.below(slots_per_day) < chance {
            deploys.push(draw_deploy(at, (load, plan), &mut sizes));
        }
        at += SLOT;
    }
    deploys
}

fn draw_deploy(
    committed_at: Duration,
    (load, plan): (&LoadPlan, &Plan),
    prng: &mut Prng,
) -> Deploy {
    let build_size = draw_size(plan.build_size, prng);
    let changed = load.changed_share.draw_around(prng);
    let all = plan.swarm.hosts;
    let hosts = load.hosts_share.draw_around(prng).of(u64::from(all));
    Deploy {
        committed_at,
        build_size,
        changed_size: changed.of(build_size).max(1),
        hosts: u32::try_from(hosts).unwrap_or(all).clamp(1, all),
    }
}

/// Up to `largest`, each halving as likely as any other: most builds are far smaller.
fn draw_size(largest: u64, prng: &mut Prng) -> u64 {
    let top = largest >> prng.below(SIZE_OCTAVES);
    (top - prng.below(top / 2 + 1)).max(1)
}

/// The mean of [`draw_size`]: three quarters of each octave's top.
pub(super) fn mean_size(largest: u64) -> u64 {
    let tops: u128 = (0..SIZE_OCTAVES).map(|octave| u128::from(largest >> octave)).sum();
    u64::try_from(tops * 3 / 4 / u128::from(SIZE_OCTAVES)).unwrap_or(largest).max(1)
}

#[cfg(test)]
mod tests {
    use p2p_core::Seed;

    use super::*;

    #[test]
    fn sizes_keep_their_mean() {
        let mut prng = Prng::from_seed(Seed::from_u64(5));
        let largest = 10_000_000_000;
        let drawn: Vec<u64> = (0..20_000).map(|_| draw_size(largest, &mut prng)).collect();
        let mean = drawn.iter().sum::<u64>() / 20_000;
        let expected = mean_size(largest);
        assert!(mean.abs_diff(expected) < expected / 20, "{mean} instead of {expected}");
        assert!(drawn.iter().all(|size| (1..=largest).contains(size)));
        assert!((0..100).all(|_| draw_size(1, &mut prng) == 1));
    }

    #[test]
    fn slots_make_an_hour() {
        assert_eq!(SLOT * u32::try_from(SLOTS_PER_HOUR).unwrap(), HOUR);
    }
}
