//! From the command line to a command and back to an exit code.
//!
//! Owns the arguments, the choice of the executable's face, and how errors look: one line on
//! standard error, and with `--json` one object on standard output. Exit codes: 0 done, 1 failed,
//! 2 wrong usage, 130 interrupted.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::output::{self, Outcome, PROGRAM};
use crate::publish::{self, plan, verify};
use crate::rollout::{commands, deploy, history};
use crate::{bench, demo, explain, fetch, forget, main_store, status};

/// The name under which the executable is an agent, as builds of agents have it.
const AGENT: &str = "shoal-agent";

/// Puts a build on every machine of a fleet.
///
/// New here? Run: shoal demo
#[derive(Debug, Parser)]
#[command(name = "shoal", version)]
struct Args {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter
    #[arg(
        long,
        value_name = "LEVEL",
        env = "SHOAL_LOG_LEVEL",
        value_parser = command_line::log_filter,
        default_value = "warn",
        global = true
    )]
    log_level: EnvFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole system at work on this machine
    Demo(demo::Args),
    /// Cut a file or a directory into a build and put it into a store
    Publish(publish::Args),
    /// Make a build the goal of an app: every host switches to it
    Deploy(commands::DeployArgs),
    /// Make the last good build the goal of an app again, or the one that is named
    Rollback(commands::RollbackArgs),
    /// Show who is to switch to the goal of an app and how far they are, or change, halt, resume or
    /// abort it
    Rollout(commands::RolloutCommandArgs),
    /// Let hosts switch to a build that was deployed with --stage-only or --at
    Switch(commands::SwitchArgs),
    /// Show the goals that an app had, who set them and why, and what came of them
    History(history::Args),
    /// Restart the program of an app on its hosts, without a new build
    Restart(commands::RestartArgs),
    /// Show which build every host runs
    Status(status::Args),
    /// Say why a host is not on the build of its goal, and what to do
    Explain(explain::Args),
    /// Take a host that is gone out of the inventory
    Forget(forget::Args),
    /// Download a build into a directory
    Fetch(fetch::Args),
    /// Show what hosts that have one build would fetch to get another
    Plan(plan::Args),
    /// List the builds of the main store
    Builds(main_store::BuildsArgs),
    /// Remove builds that nobody keeps, and what no build needs, from the main store
    Gc(main_store::GcArgs),
    /// Find builds of the main store whose bytes are not there, and mend them
    Repair(main_store::RepairArgs),
    /// Check that files are a build, byte for byte
    Verify(verify::Args),
    /// Measure what this host can do, to explain a slow download
    Bench(bench::Args),
    /// Run a seeder, as shoal-seeder does
    #[command(hide = true, disable_help_flag = true)]
    Seeder,
    /// Run an agent, as shoal-agent does
    #[command(hide = true, disable_help_flag = true)]
    Agent,
}

/// Runs the face of the executable that `arguments` ask for; the first is the program's name.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    if node_agent::host::starter::is_starter(arguments.first().map(OsString::as_os_str)) {
        return node_agent::host::starter::main();
    }
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program == Some(OsStr::new(demo_service::PROGRAM)) {
        return match demo_service::run(arguments.into_iter().skip(1)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => command_line::fail(demo_service::PROGRAM, &error),
        };
    }
    if program == Some(OsStr::new(AGENT)) {
        return node_agent::cli::main(AGENT, arguments.into_iter().skip(1));
    }
    if let Err(error) = demo::end_with_parent() {
        return command_line::fail(PROGRAM, &error);
    }
    // Before the parser below: a daemon's arguments, environment and log are its own.
    match arguments.get(1).and_then(|name| name.to_str()) {
        Some("seeder") => seeder::cli::main("shoal seeder", arguments.into_iter().skip(2)),
        Some("agent") => node_agent::cli::main("shoal agent", arguments.into_iter().skip(2)),
        _ => command(arguments),
    }
}

fn command(arguments: Vec<OsString>) -> ExitCode {
    // Nothing else says what a command that cannot be read would print.
    let asks_for_json = arguments.iter().any(|argument| argument == "--json");
    let args: Args = match command_line::parse(PROGRAM, arguments.into_iter().skip(1)) {
        Ok(args) => args,
        Err(unparsed) => {
            if let Some(mistake) = unparsed.mistake.filter(|_| asks_for_json) {
                print_json_error(&mistake);
            }
            return unparsed.exit;
        }
    };
    command_line::start_log(args.log_level);
    let wants_json = args.command.wants_json();
    match args.command.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            if wants_json {
                print_json_error(&command_line::describe(&error));
            }
            command_line::fail(PROGRAM, &error)
        }
    }
}

/// Standard output may be what failed; the line on standard error is then all there is.
fn print_json_error(error: &str) {
    drop(output::json(&json!({ "error": error })));
}

impl Command {
    fn run(self) -> anyhow::Result<Outcome> {
        match self {
            Self::Demo(args) => demo::run(args),
            Self::Publish(args) => publish::run(&args),
            Self::Deploy(args) => deploy::deploy(&args),
            Self::Rollback(args) => deploy::rollback(&args),
            Self::Rollout(args) => deploy::rollout(&args),
            Self::Switch(args) => deploy::switch(&args),
            Self::History(args) => history::run(&args),
            Self::Restart(args) => deploy::restart(&args),
            Self::Status(args) => status::run(&args),
            Self::Explain(args) => explain::run(&args),
            Self::Forget(args) => forget::run(&args),
            Self::Fetch(args) => fetch::run(&args),
            Self::Plan(args) => plan::run(&args),
            Self::Builds(args) => main_store::builds(&args),
            Self::Gc(args) => main_store::gc(&args),
            Self::Repair(args) => main_store::repair(&args),
            Self::Verify(args) => verify::run(&args),
            Self::Bench(args) => bench::run(&args),
            // Only reached with a flag in front of the name.
            Self::Seeder | Self::Agent => {
                anyhow::bail!("write the daemon's name first: shoal seeder ..., shoal agent ...")
            }
        }
    }

    const fn wants_json(&self) -> bool {
        match self {
            Self::Publish(args) => args.json,
            Self::Deploy(args) => args.common.json,
            Self::Rollback(args) => args.common.json,
            Self::Rollout(args) => args.common.json,
            Self::Switch(args) => args.common.json,
            Self::History(args) => args.json,
            Self::Restart(args) => args.common.json,
            Self::Status(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Forget(args) => args.json,
            Self::Fetch(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Builds(args) => args.store.json,
            Self::Gc(args) => args.store.json,
            Self::Repair(args) => args.store.json,
            Self::Verify(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Demo(_) | Self::Seeder | Self::Agent => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn parser_is_consistent() {
        Args::command().debug_assert();
    }
}
