//! Which builds were published under the name of an app: `<store>/apps/<app>.json`.
//!
//! For people and scripts that ask "what was before this?"; nothing else depends on it. A file is
//! replaced whole, by rename, and holds the newest [`RECORDS_MAX`] builds, newest first. Two
//! publishers take turns through a lock on the directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use disk::Durability;
use goal_state::AppName;
use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

/// Most builds remembered per app: months at the busiest app's pace, in a small file.
const RECORDS_MAX: usize = 1_000;

/// The builds published for one app.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct History {
    /// Newest first.
    builds: Vec<Record>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Record {
    build: BuildId,
    /// Milliseconds since 1970.
    published_at_ms: u64,
}

/// Why a build was not recorded. The file is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HistoryError {
    /// The file or its directory cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not what this module writes.
    #[error("{} is damaged; move it away and publish again", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Records that `build` was published for `app`. Recording the newest build again changes nothing.
///
/// # Returns
///
/// The newest other build of the app.
///
/// # Errors
///
/// If the file cannot be read, understood or replaced.
pub(crate) fn record(
    store: &Path,
    app: &AppName,
    build: BuildId,
    published_at_ms: u64,
) -> Result<Option<BuildId>, HistoryError> {
    let directory = store.join("apps");
    let path = directory.join(format!("{app}.json"));
    let io = |source| HistoryError::Io { path: path.clone(), source };
    disk::create_dir_all_synced(&directory).map_err(io)?;
    let lock = File::open(&directory).map_err(io)?;
    lock.lock().map_err(io)?;

    let mut history = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| HistoryError::Malformed { path: path.clone(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => History::default(),
        Err(error) => return Err(io(error)),
    };
    let previous = history.builds.iter().map(|record| record.build).find(|&other| other != build);
    if history.builds.first().is_none_or(|newest| newest.build != build) {
        history.builds.insert(0, Record { build, published_at_ms });
        history.builds.truncate(RECORDS_MAX);
        replace(&path, &history).map_err(io)?;
    }
    Ok(previous)
}

fn replace(path: &Path, history: &History) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(history)?;
    bytes.push(b'\n');
    disk::replace_file(path, &disk::scratch_beside(path, ".new"), &bytes, Durability::Synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(number: u32) -> BuildId {
        BuildId::of_manifest(&number.to_le_bytes())
    }

    fn read(store: &Path) -> History {
        serde_json::from_slice(&fs::read(store.join("apps/web.json")).unwrap()).unwrap()
    }

    #[test]
    fn previous_is_the_newest_other_build() {
        let store = tempfile::tempdir().unwrap();
        let app: AppName = "web".parse().unwrap();
        let record = |number| record(store.path(), &app, build(number), 7).unwrap();
        assert_eq!(record(1), None);
        assert_eq!(record(2), Some(build(1)));
        assert_eq!(record(2), Some(build(1)), "publishing again is not a new build");
        assert_eq!(record(1), Some(build(2)));
        let builds: Vec<_> = read(store.path()).builds.iter().map(|record| record.build).collect();
        assert_eq!(builds, [build(1), build(2), build(1)]);
        assert_eq!(fs::read_dir(store.path().join("apps")).unwrap().count(), 1);
    }

    #[test]
    fn oldest_builds_are_forgotten() {
        let store = tempfile::tempdir().unwrap();
        let app: AppName = "web".parse().unwrap();
        let records = (0..u32::try_from(RECORDS_MAX).unwrap())
            .map(|number| Record { build: build(number), published_at_ms: 7 });
        fs::create_dir(store.path().join("apps")).unwrap();
        let full = History { builds: records.collect() };
        fs::write(store.path().join("apps/web.json"), serde_json::to_vec(&full).unwrap()).unwrap();

        record(store.path(), &app, build(u32::MAX), 8).unwrap();
        let history = read(store.path());
        assert_eq!(history.builds.len(), RECORDS_MAX);
        assert_eq!(history.builds[0], Record { build: build(u32::MAX), published_at_ms: 8 });
    }

    #[test]
    fn damaged_file_is_named_and_kept() {
        let store = tempfile::tempdir().unwrap();
        let app: AppName = "web".parse().unwrap();
        let path = store.path().join("apps/web.json");
        fs::create_dir(store.path().join("apps")).unwrap();
        fs::write(&path, "{").unwrap();
        let refused = record(store.path(), &app, build(1), 7).unwrap_err();
        assert!(refused.to_string().contains("web.json is damaged"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }
}
