//! The one type that programs use: dispatches to the kind of store that its URL names.
//!
//! Owns the two kinds of stores ([`FileStore`], [`EtcdStore`]), what every operation promises
//! whichever of them it goes to, and the limits of a status document. Does no IO itself.
//!
//! Imports run downwards: `url`, `pacing` < `error` < `change`, `board` < the stores with their
//! watches, [`GoalWatch`] < this file. A store never knows who holds it.

use std::collections::BTreeSet;

use p2p_core::BuildId;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::history::{ChangeOrder, RollbackTarget};
use crate::documents::inventory::{Forgotten, StatusDocuments, WriterRows, unite};
use crate::documents::rollout::RolloutChange;
use crate::documents::status::{HostStatus, STATUS_ROWS_MAX, check_writer_name};
use crate::store::change::{GoalChange, GoalList};
use crate::store::error::GoalStoreError;
use crate::store::etcd::EtcdStore;
use crate::store::files::FileStore;
use crate::store::pacing::now_ms;
use crate::store::url::GoalUrl;
use crate::store::watch::GoalWatch;

pub(crate) mod board;
pub(crate) mod change;
pub(crate) mod damage_log;
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
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    File(FileStore),
    Etcd(EtcdStore),
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
        Self { backend }
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

    /// Changes the goal of `app` under the next generation (compare-and-swap, retried).
    ///
    /// # Errors
    ///
    /// The store cannot be read or written, or the present goal is damaged: then nothing is
    /// changed. There is no goal, unless it is a deploy; the goal is not the one that `order`
    /// expects; nothing can be gone back to, or resumed.
    pub async fn change(
        &self,
        app: &AppName,
        change: GoalChange,
        order: ChangeOrder,
    ) -> Result<Goal, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.change_goal(app, change, order).await,
            Backend::Etcd(store) => store.change_goal(app, change, order).await,
        }
    }

    /// [`GoalChange::Deploy`] by nobody in particular.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub async fn deploy(
        &self,
        app: &AppName,
        build: BuildId,
        rollout: RolloutChange,
    ) -> Result<Goal, GoalStoreError> {
        self.change(app, GoalChange::Deploy { build, rollout }, ChangeOrder::default()).await
    }

    /// [`GoalChange::Rollback`] to the last good build by nobody in particular. `expected` is the
    /// generation of the goal to leave; `None`: whichever is there, unless it is a rollback
    /// already.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub async fn rollback(
        &self,
        app: &AppName,
        rollout: RolloutChange,
        expected: Option<u64>,
    ) -> Result<Goal, GoalStoreError> {
        let change = GoalChange::Rollback { target: RollbackTarget::LastGood, rollout };
        self.change(app, change, ChangeOrder { expected, ..ChangeOrder::default() }).await
    }

    /// Follows the goals of `apps`: watches where the store can, polls with jitter where it cannot
    /// or while the watch is broken. Unchanged states are not repeated.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: the watch runs in a task of its own until it is dropped.
    pub fn watch(&self, apps: Vec<AppName>) -> GoalWatch {
        let apps: BTreeSet<AppName> = apps.into_iter().collect();
        match self.backend.clone() {
            Backend::File(store) => {
                GoalWatch::fed_by(|board| files::watch::follow(store, apps, board))
            }
            Backend::Etcd(store) => {
                GoalWatch::fed_by(|board| etcd::watch::follow(store, apps, board))
            }
        }
    }

    /// Whether hosts write their status into this store themselves. If not (etcd: nothing per host
    /// is written there), they report to their seeders, which write for many hosts at once.
    pub const fn takes_host_status(&self) -> bool {
        matches!(self.backend, Backend::File(_))
    }

    /// Replaces the status document `writer`. A host that writes for itself uses `HOST/NODE`, a
    /// seeder uses `PEER_ID/SHARD` with at most [`STATUS_ROWS_MAX`] rows each. Two processes must
    /// not use one name. Status is soft state: it is not synced to disk.
    ///
    /// # Errors
    ///
    /// The name is not safe as a file's name and a key, there are too many rows, or the store
    /// cannot be written.
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

    /// The inventory: a row for every app, host and node that ever reported to anybody, sorted by
    /// app, then host, without the hosts that were forgotten. Damaged documents are skipped and
    /// logged as warnings.
    ///
    /// A host has one row per app. It has several only while several nodes report under its name.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn statuses(&self) -> Result<Vec<HostStatus>, GoalStoreError> {
        // In this order: a host that is forgotten in between is shown once more, and not a row
        // that was written in between left out for good.
        let documents = self.status_documents(None).await?.read;
        Ok(unite(documents, &self.forgotten().await?))
    }

    /// The rows that `writer` wrote under `WRITER/SHARD`, as they are.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn statuses_of(&self, writer: &str) -> Result<WriterRows, GoalStoreError> {
        check_writer_name(writer)?;
        let StatusDocuments { read, damaged } = self.status_documents(Some(writer)).await?;
        let is_whole = !read.is_empty() && damaged == 0;
        Ok(WriterRows {
            rows: read.into_iter().flat_map(|document| document.rows).collect(),
            is_whole,
        })
    }

    async fn status_documents(
        &self,
        writer: Option<&str>,
    ) -> Result<StatusDocuments, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.status_documents(writer).await,
            Backend::Etcd(store) => store.status_documents(writer).await,
        }
    }

    /// Leaves `host` out of [`Self::statuses`] with all that was heard of it until
    /// `heard_until_ms`, by the clock of whoever received it ([`HostStatus::heard_at_ms`]). A host
    /// that reports again is back, even if that time is in the future.
    ///
    /// # Errors
    ///
    /// The store cannot be written, or, if the time is in the future, not read.
    pub async fn forget(&self, host: &str, heard_until_ms: u64) -> Result<(), GoalStoreError> {
        let now_ms = now_ms();
        let is_ahead = heard_until_ms > now_ms;
        let documents = if is_ahead { self.status_documents(None).await?.read } else { vec![] };
        let rows: Vec<_> = documents.into_iter().flat_map(|document| document.rows).collect();
        let forgotten = Forgotten::new(now_ms, host, heard_until_ms, &rows);
        match &self.backend {
            Backend::File(store) => store.forget(&forgotten).await,
            Backend::Etcd(store) => store.forget(&forgotten).await,
        }
    }

    /// The hosts that were forgotten lately.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn forgotten(&self) -> Result<Vec<Forgotten>, GoalStoreError> {
        match &self.backend {
            Backend::File(store) => store.forgotten().await,
            Backend::Etcd(store) => store.forgotten().await,
        }
    }

    /// Removes the documents of hosts that were forgotten long before `now_ms`, and before that
    /// their rows from every document that still has them: those of seeders that are gone. Returns
    /// how many hosts that were. Any seeder may do this at any time.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written; what was not done is done by the next call.
    pub async fn sweep_forgotten(&self, now_ms: u64) -> Result<usize, GoalStoreError> {
        let mut expired = self.forgotten().await?;
        expired.retain(|forgotten| forgotten.has_expired(now_ms));
        if expired.is_empty() {
            return Ok(0);
        }
        for mut document in self.status_documents(None).await?.read {
            let count = document.rows.len();
            document.rows.retain(|row| !expired.iter().any(|forgotten| forgotten.covers_row(row)));
            if document.rows.len() < count {
                self.put_status(&document.writer, &document.rows).await?;
            }
        }
        for forgotten in &expired {
            match &self.backend {
                Backend::File(store) => store.remember(&forgotten.host).await,
                Backend::Etcd(store) => store.remember(&forgotten.host).await,
            }?;
        }
        Ok(expired.len())
    }
}
