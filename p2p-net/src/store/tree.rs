//! The bytes of a build as its files hold them: reads and writes by offset into the build.
//!
//! A chunk is a range of the files' bytes laid end to end and may span several files; this file
//! owns that mapping. It opens files but never creates or removes one, and never writes through a
//! symbolic link. All calls block.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{DiskFile, Open};
use p2p_core::{Entry, EntryKind};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::disk_priority::DiskPriority;

use super::drop_behind::DropBehind;
use super::error::{StoreError, SyncFault};
use super::open_files::{FileKey, OpenFiles};

/// Most files synced one by one. Each costs a journal commit, about a millisecond; a sync of the
/// whole file system costs as much as a few dozen of them, but also waits for other programs.
pub(super) const SYNCED_SINGLY_MAX: usize = 64;

/// Which bytes of a build each of its files holds. Empty files are not listed.
#[derive(Debug)]
pub(crate) struct FileMap {
    files: Box<[MappedFile]>,
}

/// One file's place among the bytes of its build.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// Path from the root of the build.
    pub(crate) path: Box<str>,
    /// Where its bytes lie in the build.
    pub(crate) range: Range<u64>,
}

/// The part of a range of the build that lies in one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Extent {
    /// Which file of the map.
    pub(crate) file: usize,
    /// Where the part begins, in bytes from the start of the file.
    pub(crate) file_offset: u64,
    /// Where the part lies within the range that was asked for.
    pub(crate) part: Range<usize>,
}

impl FileMap {
    /// The map of these entries, which are in the manifest's order.
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let mut end = 0;
        let mut files = vec![];
        for entry in entries {
            let EntryKind::File { size, .. } = entry.kind else { continue };
            if size == 0 {
                continue;
            }
            let range = end..end + size;
            end = range.end;
            files.push(MappedFile { path: entry.path.as_str().into(), range });
        }
        Self { files: files.into_boxed_slice() }
    }

    /// The files that hold any bytes, in the manifest's order.
    pub(crate) fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// Where `size` bytes from `offset` of the build lie, in order.
    pub(crate) fn extents(
        &self,
        offset: u64,
        size: usize,
    ) -> impl Iterator<Item = Extent> + use<'_> {
        let end = offset + size as u64;
        let first = self.files.partition_point(|file| file.range.end <= offset);
        let touched = self.files[first..].iter().take_while(move |file| file.range.start < end);
        touched.enumerate().map(move |(i, file)| {
            let start = file.range.start.max(offset);
            let part_of = |position: u64| {
                usize::try_from(position - offset).expect("a part is no longer than its range")
            };
            Extent {
                file: first + i,
                file_offset: start - file.range.start,
                part: part_of(start)..part_of(file.range.end.min(end)),
            }
        })
    }
}

/// The files of a build under one root.
#[derive(Debug)]
pub(crate) struct TreeFiles {
    root: PathBuf,
    map: Arc<FileMap>,
    access: Access,
    open_files: Arc<OpenFiles>,
    owner: u64,
    drop_behind: DropBehind,
}

/// What a tree's files are opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// A complete build. Its files must not be open for writing, or the system refuses to run them.
    Read,
    /// A build in the making.
    ReadWrite,
}

impl TreeFiles {
    /// The files of `map` under `root`; opens nothing yet.
    pub(crate) fn new(
        root: PathBuf,
        map: Arc<FileMap>,
        access: Access,
        open_files: &Arc<OpenFiles>,
    ) -> Self {
        let owner = open_files.new_owner();
        let (open_files, drop_behind) = (Arc::clone(open_files), DropBehind::default());
        Self { root, map, access, open_files, owner, drop_behind }
    }

