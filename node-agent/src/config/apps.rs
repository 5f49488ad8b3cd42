//! The settings of each app, and what they must not be together.
//!
//! Invariant: an [`AppConfig`] that leaves this file makes sense as a whole; every complaint names
//! the place of the key that is one too many.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::AppName;

use super::layers::Layers;
use super::values;
use super::{AppConfig, ConfigError, KEEP_BUILDS_DEFAULT, Swap};
use crate::host::hook::{HOOK_TIMEOUT_DEFAULT, Hook, Hooks};
use crate::host::launch::GRACE_PERIOD_DEFAULT;
use crate::host::probe::{Health, Probe};
use crate::host::sockets::SocketAddress;
use crate::host::watch_files::WatchedFiles;

/// The keys of one app.
#[derive(Clone, Copy, Debug)]
struct AppKeys<'a> {
    layers: &'a Layers,
    app: &'a str,
}

impl<'a> AppKeys<'a> {
    /// The whole path of a key such as `health.http`.
    fn path<'k>(self, key: &'k str) -> Vec<&'k str>
    where
        'a: 'k,
    {
        ["apps", self.app].into_iter().chain(key.split('.')).collect()
    }

    fn value<T>(
        self,
        key: &str,
        parse: impl FnOnce(&super::layers::Raw) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.layers.value(&self.path(key), parse)
    }

    fn is_given(self, key: &str) -> bool {
        self.layers.origin(&self.path(key)).is_some()
    }

    fn complaint(self, key: &str, reason: impl Into<String>) -> ConfigError {
        self.layers.complaint(&self.path(key), reason)
    }

    /// Refuses `key`, if it is given, for `reason`.
    fn refuse(self, key: &str, reason: &str) -> Result<(), ConfigError> {
        if self.is_given(key) { Err(self.complaint(key, reason)) } else { Ok(()) }
    }
}

pub(super) fn apps_of(layers: &Layers) -> Result<BTreeMap<AppName, AppConfig>, ConfigError> {
    let mut apps = BTreeMap::new();
    for (name, origin) in layers.apps() {
        let app: AppName = name.parse().map_err(|error| ConfigError::Invalid {
            origin: origin.clone(),
            key: format!("apps.{name}"),
            reason: format!("{error}"),
        })?;
        let keys = AppKeys { layers, app: name };
        let config = app_of(keys)?;
        check_kind(keys, &config)?;
        check_health(keys, &config)?;
        apps.insert(app, config);
    }
    check_between(layers, &apps)?;
    Ok(apps)
}

fn app_of(keys: AppKeys<'_>) -> Result<AppConfig, ConfigError> {
    let sockets = sockets_of(keys)?;
    let swap_default = if sockets.is_empty() { Swap::Stop } else { Swap::Overlap };
    Ok(AppConfig {
        exec: keys.value("exec", values::exec)?,
        environment: environment_of(keys)?,
        working_directory: keys.value("working_directory", values::path)?,
        grace_period: keys.value("grace_period", values::duration)?.unwrap_or(GRACE_PERIOD_DEFAULT),
        systemd: keys.value("systemd", values::unit)?,
        is_agent: keys.value("is_agent", values::boolean)?.unwrap_or_default(),
        user: keys.value("user", values::user)?,
        sockets,
        swap: keys.value("swap", values::swap)?.unwrap_or(swap_default),
        health: health_of(keys)?,
        hooks: Hooks {
            before_switch: hook_of(keys, "before_switch")?,
            after_switch: hook_of(keys, "after_switch")?,
            after_rollback: hook_of(keys, "after_rollback")?,
            drain: hook_of(keys, "drain")?,
            undrain: hook_of(keys, "undrain")?,
        },
        watch: WatchedFiles {
            files: keys.value("watch.files", values::absolute_paths)?.unwrap_or_default(),
            on_change: keys.value("watch.on_change", values::on_change)?.unwrap_or_default(),
        },
        hold: keys.value("hold", values::boolean)?.unwrap_or_default(),
        pin: keys.value("pin", values::build)?,
        keep_builds: keys.value("keep_builds", values::count)?.unwrap_or(KEEP_BUILDS_DEFAULT),
        keep_bytes: keys.value("keep_bytes", values::byte_size)?,
        upload_limit: keys.value("upload_limit", values::byte_rate)?,
        download_limit: keys.value("download_limit", values::byte_rate)?,
    })
}

