//! Removes what processes that are gone left in a store.
//!
//! Invariant: nothing is touched that another process, alive, may be working on. Whatever is left
//! here costs space, not correctness, so what cannot be removed is logged and left for the next
//! time. All calls block.

use std::fs::symlink_metadata;
use std::io;
use std::path::Path;

use p2p_core::BuildId;

use super::error::StoreError;
use super::place::remove_any;
use super::work_dir::{self, Work, WorkDir};
use super::{BuildStore, ids_in};

/// Removes the leftovers.
///
/// # Errors
///
/// If the directories of the store cannot be read.
pub(super) fn sweep(store: &BuildStore) -> Result<(), StoreError> {
    work_dir::sweep(store.staging())?;
    for build in store.list_staged()? {
        sweep_staged(store, build);
    }
    let trees = ids_in(store.builds(), |entry| entry.file_name().to_str()?.parse().ok())?;
    for build in trees {
        sweep_tree(store, build);
    }
    let manifests = ids_in(store.builds(), |entry| {
        entry.file_name().to_str()?.strip_suffix(".manifest")?.parse().ok()
    })?;
    let marks = ids_in(store.builds(), |entry| {
        entry.file_name().to_str()?.strip_suffix(".distrusted")?.parse().ok()
    })?;
    for build in marks {
        sweep_mark(store, build);
    }
    // A publisher has no staging that would show which build it works on.
    if !work_dir::is_any(store.staging(), Work::Publish)? {
        for build in manifests {
            sweep_manifest(store, build);
        }
    }
    Ok(())
}

/// Removes what is left of a staging whose tree has become a complete build: its process died
/// between its last rename and its return.
fn sweep_staged(store: &BuildStore, build: BuildId) {
    let home = store.home_of(build);
    if !home.join("tree").exists() && store.tree_of(build).is_dir() {
        note(&home, disk::remove_dir_all(&home));
    }
}

/// Removes a tree without a manifest, which is left when only a part of a removal reached the disk.
/// A new tree is put there after its manifest, and a tree is removed before its manifest. The
/// exception is a distrusted build, whose mark is there instead of a manifest.
fn sweep_tree(store: &BuildStore, build: BuildId) {
    if is_there(&store.manifest_of(build)) || is_there(&store.distrusted_of(build)) {
        return;
    }
    let tree = store.tree_of(build);
    store.doubt_builds();
    let removed = match WorkDir::new(store.staging(), Work::Remove) {
        Ok(work) => disk::rename(&tree, &work.path().join("tree")),
        // No room for that: there is no hurry, either.
        Err(_) => remove_any(&tree).map_err(io::Error::other),
    };
    note(&tree, removed);
}

/// Removes a manifest without a tree. The staging is looked for first: it is there while a tree is
/// on its way.
fn sweep_manifest(store: &BuildStore, build: BuildId) {
    let manifest = store.manifest_of(build);
    if !is_there(&store.home_of(build)) && !is_there(&store.tree_of(build)) {
        store.doubt_builds();
        note(&manifest, disk::remove_file(&manifest));
    }
}

/// A distrusted build whose files are gone.
fn sweep_mark(store: &BuildStore, build: BuildId) {
    let mark = store.distrusted_of(build);
    if !is_there(&store.tree_of(build)) {
        store.doubt_builds();
        note(&mark, disk::remove_file(&mark));
    }
}

/// If in doubt, yes.
fn is_there(path: &Path) -> bool {
    symlink_metadata(path).err().is_none_or(|error| error.kind() != io::ErrorKind::NotFound)
}

fn note(path: &Path, removed: io::Result<()>) {
    match removed {
        // Another process sweeps the same store.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(?path, %error, "cannot remove a leftover"),
        Ok(()) => {}
    }
}
