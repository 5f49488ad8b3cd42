//! Gives raw values their types. Errors say what was expected and what was found.
//!
//! A value from the file has a TOML type, which must fit. A value from the environment or a flag is
//! text: taken as it is where text is wanted, else read as TOML or in the usual short form.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use goal_state::GoalUrl;
use p2p_core::ByteRate;
use p2p_net::SeederAddress;
use toml::Value;

use super::layers::Raw;
use super::words;
use crate::launch::VARIABLE_PREFIX;

/// Longest host name: that of a DNS name.
const HOST_CHARS_MAX: usize = 253;

pub(super) fn text(raw: &Raw) -> Result<String, String> {
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

pub(super) fn host(raw: &Raw) -> Result<String, String> {
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

pub(super) fn path(raw: &Raw) -> Result<PathBuf, String> {
    let path = text(raw)?;
    if path.is_empty() || path.contains('\0') {
        return Err(format!("{path:?} is not a path"));
    }
    Ok(path.into())
}

pub(super) fn goal_url(raw: &Raw) -> Result<GoalUrl, String> {
    text(raw)?.parse().map_err(|error| format!("{error}"))
}

pub(super) fn socket(raw: &Raw) -> Result<SocketAddr, String> {
    let text = text(raw)?;
    text.parse().map_err(|_error| {
        format!("{text:?} is not an address to listen on: expected IP:PORT, such as 0.0.0.0:7401; port 0 takes any free one")
    })
}

pub(super) fn seeders(raw: &Raw) -> Result<Vec<SeederAddress>, String> {
    let texts = match raw {
        Raw::Toml(value) => strings(value)?,
        Raw::Text(text) => match parse_toml(text) {
            Some(value @ Value::Array(_)) => strings(&value)?,
            _ => text
                .split([',', ' ', '\n', '\t'])
                .filter(|part| !part.is_empty())
                .map(String::from)
                .collect(),
        },
    };
    texts.iter().map(|text| text.parse().map_err(|error| format!("{error}"))).collect()
}

pub(super) fn byte_rate(raw: &Raw) -> Result<ByteRate, String> {
    match raw {
        Raw::Toml(Value::Integer(bytes)) => {
            let rate = u64::try_from(*bytes).ok().and_then(ByteRate::new);
            rate.ok_or_else(|| format!("{bytes} is not a number of bytes per second above 0; leave the key out for no limit"))
        }
        other => text(other)?.parse().map_err(|error| format!("{error}")),
    }
}

/// One of the words that `T` knows.
pub(super) fn word<T: FromStr<Err: Display>>(raw: &Raw) -> Result<T, String> {
    text(raw)?.parse().map_err(|error| format!("{error}"))
}

pub(super) fn duration(raw: &Raw) -> Result<Duration, String> {
    let text = text(raw)?;
    humantime::parse_duration(&text)
        .map_err(|error| format!("{text:?} is not a duration such as \"10s\" or \"2m\": {error}"))
}

pub(super) fn count(raw: &Raw) -> Result<NonZero<usize>, String> {
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

pub(super) fn exec(raw: &Raw) -> Result<Vec<String>, String> {
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
