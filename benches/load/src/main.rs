//! `load-generator`: the library as a command. Exit code 1 if any request failed.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use load_generator::{Plan, Report};

/// Ask a web service at a fixed rate and count what goes wrong; the result is JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Where the service listens
    address: SocketAddr,
    /// What to ask for; the answer is taken for the service's version
    #[arg(long, default_value = "/version")]
    path: String,
    /// Requests per second, whether or not those before were answered
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How long to ask; Ctrl-C ends it before, with the result so far
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Connections that are kept alive
    #[arg(long, default_value_t = 32)]
    pool: usize,
    /// How many of a hundred requests open a connection of their own
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    new_percent: u32,
    /// A request that takes longer has failed
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn main() -> anyhow::Result<ExitCode> {
    let Args { address, path, rate, duration, pool, new_percent, timeout } = Args::parse();
    let plan = Plan { address, path, rate, duration, pool, new_percent, timeout };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let report: Report = runtime.block_on(load_generator::run(plan, async {
        // Without a signal handler the plan's duration is the end.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    let text = serde_json::to_string_pretty(&report).context("cannot encode the report")?;
    writeln!(io::stdout(), "{text}").context("cannot print the report")?;
    Ok(if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
