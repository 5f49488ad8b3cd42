//! The command line of the agent, for the binary `shoal-agent` and for `shoal agent`.
//!
//! Exit codes: 0 after a stop that was asked for, 1 if the agent could not start or go on, 2 if its
//! flags, its environment or its file are wrong.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use command_line::{EXIT_USAGE, LogFilterError, Terminal};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::agent::Agent;
use crate::config::{Config, ConfigError, FlagSetting, Inputs};

/// Signals this soon after the first are the same request. Ctrl-C may arrive from a terminal and from
/// a wrapper, a terminal that goes away may follow, and a parent that is killed lets the kernel signal
/// once per thread of it; a person who loses patience takes longer.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// What is logged if nothing else is asked for. libp2p tells its own PeerId, which the first line of
/// the agent has too.
const LOG_LEVEL_DEFAULT: &str = "info,libp2p_swarm=warn";

/// Follows the goals of this host's apps: downloads builds, switches to them, runs their programs.
///
/// Settings come from the file, from variables (`SHOAL_GOAL`, `SHOAL_APPS__WEB__EXEC`) and from flags;
/// later ones win. SIGTERM and SIGINT stop the programs within their grace periods; another one after
/// more than a second ends the agent at once. After kill -9 the programs run on, and the next agent
/// takes them over. SIGHUP reads the settings again: limits hold at once, the rest is told to wait
/// for a restart.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "shoal-agent", version)]
pub struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "SHOAL_CONFIG")]
    config: Option<PathBuf>,
    /// Name of this host [default: the machine's name].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Directory of everything the agent stores [default: /var/lib/shoal].
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    /// Goal store: `file:///DIRECTORY` or `etcd://HOST:PORT/PREFIX`.
    #[arg(long, value_name = "URL")]
    goal: Option<String>,
    /// A seeder of the region, as shoal-seeder prints it; can be repeated.
    #[arg(long = "seeder", value_name = "MULTIADDR")]
    seeders: Vec<String>,
    /// Address of the control plane; port 0 takes any free one [default: 0.0.0.0:0].
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Zone of this host, for locality.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Rack within the zone.
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Most chunk bytes sent per second, such as 40MB [default: no limit].
    #[arg(long, value_name = "BYTES")]
    upload_limit: Option<String>,
    /// Most chunk bytes received per second [default: no limit].
    #[arg(long, value_name = "BYTES")]
    download_limit: Option<String>,
    /// How chunk traffic asks to be treated by routers: default or background.
    #[arg(long, value_name = "CLASS")]
    dscp: Option<String>,
    /// How downloading and serving treat the disk: normal or low.
    #[arg(long, value_name = "PRIORITY")]
    disk_priority: Option<String>,
    /// How chunks travel: quic, tcp, or auto [default: auto].
    #[arg(long, value_name = "NAME")]
    transport: Option<String>,
    /// Memory for chunks, such as 128MiB [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    buffer_budget: Option<String>,
    /// An app of this host; without --exec it is only downloaded and switched. Can be repeated.
    #[arg(long = "app", value_name = "NAME")]
    apps: Vec<String>,
    /// The program of the one app given with --app, with its arguments: './server --port 80'.
    #[arg(long, value_name = "WORDS", requires = "apps")]
    exec: Option<String>,
    /// Any setting: `apps.web.keep_builds=5`, `apps.web.environment.PORT=80`. Can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print the effective settings, each with its origin, and exit.
    #[arg(long)]
    check_config: bool,
    /// What to log, such as debug or `p2p_net=debug,info` [default: `RUST_LOG` or info].
    #[arg(long, value_name = "FILTER", env = "SHOAL_LOG_LEVEL")]
    log_level: Option<String>,
}

/// Why the flags make no sense together.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("--set {text:?} has no value; expected KEY=VALUE")]
    NoValue { text: String },
    #[error(
        "--exec belongs to one app, but --app is given {count} times; use --set apps.NAME.exec=..."
    )]
    ManyApps { count: usize },
    #[error("the variable {name} is not valid UTF-8")]
    NotUtf8 { name: String },
    #[error("wrong --log-level")]
    LogLevel(#[from] LogFilterError),
}

impl Args {
    fn inputs(&self) -> Result<Inputs, UsageError> {
        Ok(Inputs {
            bootstrap: None,
            file: self.config.clone(),
            environment: environment()?,
            flags: self.flag_settings()?,
        })
    }

