//! The one type that programs use: dispatches to the kind of store that its URL names.
//!
//! Owns what is the same for all stores: how a goal changes, the limits of a status document, how a
//! damaged goal is reported. Does no IO itself.

use p2p_core::BuildId;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::rollout::RolloutChange;
use crate::documents::status::check_writer_name;
use crate::documents::status::{HostStatus, STATUS_ROWS_MAX};
use crate::store::error::GoalStoreError;
use crate::store::etcd::EtcdStore;
use crate::store::files::FileStore;
use crate::store::pacing::now_ms;
use crate::store::url::GoalUrl;
use crate::store::watch::GoalWatch;

pub(crate) mod error;
pub(crate) mod etcd;
pub(crate) mod files;
pub(crate) mod pacing;
pub(crate) mod url;
pub(crate) mod watch;

/// A goal store. Cheap to clone. Connects when first used, so that a store that is down at the
/// start of a daemon is an error of the call, not of the daemon.
#[derive(Clone, Debug)]
pub struct GoalStore {
    url: GoalUrl,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    File(FileStore),
    Etcd(EtcdStore),
}

/// The goals of a store.
#[derive(Debug, Default)]
pub struct GoalList {
    /// Those that can be read, by app.
    pub goals: Vec<Goal>,
    /// Those that cannot, by app.
    pub damaged: Vec<DamagedGoal>,
}

/// A goal that cannot be read.
#[derive(Debug)]
pub struct DamagedGoal {
    /// Whose goal it is; `None` if the document does not even have the name of an app.
    pub app: Option<AppName>,
    /// What is wrong with it and what to do.
    pub error: GoalStoreError,
}

impl GoalList {
    /// Takes in what was read of the goal of `app`; nothing if it is gone meanwhile.
    pub(crate) fn take(&mut self, app: AppName, read: Result<Option<Goal>, GoalStoreError>) {
        match read {
            Ok(goal) => self.goals.extend(goal),
            Err(error) => self.damaged.push(DamagedGoal { app: Some(app), error }),
        }
    }

    /// Takes in a document without the name of an app.
    pub(crate) fn take_nameless(&mut self, place: String, reason: String) {
        let error = GoalStoreError::Malformed { place, reason };
        self.damaged.push(DamagedGoal { app: None, error });
    }
}

/// How an operator changes a goal.
#[derive(Clone, Debug)]
pub(crate) enum GoalChange {
    Deploy { build: BuildId, rollout: RolloutChange },
    Rollback { rollout: RolloutChange },
    Widen { rollout: RolloutChange },
    Restart,
}

impl GoalChange {
    /// The goal after the change.
    pub(crate) fn apply(
        &self,
        app: &AppName,
        before: Option<&Goal>,
    ) -> Result<Goal, GoalStoreError> {
        let changed = match (self, before) {
            (Self::Deploy { build, rollout }, None) => {
                Ok(Goal::first(now_ms(), app.clone(), *build, rollout))
            }
            (_, None) => return Err(GoalStoreError::NoGoal { app: app.clone() }),
            (Self::Deploy { build, rollout }, Some(goal)) => goal.next(now_ms(), *build, rollout),
            (Self::Rollback { rollout }, Some(goal)) => goal.rolled_back(now_ms(), rollout),
            (Self::Widen { rollout }, Some(goal)) => goal.widened(now_ms(), rollout),
            (Self::Restart, Some(goal)) => goal.restarted(now_ms()),
        };
        changed.map_err(|error| GoalStoreError::change(app, error))
    }
}

impl GoalStore {
    /// A store at `url`. Does not touch it yet.
    pub fn new(url: &GoalUrl) -> Self {
        let backend = match url {
            GoalUrl::File { directory } => Backend::File(FileStore::new(directory)),
            GoalUrl::Etcd { endpoints, prefix } => {
                Backend::Etcd(EtcdStore::new(endpoints.clone(), prefix))
            }
        };
        Self { url: url.clone(), backend }
    }

    /// Where the store is.
    pub const fn url(&self) -> &GoalUrl {
        &self.url
    }

