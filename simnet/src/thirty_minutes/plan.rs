//! What a deploy meets on its way, from the flags; checked before anything runs.
//!
//! Invariant: a plan that passed [`Plan::check`] runs to its end without overflow or an empty
//! fleet. Nothing here runs anything.

use core::time::Duration;

use p2p_core::{ByteRate, CHUNK_SIZE_MAX};

use crate::scenario::{Scenario, ScenarioError};

use super::ranges::RateRange;
use super::waves::Waves;

/// Most regions. The design speaks of ten.
const REGIONS_MAX: u32 = 100;

/// Most hosts of all regions together.
const ALL_HOSTS_MAX: u64 = 10_000_000;

/// Most chunks of the protocol's largest size that travel as one in a coarse run. Above it too few
/// are left to say anything.
const COARSENESS_MAX: u64 = 16;

/// Longest time that a coarse chunk takes of a host's link. Above it the protocol's timers, which
/// do not grow with the chunks, go off for chunks that are merely coarse, and a run says nothing.
const COARSE_TIME_MAX: Duration = Duration::from_millis(600);

/// Longest time of any flag: a year, so that sums of times cannot overflow.
const TIME_MAX: Duration = Duration::from_hours(365 * 24);

/// Why a plan cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No region, or too many.
    #[error("{actual} regions: give --regions a number from 1 to {limit}")]
    Regions {
        /// Regions asked for.
        actual: u32,
        /// Most regions.
        limit: u32,
    },
    /// Too many hosts altogether.
    #[error(
        "{actual} hosts in all regions: give --regions and --hosts-per-region for at most {limit}"
    )]
    Hosts {
        /// Hosts asked for.
        actual: u64,
        /// Most hosts.
        limit: u64,
    },
    /// Nobody would do the work.
    #[error("--threads 0: give at least one thread")]
    NoThread,
    /// Something takes no time that has to, or too much.
    #[error("{flag} of {actual:?}: give {least:?} to {limit:?}")]
    Time {
        /// The flag.
        flag: &'static str,
        /// What it says.
        actual: Duration,
        /// The least that makes sense.
        least: Duration,
        /// The most.
        limit: Duration,
    },
    /// A jitter that would turn time back.
    #[error("--poll-jitter of {actual} percent: give a number up to 100")]
    Jitter {
        /// What it says.
        actual: u32,
    },
    /// Coarser than a run can be.
    #[error("chunks of {actual} bytes: give --chunk a size from 1 to {limit} bytes")]
    ChunkSize {
        /// Bytes asked for.
        actual: u64,
        /// Most bytes.
        limit: u64,
    },
    /// A coarse chunk takes so long that timers would go off for nothing.
    #[error(
        "--chunk makes several chunks travel as one, which take {actual:?} of a link: give a smaller --chunk or more --host-rate, for at most {limit:?}"
    )]
    CoarseTime {
        /// Time of such a chunk.
        actual: Duration,
        /// Longest time.
        limit: Duration,
    },
    /// No deploys, or more than a day can hold.
    #[error("--deploys-per-day {actual}: give a number from 1 to {limit}")]
    Deploys {
        /// Deploys asked for.
        actual: u32,
        /// Most deploys.
        limit: u32,
    },
    /// A flag of the sustained load without the load.
    #[error("{flag} without --deploys-per-day: give both, or neither")]
    LoadFlag {
        /// The flag.
        flag: &'static str,
    },
    /// Not an hour.
    #[error("--from-hour {actual}: give a number from 0 to 23")]
    Hour {
        /// What it says.
        actual: u32,
    },
    /// More downloads than memory holds.
    #[error(
        "about {expected} downloads per region: give less --hosts-share, --duration or \
         --deploys-per-day for at most {limit}"
    )]
    Downloads {
        /// Downloads that the flags would lead to.
        expected: u64,
        /// Most downloads.
        limit: u64,
    },
    /// The swarm of a region cannot be run.
    #[error(transparent)]
    Region(#[from] ScenarioError),
}

