//! One deploy in numbers: the timeline by phase, each region, pass or fail.
//!
//! Floats are for people only. Everything but `wall_s`, `peak_rss_mib` and the rates derived from
//! them is a function of the flags and the seed.

#![expect(
    clippy::float_arithmetic,
    reason = "ratios for people; nothing simulated depends on them"
)]

use core::fmt;
use core::time::Duration;

use serde::Serialize;

use crate::report::peak_rss_mib;

use super::digest::Digest;
use super::phases::{Ends, PHASES, Phase, late_phase, longest_phase, spans};
use super::plan::Plan;
use super::ranks::Ranks;
use super::region::RegionOutcome;

/// One row of the timeline. Times in seconds from the commit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PhaseRow {
    pub(crate) phase: &'static str,
    /// When half of the hosts had ended it.
    pub(crate) p50_s: Option<f64>,
    pub(crate) p99_s: Option<f64>,
    pub(crate) last_s: Option<f64>,
    /// From the end of the phase before to that of this one, in the region that was last.
    pub(crate) took_s: Option<f64>,
    /// Its share of the deadline.
    pub(crate) budget_s: f64,
}

/// One region. Times in seconds from the commit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RegionRow {
    region: u32,
    wan_mbit: f64,
    replicated_s: f64,
    goal_s: f64,
    completed: usize,
    /// When the last host had the whole build.
    swarm_last_s: Option<f64>,
    /// The least time from the regional goal to that.
    bound_s: f64,
    last_over_bound: Option<f64>,
    seeder_copies: f64,
    rack_copies: Option<f64>,
    /// When the last host ran it.
    pub(crate) last_s: Option<f64>,
    events: u64,
    wall_s: f64,
    trace_digest: String,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Distinguishes this object from that of a sustained load.
    mode: &'static str,
    regions: u32,
    /// Of all regions.
    hosts: u64,
    completed: usize,
    build_bytes: u64,
    /// Of the build as it was cut for this run.
    chunk_bytes: u64,
    chunks: u32,
    /// Above one: so many chunks of the protocol travelled as one.
    coarseness: u64,
    seed: u64,
    deadline_s: f64,
    pass: bool,
    /// When the last host of all ran the build.
    total_s: Option<f64>,
    /// What was farthest over its budget; `None` if the deadline was met.
    late_phase: Option<&'static str>,
    /// What took longest in the region that was last.
    longest_phase: &'static str,
    /// The region that was last.
    last_region: u32,
    phases: Vec<PhaseRow>,
    per_region: Vec<RegionRow>,
    /// Of the worst region.
    last_over_bound: Option<f64>,
    /// Of the worst region.
    seeder_copies: f64,
    events: u64,
    events_per_s: f64,
    wall_s: f64,
    peak_rss_mib: Option<u64>,
    trace_digest: String,
}

impl Summary {
    /// Sums up the regions of `plan`, in their order, which took `wall`.
    pub(crate) fn new(
        plan: &Plan,
        coarseness: u64,
        outcomes: &[RegionOutcome],
        wall: Duration,
    ) -> Self {
        let ends: Vec<Ends> = outcomes.iter().map(|region| region.ends(plan.build_time)).collect();
        // `None`, never, comes after every time.
        let last = (0..ends.len()).max_by_key(|region| lateness(&ends[*region])).unwrap_or(0);
        let per_region: Vec<RegionRow> = outcomes
            .iter()
            .zip(&ends)
            .map(|(outcome, ends)| region_row(plan, outcome, ends))
            .collect();
        let worst = |ratio: fn(&RegionRow) -> Option<f64>| {
            per_region.iter().map(ratio).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
        };
        let events = outcomes.iter().map(|region| region.events).sum();
        let total = ends[last][Phase::Switch as usize];
        Self {
            mode: "one-deploy",
            regions: plan.regions,
            hosts: u64::from(plan.regions) * u64::from(plan.swarm.hosts),
            completed: outcomes.iter().map(RegionOutcome::completed).sum(),
            build_bytes: plan.build_size,
            chunk_bytes: plan.swarm.chunk_size * coarseness,
            chunks: plan.swarm.chunk_count(),
            coarseness,
            seed: plan.seed,
            deadline_s: plan.deadline.as_secs_f64(),
            pass: total.is_some_and(|total| total <= plan.deadline),
            total_s: seconds(total),
            late_phase: late_phase(&ends[last], plan.deadline).map(Phase::name),
            longest_phase: longest_phase(&ends[last]).name(),
            last_region: outcomes[last].index,
            phases: timeline(plan, outcomes, &ends[last]),
            last_over_bound: worst(|row| row.last_over_bound),
            seeder_copies: worst(|row| Some(row.seeder_copies)).unwrap_or(0.0),
            per_region,
            events,
            events_per_s: as_float(events) / wall.as_secs_f64().max(f64::EPSILON),
            wall_s: wall.as_secs_f64(),
            peak_rss_mib: peak_rss_mib(),
            trace_digest: digest_of(outcomes).to_string(),
        }
    }

    pub(crate) const fn is_pass(&self) -> bool {
        self.pass
    }
}

