//! Prints the effective configuration as a configuration file, each value with its origin.
//!
//! Invariant: what is printed is read again to the same effect; every key appears, those without a
//! value as a comment.

use std::fmt::{self, Write as _};
use std::time::Duration;

use p2p_core::ByteRate;

use super::{AppConfig, Loaded, values};
use crate::host::hook::Hook;
use crate::host::probe::Probe;

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let seeders: Vec<_> = config.seeders.iter().map(ToString::to_string).collect();
        let labels: Vec<_> = config.labels.iter().map(ToString::to_string).collect();
        self.line(f, &["host"], Some(&config.host))?;
        self.line(f, &["state"], Some(&config.state))?;
        self.line(f, &["goal"], Some(&config.goal.to_string()))?;
        self.line(f, &["seeders"], Some(&seeders))?;
        self.line(f, &["listen"], Some(&config.listen))?;
        self.line(f, &["zone"], Some(&config.zone))?;
        self.line(f, &["rack"], Some(&config.rack))?;
        self.line(f, &["labels"], Some(&labels))?;
        // Empty only if nothing is known of where the host is; nobody can give that.
        let group = (!config.group.is_empty()).then_some(&config.group);
        self.line(f, &["group"], group)?;
        self.line(f, &["control"], config.control.as_ref())?;
        self.line(f, &["metrics"], config.metrics.as_ref())?;
        self.line(f, &["upload_limit"], config.upload_limit.map(rate_text).as_ref())?;
        self.line(f, &["download_limit"], config.download_limit.map(rate_text).as_ref())?;
        self.line(f, &["dscp"], Some(&config.dscp.to_string()))?;
        self.line(f, &["disk_priority"], Some(&config.disk_priority.to_string()))?;
        self.line(f, &["transport"], Some(&config.transport))?;
        self.line(f, &["buffer_budget"], Some(&config.buffer_budget.to_string()))?;
        for (name, app) in &config.apps {
            self.app(f, name.as_str(), app)?;
        }
        Ok(())
    }
}

impl Loaded {
    fn app(&self, f: &mut fmt::Formatter<'_>, name: &str, app: &AppConfig) -> fmt::Result {
        let table = toml_key(name);
        writeln!(f, "\n[apps.{table}]")?;
        let key = |key| ["apps", name, key];
        self.line(f, &key("exec"), app.exec.as_ref())?;
        self.line(f, &key("systemd"), app.systemd.as_ref())?;
        self.line(f, &key("is_agent"), Some(&app.is_agent))?;
        self.line(f, &key("user"), app.user.as_ref())?;
        self.line(f, &key("swap"), Some(values::swap_text(app.swap)))?;
        self.line(f, &key("hold"), Some(&app.hold))?;
        self.line(f, &key("pin"), app.pin.map(|build| build.to_string()).as_ref())?;
        self.line(f, &key("working_directory"), app.working_directory.as_ref())?;
        self.line(f, &key("grace_period"), Some(&duration_text(app.grace_period)))?;
        self.line(f, &key("keep_builds"), Some(&app.keep_builds))?;
        let bytes = app.keep_bytes.map(|bytes| format!("{bytes}B"));
        self.line(f, &key("keep_bytes"), bytes.as_ref())?;
        self.line(f, &key("upload_limit"), app.upload_limit.map(rate_text).as_ref())?;
        self.line(f, &key("download_limit"), app.download_limit.map(rate_text).as_ref())?;
        self.health(f, name, app)?;
        let hooks = [
            ("before_switch", &app.hooks.before_switch),
            ("after_switch", &app.hooks.after_switch),
            ("after_rollback", &app.hooks.after_rollback),
            ("drain", &app.hooks.drain),
            ("undrain", &app.hooks.undrain),
        ];
        for (hook, settings) in hooks {
            match settings {
                None => writeln!(f, "\n# [apps.{table}.hooks.{hook}] is not set")?,
                Some(settings) => self.hook(f, name, (hook, settings))?,
            }
        }
        writeln!(f, "\n[apps.{table}.watch]")?;
        self.line(f, &["apps", name, "watch", "files"], Some(&app.watch.files))?;
        let on_change = values::on_change_text(app.watch.on_change);
        // Without files the key is refused for an app without a program.
        let on_change = (!app.watch.files.is_empty()).then_some(on_change);
        self.line(f, &["apps", name, "watch", "on_change"], on_change)?;
        if !app.sockets.is_empty() {
            writeln!(f, "\n[apps.{table}.sockets]")?;
        }
        for (socket, address) in &app.sockets {
            let text = values::socket_text(address);
            self.line(f, &["apps", name, "sockets", socket], Some(&text))?;
        }
        if !app.environment.is_empty() {
            writeln!(f, "\n[apps.{table}.environment]")?;
        }
        for (variable, value) in &app.environment {
            self.line(f, &["apps", name, "environment", variable], Some(value))?;
        }
        Ok(())
    }

