//! Gives raw values their types. Errors say what was expected and what was found.
//!
//! A value from the file has a TOML type, which must fit. A value from the environment or a flag is
//! text: taken as it is where text is wanted, else read as TOML or in the usual short form.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use goal_state::{GoalUrl, Label};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{BufferBudget, DiskPriority, SeederAddress, TrafficClass, Transport};
use toml::Value;

use super::{Swap, words};
use crate::host::launch::VARIABLE_PREFIX;
use crate::host::probe::{AfterGood, Probe};
use crate::host::sockets::SocketAddress;
use crate::host::watch_files::OnChange;

/// A value before it has a type.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From the file.
    Toml(Value),
    /// From the environment or a flag.
    Text(String),
}

/// Longest host name: that of a DNS name.
const HOST_CHARS_MAX: usize = 253;

/// Longest path of a unix socket: that of the kernel, without its end mark.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Longest name of a token group; it travels in control messages.
const GROUP_CHARS_MAX: usize = 128;

/// Longest name of a user: that of Linux.
const USER_CHARS_MAX: usize = 32;

/// Longest name of a systemd unit.
const UNIT_CHARS_MAX: usize = 255;

/// A kind of values: how operators write them.
#[derive(Debug)]
pub(super) struct Kind<T> {
    /// For operators, as it stands in a table.
    pub(super) name: &'static str,
    /// Takes what was given, or says what was expected.
    pub(super) read: fn(&Raw) -> Result<T, String>,
    /// The value as it could be given.
    pub(super) show: fn(&T) -> Value,
}

impl<T> Kind<T> {
    const fn new(
        name: &'static str,
        read: fn(&Raw) -> Result<T, String>,
        show: fn(&T) -> Value,
    ) -> Self {
        Self { name, read, show }
    }
}

/// A kind of which `T` knows all values and their texts.
const fn word<T: FromStr<Err: Display> + Display>(name: &'static str) -> Kind<T> {
    Kind::new(name, parse_text, display)
}

pub(super) const BOOLEAN: Kind<bool> =
    Kind::new("`true` or `false`", boolean, |value| (*value).into());
pub(super) const BUFFER_BUDGET: Kind<BufferBudget> = word("size");
pub(super) const BUILD: Kind<BuildId> = Kind::new("build", build, display);
pub(super) const COUNT: Kind<NonZero<usize>> =
    Kind::new("whole number", count, |count| i64::try_from(count.get()).unwrap_or(i64::MAX).into());
pub(super) const DIRECTORY: Kind<PathBuf> = Kind::new("path", path, |path| path_value(path));
pub(super) const DISK_PRIORITY: Kind<DiskPriority> = word("`normal` or `low`");
pub(super) const DSCP: Kind<TrafficClass> = word("`default` or `background`");
pub(super) const DURATION: Kind<Duration> = Kind::new("duration", duration, duration_value);
pub(super) const DURATION_ABOVE_ZERO: Kind<Duration> =
    Kind::new("duration", duration_above_zero, duration_value);
pub(super) const EXEC: Kind<Vec<String>> = Kind::new("command", exec, |words| words.clone().into());
pub(super) const FILES: Kind<Vec<PathBuf>> = Kind::new("list of paths", absolute_paths, |paths| {
    Value::Array(paths.iter().map(|path| path_value(path)).collect())
});
pub(super) const GOAL: Kind<GoalUrl> = Kind::new("URL", parse_text, display);
pub(super) const GROUP: Kind<String> = Kind::new("text", group, display);
pub(super) const HOST: Kind<String> = Kind::new("host name", host, display);
pub(super) const LABELS: Kind<BTreeSet<Label>> =
    Kind::new("list of labels", labels, |labels| list_of(labels, display));
pub(super) const LISTEN: Kind<SocketAddr> = Kind::new("`IP:PORT`", socket, display);
pub(super) const AFTER_GOOD: Kind<AfterGood> =
    Kind::new("`restart` or `report`", after_good, |after| after_good_text(*after).into());
pub(super) const ON_CHANGE: Kind<OnChange> =
    Kind::new("`restart` or `reload`", on_change, |change| on_change_text(*change).into());
