//! `shoal-simnet`: runs scenarios from the command line and prints how they went.
//!
//! Thin: flags become a [`Scenario`], an outcome becomes a [`Summary`]. Exit codes: 0 every host has
//! the build, 1 it was not so or something failed, 2 wrong usage or an impossible scenario.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use p2p_core::ByteRate;
use shoal_simnet::report::Stopwatch;
use shoal_simnet::units::{parse_duration, parse_size};
use shoal_simnet::{Crashes, Faults, Fleet, Loss, Scenario, Settings, Summary};

/// Runs Shoal's protocol for whole fleets, without a network
#[derive(Debug, Parser)]
#[command(name = "shoal-simnet", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One region, one build: how long until the last host has it
    Swarm(Box<SwarmArgs>),
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct SwarmArgs {
    /// Machines that want the build
    #[arg(long, default_value_t = 500)]
    hosts: u32,
    /// Size of the build
    #[arg(long, value_name = "SIZE", default_value = "2560MiB", value_parser = parse_size)]
    build: u64,
    /// Size of a chunk
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_size)]
    chunk: u64,
    /// What a host can send, and what it can receive
    #[arg(long, value_name = "RATE", default_value = "1Gbit")]
    host_rate: ByteRate,
    /// What a seeder can send; the rate of a host if not given
    #[arg(long, value_name = "RATE")]
    seeder_rate: Option<ByteRate>,
    /// Machines that have the build from the start
    #[arg(long, default_value_t = 1)]
    seeders: u32,
    /// Racks over which hosts are spread; 0: hosts do not know where they stand
    #[arg(long, default_value_t = 0)]
    racks: u32,
    /// Zones over which racks are spread
    #[arg(long, default_value_t = 0)]
    zones: u32,
    /// What a rack's uplink carries each way; unlimited if not given
    #[arg(long, value_name = "RATE")]
    rack_rate: Option<ByteRate>,
    /// What a host can hash and write
    #[arg(long, value_name = "RATE", default_value = "1GB")]
    disk_rate: ByteRate,
    /// Time of a message from any machine to any other
    #[arg(long, value_name = "DURATION", default_value = "0.5ms", value_parser = parse_duration)]
    latency: Duration,
    /// Hosts start within this time, evenly
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    join_within: Duration,
    /// Where every random choice comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated time after which the run is given up; twenty times the bound if not given
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    limit: Option<Duration>,
    /// Hosts that crash once and return, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    crash: u32,
    /// How long a host that crashed stays away
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    downtime: Duration,
    /// Hosts that crash and never return, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    vanish: u32,
    /// Hosts whose link has an eighth of the rate, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    slow_hosts: u32,
    /// Hosts whose disk has an eighth of the rate, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    slow_disks: u32,
    /// Hosts that can send an eighth of what they can receive, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    asymmetric: u32,
    /// Hosts whose links lose packets, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    lossy: u32,
    /// Packets that such links lose, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2)]
    loss: u32,
    /// Hosts that send wrong bytes or offer what they lack, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    liars: u32,
    /// Hosts that start when the others should be done, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    late: u32,
    /// One rack is cut off for this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    rack_outage: Option<Duration>,
    /// One zone is cut off for this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    zone_outage: Option<Duration>,
    /// The seeders die once the hosts together have every chunk
    #[arg(long)]
    seeder_gone: bool,
    /// The trackers die when hosts have this share of all chunks
    #[arg(long, value_name = "PERCENT")]
    tracker_dies_at: Option<u32>,
    /// Draws from the seed which kinds of faults happen and how badly, instead of the flags above
    #[arg(long)]
    random_faults: bool,
    /// Sets a field of the protocol's configuration, for sweeps
    #[arg(long, value_name = "FIELD=VALUE", hide = true)]
    set: Vec<String>,
    /// Lets the checkers see every step
    #[arg(long)]
    check: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
    /// Writes one line per step
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Most of the time that nothing of a scenario needs: dials and questions that fail.
const SPARE_TIME: Duration = Duration::from_mins(5);

