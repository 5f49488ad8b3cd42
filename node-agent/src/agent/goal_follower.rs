//! Follows the goal store: accepts goals and hands them to the apps' loops.
//!
//! Invariant: a goal is durable in `goal.json` before an app's loop hears of it. One that cannot be
//! stored is tried again and not followed meanwhile; an answer that is no goal changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::{AppName, Goal, GoalUpdate, GoalWatch, Trouble, TroubleKind, now_ms};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

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
        let GoalUpdate { app, goal, last_known, .. } = update;
        self.unstored.remove(&app);
        self.note_answer(&app, goal.is_ok());
        if let Some(goal) = last_known {
            self.offer_last_known(goal);
        }
        let trouble = match goal {
            Ok(Some(goal)) => return self.offer(goal),
            Ok(None) => self.accepted.of(&app).map(|followed| {
                let text = format!(
                    "the goal store has no goal for {app} any more; still following generation {}",
                    followed.generation
                );
                Trouble::new(TroubleKind::GoalGone, text)
            }),
            Err(error) => {
                let text = format!("cannot read the goal: {error}");
                Some(Trouble::new(TroubleKind::GoalUnread, text))
            }
        };
        self.publish(&app, trouble);
    }

    /// Follows a goal that was read before it could not be read any more, unless this host knows a
    /// newer one. What is wrong with it is no news beside that it cannot be read.
    fn offer_last_known(&mut self, goal: Goal) {
        let before = self.accepted.of(&goal.app);
        match self.accepted.accept(&goal, now_ms()) {
            Err(AcceptError::Write(_)) => drop(self.unstored.insert(goal.app.clone(), goal)),
            Ok(followed) if before.as_ref() != Some(&followed) => {
                let (app, build) = (&goal.app, followed.build.short());
                info!(%app, generation = followed.generation, build, "the last known goal");
            }
            Err(AcceptError::Refused(_)) | Ok(_) => {}
        }
    }

    fn on_retry(&mut self) {
        for (_, goal) in std::mem::take(&mut self.unstored) {
            self.offer(goal);
        }
    }

    fn offer(&mut self, goal: Goal) {
        let app = goal.app.clone();
        let trouble = match self.accepted.accept(&goal, now_ms()) {
            Ok(followed) => {
                info!(%app, generation = followed.generation, build = followed.build.short(), "goal");
                None
            }
            Err(error) => {
                let kind = match error {
                    AcceptError::Write(_) => {
                        self.unstored.insert(app.clone(), goal);
                        TroubleKind::GoalUnstored
                    }
                    AcceptError::Refused(_) => TroubleKind::GoalRefused,
                };
                Some(Trouble::new(kind, format!("{:#}", anyhow::Error::new(error))))
            }
        };
        self.publish(&app, trouble);
    }

    fn note_answer(&self, app: &AppName, is_answer: bool) {
        let Some(sender) = self.apps.get(app) else { return };
        sender.send_if_modified(|shown| {
            is_answer && !std::mem::replace(&mut shown.has_answered, true)
        });
    }

    /// The app's loop tells the log of a trouble.
    fn publish(&self, app: &AppName, trouble: Option<Trouble>) {
        let Some(sender) = self.apps.get(app) else { return };
        sender.send_if_modified(|shown| {
            let view = GoalView { followed: self.accepted.of(app), trouble, ..shown.clone() };
            if *shown == view {
                return false;
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
                changed: goal_state::Origin::default(),
                changed_at_ms: 0,
                rollout: goal_state::Rollout::default(),
                history: vec![],
            })
        });
        let refused = |reason| GoalStoreError::Refused { url: "etcd://h:1/".into(), reason };
        let goal = goal.map_err(|reason| refused(reason).into());
        GoalUpdate { goal, ..GoalUpdate::none(app()) }
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
        assert_eq!((view.followed.clone().unwrap().generation, view.trouble), (3, None));
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
        for (trouble, kind, expected) in [
            (Err("connection refused".into()), TroubleKind::GoalUnread, "connection refused"),
            (Ok(None), TroubleKind::GoalGone, "no goal for web any more"),
            (Ok(Some((2, 1))), TroubleKind::GoalRefused, "generation 2"),
            (Ok(Some((3, 2))), TroubleKind::GoalRefused, "generation 3 is build"),
        ] {
            follower.on_update(update(trouble));
            let view = goal.borrow().clone();
            assert_eq!(view.followed, followed);
            let trouble = view.trouble.clone().unwrap();
            assert_eq!(trouble.kind, kind, "{view:?}");
            assert!(trouble.text.contains(expected), "{view:?}");
        }
        follower.on_update(update(Ok(Some((3, 1)))));
        assert_eq!(goal.borrow().trouble, None);
    }

    /// Goal: a new host follows what its seeder read last although that cannot read it now; a host
    /// that knows more keeps to that, and both see why.
    #[test]
    fn last_known_goal_is_followed_unless_a_newer_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut follower = follower(folder.path());
        let goal = follower.subscribe(&app());
        let unread = |generation| GoalUpdate {
            last_known: update(Ok(Some((generation, 1)))).goal.unwrap(),
            ..update(Err("no leader".into()))
        };
        for (told, followed) in [(3, 3), (2, 3), (4, 4)] {
            follower.on_update(unread(told));
            let view = goal.borrow().clone();
            assert_eq!(view.followed.unwrap().generation, followed);
            assert_eq!(view.trouble.unwrap().kind, TroubleKind::GoalUnread);
            assert!(!view.has_answered, "the store has not answered");
        }
    }

    #[test]
    fn goal_that_could_not_be_stored_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut follower = follower(&state);
        let goal = follower.subscribe(&app());
        follower.on_update(update(Ok(Some((1, 1)))));
        let trouble = goal.borrow().trouble.clone().unwrap();
        assert_eq!(trouble.kind, TroubleKind::GoalUnstored);
        assert!(trouble.text.contains("goal.json"), "{trouble:?}");
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
