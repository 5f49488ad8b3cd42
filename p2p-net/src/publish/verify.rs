//! Verifies a path: computes which build its files are, and how they differ from the one they
//! should be.
//!
//! Reads only. The comparison goes by the manifest's own chunks, so that a changed file is named
//! even if the rest of the tree is cut in other places because of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{BuildId, ChunkIndex, Entry, EntryKind, Manifest};

use super::pipeline::{self, PassError};
use super::walk::{Source, SourceError, StateDirectory};
use super::{PublishProgress, describe};
use crate::StoreError;
use crate::store::{self, Access, FileMap, TreeFiles};

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
    /// Differences from the expected manifest, one line each, in path order, the last one telling
    /// how many were left out; empty without a manifest or without a difference.
    pub differences: Vec<String>,
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
    progress: &(dyn Fn(PublishProgress) + Sync),
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
        differences.push("the files are equal but cut into other chunks".to_owned());
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
fn differences(source: &Source, expected: &Manifest) -> Result<Vec<String>, StoreError> {
    let mut found = Differences::default();
    // Files that are there with the right size, whose contents are compared.
    let mut comparable = BTreeSet::new();
    let mut actual = source.entries().iter().peekable();
    for entry in expected.entries() {
        while let Some(extra) = actual.next_if(|actual| actual.path < entry.path) {
            found.add(extra.path.clone(), "not part of the build");
        }
        match actual.next_if(|actual| actual.path == entry.path) {
            None => found.add(entry.path.clone(), "missing"),
            Some(actual) => {
                for what in compare(&entry.kind, &actual.kind) {
                    found.add(entry.path.clone(), &what);
                }
                if is_comparable(&entry.kind, &actual.kind) {
                    comparable.insert(&*entry.path);
                }
            }
        }
    }
    for extra in actual {
        found.add(extra.path.clone(), "not part of the build");
    }
    changed_contents(source, expected, &comparable, &mut found)?;
    Ok(found.into_lines())
}

#[derive(Debug, Default)]
struct Differences {
    /// Path and what is wrong there.
    lines: Vec<(String, String)>,
}

impl Differences {
    fn add(&mut self, path: String, what: &str) {
        self.lines.push((path, what.to_owned()));
    }

    fn into_lines(mut self) -> Vec<String> {
        self.lines.sort();
        let left_out = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.truncate(LINES_MAX);
        let mut lines: Vec<String> =
            // Quoted, because a name may hold a line break.
            self.lines.iter().map(|(path, what)| format!("{path:?}: {what}")).collect();
        if left_out > 0 {
            lines.push(format!("and {left_out} more"));
        }
        lines
    }
}

fn is_comparable(expected: &EntryKind, actual: &EntryKind) -> bool {
    match (expected, actual) {
        (EntryKind::File { size, .. }, EntryKind::File { size: actual, .. }) => size == actual,
        _ => false,
    }
}

/// What differs between two entries of one path, contents aside.
fn compare(expected: &EntryKind, actual: &EntryKind) -> Vec<String> {
    let mut found = vec![];
    match (expected, actual) {
        (EntryKind::Directory, EntryKind::Directory) => {}
        (
            EntryKind::File { size, executable },
            EntryKind::File { size: actual_size, executable: is_executable },
        ) => {
            if size != actual_size {
                found.push(format!("has {actual_size} bytes, expected {size}"));
            }
            if executable != is_executable {
                let (is, should) = ("executable", "not executable");
                let (is, should) = if *executable { (should, is) } else { (is, should) };
                found.push(format!("is {is}, expected {should}"));
            }
        }
        (EntryKind::Symlink { target }, EntryKind::Symlink { target: actual }) => {
            if target != actual {
                found.push(format!("links to {actual:?}, expected {target:?}"));
            }
        }
        _ => found.push(format!("is a {}, expected a {}", kind_name(actual), kind_name(expected))),
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

    // A chunk of several files does not tell which of them changed, unless one of them is known to
    // have changed by a chunk of its own.
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    let (sole, shared): (Vec<_>, Vec<_>) = wrong
        .into_iter()
        .map(|chunk| files_of(chunk).collect::<Vec<_>>())
        .partition(|files| files.len() == 1);
    changed.extend(sole.into_iter().flatten());
    for path in &changed {
        found.add((*path).to_owned(), "content differs");
    }
    for files in shared {
        if files.iter().any(|path| changed.contains(path)) {
            continue;
        }
        let names: Vec<String> =
            files[1..].iter().take(NAMES_MAX).map(|path| format!("{path:?}")).collect();
        let more = match files.len() - 1 - names.len() {
            0 => String::new(),
            more => format!(" or {more} others"),
        };
        let what = format!("content differs here or in {}{more}", names.join(", "));
        found.add(files[0].to_owned(), &what);
    }
    Ok(())
}
