//! The flags of `shoal-simnet thirty-minutes`, and what it prints.
//!
//! Thin: flags become a [`Plan`] and perhaps a [`LoadPlan`], both checked before anything runs;
//! what came of it is printed. Progress goes to standard error, one line per region that is done.

use core::fmt;
use core::time::Duration;

use p2p_core::{ByteRate, Prng, Seed};
use serde::Serialize;

use crate::faults::Faults;
use crate::flags::rates::{NodeRates, SiteRates};
use crate::flags::settings::Settings;
use crate::flags::units::{parse_duration, parse_size};
use crate::report::Stopwatch;
use crate::scenario::Scenario;

use super::load::{self, LoadPlan, LoadSummary, RunError};
use super::plan::{Plan, PlanError, check_coarse_time, coarsen, coarseness};
use super::ranges::{RateRange, Share, WaveShares};
use super::region::{RegionOutcome, regions_of, run_region};
use super::summary::Summary;
use super::waves::Waves;
use super::workers::run_all;

/// The flags of `thirty-minutes`. Defaults are the figures of the design.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Regions, each with a swarm of its own
    #[arg(long, default_value_t = 8)]
    regions: u32,
    /// Machines that want the build, in each region
    #[arg(long, default_value_t = 25_000)]
    hosts_per_region: u32,
    /// Size of the build; with --deploys-per-day that of the largest
    #[arg(long, value_name = "SIZE", default_value = "10GB", value_parser = parse_size)]
    build: u64,
    /// Size of a chunk [default: 32MiB, 4MiB with --deploys-per-day]; above the protocol's 4 MiB
    /// several chunks travel as one, which is coarser
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    chunk: Option<u64>,
    /// From the commit to a build in the main store
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    build_time: Duration,
    /// What the WAN carries into a region; drawn from a range for each
    #[arg(long, value_name = "RATE..RATE", default_value = "134Mbit..266Mbit")]
    wan_rate: RateRange,
    /// Between two polls of the global goal store by a regional one
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    store_poll: Duration,
    /// Between two polls of its region's goal store by a host
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    host_poll: Duration,
    /// How much longer or shorter that is at most, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    poll_jitter: u32,
    #[command(flatten)]
    node_rates: NodeRates,
    /// Seeders of each region
    #[arg(long, default_value_t = 1)]
    seeders: u32,
    /// Racks of each region; 0: hosts do not know where they stand
    #[arg(long, default_value_t = 0)]
    racks: u32,
    #[command(flatten)]
    site_rates: SiteRates,
    /// Time of a message within a region
    #[arg(long, value_name = "DURATION", default_value = "0.5ms", value_parser = parse_duration)]
    latency: Duration,
    /// What a host can read back and hash
    #[arg(long, value_name = "RATE", default_value = "1GB")]
    verify_rate: ByteRate,
    /// Part of a region's hosts that has switched after each wave, in percent
    #[arg(long, value_name = "PERCENTS", default_value = "1,10,50,100")]
    waves: WaveShares,
    /// Between two waves: watching the first one's health, and the order to go on
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    wave_pause: Duration,
    /// What a host needs to switch, restart and be healthy
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    switch_time: Duration,
    /// From the commit to the last host that runs the build
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    deadline: Duration,
    /// Sustained load: so many deploys a day instead of one
    #[arg(long, value_name = "COUNT")]
    deploys_per_day: Option<u32>,
    /// Sustained load: hosts of each region that a deploy is for, on average [default: 1%]
    #[arg(long, value_name = "SHARE")]
    hosts_share: Option<Share>,
    /// Sustained load: part of a build that hosts do not have yet, on average [default: 10%]
    #[arg(long, value_name = "SHARE")]
    changed_share: Option<Share>,
    /// Sustained load: how long commits come in [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Sustained load: hour of the day at which it begins [default: 0]
    #[arg(long, value_name = "HOUR")]
    from_hour: Option<u32>,
    /// Sustained load: deploys that have to meet the deadline [default: 99%]
    #[arg(long, value_name = "SHARE")]
    on_time: Option<Share>,
    /// Where every random choice comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Regions that run at once; as many as there are cores if not given. Changes no result
    #[arg(long)]
    threads: Option<usize>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// A command that was checked and can run.
#[derive(Debug)]
pub struct Ready {
    plan: Plan,
    coarseness: u64,
    load: Option<LoadPlan>,
    is_json: bool,
}

impl Args {
    /// Checks everything that can be checked before anything runs.
    ///
    /// # Errors
    ///
    /// The first thing that makes the plan impossible.
    pub fn check(&self) -> Result<Ready, PlanError> {
        let coarseness = coarseness(self.chunk_size())?;
        let plan = self.plan(coarseness);
        plan.check()?;
        check_coarse_time(&plan.swarm, coarseness)?;
        let load = self.load_plan()?;
        if let Some(load) = &load {
            load.check(&plan)?;
        }
        Ok(Ready { plan, coarseness, load, is_json: self.json })
    }

