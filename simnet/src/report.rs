//! What a run is summed up to, for people and for scripts.
//!
//! The only place of the simulator with floats, and the only one that asks the machine it runs on for
//! the time and for memory. Neither flows back into the simulation.

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
    /// Of these, those that died for good or lie: nobody waits for them, and they count nowhere else.
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
    /// How close the last host came.
    pub last_over_bound: Option<f64>,
    /// Sent by all seeders.
    pub seeder_copies: f64,
    /// Through the uplink of the worst rack, in its busier direction; `None` without racks.
    pub rack_copies: Option<f64>,
    /// Into a rack, on average.
    pub rack_copies_in_mean: Option<f64>,
    /// Out of a rack, on average.
    pub rack_copies_out_mean: Option<f64>,
    /// Messages between neighbours.
    pub messages: u64,
    /// Per host and second of the run.
    pub messages_per_host_s: f64,
    /// Of the messages, offers.
    pub offers: u64,
    /// Of the messages, requests.
    pub requests: u64,
    /// Of the messages, refusals.
    pub refusals: u64,
    /// Of the messages, cancellations.
    pub cancels: u64,
    /// Announces to trackers.
    pub announces: u64,
    /// Per second of the run, at all trackers.
    pub announces_per_s: f64,
    /// Questions to neighbours for others.
    pub exchanges: u64,
    /// Chunks that arrived where they were already, per chunk wanted.
    pub duplicates_share: f64,
    /// Peers banned.
    pub bans: u64,
    /// Rules that were broken.
    pub violations: Vec<String>,
    /// Steps of the event queue.
    pub events: u64,
    /// Of these, per second of wall time.
    pub events_per_s: f64,
    /// Wall time of the run.
    pub wall_s: f64,
    /// Most memory that the process had; `None` where the system does not tell.
    pub peak_rss_mib: Option<u64>,
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
            p50_s: at_rank(hosts.div_ceil(2)),
            p99_s: at_rank((hosts * 99).div_ceil(100)),
            last_s,
            bound_s: bound.time.as_secs_f64(),
            bound_kind: bound.kind.name(),
            last_over_bound: last_s.map(|last| last / bound.time.as_secs_f64()),
            seeder_copies: copies(outcome.seeder_bytes),
            rack_copies: worst.map(copies),
            rack_copies_in_mean: mean(racks.iter().map(|(into, _)| into).sum()),
            rack_copies_out_mean: mean(racks.iter().map(|(_, out)| out).sum()),
            messages: counts.messages,
            messages_per_host_s: as_float(counts.messages) / as_float(all as u64) / ran_s,
            offers: counts.offers,
            requests: counts.requests,
            refusals: counts.refusals,
            cancels: counts.cancels,
            announces: counts.announces,
            announces_per_s: as_float(counts.announces) / ran_s,
            exchanges: counts.exchanges,
            duplicates_share: as_float(counts.duplicates) / as_float(wanted),
            bans: counts.bans,
            violations: outcome.violations.iter().map(ToString::to_string).collect(),
            events: counts.events,
            events_per_s: as_float(counts.events) / wall_s.max(f64::EPSILON),
            wall_s,
            peak_rss_mib: peak_rss_mib(),
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
        let time = |at: Option<f64>| at.map_or_else(|| "never".into(), |at| format!("{at:.3} s"));
        let ratio = |one: Option<f64>| one.map_or_else(|| "-".into(), |one| format!("{one:.3}"));
        writeln!(
            f,
            "completed       {} of {} hosts, {} chunks",
            self.completed,
            self.hosts as usize - self.not_awaited,
            self.chunks
        )?;
        if self.not_awaited > 0 {
            writeln!(f, "not awaited     {}: dead for good, or liars", self.not_awaited)?;
        }
        writeln!(f, "p50             {}", time(self.p50_s))?;
        writeln!(f, "p99             {}", time(self.p99_s))?;
        writeln!(f, "last            {}", time(self.last_s))?;
        writeln!(f, "bound           {:.3} s ({})", self.bound_s, self.bound_kind)?;
        writeln!(f, "last / bound    {}", ratio(self.last_over_bound))?;
        writeln!(f, "seeder copies   {:.3}", self.seeder_copies)?;
        if self.rack_copies.is_some() {
            let (into, out) = (self.rack_copies_in_mean, self.rack_copies_out_mean);
            writeln!(
                f,
                "rack copies     {} in and {} out on average, {} at the worst",
                ratio(into),
                ratio(out),
                ratio(self.rack_copies)
            )?;
        }
        writeln!(
            f,
            "messages        {} ({:.0} per host and second): {} offers, {} requests, {} refusals, {} cancels",
            self.messages,
            self.messages_per_host_s,
            self.offers,
            self.requests,
            self.refusals,
            self.cancels
        )?;
        writeln!(
            f,
            "announces       {} ({:.0} per second), {} exchanges",
            self.announces, self.announces_per_s, self.exchanges
        )?;
        writeln!(f, "duplicates      {:.3} % of chunks", self.duplicates_share * 100.0)?;
        writeln!(
            f,
            "simulator       {:.1} s, {} events, {:.0} per second, {} MiB",
            self.wall_s,
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

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
const fn as_float(number: u64) -> f64 {
    number as f64
}

fn seconds(at: Instant) -> f64 {
    at.since(Instant::ZERO).as_secs_f64()
}

/// `VmHWM`, the kernel's own account of the peak.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.div_ceil(1024))
}