    /// The goal of one app.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or the document is damaged.
    pub async fn goal(&self, app: &AppName) -> Result<Option<Goal>, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.goal(app).await,
            Backend::Etcd(store) => store.goal(app).await,
        }
    }

    /// All goals, by app. A damaged document hides no other.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn goals(&self) -> Result<GoalList, GoalStoreError> {
        let mut list = match &self.backend {
            Backend::File(store) => store.goals().await,
            Backend::Etcd(store) => store.goals().await,
        }?;
        list.goals.sort_by(|a, b| a.app.cmp(&b.app));
        list.damaged.sort_by(|a, b| a.app.cmp(&b.app));
        Ok(list)
    }

    /// Makes `build` the goal of `app` under the next generation (compare-and-swap, retried).
    /// Setting the build that is the goal already also makes a new generation.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written, or the present goal is damaged: then nothing is
    /// changed.
    pub async fn deploy(&self, app: &AppName, build: BuildId) -> Result<Goal, GoalStoreError> {
        self.deploy_with(app, build, RolloutChange::default()).await
    }

    /// As [`deploy`](Self::deploy), with a rollout: see [`Goal::next`].
    ///
    /// # Errors
    ///
    /// As [`deploy`](Self::deploy).
    pub async fn deploy_with(
        &self,
        app: &AppName,
        build: BuildId,
        rollout: RolloutChange,
    ) -> Result<Goal, GoalStoreError> {
        self.change_goal(app, GoalChange::Deploy { build, rollout }).await
    }

    /// Goes back to the build that was deployed before the present one, under a new generation; see
    /// [`Goal::rolled_back`] for what several rollbacks in a row do.
    ///
    /// # Errors
    ///
    /// As [`deploy`](Self::deploy); there is no goal, or no earlier build.
    pub async fn rollback(&self, app: &AppName) -> Result<Goal, GoalStoreError> {
        self.rollback_with(app, RolloutChange::default()).await
    }

    /// As [`rollback`](Self::rollback), with another rollout than everybody at once.
    ///
    /// # Errors
    ///
    /// As [`rollback`](Self::rollback).
    pub async fn rollback_with(
        &self,
        app: &AppName,
        rollout: RolloutChange,
    ) -> Result<Goal, GoalStoreError> {
        self.change_goal(app, GoalChange::Rollback { rollout }).await
    }

    /// Changes the rollout of the goal and not its build; see [`Goal::widened`].
    ///
    /// # Errors
    ///
    /// As [`deploy`](Self::deploy); there is no goal.
    pub async fn widen(
        &self,
        app: &AppName,
        rollout: RolloutChange,
    ) -> Result<Goal, GoalStoreError> {
        self.change_goal(app, GoalChange::Widen { rollout }).await
    }

    /// Orders the hosts to restart the app's program; see [`Goal::restarted`].
    ///
    /// # Errors
    ///
    /// As [`deploy`](Self::deploy); there is no goal.
    pub async fn restart(&self, app: &AppName) -> Result<Goal, GoalStoreError> {
        self.change_goal(app, GoalChange::Restart).await
    }

    async fn change_goal(&self, app: &AppName, change: GoalChange) -> Result<Goal, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.change_goal(app, change).await,
            Backend::Etcd(store) => store.change_goal(app, change).await,
        }
    }

    /// Follows the goals of `apps`: watches where the store can, polls every 10 s with jitter where
    /// it cannot or while the watch is broken. Unchanged states are not repeated.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: the watch runs in a task of its own until it is dropped.
    pub fn watch(&self, apps: Vec<AppName>) -> GoalWatch {
        match &self.backend {
            Backend::File(store) => GoalWatch::of_files(store.clone(), apps),
            Backend::Etcd(store) => GoalWatch::of_etcd(store.clone(), apps),
        }
    }

    /// Whether hosts write their status into this store themselves. If not (etcd: nothing per host
    /// is written there), they report to their seeders, which write for many hosts at once.
    pub const fn takes_host_status(&self) -> bool {
        matches!(self.backend, Backend::File(_))
    }

    /// Replaces the status document `writer`. A host that writes for itself uses its own name, a
    /// seeder uses `PEER_ID/SHARD` with at most [`STATUS_ROWS_MAX`] rows each. Two processes must
    /// not use one name. Status is soft state: it is not synced to disk.
    ///
    /// # Errors
    ///
    /// The name is not safe ([`check_writer_name`]), there are too many rows, or the store cannot
    /// be written.
    pub async fn put_status(
        &self,
        writer: &str,
        rows: &[HostStatus],
    ) -> Result<(), GoalStoreError> {
        check_writer_name(writer)?;
        if rows.len() > STATUS_ROWS_MAX {
            return Err(GoalStoreError::TooManyRows {
                writer: writer.to_owned(),
                rows: rows.len(),
                rows_max: STATUS_ROWS_MAX,
            });
        }
        match &self.backend {
            Backend::File(store) => store.put_status(writer, rows).await,
            Backend::Etcd(store) => store.put_status(writer, rows).await,
        }
    }

    /// The newest row of every host and app, over all writers, sorted by app, then host. Damaged
    /// documents are skipped and logged as warnings.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn statuses(&self) -> Result<Vec<HostStatus>, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.statuses().await,
            Backend::Etcd(store) => store.statuses().await,
        }
    }
}

/// Reads the document of `app` found at `place`; a damaged one is reported with `remedy`.
pub(crate) fn parse_goal(
    app: &AppName,
    place: &str,
    bytes: &[u8],
    remedy: &str,
) -> Result<Goal, GoalStoreError> {
    Goal::from_json(app, bytes).map_err(|error| GoalStoreError::Malformed {
        place: place.to_owned(),
        // Hosts never go back to a lower generation, so removing a goal has a price.
        reason: format!(
            "{error}; {remedy} (then generations start at 1 again, and hosts that saw a higher one \
             wait until it is passed)"
        ),
    })
}