/// Orders regions by when they were done; one that never was is last.
fn lateness(ends: &Ends) -> Duration {
    ends[Phase::Switch as usize].unwrap_or(Duration::MAX)
}

fn timeline(plan: &Plan, outcomes: &[RegionOutcome], last_ends: &Ends) -> Vec<PhaseRow> {
    let spans = spans(last_ends);
    let row = |phase: &Phase| {
        let mut times: Vec<Option<Duration>> = outcomes
            .iter()
            .flat_map(|region| {
                let hosts = plan.swarm.hosts as usize;
                let same = region.ends(plan.build_time)[*phase as usize];
                region.hosts.of(*phase).map_or_else(|| vec![same; hosts], <[_]>::to_vec)
            })
            .collect();
        let ranks = Ranks::of(&mut times);
        PhaseRow {
            phase: phase.name(),
            p50_s: seconds(ranks.p50),
            p99_s: seconds(ranks.p99),
            last_s: seconds(ranks.last),
            took_s: seconds(spans[*phase as usize]),
            budget_s: phase.budget(plan.deadline).as_secs_f64(),
        }
    };
    PHASES.iter().map(row).collect()
}

fn region_row(plan: &Plan, outcome: &RegionOutcome, ends: &Ends) -> RegionRow {
    let copies = |bytes: u64| as_float(bytes) / as_float(plan.swarm.build_size);
    let complete = ends[Phase::Swarm as usize];
    let bound_s = outcome.bound.as_secs_f64();
    RegionRow {
        region: outcome.index,
        wan_mbit: as_float(outcome.wan_rate.get()) * 8.0 / 1e6,
        replicated_s: outcome.replicated_at.as_secs_f64(),
        goal_s: outcome.goal_at.as_secs_f64(),
        completed: outcome.completed(),
        swarm_last_s: seconds(complete),
        bound_s,
        last_over_bound: complete
            .map(|at| at.saturating_sub(outcome.goal_at).as_secs_f64() / bound_s),
        seeder_copies: copies(outcome.seeder_bytes),
        rack_copies: outcome.rack_bytes.map(copies),
        last_s: seconds(ends[Phase::Switch as usize]),
        events: outcome.events,
        wall_s: outcome.wall.as_secs_f64(),
        trace_digest: outcome.trace_digest.clone(),
    }
}

/// Over every swarm's every step, and over what came before and after the swarms.
fn digest_of(outcomes: &[RegionOutcome]) -> Digest {
    let mut digest = Digest::default();
    for outcome in outcomes {
        digest.fold_text(&outcome.trace_digest);
        digest.fold_time(Some(outcome.replicated_at));
        digest.fold_time(Some(outcome.goal_at));
        for at in &outcome.hosts.switched {
            digest.fold_time(*at);
        }
    }
    digest
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { regions, hosts, completed, chunks, coarseness, .. } = self;
        writeln!(
            f,
            "fleet           {completed} of {hosts} hosts in {regions} regions, {chunks} chunks"
        )?;
        if *coarseness > 1 {
            writeln!(f, "coarse          {coarseness} chunks of the protocol travel as one")?;
        }
        writeln!(f, "\nfrom commit            p50        p99       last       took     budget")?;
        for row in &self.phases {
            write!(f, "{:<15}", row.phase)?;
            for time in [row.p50_s, row.p99_s, row.last_s, row.took_s, Some(row.budget_s)] {
                write!(f, " {}", Seconds(time))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "took: in region {}, the last\n", self.last_region)?;
        writeln!(
            f,
            "region  WAN Mbit/s  replicated  swarm last  last/bound  seeder copies       last"
        )?;
        for row in &self.per_region {
            writeln!(
                f,
                "{:>6}  {:>10.1} {} {}  {:>10}  {:>13.3} {}",
                row.region,
                row.wan_mbit,
                format_args!(" {}", Seconds(Some(row.replicated_s))),
                format_args!(" {}", Seconds(row.swarm_last_s)),
                row.last_over_bound.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}")),
                row.seeder_copies,
                Seconds(row.last_s)
            )?;
        }
        writeln!(f, "\nlongest phase   {}", self.longest_phase)?;
        let memory = self.peak_rss_mib.map_or_else(|| "?".into(), |mib| mib.to_string());
        let (wall, events) = (self.wall_s, self.events);
        writeln!(f, "simulator       {wall:.1} s, {events} events, {memory} MiB")?;
        writeln!(f, "trace digest    {}", self.trace_digest)?;
        let (total, deadline) = (Seconds(self.total_s).to_string(), self.deadline_s);
        let total = total.trim_start();
        match self.late_phase {
            None => {
                write!(f, "PASS            running everywhere after {total} s of {deadline:.0} s")
            }
            Some(phase) => write!(
                f,
                "MISSED          running everywhere after {total} s of {deadline:.0} s; \
                 {phase} is farthest over its budget"
            ),
        }
    }
}

/// A time in a column of ten; `never` if it did not come.
pub(crate) struct Seconds(pub(crate) Option<f64>);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(seconds) => write!(f, "{seconds:>10.1}"),
            None => write!(f, "{:>10}", "never"),
        }
    }
}

pub(crate) fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) const fn as_float(number: u64) -> f64 {
    number as f64
}
