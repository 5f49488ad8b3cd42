//! Where a watching task posts what it sees, and its [`GoalWatch`](crate::GoalWatch) reads it.
//!
//! Invariant: a consumer is woken only if the goal of an app differs from what was posted before.
//! Holds the newest of each app and no queue, so a slow consumer costs nothing. Does no IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::goal_news::ToldGoal;
use crate::store::error::{GoalReadError, GoalStoreError};

/// What a watcher saw of one app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GoalUpdate {
    /// The app.
    pub app: AppName,
    /// Its goal; `Ok(None)` if none is set; the error if it could not be read (the watch goes on).
    pub goal: Result<Option<Goal>, GoalReadError>,
    /// The very bytes that the goal was read from; `None` unless there is one.
    pub document: Option<Arc<[u8]>>,
    /// With an error: what was read last, if whoever cannot read it now tells that. It may be older
    /// than what the watcher knows.
    pub last_known: Option<Goal>,
}

impl GoalUpdate {
    /// That no goal is set.
    pub const fn none(app: AppName) -> Self {
        Self { app, goal: Ok(None), document: None, last_known: None }
    }

    /// That the goal cannot be read.
    pub const fn unread(app: AppName, error: GoalReadError) -> Self {
        Self { app, goal: Err(error), document: None, last_known: None }
    }

    /// What came of reading `document`; without one, no goal is set.
    pub(crate) fn read(
        app: AppName,
        document: Option<&[u8]>,
        parse: impl FnOnce(&AppName, &[u8]) -> Result<Goal, GoalStoreError>,
    ) -> Self {
        let Some(bytes) = document else { return Self::none(app) };
        match parse(&app, bytes) {
            Ok(goal) => {
                let document = Some(bytes.into());
                Self { app, goal: Ok(Some(goal)), document, last_known: None }
            }
            Err(error) => Self::unread(app, error.into()),
        }
    }

    /// What a seeder told. The document is read here once more, as strictly as from a store.
    pub fn told(told: ToldGoal) -> Self {
        let ToldGoal { app, goal, trouble, .. } = told;
        let document = goal.as_deref().map(str::as_bytes);
        let read = Self::read(app, document, |app, bytes| {
            Goal::from_json(app, bytes).map_err(|error| GoalStoreError::Malformed {
                place: format!("the goal of {app} that the seeder told"),
                reason: format!("{error}; compare the versions of host and seeder"),
            })
        });
        let Some(reason) = trouble else { return read };
        let last_known = read.goal.ok().flatten();
        let error = GoalStoreError::Told { reason };
        Self { last_known, ..Self::unread(read.app, error.into()) }
    }
}

/// The newest update of each app.
pub(crate) type Newest = BTreeMap<AppName, GoalUpdate>;

/// The end of a watching task at which it posts.
#[derive(Debug)]
pub struct GoalBoard {
    newest: watch::Sender<Newest>,
    is_unreachable: bool,
}

impl GoalBoard {
    pub(crate) fn new() -> (Self, watch::Receiver<Newest>) {
        let (newest, posted) = watch::channel(Newest::new());
        (Self { newest, is_unreachable: false }, posted)
    }

    /// Posts what a store that answers says of some apps. Returns whether any of it is news; if
    /// nothing is, the consumer is not woken.
    pub fn post(&mut self, updates: impl IntoIterator<Item = GoalUpdate>) -> bool {
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
    pub fn post_unreachable<'a>(
        &mut self,
        apps: impl IntoIterator<Item = &'a AppName>,
        error: &GoalReadError,
    ) {
        if !self.is_unreachable {
            let failed = |app: &AppName| GoalUpdate::unread(app.clone(), error.clone());
            self.post(apps.into_iter().map(failed));
            self.is_unreachable = true;
        }
    }
}
