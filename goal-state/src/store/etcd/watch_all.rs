//! Follows all goals in etcd at once, for whoever relays them.
//!
//! A watch tells of changes as they happen; beside it the revisions of all goals are looked at
//! every [`POLL_INTERVAL`] with jitter, and the goals read again if one is not as the watch said: a
//! watch that is silent for no reason costs that long at most.
//!
//! Invariant: nothing older is posted after something newer. A list is of one revision, and a watch
//! says nothing that it has seen; one that is older than what was seen is of another cluster, and
//! everything starts over.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{EventType, KeyValue, WatchResponse, WatchStream};
use tokio::time::Instant;

use crate::store::all_goals::AllGoalsBoard;
use crate::store::error::GoalStoreError;
use crate::store::etcd::watch::{Pauses, WatchEnd, open};
use crate::store::etcd::{EtcdStore, Values};
use crate::store::pacing::{POLL_INTERVAL, jittered};

/// Posts all goals until it is dropped.
pub(crate) async fn follow(store: EtcdStore, board: AllGoalsBoard) {
    follow_with(POLL_INTERVAL, store, board).await;
}

async fn follow_with(poll_interval: Duration, store: EtcdStore, board: AllGoalsBoard) {
    let seen = Seen { revision: 0, values: BTreeMap::new() };
    let mut following = Following { store, board, seen, poll_interval };
    let mut pauses = Pauses::default();
    loop {
        let pause = match following.list().await {
            Ok(()) => {
                let end = following.follow_watch().await;
                tracing::debug!(?end, "the watch for all goals ended");
                pauses.after_watch(end)
            }
            Err(error) => {
                following.on_failure(error);
                pauses.after_failure()
            }
        };
        tokio::time::sleep(jittered(pause)).await;
    }
}

/// What was seen, by revisions.
#[derive(Debug)]
struct Seen {
    /// Of the cluster, when goals were last listed.
    revision: i64,
    /// Of each value, by its key.
    values: BTreeMap<Vec<u8>, i64>,
}

struct Following {
    store: EtcdStore,
    board: AllGoalsBoard,
    seen: Seen,
    poll_interval: Duration,
}

impl Following {
    /// Reads all goals.
    async fn list(&mut self) -> Result<(), GoalStoreError> {
        let (found, revision) = self.store.goals_at_once(Values::Read).await?;
        let updates = found.iter().filter_map(|found| {
            let app = self.store.app_of(found.key())?;
            Some(self.store.update(&app, Some(found)))
        });
        self.board.post_all(updates.collect());
        self.seen = Seen { revision, values: revisions(&found) };
        Ok(())
    }

    fn on_failure(&mut self, error: GoalStoreError) {
        tracing::debug!(reason = %error, "the goals cannot be read");
        self.board.post_unreachable(error.into());
    }

    async fn follow_watch(&mut self) -> WatchEnd {
        let Some((member, mut stream)) = open(&self.store, self.seen.revision).await else {
            return WatchEnd::NotMade;
        };
        let opened_at = Instant::now();
        let end = self.watch_and_poll(&mut stream).await;
        if end.is_none() {
            self.store.give_up_member(member).await;
        }
        end.unwrap_or(WatchEnd::Broken { lasted: opened_at.elapsed() })
    }

