//! Follows the goal store: accepts goals and hands them to the apps' loops.
//!
//! Invariant: a goal is durable in `goal.json` before an app's loop hears of it. One that cannot be
//! stored is tried again and not followed meanwhile; an answer that is no goal changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::{AppName, Goal, GoalUpdate, GoalWatch, now_ms};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::app::settings::GoalView;
use crate::state::goals::{AcceptError, AcceptedGoals};

/// Wait before a goal that could not be stored is tried again.
const GOAL_RETRY: Duration = Duration::from_secs(5);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct GoalFollower {
    accepted: AcceptedGoals,
    apps: BTreeMap<AppName, watch::Sender<GoalView>>,
    /// Goals that could not be stored yet. The watch does not repeat them.
    unstored: BTreeMap<AppName, Goal>,
}

impl GoalFollower {
    /// Begins with what an earlier agent accepted.
    pub(super) const fn new(accepted: AcceptedGoals) -> Self {
        Self { accepted, apps: BTreeMap::new(), unstored: BTreeMap::new() }
    }

    /// The goal of `app`, which begins with what was accepted before the agent started: a host does
    /// not need the goal store to run what it ran.
    pub(super) fn subscribe(&mut self, app: &AppName) -> watch::Receiver<GoalView> {
        let view = GoalView { followed: self.accepted.of(app), ..GoalView::default() };
        self.apps.entry(app.clone()).or_insert_with(|| watch::Sender::new(view)).subscribe()
    }

    /// Follows `watch` for as long as the agent runs.
    pub(super) async fn run(mut self, mut watch: GoalWatch) {
        loop {
            let has_unstored = !self.unstored.is_empty();
            tokio::select! {
                update = watch.next() => self.on_update(update),
                () = sleep(GOAL_RETRY), if has_unstored => self.on_retry(),
            }
        }
    }

    fn on_update(&mut self, update: GoalUpdate) {
        let GoalUpdate { app, goal } = update;
        self.unstored.remove(&app);
        self.note_answer(&app, goal.is_ok());
        let note = match goal {
            Ok(Some(goal)) => return self.offer(goal),
            Ok(None) => self.accepted.of(&app).map(|followed| {
                format!(
                    "the goal store has no goal for {app} any more; still following generation {}",
                    followed.generation
                )
            }),
            Err(error) => Some(format!("cannot read the goal: {error}")),
        };
        self.publish(&app, note);
    }

    fn on_retry(&mut self) {
        for (_, goal) in std::mem::take(&mut self.unstored) {
            self.offer(goal);
        }
    }

    fn offer(&mut self, goal: Goal) {
        let app = goal.app.clone();
        let note = match self.accepted.accept(&goal, now_ms()) {
            Ok(followed) => {
                info!(%app, generation = followed.generation, build = followed.build.short(), "goal");
                None
            }
            Err(error) => {
                let is_worth_a_retry = matches!(error, AcceptError::Write(_));
                if is_worth_a_retry {
                    self.unstored.insert(app.clone(), goal);
                }
                Some(format!("{:#}", anyhow::Error::new(error)))
            }
        };
        self.publish(&app, note);
    }

    fn note_answer(&self, app: &AppName, is_answer: bool) {
        let Some(sender) = self.apps.get(app) else { return };
        sender.send_if_modified(|shown| {
            is_answer && !std::mem::replace(&mut shown.has_answered, true)
        });
    }

    fn publish(&self, app: &AppName, note: Option<String>) {
        let Some(sender) = self.apps.get(app) else { return };
        sender.send_if_modified(|shown| {
            let view = GoalView { followed: self.accepted.of(app), note, ..shown.clone() };
            if *shown == view {
                return false;
            }
            if let Some(note) = &view.note {
                warn!(%app, "{note}");
            }
            *shown = view;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use goal_state::GoalStoreError;
    use p2p_core::BuildId;

    use super::*;

    fn app() -> AppName {
        "web".parse().unwrap()
    }

    fn update(goal: Result<Option<(u64, u8)>, String>) -> GoalUpdate {
        let goal = goal.map(|goal| {
            goal.map(|(generation, seed)| Goal {
                app: app(),
                generation,
                build: BuildId::of_manifest(&[seed]),
                set_at_ms: 0,
                origin: goal_state::Origin::default(),
                rollout: goal_state::Rollout::default(),
                history: vec![],
            })
        });
        let refused = |reason| GoalStoreError::Refused { url: "etcd://h:1/".into(), reason };
        GoalUpdate { app: app(), goal: goal.map_err(|reason| refused(reason).into()) }
    }

    fn follower(folder: &std::path::Path) -> GoalFollower {
        GoalFollower::new(AcceptedGoals::load(&folder.join("goal.json")).unwrap())
    }

    #[test]
    fn goal_reaches_the_app_after_it_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = follower(folder.path());
        let goal = follower.subscribe(&app());
        assert_eq!(*goal.borrow(), GoalView::default());
        follower.on_update(update(Ok(Some((3, 1)))));
        let view = goal.borrow().clone();
        assert_eq!((view.followed.clone().unwrap().generation, view.note), (3, None));
        let stored = AcceptedGoals::load(&folder.path().join("goal.json")).unwrap();
        assert_eq!(stored.of(&app()), view.followed);
    }

    #[test]
    fn trouble_with_the_goal_store_is_reported_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = follower(folder.path());
        let goal = follower.subscribe(&app());
        follower.on_update(update(Err("connection refused".into())));
        assert!(!goal.borrow().has_answered);
        follower.on_update(update(Ok(None)));
        let answered = GoalView { has_answered: true, ..GoalView::default() };
        assert_eq!(*goal.borrow(), answered, "no goal yet is no trouble");
        follower.on_update(update(Ok(Some((3, 1)))));
        let followed = goal.borrow().followed.clone();
        for (trouble, expected) in [
            (Err("connection refused".into()), "connection refused"),
            (Ok(None), "no goal for web any more"),
            (Ok(Some((2, 1))), "generation 2"),
        ] {
            follower.on_update(update(trouble));
            let view = goal.borrow().clone();
            assert_eq!(view.followed, followed);
            assert!(view.note.as_ref().unwrap().contains(expected), "{view:?}");
        }
        follower.on_update(update(Ok(Some((3, 1)))));
        assert_eq!(goal.borrow().note, None);
    }

    #[test]
    fn goal_that_could_not_be_stored_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut follower = follower(&state);
        let goal = follower.subscribe(&app());
        follower.on_update(update(Ok(Some((1, 1)))));
        assert!(goal.borrow().note.as_ref().unwrap().contains("goal.json"));
        assert_eq!(goal.borrow().followed, None);
        std::fs::create_dir(&state).unwrap();
        follower.on_retry();
        assert_eq!(goal.borrow().followed.clone().unwrap().generation, 1);
        assert!(follower.unstored.is_empty());
    }

    #[test]
    fn app_of_another_host_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = follower(folder.path());
        follower.on_update(update(Ok(None)));
    }
}
