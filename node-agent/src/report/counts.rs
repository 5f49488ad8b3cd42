//! What happened to each app since the agent started, in numbers that only rise.
//!
//! The loops of the apps count here and [`metrics`](super::metrics) reads. Nothing is decided by a
//! count, and none survives the agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use goal_state::AppName;
use parking_lot::Mutex;

/// What happened to an app since the agent started.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AppCounts {
    /// Switches that began.
    pub switches: u64,
    /// Builds that were rolled back.
    pub rollbacks: u64,
    /// Starts of the program after it ended by itself, or could not be started.
    pub restarts_ended: u64,
    /// Starts of the program after it was stopped because it was not healthy.
    pub restarts_unhealthy: u64,
    /// Hooks that failed.
    pub hook_failures: u64,
    /// Waits for a token.
    pub token_waits: u64,
    /// Bytes that its programs printed, as far as was seen.
    pub output_bytes: u64,
    /// How often one of its programs began to print more than it may.
    pub output_floods: u64,
    /// Time spent downloading.
    pub download_time: Duration,
}

/// The counts of all apps. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountBoard {
    counts: Arc<Mutex<BTreeMap<AppName, AppCounts>>>,
}

impl CountBoard {
    /// Changes the counts of `app`.
    pub(crate) fn update(&self, app: &AppName, change: impl FnOnce(&mut AppCounts)) {
        let mut counts = self.counts.lock();
        change(counts.entry(app.clone()).or_default());
    }

    /// The counts of every app that has any.
    pub(super) fn read(&self) -> BTreeMap<AppName, AppCounts> {
        self.counts.lock().clone()
    }
}
