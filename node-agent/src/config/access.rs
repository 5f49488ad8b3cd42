//! How the value of a key gets into its field and out of it: one macro for each kind of field.
//!
//! The macros give an [`Access`], which a row of the key table has. Most fields are a value or an
//! optional value. Maps, the probe that several keys share, and hooks, whose keys make one value
//! together, have macros of their own. What a value may be is not decided here but in `values`.

use toml::Value;

use super::values::{DURATION_ABOVE_ZERO, EXEC, Raw, USER};
use super::{AppConfig, values};
use crate::host::hook::{HOOK_TIMEOUT_DEFAULT, Hook};
use crate::host::probe::Probe;
use crate::host::sockets::SocketAddress;

/// How the value of a key gets into the settings and out of them.
#[derive(Debug)]
pub(super) struct Access<C> {
    /// Which values there are, for operators.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test writes docs/configuration.md from it")
    )]
    pub(super) kind: &'static str,
    /// Takes over what was given. The text is the last part of the key as it was given.
    pub(super) read: fn(&mut C, &str, &Raw) -> Result<(), String>,
    /// The value as it could be given.
    pub(super) show: fn(&C) -> Shown,
    /// Copies the value from the second settings to the first.
    pub(super) adopt: fn(&mut C, &C),
}

/// The value of a key as `--check-config` has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shown {
    /// This.
    Value(Value),
    /// Values by the names that the operator chose.
    Entries(Vec<(String, Value)>),
    /// There is none, which a comment says.
    Unset,
    /// There is none, and others say so.
    Hidden,
    /// A comment that speaks for several keys.
    Comment(&'static str),
}

impl Shown {
    /// `Unset` if there is no value.
    pub(super) fn of(value: Option<impl Into<Value>>) -> Self {
        value.map_or(Self::Unset, |value| Self::Value(value.into()))
    }
}

/// A key that has a field with a value.
macro_rules! field {
    ($($field:ident).+: $kind:expr) => {
        access::Access {
            kind: $kind.name,
            read: |config, _, raw| {
                config.$($field).+ = ($kind.read)(raw)?;
                Ok(())
            },
            show: |config| access::Shown::Value(($kind.show)(&config.$($field).+)),
            adopt: |config, wanted| config.$($field).+.clone_from(&wanted.$($field).+),
        }
    };
}

/// A key whose field has `None` for no value.
macro_rules! optional {
    ($($field:ident).+: $kind:expr) => {
        access::Access {
            kind: $kind.name,
            read: |config, _, raw| {
                config.$($field).+ = Some(($kind.read)(raw)?);
                Ok(())
            },
            show: |config| access::Shown::of(config.$($field).+.as_ref().map($kind.show)),
            adopt: |config, wanted| config.$($field).+.clone_from(&wanted.$($field).+),
        }
    };
}

/// Keys whose names the operator chooses; the field has their values by name.
macro_rules! entries {
    ($field:ident: $kind:literal, $read:expr, $show:expr) => {
        access::Access {
            kind: $kind,
            read: |config, name, raw| {
                config.$field.insert(name.into(), $read(name, raw)?);
                Ok(())
            },
            show: |config| {
                let entries = config.$field.iter();
                access::Shown::Entries(
                    entries.map(|(name, value)| (name.clone(), $show(value))).collect(),
                )
            },
            adopt: |config, wanted| config.$field.clone_from(&wanted.$field),
        }
    };
}

/// One of the keys that say how a program is probed, of which an app has at most one. `$show` gives
/// the value if the probe is of this kind; `$none` is shown if there is no probe.
macro_rules! probe {
    ($kind:literal, $read:expr, $show:expr, $none:expr) => {
        access::Access {
            kind: $kind,
            read: |app, _, raw| access::set_probe(app, $read(raw)?),
            show: |app| match &app.health.probe {
                Some(probe) => $show(probe).map_or(access::Shown::Hidden, access::Shown::Value),
                None => $none,
            },
            adopt: |app, wanted| app.health.probe.clone_from(&wanted.health.probe),
        }
    };
}

/// One of the keys of a hook.
macro_rules! hook_part {
    ($hook:ident: $kind:expr, $read:ident, $show:ident) => {
        access::Access {
            kind: $kind.name,
            read: |app, _, raw| access::$read(&mut app.hooks.$hook, stringify!($hook), raw),
            show: |app| app.hooks.$hook.as_ref().map_or(access::Shown::Hidden, access::$show),
            adopt: |app, wanted| app.hooks.$hook.clone_from(&wanted.hooks.$hook),
        }
    };
}

pub(super) use {entries, field, hook_part, optional, probe};

/// Gives the app its probe, if there is one and it has none yet.
pub(super) fn set_probe(app: &mut AppConfig, probe: Option<Probe>) -> Result<(), String> {
    if probe.is_none() {
        return Ok(());
    }
    let first = match app.health.probe {
        None => {
            app.health.probe = probe;
            return Ok(());
        }
        Some(Probe::Http { .. }) => "http",
        Some(Probe::Tcp { .. }) => "tcp",
        Some(Probe::Command { .. }) => "command",
        Some(Probe::Notify) => "notify",
    };
    Err(format!("there is a probe already: health.{first}; leave one of them out"))
}

pub(super) fn http_value(probe: &Probe) -> Option<Value> {
    let Probe::Http { address, path } = probe else { return None };
    Some(format!("http://{address}{path}").into())
}

pub(super) fn tcp_value(probe: &Probe) -> Option<Value> {
    let Probe::Tcp { address } = probe else { return None };
    Some(address.to_string().into())
}

pub(super) fn command_value(probe: &Probe) -> Option<Value> {
    let Probe::Command { exec } = probe else { return None };
    Some((EXEC.show)(exec))
}

pub(super) fn notify_value(probe: &Probe) -> Option<Value> {
    (*probe == Probe::Notify).then_some(true.into())
}

pub(super) fn socket_value(address: &SocketAddress) -> Value {
    values::socket_text(address).into()
}

pub(super) fn variable_value(text: &str) -> Value {
    text.into()
}

/// The command makes the hook; it is read before the other parts.
pub(super) fn read_hook_exec(
    hook: &mut Option<Hook>,
    _name: &str,
    raw: &Raw,
) -> Result<(), String> {
    let exec = (EXEC.read)(raw)?;
    *hook = Some(Hook { exec, user: None, timeout: HOOK_TIMEOUT_DEFAULT });
    Ok(())
}

pub(super) fn read_hook_user(hook: &mut Option<Hook>, name: &str, raw: &Raw) -> Result<(), String> {
    let user = (USER.read)(raw)?;
    hook.as_mut().ok_or_else(|| no_command(name))?.user = Some(user);
    Ok(())
}

pub(super) fn read_hook_timeout(
    hook: &mut Option<Hook>,
    name: &str,
    raw: &Raw,
) -> Result<(), String> {
    let timeout = (DURATION_ABOVE_ZERO.read)(raw)?;
    hook.as_mut().ok_or_else(|| no_command(name))?.timeout = timeout;
    Ok(())
}

fn no_command(hook: &str) -> String {
    format!("the hook has no command; give hooks.{hook}.exec, too")
}

pub(super) fn show_hook_exec(hook: &Hook) -> Shown {
    Shown::Value((EXEC.show)(&hook.exec))
}

pub(super) fn show_hook_user(hook: &Hook) -> Shown {
    Shown::of(hook.user.as_ref().map(USER.show))
}

pub(super) fn show_hook_timeout(hook: &Hook) -> Shown {
    Shown::Value((DURATION_ABOVE_ZERO.show)(&hook.timeout))
}
