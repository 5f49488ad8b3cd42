//! Follows goal files by looking at them.
//!
//! Looks at each file's metadata a few times a second, and reads a file when they differ. inotify
//! would save these looks, but is silent on network file systems when another machine writes, which
//! is what a goal directory that several hosts share is. For the same reason every file is read now
//! and then even if nothing seems to have changed: opening a file makes NFS ask its server, looking
//! at its metadata does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::AppName;
use crate::document_file::{Fingerprint, fingerprint};
use crate::file_store::{FileStore, blocking};
use crate::pacing::{POLL_INTERVAL, jittered};
use crate::watch::{AppState, Board};

/// Between two looks at the metadata while goals change: unnoticed by a person who waits for a
/// deploy.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Between two looks once nothing has changed for [`CALM_AFTER`]. Each wakes a thread or two of a
/// host that has nothing to do, and four a second were a third of what an idle agent took.
const LOOK_INTERVAL_CALM: Duration = Duration::from_secs(1);

/// Deploys come in a row, with a person or a pipeline waiting for each.
const CALM_AFTER: Duration = Duration::from_mins(1);

/// What was last read, by app. `None`: there was no file, so there was nothing to remember.
type Seen = BTreeMap<AppName, Option<Fingerprint>>;

/// Posts the states of `apps` until it is dropped.
pub(crate) async fn follow(store: FileStore, apps: BTreeSet<AppName>, mut board: Board) {
    let mut seen = Seen::new();
    let mut read_all_at = Instant::now();
    let mut changed_at = Instant::now();
    loop {
        if Instant::now() >= read_all_at {
            seen.clear();
            read_all_at = Instant::now() + jittered(POLL_INTERVAL);
        }
        let (store, apps) = (store.clone(), apps.clone());
        let states;
        (seen, states) = blocking(move || look(&store, &apps, seen)).await;
        if board.post(states) {
            changed_at = Instant::now();
        }
        tokio::time::sleep(jittered(look_interval(changed_at.elapsed()))).await;
    }
}

/// How long to wait when nothing has changed for `calm`.
const fn look_interval(calm: Duration) -> Duration {
    if calm.as_nanos() < CALM_AFTER.as_nanos() { LOOK_INTERVAL } else { LOOK_INTERVAL_CALM }
}

/// Reads the goals whose files differ from what was seen.
fn look(
    store: &FileStore,
    apps: &BTreeSet<AppName>,
    mut seen: Seen,
) -> (Seen, Vec<(AppName, AppState)>) {
    let mut states = Vec::new();
    for app in apps {
        // Before the file is read: a change in between shows at the next look.
        let now = fingerprint(&store.goal_path(app));
        // Without metadata there is nothing to compare, so the reason is found out by reading.
        if now.is_none() || seen.get(app) != Some(&now) {
            states.push((app.clone(), store.read_goal(app).map_err(|error| error.one_line())));
            seen.insert(app.clone(), now);
        }
    }
    (seen, states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_while_goals_change() {
        assert_eq!(look_interval(Duration::ZERO), LOOK_INTERVAL);
        assert_eq!(look_interval(CALM_AFTER), LOOK_INTERVAL_CALM);
    }
}
