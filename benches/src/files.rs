//! The file work of both ends: read by request, hash, write into a reserved file, read back, sync.
//!
//! Hashing and writing are done on a thread of their own, so that the network does not wait for
//! them, as in a node. Buffers go round between the two threads.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use rustix::fs::FallocateFlags;

use crate::REQUEST_BYTES;

/// Buffers between network and disk: enough that neither waits for the other's jitter.
const BUFFERS: usize = 8;

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

    /// The bytes that a request for `offset` is answered with.
    pub(crate) fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; request_size(self.size, offset)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
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

/// The file that is received, and the thread that hashes and writes.
#[derive(Debug)]
pub(crate) struct Destination {
    file: File,
    size: u64,
    full: SyncSender<(u64, Vec<u8>)>,
    empty: Receiver<Vec<u8>>,
    writer: JoinHandle<io::Result<Vec<blake3::Hash>>>,
}

impl Destination {
    /// Makes the file with its space reserved.
    pub(crate) fn new(path: &Path, size: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        let (full, to_write) = sync_channel(BUFFERS);
        let (written, empty) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            drop(written.try_send(Vec::with_capacity(REQUEST_BYTES)));
        }
        let own = file.try_clone()?;
        let writer = thread::spawn(move || write_all(&own, &to_write, &written));
        Ok(Self { file, size, full, empty, writer })
    }

    /// An empty buffer; waits until the disk has one to spare.
    pub(crate) fn buffer(&self) -> anyhow::Result<Vec<u8>> {
        self.empty.recv().context("the writer ended early")
    }

    /// Hands over what arrived for the request at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.full.send((offset, bytes)).context("the writer ended early")
    }

    /// Waits until everything handed over is hashed and written.
    pub(crate) fn drain(self) -> anyhow::Result<Received> {
        drop(self.full);
        let joined = self.writer.join();
        let digests = joined.map_err(|_panic| anyhow::anyhow!("the writer panicked"))??;
        Ok(Received { file: self.file, size: self.size, digests })
    }
}

fn write_all(
    file: &File,
    full: &Receiver<(u64, Vec<u8>)>,
    empty: &SyncSender<Vec<u8>>,
) -> io::Result<Vec<blake3::Hash>> {
    let mut digests = Vec::new();
    while let Ok((offset, mut bytes)) = full.recv() {
        digests.push(blake3::hash(&bytes));
        file.write_all_at(&bytes, offset)?;
        bytes.clear();
        // A network that has everything wants no buffer back.
        drop(empty.try_send(bytes));
    }
    Ok(digests)
}

/// A file whose bytes have all arrived.
#[derive(Debug)]
pub(crate) struct Received {
    file: File,
    size: u64,
    digests: Vec<blake3::Hash>,
}

impl Received {
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
                .map(|(offsets, digests)| scope.spawn(|| check(&self.file, self.size, offsets, digests)))
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
