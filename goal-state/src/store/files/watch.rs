//! Follows goal files.
//!
//! Where the kernel reports every change ([`FolderWatch`]), a file is read as soon as it changed.
//! Elsewhere each file's metadata is looked at a few times a second: inotify is silent on network
//! file systems when another machine writes, and a goal directory that several hosts share is one.
//! Every file is read now and then even if nothing seems to have changed: opening a file makes NFS
//! ask its server, looking at its metadata does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::documents::app_name::AppName;
use crate::store::all_goals::AllGoalsBoard;
use crate::store::board::{GoalBoard, GoalUpdate};
use crate::store::error::GoalStoreError;
use crate::store::files::document::{Fingerprint, fingerprint};
use crate::store::files::folder_watch::FolderWatch;
use crate::store::files::{FileStore, blocking};
use crate::store::pacing::{POLL_INTERVAL, jittered};

/// Between two looks at the metadata while goals change: unnoticed by a person who waits for a
/// deploy.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Between two looks once nothing has changed for [`CALM_AFTER`]. Each wakes a thread or two of a
/// host that has nothing to do.
const LOOK_INTERVAL_CALM: Duration = Duration::from_secs(1);

/// Deploys come in a row, with a person or a pipeline waiting for each.
const CALM_AFTER: Duration = Duration::from_mins(1);

/// Between a change that was heard and the look at it. A document that is written in several steps
/// is whole by then more often, and a directory in which something happens all the time costs a
/// bounded number of looks.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// What was last read, by app. `None`: there was no file, so there was nothing to remember.
type Seen = BTreeMap<AppName, Option<Fingerprint>>;

/// What a look found.
struct Looked<Found> {
    seen: Seen,
    found: Found,
    /// Whether every change after it will be heard.
    is_covered: bool,
}

/// Posts the goals of `apps` until it is dropped.
pub(crate) async fn follow(store: FileStore, apps: BTreeSet<AppName>, board: GoalBoard) {
    follow_with(POLL_INTERVAL, store, apps, board).await;
}

async fn follow_with(
    poll_interval: Duration,
    store: FileStore,
    apps: BTreeSet<AppName>,
    mut board: GoalBoard,
) {
    let look = move |watch: Option<&FolderWatch>, seen| {
        let is_covered = watch.is_some_and(|watch| is_covered(watch, &store, &apps));
        let (seen, found) = look(&store, &apps, seen);
        Looked { seen, found, is_covered }
    };
    keep_looking(poll_interval, look, |updates| board.post(updates)).await;
}

/// Posts all goals until it is dropped.
pub(crate) async fn follow_all(store: FileStore, board: AllGoalsBoard) {
    follow_all_with(POLL_INTERVAL, store, board).await;
}

async fn follow_all_with(poll_interval: Duration, store: FileStore, board: AllGoalsBoard) {
    let look = move |watch: Option<&FolderWatch>, seen: Seen| {
        // Before the listing: a file that is made after it is heard of.
        let is_heard = watch.is_some_and(|watch| is_covered(watch, &store, &BTreeSet::new()));
        match store.apps() {
            Ok(apps) => {
                let is_covered =
                    is_heard && watch.is_some_and(|watch| is_covered(watch, &store, &apps));
                let (mut seen, updates) = look(&store, &apps, seen);
                seen.retain(|app, _| apps.contains(app));
                Looked { seen, found: Ok((apps, updates)), is_covered }
            }
            Err(error) => Looked { seen: Seen::new(), found: Err(error), is_covered: is_heard },
        }
    };
    let post = |found: Result<(BTreeSet<AppName>, Vec<GoalUpdate>), GoalStoreError>| match found {
        Ok((apps, updates)) => board.post_present(|app| apps.contains(app), updates),
        Err(error) => board.post_unreachable(error.into()),
    };
    keep_looking(poll_interval, look, post).await;
}

