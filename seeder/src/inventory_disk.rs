//! The inventory on the seeder's own disk: the documents of [`crate::status_relay`], a file each,
//! read when the seeder starts.
//!
//! Invariant: a file that cannot be read costs no other, and is kept beside them for a person. Not
//! synced: after a power cut the last minute may be lost, or a file; [`Restored::is_whole`] tells,
//! and the goal store has the rest. Blocking; decides nothing.

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
    /// How many documents there were when this was written.
    documents: usize,
    rows: Vec<HostStatus>,
}

/// As [`Saved`], to be written.
#[derive(Debug, Serialize)]
struct ToSave<'a> {
    documents: usize,
    rows: &'a [HostStatus],
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The rows of all documents.
    pub(crate) rows: Vec<HostStatus>,
    /// Whether no document is missing. If one is, the goal store may have rows that are not here.
    pub(crate) is_whole: bool,
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

    /// Reads everything that is there. What is damaged is set aside, with a warning.
    pub(crate) fn read(&self) -> Restored {
        let mut restored = Restored::default();
        let (mut found, mut expected) = (0, 1);
        for path in self.files() {
            match read(&path) {
                Ok(saved) => {
                    found += 1;
                    expected = expected.max(saved.documents);
                    restored.rows.extend(saved.rows);
                }
                Err(error) => set_aside(&path, &error),
            }
        }
        restored.is_whole = found >= expected;
        restored
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

    /// Replaces one of `documents` documents.
    ///
    /// # Errors
    ///
    /// The system's reason; the document is as before.
    pub(crate) fn save(
        &self,
        document: usize,
        documents: usize,
        rows: &[HostStatus],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(&ToSave { documents, rows })?;
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
    fn documents_come_back_and_a_missing_one_is_noticed() {
        let state = tempfile::tempdir().unwrap();
        let disk = InventoryDisk::in_state(state.path());
        assert!(!disk.read().is_whole, "a new seeder asks the goal store, too");
        disk.save(0, 1, &[row("a")]).unwrap();
        let restored = disk.read();
        assert_eq!((restored.rows, restored.is_whole), (vec![row("a")], true));

        disk.save(0, 2, &[row("a")]).unwrap();
        assert!(!disk.read().is_whole, "the second is not written yet");
        disk.save(1, 2, &[row("b")]).unwrap();
        let restored = disk.read();
        assert_eq!((restored.rows, restored.is_whole), (vec![row("a"), row("b")], true));
    }

    /// Goal: damage costs the rows of one document, and nothing of it is lost for a person.
    #[test]
    fn damaged_document_is_set_aside() {
        let state = tempfile::tempdir().unwrap();
        let disk = InventoryDisk::in_state(state.path());
        for damage in ["", "{", r#"{"rows":[]}"#] {
            disk.save(0, 2, &[row("a")]).unwrap();
            disk.save(1, 2, &[row("b")]).unwrap();
            fs::write(disk.path(1), damage).unwrap();
            let restored = disk.read();
            assert_eq!((restored.rows, restored.is_whole), (vec![row("a")], false), "{damage}");
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
        let error = disk.save(0, 1, &[row("a")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert!(!disk.read().is_whole);
    }
}
