//! Verifies a path: computes which build its files are, and how they differ from the one they
//! should be.
//!
//! Reads only. The comparison goes by the manifest's own chunks, so that a changed file is named
//! even if the rest of the tree is cut in other places because of it.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{BuildId, ChunkIndex, Entry, EntryKind, Manifest};

use crate::store::{self, Access, FileMap, StoreError, TreeFiles};

use super::pipeline::{self, PassError};
use super::walk::{Source, SourceError, StateDirectory};
use super::{PublishProgress, describe};

/// Most differences listed. Whoever needs more of them than fit a screen or two looks for another
/// tool, and a tree that is another build altogether would list every file twice.
const LINES_MAX: usize = 100;

/// Most files named in one line when one chunk holds several.
const NAMES_MAX: usize = 3;

/// What `verify` found.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Verification {
    /// The build that the files on disk are.
    pub actual: BuildId,
    /// Differences from the expected manifest in path order, the last one saying how many were left
    /// out; empty without a manifest or without a difference.
    pub differences: Vec<Difference>,
}

/// One way in which files are not the build that they should be. Prints as a line for people.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Difference {
    /// An entry is not what the manifest says.
    Entry {
        /// Its path from the root of the build.
        path: String,
        /// What is different there.
        what: EntryDifference,
    },
    /// All files are equal, but they are cut into other chunks.
    Cuts,
    /// There are more differences than are listed.
    More {
        /// How many.
        count: usize,
    },
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Quoted, because a name may hold a line break.
            Self::Entry { path, what } => write!(f, "{path:?}: {what}"),
            Self::Cuts => f.write_str("the files are equal but cut into other chunks"),
            Self::More { count } => write!(f, "and {count} more"),
        }
    }
}

/// What is different at one path. Prints as the end of a line for people.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EntryDifference {
    /// The build has nothing there.
    Extra,
    /// Only the build has something there.
    Missing,
    /// A file has another length.
    Size {
        /// Bytes on disk.
        actual: u64,
        /// Bytes in the build.
        expected: u64,
    },
    /// A file has another executable bit.
    Executable {
        /// Whether the build has it set.
        expected: bool,
    },
    /// A link points elsewhere.
    Target {
        /// Where it points on disk.
        actual: String,
        /// Where it points in the build.
        expected: String,
    },
    /// A file, a directory or a link stands in the place of another of these.
    Kind {
        /// What is on disk.
        actual: EntryKind,
        /// What the build has.
        expected: EntryKind,
    },
    /// A file has the right length and other bytes.
    Content,
    /// This file or others have other bytes: they share a chunk, which does not show which.
    SharedContent {
        /// Some of the others.
        others: Vec<String>,
        /// How many others are not named.
        more: usize,
    },
}

impl Display for EntryDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extra => f.write_str("not part of the build"),
            Self::Missing => f.write_str("missing"),
            Self::Size { actual, expected } => write!(f, "has {actual} bytes, expected {expected}"),
            Self::Executable { expected: true } => {
                f.write_str("is not executable, expected executable")
            }
            Self::Executable { expected: false } => {
                f.write_str("is executable, expected not executable")
            }
            Self::Target { actual, expected } => {
                write!(f, "links to {actual:?}, expected {expected:?}")
            }
            Self::Kind { actual, expected } => {
                write!(f, "is a {}, expected a {}", kind_name(actual), kind_name(expected))
            }
            Self::Content => f.write_str("content differs"),
            Self::SharedContent { others, more } => {
                let names: Vec<String> = others.iter().map(|path| format!("{path:?}")).collect();
                write!(f, "content differs here or in {}", names.join(", "))?;
                if *more > 0 { write!(f, " or {more} others") } else { Ok(()) }
            }
        }
    }
}

/// Why a tree could not be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// What is at the path is no build, cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file could not be read a second time.
    #[error(transparent)]
    Read(#[from] StoreError),
}

impl From<PassError> for VerifyError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Source(error) => Self::Source(error),
            PassError::Copy(error) => Self::Read(error),
        }
    }
}

/// Computes which build the files at `path` are and, given a manifest, what differs from it.
///
/// If the manifest has a single file, `path` may be that file under any name, or a directory that
/// holds it among others. The directory `.shoal` at the top of a tree is left out.
///
/// # Arguments
///
/// - `progress`: like that of [`publish`](super::publish). After it has reached the total, a tree
///   that differs is read once more to name the files.
///
/// # Errors
///
/// [`SourceError`] if there is something that no build can hold, or the system's reason.
pub fn verify(
    path: &Path,
    manifest: Option<&Manifest>,
    progress: Option<&mut dyn FnMut(PublishProgress)>,
) -> Result<Verification, VerifyError> {
    let only = manifest.and_then(only_file);
    let place = only.map_or(path.to_owned(), |name| place_of(path, name));
    let mut source = Source::walk(&place, StateDirectory::Ignore)?;
    if let Some(name) = only {
        source.rename_file(name);
    }
    let chunks = pipeline::run(&source, None, progress)?;
    source.check_unchanged()?;
    let (found, encoded) = describe(&source, chunks)?;
    let actual = BuildId::of_manifest(&encoded);
    let Some(expected) = manifest.filter(|expected| **expected != found) else {
        return Ok(Verification { actual, differences: vec![] });
    };
    let mut differences = differences(&source, expected)?;
    if differences.is_empty() {
        differences.push(Difference::Cuts);
    }
    Ok(Verification { actual, differences })
}

