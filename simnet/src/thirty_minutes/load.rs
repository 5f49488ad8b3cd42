//! Sustained load: hundreds of deploys on their way at once, through links that they share.
//!
//! A model of flows, not of chunks: a deploy takes of each link an equal part with all others on
//! it. What that costs a swarm beyond its bytes is measured by real fleets in the same command
//! (`stretch.rs`). Invariant: links are coupled only through the times at which deploys reach them,
//! which makes each region and each host a computation of its own.

use core::fmt;
use core::time::Duration;

use p2p_core::{Prng, Seed};

use crate::report::Stopwatch;

use super::plan::{Plan, PlanError, check_time};
use super::ranges::Share;
use super::region::regions_of;
use super::workers::run_all;

use self::arrivals::{DEPLOYS_PER_DAY_MAX, draw_deploys};
use self::region_load::{RegionLoad, run_region};
use self::stretch::Sharing;

pub(crate) use self::load_summary::LoadSummary;

mod arrivals;
mod load_summary;
mod region_load;
mod shared_link;
mod stretch;

/// Most downloads of one region, which are held at once.
const DOWNLOADS_MAX: u64 = 40_000_000;

const DAY: Duration = Duration::from_hours(24);

/// Why a load that began did not end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The swarm from which the load learns how sharing slows a deploy down did not complete.
    #[error(
        "the swarm of {hosts} hosts with 1/{sharers} of their links did not complete; \
         give more --host-rate or --seeder-rate, or a smaller --chunk"
    )]
    Calibration {
        /// Hosts of the swarm.
        hosts: u32,
        /// Deploys that share a link.
        sharers: u32,
    },
}

/// The deploys of a load, beside what each of them meets.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    pub(crate) deploys_per_day: u32,
    /// Of a region's hosts, on average; the same part of every region.
    pub(crate) hosts_share: Share,
    /// Of a build's bytes, on average.
    pub(crate) changed_share: Share,
    /// Commits arrive for this long; deploys that are under way then are followed to their end.
    pub(crate) duration: Duration,
    /// Hour of the day at which it begins.
    pub(crate) from_hour: u32,
    /// Deploys that have to meet the deadline.
    pub(crate) on_time: Share,
}

impl LoadPlan {
    /// Checks that the load fits into memory and into a day.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), PlanError> {
        let limit = DEPLOYS_PER_DAY_MAX;
        if self.deploys_per_day == 0 || self.deploys_per_day > limit {
            return Err(PlanError::Deploys { actual: self.deploys_per_day, limit });
        }
        if self.from_hour > 23 {
            return Err(PlanError::Hour { actual: self.from_hour });
        }
        check_time("--duration", self.duration, Duration::from_secs(1))?;
        let days = u128::from(self.deploys_per_day) * self.duration.as_nanos();
        let deploys = u64::try_from(days / DAY.as_nanos()).unwrap_or(u64::MAX);
        let hosts = self.hosts_share.of(u64::from(plan.swarm.hosts)).max(1);
        // Short runs may fall into the busiest hours.
        let expected = deploys.saturating_mul(hosts).saturating_mul(2);
        if expected > DOWNLOADS_MAX {
            return Err(PlanError::Downloads { expected, limit: DOWNLOADS_MAX });
        }
        Ok(())
    }
}

/// Runs the load. `progress` gets a line per region.
pub(crate) fn run(
    plan: &Plan,
    coarseness: u64,
    load: &LoadPlan,
    progress: impl Fn(fmt::Arguments<'_>),
) -> Result<LoadSummary, RunError> {
    let stopwatch = Stopwatch::start();
    let mut prng = Prng::from_seed(Seed::from_u64(plan.seed));
    let regions = regions_of(plan, &mut prng);
    let sharing = Sharing::measure(plan, coarseness, load, &mut prng.split())?;
    progress(format_args!("measured what a shared link costs a swarm"));
    let deploys = draw_deploys(load, plan, &mut prng.split());
    let work = |region: &_| run_region(plan, &sharing, &deploys, region);
    let mut done = 0;
    let report = |region: &RegionLoad| {
        done += 1;
        let (index, all) = (region.index, plan.regions);
        let downloads = region.downloads;
        progress(format_args!("region {index}: {downloads} downloads; {done} of {all} regions"));
    };
    let outcomes = run_all(plan.threads, &regions, work, report);
    Ok(LoadSummary::new((plan, load, &sharing), &deploys, &outcomes, stopwatch.elapsed()))
}
