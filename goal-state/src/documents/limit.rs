//! How many hosts: a number or a share, as operators write it and goals keep it.
//!
//! Owns [`HostCount`] (`3`, `25%`) and [`HostLimit`], which can also be left to Shoal or taken
//! away (`none`). In documents a number is a number, a share a text such as `"25%"`. Pure.

use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of hosts, or a share of a group's hosts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostCount {
    /// So many.
    Hosts(NonZero<u32>),
    /// So many of a hundred, 1 to 100.
    Percent(NonZero<u8>),
}

/// A text that is no number of hosts.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not a number of hosts: expected a number from 1 on, a share such as 25%, none, or default"
)]
pub struct HostCountError {
    text: String,
}

impl HostCount {
    /// How many of `hosts` that are: shares are rounded down, to one host at least.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Hosts(number) => usize::try_from(number.get()).unwrap_or(usize::MAX),
            Self::Percent(share) => (hosts.saturating_mul(share.get().into()) / 100).max(1),
        }
    }
}

impl fmt::Display for HostCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(number) => write!(f, "{number}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl FromStr for HostCount {
    type Err = HostCountError;

    fn from_str(text: &str) -> Result<Self, HostCountError> {
        let parsed = match text.strip_suffix('%') {
            Some(share) => share
                .parse::<NonZero<u8>>()
                .ok()
                .filter(|share| share.get() <= 100)
                .map(Self::Percent),
            None => text.parse().ok().map(Self::Hosts),
        };
        parsed.ok_or_else(|| HostCountError { text: text.to_owned() })
    }
}

impl Serialize for HostCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hosts(number) => number.serialize(serializer),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for HostCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = HostCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 1 on or a share such as \"25%\"")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<HostCount, E> {
        let count = u32::try_from(number).ok().and_then(NonZero::new);
        count.map(HostCount::Hosts).ok_or_else(|| {
            E::custom(format!("{number} is no number of hosts, expected a number from 1 on"))
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<HostCount, E> {
        text.parse().map_err(E::custom)
    }
}

/// A limit on hosts that an operator may leave to Shoal or take away.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostLimit {
    /// Nobody said: Shoal's own limit holds.
    #[default]
    Unset,
    /// As asked.
    AtMost(HostCount),
    /// No limit, as asked.
    None,
}

impl HostLimit {
    /// The limit for the next build: "no limit" is for one build only.
    pub(crate) const fn kept(self) -> Self {
        match self {
            Self::None => Self::Unset,
            limit => limit,
        }
    }
}

impl FromStr for HostLimit {
    type Err = HostCountError;

    fn from_str(text: &str) -> Result<Self, HostCountError> {
        match text {
            "none" => Ok(Self::None),
            "default" => Ok(Self::Unset),
            _ => text.parse().map(Self::AtMost),
        }
    }
}

impl Serialize for HostLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_none(),
            Self::AtMost(count) => count.serialize(serializer),
            Self::None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for HostLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Option::<Form>::deserialize(deserializer)? {
            None => Ok(Self::Unset),
            Some(Form::Number(number)) => {
                CountVisitor.visit_u64(number).map(Self::AtMost).map_err(|error: D::Error| error)
            }
            Some(Form::Text(text)) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> HostLimit {
        text.parse().unwrap()
    }

    #[test]
    fn shares_are_rounded_down_to_one_host_at_least() {
        let cases = [
            ("25%", 0, 1),
            ("25%", 3, 1),
            ("25%", 8, 2),
            ("25%", 11, 2),
            ("100%", 7, 7),
            ("1%", 1_000, 10),
            ("3", 2, 3),
        ];
        for (text, hosts, expected) in cases {
            assert_eq!(text.parse::<HostCount>().unwrap().of(hosts), expected, "{text} of {hosts}");
        }
    }

    #[test]
    fn texts_and_documents_round_trip() {
        for (text, json) in [("2", "2"), ("25%", "\"25%\""), ("none", "\"none\"")] {
            let limit = limit(text);
            assert_eq!(serde_json::to_string(&limit).unwrap(), json);
            assert_eq!(serde_json::from_str::<HostLimit>(json).unwrap(), limit);
        }
        assert_eq!(serde_json::from_str::<HostLimit>("null").unwrap(), HostLimit::Unset);
    }

    #[test]
    fn other_texts_and_numbers_are_refused() {
        assert_eq!(limit("default"), HostLimit::Unset);
        for text in ["", "0", "-1", "0%", "101%", "25 %", "%", "1.5", "all", "None", "4294967296"] {
            let error = text.parse::<HostLimit>().unwrap_err().to_string();
            assert!(error.contains("expected a number from 1 on, a share"), "{error}");
        }
        for json in ["0", "-1", "1.5", "\"0%\"", "[]", "true"] {
            assert!(serde_json::from_str::<HostLimit>(json).is_err(), "{json}");
            assert!(serde_json::from_str::<HostCount>(json).is_err(), "{json}");
        }
    }
}
