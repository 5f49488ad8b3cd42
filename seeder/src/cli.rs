//! The command line of the seeder, shared by `shoal-seeder` and `shoal seeder`.
//!
//! Owns arguments, log and signals. Standard output carries exactly one line, the seeder's address,
//! once the seeder answers there; everything else goes to standard error.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use command_line::{EXIT_USAGE, Hangup, SignalRequest, Signals};
use goal_state::GoalUrl;
use p2p_core::ByteRate;
use p2p_net::{BufferBudget, DiskPriority, Limits, Node, SeederAddress, TrafficClass, Transport};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::daemon::{Seeder, SeederConfig};
use crate::limits_file::{LimitsFile, LimitsFileError};

/// Serves every build of a store and tracks its swarms.
///
/// Prints its address, as --seeder takes it, on standard output once it is ready. Builds published
/// into the store while it runs are picked up within a second.
#[derive(Clone, Debug, Parser)]
#[command(name = "shoal-seeder", version)]
struct Args {
    /// The build store to serve, as shoal publish fills it; created if missing
    #[arg(long, value_name = "DIR", env = "SHOAL_STORE")]
    store: PathBuf,
    /// UDP address to listen on; port 0 takes any free one
    #[arg(long, value_name = "IP:PORT", env = "SHOAL_LISTEN")]
    listen: SocketAddr,
    /// Directory for the seeder's key and lock; created if missing
    #[arg(long, value_name = "DIR", env = "SHOAL_STATE")]
    state: PathBuf,
    /// Another seeder of the region, as it prints its address; repeat for more. Hosts ask only one
    /// seeder, so each announces its builds to all others
    #[arg(long = "seeder", value_name = "ADDRESS", env = "SHOAL_SEEDERS", value_delimiter = ',')]
    seeders: Vec<SeederAddress>,
    /// Goal store: hosts' reports are written there, and rollouts that fail are halted there
    #[arg(long, value_name = "URL", env = "SHOAL_GOAL")]
    goal: Option<GoalUrl>,
    /// Where the seeder is, so that near hosts prefer each other
    #[arg(
        long,
        value_name = "NAME",
        env = "SHOAL_ZONE",
        default_value = "",
        hide_default_value = true
    )]
    zone: String,
    /// The rack within the zone
    #[arg(
        long,
        value_name = "NAME",
        env = "SHOAL_RACK",
        default_value = "",
        hide_default_value = true
    )]
    rack: String,
    /// Cap on bytes sent per second, such as 100MB or 800Mbit; none by default
    #[arg(long, value_name = "RATE", env = "SHOAL_UPLOAD_LIMIT")]
    upload_limit: Option<ByteRate>,
    /// A TOML file with `upload_limit`, which wins over the flag. Read again at SIGHUP
    #[arg(long, value_name = "FILE", env = "SHOAL_LIMITS")]
    limits: Option<PathBuf>,
    /// How chunk traffic asks to be treated by routers: default or background
    #[arg(long, value_name = "CLASS", env = "SHOAL_DSCP", default_value_t)]
    dscp: TrafficClass,
    /// How serving treats the disk: normal or low
    #[arg(long, value_name = "PRIORITY", env = "SHOAL_DISK_PRIORITY", default_value_t)]
    disk_priority: DiskPriority,
    /// How chunks travel: quic, tcp, or auto, which takes what suits and falls back to the other
    #[arg(long, value_name = "NAME", env = "SHOAL_TRANSPORT", default_value_t)]
    transport: Transport,
    /// Memory for chunks, such as 64MiB; what does not fit waits
    #[arg(long, value_name = "SIZE", env = "SHOAL_BUFFER_BUDGET", default_value_t)]
    buffer_budget: BufferBudget,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `p2p_net=debug`
    #[arg(
        long,
        value_name = "LEVEL",
        env = "SHOAL_LOG_LEVEL",
        value_parser = command_line::log_filter,
        default_value = "info,libp2p_swarm=warn"
    )]
    log_level: EnvFilter,
}

/// The whole program: `arguments` are those after its name, which is `program` in what it says.
pub fn main(program: &str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match command_line::parse(program, arguments).map(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let is_usage = error.is::<LimitsFileError>();
            let failed = command_line::fail(program, &error);
            if is_usage { ExitCode::from(EXIT_USAGE) } else { failed }
        }
        Err(unparsed) => unparsed.exit,
    }
}

