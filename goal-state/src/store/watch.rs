//! A running watch: what its consumer sees.
//!
//! Owns the rule of what is passed on: each app's goal once at the start, then each change of it.
//! The watching itself is done by a task of the store, which posts on a [`GoalBoard`]; a consumer
//! that is slow sees the newest goal, not every one in between.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::store::board::{GoalBoard, GoalUpdate, Newest};

/// A running watch: yields each app's goal at the start and after each change. Ends when dropped.
///
/// A goal may also change to a lower generation (a store that was restored from a backup): it is
/// passed on as it is, and the consumer decides.
#[derive(Debug)]
pub struct GoalWatch {
    posted: watch::Receiver<Newest>,
    /// What the consumer has seen.
    seen: Newest,
    feed: JoinHandle<()>,
}

impl GoalWatch {
    /// A watch of what `feed` posts on the board that it is given: a store, or whoever hears of
    /// goals in another way. The feed runs in a task of its own until the watch is dropped, and
    /// must not end before.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn fed_by<Feed>(feed: impl FnOnce(GoalBoard) -> Feed) -> Self
    where
        Feed: Future<Output = ()> + Send + 'static,
    {
        let (board, posted) = GoalBoard::new();
        Self { posted, seen: Newest::new(), feed: tokio::spawn(feed(board)) }
    }

    /// The next update; waits for one, for ever if no apps are watched. Goals that were replaced
    /// before this was called are skipped.
    ///
    /// # Panics
    ///
    /// If the watching task is gone, which only a bug of it or the end of the runtime does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no update is lost if the future is dropped.
    pub async fn next(&mut self) -> GoalUpdate {
        loop {
            if let Some(update) = self.take_unseen() {
                return update;
            }
            self.posted.changed().await.expect("the watching task runs until the watch is dropped");
        }
    }

    fn take_unseen(&mut self) -> Option<GoalUpdate> {
        let posted = self.posted.borrow_and_update();
        let update = posted.values().find(|update| self.seen.get(&update.app) != Some(update))?;
        self.seen.insert(update.app.clone(), update.clone());
        Some(update.clone())
    }
}

impl Drop for GoalWatch {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;
    use crate::documents::app_name::AppName;
    use crate::documents::goal::Goal;
    use crate::documents::history::ChangeOrder;
    use crate::documents::rollout::RolloutChange;
    use crate::store::error::{GoalReadError, GoalStoreError};

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    /// That the goal of an app is of this generation; zero for no goal.
    fn update(name: &str, generation: u64) -> GoalUpdate {
        let build = BuildId::of_manifest(b"x");
        let goal =
            Goal::first(0, app(name), build, &RolloutChange::default(), &ChangeOrder::default())
                .unwrap();
        let goal = (generation > 0).then_some(Goal { generation, ..goal });
        GoalUpdate { goal: Ok(goal), ..GoalUpdate::none(app(name)) }
    }

    fn refused(reason: &str) -> GoalReadError {
        GoalStoreError::Refused { url: "etcd".into(), reason: reason.into() }.into()
    }

    /// What the consumer sees of the posts so far, as text.
    fn news(watch: &mut GoalWatch) -> Vec<String> {
        let updates = std::iter::from_fn(|| watch.take_unseen());
        let text = |update: GoalUpdate| match update.goal {
            Ok(Some(goal)) => format!("{} {}", update.app, goal.generation),
            Ok(None) => format!("{} none", update.app),
            Err(error) => format!("{} {error}", update.app),
        };
        updates.map(text).collect()
    }

    #[tokio::test]
    async fn each_goal_is_seen_once_and_the_newest_wins() {
        let (mut board, posted) = GoalBoard::new();
        let feed = tokio::spawn(std::future::pending());
        let mut watch = GoalWatch { posted, seen: Newest::new(), feed };
        let apps = [app("a"), app("b")];
        let with_refusal = |reason: &str| {
            ["a", "b"].map(|app| format!("{app} the goal store etcd refused the request: {reason}"))
        };

        assert!(news(&mut watch).is_empty());
        assert!(board.post([update("a", 0), update("b", 7)]));
        assert_eq!(news(&mut watch), ["a none", "b 7"]);
        let is_news = board.post([update("a", 0), update("b", 7)]);
        assert!(!is_news && !watch.posted.has_changed().unwrap(), "the consumer is woken");
        assert!(news(&mut watch).is_empty());
        board.post([update("b", 8)]);
        board.post([update("b", 9)]);
        assert_eq!(news(&mut watch), ["b 9"]);
        board.post_unreachable(&apps, &refused("full"));
        board.post_unreachable(&apps, &refused("no leader"));
        assert_eq!(news(&mut watch), with_refusal("full"));
        board.post_unreachable(&apps, &refused("no leader"));
        assert!(news(&mut watch).is_empty());
        board.post([update("a", 0), update("b", 2)]);
        assert_eq!(news(&mut watch), ["a none", "b 2"]);
        board.post_unreachable(&apps, &refused("no leader"));
        assert_eq!(news(&mut watch), with_refusal("no leader"));
    }
}