    fn flag_settings(&self) -> Result<Vec<FlagSetting>, UsageError> {
        let named = [
            ("--host", "host", &self.host),
            ("--state", "state", &self.state),
            ("--goal", "goal", &self.goal),
            ("--listen", "listen", &self.listen),
            ("--zone", "zone", &self.zone),
            ("--rack", "rack", &self.rack),
            ("--upload-limit", "upload_limit", &self.upload_limit),
            ("--download-limit", "download_limit", &self.download_limit),
            ("--dscp", "dscp", &self.dscp),
            ("--disk-priority", "disk_priority", &self.disk_priority),
            ("--transport", "transport", &self.transport),
            ("--buffer-budget", "buffer_budget", &self.buffer_budget),
        ];
        let mut settings: Vec<FlagSetting> = named
            .into_iter()
            .filter_map(|(flag, key, value)| Some(setting(flag, key, Some(value.clone()?))))
            .collect();
        if !self.seeders.is_empty() {
            settings.push(setting("--seeder", "seeders", Some(self.seeders.join(","))));
        }
        let app_key = |app: &str| format!("apps.{}", toml::Value::from(app));
        for app in &self.apps {
            settings.push(setting("--app", &app_key(app), None));
        }
        if let Some(exec) = &self.exec {
            let [app] = self.apps.as_slice() else {
                return Err(UsageError::ManyApps { count: self.apps.len() });
            };
            let key = format!("{}.exec", app_key(app));
            settings.push(setting("--exec", &key, Some(exec.clone())));
        }
        for text in &self.sets {
            let (key, value) =
                text.split_once('=').ok_or_else(|| UsageError::NoValue { text: text.clone() })?;
            settings.push(setting("--set", key.trim(), Some(value.into())));
        }
        Ok(settings)
    }
}

fn setting(flag: &str, key: &str, value: Option<String>) -> FlagSetting {
    FlagSetting { flag: flag.into(), key: key.into(), value }
}

/// The variables that concern the agent; others may hold any bytes.
fn environment() -> Result<Vec<(String, String)>, UsageError> {
    let mut variables = vec![];
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("SHOAL_")) else { continue };
        let value = value.into_string();
        let value = value.map_err(|_bytes| UsageError::NotUtf8 { name: name.into() })?;
        variables.push((name.into(), value));
    }
    Ok(variables)
}

/// The whole program: `arguments` are those after its name, which is `program` in what it says.
pub fn main(program: &str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Args = match command_line::parse(program, arguments) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    match run(program, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let is_usage = error.is::<ConfigError>() || error.is::<UsageError>();
            let failed = command_line::fail(program, &error);
            if is_usage { ExitCode::from(EXIT_USAGE) } else { failed }
        }
    }
}

fn run(program: &str, args: &Args) -> anyhow::Result<()> {
    let loaded = Config::load(&args.inputs()?)?;
    if args.check_config {
        for warning in &loaded.warnings {
            command_line::note(&format!("{program}: warning: {warning}"));
        }
        write!(io::stdout(), "{loaded}")?;
        return Ok(());
    }
    start_log(args.log_level.as_deref())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Never shut down, which would wait for threads that nobody wants to wait for after a second
    // signal, or let their timers panic. They end with the process.
    ManuallyDrop::new(runtime).block_on(run_until_told(args, loaded.config))
}

fn start_log(level: Option<&str>) -> Result<(), UsageError> {
    let filter = match level {
        Some(text) => command_line::log_filter(text)?,
        None => EnvFilter::try_from_default_env()
            .unwrap_or_else(|_unset| EnvFilter::new(LOG_LEVEL_DEFAULT)),
    };
    command_line::start_log(filter);
    Ok(())
}

async fn run_until_told(args: &Args, config: Config) -> anyhow::Result<()> {
    // Before anything is started, so that no signal finds the agent half way.
    let mut signals = Signals::listen()?;
    let mut agent = tokio::select! {
        agent = Agent::start(config) => agent?,
        () = signals.stop() => return Ok(()),
    };
    let result = loop {
        tokio::select! {
            error = agent.unexpected_end() => break Err(error),
            told = signals.next() => match told {
                Told::Stop => break Ok(()),
                Told::Reload => agent.reload(read_again(args)),
            },
        }
    };
    let told_at = Instant::now();
    info!("stopping the programs; once more to end at once and leave them running");
    tokio::select! {
        () = agent.stop() => result,
        () = signals.next_request(told_at) => anyhow::bail!("told twice to stop; programs may still be running"),
    }
}

/// The settings as they are now. Flags and variables are those of the start, the file may differ.
fn read_again(args: &Args) -> anyhow::Result<Config> {
    let loaded = Config::load(&args.inputs()?)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    Stop,
    Reload,
}

/// The signals that mean something.
#[derive(Debug)]
struct Signals {
    terminal: Terminal,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminal: Terminal::look(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that does not belong to the request of `told_at`.
    async fn next_request(&mut self, told_at: Instant) {
        loop {
            self.stop().await;
            if told_at.elapsed() >= SAME_REQUEST {
                return;
            }
        }
    }

    /// Waits for a signal that means stop.
    async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => {
                if self.terminal.is_gone() { Told::Stop } else { Told::Reload }
            }
        }
    }
}
