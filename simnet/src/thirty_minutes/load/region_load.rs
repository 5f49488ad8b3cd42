//! All deploys of a run in one region: its WAN link, its seeder's uplink, and its hosts' links.
//!
//! Links are worked off one after the other, in the order in which a deploy meets them: the WAN,
//! the goal store, the seeder, each host. Invariant: a region depends on the deploys and on its own
//! random stream alone.

use core::time::Duration;

use p2p_core::{ByteRate, Prng};

use super::arrivals::Deploy;
use super::shared_link::{Carried, Job, carry};
use super::stretch::Sharing;
use crate::thirty_minutes::phases::{Ends, PHASE_COUNT, Phase};
use crate::thirty_minutes::plan::Plan;
use crate::thirty_minutes::region::{Region, below, poll_delay};

/// What came of the run in one region.
#[derive(Clone, Debug)]
pub(super) struct RegionLoad {
    pub(super) index: u32,
    /// When the last host of each deploy ended each phase, from the deploy's commit.
    pub(super) ends: Vec<Ends>,
    /// What replication of each deploy took beyond what it takes alone.
    pub(super) wan_waits: Vec<Duration>,
    /// Time in which the WAN link was busy.
    pub(super) wan_busy: Duration,
    /// Received by each host.
    pub(super) host_bytes: Vec<u64>,
    /// Most downloads of one host at once.
    pub(super) sharers_max: usize,
    /// One per deploy and host.
    pub(super) downloads: usize,
}

/// One deploy on one host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Download {
    host: u32,
    /// When the host sees the goal.
    starts_at: u64,
    deploy: u32,
}

/// Takes all `deploys` through a region.
pub(super) fn run_region(
    plan: &Plan,
    sharing: &Sharing,
    deploys: &[Deploy],
    region: &Region,
) -> RegionLoad {
    let mut prng = region.prng.clone();
    let (mut wan, mut polls, mut picks) = (prng.split(), prng.split(), prng.split());
    let wan_rate = plan.wan_rates.draw(&mut wan);
    let (replicated_at, wan_waits, wan_busy) = replicate(plan, deploys, wan_rate);
    let goal_at = store_polls(plan, &replicated_at, &mut polls);
    let mut downloads = draw_downloads(plan, deploys, &goal_at, (&mut picks, &mut polls));
    downloads.sort_unstable();
    let mut seen_at = goal_at.clone();
    for download in &downloads {
        let last = &mut seen_at[download.deploy as usize];
        *last = download.starts_at.max(*last);
    }
    let mut complete_at = serve(plan, sharing, deploys, &goal_at);
    let mut host_bytes = vec![0; plan.swarm.hosts as usize];
    let mut sharers_max = 0;
    for of_host in downloads.chunk_by(|one, other| one.host == other.host) {
        let changed = |one: &Download| deploys[one.deploy as usize].changed_size;
        let jobs: Vec<Job> = of_host
            .iter()
            .map(|one| Job { starts_at: one.starts_at, bytes: changed(one) })
            .collect();
        let carried = carry(&jobs, |sharers| sharing.rate_of(sharers));
        for (one, ends_at) in of_host.iter().zip(&carried.ends_at) {
            let last = &mut complete_at[one.deploy as usize];
            *last = (*last).max(*ends_at);
        }
        sharers_max = sharers_max.max(carried.sharers_max);
        host_bytes[of_host[0].host as usize] = of_host.iter().map(changed).sum();
    }
    let times = [&replicated_at, &seen_at, &complete_at];
    let ends =
        (0..deploys.len()).map(|index| ends_of(plan, &deploys[index], times.map(|t| t[index])));
    RegionLoad {
        index: region.index,
        ends: ends.collect(),
        wan_waits,
        wan_busy,
        host_bytes,
        sharers_max,
        downloads: downloads.len(),
    }
}

/// When the region's store has each build, what it waited for others, and how
/// long the WAN was busy.
fn replicate(
    plan: &Plan,
    deploys: &[Deploy],
    rate: ByteRate,
) -> (Vec<u64>, Vec<Duration>, Duration) {
    let jobs: Vec<Job> = deploys
        .iter()
        .map(|one| Job {
            starts_at: nanos(one.committed_at + plan.build_time),
            bytes: one.changed_size,
        })
        .collect();
    let Carried { ends_at, busy, .. } = carry(&jobs, |sharers| rate.get() / sharers as u64);
    let wait = |(job, ends_at): (&Job, &u64)| {
        let alone = rate.occupancy(job.bytes);
        Duration::from_nanos(ends_at - job.starts_at).saturating_sub(alone)
    };
    let waits = jobs.iter().zip(&ends_at).map(wait).collect();
    (ends_at, waits, Duration::from_nanos(busy))
}

