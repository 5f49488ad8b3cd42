//! A sustained load in numbers: what deploys took, which were late and why, what links carried.
//!
//! Floats are for people only.

#![expect(
    clippy::float_arithmetic,
    reason = "ratios for people; nothing simulated depends on them"
)]

use core::fmt;
use core::time::Duration;

use serde::Serialize;

use super::LoadPlan;
use super::arrivals::Deploy;
use super::region_load::RegionLoad;
use super::stretch::{Measured, Sharing};
use crate::report::peak_rss_mib;
use crate::thirty_minutes::digest::Digest;
use crate::thirty_minutes::phases::{Ends, PHASES, Phase, late_phase, spans};
use crate::thirty_minutes::plan::Plan;
use crate::thirty_minutes::ranks::Ranks;
use crate::thirty_minutes::summary::{Seconds, as_float, seconds};

/// What one phase took, over all deploys, each in the region that was last.
#[derive(Clone, Debug, Serialize)]
struct PhaseTook {
    phase: &'static str,
    took_p50_s: Option<f64>,
    took_p99_s: Option<f64>,
    took_max_s: Option<f64>,
    /// Its share of the deadline.
    budget_s: f64,
    /// Late deploys in which it was farthest over its budget.
    late: usize,
}

/// How a real fleet fared with a part of every link.
#[derive(Clone, Debug, Serialize)]
struct StretchRow {
    sharers: u32,
    hosts: u32,
    chunks: u32,
    last_s: f64,
    /// Against one copy over that part.
    stretch: f64,
    seeder_copies: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadSummary {
    /// Distinguishes this object from that of one deploy.
    mode: &'static str,
    regions: u32,
    /// Of all regions.
    hosts: u64,
    deploys_per_day: u32,
    hosts_share: String,
    changed_share: String,
    duration_s: f64,
    from_hour: u32,
    seed: u64,
    deploys: usize,
    /// One per deploy and host.
    downloads: usize,
    deadline_s: f64,
    /// Deploys that met it.
    on_time: usize,
    on_time_percent: f64,
    on_time_wanted: String,
    pass: bool,
    /// Deploys that did not meet it.
    late: usize,
    /// What most late deploys were late for; `None` if there are none.
    late_phase: Option<&'static str>,
    total_p50_s: Option<f64>,
    total_p99_s: Option<f64>,
    total_max_s: Option<f64>,
    phases: Vec<PhaseTook>,
    in_progress_mean: f64,
    in_progress_max: usize,
    /// Received by a host, averaged over the run.
    host_mbit_mean: f64,
    /// Of 99 of 100 hosts at most.
    host_mbit_p99: f64,
    host_mbit_max: f64,
    /// Of a host's link, on average.
    host_link_percent: f64,
    /// Most downloads of one host at once.
    host_downloads_max: usize,
    wan_busy_percent_mean: f64,
    wan_busy_percent_max: f64,
    /// What replication took beyond what it takes alone, over deploys and regions.
    wan_wait_p50_s: Option<f64>,
    wan_wait_p99_s: Option<f64>,
    wan_wait_max_s: Option<f64>,
    stretch: Vec<StretchRow>,
    wall_s: f64,
    peak_rss_mib: Option<u64>,
    trace_digest: String,
}

impl LoadSummary {
    /// Sums up the regions, in their order, which took `wall`.
    pub(super) fn new(
        (plan, load, sharing): (&Plan, &LoadPlan, &Sharing),
        deploys: &[Deploy],
        regions: &[RegionLoad],
        wall: Duration,
    ) -> Self {
        let ends = last_regions(deploys.len(), regions);
        let blamed: Vec<Phase> =
            ends.iter().filter_map(|ends| late_phase(ends, plan.deadline)).collect();
        let on_time = ends.len() - blamed.len();
        let mut totals: Vec<_> = ends.iter().map(|ends| ends[Phase::Switch as usize]).collect();
        let (in_progress_mean, in_progress_max) = in_progress(load, deploys, &totals);
        let totals = Ranks::of(&mut totals);
        let phases = phase_rows(plan, &ends, &blamed);
        let worst = phases.iter().rev().max_by_key(|row| row.late).filter(|row| row.late > 0);
        let late_phase = worst.map(|row| row.phase);
        let hosts = HostRates::new(plan, sharing, load, regions);
        let mut waits: Vec<_> =
            regions.iter().flat_map(|region| &region.wan_waits).map(|wait| Some(*wait)).collect();
        let waits = Ranks::of(&mut waits);
        // Of the time until the last build was there, as a backlog outlasts the commits.
        let busy = |region: &RegionLoad| {
            100.0 * region.wan_busy.as_secs_f64() / wan_span(load, deploys, region)
        };
        let busy: Vec<f64> = regions.iter().map(busy).collect();
        Self {
            mode: "sustained-load",
            regions: plan.regions,
            hosts: u64::from(plan.regions) * u64::from(plan.swarm.hosts),
            deploys_per_day: load.deploys_per_day,
            hosts_share: load.hosts_share.to_string(),
            changed_share: load.changed_share.to_string(),
            duration_s: load.duration.as_secs_f64(),
            from_hour: load.from_hour,
            seed: plan.seed,
            deploys: deploys.len(),
            downloads: regions.iter().map(|region| region.downloads).sum(),
            deadline_s: plan.deadline.as_secs_f64(),
            on_time,
            on_time_percent: 100.0 * as_float(on_time as u64) / as_float(ends.len().max(1) as u64),
            on_time_wanted: load.on_time.to_string(),
            pass: on_time as u64 >= load.on_time.at_least_of(ends.len() as u64),
            late: blamed.len(),
            late_phase,
            total_p50_s: seconds(totals.p50),
            total_p99_s: seconds(totals.p99),
            total_max_s: seconds(totals.last),
            phases,
            in_progress_mean,
            in_progress_max,
            host_mbit_mean: hosts.mean,
            host_mbit_p99: hosts.p99,
            host_mbit_max: hosts.max,
            host_link_percent: hosts.link_percent,
            host_downloads_max: regions.iter().map(|region| region.sharers_max).max().unwrap_or(0),
            wan_busy_percent_mean: busy.iter().sum::<f64>() / as_float(busy.len().max(1) as u64),
            wan_busy_percent_max: busy.iter().copied().fold(0.0, f64::max),
            wan_wait_p50_s: seconds(waits.p50),
            wan_wait_p99_s: seconds(waits.p99),
            wan_wait_max_s: seconds(waits.last),
            stretch: sharing.measured.iter().map(stretch_row).collect(),
            wall_s: wall.as_secs_f64(),
            peak_rss_mib: peak_rss_mib(),
            trace_digest: digest_of(deploys, regions).to_string(),
        }
    }

