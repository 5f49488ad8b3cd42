//! What a run comes to in numbers, for people and for scripts.
//!
//! The only place that asks the machine on which the simulator runs for the time and for memory.
//! Like the floats here, neither flows back into the simulation.

#![expect(
    clippy::float_arithmetic,
    reason = "ratios for people; nothing simulated depends on them"
)]

use core::fmt;
use core::time::Duration;

use p2p_core::Instant;
use serde::Serialize;

use crate::fleet::Outcome;
use crate::scenario::Scenario;

/// Measures the simulator, not the simulated.
#[derive(Debug)]
#[expect(clippy::disallowed_types, reason = "the wall time of the run, for the report only")]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts to measure.
    #[expect(clippy::disallowed_methods, reason = "the wall time of the run, for the report only")]
    pub fn start() -> Self {
        #[expect(
            clippy::disallowed_types,
            reason = "the wall time of the run, for the report only"
        )]
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A run in numbers. Times in seconds, sizes in copies of the build.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Machines that wanted the build.
    pub hosts: u32,
    /// Of these, those that died for good or lie: nobody waits for them, and they
    /// count nowhere else.
    pub not_awaited: usize,
    /// Chunks of the build.
    pub chunks: u32,
    /// Hosts that have it.
    pub completed: usize,
    /// When half of the hosts had it; `None` if they never did.
    pub p50_s: Option<f64>,
    /// When 99 of 100 hosts had it.
    pub p99_s: Option<f64>,
    /// When every host had it.
    pub last_s: Option<f64>,
    /// The least time that any protocol needs.
    pub bound_s: f64,
    /// Which bound that is: `fluid`, `chunked` or `rack`.
    pub bound_kind: &'static str,
    /// How close half of the hosts came.
    pub p50_over_bound: Option<f64>,
    /// How close the last host came.
    pub last_over_bound: Option<f64>,
    /// Sent by all seeders.
    pub seeder_copies: f64,
    /// Through the uplink of the worst rack, in its busier direction; `None` without racks.
    pub rack_copies: Option<f64>,
    /// Into the rack that most came into; `None` without racks.
    pub rack_copies_in_worst: Option<f64>,
    /// Out of the rack that most came out of; `None` without racks.
    pub rack_copies_out_worst: Option<f64>,
    /// Into a rack, on average.
    pub rack_copies_in_mean: Option<f64>,
    /// Out of a rack, on average.
    pub rack_copies_out_mean: Option<f64>,
    /// Through all uplinks of a rack, both directions, on average.
    pub rack_bytes_mean: Option<f64>,
    /// Messages between neighbours.
    pub messages: u64,
    /// Per host and second of the run.
    pub messages_per_host_s: f64,
    /// Received per second of the run by the host that received most.
    pub messages_worst_host_s: f64,
    /// Most that any host received in one second.
    pub messages_host_peak_s: u32,
    /// Most that any seeder received in one second.
    pub messages_seeder_peak_s: u32,
    /// Of the messages, offers.
    pub offers: u64,
    /// Of the messages, requests.
    pub requests: u64,
    /// Of the messages, refusals.
    pub refusals: u64,
    /// Of the messages, cancellations.
    pub cancels: u64,
    /// Of the messages, claims of chunks among rack mates, made or given up.
    pub claims: u64,
    /// Announces to trackers.
    pub announces: u64,
    /// Per second of the run, at all trackers.
    pub announces_per_s: f64,
    /// Per second of the run, at the busiest tracker.
    pub announces_worst_tracker_s: f64,
    /// Most that any tracker received in one second.
    pub announces_peak_s: u32,
    /// Announces per host and second of the run.
    pub announces_per_host_s: f64,
    /// Questions to neighbours for others.
    pub exchanges: u64,
    /// Chunks that arrived where they were already, per chunk wanted.
    pub duplicates_share: f64,
    /// Bytes of chunks sent beyond those wanted, per byte wanted: requests that were given up while
    /// the chunk was on its way. Below zero if hosts never completed.
    pub wasted_share: f64,
    /// Peers banned.
    pub bans: u64,
    /// Rules that were broken.
    pub violations: Vec<String>,
    /// Steps of the event queue.
    pub events: u64,
    /// Of these, per second of wall time.
    pub events_per_s: f64,
    /// How long the run was for the fleet.
    pub simulated_s: f64,
    /// Simulated time per wall time.
    pub simulated_over_wall: f64,
    /// Wall time of the run.
    pub wall_s: f64,
    /// Most memory that the process had; `None` where the system does not say.
    pub peak_rss_mib: Option<u64>,
    /// Steps of all nodes, each a line of a trace.
    pub trace_steps: u64,
    /// Of every step of every node.
    pub trace_digest: String,
}