pub(super) const OUTPUT_RATE: Kind<Option<ByteRate>> =
    Kind::new("rate or `unlimited`", byte_rate_or_none, |rate| {
        rate.map_or_else(|| UNLIMITED.into(), rate_value)
    });
pub(super) const RATE: Kind<ByteRate> = Kind::new("rate", byte_rate, |rate| rate_value(*rate));
pub(super) const SEEDERS: Kind<Vec<SeederAddress>> =
    Kind::new("list of addresses", seeders, |seeders| list_of(seeders, display));
pub(super) const SIZE: Kind<u64> = Kind::new("size", byte_size, |bytes| format!("{bytes}B").into());
pub(super) const SOCKET_PATH: Kind<PathBuf> =
    Kind::new("path", socket_path, |path| path_value(path));
pub(super) const SWAP: Kind<Swap> =
    Kind::new("`overlap` or `stop`", swap, |swap| swap_text(*swap).into());
pub(super) const TEXT: Kind<String> = Kind::new("text", text, display);
pub(super) const TRANSPORT: Kind<Transport> = word("`auto`, `quic` or `tcp`");
pub(super) const TRIES: Kind<NonZero<u32>> =
    Kind::new("whole number", tries, |tries| tries.get().into());
pub(super) const UNIT: Kind<String> = Kind::new("unit", unit, display);
pub(super) const USER: Kind<String> = Kind::new("user name", user, display);

fn display<T: Display>(value: &T) -> Value {
    value.to_string().into()
}

fn list_of<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>, show: fn(&T) -> Value) -> Value {
    Value::Array(items.into_iter().map(show).collect())
}

/// Paths come from texts, so that nothing is lost.
fn path_value(path: &Path) -> Value {
    path.to_string_lossy().as_ref().into()
}

fn duration_value(duration: &Duration) -> Value {
    humantime::format_duration(*duration).to_string().into()
}

fn rate_value(rate: ByteRate) -> Value {
    format!("{}B", rate.get()).into()
}

fn text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Toml(Value::String(text)) => Ok(text.clone()),
        Raw::Toml(other) => Err(format!("expected a string, found {}", kind(other))),
        // `--set zone='"a"'` and `--set zone=a` mean the same.
        Raw::Text(text) => match parse_toml(text) {
            Some(Value::String(inner)) => Ok(inner),
            _ => Ok(text.clone()),
        },
    }
}

fn host(raw: &Raw) -> Result<String, String> {
    let host = text(raw)?;
    let is_plain = host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && host.len() <= HOST_CHARS_MAX;
    is_plain.then_some(host.clone()).ok_or_else(|| {
        format!(
            "{host:?} is not a host name: expected 1 to {HOST_CHARS_MAX} letters, digits, '-', '_' and '.', starting with a letter or digit"
        )
    })
}

fn path(raw: &Raw) -> Result<PathBuf, String> {
    let path = text(raw)?;
    if path.is_empty() || path.contains('\0') {
        return Err(format!("{path:?} is not a path"));
    }
    Ok(path.into())
}

fn socket(raw: &Raw) -> Result<SocketAddr, String> {
    let text = text(raw)?;
    text.parse().map_err(|_error| {
        format!("{text:?} is not an address to listen on: expected IP:PORT, such as 0.0.0.0:7401; port 0 takes any free one")
    })
}

/// A unix socket of the agent.
fn socket_path(raw: &Raw) -> Result<PathBuf, String> {
    let path = path(raw)?;
    let bytes = path.as_os_str().len();
    (bytes <= SOCKET_PATH_BYTES_MAX).then_some(path).ok_or_else(|| {
        format!("the path has {bytes} bytes, but that of a socket may have {SOCKET_PATH_BYTES_MAX}")
    })
}

/// Where a program is asked: `IP:PORT` or `localhost:PORT`.
fn target(raw: &Raw) -> Result<SocketAddr, String> {
    let text = text(raw)?;
    target_of(&text).ok_or_else(|| {
        format!("{text:?} is not an address of a program: expected IP:PORT, such as 127.0.0.1:8080")
    })
}

