//! The settings as flags, and the layers that they are one of.

use std::path::PathBuf;

use command_line::LogFilterError;

use crate::config::bootstrap::{Bootstrap, BootstrapError, BootstrapSource};
use crate::config::{Config, ConfigError, FlagSetting, Inputs, Loaded, STATE_DEFAULT};

/// Where a host that knows nothing gets its settings from.
#[derive(Clone, Debug, Default, clap::Args)]
struct BootstrapArgs {
    /// Document with seeders, goal, join token, labels and place of this host (TOML or JSON), below
    /// all other settings. Kept in the state directory: needed once.
    #[arg(long, value_name = "FILE", env = "SHOAL_BOOTSTRAP", conflicts_with = "bootstrap_url")]
    bootstrap: Option<String>,
    /// The same from the user data of a cloud instance, such as
    /// `http://169.254.169.254/latest/user-data`.
    #[arg(long, value_name = "URL", env = "SHOAL_BOOTSTRAP_URL")]
    bootstrap_url: Option<String>,
}

impl BootstrapArgs {
    fn source(&self) -> Option<BootstrapSource> {
        match (&self.bootstrap, &self.bootstrap_url) {
            (Some(text), _) => Some(BootstrapSource::of_text(text)),
            (None, Some(url)) => Some(BootstrapSource::Url(url.clone())),
            (None, None) => None,
        }
    }
}

/// What every host needs to have, whether it is given to the agent or written into its
/// configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct HostArgs {
    /// Name of this host [default: the machine's name].
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<String>,
    /// Directory of everything the agent stores [default: /var/lib/shoal].
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<String>,
    /// Where goals come from: `seeders`, or a goal store, `file:///DIRECTORY` or
    /// `etcd://HOST:PORT/PREFIX` [default: seeders].
    #[arg(long, value_name = "URL")]
    pub(super) goal: Option<String>,
    /// A seeder of the region, as shoal-seeder prints it; can be repeated.
    #[arg(long = "seeder", value_name = "MULTIADDR")]
    pub(super) seeders: Vec<String>,
}

/// The settings of an agent as they are given to a command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SettingArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "SHOAL_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    #[command(flatten)]
    host: HostArgs,
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
}

/// All layers of the settings.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) inputs: Inputs,
    pub(super) bootstrap: Option<Bootstrap>,
    pub(super) warning: Option<String>,
}

impl Gathered {
    /// The layers on top of each other, with all warnings.
    pub(super) fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = Config::load(&self.inputs)?;
        loaded.warnings.extend(self.warning.clone());
        Ok(loaded)
    }
}

/// Why the flags make no sense together.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
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
    #[error("the bootstrap document cannot be used")]
    Bootstrap(#[from] BootstrapError),
}

impl SettingArgs {
    /// What the settings are made of, the bootstrap document among it.
    pub(super) fn gather(&self) -> Result<Gathered, UsageError> {
        let mut inputs = Inputs {
            bootstrap: None,
            file: self.config.clone(),
            environment: environment()?,
            flags: self.flag_settings()?,
        };
        // A mistake in the other layers is reported when they are read as a whole.
        let state =
            Config::state_directory(&inputs).unwrap_or_else(|_mistake| STATE_DEFAULT.into());
        let (bootstrap, warning) = Bootstrap::find(self.bootstrap.source().as_ref(), &state)?;
        inputs.bootstrap = bootstrap.as_ref().map(Bootstrap::settings);
        Ok(Gathered { inputs, bootstrap, warning })
    }

    /// The settings as they are now, with all warnings.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        Ok(self.gather()?.load()?)
    }

    fn flag_settings(&self) -> Result<Vec<FlagSetting>, UsageError> {
        let HostArgs { host, state, goal, seeders } = &self.host;
        let named = [
            ("--host", "host", host),
            ("--state", "state", state),
            ("--goal", "goal", goal),
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
        if !seeders.is_empty() {
            settings.push(setting("--seeder", "seeders", Some(seeders.join(","))));
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
