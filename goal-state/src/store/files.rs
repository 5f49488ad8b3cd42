//! A goal store in a directory: `goals/APP.json`, `status/WRITER.json`, `forgotten/DIGEST.json`,
//! `.lock`.
//!
//! Invariants: goals are read, changed and written under the lock, so that two deploys never get
//! one generation; a damaged goal is never overwritten. Only a deploy creates the directory: a
//! reader that did would turn a mistyped URL into "no goal".

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::history::ChangeOrder;
use crate::documents::inventory::{Forgotten, StatusDocuments, WrittenRows};
use crate::documents::status::{HostStatus, status_from_json, status_to_pretty_json};
use crate::store::change::{GOAL_BYTES_MAX, GoalChange, GoalList, parse_goal};
use crate::store::damage_log::DamageLog;
use crate::store::error::{FileAction, GoalStoreError, one_line};
use crate::store::files::document::Durability;

pub(crate) mod document;
pub(crate) mod folder_watch;
pub(crate) mod watch;

/// Most bytes of a status document. Full ones with long messages stay far below.
const STATUS_BYTES_MAX: u64 = 8 << 20;
/// Most bytes of a document that a host was forgotten: a few numbers around a name.
const FORGOTTEN_BYTES_MAX: u64 = 64 << 10;

/// How long a deploy waits for others. Each holds the lock for a few syncs, so whoever waits longer
/// is behind a hundred deploys, or behind one that hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries for the lock: a fraction of the time that one deploy holds it.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A store in a directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileStore {
    directory: Arc<PathBuf>,
    lock_patience: Duration,
    /// Held while a status is written: clones may write one document at the same time.
    status_writing: Arc<Mutex<()>>,
    damage: DamageLog,
}

impl FileStore {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: Arc::new(directory.to_owned()),
            lock_patience: LOCK_PATIENCE,
            status_writing: Arc::default(),
            damage: DamageLog::default(),
        }
    }

    /// The directory of the goals.
    pub(crate) fn goals_path(&self) -> PathBuf {
        self.directory.join("goals")
    }

    pub(crate) fn goal_path(&self, app: &AppName) -> PathBuf {
        self.goals_path().join(format!("{app}.json"))
    }

    /// The goal of `app`, without leaving the thread.
    pub(crate) fn read_goal(&self, app: &AppName) -> Result<Option<Goal>, GoalStoreError> {
        let path = self.goal_path(app);
        let Some(bytes) = document::read(&path, GOAL_BYTES_MAX)? else {
            return self.check_directory().map(|()| None);
        };
        let remedy = "repair the file, or remove it and deploy again";
        parse_goal(app, &path.display().to_string(), &bytes, remedy).map(Some)
    }

    fn check_directory(&self) -> Result<(), GoalStoreError> {
        let directory = &**self.directory;
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(GoalStoreError::NotADirectory { path: directory.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(GoalStoreError::StoreMissing { directory: directory.to_owned() })
            }
            Err(error) => Err(GoalStoreError::file(FileAction::Read, directory, error)),
        }
    }

    pub(crate) async fn goal(&self, app: &AppName) -> Result<Option<Goal>, GoalStoreError> {
        let (store, app) = (self.clone(), app.clone());
        blocking(move || store.read_goal(&app)).await
    }

    pub(crate) async fn goals(&self) -> Result<GoalList, GoalStoreError> {
        let store = self.clone();
        blocking(move || store.read_goals()).await
    }

    fn read_goals(&self) -> Result<GoalList, GoalStoreError> {
        self.check_directory()?;
        let mut list = GoalList::default();
        for path in json_files(&self.goals_path())? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match AppName::try_from(name) {
                Ok(app) => {
                    let read = self.read_goal(&app);
                    list.take(app, read);
                }
                Err(error) => {
                    let reason = format!("{error}; rename the file or move it away");
                    list.take_nameless(path.display().to_string(), reason);
                }
            }
        }
        Ok(list)
    }

    pub(crate) async fn change_goal(
        &self,
        app: &AppName,
        change: GoalChange,
        order: ChangeOrder,
    ) -> Result<Goal, GoalStoreError> {
        match &change {
            GoalChange::Deploy { .. } => {
                let goals = self.goals_path();
                blocking(move || document::create_directories(&goals)).await?;
            }
            // Where there is no store there is nothing to change, and nothing is created.
            GoalChange::Rollback { .. }
            | GoalChange::Widen { .. }
            | GoalChange::Restart
            | GoalChange::Halt { .. }
            | GoalChange::Resume { .. } => {
                if self.goal(app).await?.is_none() {
                    return Err(GoalStoreError::NoGoal { app: app.clone() });
                }
            }
        }
        let lock = self.lock().await?;
        let (store, app) = (self.clone(), app.clone());
        // The lock moves along: if this future is dropped, the thread still finishes under it.
        blocking(move || {
            let goal = change.apply(&app, store.read_goal(&app)?.as_ref(), &order)?;
            document::replace(&store.goal_path(&app), &goal.to_json(), Durability::Synced)?;
            drop(lock);
            Ok(goal)
        })
        .await
    }

    /// Takes the store's lock; it is released when the file is closed. Tries instead of waiting in
    /// the kernel, so that a deploy behind one that hangs ends with an error that says so.
    async fn lock(&self) -> Result<File, GoalStoreError> {
        let path = self.directory.join(".lock");
        let deadline = Instant::now() + self.lock_patience;
        loop {
            let attempt = path.clone();
            if let Some(lock) = blocking(move || try_lock(&attempt)).await? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(GoalStoreError::Locked { path });
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    pub(crate) async fn put_status(
        &self,
        writer: &str,
        rows: &[HostStatus],
    ) -> Result<(), GoalStoreError> {
        let bytes = status_to_pretty_json(rows);
        let path = self.directory.join("status").join(format!("{writer}.json"));
        let writing = Arc::clone(&self.status_writing).lock_owned().await;
        let store = self.clone();
        blocking(move || {
            store.check_directory()?;
            document::create_directories(path.parent().expect("it was joined"))?;
            document::replace(&path, &bytes, Durability::SoftState)?;
            drop(writing);
            Ok(())
        })
        .await
    }

    /// The status documents of everybody, or those of one who writes several.
    pub(crate) async fn status_documents(
        &self,
        writer: Option<&str>,
    ) -> Result<StatusDocuments, GoalStoreError> {
        let (store, writer) = (self.clone(), writer.map(str::to_owned));
        blocking(move || store.read_status_documents(writer.as_deref())).await
    }

    fn read_status_documents(
        &self,
        writer: Option<&str>,
    ) -> Result<StatusDocuments, GoalStoreError> {
        self.check_directory()?;
        let directory = self.directory.join("status");
        let files = if let Some(writer) = writer {
            json_files(&directory.join(writer))?
        } else {
            let mut files = json_files(&directory)?;
            for writer in directories(&directory)? {
                files.extend(json_files(&writer)?);
            }
            files
        };
        let mut documents = Vec::new();
        // One damaged document must not hide all other hosts.
        let mut damage = BTreeMap::new();
        for path in files {
            let writer = path.strip_prefix(&directory).unwrap_or(&path).with_extension("");
            match read_status(&path, writer.display().to_string()) {
                Ok(document) => documents.extend(document),
                Err(reason) => drop(damage.insert(path.display().to_string(), reason)),
            }
        }
        let damaged = damage.len();
        self.damage.note(writer.unwrap_or_default(), damage);
        Ok(StatusDocuments { read: documents, damaged })
    }

    fn forgotten_path(&self, host: &str) -> PathBuf {
        let name = Forgotten::document_name(host);
        self.directory.join("forgotten").join(format!("{name}.json"))
    }

    pub(crate) async fn forget(&self, forgotten: &Forgotten) -> Result<(), GoalStoreError> {
        let (path, bytes) = (self.forgotten_path(&forgotten.host), forgotten.to_json());
        let store = self.clone();
        blocking(move || {
            store.check_directory()?;
            document::create_directories(path.parent().expect("it was joined"))?;
            document::replace(&path, &bytes, Durability::Synced)
        })
        .await
    }

    pub(crate) async fn forgotten(&self) -> Result<Vec<Forgotten>, GoalStoreError> {
        let store = self.clone();
        blocking(move || {
            store.check_directory()?;
            let mut list = Vec::new();
            for path in json_files(&store.directory.join("forgotten"))? {
                let Some(bytes) = document::read(&path, FORGOTTEN_BYTES_MAX)? else { continue };
                match Forgotten::from_json(&bytes) {
                    Ok(forgotten) => list.push(forgotten),
                    Err(error) => tracing::warn!(
                        path = %path.display(), reason = one_line(&error),
                        "skipped a damaged document of a host that was forgotten; remove it"
                    ),
                }
            }
            Ok(list)
        })
        .await
    }

    pub(crate) async fn remember(&self, host: &str) -> Result<(), GoalStoreError> {
        let path = self.forgotten_path(host);
        blocking(move || match disk::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(GoalStoreError::file(FileAction::Write, &path, error))
            }
            _ => Ok(()),
        })
        .await
    }
}

