//! Where a host hears of goals: of its seeders, or in a store that it reads itself.

use std::fmt;
use std::str::FromStr;

use goal_state::{GoalUrl, GoalUrlError};

/// What stands for the seeders where a URL could stand.
const SEEDERS: &str = "seeders";

/// Where a host hears of goals.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum GoalSource {
    /// The seeders tell them, and take the host's reports.
    #[default]
    Seeders,
    /// The host reads the store itself.
    Store(GoalUrl),
}

/// The text is neither.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{source}, or the word {SEEDERS}")]
pub(crate) struct GoalSourceError {
    source: GoalUrlError,
}

impl fmt::Display for GoalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seeders => f.write_str(SEEDERS),
            Self::Store(url) => url.fmt(f),
        }
    }
}

impl FromStr for GoalSource {
    type Err = GoalSourceError;

    fn from_str(text: &str) -> Result<Self, GoalSourceError> {
        if text == SEEDERS {
            return Ok(Self::Seeders);
        }
        text.parse().map(Self::Store).map_err(|source| GoalSourceError { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_read_as_it_is_shown() {
        for text in ["seeders", "file:///goal", "etcd://10.0.0.5:2379/shoal"] {
            assert_eq!(text.parse::<GoalSource>().unwrap().to_string(), text);
        }
        let error = "seeder".parse::<GoalSource>().unwrap_err().to_string();
        assert!(error.contains("\"seeder\" is not a goal store"), "{error}");
        assert!(error.ends_with(", or the word seeders"), "{error}");
    }
}
