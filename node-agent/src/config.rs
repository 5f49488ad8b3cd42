//! What an agent is told: from a file, the environment and flags, later ones on top.
//!
//! Every setting is a key (`goal`, `apps.web.exec`) with a value and the place it came from, so that
//! every complaint names that place, and `--check-config` can show it. [`schema`] says which keys
//! there are, [`layers`] collects them, [`values`] gives them types, [`apps`] checks those of an app
//! against each other, [`show`] prints what came of it; this file has the types and the defaults.
//!
//! `example.toml` beside this crate's manifest explains every key to operators.
//!
//! Invariant: a [`Config`] is complete and valid; nothing behind it has to check a setting again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use goal_state::{AppName, GoalUrl, Label};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{BufferBudget, DiskPriority, Limits, SeederAddress, TrafficClass, Transport};

use crate::brain::reconcile::Swap;
use crate::host::hook::Hooks;
use crate::host::launch::{GRACE_PERIOD_DEFAULT, VARIABLE_PREFIX};
use crate::host::probe::Health;
use crate::host::sockets::SocketAddress;
use crate::host::watch_files::WatchedFiles;

mod apps;
pub(crate) mod bootstrap;
mod layers;
mod schema;
mod show;
mod values;
mod words;

use layers::Layers;
pub use layers::{BootstrapSettings, FlagSetting, Inputs, Origin};
pub(crate) use show::toml_key;
pub(crate) use values::socket_text;

/// Where an agent stores everything if the operator says nothing.
pub(crate) const STATE_DEFAULT: &str = "/var/lib/shoal";

/// Name of the control socket in the state directory.
pub(crate) const CONTROL_FILE: &str = "control.sock";

/// Builds kept if the operator says nothing: the current one, the one to go back to, and one more
/// for the case that both are bad.
const KEEP_BUILDS_DEFAULT: NonZero<usize> = NonZero::new(3).expect("it is not zero");

/// The effective settings by dotted key; those without a value are missing.
pub(crate) type Settings = BTreeMap<String, toml::Value>;

/// The settings of an agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Name of this host in statuses. Default: the machine's name.
    pub host: String,
    /// Directory of everything the agent stores. Default: `/var/lib/shoal`.
    pub state: PathBuf,
    /// Where goals are read and, if it takes them, statuses are written.
    pub goal: GoalUrl,
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
    /// Memory for chunks. Default: 64 MiB.
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
    /// Both caps.
    pub const fn limits(&self) -> Limits {
        Limits { upload: self.upload_limit, download: self.download_limit }
    }
}

/// A configuration, with what a person may want to know about how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
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
pub enum ConfigError {
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

fn suggestion_text(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |key| format!("; did you mean {key:?}?"))
}

impl Config {
    /// Puts the layers of `inputs` on top of each other and checks the result.
    ///
    /// # Errors
    ///
    /// The first mistake found, with its place.
    pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
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
        let zone = layers.value(&["zone"], values::text)?.unwrap_or_default();
        let config = Self {
            host: layers.value(&["host"], values::host)?.unwrap_or_else(machine_name),
            state: state_of(layers)?,
            goal: layers.value(&["goal"], values::goal_url)?.ok_or(ConfigError::Missing {
                what: "no goal store is given",
                key: "goal = \"file:///DIRECTORY\"",
                flag: "--goal URL",
                variable: "SHOAL_GOAL",
            })?,
            seeders: layers
                .value(&["seeders"], values::seeders)?
                .filter(|seeders| !seeders.is_empty())
                .ok_or(ConfigError::Missing {
                    what: "no seeder is given",
                    key: "seeders = [\"MULTIADDR\"]",
                    flag: "--seeder MULTIADDR",
                    variable: "SHOAL_SEEDERS",
                })?,
            listen: layers
                .value(&["listen"], values::socket)?
                .unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into()),
            group: layers.value(&["group"], values::group)?.unwrap_or_else(|| zone.clone()),
            zone,
            rack: layers.value(&["rack"], values::text)?.unwrap_or_default(),
            upload_limit: layers.value(&["upload_limit"], values::byte_rate)?,
            download_limit: layers.value(&["download_limit"], values::byte_rate)?,
            dscp: layers.value(&["dscp"], values::word)?.unwrap_or_default(),
            disk_priority: layers.value(&["disk_priority"], values::word)?.unwrap_or_default(),
            transport: layers.value(&["transport"], values::word)?.unwrap_or_default(),
            buffer_budget: layers.value(&["buffer_budget"], values::word)?.unwrap_or_default(),
            labels: layers.value(&["labels"], values::labels)?.unwrap_or_default(),
            control: layers.value(&["control"], values::socket_path)?,
            metrics: layers.value(&["metrics"], values::socket)?,
            apps: apps::apps_of(layers)?,
        };
        if config.apps.is_empty() {
            return Err(ConfigError::Missing {
                what: "no app is given",
                key: "[apps.NAME]",
                flag: "--app NAME",
                variable: "SHOAL_APPS__NAME__EXEC",
            });
        }
        let mut warnings = layers.warnings.clone();
        warnings.extend(apps::warnings_of(&config.apps));
        Ok(Loaded { config, warnings, origins: layers.origins() })
    }

    /// The state directory that `inputs` name, whatever else is right or wrong in them.
    ///
    /// # Errors
    ///
    /// The first mistake found in the names of keys, or in this key.
    pub fn state_directory(inputs: &Inputs) -> Result<PathBuf, ConfigError> {
        state_of(&Layers::collect(inputs)?)
    }

    /// Socket of `shoal-agent status` and its like.
    pub fn control_path(&self) -> PathBuf {
        self.control.clone().unwrap_or_else(|| self.state.join(CONTROL_FILE))
    }

    /// Caps over all apps.
    pub const fn limits(&self) -> Limits {
        Limits { upload: self.upload_limit, download: self.download_limit }
    }

    /// Every setting as [`Loaded`] shows it, so that no key can be forgotten.
    pub(crate) fn settings(&self) -> Settings {
        let (warnings, origins) = (vec![], BTreeMap::new());
        let text = Loaded { config: self.clone(), warnings, origins }.to_string();
        let table: toml::Table = text.parse().expect("what is shown is a configuration");
        let mut settings = Settings::new();
        flatten("", table, &mut settings);
        settings
    }
}

fn flatten(prefix: &str, table: toml::Table, settings: &mut Settings) {
    for (key, value) in table {
        let key = format!("{prefix}{}", toml_key(&key));
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, settings),
            value => {
                settings.insert(key, value);
            }
        }
    }
}

fn state_of(layers: &Layers) -> Result<PathBuf, ConfigError> {
    Ok(layers.value(&["state"], values::path)?.unwrap_or_else(|| STATE_DEFAULT.into()))
}

/// Never fails: the kernel always has a name, if only `(none)`.
fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