/// Runs a seeder until SIGTERM or SIGINT, or until its terminal is gone. Takes over the process's
/// log.
///
/// # Errors
///
/// If the seeder does not start; the text names the cause and the next step.
fn run(args: Args) -> anyhow::Result<()> {
    command_line::start_log(args.log_level.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime; the system is out of threads or memory")?;
    let ended = runtime.block_on(serve(args));
    // A scan of a hanging file system must not keep a stopped seeder alive.
    runtime.shutdown_background();
    ended
}

/// An empty name is the shell's way to give none.
fn named(place: String) -> Option<String> {
    Some(place).filter(|place| !place.is_empty())
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::catch(Hangup::Reload)?;
    let limits = LimitSource { file: args.limits, upload_flag: args.upload_limit };
    let seeder = Seeder::start(SeederConfig {
        store: args.store,
        listen: args.listen,
        state: args.state,
        seeders: args.seeders,
        goal: args.goal,
        zone: named(args.zone),
        rack: named(args.rack),
        upload_limit: limits.read()?.upload,
        dscp: args.dscp,
        disk_priority: args.disk_priority,
        transport: args.transport,
        buffer_budget: args.buffer_budget,
    })
    .await?;
    tracing::info!(builds = seeder.build_count(), "ready");
    writeln!(io::stdout(), "{}", seeder.address()).context("cannot print the address")?;

    let stop = CancellationToken::new();
    let (stopping, node) = (stop.clone(), seeder.node().clone());
    let on_signal = async move {
        while signals.next().await == SignalRequest::Reload {
            limits.read_again(&node);
        }
        tracing::info!("stopping");
        stopping.cancel();
    };
    tokio::join!(seeder.run(stop), on_signal);
    Ok(())
}

/// Where the limits come from.
#[derive(Clone, Debug)]
struct LimitSource {
    file: Option<PathBuf>,
    upload_flag: Option<ByteRate>,
}

impl LimitSource {
    fn read(&self) -> Result<Limits, LimitsFileError> {
        let file = match &self.file {
            Some(path) => LimitsFile::read(path)?,
            None => LimitsFile::default(),
        };
        Ok(Limits { upload: file.upload_limit.or(self.upload_flag), download: None })
    }

    /// Takes over what the file says now; if that is wrong, the old limits stay.
    fn read_again(&self, node: &Node) {
        let Some(path) = &self.file else {
            return tracing::info!("nothing to read again: no file is given with --limits");
        };
        let path = path.display();
        match self.read() {
            Ok(limits) => {
                let (before, after) = (node.limits().upload, limits.upload);
                node.set_limits(limits);
                let shown = |rate: Option<ByteRate>| {
                    rate.map_or_else(|| "none".into(), |rate| format!("{}B", rate.get()))
                };
                let (before, after) = (shown(before), shown(after));
                tracing::info!("{path} was read again: upload_limit = {after} (was {before})");
            }
            Err(error) => {
                let reason = command_line::describe(&error.into());
                tracing::warn!("the limits were not read again, the old ones stay: {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["shoal-seeder"].iter().chain(arguments))
    }

    #[test]
    fn arguments_are_read() {
        let needed = ["--store", "s", "--listen", "127.0.0.1:0", "--state", "d"];
        let args = parse(&needed).unwrap();
        assert_eq!((args.upload_limit, args.goal, args.zone.as_str()), (None, None, ""));
        let limited = parse(&[&needed[..], &["--upload-limit", "8Mbit"]].concat()).unwrap();
        assert_eq!(limited.upload_limit, ByteRate::new(1_000_000));
    }

    #[test]
    fn wrong_arguments_are_named() {
        let cases: [(&[&str], &str); 3] = [
            (&["--listen", "127.0.0.1:0", "--state", "d"], "--store"),
            (&["--store", "s", "--listen", "localhost", "--state", "d"], "--listen"),
            (
                &["--store", "s", "--listen", "127.0.0.1:0", "--state", "d", "--upload-limit", "0"],
                "--upload-limit",
            ),
        ];
        for (arguments, named) in cases {
            let text = parse(arguments).unwrap_err().to_string();
            assert!(text.contains(named), "{text}");
        }
    }
}
