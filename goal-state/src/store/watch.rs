//! A running watch: what its consumer sees.
//!
//! Owns the rule of what is told: each app's state once at the start, then each change of it. The
//! watching itself happens in a task (`files/watch.rs`, `etcd/watch.rs`) that posts states on a
//! [`Board`]; a consumer that is slow sees the latest state, not every one in between.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::store::etcd::{self, EtcdStore};
use crate::store::files::{self, FileStore};

/// What a watcher saw of one app.
#[derive(Clone, Debug)]
pub struct GoalUpdate {
    /// The app.
    pub app: AppName,
    /// Its goal; `Ok(None)` if none is set; the error if it could not be read (the watch goes on).
    pub goal: Result<Option<Goal>, String>,
}

/// The goal of one app as it is known; the error is for people.
pub(crate) type AppState = Result<Option<Goal>, String>;

/// The states known so far, by app.
type States = BTreeMap<AppName, AppState>;

/// A running watch: yields each app's state at the start and after each change. Ends when dropped.
///
/// A goal may also change to a lower generation (a store that was restored from a backup): it is
/// passed on as it is, and the consumer decides.
#[derive(Debug)]
pub struct GoalWatch {
    posted: watch::Receiver<States>,
    told: States,
    task: JoinHandle<()>,
}

impl GoalWatch {
    pub(crate) fn of_files(store: FileStore, apps: Vec<AppName>) -> Self {
        let (board, posted) = Board::new();
        let task = tokio::spawn(files::watch::follow(store, apps.into_iter().collect(), board));
        Self { posted, told: States::new(), task }
    }

    pub(crate) fn of_etcd(store: EtcdStore, apps: Vec<AppName>) -> Self {
        let (board, posted) = Board::new();
        let task = tokio::spawn(etcd::watch::follow(store, apps.into_iter().collect(), board));
        Self { posted, told: States::new(), task }
    }

    /// The next update; waits for one, for ever if no apps are watched. States that were replaced
    /// before this was called are skipped.
    ///
    /// # Panics
    ///
    /// If the watching task is gone, which only a bug of this crate or the end of the runtime does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no update is lost if the future is dropped.
    pub async fn next(&mut self) -> GoalUpdate {
        loop {
            if let Some(update) = first_untold(&self.posted.borrow_and_update(), &self.told) {
                self.told.insert(update.app.clone(), update.goal.clone());
                return update;
            }
            self.posted.changed().await.expect("the watching task runs until the watch is dropped");
        }
    }
}

impl Drop for GoalWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn first_untold(posted: &States, told: &States) -> Option<GoalUpdate> {
    let (app, goal) = posted.iter().find(|(app, goal)| told.get(*app) != Some(*goal))?;
    Some(GoalUpdate { app: app.clone(), goal: goal.clone() })
}

/// Where a watching task posts what it sees.
#[derive(Debug)]
pub(crate) struct Board {
    states: watch::Sender<States>,
    is_unreachable: bool,
}

impl Board {
    pub(crate) fn new() -> (Self, watch::Receiver<States>) {
        let (states, posted) = watch::channel(States::new());
        (Self { states, is_unreachable: false }, posted)
    }

    /// Posts the states of some apps, read from a store that answers. Whether any is another than
    /// before; if none is, the consumer is not woken.
    pub(crate) fn post(&mut self, states: impl IntoIterator<Item = (AppName, AppState)>) -> bool {
        self.is_unreachable = false;
        let take_over = |known: &mut States, (app, state): (AppName, AppState)| {
            let is_new = known.get(&app) != Some(&state);
            if is_new {
                known.insert(app, state);
            }
            is_new
        };
        self.states.send_if_modified(|known| {
            // Each is looked at, also behind the first that is new.
            states.into_iter().filter_map(|state| take_over(known, state).then_some(())).count() > 0
        })
    }

    /// Posts that the store as a whole cannot be read: once, although the reason may read
    /// differently with each retry.
    pub(crate) fn post_unreachable<'a>(
        &mut self,
        apps: impl IntoIterator<Item = &'a AppName>,
        reason: &str,
    ) {
        if !self.is_unreachable {
            let failed = |app: &AppName| (app.clone(), Err(reason.to_owned()));
            self.post(apps.into_iter().map(failed));
            self.is_unreachable = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    fn goal(name: &str, generation: u64) -> Goal {
        Goal {
            generation,
            ..Goal::first(
                0,
                app(name),
                BuildId::of_manifest(b"x"),
                &crate::documents::rollout::RolloutChange::default(),
            )
        }
    }

    /// What is told of the posts so far, as text.
    fn told(watch: &mut GoalWatch) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(update) = first_untold(&watch.posted.borrow_and_update(), &watch.told) {
            watch.told.insert(update.app.clone(), update.goal.clone());
            told.push(match update.goal {
                Ok(Some(goal)) => format!("{} {}", update.app, goal.generation),
                Ok(None) => format!("{} none", update.app),
                Err(reason) => format!("{} {reason}", update.app),
            });
        }
        told
    }

    #[tokio::test]
    async fn states_are_told_once_and_the_latest_wins() {
        let (mut board, posted) = Board::new();
        let task = tokio::spawn(std::future::pending());
        let mut watch = GoalWatch { posted, told: States::new(), task };
        let apps = [app("a"), app("b")];

        assert!(told(&mut watch).is_empty());
        assert!(board.post([(app("a"), Ok(None)), (app("b"), Ok(Some(goal("b", 7))))]));
        assert_eq!(told(&mut watch), ["a none", "b 7"]);
        let is_new = board.post([(app("a"), Ok(None)), (app("b"), Ok(Some(goal("b", 7))))]);
        assert!(!is_new && !watch.posted.has_changed().unwrap(), "the consumer is woken");
        assert!(told(&mut watch).is_empty());
        board.post([(app("b"), Ok(Some(goal("b", 8))))]);
        board.post([(app("b"), Ok(Some(goal("b", 9))))]);
        assert_eq!(told(&mut watch), ["b 9"]);
        board.post_unreachable(&apps, "refused");
        board.post_unreachable(&apps, "timed out");
        assert_eq!(told(&mut watch), ["a refused", "b refused"]);
        board.post_unreachable(&apps, "timed out");
        assert!(told(&mut watch).is_empty());
        board.post([(app("a"), Ok(None)), (app("b"), Ok(Some(goal("b", 2))))]);
        assert_eq!(told(&mut watch), ["a none", "b 2"]);
        board.post_unreachable(&apps, "timed out");
        assert_eq!(told(&mut watch), ["a timed out", "b timed out"]);
    }
}
