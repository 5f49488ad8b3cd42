//! A bounded set of open files, shared by all builds of one store.
//!
//! Owns the handles and forgets the least recently used one at its limit, so that a seeder with
//! hundreds of builds and thousands of files stays within the usual limit of open files. Never
//! closes a handle that somebody is using: handles are counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use disk::DiskFile;
use parking_lot::Mutex;

use crate::disk_priority::DiskPriority;

/// Most handles kept open. A quarter of the usual soft limit of 1024 leaves room for sockets and
/// for several stores in one process; half would reopen more often when many builds are served.
const OPEN_FILES_MAX: usize = 256;

/// Whose file it is, and which of the owner's files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileKey {
    pub(super) owner: u64,
    pub(super) file: usize,
}

#[derive(Debug)]
struct Slot {
    key: FileKey,
    handle: Arc<DiskFile>,
    last_used: u64,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    uses: u64,
}

/// The open files of a store.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    owners: AtomicU64,
    /// Whether what is read and written is not to stay in the page cache.
    is_low_priority: AtomicBool,
    slots: Mutex<Slots>,
}

impl OpenFiles {
    /// A number that no other owner has.
    pub(super) fn new_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn set_disk_priority(&self, priority: DiskPriority) {
        self.is_low_priority.store(priority == DiskPriority::Low, Ordering::Relaxed);
    }

    pub(super) fn is_low_priority(&self) -> bool {
        self.is_low_priority.load(Ordering::Relaxed)
    }

    /// The open handle of `key`, opened by `open` if there is none.
    ///
    /// # Errors
    ///
    /// Those of `open`.
    pub(super) fn get_or_open(
        &self,
        key: FileKey,
        open: impl FnOnce() -> io::Result<DiskFile>,
    ) -> io::Result<Arc<DiskFile>> {
        if let Some(handle) = self.slots.lock().find(key) {
            return Ok(handle);
        }
        // Not under the lock: a slow disk must not hold up the chunks of other builds. Two threads
        // may both open the file; the second handle lives until it is evicted, which is harmless.
        let handle = Arc::new(open()?);
        self.slots.lock().insert(key, Arc::clone(&handle));
        Ok(handle)
    }

    /// The open handle of `key`, if there is one.
    pub(super) fn get(&self, key: FileKey) -> Option<Arc<DiskFile>> {
        self.slots.lock().find(key)
    }

    /// Forgets the owner's handles. They are closed as soon as nobody is using them.
    pub(super) fn close_all_of(&self, owner: u64) {
        self.slots.lock().slots.retain(|slot| slot.key.owner != owner);
    }
}

impl Slots {
    fn find(&mut self, key: FileKey) -> Option<Arc<DiskFile>> {
        self.uses += 1;
        let slot = self.slots.iter_mut().find(|slot| slot.key == key)?;
        slot.last_used = self.uses;
        Some(Arc::clone(&slot.handle))
    }

    fn insert(&mut self, key: FileKey, handle: Arc<DiskFile>) {
        if self.slots.len() >= OPEN_FILES_MAX {
            let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.last_used);
            if let Some((position, _)) = oldest {
                self.slots.swap_remove(position);
            }
        }
        let last_used = self.uses;
        self.slots.push(Slot { key, handle, last_used });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use disk::Open;

    use super::*;

    #[test]
    fn least_recently_used_file_is_closed_at_the_limit() {
        let files = OpenFiles::default();
        let owner = files.new_owner();
        let open = |file| {
            let mut is_new = false;
            let key = FileKey { owner, file };
            files
                .get_or_open(key, || {
                    is_new = true;
                    DiskFile::open(Path::new("/dev/null"), Open::Read)
                })
                .unwrap();
            is_new
        };
        for file in 0..OPEN_FILES_MAX {
            assert!(open(file));
        }
        assert!(!open(0), "still open at the limit");
        assert!(open(OPEN_FILES_MAX));
        assert_eq!(files.slots.lock().slots.len(), OPEN_FILES_MAX);
        assert!(!open(0), "used more recently than file 1");
        assert!(open(1));
    }

    #[test]
    fn owners_do_not_share_handles() {
        let files = OpenFiles::default();
        let (one, two) = (files.new_owner(), files.new_owner());
        for owner in [one, two] {
            files
                .get_or_open(FileKey { owner, file: 0 }, || {
                    DiskFile::open(Path::new("/dev/null"), Open::Read)
                })
                .unwrap();
        }
        files.close_all_of(one);
        let left: Vec<u64> = files.slots.lock().slots.iter().map(|slot| slot.key.owner).collect();
        assert_eq!(left, [two]);
    }
}
