//! Keeps the bytes of a build from filling the page cache, if the store is set up to do so.
//!
//! Without it, a large build that is written, read back and served pushes everything else out of
//! memory, including what the programs of the host had there. With it, what a build's files have in
//! the page cache is written out and dropped whenever [`WINDOW_BYTES`] more were touched, and
//! whoever touches them waits for that: a slow disk slows the transfer down instead of filling
//! memory.
//!
//! Invariant: an outcome of a sync is never lost. The system reports a failed write once; if it
//! reports it here, the next [`DropBehind::sync`] fails with it.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};

use super::error::SyncFault;
use super::tree::{self, TreeFiles};

/// Bytes of one build that may be touched before its pages are dropped. Enough that a chunk which
/// was just stored is still there when the first neighbours ask for it; twice as much would only
/// take more memory from others.
pub(super) const WINDOW_BYTES: usize = 16 << 20;

/// What was touched of one tree since its pages were last dropped.
#[derive(Debug, Default)]
pub(super) struct DropBehind {
    touched: Mutex<Touched>,
}

#[derive(Debug, Default)]
struct Touched {
    bytes: usize,
    /// Files of the tree's map.
    read: BTreeSet<usize>,
    written: BTreeSet<usize>,
    fault: Option<SyncFault>,
}

impl DropBehind {
    /// Notes `bytes` read from `file` of `tree`. Drops pages if it is time.
    pub(super) fn note_read(&self, tree: &TreeFiles, file: usize, bytes: usize) {
        let mut touched = self.touched.lock();
        touched.read.insert(file);
        touched.add(tree, bytes);
    }

    /// Notes `bytes` written to `file` of `tree`. Writes out and drops pages if it is time.
    pub(super) fn note_written(&self, tree: &TreeFiles, file: usize, bytes: usize) {
        let mut touched = self.touched.lock();
        touched.written.insert(file);
        touched.add(tree, bytes);
    }

    /// Makes `files` of `tree` durable.
    ///
    /// # Errors
    ///
    /// See [`SyncFault`]; also if an earlier sync of the tree failed behind the caller's back.
    pub(super) fn sync(&self, tree: &TreeFiles, files: &BTreeSet<usize>) -> Result<(), SyncFault> {
        let mut touched = self.touched.lock();
        match touched.fault.take() {
            Some(fault) => Err(fault),
            None => tree::sync_files(tree, files),
        }
    }

    /// Drops what is on disk of the pages noted, and forgets them; for a tree about to be closed.
    pub(super) fn finish(&self, tree: &TreeFiles) {
        let mut touched = self.touched.lock();
        touched.drop_pages(tree);
    }
}

impl Touched {
    /// The lock is held meanwhile, so that no more is touched than the window and what is in hand.
    fn add(&mut self, tree: &TreeFiles, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < WINDOW_BYTES {
            return;
        }
        // Pages that are not on disk stay in memory whatever is asked.
        if let Err(fault) = tree::sync_files(tree, &self.written) {
            self.fault.get_or_insert(fault);
        }
        self.drop_pages(tree);
    }

    /// Whole files: what the system read ahead, and pages that lie across two chunks, go too.
    fn drop_pages(&mut self, tree: &TreeFiles) {
        self.bytes = 0;
        let read = std::mem::take(&mut self.read);
        let written = std::mem::take(&mut self.written);
        for file in read.union(&written) {
            // A file that is gone has no pages, and a file system that takes no advice keeps them.
            if let Ok(handle) = tree.open(*file) {
                fadvise(&handle, 0, None, Advice::DontNeed).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;

    use crate::disk_priority::DiskPriority;
    use crate::publish::publish;
    use crate::store::testing::random_bytes;
    use crate::store::{BuildStore, StoredBuild};

    use super::*;

    const SIZE: usize = 6 * WINDOW_BYTES;

    /// Bytes of the file in the page cache.
    fn resident(path: &Path) -> usize {
        let output = Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .arg(path)
            .output()
            .expect("fincore belongs to util-linux, which every Debian has");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn published(folder: &Path) -> StoredBuild {
        let source = folder.join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("data"), random_bytes(1, SIZE)).unwrap();
        let store = BuildStore::open(folder.join("published")).unwrap();
        publish(&source, &store, None).unwrap().build
    }

    /// Goal: a build that is written, checked, moved into place and read leaves no more than the
    /// window in the page cache; without low priority it leaves itself.
    #[test]
    fn low_priority_leaves_the_page_cache_to_others() {
        // Not below /tmp, which may be held in memory as a whole.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let original = published(folder.path());
        let manifest = original.manifest();
        for (name, priority, is_small) in
            [("normal", DiskPriority::Normal, false), ("low", DiskPriority::Low, true)]
        {
            let store = BuildStore::open(folder.path().join(name)).unwrap();
            store.set_disk_priority(priority);
            let check = |what: &str, path: &Path| {
                let (bytes, bound) = (resident(path), 2 * WINDOW_BYTES);
                assert_eq!(bytes <= bound, is_small, "{bytes} bytes {what} with {name} priority");
            };
            let staged = store.stage(original.id(), Arc::clone(manifest)).unwrap();
            let data = folder.path().join(name).join("staging").join(original.id().to_string());
            for chunk in manifest.layout().indices() {
                staged.write_chunk(chunk, &original.read_chunk(chunk).unwrap()).unwrap();
            }
            check("written", &data.join("tree/data"));
            let stored = staged.complete().unwrap().unwrap();
            check("checked", &stored.root().join("data"));
            for chunk in manifest.layout().indices() {
                stored.read_chunk(chunk).unwrap();
            }
            check("read", &stored.root().join("data"));
        }
    }
}
