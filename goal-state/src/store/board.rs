//! Where a watching task posts what it sees, and its [`GoalWatch`](crate::GoalWatch) reads it.
//!
//! Invariant: a consumer is woken only if the goal of an app differs from what was posted before.
//! Holds the newest of each app and no queue, so a slow consumer costs nothing. Does no IO.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::store::error::GoalReadError;

/// What a watcher saw of one app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GoalUpdate {
    /// The app.
    pub app: AppName,
    /// Its goal; `Ok(None)` if none is set; the error if it could not be read (the watch goes on).
    pub goal: Result<Option<Goal>, GoalReadError>,
}

/// The newest update of each app.
pub(crate) type Newest = BTreeMap<AppName, GoalUpdate>;

/// The end of a watching task at which it posts.
#[derive(Debug)]
pub(crate) struct Board {
    newest: watch::Sender<Newest>,
    is_unreachable: bool,
}

impl Board {
    pub(crate) fn new() -> (Self, watch::Receiver<Newest>) {
        let (newest, posted) = watch::channel(Newest::new());
        (Self { newest, is_unreachable: false }, posted)
    }

    /// Posts what a store that answers says of some apps. Returns whether any of it is news; if
    /// nothing is, the consumer is not woken.
    pub(crate) fn post(&mut self, updates: impl IntoIterator<Item = GoalUpdate>) -> bool {
        self.is_unreachable = false;
        self.newest.send_if_modified(|newest| {
            let mut has_news = false;
            for update in updates {
                if newest.get(&update.app) != Some(&update) {
                    newest.insert(update.app.clone(), update);
                    has_news = true;
                }
            }
            has_news
        })
    }

    /// Posts that the store as a whole cannot be read: once, although the reason may read
    /// differently with each retry.
    pub(crate) fn post_unreachable<'a>(
        &mut self,
        apps: impl IntoIterator<Item = &'a AppName>,
        error: &GoalReadError,
    ) {
        if !self.is_unreachable {
            let failed = |app: &AppName| GoalUpdate { app: app.clone(), goal: Err(error.clone()) };
            self.post(apps.into_iter().map(failed));
            self.is_unreachable = true;
        }
    }
}
