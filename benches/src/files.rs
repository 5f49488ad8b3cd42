//! The file work of both ends: read by request, hash, write into a reserved file, read back, sync.
//!
//! Buffers are used again: fresh memory costs a page fault per 4 KiB, which is as much as the hash.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use rustix::fs::FallocateFlags;

use crate::REQUEST_BYTES;

/// Bytes read at once when the file is read back.
const READ_BACK_BYTES: usize = 256 << 10;

/// The file that is sent.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    size: u64,
}

impl Source {
    /// Takes the file as it is now.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// Bytes of the file.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads the answer to a request for `offset` into a buffer of [`REQUEST_BYTES`]; returns its
    /// length in bytes.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = request_size(self.size, offset);
        self.file.read_exact_at(&mut buffer[..count], offset)?;
        Ok(count)
    }
}

/// Bytes of the request that starts at `offset`.
pub(crate) fn request_size(size: u64, offset: u64) -> usize {
    let rest = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    rest.min(REQUEST_BYTES)
}

/// The offsets of all requests for a file.
pub(crate) fn offsets(size: u64) -> impl Iterator<Item = u64> {
    (0..size).step_by(REQUEST_BYTES)
}

/// The file that is received. Hashes and writes on the thread that it is called on: on a machine of
/// few cores a second thread costs more than it gains.
#[derive(Debug)]
pub(crate) struct Destination {
    file: File,
    size: u64,
    digests: Vec<blake3::Hash>,
}

impl Destination {
    /// Makes the file with its space reserved.
    pub(crate) fn new(path: &Path, size: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        Ok(Self { file, size, digests: Vec::new() })
    }

    /// Takes what arrived for the request at `offset`; requests are answered in order.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.digests.push(blake3::hash(bytes));
        self.file.write_all_at(bytes, offset)
    }

    /// Reads the file back, compares it with what arrived, and syncs it, as a node does before it
    /// calls a build complete. The digest of all digests.
    pub(crate) fn finish(self) -> anyhow::Result<blake3::Hash> {
        self.file.sync_data()?;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let offsets: Vec<u64> = offsets(self.size).collect();
        let per_thread = offsets.len().div_ceil(threads).max(1);
        let parts = offsets.chunks(per_thread).zip(self.digests.chunks(per_thread));
        thread::scope(|scope| {
            let checks: Vec<_> = parts
                .map(|(offsets, digests)| {
                    scope.spawn(|| check(&self.file, self.size, offsets, digests))
                })
                .collect();
            checks.into_iter().try_for_each(|check| {
                check.join().map_err(|_panic| anyhow::anyhow!("a check panicked"))?
            })
        })?;
        self.file.sync_all()?;
        let mut all = blake3::Hasher::new();
        for digest in &self.digests {
            all.update(digest.as_bytes());
        }
        Ok(all.finalize())
    }
}

fn check(file: &File, size: u64, offsets: &[u64], digests: &[blake3::Hash]) -> anyhow::Result<()> {
    let mut bytes = vec![0; READ_BACK_BYTES];
    for (offset, digest) in offsets.iter().zip(digests) {
        let mut hasher = blake3::Hasher::new();
        let end = offset + request_size(size, *offset) as u64;
        let mut at = *offset;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(READ_BACK_BYTES);
            file.read_exact_at(&mut bytes[..piece], at)?;
            hasher.update(&bytes[..piece]);
            at += piece as u64;
        }
        anyhow::ensure!(hasher.finalize() == *digest, "wrong bytes at {offset} of the file");
    }
    Ok(())
}