fn read_status(path: &Path, writer: String) -> Result<Option<WrittenRows>, String> {
    let bytes = document::read(path, STATUS_BYTES_MAX).map_err(|error| error.one_line())?;
    // Removed between listing and reading.
    let Some(bytes) = bytes else { return Ok(None) };
    let rows = status_from_json(&bytes).map_err(|error| one_line(&error))?;
    let mut document = WrittenRows { writer, rows };
    let written_at = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let age = written_at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    document.stamp(age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
    Ok(Some(document))
}

/// The lock, or `None` while somebody else has it.
fn try_lock(path: &Path) -> Result<Option<File>, GoalStoreError> {
    let failed = |source| GoalStoreError::file(FileAction::Lock, path, source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// The documents in a directory, by name; none if it does not exist. Hidden files are not
/// documents.
fn json_files(directory: &Path) -> Result<Vec<PathBuf>, GoalStoreError> {
    let mut entries = visible_entries(directory)?;
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    Ok(entries)
}

fn directories(directory: &Path) -> Result<Vec<PathBuf>, GoalStoreError> {
    let mut entries = visible_entries(directory)?;
    entries.retain(|path| path.is_dir());
    Ok(entries)
}

fn visible_entries(directory: &Path) -> Result<Vec<PathBuf>, GoalStoreError> {
    let failed = |source| GoalStoreError::file(FileAction::Read, directory, source);
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Runs file work where blocking is allowed: a network file system may hang for minutes.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deploy_behind_one_that_hangs_ends_with_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = FileStore::new(directory.path());
        store.lock_patience = Duration::from_millis(50);
        let app: AppName = "web".parse().unwrap();
        let deploy = GoalChange::Deploy {
            build: p2p_core::BuildId::of_manifest(b"1"),
            rollout: crate::documents::rollout::RolloutChange::default(),
        };
        let held = store.lock().await.unwrap();
        let error = store
            .change_goal(&app, deploy.clone(), ChangeOrder::default())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(".lock is locked") && error.contains("fuser -v /"), "{error}");
        drop(held);
        assert_eq!(
            store.change_goal(&app, deploy, ChangeOrder::default()).await.unwrap().generation,
            1
        );
    }
}