    pub(crate) const fn is_pass(&self) -> bool {
        self.pass
    }
}

/// Of each deploy, the times of the region that was last.
fn last_regions(deploys: usize, regions: &[RegionLoad]) -> Vec<Ends> {
    let last = |deploy: usize| {
        regions
            .iter()
            .map(|region| region.ends[deploy])
            .max_by_key(|ends| ends[Phase::Switch as usize])
    };
    (0..deploys).filter_map(last).collect()
}

fn phase_rows(plan: &Plan, ends: &[Ends], blamed: &[Phase]) -> Vec<PhaseTook> {
    let row = |phase: &Phase| {
        let mut took: Vec<_> = ends.iter().map(|ends| spans(ends)[*phase as usize]).collect();
        let took = Ranks::of(&mut took);
        PhaseTook {
            phase: phase.name(),
            took_p50_s: seconds(took.p50),
            took_p99_s: seconds(took.p99),
            took_max_s: seconds(took.last),
            budget_s: phase.budget(plan.deadline).as_secs_f64(),
            late: blamed.iter().filter(|one| *one == phase).count(),
        }
    };
    PHASES.iter().map(row).collect()
}

/// Deploys between commit and last restart: the mean while commits came, and the most at once.
fn in_progress(load: &LoadPlan, deploys: &[Deploy], totals: &[Option<Duration>]) -> (f64, usize) {
    let mut changes = Vec::with_capacity(2 * deploys.len());
    let mut sum = Duration::ZERO;
    for (deploy, total) in deploys.iter().zip(totals) {
        let begin = deploy.committed_at;
        let end = begin + total.unwrap_or(Duration::ZERO);
        changes.push((begin, true));
        changes.push((end, false));
        sum += end.min(load.duration).saturating_sub(begin);
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0_usize, 0);
    for (_, is_begin) in changes {
        now = if is_begin { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    (sum.as_secs_f64() / load.duration.as_secs_f64(), most)
}

/// Seconds from the first moment at which a region's WAN can have work to the last.
fn wan_span(load: &LoadPlan, deploys: &[Deploy], region: &RegionLoad) -> f64 {
    let replicated = deploys.iter().zip(&region.ends).filter_map(|(deploy, ends)| {
        ends[Phase::Replication as usize].map(|end| deploy.committed_at + end)
    });
    let build_time = region.ends.first().and_then(|ends| ends[Phase::Build as usize]);
    let begin = build_time.unwrap_or(Duration::ZERO);
    let end = replicated.max().unwrap_or(Duration::ZERO).max(begin + load.duration);
    end.saturating_sub(begin).as_secs_f64()
}

/// What hosts received, in megabits per second over the run.
struct HostRates {
    mean: f64,
    p99: f64,
    max: f64,
    link_percent: f64,
}

impl HostRates {
    fn new(plan: &Plan, sharing: &Sharing, load: &LoadPlan, regions: &[RegionLoad]) -> Self {
        let mut bytes: Vec<u64> =
            regions.iter().flat_map(|region| &region.host_bytes).copied().collect();
        bytes.sort_unstable();
        let at = |rank: usize| bytes.get(rank.saturating_sub(1)).copied().unwrap_or(0);
        let mbit = |bytes: f64| bytes * 8.0 / 1e6 / load.duration.as_secs_f64();
        let sum = as_float(bytes.iter().sum());
        let mean = mbit(sum / as_float(bytes.len().max(1) as u64));
        let link = as_float(plan.swarm.host_rate.get() * sharing.coarseness) * 8.0 / 1e6;
        Self {
            mean,
            p99: mbit(as_float(at((bytes.len() * 99).div_ceil(100)))),
            max: mbit(as_float(at(bytes.len()))),
            link_percent: 100.0 * mean / link,
        }
    }
}

fn stretch_row(measured: &Measured) -> StretchRow {
    StretchRow {
        sharers: measured.sharers,
        hosts: measured.hosts,
        chunks: measured.chunks,
        last_s: measured.last.as_secs_f64(),
        stretch: as_float(measured.stretch()) / 1e3,
        seeder_copies: as_float(measured.seeder_copies) / 1e3,
    }
}

/// Over every deploy's times in every region, and what each host received.
fn digest_of(deploys: &[Deploy], regions: &[RegionLoad]) -> Digest {
    let mut digest = Digest::default();
    for deploy in deploys {
        digest.fold_time(Some(deploy.committed_at));
    }
    for region in regions {
        for end in region.ends.iter().flatten() {
            digest.fold_time(*end);
        }
        for bytes in &region.host_bytes {
            digest.fold(*bytes);
        }
    }
    digest
}

impl fmt::Display for LoadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deploys, hosts, regions, downloads, .. } = self;
        writeln!(
            f,
            "load            {deploys} deploys to {hosts} hosts in {regions} regions, {downloads} downloads"
        )?;
        writeln!(f, "\ntook                   p50        p99        max     budget       late")?;
        for row in &self.phases {
            write!(f, "{:<15}", row.phase)?;
            for time in [row.took_p50_s, row.took_p99_s, row.took_max_s, Some(row.budget_s)] {
                write!(f, " {}", Seconds(time))?;
            }
            writeln!(f, " {:>10}", row.late)?;
        }
        write!(f, "{:<15}", "all")?;
        for time in [self.total_p50_s, self.total_p99_s, self.total_max_s, Some(self.deadline_s)] {
            write!(f, " {}", Seconds(time))?;
        }
        writeln!(f, " {:>10}\n", self.late)?;
        write_links(self, f)?;
        writeln!(f, "trace digest    {}", self.trace_digest)?;
        let (on_time, wanted) = (self.on_time_percent, &self.on_time_wanted);
        let word = if self.pass { "PASS" } else { "MISSED" };
        write!(f, "{word:<15} {on_time:.2}% of deploys on time, {wanted} wanted")?;
        match self.late_phase {
            Some(phase) => write!(f, "; most late ones were late for {phase}"),
            None => Ok(()),
        }
    }
}

