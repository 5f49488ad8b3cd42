//! How fast the folder's file system stores bytes durably, and gives them back.
//!
//! The file has no name, so that nothing is left behind however the process ends. Before it is
//! read, its pages are dropped from the cache, and the kernel is asked whether they are gone, so
//! that the disk's rate is really that of the disk.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatfs, fstatvfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use serde::Serialize;

use crate::output::human;

/// Bytes of one call, as many as an average chunk has.
const BLOCK_BYTES: usize = 1 << 20;

/// Space that must stay free beside the measurement: other programs live there too.
const SPARE_BYTES: u64 = 64 << 20;

/// Places in the file at which the kernel is asked whether the cache still has it.
const PROBES: u64 = 16;

/// A file without a name in the folder whose file system is measured.
#[derive(Debug)]
pub(crate) struct MeasuredFile {
    folder: PathBuf,
    file: File,
    size: u64,
}

/// What was measured; rates in bytes per second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DiskRates {
    pub(crate) folder: PathBuf,
    pub(crate) file_system: String,
    pub(crate) bytes: u64,
    pub(crate) write_and_sync: u64,
    pub(crate) read: u64,
    pub(crate) read_from: ReadFrom,
    /// Right after that, from the page cache.
    pub(crate) read_again: u64,
}

/// Where the bytes of the first reading came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ReadFrom {
    /// No probe found the file in the cache.
    Disk,
    /// The cache did not let go of all of it.
    PageCache,
    /// The file system keeps everything in memory.
    Memory,
    /// The kernel does not answer for this file system.
    Unknown,
}

impl ReadFrom {
    pub(crate) const fn in_words(self) -> &'static str {
        match self {
            Self::Disk => "read back from the disk, page cache dropped",
            Self::PageCache => "the page cache did not let go of it: not the disk's rate",
            Self::Memory => "this file system is in memory: there is no disk",
            Self::Unknown => "the system does not say whether the page cache was used",
        }
    }
}

impl MeasuredFile {
    /// Opens a file without a name in the folder.
    ///
    /// # Errors
    ///
    /// If the folder is missing, read-only, or has less space than `size` and some more.
    pub(crate) fn open(folder: &Path, size: u64) -> anyhow::Result<Self> {
        let shown = folder.display();
        anyhow::ensure!(
            folder.is_dir(),
            "{shown} is not a directory; name an existing one with --folder"
        );
        let file = tempfile::tempfile_in(folder).with_context(|| {
            format!("cannot write in {shown}; name a folder with --folder that you may write to")
        })?;
        let space = fstatvfs(&file).with_context(|| format!("cannot ask {shown} for its space"))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let needed = size.saturating_add(SPARE_BYTES);
        anyhow::ensure!(
            free >= needed,
            "{shown} has {} free, {} are needed; use a smaller --size or another --folder",
            human::bytes(free),
            human::bytes(needed)
        );
        Ok(Self { folder: folder.to_owned(), file, size })
    }

    /// Writes, syncs, reads twice.
    ///
    /// # Errors
    ///
    /// The system's reason, with the folder.
    pub(crate) fn measure(self) -> anyhow::Result<DiskRates> {
        let shown = self.folder.display();
        let write_and_sync = self.write().with_context(|| format!("cannot write in {shown}"))?;
        let file_system = self.file_system();
        let read_from = if is_in_memory(&file_system) {
            ReadFrom::Memory
        } else {
            self.drop_cache().with_context(|| format!("cannot read in {shown}"))?
        };
        let read = self.read().with_context(|| format!("cannot read in {shown}"))?;
        let read_again = self.read().with_context(|| format!("cannot read in {shown}"))?;
        let (folder, bytes) = (self.folder.clone(), self.size);
        Ok(DiskRates { folder, file_system, bytes, write_and_sync, read, read_from, read_again })
    }

    /// As a download does: space reserved first, synced at the end.
    fn write(&self) -> io::Result<u64> {
        let block = noise();
        let started = Instant::now();
        match fallocate(&self.file, FallocateFlags::empty(), 0, self.size) {
            // Not every file system reserves; the write finds out whether there is room.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        for (offset, count) in self.blocks() {
            self.file.write_all_at(&block[..count], offset)?;
        }
        self.file.sync_all()?;
        Ok(human::rate(self.size, started.elapsed()))
    }

    fn read(&self) -> io::Result<u64> {
        let mut block = vec![0; BLOCK_BYTES];
        let started = Instant::now();
        for (offset, count) in self.blocks() {
            self.file.read_exact_at(&mut block[..count], offset)?;
        }
        Ok(human::rate(self.size, started.elapsed()))
    }

    /// Asks the kernel to forget the file's pages. Returns whether it did.
    fn drop_cache(&self) -> io::Result<ReadFrom> {
        fadvise(&self.file, 0, None, Advice::DontNeed)?;
        let mut byte = [0];
        for probe in 0..PROBES {
            let offset = self.size / PROBES * probe;
            let slices = &mut [IoSliceMut::new(&mut byte)];
            match preadv2(&self.file, slices, offset, ReadWriteFlags::NOWAIT) {
                // It would have to wait for the disk.
                Err(Errno::AGAIN) => {}
                Ok(_) => return Ok(ReadFrom::PageCache),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Ok(ReadFrom::Unknown);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ReadFrom::Disk)
    }

    fn blocks(&self) -> impl Iterator<Item = (u64, usize)> {
        let size = self.size;
        (0..size).step_by(BLOCK_BYTES).map(move |offset| {
            let rest = usize::try_from(size - offset).unwrap_or(usize::MAX);
            (offset, rest.min(BLOCK_BYTES))
        })
    }

    /// The file system's name; its number if it is none of those that hosts usually have.
    fn file_system(&self) -> String {
        let Ok(found) = fstatfs(&self.file) else { return "unknown file system".to_owned() };
        // linux/magic.h
        let name = match found.f_type {
            0xEF53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683E => "btrfs",
            0x0102_1994 => TMPFS,
            0x8584_58F6 => RAMFS,
            0x794C_7630 => "overlayfs",
            0x6969 => "nfs",
            0x2FC1_2FC1 => "zfs",
            other => return format!("file system {other:#x}"),
        };
        name.to_owned()
    }
}

const TMPFS: &str = "tmpfs";
const RAMFS: &str = "ramfs";

fn is_in_memory(file_system: &str) -> bool {
    file_system == TMPFS || file_system == RAMFS
}

/// Bytes that no file system or disk can compress.
fn noise() -> Vec<u8> {
    let mut prng = p2p_core::Prng::from_seed(p2p_core::Seed::from_u64(1));
    (0..BLOCK_BYTES / 8).flat_map(|_| prng.next_u64().to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurement_leaves_nothing_and_reads_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let measured = MeasuredFile::open(folder.path(), 3 * BLOCK_BYTES as u64 + 5).unwrap();
        let kept = measured.file.try_clone().unwrap();
        let rates = measured.measure().unwrap();
        assert!(rates.write_and_sync > 0 && rates.read > 0 && rates.read_again > 0);
        let mut last = [0; 5];
        kept.read_exact_at(&mut last, 3 * BLOCK_BYTES as u64).unwrap();
        assert_eq!(last, noise()[..5]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_cannot_take_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let text = format!("{:#}", MeasuredFile::open(&missing, 1).unwrap_err());
        assert!(text.contains("missing is not a directory"), "{text}");
        let text = format!("{:#}", MeasuredFile::open(folder.path(), u64::MAX / 2).unwrap_err());
        assert!(text.contains("are needed; use a smaller --size"), "{text}");
    }
}