fn environment_of(keys: AppKeys<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut environment = BTreeMap::new();
    for name in keys.layers.names(&["apps", keys.app, "environment"]) {
        let path = ["apps", keys.app, "environment", name];
        let value = keys.layers.value(&path, |value| values::variable(name, value))?;
        environment.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(environment)
}

fn sockets_of(keys: AppKeys<'_>) -> Result<BTreeMap<String, SocketAddress>, ConfigError> {
    let mut sockets = BTreeMap::new();
    for name in keys.layers.names(&["apps", keys.app, "sockets"]) {
        let path = ["apps", keys.app, "sockets", name];
        let address = keys.layers.value(&path, |value| values::app_socket(name, value))?;
        sockets.extend(address.map(|address| (name.to_owned(), address)));
    }
    Ok(sockets)
}

fn health_of(keys: AppKeys<'_>) -> Result<Health, ConfigError> {
    let default = Health::default();
    let http = keys.value("health.http", values::http_probe)?;
    let tcp = keys.value("health.tcp", values::target)?.map(|address| Probe::Tcp { address });
    let command = keys.value("health.command", values::exec)?;
    let command = command.map(|exec| Probe::Command { exec });
    let notify = keys.value("health.notify", values::boolean)?.unwrap_or_default();
    let notify = notify.then_some(Probe::Notify);
    let given = [("http", http), ("tcp", tcp), ("command", command), ("notify", notify)];
    let mut given = given.into_iter().filter_map(|(key, probe)| Some((key, probe?)));
    let first = given.next();
    if let (Some((first, _)), Some((second, _))) = (&first, given.next()) {
        let reason = format!("there is a probe already: health.{first}; leave one of them out");
        return Err(keys.complaint(&format!("health.{second}"), reason));
    }
    let duration = |key: &str, default: Duration| {
        Ok(keys.value(&format!("health.{key}"), values::duration_above_zero)?.unwrap_or(default))
    };
    Ok(Health {
        probe: first.map(|(_, probe)| probe),
        interval: duration("interval", default.interval)?,
        timeout: duration("timeout", default.timeout)?,
        min_healthy_time: keys
            .value("health.min_healthy_time", values::duration)?
            .unwrap_or(default.min_healthy_time),
        deadline: duration("deadline", default.deadline)?,
        tries: keys.value("health.tries", values::tries)?.unwrap_or(default.tries),
        max_output_rate: keys
            .value("health.max_output_rate", values::byte_rate_or_none)?
            .unwrap_or(default.max_output_rate),
    })
}

fn hook_of(keys: AppKeys<'_>, name: &str) -> Result<Option<Hook>, ConfigError> {
    let key = |key: &str| format!("hooks.{name}.{key}");
    let exec = keys.value(&key("exec"), values::exec)?;
    let user = keys.value(&key("user"), values::user)?;
    let timeout = keys.value(&key("timeout"), values::duration_above_zero)?;
    let Some(exec) = exec else {
        let reason = format!("the hook has no command; give hooks.{name}.exec, too");
        keys.refuse(&key("user"), &reason)?;
        keys.refuse(&key("timeout"), &reason)?;
        return Ok(None);
    };
    Ok(Some(Hook { exec, user, timeout: timeout.unwrap_or(HOOK_TIMEOUT_DEFAULT) }))
}

/// What runs the app decides which of the other keys make sense.
fn check_kind(keys: AppKeys<'_>, app: &AppConfig) -> Result<(), ConfigError> {
    if app.is_agent {
        for key in ["exec", "systemd"] {
            keys.refuse(key, "the app is the agent itself (is_agent), which starts itself")?;
        }
    }
    if app.exec.is_some() {
        keys.refuse("systemd", "the app has a program of the agent (exec); leave one of them out")?;
        return Ok(());
    }
    let needs_exec = "the agent does that for a program that it starts; give exec, too";
    if let Some(name) = app.sockets.keys().next() {
        return Err(keys.layers.complaint(&["apps", keys.app, "sockets", name], needs_exec));
    }
    if app.health.probe == Some(Probe::Notify) {
        return Err(keys.complaint("health.notify", needs_exec));
    }
    keys.refuse("working_directory", needs_exec)?;
    keys.refuse("health.max_output_rate", needs_exec)?;
    if app.swap == Swap::Overlap {
        return Err(keys.complaint("swap", needs_exec));
    }
    if app.systemd.is_none() && !app.watch.files.is_empty() {
        let reason = "there is no program to restart or reload; give exec or systemd, too";
        return Err(keys.complaint("watch.files", reason));
    }
    Ok(())
}

fn check_health(keys: AppKeys<'_>, app: &AppConfig) -> Result<(), ConfigError> {
    let Health { min_healthy_time, deadline, .. } = app.health;
    if min_healthy_time < deadline {
        return Ok(());
    }
    let both = [("min_healthy_time", min_healthy_time), ("deadline", deadline)];
    let [least, most] = both.map(|(_, time)| humantime::format_duration(time));
    let reason = format!(
        "no build can be healthy for {least} (min_healthy_time) within {most} (deadline); make the deadline longer"
    );
    // Whichever was given: a default is not what the operator has to change.
    let key = both.map(|(key, _)| format!("health.{key}"));
    let given = key.iter().find(|key| keys.is_given(key)).unwrap_or(&key[0]);
    Err(keys.complaint(given, reason))
}

/// What two apps of one host cannot both have.
fn check_between(layers: &Layers, apps: &BTreeMap<AppName, AppConfig>) -> Result<(), ConfigError> {
    let mut addresses: BTreeMap<String, String> = BTreeMap::new();
    let mut agent: Option<&AppName> = None;
    for (name, app) in apps {
        for (socket, address) in &app.sockets {
            let own = format!("apps.{name}.sockets.{socket}");
            if let Some(other) = addresses.insert(values::socket_text(address), own) {
                let reason = format!("{other} has this address already");
                let path = ["apps", name.as_str(), "sockets", socket];
                return Err(layers.complaint(&path, reason));
            }
        }
        if app.is_agent
            && let Some(other) = agent.replace(name)
        {
            let reason = format!("apps.{other} is the agent already");
            return Err(layers.complaint(&["apps", name.as_str(), "is_agent"], reason));
        }
    }
    Ok(())
}

/// What looks like a mistake but may be none.
pub(super) fn warnings_of(apps: &BTreeMap<AppName, AppConfig>) -> Vec<String> {
    let mut warnings = vec![];
    for (name, app) in apps {
        if app.swap == Swap::Overlap && app.sockets.is_empty() {
            warnings.push(format!(
                "apps.{name}.swap: old and new program run at once, but the agent holds no sockets for them; name what they listen on in apps.{name}.sockets, or make sure that both can run"
            ));
        }
        if app.swap == Swap::Stop && !app.sockets.is_empty() {
            warnings.push(format!(
                "apps.{name}.swap: connections wait while the program changes; leave the key out if two of it can run at once"
            ));
        }
        if let Some(socket) = shared_probe(app) {
            warnings.push(format!(
                "apps.{name}.health: while two programs run, either may answer on the socket {socket:?}, so a new one that cannot serve is noticed only once the old one is gone; have the program say READY=1 (notify = true), or probe an address of its own"
            ));
        }
    }
    warnings
}

/// The held socket on which the app is probed while old and new program both accept there.
fn shared_probe(app: &AppConfig) -> Option<&str> {
    let asked = match app.health.probe.as_ref()? {
        Probe::Http { address, .. } | Probe::Tcp { address } => address,
        Probe::Command { .. } | Probe::Notify => return None,
    };
    let is_asked = |held: &SocketAddress| match held {
        SocketAddress::Tcp(held) => {
            held.port() == asked.port() && (held.ip() == asked.ip() || held.ip().is_unspecified())
        }
        SocketAddress::Udp(_) | SocketAddress::Unix(_) => false,
    };
    let mut sockets = app.sockets.iter().filter(|_| app.swap == Swap::Overlap);
    sockets.find(|(_, held)| is_asked(held)).map(|(name, _)| name.as_str())
}
