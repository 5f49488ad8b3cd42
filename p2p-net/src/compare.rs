//! What a host that has one build must fetch to get another. Pure: manifests in, figures out.
//!
//! Counts what a download counts: a chunk is reused if the other build has one with the same
//! digest, wherever in it. Files are named by the chunks that hold their bytes, so a small file
//! that shares a chunk with one that changed is named with it.

use std::collections::{BTreeMap, BTreeSet};

use p2p_core::{Digest, Entry, EntryKind, Manifest};
use serde::Serialize;

use crate::store::FileMap;

/// What is new in a build against another.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Bytes of the build.
    pub bytes: u64,
    /// Chunks of the build.
    pub chunks: u64,
    /// Bytes of chunks that the other build does not have.
    pub bytes_new: u64,
    /// Chunks that the other build does not have.
    pub chunks_new: u64,
    /// What is not as in the other build, most bytes to fetch first.
    pub files: Vec<FileChange>,
}

/// A file or link that is not as in the other build.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FileChange {
    /// Path from the root of the build.
    pub path: String,
    /// What happened to it.
    pub change: ChangeKind,
    /// Its length in bytes; zero if it is gone or no file.
    pub bytes: u64,
    /// How many of them are in chunks that the other build does not have.
    pub bytes_new: u64,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// Only the new build has it.
    Added,
    /// Both have it, and it differs or lies in a chunk that does.
    Changed,
    /// Only the other build has it.
    Removed,
}

impl Comparison {
    /// Bytes of chunks that the other build has.
    pub const fn bytes_shared(&self) -> u64 {
        self.bytes - self.bytes_new
    }
}

/// Compares `new` with what a host that has `old` need not fetch.
pub fn compare(new: &Manifest, old: &Manifest) -> Comparison {
    let known: BTreeSet<&Digest> = old.chunks().iter().map(|chunk| &chunk.digest).collect();
    let (layout, map) = (new.layout(), FileMap::new(new.entries()));
    let mut found = Comparison {
        bytes: new.build_size(),
        chunks: u64::from(layout.chunk_count()),
        ..Comparison::default()
    };
    let mut new_bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for chunk in layout.indices() {
        let info = &new.chunks()[chunk.as_usize()];
        if known.contains(&info.digest) {
            continue;
        }
        found.chunks_new += 1;
        found.bytes_new += u64::from(info.size);
        for extent in map.extents(layout.offset_of(chunk), info.size as usize) {
            *new_bytes.entry(&map.files()[extent.file].path).or_default() +=
                extent.part.len() as u64;
        }
    }
    let before: BTreeMap<&str, &EntryKind> = kinds(old).collect();
    let after: BTreeMap<&str, &EntryKind> = kinds(new).collect();
    for (path, kind) in &after {
        let bytes_new = new_bytes.get(path).copied().unwrap_or(0);
        let change = match before.get(path) {
            None => ChangeKind::Added,
            Some(old) if old != kind || bytes_new > 0 => ChangeKind::Changed,
            Some(_) => continue,
        };
        let bytes = if let EntryKind::File { size, .. } = kind { *size } else { 0 };
        found.files.push(FileChange { path: (*path).to_owned(), change, bytes, bytes_new });
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        let (path, change) = ((*path).to_owned(), ChangeKind::Removed);
        found.files.push(FileChange { path, change, bytes: 0, bytes_new: 0 });
    }
    found.files.sort_by(|a, b| (b.bytes_new, &a.path).cmp(&(a.bytes_new, &b.path)));
    found
}

fn kinds(manifest: &Manifest) -> impl Iterator<Item = (&str, &EntryKind)> {
    let named = |entry: &'_ Entry| entry.kind != EntryKind::Directory;
    manifest.entries().iter().filter(move |entry| named(entry)).map(|e| (e.path.as_str(), &e.kind))
}

#[cfg(test)]
mod tests {
    use p2p_core::ChunkInfo;

    use super::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), kind: EntryKind::File { size, executable: false } }
    }

    fn manifest(entries: &[Entry], chunks: &[(&str, u32)]) -> Manifest {
        let chunk = |(name, size): &(&str, u32)| ChunkInfo {
            digest: Digest::of(name.as_bytes()),
            size: *size,
        };
        Manifest::new(entries.to_vec(), chunks.iter().map(chunk).collect()).unwrap()
    }

    #[test]
    fn chunks_are_found_wherever_they_lie() {
        let old = manifest(&[file("a", 10), file("b", 5)], &[("one", 4), ("two", 6), ("three", 5)]);
        let new = manifest(
            &[file("a", 7), file("c", 10)],
            &[("new", 4), ("three", 5), ("one", 4), ("one", 4)],
        );
        let found = compare(&new, &old);
        assert_eq!((found.bytes, found.chunks), (17, 4));
        assert_eq!((found.bytes_new, found.chunks_new, found.bytes_shared()), (4, 1, 13));
        let files: Vec<_> =
            found.files.iter().map(|f| (f.path.as_str(), f.change, f.bytes, f.bytes_new)).collect();
        assert_eq!(
            files,
            [
                ("a", ChangeKind::Changed, 7, 4),
                ("b", ChangeKind::Removed, 0, 0),
                ("c", ChangeKind::Added, 10, 0),
            ]
        );
    }

    #[test]
    fn most_bytes_come_first_and_equal_builds_differ_in_nothing() {
        let old = manifest(&[file("a", 2), file("b", 3), file("c", 4)], &[("old", 9)]);
        let new = manifest(&[file("a", 2), file("b", 3), file("c", 4)], &[("new", 9)]);
        let paths: Vec<_> = compare(&new, &old).files.into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["c", "b", "a"]);
        assert_eq!(compare(&old, &old).files, []);
        assert_eq!(compare(&old, &old).bytes_new, 0);
    }

    #[test]
    fn modes_and_links_count_as_changes() {
        let link = |target: &str| Entry {
            path: "l".into(),
            kind: EntryKind::Symlink { target: target.into() },
        };
        let run = Entry { path: "x".into(), kind: EntryKind::File { size: 0, executable: true } };
        let old = manifest(&[file("a", 1), link("a"), file("x", 0)], &[("one", 1)]);
        let new = manifest(&[file("a", 1), link("x"), run], &[("one", 1)]);
        let paths: Vec<_> = compare(&new, &old).files.into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["l", "x"]);
    }
}
