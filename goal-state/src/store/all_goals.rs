//! All goals of a store as a watch saw them last, for whoever relays them.
//!
//! Invariant: what was read stays while the store cannot be read, with the reason beside it; what
//! was removed from the store is gone here, too. A consumer is woken for news only. Does no IO.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::documents::app_name::AppName;
use crate::store::board::GoalUpdate;
use crate::store::error::GoalReadError;

/// All goals of a store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllGoals {
    /// What was read last, by app. Apps without a goal are not here.
    pub apps: BTreeMap<AppName, GoalUpdate>,
    /// Why the store as a whole cannot be read now.
    pub unread: Option<GoalReadError>,
    /// Whether it was read since the watch began. Until then, an app that is not here may have a
    /// goal all the same.
    pub is_known: bool,
}

/// A running watch of all goals. Ends when dropped.
#[derive(Debug)]
pub struct AllGoalsWatch {
    seen: watch::Receiver<AllGoals>,
    feed: Option<JoinHandle<()>>,
}

/// The end of the watching task.
#[derive(Debug)]
pub(crate) struct AllGoalsBoard {
    seen: watch::Sender<AllGoals>,
}

impl AllGoalsWatch {
    /// A watch of what `feed` posts. Must be called within a runtime.
    pub(crate) fn fed_by<Feed>(feed: impl FnOnce(AllGoalsBoard) -> Feed) -> Self
    where
        Feed: Future<Output = ()> + Send + 'static,
    {
        let (board, mut watch) = AllGoalsBoard::unfed();
        watch.feed = Some(tokio::spawn(feed(board)));
        watch
    }

    /// What there is, once it is not what it was.
    ///
    /// # Panics
    ///
    /// If the watching task is gone, which only a bug of this crate or the end of the runtime does.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no news is lost if the future is dropped.
    pub async fn next(&mut self) -> AllGoals {
        self.seen.changed().await.expect("the watching task runs until the watch is dropped");
        self.seen.borrow_and_update().clone()
    }

    #[cfg(test)]
    pub(crate) fn has_news(&self) -> bool {
        self.seen.has_changed().unwrap()
    }
}

impl Drop for AllGoalsWatch {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.abort();
        }
    }
}

impl AllGoalsBoard {
    /// A board whose watch runs nothing.
    pub(crate) fn unfed() -> (Self, AllGoalsWatch) {
        let (sender, seen) = watch::channel(AllGoals::default());
        (Self { seen: sender }, AllGoalsWatch { seen, feed: None })
    }

    /// Posts all that the store has.
    pub(crate) fn post_all(&self, updates: Vec<GoalUpdate>) -> bool {
        self.change(|goals| {
            goals.apps = updates.into_iter().map(|update| (update.app.clone(), update)).collect();
        })
    }

    /// Posts changes; what is not among them is as it was.
    pub(crate) fn post(&self, updates: Vec<GoalUpdate>) -> bool {
        self.change(|goals| {
            for update in updates {
                match update.goal {
                    Ok(None) => drop(goals.apps.remove(&update.app)),
                    _ => drop(goals.apps.insert(update.app.clone(), update)),
                }
            }
        })
    }

    /// Posts changes as [`Self::post`], of a store that has goals of these apps and no others.
    pub(crate) fn post_present(
        &self,
        is_present: impl Fn(&AppName) -> bool,
        updates: Vec<GoalUpdate>,
    ) -> bool {
        let has_gone = self.change(|goals| goals.apps.retain(|app, _| is_present(app)));
        self.post(updates) || has_gone
    }

    /// Posts that the store cannot be read: once, although the reason may read differently with
    /// each retry.
    pub(crate) fn post_unreachable(&self, error: GoalReadError) -> bool {
        self.seen.send_if_modified(|goals| {
            let is_news = goals.unread.is_none();
            goals.unread.get_or_insert(error);
            is_news
        })
    }

    /// What a store that answers says.
    fn change(&self, change: impl FnOnce(&mut AllGoals)) -> bool {
        self.seen.send_if_modified(|goals| {
            let before = goals.clone();
            change(goals);
            goals.unread = None;
            goals.is_known = true;
            *goals != before
        })
    }
}
