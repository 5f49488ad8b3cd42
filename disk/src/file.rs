//! A file whose bytes are to be changed.
//!
//! Invariant: each function is one system call, and costs no more than that while nobody watches.
//! Knows nothing of names once the file is open: those are in `calls.rs`.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate, ioctl_ficlone};
use rustix::io::{Errno, retry_on_intr};

use crate::operation::{Open, Operation};
use crate::watch::{Root, root_of};

/// Most bytes of one copy that is watched: they are held in memory.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// An open file. Reading goes by [`Self::as_file`].
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    /// Where the next [`Self::write_all`] goes, in bytes from the start.
    position: u64,
    watched: Option<Box<Watched>>,
}

#[derive(Debug)]
struct Watched {
    root: Arc<Root>,
    path: PathBuf,
    handle: u64,
}

impl DiskFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// The system's reason; there is no new file then.
    pub fn open(path: &Path, how: Open) -> io::Result<Self> {
        let Some((root, relative)) = root_of(path) else {
            return Ok(Self { file: options(how).open(path)?, position: 0, watched: None });
        };
        let handle = root.new_handle();
        let operation = Operation::Open { path: relative.clone(), handle, how };
        let file = root.carry_out(operation, || options(how).open(path))?;
        let watched = Some(Box::new(Watched { root, path: relative, handle }));
        Ok(Self { file, position: 0, watched })
    }

    /// For reading only. Whatever else is done with it, this crate does not see.
    pub const fn as_file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The system's reason. Part of the bytes may be written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(Watched { root, path, handle }) = self.watched.as_deref() else {
            return self.file.write_all_at(bytes, offset);
        };
        let operation =
            Operation::Write { path: path.clone(), handle: *handle, offset, bytes: bytes.into() };
        root.carry_out_write(operation, bytes.len(), |size| {
            self.file.write_all_at(&bytes[..size], offset)
        })
    }

    /// Writes all of `bytes` behind what was written by this function before, from the start on.
    ///
    /// # Errors
    ///
    /// The system's reason. Part of the bytes may be written.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file, or grows it by zeros.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let act = || self.file.set_len(length);
        self.carry_out(|path, handle| Operation::SetLength { path, handle, length }, act)
    }

    /// Reserves space for the first `length` bytes, more than zero, and makes the file that long.
    ///
    /// # Errors
    ///
    /// The system's reason; [`io::ErrorKind::Unsupported`] if the file system cannot reserve.
    pub fn allocate(&self, length: u64) -> io::Result<()> {
        let act = || {
            let flags = FallocateFlags::empty();
            Ok(retry_on_intr(|| fallocate(&self.file, flags, 0, length))?)
        };
        self.carry_out(|path, handle| Operation::Allocate { path, handle, length }, act)
    }

    /// Sets the permissions.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let act = || self.file.set_permissions(Permissions::from_mode(mode));
        self.carry_out(|path, handle| Operation::SetMode { path, handle, mode }, act)
    }

    /// Makes the bytes and the length durable.
    ///
    /// # Errors
    ///
    /// The system's reason. What was written may be lost, and a second sync that succeeds does not
    /// say otherwise.
    pub fn sync_data(&self) -> io::Result<()> {
        if self.watched.is_none() {
            return self.file.sync_data();
        }
        self.carry_out(|path, handle| Operation::SyncData { path, handle }, || Ok(()))
    }

    /// Makes the bytes, the length and the mode durable.
    ///
    /// # Errors
    ///
    /// As of [`Self::sync_data`].
    pub fn sync_all(&self) -> io::Result<()> {
        if self.watched.is_none() {
            return self.file.sync_all();
        }
        self.carry_out(|path, handle| Operation::SyncAll { path, handle }, || Ok(()))
    }

    /// Copies at most `size` bytes from offset `from` of `source` to offset `to` of this file
    /// within the kernel; file systems that can, share the blocks. Returns how many bytes were
    /// copied, zero at the end of `source`.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn copy_range(&self, source: &File, from: u64, to: u64, size: u64) -> io::Result<u64> {
        if self.watched.is_some() {
            let bytes = read_at(source, from, size.min(COPY_BYTES_MAX))?;
            self.write_all_at(&bytes, to)?;
            return Ok(bytes.len() as u64);
        }
        let (mut from, mut to) = (from, to);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(copy_file_range(source, Some(&mut from), &self.file, Some(&mut to), size)? as u64)
    }

    /// Makes this file share all blocks of `source`.
    ///
    /// # Errors
    ///
    /// The system's reason; most file systems cannot.
    pub fn reflink(&self, source: &File) -> io::Result<()> {
        let Some(Watched { root, path, handle }) = self.watched.as_deref() else {
            return Ok(ioctl_ficlone(&self.file, source)?);
        };
        let bytes = read_at(source, 0, source.metadata()?.len())?.into();
        let operation = Operation::Write { path: path.clone(), handle: *handle, offset: 0, bytes };
        root.carry_out(operation, || Ok(ioctl_ficlone(&self.file, source)?))
    }

    fn carry_out(
        &self,
        operation: impl FnOnce(PathBuf, u64) -> Operation,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.watched.as_deref() {
            None => act(),
            Some(Watched { root, path, handle }) => {
                root.carry_out(operation(path.clone(), *handle), act)
            }
        }
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// For a file that is only read, in a place that takes both kinds.
impl From<File> for DiskFile {
    fn from(file: File) -> Self {
        Self { file, position: 0, watched: None }
    }
}

fn options(how: Open) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    match how {
        Open::Read => options.read(true),
        Open::ReadWrite => options.read(true).write(true),
        Open::New(mode) => options.write(true).create_new(true).mode(mode),
        Open::Empty(mode) => options.write(true).create(true).truncate(true).mode(mode),
    };
    options
}

/// At most `size` bytes; fewer at the end of the file.
fn read_at(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok().ok_or(Errno::FBIG)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