impl Summary {
    /// Sums up a run that took `wall`.
    pub fn new(scenario: &Scenario, outcome: &Outcome, wall: Duration) -> Self {
        let bound = scenario.bound();
        let awaited = outcome.completed_at.iter().zip(&outcome.awaited).filter(|(_, is)| **is);
        let (hosts, all) = (awaited.clone().count(), outcome.completed_at.len());
        let mut times: Vec<Instant> = awaited.filter_map(|(at, _)| *at).collect();
        times.sort_unstable();
        // The rank counts hosts that never completed too: they come after all others.
        let at_rank = |rank: usize| times.get(rank.saturating_sub(1)).map(|at| seconds(*at));
        let p50_s = at_rank(hosts.div_ceil(2));
        let last_s = at_rank(hosts);
        let copies = |bytes: u64| as_float(bytes) / as_float(scenario.build_size);
        let racks = &outcome.rack_bytes;
        let worst = racks.iter().map(|(into, out)| *into.max(out)).max();
        let mean =
            |sum: u64| (!racks.is_empty()).then(|| copies(sum) / as_float(racks.len() as u64));
        let counts = outcome.counts;
        let ran_s = seconds(outcome.ended_at).max(f64::EPSILON);
        let wall_s = wall.as_secs_f64();
        let wanted = u64::from(scenario.hosts) * u64::from(scenario.chunk_count());
        Self {
            hosts: scenario.hosts,
            not_awaited: all - hosts,
            chunks: scenario.chunk_count(),
            completed: times.len(),
            p50_s,
            p99_s: at_rank((hosts * 99).div_ceil(100)),
            last_s,
            bound_s: bound.time.as_secs_f64(),
            bound_kind: bound.kind.name(),
            p50_over_bound: p50_s.map(|p50| p50 / bound.time.as_secs_f64()),
            last_over_bound: last_s.map(|last| last / bound.time.as_secs_f64()),
            seeder_copies: copies(outcome.seeder_bytes),
            rack_copies: worst.map(copies),
            rack_copies_in_worst: racks.iter().map(|(into, _)| copies(*into)).reduce(f64::max),
            rack_copies_out_worst: racks.iter().map(|(_, out)| copies(*out)).reduce(f64::max),
            rack_copies_in_mean: mean(racks.iter().map(|(into, _)| into).sum()),
            rack_copies_out_mean: mean(racks.iter().map(|(_, out)| out).sum()),
            rack_bytes_mean: mean(racks.iter().map(|(into, out)| into + out).sum())
                .map(|copies| copies * as_float(scenario.build_size)),
            messages: counts.messages,
            messages_per_host_s: as_float(counts.messages) / as_float(all as u64) / ran_s,
            messages_worst_host_s: f64::from(outcome.host_load.total) / ran_s,
            messages_host_peak_s: outcome.host_load.worst_second,
            messages_seeder_peak_s: outcome.seeder_load.worst_second,
            offers: counts.offers,
            requests: counts.requests,
            refusals: counts.refusals,
            cancels: counts.cancels,
            claims: counts.claims,
            announces: counts.announces,
            announces_per_s: as_float(counts.announces) / ran_s,
            announces_worst_tracker_s: f64::from(outcome.tracker_load.total) / ran_s,
            announces_peak_s: outcome.tracker_load.worst_second,
            announces_per_host_s: as_float(counts.announces) / as_float(hosts as u64) / ran_s,
            exchanges: counts.exchanges,
            duplicates_share: as_float(counts.duplicates) / as_float(wanted),
            wasted_share: copies(outcome.seeder_bytes + outcome.host_bytes)
                / f64::from(scenario.hosts)
                - 1.0,
            bans: counts.bans,
            violations: outcome.violations.iter().map(ToString::to_string).collect(),
            events: counts.events,
            events_per_s: as_float(counts.events) / wall_s.max(f64::EPSILON),
            simulated_s: ran_s,
            simulated_over_wall: ran_s / wall_s.max(f64::EPSILON),
            wall_s,
            peak_rss_mib: peak_rss_mib(),
            trace_steps: outcome.trace_steps,
            trace_digest: outcome.trace_digest.to_string(),
        }
    }

