//! `shoal-simnet`: runs scenarios from the command line and prints how they went.
//!
//! Thin: flags become a [`Scenario`], an outcome becomes a [`Summary`]. Exit codes: 0 every host has
//! the build (in time, for `thirty-minutes`), 1 it was not so or something failed, 2 wrong usage or an
//! impossible scenario.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use p2p_core::ByteRate;
use shoal_simnet::checker::{NoEarlyServe, UploadsWithinLimit};
use shoal_simnet::report::Stopwatch;
use shoal_simnet::thirty_minutes;
use shoal_simnet::units::{parse_duration, parse_size};
use shoal_simnet::{Crashes, Faults, Fleet, Scenario, Settings, Summary};

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
    /// From a commit to a running fleet in all regions, held against half an hour
    ThirtyMinutes(Box<thirty_minutes::Args>),
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
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    downtime: Duration,
    /// The seeders die once the hosts together have every chunk
    #[arg(long)]
    seeder_gone: bool,
    /// The trackers die when hosts have this share of all chunks
    #[arg(long, value_name = "PERCENT")]
    tracker_dies_at: Option<u32>,
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
    match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Swarm(args)) => main_swarm(&args),
        Ok(Command::ThirtyMinutes(args)) => main_thirty_minutes(&args),
        Err(error) => refuse_usage(&error),
    }
}

/// Help goes out as it is, a mistake as one line: the parser's message without its frame.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        // If it cannot be printed there is nowhere to say so; the code still tells.
        drop(error.print());
        return ExitCode::from(if is_help { 2 } else { 0 });
    }
    let message = error.to_string();
    let is_frame = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more");
    let body: Vec<&str> = message.lines().take_while(|line| !is_frame(line)).collect();
    let body = body.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let body = body.strip_prefix("error: ").unwrap_or(&body);
    refuse(&anyhow::anyhow!("{body}; see shoal-simnet help"), 2)
}

/// Exit code 0 says that the deadline was met.
fn main_thirty_minutes(args: &thirty_minutes::Args) -> ExitCode {
    match args.check() {
        Ok(ready) => match ready.run() {
            Ok(is_met) => ExitCode::from(u8::from(!is_met)),
            Err(error) => refuse(&error.into(), 1),
        },
        Err(error) => refuse(&error.into(), 2),
    }
}

fn main_swarm(args: &SwarmArgs) -> ExitCode {
    let scenario = match scenario_of(args) {
        Ok(scenario) => scenario,
        Err(error) => return refuse(&error, 2),
    };
    match run(args, &scenario) {
        Ok(summary) => {
            print(&summary, args.json);
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
    let crashes =
        (args.crash > 0).then_some(Crashes { percent: args.crash, downtime: args.downtime });
    let mut scenario = Scenario {
        hosts: args.hosts,
        seeders: args.seeders,
        build_size: args.build,
        chunk_size: args.chunk,
        host_rate: args.host_rate,
        seeder_rate: args.seeder_rate.unwrap_or(args.host_rate),
        racks: args.racks,
        rack_rate: args.rack_rate,
        disk_rate: args.disk_rate,
        latency: args.latency,
        join_within: args.join_within,
        seed: args.seed,
        limit: args.limit.unwrap_or(Duration::MAX),
        faults: Faults {
            crashes,
            seeders_die_after_first_copy: args.seeder_gone,
            trackers_die_at_percent: args.tracker_dies_at,
        },
        settings,
    };
    scenario.check()?;
    if args.limit.is_none() {
        let bound = scenario.bound().time;
        scenario.limit = (args.join_within + SPARE_TIME).saturating_add(bound.saturating_mul(20));
    }
    Ok(scenario)
}

fn run(args: &SwarmArgs, scenario: &Scenario) -> anyhow::Result<Summary> {
    let stopwatch = Stopwatch::start();
    let mut fleet = Fleet::new(scenario.clone());
    if args.check {
        let (nodes, chunks) = (scenario.nodes(), scenario.chunk_count());
        fleet.watch(NoEarlyServe::new(nodes, scenario.seeders, chunks));
        let most = scenario.settings.host.uploads_max.max(scenario.settings.seeder.uploads_max);
        fleet.watch(UploadsWithinLimit::new(nodes, u32::try_from(most).unwrap_or(u32::MAX)));
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

#[expect(clippy::print_stderr, reason = "the command's errors")]
fn refuse(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}