fn only_file(manifest: &Manifest) -> Option<&str> {
    match manifest.entries() {
        [Entry { path, kind: EntryKind::File { .. } }] => Some(path),
        _ => None,
    }
}

/// Where the only file of a build is, given the file or the directory that holds it.
fn place_of(path: &Path, name: &str) -> PathBuf {
    let inside = path.join(name);
    let is_file = std::fs::symlink_metadata(&inside).is_ok_and(|found| found.is_file());
    if is_file { inside } else { path.to_owned() }
}

/// The differences, bounded, by path.
fn differences(source: &Source, expected: &Manifest) -> Result<Vec<Difference>, StoreError> {
    let mut found = Differences::default();
    // Files that are there with the right size, whose contents are compared.
    let mut comparable = BTreeSet::new();
    let mut actual = source.entries().iter().peekable();
    for entry in expected.entries() {
        while let Some(extra) = actual.next_if(|actual| actual.path < entry.path) {
            found.add(&extra.path, EntryDifference::Extra);
        }
        match actual.next_if(|actual| actual.path == entry.path) {
            None => found.add(&entry.path, EntryDifference::Missing),
            Some(actual) => {
                for what in compare(&entry.kind, &actual.kind) {
                    found.add(&entry.path, what);
                }
                if is_comparable(&entry.kind, &actual.kind) {
                    comparable.insert(&*entry.path);
                }
            }
        }
    }
    for extra in actual {
        found.add(&extra.path, EntryDifference::Extra);
    }
    changed_contents(source, expected, &comparable, &mut found)?;
    Ok(found.listed())
}

#[derive(Debug, Default)]
struct Differences {
    found: Vec<(String, EntryDifference)>,
}

impl Differences {
    fn add(&mut self, path: &str, what: EntryDifference) {
        self.found.push((path.to_owned(), what));
    }

    /// By path, and at one path as people read them, cut to [`LINES_MAX`].
    fn listed(mut self) -> Vec<Difference> {
        self.found.sort_by_cached_key(|(path, what)| (path.clone(), what.to_string()));
        let left_out = self.found.len().saturating_sub(LINES_MAX);
        self.found.truncate(LINES_MAX);
        let listed = self.found.into_iter().map(|(path, what)| Difference::Entry { path, what });
        listed.chain((left_out > 0).then_some(Difference::More { count: left_out })).collect()
    }
}

fn is_comparable(expected: &EntryKind, actual: &EntryKind) -> bool {
    match (expected, actual) {
        (EntryKind::File { size, .. }, EntryKind::File { size: actual, .. }) => size == actual,
        _ => false,
    }
}

/// What differs between two entries of one path, contents aside.
fn compare(expected: &EntryKind, actual: &EntryKind) -> Vec<EntryDifference> {
    let mut found = vec![];
    match (expected, actual) {
        (EntryKind::Directory, EntryKind::Directory) => {}
        (
            EntryKind::File { size, executable },
            EntryKind::File { size: actual, executable: is_executable },
        ) => {
            if size != actual {
                found.push(EntryDifference::Size { actual: *actual, expected: *size });
            }
            if executable != is_executable {
                found.push(EntryDifference::Executable { expected: *executable });
            }
        }
        (EntryKind::Symlink { target: expected }, EntryKind::Symlink { target: actual }) => {
            if expected != actual {
                let (actual, expected) = (actual.clone(), expected.clone());
                found.push(EntryDifference::Target { actual, expected });
            }
        }
        _ => {
            let (actual, expected) = (actual.clone(), expected.clone());
            found.push(EntryDifference::Kind { actual, expected });
        }
    }
    found
}

const fn kind_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory => "directory",
        EntryKind::File { .. } => "file",
        EntryKind::Symlink { .. } => "link",
    }
}

/// Adds the files whose bytes are not those of the manifest's chunks.
///
/// A chunk with a part in a file that is missing or has another size cannot be checked; that file
/// is listed already.
fn changed_contents(
    source: &Source,
    expected: &Manifest,
    comparable: &BTreeSet<&str>,
    found: &mut Differences,
) -> Result<(), StoreError> {
    let map = FileMap::new(expected.entries());
    let layout = expected.layout();
    let files_of = |chunk: ChunkIndex| {
        let extents = map.extents(layout.offset_of(chunk), layout.size_of(chunk) as usize);
        extents.map(|extent| &*map.files()[extent.file].path)
    };
    let is_whole = |chunk: &ChunkIndex| files_of(*chunk).all(|path| comparable.contains(path));
    let (root, places) = source.places_of(expected.entries());
    let tree = TreeFiles::new(root, Arc::new(places), Access::Read, &Arc::default());
    let wrong = store::find_wrong(&tree, expected, layout.indices().filter(is_whole))?;

    // A chunk of several files does not show which of them changed, unless one of them is known to
    // have changed by a chunk of its own.
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    let (sole, shared): (Vec<_>, Vec<_>) = wrong
        .into_iter()
        .map(|chunk| files_of(chunk).collect::<Vec<_>>())
        .partition(|files| files.len() == 1);
    changed.extend(sole.into_iter().flatten());
    for path in &changed {
        found.add(path, EntryDifference::Content);
    }
    for files in shared {
        if files.iter().any(|path| changed.contains(path)) {
            continue;
        }
        let others: Vec<String> =
            files[1..].iter().take(NAMES_MAX).map(|path| (*path).to_owned()).collect();
        let more = files.len() - 1 - others.len();
        found.add(files[0], EntryDifference::SharedContent { others, more });
    }
    Ok(())
}