/// What links carried, and what the model stands on.
fn write_links(summary: &LoadSummary, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "in progress     {:.1} deploys on average, {} at most",
        summary.in_progress_mean, summary.in_progress_max
    )?;
    writeln!(
        f,
        "per host        {:.2} Mbit/s on average ({:.2} % of its link), p99 {:.2}, most {:.2}; \
             {} downloads at once at most",
        summary.host_mbit_mean,
        summary.host_link_percent,
        summary.host_mbit_p99,
        summary.host_mbit_max,
        summary.host_downloads_max
    )?;
    let time = |time: Option<f64>| Seconds(time).to_string().trim_start().to_owned();
    writeln!(
        f,
        "WAN             busy {:.1} % on average, {:.1} % in the worst region; waited for others: \
             p50 {} s, p99 {} s, most {} s",
        summary.wan_busy_percent_mean,
        summary.wan_busy_percent_max,
        time(summary.wan_wait_p50_s),
        time(summary.wan_wait_p99_s),
        time(summary.wan_wait_max_s)
    )?;
    for row in &summary.stretch {
        writeln!(
            f,
            "1/{:<2} of links   {:.3} s for {} chunks to {} hosts, {:.3} of one copy; {:.3} seeder copies",
            row.sharers, row.last_s, row.chunks, row.hosts, row.stretch, row.seeder_copies
        )?;
    }
    let memory = summary.peak_rss_mib.map_or_else(|| "?".into(), |mib| mib.to_string());
    writeln!(f, "simulator       {:.1} s, {memory} MiB", summary.wall_s)
}
