//! The apps, and which settings of an app exclude each other.
//!
//! Invariant: an [`AppConfig`] that leaves this file makes sense as a whole; every complaint names
//! the place of the key that has to go.

use std::collections::BTreeMap;

use goal_state::AppName;

use super::layers::Layers;
use super::place::Place;
use super::table::APP;
use super::values;
use super::{AppConfig, ConfigError, Swap};
use crate::host::probe::{Health, Probe};
use crate::host::sockets::SocketAddress;

pub(super) fn apps_of(layers: &Layers) -> Result<BTreeMap<AppName, AppConfig>, ConfigError> {
    let mut apps = BTreeMap::new();
    for (name, origin) in layers.apps() {
        let app: AppName = name.parse().map_err(|error| ConfigError::Invalid {
            origin: origin.clone(),
            key: format!("apps.{name}"),
            reason: format!("{error}"),
        })?;
        let keys = Place { layers, prefix: &["apps", name] };
        let mut config = AppConfig::default();
        keys.read(APP, &mut config)?;
        if !config.sockets.is_empty() && !keys.is_given("swap") {
            config.swap = Swap::Overlap;
        }
        check_kind(keys, &config)?;
        check_health(keys, &config)?;
        apps.insert(app, config);
    }
    check_between(layers, &apps)?;
    Ok(apps)
}

/// What runs the app decides which of the other keys make sense.
fn check_kind(keys: Place<'_>, app: &AppConfig) -> Result<(), ConfigError> {
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
        return Err(keys.complaint_of(&["sockets", name], needs_exec));
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

fn check_health(keys: Place<'_>, app: &AppConfig) -> Result<(), ConfigError> {
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
