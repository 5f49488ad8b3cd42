//! One region, from its copy of the build to its last restart.
//!
//! Owns its fleet while that runs, and nothing of it afterwards: what is left is four times per
//! host. The seeder serves the build once it has all of it, as `shoal-seeder` does, and the
//! region's goal names it from then on.

use core::time::Duration;

use p2p_core::{ByteRate, Instant, Prng};

use crate::fleet::{Fleet, Outcome};
use crate::report::Stopwatch;
use crate::scenario::Scenario;

use super::phases::{Ends, PHASE_COUNT, Phase};
use super::plan::Plan;

/// More time than is taken by anything that the bound of a swarm does not count: dials and
/// questions that fail. A swarm that is past it, its bound twice and the deadline is given up.
const SPARE_TIME: Duration = Duration::from_mins(2);

/// What a region starts with.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// From zero.
    pub(crate) index: u32,
    /// Where all of its draws come from.
    pub(crate) prng: Prng,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct RegionOutcome {
    pub(crate) index: u32,
    pub(crate) wan_rate: ByteRate,
    /// When the region's seeder had the build, from the commit.
    pub(crate) replicated_at: Duration,
    /// When the regional goal store named it.
    pub(crate) goal_at: Duration,
    /// When each host ended the phases that differ between hosts, in the order of hosts.
    pub(crate) hosts: HostTimes,
    /// The least time from the regional goal to the last complete host.
    pub(crate) bound: Duration,
    /// Bytes that left the seeders.
    pub(crate) seeder_bytes: u64,
    /// Through the worst rack uplink; `None` without racks.
    pub(crate) rack_bytes: Option<u64>,
    /// Steps of the simulator.
    pub(crate) events: u64,
    pub(crate) trace_digest: String,
    /// What the simulator needed.
    pub(crate) wall: Duration,
}

/// One entry per host each, from the commit; `None` for never.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostTimes {
    pub(crate) goal_seen: Vec<Option<Duration>>,
    pub(crate) complete: Vec<Option<Duration>>,
    pub(crate) verified: Vec<Option<Duration>>,
    pub(crate) switched: Vec<Option<Duration>>,
}

impl HostTimes {
    /// The times of a phase that differs between hosts.
    pub(crate) fn of(&self, phase: Phase) -> Option<&[Option<Duration>]> {
        match phase {
            Phase::Build | Phase::Replication => None,
            Phase::Goal => Some(&self.goal_seen),
            Phase::Swarm => Some(&self.complete),
            Phase::Verification => Some(&self.verified),
            Phase::Switch => Some(&self.switched),
        }
    }
}

impl RegionOutcome {
    /// When the last host ended each phase.
    pub(crate) fn ends(&self, build_time: Duration) -> Ends {
        let last = |times: &[Option<Duration>]| {
            times
                .iter()
                .map(|time| time.unwrap_or(Duration::MAX))
                .max()
                .filter(|at| *at < Duration::MAX)
        };
        let mut ends = [Some(build_time); PHASE_COUNT];
        ends[Phase::Replication as usize] = Some(self.replicated_at);
        ends[Phase::Goal as usize] = last(&self.hosts.goal_seen);
        ends[Phase::Swarm as usize] = last(&self.hosts.complete);
        ends[Phase::Verification as usize] = last(&self.hosts.verified);
        ends[Phase::Switch as usize] = last(&self.hosts.switched);
        ends
    }

    /// Hosts that have the build.
    pub(crate) fn completed(&self) -> usize {
        self.hosts.complete.iter().flatten().count()
    }
}

/// The regions of a plan, each with a stream of its own.
pub(crate) fn regions_of(plan: &Plan, prng: &mut Prng) -> Vec<Region> {
    (0..plan.regions).map(|index| Region { index, prng: prng.split() }).collect()
}