    /// Until the watch ends; `None` if it broke.
    async fn watch_and_poll(&mut self, stream: &mut WatchStream) -> Option<WatchEnd> {
        let mut poll_at = Instant::now() + jittered(self.poll_interval);
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = tokio::time::sleep_until(poll_at) => {
                    match self.poll().await {
                        Ok(true) => {}
                        // Another cluster answers than the one that is watched.
                        Ok(false) => return None,
                        Err(error) => {
                            self.on_failure(error);
                            return None;
                        }
                    }
                    poll_at = Instant::now() + jittered(self.poll_interval);
                    continue;
                }
            };
            match message {
                Ok(Some(message)) if message.compact_revision() > 0 => {
                    return Some(WatchEnd::Compacted);
                }
                Ok(Some(message)) if !message.canceled() => self.on_message(&message),
                ended => {
                    tracing::debug!(?ended, "the watch for all goals broke");
                    return None;
                }
            }
        }
    }

    /// Compares revisions, and reads everything again if they are not as they were seen. Returns
    /// whether the cluster is still the one that was seen.
    async fn poll(&mut self) -> Result<bool, GoalStoreError> {
        let (found, revision) = self.store.goals_at_once(Values::Left).await?;
        if revision < self.seen.revision {
            return Ok(false);
        }
        if revisions(&found) != self.seen.values {
            self.list().await?;
        }
        Ok(true)
    }

    fn on_message(&mut self, message: &WatchResponse) {
        let mut updates = Vec::new();
        for event in message.events() {
            let Some(found) = event.kv() else { continue };
            if found.mod_revision() <= self.seen.revision {
                continue;
            }
            let is_put = event.event_type() == EventType::Put;
            if is_put {
                self.seen.values.insert(found.key().to_owned(), found.mod_revision());
            } else {
                self.seen.values.remove(found.key());
            }
            if let Some(app) = self.store.app_of(found.key()) {
                updates.push(self.store.update(&app, is_put.then_some(found)));
            }
        }
        self.board.post(updates);
    }
}

fn revisions(found: &[KeyValue]) -> BTreeMap<Vec<u8>, i64> {
    found.iter().map(|found| (found.key().to_owned(), found.mod_revision())).collect()
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;
    use crate::documents::app_name::AppName;
    use crate::documents::rollout::RolloutChange;
    use crate::store::GoalStore;
    use crate::store::all_goals::{AllGoals, AllGoalsWatch};
    use crate::testing::EtcdServer;

    fn app() -> AppName {
        "web".parse().unwrap()
    }

    async fn deploy(operator: &GoalStore, build: &[u8]) {
        let build = BuildId::of_manifest(build);
        operator.deploy(&app(), build, RolloutChange::default()).await.unwrap();
    }

    async fn next(watch: &mut AllGoalsWatch) -> AllGoals {
        let deadline = Duration::from_mins(1);
        tokio::time::timeout(deadline, watch.next()).await.expect("something is seen")
    }

    /// Goal: a change that the watch did not tell is found by looking, and one that was found is
    /// not taken back by a watch that tells of it late.
    /// Method: the steps of the task, one by one, with a watch that is never read.
    #[tokio::test]
    async fn what_the_watch_does_not_tell_is_found() {
        let etcd = EtcdServer::start().await;
        let operator = GoalStore::new(&etcd.url("shoal"));
        deploy(&operator, b"1").await;
        let (board, mut watch) = AllGoalsBoard::unfed();
        let store = EtcdStore::new(vec![etcd.endpoint()], "shoal");
        let seen = Seen { revision: 0, values: BTreeMap::new() };
        let mut following =
            Following { store, board, seen, poll_interval: Duration::from_hours(1) };
        following.list().await.unwrap();
        let generation = |seen: &AllGoals| {
            seen.apps.get(&app()).map(|update| update.goal.clone().unwrap().unwrap().generation)
        };
        assert_eq!(generation(&next(&mut watch).await), Some(1));
        let (_, mut stream) = open(&following.store, following.seen.revision).await.unwrap();
        deploy(&operator, b"2").await;
        deploy(&operator, b"3").await;
        assert!(following.poll().await.unwrap());
        assert_eq!(generation(&next(&mut watch).await), Some(3));
        let mut told = 0;
        while told < 2 {
            let message = stream.message().await.unwrap().unwrap();
            told += message.events().len();
            following.on_message(&message);
        }
        assert!(!watch.has_news(), "what was seen is taken back");
        etcd.delete("shoal/goals/web").await;
        assert!(following.poll().await.unwrap());
        let seen = next(&mut watch).await;
        assert!(seen.is_known && seen.apps.is_empty(), "{seen:?}");

        etcd.compact().await;
        following.seen.revision = 1;
        assert_eq!(following.follow_watch().await, WatchEnd::Compacted);
        following.seen.revision = i64::MAX;
        assert!(!following.poll().await.unwrap(), "a cluster that is younger than what was seen");
    }
}