    fn health(&self, f: &mut fmt::Formatter<'_>, name: &str, app: &AppConfig) -> fmt::Result {
        writeln!(f, "\n[apps.{}.health]", toml_key(name))?;
        let key = |key| ["apps", name, "health", key];
        let health = &app.health;
        match &health.probe {
            None => writeln!(f, "# http, tcp, command and notify are not set")?,
            Some(Probe::Http { address, path }) => {
                self.line(f, &key("http"), Some(&format!("http://{address}{path}")))?;
            }
            Some(Probe::Tcp { address }) => self.line(f, &key("tcp"), Some(address))?,
            Some(Probe::Command { exec }) => self.line(f, &key("command"), Some(exec))?,
            Some(Probe::Notify) => self.line(f, &key("notify"), Some(&true))?,
        }
        self.line(f, &key("interval"), Some(&duration_text(health.interval)))?;
        self.line(f, &key("timeout"), Some(&duration_text(health.timeout)))?;
        let time = duration_text(health.min_healthy_time);
        self.line(f, &key("min_healthy_time"), Some(&time))?;
        self.line(f, &key("deadline"), Some(&duration_text(health.deadline)))?;
        self.line(f, &key("tries"), Some(&health.tries))?;
        // Refused for an app whose output the agent does not see.
        let rate = health.max_output_rate.map_or_else(|| values::UNLIMITED.into(), rate_text);
        self.line(f, &key("max_output_rate"), app.exec.as_ref().map(|_| &rate))
    }

    fn hook(
        &self,
        f: &mut fmt::Formatter<'_>,
        app: &str,
        (name, hook): (&str, &Hook),
    ) -> fmt::Result {
        writeln!(f, "\n[apps.{}.hooks.{name}]", toml_key(app))?;
        let key = |key| ["apps", app, "hooks", name, key];
        self.line(f, &key("exec"), Some(&hook.exec))?;
        self.line(f, &key("user"), hook.user.as_ref())?;
        self.line(f, &key("timeout"), Some(&duration_text(hook.timeout)))
    }

    fn line<T: serde::Serialize + ?Sized>(
        &self,
        f: &mut fmt::Formatter<'_>,
        path: &[&str],
        value: Option<&T>,
    ) -> fmt::Result {
        let mut line = String::new();
        let key = toml_key(path.last().copied().unwrap_or_default());
        match value {
            // TOML has no null, so a value that is not set is shown as a comment.
            None => write!(line, "# {key} is not set")?,
            Some(value) => {
                let value = toml::Value::try_from(value).map_err(|_error| fmt::Error)?;
                write!(line, "{key} = {value}")?;
            }
        }
        let owned: Vec<String> = path.iter().copied().map(String::from).collect();
        match self.origins.get(&owned) {
            Some(origin) => writeln!(f, "{line:<50} # {origin}"),
            None => writeln!(f, "{line:<50} # default"),
        }
    }
}

/// A rate as it can be given.
fn rate_text(rate: ByteRate) -> String {
    format!("{}B", rate.get())
}

fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A key as TOML writes it: quoted if it has more than letters, digits, `-` and `_`.
pub(crate) fn toml_key(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_bare { key.into() } else { toml::Value::from(key).to_string() }
}