/// Everything that one deploy meets.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) regions: u32,
    /// From the commit to a build in the main store.
    pub(crate) build_time: Duration,
    /// What the WAN carries into a region; drawn for each.
    pub(crate) wan_rates: RateRange,
    /// Between two polls of the global goal store by a regional one.
    pub(crate) store_poll: Duration,
    /// Between two polls of the regional goal store by a host.
    pub(crate) host_poll: Duration,
    /// By how many percent the time between two polls of a host is off at most, either way.
    pub(crate) poll_jitter: u32,
    /// The swarm of a region. With a coarseness above one its sizes and rates are divided by it.
    pub(crate) swarm: Scenario,
    /// Bytes of the build.
    pub(crate) build_size: u64,
    /// What a host reads back and hashes.
    pub(crate) verify_rate: ByteRate,
    pub(crate) waves: Waves,
    pub(crate) deadline: Duration,
    pub(crate) seed: u64,
    /// Most threads; says nothing about results.
    pub(crate) threads: usize,
}

impl Plan {
    /// Checks that the plan can be run.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        if self.regions == 0 || self.regions > REGIONS_MAX {
            return Err(PlanError::Regions { actual: self.regions, limit: REGIONS_MAX });
        }
        let hosts = u64::from(self.regions) * u64::from(self.swarm.hosts);
        if hosts > ALL_HOSTS_MAX {
            return Err(PlanError::Hosts { actual: hosts, limit: ALL_HOSTS_MAX });
        }
        if self.threads == 0 {
            return Err(PlanError::NoThread);
        }
        if self.poll_jitter > 100 {
            return Err(PlanError::Jitter { actual: self.poll_jitter });
        }
        let millisecond = Duration::from_millis(1);
        check_time("--deadline", self.deadline, millisecond)?;
        check_time("--store-poll", self.store_poll, millisecond)?;
        check_time("--host-poll", self.host_poll, millisecond)?;
        check_time("--build-time", self.build_time, Duration::ZERO)?;
        check_time("--switch-time", self.waves.switch_time, Duration::ZERO)?;
        check_time("--wave-pause", self.waves.pause, Duration::ZERO)?;
        self.swarm.check()?;
        Ok(())
    }

    /// When the build is read back, after it is complete.
    pub(crate) fn verify_time(&self, build_size: u64) -> Duration {
        self.verify_rate.occupancy(build_size)
    }
}

pub(crate) fn check_time(
    flag: &'static str,
    actual: Duration,
    least: Duration,
) -> Result<(), PlanError> {
    let limit = TIME_MAX;
    if (least..=limit).contains(&actual) {
        Ok(())
    } else {
        Err(PlanError::Time { flag, actual, least, limit })
    }
}

/// How many chunks of the protocol's largest size travel as one if chunks have `chunk_size` bytes.
pub(crate) fn coarseness(chunk_size: u64) -> Result<u64, PlanError> {
    let limit = u64::from(CHUNK_SIZE_MAX) * COARSENESS_MAX;
    if chunk_size == 0 || chunk_size > limit {
        return Err(PlanError::ChunkSize { actual: chunk_size, limit });
    }
    Ok(chunk_size.div_ceil(u64::from(CHUNK_SIZE_MAX)))
}

/// Checks that a coarse chunk of a swarm is not too slow.
pub(crate) fn check_coarse_time(swarm: &Scenario, coarseness: u64) -> Result<(), PlanError> {
    let (actual, limit) = (swarm.host_rate.occupancy(swarm.chunk_size), COARSE_TIME_MAX);
    if coarseness > 1 && actual > limit {
        return Err(PlanError::CoarseTime { actual, limit });
    }
    Ok(())
}

/// The same swarm with every size and every rate divided by `coarseness`: all times stay, and what
/// the protocol takes for one chunk stands for as many.
pub(crate) fn coarsen(scenario: &mut Scenario, coarseness: u64) {
    let slower = |rate: ByteRate| ByteRate::new(rate.get() / coarseness).unwrap_or(rate);
    scenario.build_size = scenario.build_size.div_ceil(coarseness);
    scenario.chunk_size = scenario.chunk_size.div_ceil(coarseness);
    scenario.host_rate = slower(scenario.host_rate);
    scenario.seeder_rate = slower(scenario.seeder_rate);
    scenario.disk_rate = slower(scenario.disk_rate);
    scenario.rack_rate = scenario.rack_rate.map(slower);
}
