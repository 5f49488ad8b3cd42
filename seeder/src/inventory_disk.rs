//! The inventory on the seeder's own disk: the documents of [`crate::status_relay`], a file each,
//! read when the seeder starts.
//!
//! Invariant: a file that cannot be read costs no other, and is kept beside them for a person. Not
//! synced, and a full disk keeps old files: what is here may be older than what the goal store has,
//! and says nothing about what is missing. Blocking; decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use disk::Durability;
use goal_state::HostStatus;
use serde::{Deserialize, Serialize};

/// The folder in the state directory.
const FOLDER: &str = "inventory";

/// What the file of a damaged document is called from then on, behind its name.
const DAMAGED: &str = ".damaged";

/// One document.
#[derive(Debug, Deserialize)]
struct Saved {
    rows: Vec<HostStatus>,
}

/// As [`Saved`], to be written.
#[derive(Debug, Serialize)]
struct ToSave<'a> {
    rows: &'a [HostStatus],
}

/// The folder. Has one writer: the state directory is locked.
#[derive(Clone, Debug)]
pub(crate) struct InventoryDisk {
    folder: PathBuf,
}

impl InventoryDisk {
    /// The inventory in a state directory. Touches nothing yet.
    pub(crate) fn in_state(directory: &Path) -> Self {
        Self { folder: directory.join(FOLDER) }
    }

    /// Where the documents are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, document: usize) -> PathBuf {
        self.folder.join(format!("{document}.json"))
    }

    /// The rows of every document that is there. What is damaged is set aside, with a warning.
    pub(crate) fn read(&self) -> Vec<HostStatus> {
        let mut rows = vec![];
        for path in self.files() {
            match read(&path) {
                Ok(saved) => rows.extend(saved.rows),
                Err(error) => set_aside(&path, &error),
            }
        }
        rows
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let folder = self.folder.display();
                    tracing::warn!(%error, %folder, "cannot read the inventory, taking that of the goal store");
                }
                return vec![];
            }
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut paths: Vec<_> = paths
            .filter(|path| {
                let number = path.file_stem().and_then(|stem| stem.to_str());
                let is_number = number.is_some_and(|stem| stem.parse::<usize>().is_ok());
                is_number && path.extension().is_some_and(|extension| extension == "json")
            })
            .collect();
        paths.sort();
        paths
    }

    /// Replaces a document.
    ///
    /// # Errors
    ///
    /// The system's reason; the document is as before.
    pub(crate) fn save(&self, document: usize, rows: &[HostStatus]) -> io::Result<()> {
        let bytes = serde_json::to_vec(&ToSave { rows })?;
        let path = self.path(document);
        let replace = || {
            let scratch = disk::scratch_beside(&path, ".new");
            disk::replace_file(&path, &scratch, &bytes, Durability::SoftState)
        };
        match replace() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk::create_dir_all(&self.folder)?;
                replace()
            }
            replaced => replaced,
        }
    }
}

fn read(path: &Path) -> io::Result<Saved> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn set_aside(path: &Path, error: &io::Error) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED);
    let kept = disk::rename(path, Path::new(&aside));
    let kept = kept.map_or_else(|error| error.to_string(), |()| aside.display().to_string());
    let path = path.display();
    tracing::warn!(
        %error, %path, kept,
        "a document of the inventory is damaged and set aside; its hosts are taken from the goal store"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: &str) -> HostStatus {
        HostStatus { received_at_ms: 7, ..HostStatus::new(host, "web".parse().unwrap()) }
    }

    #[test]
    fn documents_come_back() {
        let state = tempfile::tempdir().unwrap();
        let disk = InventoryDisk::in_state(state.path());
        assert_eq!(disk.read(), []);
        disk.save(0, &[row("a")]).unwrap();
        disk.save(1, &[row("b")]).unwrap();
        assert_eq!(disk.read(), [row("a"), row("b")]);
        // As seeders wrote it before.
        fs::write(disk.path(1), r#"{"documents":2,"rows":[]}"#).unwrap();
        assert_eq!(disk.read(), [row("a")]);
    }

    /// Goal: damage costs the rows of one document, and nothing of it is lost for a person.
    #[test]
    fn damaged_document_is_set_aside() {
        let state = tempfile::tempdir().unwrap();
        let disk = InventoryDisk::in_state(state.path());
        for damage in ["", "{", r#"{"documents":2}"#] {
            disk.save(0, &[row("a")]).unwrap();
            disk.save(1, &[row("b")]).unwrap();
            fs::write(disk.path(1), damage).unwrap();
            assert_eq!(disk.read(), [row("a")], "{damage}");
            let aside = state.path().join("inventory/1.json.damaged");
            assert_eq!(fs::read_to_string(aside).unwrap(), damage);
            assert!(!disk.path(1).exists());
        }
    }

    #[test]
    fn disk_that_takes_nothing_is_an_error_and_leaves_what_was_there() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FOLDER), "in the way").unwrap();
        let disk = InventoryDisk::in_state(state.path());
        let error = disk.save(0, &[row("a")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert_eq!(disk.read(), []);
    }
}