/// When the regional goal store names each build: at its next poll, whose times are its own.
fn store_polls(plan: &Plan, replicated_at: &[u64], prng: &mut Prng) -> Vec<u64> {
    let interval = nanos(plan.store_poll);
    let first = nanos(below(plan.store_poll, prng));
    let next_poll = |at: &u64| first + at.saturating_sub(first).div_ceil(interval) * interval;
    replicated_at.iter().map(next_poll).collect()
}

fn draw_downloads(
    plan: &Plan,
    deploys: &[Deploy],
    goal_at: &[u64],
    (picks, polls): (&mut Prng, &mut Prng),
) -> Vec<Download> {
    let mut downloads = Vec::with_capacity(deploys.iter().map(|one| one.hosts as usize).sum());
    for (deploy, (one, goal_at)) in (0_u32..).zip(deploys.iter().zip(goal_at)) {
        for host in pick_hosts(plan.swarm.hosts, one.hosts, picks) {
            let starts_at = goal_at.saturating_add(nanos(poll_delay(plan, polls)));
            downloads.push(Download { host, starts_at, deploy });
        }
    }
    downloads
}

/// `count` different hosts of `all`: steps of equal width from a drawn place, around the end. The
/// width has no factor in common with `all`, so no host comes twice.
fn pick_hosts(all: u32, count: u32, prng: &mut Prng) -> impl Iterator<Item = u32> {
    let all = u64::from(all);
    let first = prng.below(all);
    let width = loop {
        let width = 1 + prng.below(all);
        if greatest_common_divisor(width, all) == 1 {
            break width;
        }
    };
    let host = move |step: u64| u32::try_from((first + step * width) % all).unwrap_or(0);
    (0..u64::from(count)).map(host)
}

const fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// When the seeders, whose uplinks all swarms share, have given out each build.
fn serve(plan: &Plan, sharing: &Sharing, deploys: &[Deploy], goal_at: &[u64]) -> Vec<u64> {
    let one_rate = plan.swarm.seeder_rate.get().saturating_mul(sharing.coarseness);
    let rate = one_rate.saturating_mul(u64::from(plan.swarm.seeders));
    let mut order: Vec<usize> = (0..deploys.len()).collect();
    order.sort_by_key(|index| goal_at[*index]);
    let job = |index: &usize| {
        let bytes = u128::from(deploys[*index].changed_size) * u128::from(sharing.seeder_copies());
        let bytes = u64::try_from(bytes / 1_000).unwrap_or(u64::MAX);
        Job { starts_at: goal_at[*index], bytes }
    };
    let jobs: Vec<Job> = order.iter().map(job).collect();
    let carried = carry(&jobs, |sharers| rate / sharers as u64);
    let mut ends_at = vec![0; deploys.len()];
    for (index, at) in order.into_iter().zip(carried.ends_at) {
        ends_at[index] = at;
    }
    ends_at
}

/// Hosts read back beside their other work, and switch once the last of them has verified.
fn ends_of(plan: &Plan, deploy: &Deploy, [replicated_at, seen_at, complete_at]: [u64; 3]) -> Ends {
    let since_commit = |at: u64| Duration::from_nanos(at).saturating_sub(deploy.committed_at);
    let complete = since_commit(complete_at);
    let verified = complete + plan.verify_time(deploy.build_size);
    let mut ends = [Some(plan.build_time); PHASE_COUNT];
    ends[Phase::Replication as usize] = Some(since_commit(replicated_at));
    ends[Phase::Goal as usize] = Some(since_commit(seen_at));
    ends[Phase::Swarm as usize] = Some(complete);
    ends[Phase::Verification as usize] = Some(verified);
    ends[Phase::Switch as usize] = Some(verified + plan.waves.time_after_verification());
    ends
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use p2p_core::Seed;

    use super::*;

    #[test]
    fn picked_hosts_are_different_and_all_of_them_if_asked() {
        let mut prng = Prng::from_seed(Seed::from_u64(3));
        for all in [1, 2, 12, 25_000] {
            let mut hosts: Vec<u32> = pick_hosts(all, all, &mut prng).collect();
            hosts.sort_unstable();
            assert_eq!(hosts, (0..all).collect::<Vec<_>>());
        }
    }
}
