//! What there is to publish: the entries of a file or a tree, and whether they stay as they are.
//!
//! Owns the rules about what a build can hold and turns each broken one into an error that names
//! the path. Reads no file's bytes and writes nothing. All calls block.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use p2p_core::{
    CHUNK_SIZE_MAX, CHUNKS_MAX, ENTRIES_MAX, Entry, EntryKind, Manifest, ManifestError, PathError,
};
use rustix::fs::AtFlags;

use crate::store::FileMap;

/// The directory in which `shoal fetch` keeps its store, next to the files it fetched.
pub(super) const STATE_DIRECTORY: &str = ".shoal";

/// What to do about [`STATE_DIRECTORY`] at the top of a tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StateDirectory {
    /// Publishing it would distribute a store.
    Refuse,
    /// It is not one of the build's entries.
    Ignore,
}

/// Why a file or a tree is not a build, or cannot be read as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing at the path.
    #[error("{path:?} does not exist: check the path")]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The system refused to let us read something.
    #[error("cannot read {path:?}")]
    Read {
        /// What.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There is nothing to distribute.
    #[error("directory {path:?} is empty: a build needs at least one entry")]
    Empty {
        /// The path given.
        path: PathBuf,
    },
    /// Something is neither file nor directory nor link.
    #[error("{path:?} is a {kind}, which no build can hold: remove it or move it out of the tree")]
    Special {
        /// Where it is.
        path: PathBuf,
        /// What it is: device, socket, named pipe.
        kind: &'static str,
    },
    /// A name is not text.
    #[error("the name {path:?} is not valid UTF-8: rename it")]
    NotUtf8 {
        /// The whole path.
        path: PathBuf,
    },
    /// A link points out of the tree, or may do so by way of another link.
    #[error(
        "link {path:?} leaves the tree by its target {target:?}: \
         replace it by a relative link within the tree, or by the file"
    )]
    LinkLeaves {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A file would run with its owner's rights on every host.
    #[error("{path:?} has the setuid or setgid bit, which is not distributed: chmod ug-s it")]
    Setuid {
        /// The file.
        path: PathBuf,
    },
    /// Something was written while it was read, so what was read may never have existed.
    #[error("{path:?} changed while it was read: stop what writes to it and try again")]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// The tree holds the store of an earlier fetch.
    #[error("{path:?} is where Shoal keeps its own files: remove it or publish another directory")]
    StateDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// More files, directories and links than a build can have.
    #[error("{path:?} has more than {limit} entries: pack some of them into archives")]
    TooManyEntries {
        /// The path given.
        path: PathBuf,
        /// Most entries of a build.
        limit: usize,
    },
    /// More bytes, and so chunks, than a build can have.
    #[error("{path:?} needs more than {limit} chunks: split it into several builds")]
    TooManyChunks {
        /// The path given.
        path: PathBuf,
        /// Most chunks of a build.
        limit: u32,
    },
    /// The tree's description breaks another rule, such as the length of a path.
    #[error("{path:?} cannot be a build")]
    Refused {
        /// The path given.
        path: PathBuf,
        /// The rule.
        #[source]
        reason: ManifestError,
    },
}

/// A file or a tree, as it was found.
#[derive(Debug)]
pub(super) struct Source {
    /// The path as it was given, for messages.
    given: PathBuf,
    /// The file or the directory, with links resolved.
    base: PathBuf,
    is_file: bool,
    state: StateDirectory,
    entries: Vec<Entry>,
    /// How each entry was found; one for each of `entries`.
    stamps: Vec<Stamp>,
    /// How the root was found.
    base_stamp: Stamp,
    size: u64,
}

/// What changes when something is written to, replaced, or gets another entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    /// Left out for directories: it changes with their modes, which are not distributed.
    changed: Option<(i64, i64)>,
}

impl Stamp {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            inode: (found.dev(), found.ino()),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (!found.is_dir()).then(|| (found.ctime(), found.ctime_nsec())),
        }
    }
}

impl Source {
    /// Lists what is at `path`. A link at `path` itself is followed.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, or the system's reason.
    pub(super) fn walk(path: &Path, state: StateDirectory) -> Result<Self, SourceError> {
        Self::walk_up_to(path, state, ENTRIES_MAX)
    }

    fn walk_up_to(
        path: &Path,
        state: StateDirectory,
        entries_max: usize,
    ) -> Result<Self, SourceError> {
        let base = resolve(path)?;
        let found = std::fs::metadata(&base).map_err(unreadable(path))?;
        let mut source = Self {
            given: path.to_owned(),
            is_file: !found.is_dir(),
            state,
            entries: vec![],
            stamps: vec![],
            base_stamp: Stamp::of(&found),
            size: 0,
            base,
        };
        if source.is_file {
            let name = path.file_name().or(source.base.file_name()).unwrap_or_default();
            let name =
                name.to_str().ok_or_else(|| SourceError::NotUtf8 { path: path.to_owned() })?;
            let kind = source.kind_of(&source.base, &found)?;
            source.entries.push(Entry { path: name.to_owned(), kind });
            source.stamps.push(source.base_stamp);
        } else {
            source.list_tree(entries_max)?;
        }
        source.size =
            source.entries.iter().map(|entry| size_of(&entry.kind)).fold(0, u64::saturating_add);
        source.check()?;
        Ok(source)
    }

