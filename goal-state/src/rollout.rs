//! Who switches to a goal's build and when: part of the goal document.
//!
//! Every host downloads the build at once; whether it may start the switch, it works out itself
//! from this and its own labels. Pure: the same goal and host give the same answer everywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Long enough for "stage=production-eu".
const LABEL_BYTES_MAX: usize = 64;

/// A mark on a host, such as `canary` or `stage=prod`: 1 to 64 of `a-z 0-9 - _ . = : /`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// A text that is no label.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a label: expected 1 to {LABEL_BYTES_MAX} of a-z, 0-9 and - _ . = : /")]
pub struct LabelError {
    text: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        let is_known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.=:/".contains(&byte)
        };
        if !text.is_empty() && text.len() <= LABEL_BYTES_MAX && text.bytes().all(is_known) {
            Ok(Self(text))
        } else {
            Err(LabelError { text })
        }
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        text.to_owned().try_into()
    }
}

/// Who switches and when. The default: everybody, at once.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Generation that made the build the goal; later generations that only widen the rollout or
    /// ask for a restart keep it, and with it the order in which hosts come in. Zero: that of the
    /// goal itself.
    #[serde(default)]
    pub since: u64,
    /// Share of the hosts that may switch, 0 to 100.
    #[serde(default = "everybody")]
    pub percent: u8,
    /// Hosts with one of these labels are in whatever the percentage says.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub canary: BTreeSet<Label>,
    /// Only hosts with one of these labels are in, if there are any; canaries too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stages: BTreeSet<Label>,
    /// Most hosts of a group that may be down or switching at once. `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<NonZero<u32>>,
    /// Rises with each order to restart the program without a new build.
    #[serde(default)]
    pub restart: u64,
}

const fn everybody() -> u8 {
    100
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            since: 0,
            percent: everybody(),
            canary: BTreeSet::new(),
            stages: BTreeSet::new(),
            max_unavailable: None,
            restart: 0,
        }
    }
}
