//! What a part of a link is worth to a swarm: measured with simulated fleets, scaled down.
//!
//! One fleet per number of sharers, with that part of every host's and the seeder's link. A swarm
//! takes longer than its bytes over its link; by how much is the stretch.

use core::time::Duration;

use p2p_core::{ByteRate, Instant, Prng};

use crate::faults::Faults;
use crate::fleet::Fleet;
use crate::scenario::Scenario;
use crate::thirty_minutes::plan::Plan;
use crate::thirty_minutes::workers::run_all;

use super::arrivals::mean_size;
use super::{LoadPlan, RunError};

/// Downloads on a link for which a fleet is run; between them the stretch is interpolated, beyond
/// the last it stays.
const SHARERS: [u32; 5] = [1, 2, 4, 8, 16];

/// Most hosts of such a fleet. The time of a swarm grows with the logarithm of its hosts only.
const HOSTS_MAX: u32 = 200;

/// Chunks of such a fleet. With fewer, the run would measure little but joining; more would cost
/// time and show the same.
const CHUNKS_MIN: u64 = 8;
const CHUNKS_MAX: u64 = 64;

const THOUSAND: u64 = 1_000;

/// How one of the fleets went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) sharers: u32,
    pub(super) hosts: u32,
    pub(super) chunks: u32,
    /// One copy over the part of a link.
    pub(super) copy: Duration,
    /// Until the last host had it.
    pub(super) last: Duration,
    /// Out of the seeder, in thousandths of a build.
    pub(super) seeder_copies: u64,
}

impl Measured {
    /// In thousandths.
    pub(super) fn stretch(&self) -> u64 {
        let stretch = self.last.as_nanos() * u128::from(THOUSAND) / self.copy.as_nanos().max(1);
        u64::try_from(stretch).unwrap_or(u64::MAX).max(THOUSAND)
    }
}

/// What downloads that share a host's link get of it.
#[derive(Clone, Debug)]
pub(super) struct Sharing {
    pub(super) measured: Vec<Measured>,
    host_rate: u64,
    /// By how much the rates of the plan's swarm are divided.
    pub(super) coarseness: u64,
}

impl Sharing {
    pub(super) fn measure(
        plan: &Plan,
        coarseness: u64,
        load: &LoadPlan,
        prng: &mut Prng,
    ) -> Result<Self, RunError> {
        let base = scaled_down(plan, coarseness, load);
        let shares = |sharers: &u32| (*sharers, shared(&base, *sharers, prng.next_u64()));
        let jobs: Vec<(u32, Scenario)> = SHARERS.iter().map(shares).collect();
        let results = run_all(plan.threads, &jobs, |(sharers, one)| run(*sharers, one), |_| {});
        let measured = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let host_rate = plan.swarm.host_rate.get().saturating_mul(coarseness);
        Ok(Self { measured, host_rate, coarseness })
    }

    /// Bytes per second for each of `sharers` downloads.
    pub(super) fn rate_of(&self, sharers: usize) -> u64 {
        let sharers = sharers.max(1) as u64;
        let given = u128::from(self.host_rate) * u128::from(THOUSAND);
        let rate = given / (u128::from(sharers) * u128::from(self.stretch(sharers)));
        u64::try_from(rate).unwrap_or(u64::MAX).max(1)
    }

    fn stretch(&self, sharers: u64) -> u64 {
        let after = self.measured.iter().position(|one| u64::from(one.sharers) >= sharers);
        let Some(after) = after else {
            return self.measured.last().map_or(THOUSAND, Measured::stretch);
        };
        let (above, below) = (&self.measured[after], &self.measured[after.saturating_sub(1)]);
        let width = u64::from(above.sharers - below.sharers).max(1);
        let part = sharers - u64::from(below.sharers);
        // In parts of the width, so that the stretch may fall as well as rise.
        (below.stretch() * (width - part.min(width)) + above.stretch() * part.min(width)) / width
    }

    /// Copies that leave the seeder, in thousandths: the most of all fleets.
    pub(super) fn seeder_copies(&self) -> u64 {
        self.measured.iter().map(|one| one.seeder_copies).max().unwrap_or(THOUSAND)
    }
}

/// The swarm of a deploy of average size, with fewer hosts.
fn scaled_down(plan: &Plan, coarseness: u64, load: &LoadPlan) -> Scenario {
    let wanted = load.hosts_share.of(u64::from(plan.swarm.hosts));
    let hosts = u32::try_from(wanted).unwrap_or(HOSTS_MAX).clamp(1, HOSTS_MAX);
    let changed = load.changed_share.of(mean_size(plan.build_size)) / coarseness;
    let chunk_size = plan.swarm.chunk_size.min(changed.div_ceil(CHUNKS_MIN)).max(1);
    Scenario {
        hosts,
        seeders: plan.swarm.seeders.min(hosts),
        build_size: changed.clamp(1, chunk_size * CHUNKS_MAX),
        chunk_size,
        racks: 0,
        rack_rate: None,
        faults: Faults::default(),
        ..plan.swarm.clone()
    }
}

fn shared(base: &Scenario, sharers: u32, seed: u64) -> Scenario {
    let part = |rate: ByteRate| ByteRate::new(rate.get() / u64::from(sharers)).unwrap_or(rate);
    let mut scenario = Scenario {
        host_rate: part(base.host_rate),
        seeder_rate: part(base.seeder_rate),
        seed,
        ..base.clone()
    };
    // Far beyond what any swarm takes, so that one that is slow is not taken for one that hangs.
    scenario.limit = scenario.bound().time * 20 + Duration::from_mins(5);
    scenario
}

fn run(sharers: u32, scenario: &Scenario) -> Result<Measured, RunError> {
    let outcome = Fleet::new(scenario.clone()).run().expect("no trace is written that could fail");
    let last = outcome.completed_at.iter().copied().collect::<Option<Vec<Instant>>>();
    let last = last.and_then(|times| times.into_iter().max());
    let last = last.ok_or(RunError::Calibration { hosts: scenario.hosts, sharers })?;
    let copies = u128::from(outcome.seeder_bytes) * u128::from(THOUSAND);
    let slower = scenario.host_rate.min(scenario.seeder_rate);
    Ok(Measured {
        sharers,
        hosts: scenario.hosts,
        chunks: scenario.chunk_count(),
        copy: slower.occupancy(scenario.build_size),
        last: last.since(Instant::ZERO),
        seeder_copies: u64::try_from(copies / u128::from(scenario.build_size)).unwrap_or(THOUSAND),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretch_is_interpolated_between_what_was_measured() {
        let measured = |sharers, millis| Measured {
            sharers,
            hosts: 1,
            chunks: 1,
            copy: Duration::from_secs(1),
            last: Duration::from_millis(millis),
            seeder_copies: 1_000,
        };
        let sharing = Sharing {
            measured: vec![measured(1, 2_000), measured(2, 1_500), measured(4, 1_100)],
            host_rate: 12_000,
            coarseness: 1,
        };
        let expected = [2_000, 1_500, 1_300, 1_100, 1_100];
        assert_eq!([1, 2, 3, 4, 9].map(|sharers| sharing.stretch(sharers)), expected);
        assert_eq!((sharing.rate_of(1), sharing.rate_of(2)), (6_000, 4_000));
    }
}