    /// The directory that holds the files.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn set_disk_priority(&self, priority: DiskPriority) {
        self.open_files.set_disk_priority(priority);
    }

    /// What the files are opened for.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Which file holds which bytes.
    pub(crate) fn map(&self) -> &Arc<FileMap> {
        &self.map
    }

    /// Fills `buffer` from `offset` of the build.
    ///
    /// # Errors
    ///
    /// [`StoreError::ShortFile`] if a file ends early, else the system's reason.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        for Extent { file, file_offset, part } in self.map.extents(offset, buffer.len()) {
            let handle = self.open(file)?;
            let bytes = part.len();
            match handle.as_file().read_exact_at(&mut buffer[part], file_offset) {
                Ok(()) if self.open_files.is_low_priority() => {
                    self.drop_behind.note_read(self, file, bytes);
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let range = &self.map.files[file].range;
                    let expected = range.end - range.start;
                    return Err(StoreError::ShortFile { path: self.path_of(file), expected });
                }
                Err(error) => return Err(StoreError::io("read", &self.path_of(file))(error)),
            }
        }
        Ok(())
    }

    /// Fills `buffer` from `offset` of the build if that takes no waiting: the files are open and
    /// their bytes are in the page cache. Returns whether it did; if not, `buffer` holds anything.
    pub(crate) fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        for Extent { file, file_offset, part } in self.map.extents(offset, buffer.len()) {
            let key = FileKey { owner: self.owner, file };
            let Some(handle) = self.open_files.get(key) else { return false };
            let wanted = part.len();
            let mut parts = [IoSliceMut::new(&mut buffer[part])];
            // A file system that does not know refuses the flag.
            match preadv2(&*handle, &mut parts, file_offset, ReadWriteFlags::NOWAIT) {
                Ok(count) if count == wanted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// Writes `bytes` at `offset` of the build.
    ///
    /// # Errors
    ///
    /// The system's reason. Part of the bytes may be written.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        for Extent { file, file_offset, part } in self.map.extents(offset, bytes.len()) {
            let handle = self.open(file)?;
            let written = part.len();
            let needed = written as u64;
            handle.write_all_at(&bytes[part], file_offset).map_err(|error| {
                StoreError::write("write to", &self.path_of(file), &self.root, needed)(error)
            })?;
            if self.open_files.is_low_priority() {
                self.drop_behind.note_written(self, file, written);
            }
        }
        Ok(())
    }

    /// Makes the bytes written to these files durable.
    ///
    /// # Errors
    ///
    /// See [`SyncFault`].
    pub(crate) fn sync(&self, files: &BTreeSet<usize>) -> Result<(), SyncFault> {
        self.drop_behind.sync(self, files)
    }

    /// The handle of one file of the map.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub(crate) fn open(&self, file: usize) -> Result<Arc<DiskFile>, StoreError> {
        let key = FileKey { owner: self.owner, file };
        let open = || {
            let path = self.path_of(file);
            match self.access {
                Access::ReadWrite => DiskFile::open(&path, Open::ReadWrite),
                // Nobody else's business.
                Access::Read => {
                    let mut options = OpenOptions::new();
                    Ok(options.read(true).custom_flags(no_follow()).open(path)?.into())
                }
            }
        };
        let action = match self.access {
            Access::Read => "open",
            Access::ReadWrite => "open for writing",
        };
        self.open_files.get_or_open(key, open).map_err(StoreError::io(action, &self.path_of(file)))
    }

    /// Forgets every open handle, because files were replaced.
    pub(crate) fn close(&self) {
        if self.open_files.is_low_priority() {
            self.drop_behind.finish(self);
        }
        self.open_files.close_all_of(self.owner);
    }

    /// Where one file of the map lies.
    pub(crate) fn path_of(&self, file: usize) -> PathBuf {
        self.root.join(&*self.map.files[file].path)
    }
}

impl Drop for TreeFiles {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes the bytes written to these files of the tree durable.
///
/// # Errors
///
/// See [`SyncFault`].
pub(super) fn sync_files(tree: &TreeFiles, files: &BTreeSet<usize>) -> Result<(), SyncFault> {
    if files.len() > SYNCED_SINGLY_MAX {
        return disk::sync_file_system(tree.root())
            .map_err(|source| SyncFault::Lost { file: None, source });
    }
    for &file in files {
        let lost = |source| SyncFault::Lost { file: Some(file), source };
        let handle = match tree.open(file) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(lost(source));
            }
            outcome => outcome?,
        };
        handle.sync_data().map_err(lost)?;
    }
    Ok(())
}

/// The open flag that refuses a symbolic link in the place of a file.
fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), kind: EntryKind::File { size, executable: false } }
    }

    #[test]
    fn ranges_fall_into_the_files_that_hold_them() {
        let map = FileMap::new(&[file("a", 3), file("empty", 0), file("b", 1), file("c", 6)]);
        let cases = [
            (0, 3, vec![(0, 0, 0..3)]),
            (1, 4, vec![(0, 1, 0..2), (1, 0, 2..3), (2, 0, 3..4)]),
            (3, 1, vec![(1, 0, 0..1)]),
            (6, 4, vec![(2, 2, 0..4)]),
            (4, 0, vec![]),
        ];
        for (offset, size, expected) in cases {
            let found: Vec<_> =
                map.extents(offset, size).map(|s| (s.file, s.file_offset, s.part)).collect();
            assert_eq!(found, expected, "{size} bytes from {offset}");
        }
    }
}