    /// The path as it was given.
    pub(super) fn given(&self) -> &Path {
        &self.given
    }

    /// The entries as a manifest lists them.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How the entry at this position was found.
    pub(super) fn stamp(&self, position: usize) -> Stamp {
        self.stamps[position]
    }

    /// Bytes of all files.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Where an entry lies.
    pub(super) fn path_of(&self, entry: &Entry) -> PathBuf {
        if self.is_file { self.base.clone() } else { self.base.join(&entry.path) }
    }

    /// Where files with these entries' names and sizes lie, if they are here.
    pub(super) fn places_of(&self, entries: &[Entry]) -> (PathBuf, FileMap) {
        match (self.is_file, entries, self.base.parent(), self.base.file_name()) {
            // The only file of a build may have any name on disk.
            (true, [Entry { kind, .. }], Some(parent), Some(name)) => {
                let path = name.to_string_lossy().into_owned();
                (parent.to_owned(), FileMap::new(&[Entry { path, kind: kind.clone() }]))
            }
            _ => (self.base.clone(), FileMap::new(entries)),
        }
    }

    /// Gives the only file another name, that of the build it is compared with.
    pub(super) fn rename_file(&mut self, name: &str) {
        if self.is_file {
            name.clone_into(&mut self.entries[0].path);
        }
    }

    /// Whether everything is as it was found, by walking it once more. Files were compared while
    /// they were read; this finds what was written before and after, added, removed and replaced.
    ///
    /// # Errors
    ///
    /// [`SourceError::Changed`] with the first difference, or what a walk finds to be wrong now.
    pub(super) fn check_unchanged(&self) -> Result<(), SourceError> {
        let mut again = Self::walk(&self.given, self.state)?;
        if self.is_file {
            again.rename_file(&self.entries[0].path);
        }
        let changed = |path: PathBuf| Err(SourceError::Changed { path });
        let mut found = again.entries.iter().zip(&again.stamps);
        for before in self.entries.iter().zip(&self.stamps) {
            match found.next() {
                Some(found) if found == before => {}
                // The one that comes first is not in the other list at all.
                Some(found) if found.0.path < before.0.path => {
                    return changed(self.path_of(found.0));
                }
                Some(_) | None => return changed(self.path_of(before.0)),
            }
        }
        match found.next() {
            Some(found) => changed(self.path_of(found.0)),
            None if again.base_stamp == self.base_stamp => Ok(()),
            None => changed(self.given.clone()),
        }
    }

    fn list_tree(&mut self, entries_max: usize) -> Result<(), SourceError> {
        let mut found = vec![];
        // Directories not listed yet, by their paths in the build; the root's is empty.
        let mut unlisted = vec![String::new()];
        while let Some(parent) = unlisted.pop() {
            for (entry, stamp) in self.list_directory(&parent)? {
                if found.len() == entries_max {
                    let path = self.given.clone();
                    return Err(SourceError::TooManyEntries { path, limit: entries_max });
                }
                if entry.kind == EntryKind::Directory {
                    unlisted.push(entry.path.clone());
                }
                found.push((entry, stamp));
            }
        }
        if found.is_empty() {
            return Err(SourceError::Empty { path: self.given.clone() });
        }
        found.sort_unstable_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        (self.entries, self.stamps) = found.into_iter().unzip();
        Ok(())
    }

    /// What the directory at `parent` of the build holds, in no particular order.
    fn list_directory(&self, parent: &str) -> Result<Vec<(Entry, Stamp)>, SourceError> {
        let directory = self.base.join(parent);
        let mut found = vec![];
        for child in std::fs::read_dir(&directory).map_err(unreadable(&directory))? {
            let place = directory.join(child.map_err(unreadable(&directory))?.file_name());
            let name = name_of(&place)?;
            if parent.is_empty() && name == STATE_DIRECTORY {
                if self.state == StateDirectory::Ignore {
                    continue;
                }
                return Err(SourceError::StateDirectory { path: place });
            }
            let metadata = std::fs::symlink_metadata(&place).map_err(unreadable(&place))?;
            let kind = self.kind_of(&place, &metadata)?;
            let path = if parent.is_empty() { name.into() } else { format!("{parent}/{name}") };
            found.push((Entry { path, kind }, Stamp::of(&metadata)));
        }
        Ok(found)
    }

