//! How an agent is configured: by a file, the environment and flags, later ones on top.
//!
//! Every setting is a key (`goal`, `apps.web.exec`) with a value and the place it came from, so
//! that every complaint names that place, and `--check-config` can show it. `table` has a row for
//! each key, `keys` says what follows from a row, `layers` collects what is given, `values`
//! gives it types, `apps` checks the keys of an app against each other, `show` prints what came
//! of it; this file has the types and the defaults.
//!
//! `example.toml` beside this crate's manifest explains every key to operators.
//!
//! Invariant: a `Config` is complete and valid; nothing behind it has to check a setting again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use goal_state::{AppName, GOAL_APPS_MAX, Label};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{BufferBudget, DiskPriority, Limits, SeederAddress, TrafficClass, Transport};

use crate::brain::model::Swap;
use crate::host::hook::Hooks;
use crate::host::launch::{GRACE_PERIOD_DEFAULT, Launch, VARIABLE_PREFIX};
use crate::host::probe::Health;
use crate::host::sockets::SocketAddress;
use crate::host::watch_files::WatchedFiles;

mod access;
mod apps;
pub(crate) mod bootstrap;
mod goal_source;
mod keys;
mod layers;
mod place;
mod schema;
mod show;
mod table;
mod values;
mod words;

pub(crate) use goal_source::GoalSource;
pub(crate) use keys::Settings;
use layers::Layers;
pub(crate) use layers::{BootstrapSettings, FlagSetting, Inputs, Origin};
use place::Place;
pub(crate) use show::toml_key;
use table::{AGENT, APP, NO_APP};
use values::DIRECTORY;
pub(crate) use values::socket_text;

/// Where an agent stores everything if the operator says nothing.
pub(crate) const STATE_DEFAULT: &str = "/var/lib/shoal";

/// Name of the control socket in the state directory.
pub(crate) const CONTROL_FILE: &str = "control.sock";

/// Builds kept if the operator says nothing: the current one, the one to go back to, and one more
/// for the case that both are bad.
const KEEP_BUILDS_DEFAULT: NonZero<usize> = NonZero::new(3).expect("it is not zero");

/// The settings of an agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Config {
    /// Name of this host in statuses. Default: the machine's name.
    pub host: String,
    /// Directory of everything the agent stores. Default: `STATE_DEFAULT`.
    pub state: PathBuf,
    /// Where this host hears of goals and, if it is a store that takes them, writes statuses.
    pub goal: GoalSource,
    /// Seeders of the region; at least one.
    pub seeders: Vec<SeederAddress>,
    /// Address of the control plane. Default: any free port on all addresses.
    pub listen: SocketAddr,
    /// Zone of this host, for locality. Empty if unknown.
    pub zone: String,
    /// Rack within the zone. Empty if unknown.
    pub rack: String,
    /// Cap on chunk bytes sent per second, over all apps. `None`: no cap. Taken over by a reload.
    pub upload_limit: Option<ByteRate>,
    /// Cap on chunk bytes received per second, over all apps. `None`: no cap. Taken over by a
    /// reload.
    pub download_limit: Option<ByteRate>,
    /// How chunk traffic asks to be treated by the network.
    pub dscp: TrafficClass,
    /// How downloading and serving treat the disk.
    pub disk_priority: DiskPriority,
    /// How chunks travel. Default: auto.
    pub transport: Transport,
    /// Memory for chunks. Default: [`BufferBudget::default`].
    pub buffer_budget: BufferBudget,
    /// Marks of this host that rollouts refer to.
    pub labels: BTreeSet<Label>,
    /// Hosts of one group share the tokens of `max_unavailable`. Default: the zone.
    pub group: String,
    /// Socket of `shoal-agent status` and its like. `None`: `control.sock` in the state directory.
    pub control: Option<PathBuf>,
    /// Where metrics and `/healthz` are served. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The apps of this host; at least one.
    pub apps: BTreeMap<AppName, AppConfig>,
}

