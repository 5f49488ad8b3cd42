//! Follows goals in etcd by a watch, and by polling while there is none.
//!
//! Invariant: a watch starts right after the revision of a read, so no change falls between the
//! two; whatever ends a watch (a restart, compaction, a restored backup) leads to a new read. Never
//! gives up, and waits with jitter between attempts.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::Instant;

use crate::documents::app_name::AppName;
use crate::store::board::{GoalBoard, GoalUpdate};
use crate::store::error::GoalReadError;
use crate::store::etcd::{EtcdStore, Snapshot};
use crate::store::pacing::{POLL_INTERVAL, backoff, jittered};

/// How a watch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WatchEnd {
    /// It could not be made.
    NotMade,
    /// The revision it should start from is no longer kept.
    Compacted,
    /// It worked and broke. `lasted` distinguishes a restart of etcd from a watch that never stays
    /// up.
    Broken { lasted: Duration },
}

/// How long to wait before goals are read again, by how it went so far.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
    short_watches: u32,
}

impl Pauses {
    /// After goals could not be read.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.failures += 1;
        backoff(self.failures)
    }

    /// After goals were read and a watch ended.
    pub(super) fn after_watch(&mut self, end: WatchEnd) -> Duration {
        self.failures = 0;
        match end {
            WatchEnd::NotMade => POLL_INTERVAL,
            WatchEnd::Compacted => backoff(0),
            WatchEnd::Broken { lasted } => {
                let is_short = lasted < POLL_INTERVAL;
                self.short_watches = if is_short { self.short_watches + 1 } else { 0 };
                backoff(self.short_watches.saturating_sub(1))
            }
        }
    }
}

/// Posts the goals of `apps` until it is dropped.
pub(crate) async fn follow(store: EtcdStore, apps: BTreeSet<AppName>, mut board: GoalBoard) {
    if apps.is_empty() {
        // Nothing to read means no revision to watch from.
        return std::future::pending().await;
    }
    let mut pauses = Pauses::default();
    loop {
        let pause = match store.snapshot(&apps).await {
            Err(error) => {
                let error = GoalReadError::from(error);
                tracing::debug!(reason = %error, "goals cannot be read");
                board.post_unreachable(&apps, &error);
                pauses.after_failure()
            }
            Ok(Snapshot { updates, revision }) => {
                board.post(updates);
                let end = follow_watch(&store, &apps, &mut board, revision).await;
                tracing::debug!(?end, "the watch for goals ended");
                pauses.after_watch(end)
            }
        };
        tokio::time::sleep(jittered(pause)).await;
    }
}

/// Watches all goals from the revision after `revision`, and posts those of `apps`.
async fn follow_watch(
    store: &EtcdStore,
    apps: &BTreeSet<AppName>,
    board: &mut GoalBoard,
    revision: i64,
) -> WatchEnd {
    let Some((member, mut stream)) = open(store, revision).await else {
        return WatchEnd::NotMade;
    };
    let opened_at = Instant::now();
    loop {
        match stream.message().await {
            Ok(Some(message)) if message.compact_revision() > 0 => return WatchEnd::Compacted,
            Ok(Some(message)) if !message.canceled() => {
                let updates = updates_in(store, apps, &message);
                if !updates.is_empty() {
                    board.post(updates);
                }
            }
            ended => {
                tracing::debug!(?ended, "the watch for goals broke");
                store.give_up_member(member).await;
                return WatchEnd::Broken { lasted: opened_at.elapsed() };
            }
        }
    }
}

/// Opens a watch, with the member to give up when it breaks.
pub(super) async fn open(store: &EtcdStore, revision: i64) -> Option<(usize, WatchStream)> {
    let prefix = store.goals_prefix();
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision.saturating_add(1))
        .with_progress_notify();
    let opened = store
        .request(|client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.watch_client().watch(prefix, Some(options)).await }
        })
        .await;
    let (member, _) = store.client().await.ok()?;
    match opened {
        Ok(stream) => Some((member, stream)),
        Err(error) => {
            tracing::debug!(reason = error.one_line(), "goals cannot be watched");
            None
        }
    }
}

/// What a message says of watched apps, oldest first.
fn updates_in(
    store: &EtcdStore,
    apps: &BTreeSet<AppName>,
    message: &WatchResponse,
) -> Vec<GoalUpdate> {
    let mut updates = Vec::new();
    for event in message.events() {
        let Some(found) = event.kv() else { continue };
        let Some(app) = store.app_of(found.key()).filter(|app| apps.contains(app)) else {
            continue;
        };
        let value = (event.event_type() == EventType::Put).then_some(found);
        updates.push(store.update(&app, value));
    }
    updates
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;
    use crate::documents::goal::Goal;
    use crate::documents::rollout::RolloutChange;
    use crate::store::GoalStore;
    use crate::store::error::GoalStoreError;
    use crate::store::etcd::Patience;
    use crate::store::url::GoalUrl;
    use crate::store::watch::GoalWatch;
    use crate::testing::EtcdServer;

    async fn deploy(operator: &GoalStore, app: &AppName, build: &[u8]) -> Goal {
        let build = BuildId::of_manifest(build);
        operator.deploy(app, build, RolloutChange::default()).await.unwrap()
    }

    async fn next(watch: &mut GoalWatch) -> GoalUpdate {
        let deadline = Duration::from_mins(1);
        tokio::time::timeout(deadline, watch.next()).await.expect("an update comes")
    }

    /// Goal: a server that hangs with its connections open is noticed, and followed when it goes
    /// on.
    #[tokio::test]
    async fn watch_notices_a_server_that_hangs() {
        let etcd = EtcdServer::start().await;
        let patience = Patience {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(2),
            ping: Duration::from_secs(1),
        };
        let store = EtcdStore::with_patience(vec![etcd.endpoint()], "shoal", patience);
        let operator = GoalStore::new(&etcd.url("shoal"));
        let app: AppName = "web".parse().unwrap();
        let apps = BTreeSet::from([app.clone()]);
        let mut watch = GoalWatch::fed_by(|board| follow(store, apps, board));
        assert_eq!(next(&mut watch).await.goal, Ok(None));
        let goal = deploy(&operator, &app, b"1").await;
        // It came through the watch, so that is open.
        assert_eq!(next(&mut watch).await.goal, Ok(Some(goal)));

        etcd.pause();
        let error = next(&mut watch).await.goal.unwrap_err();
        assert!(matches!(error.cause(), GoalStoreError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("no answer within 2s"), "{error}");
        etcd.resume();
        assert!(next(&mut watch).await.goal.is_ok());
        let goal = deploy(&operator, &app, b"2").await;
        assert_eq!(next(&mut watch).await.goal, Ok(Some(goal)));
    }

    /// Goal: a watch that starts before the oldest revision kept says so, and does not stall.
    #[tokio::test]
    async fn watch_from_a_compacted_revision_ends() {
        let etcd = EtcdServer::start().await;
        let url = etcd.url("shoal");
        let app: AppName = "web".parse().unwrap();
        for name in [b"1", b"2", b"3"] {
            deploy(&GoalStore::new(&url), &app, name).await;
        }
        etcd.compact().await;

        let GoalUrl::Etcd { endpoints, prefix } = url else { unreachable!() };
        let store = EtcdStore::new(endpoints, &prefix);
        let (mut board, _posted) = GoalBoard::new();
        let end = follow_watch(&store, &BTreeSet::from([app]), &mut board, 1).await;
        assert_eq!(end, WatchEnd::Compacted);
    }
}
