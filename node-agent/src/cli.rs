//! The command line of the agent, for the binary `shoal-agent` and for `shoal agent`.
//!
//! Without a command the agent runs, as with `run`. Exit codes: 0 after a stop that was asked for,
//! 1 if something failed, 2 if flags, environment or file are wrong. `status` has those of an init
//! script (LSB): 0 running, 3 not running, 4 unknown.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use command_line::{EXIT_USAGE, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::cli::doctor::Verdict;
use crate::cli::init::{InitError, InitValues};
use crate::config::ConfigError;
use crate::self_update;

mod ask;
pub(crate) mod doctor;
pub(crate) mod init;
mod run;
mod settings;

use settings::{SettingArgs, UsageError};

/// What is logged if nothing else is asked for. libp2p logs its own PeerId, which the first line of
/// the agent has too.
const LOG_LEVEL_DEFAULT: &str = "info,libp2p_swarm=warn";

/// Follows the goals of this host's apps: downloads builds, switches to them, runs their programs.
///
/// Settings come from the file, from variables (`SHOAL_GOAL`, `SHOAL_APPS__WEB__EXEC`) and from
/// flags; later ones win. SIGTERM and SIGINT stop the programs within their grace periods; another
/// one after more than a second ends the agent at once. After kill -9 the programs run on, and the
/// next agent takes them over. SIGHUP reads the settings again: limits, hold, pin, health, hooks
/// and kept builds hold at once, the rest is told to wait for a restart.
#[derive(Clone, Debug, Parser)]
#[command(name = "shoal-agent", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of the agent that runs.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Print the effective settings, each with its origin, and exit.
    #[arg(long)]
    check_config: bool,
    /// What to log, such as debug or `p2p_net=debug,info` [default: `RUST_LOG` or info].
    #[arg(long, value_name = "FILTER", env = "SHOAL_LOG_LEVEL")]
    log_level: Option<String>,
    /// How log lines look: text, or json with one object a line.
    #[arg(long, value_name = "FORMAT", env = "SHOAL_LOG", default_value = "text")]
    log: LogFormat,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run the agent, as without a command.
    Run(Box<RunArgs>),
    /// Write a configuration that explains itself.
    Init {
        /// The file.
        #[arg(long, value_name = "FILE", default_value = "shoal-agent.toml")]
        output: PathBuf,
        /// Replace the file if there is one.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        values: Box<InitValues>,
    },
    /// Look at all that the agent needs on this host, and say what to do. Exit code 1 if something
    /// is a problem.
    Doctor {
        #[command(flatten)]
        settings: Box<SettingArgs>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// How the agent of this host and its apps are. Exit code 0: it runs, 3: it does not, 4:
    /// unknown.
    Status {
        #[command(flatten)]
        ask: ask::AskArgs,
    },
    /// Start no switch on this host until `resume`, also after a restart of the agent.
    Pause {
        /// The app; all of them without it.
        app: Option<String>,
        /// Why, for whoever asks later.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        ask: ask::AskArgs,
    },
    /// Take a pause back.
    Resume {
        /// The app; all of them without it.
        app: Option<String>,
        #[command(flatten)]
        ask: ask::AskArgs,
    },
    /// Replace the program of an app by a new one of the same build.
    Restart {
        /// The app.
        app: String,
        #[command(flatten)]
        ask: ask::AskArgs,
    },
    /// Why this host is not on the build of its goal, and what to do about it.
    Explain {
        /// The app.
        app: String,
        #[command(flatten)]
        ask: ask::AskArgs,
    },
}

/// The whole program: `arguments` are those after its name, which is `program` in what it says.
pub fn main(program: &str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let args: Args = match command_line::parse(program, arguments.iter().cloned()) {
        Ok(args) => args,
        Err(unparsed) => return unparsed.exit,
    };
    let done = match args.command.unwrap_or_else(|| Command::Run(Box::new(args.run))) {
        Command::Run(args) => run_agent(program, &args, &arguments),
        Command::Init { output, force, values } => init(&output, force, &values),
        Command::Doctor { settings, json } => doctor(&settings, json),
        Command::Status { ask } => return ask::status(program, &ask),
        Command::Pause { app, reason, ask } => ask::pause(&ask, app.as_deref(), reason),
        Command::Resume { app, ask } => ask::resume(&ask, app.as_deref()),
        Command::Restart { app, ask } => ask::restart(&ask, &app),
        Command::Explain { app, ask } => ask::explain(&ask, &app),
    };
    done.unwrap_or_else(|error| {
        let is_usage = error.is::<ConfigError>()
            || error.is::<UsageError>()
            || matches!(error.downcast_ref(), Some(InitError::Value(_)))
            || error.is::<goal_state::AppNameError>();
        let failed = command_line::fail(program, &error);
        if is_usage { ExitCode::from(EXIT_USAGE) } else { failed }
    })
}

fn init(output: &Path, is_forced: bool, values: &InitValues) -> anyhow::Result<ExitCode> {
    values.write(output, is_forced)?;
    writeln!(
        io::stdout(),
        "{} is written; next: shoal-agent doctor --config {0}",
        output.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn doctor(settings: &SettingArgs, is_json: bool) -> anyhow::Result<ExitCode> {
    let loaded = settings.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut findings = doctor::warnings(&loaded.warnings);
    findings.extend(runtime.block_on(doctor::examine(&loaded.config)));
    // A store that does not answer may block a thread; nobody waits for it.
    runtime.shutdown_background();
    let mut out = io::stdout().lock();
    if is_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
    }
    let is_well = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_agent(program: &str, args: &RunArgs, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let gathered = args.settings.gather()?;
    let loaded = gathered.load();
    if args.check_config {
        let loaded = loaded?;
        for warning in &loaded.warnings {
            command_line::note(&format!("{program}: warning: {warning}"));
        }
        write!(io::stdout(), "{loaded}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = loaded.as_ref().ok().map(|loaded| &loaded.config);
    let agent_app = self_update::find_agent_app(&gathered.inputs, config);
    // Not yet for an agent that goes no further: its one complaint is what there is to say.
    if loaded.is_ok() || agent_app.is_some() {
        start_log(args)?;
    }
    if let Some(app) = agent_app {
        app.boot(arguments).context("cannot note which agent is started")?;
    }
    let loaded = loaded?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(bootstrap) = &gathered.bootstrap {
        bootstrap.keep(&loaded.config.state)?;
    }
    run::run(&args.settings, loaded.config)
}

fn start_log(args: &RunArgs) -> Result<(), UsageError> {
    let filter = match &args.log_level {
        Some(text) => command_line::log_filter(text)?,
        None => EnvFilter::try_from_default_env()
            .unwrap_or_else(|_unset| EnvFilter::new(LOG_LEVEL_DEFAULT)),
    };
    command_line::start_log_as(filter, args.log);
    Ok(())
}

/// The control socket of the agent whose settings are `--control` and `--state`, or its default.
fn control_path(control: Option<&PathBuf>, state: Option<&PathBuf>) -> PathBuf {
    control.cloned().unwrap_or_else(|| {
        let state = state.cloned().unwrap_or_else(|| crate::config::STATE_DEFAULT.into());
        state.join(crate::config::CONTROL_FILE)
    })
}
