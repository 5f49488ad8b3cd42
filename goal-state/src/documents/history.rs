//! Where goals come from and what is remembered of them: who set a goal and why ([`Origin`]), what
//! comes with a change ([`ChangeOrder`]), and goals that were replaced ([`PastGoal`]).
//!
//! Owns the limits of texts by people. How one goal follows another is in
//! [`goal`](crate::documents::goal). Pure.

use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::documents::fields::{is_default, positive};
use crate::documents::rollout::Halted;
use crate::documents::text;

/// Most bytes of [`Origin::author`]: a user's name with a host's behind it.
const AUTHOR_BYTES_MAX: usize = 128;

/// Most bytes of [`Origin::version`].
const VERSION_BYTES_MAX: usize = 64;

/// Most bytes of [`Origin::comment`]: a sentence or two. A full history of them stays far below the
/// limit of a document.
const COMMENT_BYTES_MAX: usize = 500;

/// Where a goal comes from, in the words of whoever set it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Who, such as `ann@desk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What people call the build, such as `2.14.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Origin {
    /// The same with every text on one line and within its limit; empty ones are left out.
    #[must_use]
    pub fn cleaned(&self) -> Self {
        let clean = |text: &Option<String>, bytes_max| {
            let line = text.as_deref().map(|text| text::line(text, bytes_max));
            line.filter(|line| !line.is_empty())
        };
        Self {
            author: clean(&self.author, AUTHOR_BYTES_MAX),
            comment: clean(&self.comment, COMMENT_BYTES_MAX),
            version: clean(&self.version, VERSION_BYTES_MAX),
        }
    }
}

/// How far a goal came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Hosts that ran the build...
    pub good: u32,
    /// ...hosts on which it failed...
    pub failed: u32,
    /// ...of so many that had reported the app.
    pub hosts: u32,
    /// Of the failed ones those that had given the build up when they tried it. The others ran it,
    /// perhaps for days, before their programs failed.
    #[serde(default)]
    pub given_up: u32,
}

/// What comes with every change of a goal.
#[derive(Clone, Debug, Default)]
pub struct ChangeOrder {
    /// Who changes it, and why.
    pub origin: Origin,
    /// The generation that the goal must have now; `None`: any. Of two people who press at once the
    /// second gets an error.
    pub expected: Option<u64>,
    /// The highest generation that hosts follow, if that is known: the new one is above it, also in
    /// a store that was set up anew.
    pub above: u64,
    /// How far the goal that is replaced has come, for the history.
    pub outcome: Option<Outcome>,
}

/// Where a rollback goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RollbackTarget {
    /// The last good build.
    LastGood,
    /// The build of this generation, whatever came of it.
    Generation(u64),
}

/// A goal that was replaced.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastGoal {
    /// Its generation.
    #[serde(deserialize_with = "positive")]
    pub generation: u64,
    /// Its build.
    pub build: BuildId,
    /// When it was set, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// Whether a rollback went past it. It stays here for people to read, but no rollback returns
    /// to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
    /// Whether only some of the hosts were to have it when it was replaced. No rollback returns to
    /// it either: it would bring the build to hosts that never had it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Why its rollout had halted, if it had. No rollback returns to it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Halted>,
    /// Failed hosts that whoever resumed its rollout accepted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tolerated: u32,
    /// Generation of the deploy that asked for the build; zero: its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deployed: u64,
    /// Who set it and why.
    #[serde(default, skip_serializing_if = "is_default")]
    pub origin: Origin,
    /// How far it had come when it was replaced; `None` if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl PastGoal {
    /// The generation of the deploy that asked for the build.
    pub const fn deployed_of(&self) -> u64 {
        if self.deployed == 0 { self.generation } else { self.deployed }
    }
}