    /// Coarse by default for one large build, so that a run with all hosts takes minutes; the
    /// builds of a day are smaller, and a coarse chunk would be half of one.
    fn chunk_size(&self) -> u64 {
        let default = if self.deploys_per_day.is_some() { 4 << 20 } else { 32 << 20 };
        self.chunk.unwrap_or(default)
    }

    fn plan(&self, coarseness: u64) -> Plan {
        let mut swarm = Scenario {
            hosts: self.hosts_per_region,
            seeders: self.seeders,
            build_size: self.build,
            chunk_size: self.chunk_size(),
            chunk_lengths: None,
            turn_size: None,
            host_rate: self.node_rates.host_rate,
            seeder_rate: self.node_rates.of_seeder(),
            racks: self.racks,
            zones: 0,
            rack_rate: self.site_rates.rack_rate,
            disk_rate: self.site_rates.disk_rate,
            latency: self.latency,
            join_within: Duration::ZERO,
            seed: self.seed,
            limit: Duration::MAX,
            faults: Faults::default(),
            settings: Settings::default(),
        };
        coarsen(&mut swarm, coarseness);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Plan {
            regions: self.regions,
            build_time: self.build_time,
            wan_rates: self.wan_rate,
            store_poll: self.store_poll,
            host_poll: self.host_poll,
            poll_jitter: self.poll_jitter,
            swarm,
            build_size: self.build,
            verify_rate: self.verify_rate,
            waves: Waves {
                shares: self.waves.clone(),
                pause: self.wave_pause,
                switch_time: self.switch_time,
            },
            deadline: self.deadline,
            seed: self.seed,
            threads: self.threads.unwrap_or_else(cores),
        }
    }

    fn load_plan(&self) -> Result<Option<LoadPlan>, PlanError> {
        let Some(deploys_per_day) = self.deploys_per_day else {
            let flags = [
                ("--hosts-share", self.hosts_share.is_some()),
                ("--changed-share", self.changed_share.is_some()),
                ("--duration", self.duration.is_some()),
                ("--from-hour", self.from_hour.is_some()),
                ("--on-time", self.on_time.is_some()),
            ];
            let stray = flags.into_iter().find(|(_, is_given)| *is_given);
            return stray.map_or(Ok(None), |(flag, _)| Err(PlanError::LoadFlag { flag }));
        };
        Ok(Some(LoadPlan {
            deploys_per_day,
            hosts_share: self.hosts_share.unwrap_or(Share::percent(1)),
            changed_share: self.changed_share.unwrap_or(Share::percent(10)),
            duration: self.duration.unwrap_or(Duration::from_hours(24)),
            from_hour: self.from_hour.unwrap_or(0),
            on_time: self.on_time.unwrap_or(Share::percent(99)),
        }))
    }
}

impl Ready {
    /// Runs it and prints what came of it. Returns whether the deadline was met.
    ///
    /// # Errors
    ///
    /// If something the run stands on failed.
    pub fn run(&self) -> Result<bool, RunError> {
        if let Some(load) = &self.load {
            let summary = self.run_load(load)?;
            self.print(&summary);
            return Ok(summary.is_pass());
        }
        let summary = self.run_one();
        self.print(&summary);
        Ok(summary.is_pass())
    }

    fn run_one(&self) -> Summary {
        let plan = &self.plan;
        let stopwatch = Stopwatch::start();
        let regions = regions_of(plan, &mut Prng::from_seed(Seed::from_u64(plan.seed)));
        let mut done = 0;
        let report = |outcome: &RegionOutcome| {
            done += 1;
            let RegionOutcome { index, wall, .. } = outcome;
            let (completed, hosts) = (outcome.completed(), plan.swarm.hosts);
            progress(format_args!(
                "region {index}: {completed} of {hosts} hosts have the build; {done} of {} regions, {} s",
                plan.regions,
                wall.as_secs()
            ));
        };
        let outcomes = run_all(plan.threads, &regions, |region| run_region(plan, region), report);
        Summary::new(plan, self.coarseness, &outcomes, stopwatch.elapsed())
    }

    fn run_load(&self, load: &LoadPlan) -> Result<LoadSummary, RunError> {
        load::run(&self.plan, self.coarseness, load, progress)
    }

    #[expect(clippy::print_stdout, reason = "the command's output")]
    fn print<S: Serialize + fmt::Display>(&self, summary: &S) {
        if self.is_json {
            let json = serde_json::to_string(summary).expect("numbers and texts have a JSON form");
            println!("{json}");
        } else {
            println!("{summary}");
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command's progress")]
fn progress(line: fmt::Arguments<'_>) {
    eprintln!("{line}");
}
