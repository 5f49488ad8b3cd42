//! How waiting for a rollout ended, and what was seen last.
//!
//! Plain values: [`wait`](crate::rollout::wait) decides which it is,
//! [`report`](crate::rollout::report) says it.

use std::time::Duration;

use goal_state::{Goal, HostStatus};
use serde::Serialize;

use crate::rollout::Survey;

/// Why waiting ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// Every host that may switch runs the build.
    Complete,
    /// Every host that reports does; others are absent, and that matters to who waits.
    Absent,
    /// The build failed on hosts, and the others run it or may not switch.
    Failed,
    /// The rollout has halted.
    Halted,
    /// The build failed, and a seeder took the app back to the last good one.
    Reverted,
    /// Somebody set another goal.
    Superseded,
    /// The goal store was lost or restored: it has a lower generation than hosts follow.
    StoreBehind,
    /// No node that hosts can reach has the build.
    NoSource,
    /// The rollout names labels that no host has.
    NobodyIn,
    /// No host has its turn, and none gets it until somebody does something.
    Blocked,
    /// The time is up.
    TimedOut,
    /// A signal ended the command.
    Interrupted,
}

/// How waiting ended, with what was seen last.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) took: Duration,
    pub(crate) survey: Survey,
    /// The goal that was followed last: that of the order, or a wider or halted one of its rollout.
    pub(crate) goal: Goal,
    /// The goal that took its place; `None` if none did.
    pub(crate) other: Option<Goal>,
    /// The rows that were seen last.
    pub(crate) rows: Vec<HostStatus>,
}