fn target_of(text: &str) -> Option<SocketAddr> {
    let local = text.strip_prefix("localhost:");
    let address: SocketAddr = match local {
        Some(port) => (Ipv4Addr::LOCALHOST, port.parse().ok()?).into(),
        None => text.parse().ok()?,
    };
    (address.port() != 0).then_some(address)
}

pub(super) fn http_probe(raw: &Raw) -> Result<Option<Probe>, String> {
    let text = text(raw)?;
    let wrong = || {
        format!(
            "{text:?} is not what a host asks its own program: expected http://IP:PORT/PATH, such as http://127.0.0.1:8080/healthz"
        )
    };
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let address = target_of(authority).filter(|_| is_plain).ok_or_else(wrong)?;
    let path = if path.is_empty() { "/".into() } else { path.into() };
    Ok(Some(Probe::Http { address, path }))
}

pub(super) fn tcp_probe(raw: &Raw) -> Result<Option<Probe>, String> {
    target(raw).map(|address| Some(Probe::Tcp { address }))
}

pub(super) fn command_probe(raw: &Raw) -> Result<Option<Probe>, String> {
    exec(raw).map(|exec| Some(Probe::Command { exec }))
}

pub(super) fn notify_probe(raw: &Raw) -> Result<Option<Probe>, String> {
    boolean(raw).map(|says_ready| says_ready.then_some(Probe::Notify))
}

/// A socket that the agent holds, and its name.
pub(super) fn app_socket(name: &str, raw: &Raw) -> Result<SocketAddress, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_plain) {
        let reason = "is not the name of a socket: expected letters, digits, '-', '_' and '.'";
        return Err(format!("{name:?} {reason}"));
    }
    let text = text(raw)?;
    let wrong = || format!("{text:?} is not a socket: expected IP:PORT, udp:IP:PORT or unix:/PATH");
    if let Some(path) = text.strip_prefix("unix:") {
        let path = socket_path(&Raw::Toml(Value::from(path)))?;
        return path.is_absolute().then_some(SocketAddress::Unix(path)).ok_or_else(wrong);
    }
    let (text, is_udp) = text.strip_prefix("udp:").map_or((text.as_str(), false), |t| (t, true));
    let address: SocketAddr = text.parse().map_err(|_error| wrong())?;
    if address.port() == 0 {
        return Err("port 0 is no place where clients could find the program".into());
    }
    Ok(if is_udp { SocketAddress::Udp(address) } else { SocketAddress::Tcp(address) })
}

/// A socket as it can be given.
pub(crate) fn socket_text(address: &SocketAddress) -> String {
    match address {
        SocketAddress::Tcp(address) => address.to_string(),
        SocketAddress::Udp(address) => format!("udp:{address}"),
        SocketAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn seeders(raw: &Raw) -> Result<Vec<SeederAddress>, String> {
    let texts = list(raw)?;
    texts.iter().map(|text| text.parse().map_err(|error| format!("{error}"))).collect()
}

fn labels(raw: &Raw) -> Result<BTreeSet<Label>, String> {
    let texts = list(raw)?;
    texts.iter().map(|text| text.parse().map_err(|error| format!("{error}"))).collect()
}

fn absolute_paths(raw: &Raw) -> Result<Vec<PathBuf>, String> {
    let paths: Vec<PathBuf> = list(raw)?.into_iter().map(PathBuf::from).collect();
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("{:?} is not an absolute path", path.display().to_string())),
        None => Ok(paths),
    }
}

/// A list of texts without blanks and commas in them, which separate them outside of TOML.
fn list(raw: &Raw) -> Result<Vec<String>, String> {
    match raw {
        Raw::Toml(value) => strings(value),
        Raw::Text(text) => match parse_toml(text) {
            Some(value @ Value::Array(_)) => strings(&value),
            _ => Ok(text
                .split([',', ' ', '\n', '\t'])
                .filter(|part| !part.is_empty())
                .map(String::from)
                .collect()),
        },
    }
}

fn group(raw: &Raw) -> Result<String, String> {
    let group = text(raw)?;
    let is_plain = !group.is_empty() && !group.chars().any(goal_state::is_hidden);
    (is_plain && group.chars().count() <= GROUP_CHARS_MAX).then_some(group.clone()).ok_or_else(
        || format!("{group:?} is not a group: expected 1 to {GROUP_CHARS_MAX} characters"),
    )
}

fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Toml(Value::Boolean(value)) => Ok(*value),
        Raw::Toml(other) => Err(format!("expected true or false, found {}", kind(other))),
        Raw::Text(text) => {
            text.trim().parse().map_err(|_error| format!("expected true or false, found {text:?}"))
        }
    }
}

/// Bytes, such as `20GiB`.
fn byte_size(raw: &Raw) -> Result<u64, String> {
    let wrong = |found: &str| format!("{found} is not a size above 0; write it as \"20GiB\"");
    match raw {
        Raw::Toml(Value::Integer(bytes)) => u64::try_from(*bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| wrong(&bytes.to_string())),
        other => {
            let text = text(other)?;
            // A size is a rate without its per-second part.
            let is_rate = text.contains("bit") || text.contains('/');
            let parsed = text.parse::<ByteRate>().ok().filter(|_| !is_rate);
            parsed.map(ByteRate::get).ok_or_else(|| wrong(&format!("{text:?}")))
        }
    }
}

fn build(raw: &Raw) -> Result<BuildId, String> {
    let text = text(raw)?;
    text.parse().map_err(|error| {
        format!("{text:?} is not a build: {error}; give the whole id, as `shoal publish` prints it")
    })
}

fn user(raw: &Raw) -> Result<String, String> {
    let user = text(raw)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && user.chars().all(is_plain)
        && user.len() <= USER_CHARS_MAX;
    is_name
        .then_some(user.clone())
        .ok_or_else(|| format!("{user:?} is not the name of a user, such as \"www-data\""))
}

/// A systemd unit that can be restarted.
fn unit(raw: &Raw) -> Result<String, String> {
    let unit = text(raw)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let is_unit = unit.strip_suffix(".service").is_some_and(|name| !name.is_empty())
        && unit.chars().all(is_plain)
        && unit.len() <= UNIT_CHARS_MAX;
    is_unit
        .then_some(unit.clone())
        .ok_or_else(|| format!("{unit:?} is not a unit of systemd, such as \"web.service\""))
}

fn swap(raw: &Raw) -> Result<Swap, String> {
    let text = text(raw)?;
    let known = [Swap::Overlap, Swap::Stop];
    known.into_iter().find(|swap| swap_text(*swap) == text).ok_or_else(|| {
        format!("{text:?} is not a way to swap programs: expected \"overlap\" or \"stop\"")
    })
}

const fn swap_text(swap: Swap) -> &'static str {
    match swap {
        Swap::Stop => "stop",
        Swap::Overlap => "overlap",
    }
}

fn on_change(raw: &Raw) -> Result<OnChange, String> {
    let text = text(raw)?;
    let known = [OnChange::Restart, OnChange::Reload];
    known.into_iter().find(|change| on_change_text(*change) == text).ok_or_else(|| {
        format!("{text:?} is not what can follow a change: expected \"restart\" or \"reload\"")
    })
}

fn after_good(raw: &Raw) -> Result<AfterGood, String> {
    let text = text(raw)?;
    let known = [AfterGood::Restart, AfterGood::Report];
    known.into_iter().find(|after| after_good_text(*after) == text).ok_or_else(|| {
        format!(
            "{text:?} is not what can follow when a good program is not healthy any more: expected \"restart\" or \"report\""
        )
    })
}

const fn after_good_text(after: AfterGood) -> &'static str {
    match after {
        AfterGood::Restart => "restart",
        AfterGood::Report => "report",
    }
}

const fn on_change_text(on_change: OnChange) -> &'static str {
    match on_change {
        OnChange::Restart => "restart",
        OnChange::Reload => "reload",
    }
}

fn byte_rate(raw: &Raw) -> Result<ByteRate, String> {
    match raw {
        Raw::Toml(Value::Integer(bytes)) => {
            let rate = u64::try_from(*bytes).ok().and_then(ByteRate::new);
            rate.ok_or_else(|| format!("{bytes} is not a number of bytes per second above 0; leave the key out for no limit"))
        }
        other => text(other)?.parse().map_err(|error| format!("{error}")),
    }
}