    /// Whether every host has the build and no rule was broken.
    pub fn is_good(&self) -> bool {
        self.last_s.is_some() && self.violations.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_times(self, f)?;
        fmt_racks(self, f)?;
        fmt_messages(self, f)?;
        let (duplicates, wasted) = (self.duplicates_share * 100.0, self.wasted_share * 100.0);
        writeln!(f, "duplicates      {duplicates:.3} % of chunks; {wasted:.2} % of bytes in vain")?;
        writeln!(
            f,
            "simulator       {:.1} s for {:.1} s ({:.2} simulated per second), {} events, {:.0} per second, {} MiB",
            self.wall_s,
            self.simulated_s,
            self.simulated_over_wall,
            self.events,
            self.events_per_s,
            self.peak_rss_mib.map_or_else(|| "?".into(), |mib| mib.to_string())
        )?;
        if self.bans > 0 {
            writeln!(f, "bans            {}", self.bans)?;
        }
        for violation in &self.violations {
            writeln!(f, "violation       {violation}")?;
        }
        write!(f, "trace digest    {}", self.trace_digest)
    }
}

fn ratio(number: Option<f64>) -> String {
    number.map_or_else(|| "-".into(), |number| format!("{number:.3}"))
}

fn fmt_times(summary: &Summary, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let time = |s: Option<f64>| s.map_or_else(|| "never".into(), |s| format!("{s:.3} s"));
    writeln!(
        f,
        "completed       {} of {} hosts, {} chunks",
        summary.completed,
        summary.hosts as usize - summary.not_awaited,
        summary.chunks
    )?;
    if summary.not_awaited > 0 {
        writeln!(f, "not awaited     {}: dead for good, or liars", summary.not_awaited)?;
    }
    writeln!(f, "p50             {}", time(summary.p50_s))?;
    writeln!(f, "p99             {}", time(summary.p99_s))?;
    writeln!(f, "last            {}", time(summary.last_s))?;
    writeln!(f, "bound           {:.3} s ({})", summary.bound_s, summary.bound_kind)?;
    writeln!(f, "last / bound    {}", ratio(summary.last_over_bound))?;
    writeln!(f, "seeder copies   {:.3}", summary.seeder_copies)
}

fn fmt_racks(summary: &Summary, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(bytes) = summary.rack_bytes_mean else { return Ok(()) };
    writeln!(
        f,
        "rack copies     {} in and {} out on average, {} at the worst",
        ratio(summary.rack_copies_in_mean),
        ratio(summary.rack_copies_out_mean),
        ratio(summary.rack_copies)
    )?;
    writeln!(f, "rack bytes      {:.2} GB over each rack's uplink on average", bytes / 1e9)
}

fn fmt_messages(summary: &Summary, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "messages        {}: {} offers, {} requests, {} refusals, {} cancels, {} claims",
        summary.messages,
        summary.offers,
        summary.requests,
        summary.refusals,
        summary.cancels,
        summary.claims
    )?;
    writeln!(
        f,
        "  at hosts      {:.0} per second, {:.0} at the busiest, at most {} in a second; at seeders {}",
        summary.messages_per_host_s,
        summary.messages_worst_host_s,
        summary.messages_host_peak_s,
        summary.messages_seeder_peak_s
    )?;
    writeln!(
        f,
        "announces       {}, {:.3} per host and second, {} exchanges",
        summary.announces, summary.announces_per_host_s, summary.exchanges
    )?;
    writeln!(
        f,
        "  at trackers   {:.0} per second, {:.0} at the busiest, at most {} in a second",
        summary.announces_per_s, summary.announces_worst_tracker_s, summary.announces_peak_s
    )
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) const fn as_float(number: u64) -> f64 {
    number as f64
}

fn seconds(at: Instant) -> f64 {
    at.since(Instant::ZERO).as_secs_f64()
}

/// `VmHWM`, the kernel's own account of the peak.
pub(crate) fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.div_ceil(1024))
}