    fn kind_of(&self, place: &Path, found: &Metadata) -> Result<EntryKind, SourceError> {
        let path = || if self.is_file { self.given.clone() } else { place.to_owned() };
        let file_type = found.file_type();
        if file_type.is_dir() {
            return Ok(EntryKind::Directory);
        }
        if file_type.is_symlink() {
            let target = std::fs::read_link(place).map_err(unreadable(place))?;
            return match target.to_str() {
                Some(target) => Ok(EntryKind::Symlink { target: plain_target(target) }),
                None => Err(SourceError::NotUtf8 { path: target }),
            };
        }
        if !file_type.is_file() {
            let kind = if file_type.is_socket() {
                "socket"
            } else if file_type.is_fifo() {
                "named pipe"
            } else {
                "device"
            };
            return Err(SourceError::Special { path: path(), kind });
        }
        if found.mode() & 0o6000 != 0 {
            return Err(SourceError::Setuid { path: path() });
        }
        // Now, rather than after copying gigabytes of the files before it.
        rustix::fs::accessat(rustix::fs::CWD, place, rustix::fs::Access::READ_OK, AtFlags::EACCESS)
            .map_err(|errno| unreadable(&path())(errno.into()))?;
        Ok(EntryKind::File { size: found.len(), executable: found.mode() & 0o111 != 0 })
    }

    /// Checks all that can be checked before the files are read.
    fn check(&self) -> Result<(), SourceError> {
        if self.size > u64::from(CHUNKS_MAX) * u64::from(CHUNK_SIZE_MAX) {
            let path = self.given.clone();
            return Err(SourceError::TooManyChunks { path, limit: CHUNKS_MAX });
        }
        let without_bytes = |entry: &Entry| match entry.kind {
            EntryKind::File { executable, .. } => {
                Entry { path: entry.path.clone(), kind: EntryKind::File { size: 0, executable } }
            }
            EntryKind::Directory | EntryKind::Symlink { .. } => entry.clone(),
        };
        let entries = self.entries.iter().map(without_bytes).collect();
        Manifest::new(entries, vec![]).map(drop).map_err(|reason| self.refused(reason))
    }

    /// Names the place at which a rule of manifests is broken.
    pub(super) fn refused(&self, reason: ManifestError) -> SourceError {
        if let ManifestError::Path { path, reason: PathError::LinkLeaves | PathError::Absolute } =
            &reason
            && let Some(link) = self.entries.iter().find(|entry| entry.path == *path)
            && let EntryKind::Symlink { target } = &link.kind
        {
            return SourceError::LinkLeaves { path: self.path_of(link), target: target.into() };
        }
        SourceError::Refused { path: self.given.clone(), reason }
    }
}

/// The place that `path` leads to, with every link resolved.
///
/// # Errors
///
/// [`SourceError::Missing`] or the system's reason.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, SourceError> {
    std::fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
        _ => unreadable(path)(error),
    })
}

fn name_of(place: &Path) -> Result<&str, SourceError> {
    let name = place.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| SourceError::NotUtf8 { path: place.to_owned() })
}

/// For `map_err`: something could not be read.
pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    move |source| SourceError::Read { path: path.to_owned(), source }
}

/// The target as manifests spell it: they take no `./` and no double or final slash, which tools
/// that make links like to write and which change nothing.
fn plain_target(target: &str) -> String {
    let names: Vec<&str> =
        target.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    match (target.starts_with('/'), names.is_empty()) {
        (true, _) => target.to_owned(),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

const fn size_of(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::File { size, .. } => *size,
        EntryKind::Directory | EntryKind::Symlink { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_the_order_of_a_manifest() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["a/b", "a-c", "a/b-d/e", "B"] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let source = Source::walk(directory.path(), StateDirectory::Refuse).unwrap();
        let paths: Vec<&str> = source.entries().iter().map(|entry| &*entry.path).collect();
        assert_eq!(paths, ["B", "a", "a-c", "a/b", "a/b-d", "a/b-d/e"]);
    }

    #[test]
    fn entries_are_counted_at_the_limit_and_past_it() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["one", "two", "three"] {
            std::fs::write(directory.path().join(name), b"").unwrap();
        }
        assert!(Source::walk_up_to(directory.path(), StateDirectory::Refuse, 3).is_ok());
        let refused = Source::walk_up_to(directory.path(), StateDirectory::Refuse, 2);
        assert!(
            matches!(refused, Err(SourceError::TooManyEntries { limit: 2, .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn link_targets_are_spelt_plainly() {
        let cases = [
            ("./run", "run"),
            ("lib//x/", "lib/x"),
            (".", "."),
            ("./", "."),
            (".././a", "../a"),
            ("/etc/./x", "/etc/./x"),
        ];
        for (target, expected) in cases {
            assert_eq!(plain_target(target), expected, "{target}");
        }
    }
}