/// The settings of one app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppConfig {
    /// The program and its arguments, not empty; `None` for an app that is only downloaded and
    /// switched.
    pub exec: Option<Vec<String>>,
    /// Variables for the program, on top of the agent's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where the program starts, relative to the build's root; `None` for the root itself.
    pub working_directory: Option<PathBuf>,
    /// How long the program may take to stop before it is killed.
    pub grace_period: Duration,
    /// The systemd unit that is restarted instead of running `exec`.
    pub systemd: Option<String>,
    /// Whether the app is the agent itself.
    pub is_agent: bool,
    /// The user that the program and its hooks run as; `None`: that of the agent.
    pub user: Option<String>,
    /// Sockets that the agent holds for the program, by name.
    pub sockets: BTreeMap<String, SocketAddress>,
    /// Whether the old program runs on until the new one is ready. Default: if there are sockets.
    pub swap: Swap,
    /// How a new build is judged.
    pub health: Health,
    /// Commands around a switch.
    pub hooks: Hooks,
    /// Files whose change restarts or reloads the program.
    pub watch: WatchedFiles,
    /// Whether no switch starts on this host.
    pub hold: bool,
    /// The build that runs here whatever the goal says.
    pub pin: Option<BuildId>,
    /// Builds kept on disk, the current one included. The one before it is always kept.
    pub keep_builds: NonZero<usize>,
    /// Most bytes of kept builds; those that must be kept may be more. `None`: no limit.
    pub keep_bytes: Option<u64>,
    /// Caps on the chunk bytes of this app, within those of the agent. Taken over by a reload.
    pub upload_limit: Option<ByteRate>,
    /// As above, for what is received.
    pub download_limit: Option<ByteRate>,
}

impl Default for AppConfig {
    /// An app of which the operator says nothing: its builds are downloaded and switched.
    fn default() -> Self {
        Self {
            exec: None,
            environment: BTreeMap::new(),
            working_directory: None,
            grace_period: GRACE_PERIOD_DEFAULT,
            systemd: None,
            is_agent: false,
            user: None,
            sockets: BTreeMap::new(),
            swap: Swap::Stop,
            health: Health::default(),
            hooks: Hooks::default(),
            watch: WatchedFiles::default(),
            hold: false,
            pin: None,
            keep_builds: KEEP_BUILDS_DEFAULT,
            keep_bytes: None,
            upload_limit: None,
            download_limit: None,
        }
    }
}

impl AppConfig {
    /// Whether something is run for the app, by the agent or by systemd.
    pub const fn has_program(&self) -> bool {
        self.exec.is_some() || self.systemd.is_some()
    }

    /// What is run for `app` on `host`; `None` if nothing is.
    pub fn launch(&self, app: &AppName, host: &str) -> Option<Launch> {
        self.has_program().then(|| Launch {
            app: app.to_string(),
            host: host.into(),
            exec: self.exec.clone().unwrap_or_default(),
            unit: self.systemd.clone(),
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            grace_period: self.grace_period,
            user: self.user.clone(),
            sockets: self.sockets.clone(),
        })
    }

    /// Both caps.
    pub const fn limits(&self) -> Limits {
        Limits { upload: self.upload_limit, download: self.download_limit }
    }
}

/// A configuration, with what a person may want to know about how it came about.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The settings.
    pub config: Config,
    /// Things that look like mistakes but may be none, one line each.
    pub warnings: Vec<String>,
    /// Where each key was set; a key that is missing here has its default.
    origins: BTreeMap<Vec<String>, Origin>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or a table is missing where one has to be.
    #[error("{origin}: {reason}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key {key:?} in {within}{}", suggestion_text(*suggestion))]
    UnknownKey {
        /// Where it was given.
        origin: Origin,
        /// The key.
        key: String,
        /// The table that has no such key.
        within: String,
        /// A key that looks like it.
        suggestion: Option<&'static str>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: {key}: {reason}")]
    Invalid {
        /// Where it was given.
        origin: Origin,
        /// The key, with the tables it is in.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// More apps than a seeder is asked for.
    #[error(
        "{apps} apps are configured, and seeders tell a host the goals of {GOAL_APPS_MAX} at most; \
         give goal as the URL of a goal store that this host can read"
    )]
    TooManyApps {
        /// How many.
        apps: usize,
    },
    /// A key without a default that was not given.
    #[error("{what}; give it as `{key}` in the configuration file, as {flag} or as {variable}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// Its key in the file.
        key: &'static str,
        /// Its flag.
        flag: &'static str,
        /// Its environment variable.
        variable: &'static str,
    },
}