/// Looks again and again, where blocking is allowed, and posts what is found.
async fn keep_looking<Found: Send + 'static>(
    poll_interval: Duration,
    look: impl Fn(Option<&FolderWatch>, Seen) -> Looked<Found> + Send + Sync + 'static,
    mut post: impl FnMut(Found) -> bool,
) {
    let look = Arc::new(look);
    let watch = FolderWatch::new().map(Arc::new);
    let mut seen = Seen::new();
    let mut read_all_at = Instant::now();
    let mut changed_at = Instant::now();
    loop {
        if Instant::now() >= read_all_at {
            seen.clear();
            read_all_at = Instant::now() + jittered(poll_interval);
        }
        let (look, watch_then) = (Arc::clone(&look), watch.clone());
        let Looked { seen: seen_now, found, is_covered } =
            blocking(move || look(watch_then.as_deref(), seen)).await;
        seen = seen_now;
        if post(found) {
            changed_at = Instant::now();
        }
        let until = if is_covered {
            read_all_at
        } else {
            Instant::now() + jittered(look_interval(changed_at.elapsed()))
        };
        next_reason(watch.as_deref(), until).await;
    }
}

/// Whether every change of the goals of `apps` will be heard from here on. To be asked before the
/// look: what is written in between is both seen by the look and heard.
fn is_covered(watch: &FolderWatch, store: &FileStore, apps: &BTreeSet<AppName>) -> bool {
    let goals = store.goals_path();
    // The parent is where it shows that the directory of the goals was replaced.
    let parent = goals.parent().unwrap_or(Path::new("/"));
    let are_files = || !apps.iter().any(|app| store.goal_path(app).is_symlink());
    watch.covers(&[parent, &goals]) && are_files()
}

/// Waits until something is heard, at most until `until`.
async fn next_reason(watch: Option<&FolderWatch>, until: Instant) {
    let heard = async {
        match watch {
            Some(watch) => watch.heard().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(until) => {}
        () = heard => tokio::time::sleep(SETTLE_TIME).await,
    }
}

/// How long to wait when nothing has changed for `calm`.
const fn look_interval(calm: Duration) -> Duration {
    if calm.as_nanos() < CALM_AFTER.as_nanos() { LOOK_INTERVAL } else { LOOK_INTERVAL_CALM }
}

/// Reads the goals whose files are not as they were seen last.
fn look(store: &FileStore, apps: &BTreeSet<AppName>, mut seen: Seen) -> (Seen, Vec<GoalUpdate>) {
    let mut updates = Vec::new();
    for app in apps {
        // Before the file is read: a change in between shows at the next look.
        let now = fingerprint(&store.goal_path(app));
        // Without metadata there is nothing to compare, so the reason is found out by reading.
        if now.is_none() || seen.get(app) != Some(&now) {
            updates.push(store.update(app));
            seen.insert(app.clone(), now);
        }
    }
    (seen, updates)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use p2p_core::BuildId;

    use super::*;
    use crate::documents::rollout::RolloutChange;
    use crate::store::GoalStore;

    #[test]
    fn looks_are_frequent_while_goals_change() {
        assert_eq!(look_interval(Duration::ZERO), LOOK_INTERVAL);
        assert_eq!(look_interval(CALM_AFTER), LOOK_INTERVAL_CALM);
    }

    /// Goal: on a file system of this machine changes are read without looking for them, also of a
    /// store that is moved away and made anew.
    /// Method: the next look is an hour off, so that the test ends only if every change is heard.
    #[tokio::test]
    async fn changes_are_read_as_they_are_heard() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = root.path().join("store");
        let store = GoalStore::new(&format!("file://{}", path.display()).parse().unwrap());
        let web: AppName = "web".parse().unwrap();
        let build = BuildId::of_manifest(b"build");
        let deploy = async || store.deploy(&web, build, RolloutChange::default()).await.unwrap();
        deploy().await;

        let (board, mut posted) = GoalBoard::new();
        let apps = BTreeSet::from([web.clone()]);
        let hour = Duration::from_hours(1);
        let following = follow_with(hour, FileStore::new(&path), apps, board);
        let _following = tokio::task::JoinSet::from_iter([following]);
        let mut generation = async || {
            posted.changed().await.unwrap();
            let update = posted.borrow_and_update()[&web].clone();
            update.goal.map(|goal| goal.map(|goal| goal.generation))
        };
        assert_eq!(generation().await, Ok(Some(1)));
        deploy().await;
        assert_eq!(generation().await, Ok(Some(2)));
        fs::remove_file(path.join("goals/web.json")).unwrap();
        assert_eq!(generation().await, Ok(None));
        fs::rename(&path, root.path().join("moved")).unwrap();
        assert!(generation().await.is_err());
        deploy().await;
        assert_eq!(generation().await, Ok(Some(1)));
        deploy().await;
        assert_eq!(generation().await, Ok(Some(2)));
    }
}