fn main() -> ExitCode {
    let Cli { command: Command::Swarm(args) } = Cli::parse();
    let scenario = match scenario_of(&args) {
        Ok(scenario) => scenario,
        Err(error) => return refuse(&error, 2),
    };
    match run(&args, &scenario) {
        Ok(summary) => {
            print(&summary, args.json);
            if !summary.is_good() {
                tell_how_to_repeat(&scenario);
            }
            ExitCode::from(u8::from(!summary.is_good()))
        }
        Err(error) => refuse(&error, 1),
    }
}

fn scenario_of(args: &SwarmArgs) -> anyhow::Result<Scenario> {
    let mut settings = Settings::default();
    for text in &args.set {
        settings.set(text)?;
    }
    let mut scenario = Scenario {
        hosts: args.hosts,
        seeders: args.seeders,
        build_size: args.build,
        chunk_size: args.chunk,
        host_rate: args.host_rate,
        seeder_rate: args.seeder_rate.unwrap_or(args.host_rate),
        racks: args.racks,
        zones: args.zones,
        rack_rate: args.rack_rate,
        disk_rate: args.disk_rate,
        latency: args.latency,
        join_within: args.join_within,
        seed: args.seed,
        limit: args.limit.unwrap_or(Duration::MAX),
        faults: faults_of(args),
        settings,
    };
    scenario.check()?;
    if args.limit.is_none() {
        let bound = scenario.bound().time;
        let usual = (args.join_within + SPARE_TIME).saturating_add(bound.saturating_mul(20));
        // Late hosts start within one and a half times the bound.
        let healed = args.join_within + scenario.faults.span() + bound * 2;
        scenario.limit = usual.max(healed.saturating_add(scenario.liveness_time()));
    }
    Ok(scenario)
}

fn faults_of(args: &SwarmArgs) -> Faults {
    if args.random_faults {
        return Faults::drawn(args.seed, (args.racks, args.zones));
    }
    let crashes = Crashes { percent: args.crash, downtime: args.downtime };
    let loss = Loss { percent: args.lossy, lost_percent: args.loss };
    Faults {
        crashes: Some(crashes).filter(|crashes| crashes.percent > 0),
        vanish_percent: args.vanish,
        slow_percent: args.slow_hosts,
        slow_disk_percent: args.slow_disks,
        asymmetric_percent: args.asymmetric,
        loss: Some(loss).filter(|loss| loss.percent > 0),
        liars_percent: args.liars,
        late_percent: args.late,
        rack_outage: args.rack_outage,
        zone_outage: args.zone_outage,
        seeders_die_after_first_copy: args.seeder_gone,
        trackers_die_at_percent: args.tracker_dies_at,
    }
}

fn run(args: &SwarmArgs, scenario: &Scenario) -> anyhow::Result<Summary> {
    let stopwatch = Stopwatch::start();
    let mut fleet = Fleet::new(scenario.clone());
    if args.check {
        fleet.watch_everything();
    }
    if let Some(path) = &args.trace {
        let hint = || format!("cannot write the trace to {}; name another file", path.display());
        fleet.trace_to(BufWriter::new(File::create(path).with_context(hint)?));
    }
    let outcome = fleet.run().context("cannot write the trace; free some space")?;
    Ok(Summary::new(scenario, &outcome, stopwatch.elapsed()))
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print(summary: &Summary, is_json: bool) {
    if is_json {
        let json = serde_json::to_string(summary).expect("numbers and texts have a JSON form");
        println!("{json}");
    } else {
        println!("{summary}");
    }
}

/// A run is a function of its flags, so the flags are all that it takes to see it again.
#[expect(clippy::print_stderr, reason = "the command's errors")]
fn tell_how_to_repeat(scenario: &Scenario) {
    let quote = |word: String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/:+".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words: Vec<String> = std::env::args().skip(1).map(quote).collect();
    eprintln!(
        "failed with seed {}; repeat it with: shoal-simnet {}",
        scenario.seed,
        words.join(" ")
    );
}

#[expect(clippy::print_stderr, reason = "the command's errors")]
fn refuse(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}