/// Takes a region from the commit to its last restart.
pub(crate) fn run_region(plan: &Plan, region: &Region) -> RegionOutcome {
    let stopwatch = Stopwatch::start();
    let mut prng = region.prng.clone();
    let (mut wan, mut polls, mut waves) = (prng.split(), prng.split(), prng.split());
    let wan_rate = plan.wan_rates.draw(&mut wan);
    let replicated_at = plan.build_time + wan_rate.occupancy(plan.build_size);
    // The regional store polls the global one at a time of its own.
    let goal_at = replicated_at + below(plan.store_poll, &mut polls);
    let starts = poll_delays(plan, &mut polls);
    let scenario = swarm_of(plan, goal_at, &starts, prng.next_u64());
    let bound = bound_of(&scenario, &starts);
    let outcome = run_swarm(scenario, &starts);
    let hosts = host_times(plan, goal_at, &starts, &outcome);
    let switched = plan.waves.switched_at(&hosts.verified, &mut waves);
    RegionOutcome {
        index: region.index,
        wan_rate,
        replicated_at,
        goal_at,
        hosts: HostTimes { switched, ..hosts },
        bound,
        seeder_bytes: outcome.seeder_bytes,
        rack_bytes: outcome.rack_bytes.iter().map(|(into, out)| *into.max(out)).max(),
        events: outcome.counts.events,
        trace_digest: outcome.trace_digest.to_string(),
        wall: stopwatch.elapsed(),
    }
}

/// When each host's poll sees the goal, from the moment the regional store names it: anywhere in
/// the host's current interval, and the question and its answer.
fn poll_delays(plan: &Plan, prng: &mut Prng) -> Vec<Instant> {
    (0..plan.swarm.hosts).map(|_| Instant::from_start(poll_delay(plan, prng))).collect()
}

pub(crate) fn poll_delay(plan: &Plan, prng: &mut Prng) -> Duration {
    let percent = prng.below(2 * u64::from(plan.poll_jitter) + 1) + 100;
    let off = percent - u64::from(plan.poll_jitter);
    let interval = plan.host_poll * u32::try_from(off).unwrap_or(100) / 100;
    below(interval, prng) + plan.swarm.latency * 2
}

pub(crate) fn below(span: Duration, prng: &mut Prng) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(prng.below(nanos.max(1)))
}

fn swarm_of(plan: &Plan, goal_at: Duration, starts: &[Instant], seed: u64) -> Scenario {
    let mut scenario = Scenario { seed, ..plan.swarm.clone() };
    scenario.join_within = starts.iter().max().map_or(Duration::ZERO, |at| since_start(*at));
    let until_deadline = plan.deadline.saturating_sub(goal_at);
    scenario.limit = until_deadline + scenario.join_within + scenario.bound().time * 2 + SPARE_TIME;
    scenario
}

/// The bound of a swarm whose hosts come one by one: that from the first one's start, or a whole
/// copy down the link of the last one.
fn bound_of(scenario: &Scenario, starts: &[Instant]) -> Duration {
    let copy = scenario.host_rate.occupancy(scenario.build_size);
    let first = starts.iter().min().map_or(Duration::ZERO, |at| since_start(*at));
    (first + scenario.bound().time).max(scenario.join_within + copy)
}

fn run_swarm(scenario: Scenario, starts: &[Instant]) -> Outcome {
    Fleet::with_starts(scenario, Some(starts)).run().expect("no trace is written that could fail")
}

fn host_times(plan: &Plan, goal_at: Duration, starts: &[Instant], outcome: &Outcome) -> HostTimes {
    let at = |at: &Instant| goal_at + since_start(*at);
    let goal_seen = starts.iter().map(|start| Some(at(start))).collect();
    let complete: Vec<_> = outcome.completed_at.iter().map(|end| end.as_ref().map(at)).collect();
    let takes = plan.verify_time(plan.build_size);
    let verified = complete.iter().map(|end| end.map(|end| end + takes)).collect();
    HostTimes { goal_seen, complete, verified, switched: Vec::new() }
}

fn since_start(at: Instant) -> Duration {
    at.since(Instant::ZERO)
}
