//! `shoal-simnet`: runs scenarios from the command line and prints how they went.
//!
//! Thin: flags become a [`Scenario`], an outcome becomes a [`Summary`]. Exit codes: 0 every host
//! has the build (in time, for `thirty-minutes`), 1 some host has not or something failed, 2 wrong
//! usage or an impossible scenario.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use p2p_core::ByteRate;
use shoal_simnet::flags::rates::{NodeRates, SiteRates};
use shoal_simnet::flags::units::{parse_duration, parse_size};
use shoal_simnet::output_file::OutputFile;
use shoal_simnet::report::Stopwatch;
use shoal_simnet::thirty_minutes;
use shoal_simnet::{Crashes, Faults, Fleet, Loss, Scenario, Settings, Summary};
use shoal_simnet::{plot, sweep};

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
    /// The table of simnet/sweep.txt: completion by fleet size, chunks, neighbours and churn
    Sweep(SweepArgs),
    /// From a commit to a running fleet in all regions, held against half an hour
    ThirtyMinutes(Box<thirty_minutes::Args>),
}

#[derive(Debug, clap::Args)]
struct SweepArgs {
    /// Where the table goes instead of standard output
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
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
    /// The length of every chunk in bytes, one a line, instead of a size for all
    #[arg(long, value_name = "FILE", conflicts_with_all = ["build", "chunk"])]
    chunk_lengths: Option<PathBuf>,
    /// Chunks on one uplink take turns of this size; whole chunks if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    turn: Option<u64>,
    #[command(flatten)]
    node_rates: NodeRates,
    /// Machines that have the build from the start
    #[arg(long, default_value_t = 1)]
    seeders: u32,
    /// Racks over which hosts are spread; 0: hosts do not know where they stand
    #[arg(long, default_value_t = 0)]
    racks: u32,
    /// Zones over which racks are spread
    #[arg(long, default_value_t = 0)]
    zones: u32,
    #[command(flatten)]
    site_rates: SiteRates,
    /// What packet headers take of every link, in bytes for each thousand bytes of chunks
    #[arg(long, value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000))]
    headers: u32,
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
    /// Draws completion and link use over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Time on top of what a scenario needs by its numbers: dials and questions that fail take some.
const SPARE_TIME: Duration = Duration::from_mins(5);

fn main() -> ExitCode {
    match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Swarm(args)) => main_swarm(&args),
        Ok(Command::ThirtyMinutes(args)) => main_thirty_minutes(&args),
        Ok(Command::Sweep(args)) => match write_sweep(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error, 1),
        },
        Err(error) => refuse_usage(&error),
    }
}

/// Prints help as it is, and a mistake as one line: the parser's message without its frame.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        // If it cannot be printed there is nowhere to say so but the exit code.
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

fn write_sweep(args: &SweepArgs) -> anyhow::Result<()> {
    let mut output = args.write.as_deref().map(|path| create("table", path)).transpose()?;
    let mut write = |text: &str| match &mut output {
        Some((_, file)) => file.write_all(text.as_bytes()),
        None => std::io::stdout().write_all(text.as_bytes()),
    };
    let hint = || cannot_write("table", args.write.as_deref());
    write(sweep::HEADER).with_context(hint)?;
    for case in sweep::cases() {
        write(&format!("{}\n", case.line()?)).with_context(hint)?;
    }
    output.map_or(Ok(()), |(output, _)| output.publish()).with_context(hint)
}

fn main_swarm(args: &SwarmArgs) -> ExitCode {
    let scenario = match scenario_of(args) {
        Ok(scenario) => scenario,
        Err(error) => return refuse(&error, 2),
    };
    match run(args, &scenario) {
        Ok(summary) => {
            print(&summary, args.json);
            if !summary.is_good() {
                print_how_to_repeat(&scenario);
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
        chunk_lengths: None,
        turn_size: args.turn,
        host_rate: payload_rate(args.node_rates.host_rate, args.headers),
        seeder_rate: payload_rate(args.node_rates.of_seeder(), args.headers),
        racks: args.racks,
        zones: args.zones,
        rack_rate: args.site_rates.rack_rate.map(|rate| payload_rate(rate, args.headers)),
        disk_rate: args.site_rates.disk_rate,
        latency: args.latency,
        join_within: args.join_within,
        seed: args.seed,
        limit: args.limit.unwrap_or(Duration::MAX),
        faults: faults_of(args),
        settings,
    };
    if let Some(path) = &args.chunk_lengths {
        scenario.cut_into(&read_lengths(path)?)?;
    }
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

/// What a link carries of chunks when each thousand bytes of them come with
/// `headers` bytes of others.
fn payload_rate(link: ByteRate, headers: u32) -> ByteRate {
    let payload = u128::from(link.get()) * 1_000 / u128::from(1_000 + headers);
    u64::try_from(payload).ok().and_then(ByteRate::new).unwrap_or(link)
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
    let trace = args.trace.as_deref().map(|path| create("trace", path)).transpose()?;
    let plot = args.plot.as_deref().map(|path| create("picture", path)).transpose()?;
    let stopwatch = Stopwatch::start();
    let mut fleet = Fleet::new(scenario.clone());
    if args.check {
        fleet.watch_everything();
    }
    let trace = trace.map(|(output, file)| {
        fleet.trace_to(BufWriter::new(file));
        output
    });
    if plot.is_some() {
        fleet.record();
    }
    let outcome = fleet.run().with_context(|| cannot_write("trace", args.trace.as_deref()))?;
    let summary = Summary::new(scenario, &outcome, stopwatch.elapsed());
    if let Some((output, mut file)) = plot {
        let svg = plot::draw(scenario, &outcome, &summary)?;
        let written = file.write_all(svg.as_bytes()).and_then(|()| output.publish());
        written.with_context(|| cannot_write("picture", args.plot.as_deref()))?;
    }
    if let Some(output) = trace {
        output.publish().with_context(|| cannot_write("trace", args.trace.as_deref()))?;
    }
    Ok(summary)
}

/// Opens what will be written at the end, so that no run is wasted on a file
/// that cannot be written.
fn create(what: &str, path: &Path) -> anyhow::Result<(OutputFile, File)> {
    OutputFile::create(path.to_owned()).with_context(|| cannot_write(what, Some(path)))
}

fn cannot_write(what: &str, path: Option<&Path>) -> String {
    let path = path.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    format!("cannot write the {what} to {path}; free space or name another file")
}

fn read_lengths(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the lengths of chunks from {}", path.display()))?;
    let parse = |(number, line): (usize, &str)| {
        line.trim().parse().with_context(|| {
            format!("{}, line {}: {line:?} is no length in bytes", path.display(), number + 1)
        })
    };
    text.lines().enumerate().map(parse).collect()
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
fn print_how_to_repeat(scenario: &Scenario) {
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