/// The word for no limit where leaving a key out means the default.
const UNLIMITED: &str = "unlimited";

/// A rate, or `unlimited`.
fn byte_rate_or_none(raw: &Raw) -> Result<Option<ByteRate>, String> {
    if let Raw::Toml(Value::Integer(bytes)) = raw {
        let rate = u64::try_from(*bytes).ok().and_then(ByteRate::new);
        return rate.map(Some).ok_or_else(|| {
            format!("{bytes} is not a number of bytes per second above 0; write \"{UNLIMITED}\" for no limit")
        });
    }
    let text = text(raw)?;
    if text.trim() == UNLIMITED {
        return Ok(None);
    }
    let rate = text.parse::<ByteRate>();
    rate.map(Some).map_err(|error| format!("{error}; \"{UNLIMITED}\" is for no limit"))
}

/// One of the texts that `T` knows.
fn parse_text<T: FromStr<Err: Display>>(raw: &Raw) -> Result<T, String> {
    text(raw)?.parse().map_err(|error| format!("{error}"))
}

fn duration(raw: &Raw) -> Result<Duration, String> {
    let text = text(raw)?;
    humantime::parse_duration(&text)
        .map_err(|error| format!("{text:?} is not a duration such as \"10s\" or \"2m\": {error}"))
}

fn duration_above_zero(raw: &Raw) -> Result<Duration, String> {
    let time = duration(raw)?;
    if time.is_zero() { Err("expected a duration above 0".into()) } else { Ok(time) }
}

fn tries(raw: &Raw) -> Result<NonZero<u32>, String> {
    let wrong = |_error| "expected a whole number below 4 billion".to_owned();
    count(raw).and_then(|count| count.try_into().map_err(wrong))
}

fn count(raw: &Raw) -> Result<NonZero<usize>, String> {
    let wrong = |found: String| format!("expected a whole number of at least 1, found {found}");
    match raw {
        Raw::Toml(Value::Integer(number)) => usize::try_from(*number)
            .ok()
            .and_then(NonZero::new)
            .ok_or_else(|| wrong(number.to_string())),
        Raw::Toml(other) => Err(wrong(kind(other).into())),
        Raw::Text(text) => text.trim().parse().map_err(|_error| wrong(format!("{text:?}"))),
    }
}

fn exec(raw: &Raw) -> Result<Vec<String>, String> {
    let list = match raw {
        Raw::Toml(Value::String(text)) => words::split(text)?,
        Raw::Toml(value) => strings(value)?,
        Raw::Text(text) => match parse_toml(text) {
            Some(value @ Value::Array(_)) => strings(&value)?,
            _ => words::split(text)?,
        },
    };
    match list.first() {
        None => Err("it names no program; leave the key out for an app without one".into()),
        Some(program) if program.is_empty() => Err("the program's name is empty".into()),
        Some(_) if list.iter().any(|word| word.contains('\0')) => {
            Err("a NUL character cannot be passed to a program".into())
        }
        Some(_) => Ok(list),
    }
}

pub(super) fn variable(name: &str, raw: &Raw) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{name:?} is not the name of an environment variable"));
    }
    if name.starts_with(VARIABLE_PREFIX) {
        return Err(format!("names with {VARIABLE_PREFIX} are set by the agent"));
    }
    let value = text(raw).map_err(|reason| format!("{reason}; put it in quotes"))?;
    if value.contains('\0') {
        return Err("a NUL character cannot be passed to a program".into());
    }
    Ok(value)
}

fn strings(value: &Value) -> Result<Vec<String>, String> {
    let Value::Array(values) = value else {
        return Err(format!("expected a list of strings, found {}", kind(value)));
    };
    let strings = values.iter().map(|value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("expected a list of strings, found {} in it", kind(other))),
    });
    strings.collect()
}

fn parse_toml(text: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {}", text.trim()).parse().ok()?;
    // More than one entry: the text had a line end in it and is no value.
    (table.len() == 1).then(|| table.into_iter().next()).flatten().map(|(_, value)| value)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