/// What operators read about the key that the key table calls `name`, an app's name being `NAME`.
///
/// # Panics
///
/// If there is no such key.
pub(crate) fn about_key(name: &str) -> String {
    let (about, default) = table::about(name).expect("the caller names a key of the table");
    default.map_or_else(|| about.into(), |default| format!("{about} Default: {default}."))
}

fn suggestion_text(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |key| format!("; did you mean {key:?}?"))
}

impl Config {
    /// Puts the layers of `inputs` on top of each other and checks the result.
    ///
    /// # Errors
    ///
    /// The first mistake found, with its place.
    pub(crate) fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
        Self::of_layers(&Layers::collect(inputs)?)
    }

    /// As [`load`](Self::load), with `text` as if it was the file at `path`, above `inputs`.
    pub(crate) fn load_text(
        text: &str,
        path: &std::path::Path,
        inputs: &Inputs,
    ) -> Result<Loaded, ConfigError> {
        let mut layers = Layers::collect(inputs)?;
        layers.add_text(path, text)?;
        Self::of_layers(&layers)
    }

    fn of_layers(layers: &Layers) -> Result<Loaded, ConfigError> {
        let agent = Place { layers, prefix: &[] };
        let mut config = Self::defaults();
        agent.read(AGENT, &mut config)?;
        if !agent.is_given("group") {
            config.group.clone_from(&config.zone);
        }
        config.apps = apps::apps_of(layers)?;
        if config.apps.is_empty() {
            return Err(NO_APP.into());
        }
        if config.goal == GoalSource::Seeders && config.apps.len() > GOAL_APPS_MAX {
            return Err(ConfigError::TooManyApps { apps: config.apps.len() });
        }
        let mut warnings = layers.warnings.clone();
        warnings.extend(apps::warnings_of(&config.apps));
        Ok(Loaded { config, warnings, origins: layers.origins() })
    }

    /// What holds without any key. Seeders have no default: they are here because a place has to be
    /// taken until their key is read.
    fn defaults() -> Self {
        Self {
            host: machine_name(),
            state: STATE_DEFAULT.into(),
            goal: GoalSource::default(),
            seeders: vec![],
            listen: (Ipv4Addr::UNSPECIFIED, 0).into(),
            zone: String::new(),
            rack: String::new(),
            upload_limit: None,
            download_limit: None,
            dscp: TrafficClass::default(),
            disk_priority: DiskPriority::default(),
            transport: Transport::default(),
            buffer_budget: BufferBudget::default(),
            labels: BTreeSet::new(),
            group: String::new(),
            control: None,
            metrics: None,
            apps: BTreeMap::new(),
        }
    }

    /// The state directory that `inputs` name, whatever else is right or wrong in them.
    ///
    /// # Errors
    ///
    /// The first mistake found in the names of keys, or in this key.
    pub(crate) fn state_directory(inputs: &Inputs) -> Result<PathBuf, ConfigError> {
        let state = Layers::collect(inputs)?.value(&["state"], DIRECTORY.read)?;
        Ok(state.unwrap_or_else(|| STATE_DEFAULT.into()))
    }

    /// Socket of `shoal-agent status` and its like.
    pub(crate) fn control_path(&self) -> PathBuf {
        self.control.clone().unwrap_or_else(|| self.state.join(CONTROL_FILE))
    }

    /// Caps over all apps.
    pub(crate) const fn limits(&self) -> Limits {
        Limits { upload: self.upload_limit, download: self.download_limit }
    }

    /// Takes over from `wanted` what takes effect without a restart of the agent, and that of its
    /// apps that are here, too.
    pub(crate) fn adopt(&mut self, wanted: &Self) {
        keys::adopt(AGENT, self, wanted);
        for (name, app) in &mut self.apps {
            if let Some(wanted) = wanted.apps.get(name) {
                keys::adopt(APP, app, wanted);
            }
        }
    }

    /// Every value by its key.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        keys::collect(AGENT, "", self, &mut settings);
        for (name, app) in &self.apps {
            let prefix = format!("apps.{}.", toml_key(name.as_str()));
            keys::collect(APP, &prefix, app, &mut settings);
        }
        settings
    }
}

/// Never fails: the kernel always has a name, if only `(none)`.
fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
