//! One streaming pass over a source: read and cut on one thread, hash and copy on the others.
//!
//! Invariant: the memory is [`BUFFERS`] buffers, however large the source. A buffer goes back to
//! the pool when the last chunk in it is done. Reads each byte once, compares every file with what
//! the walk found before and after reading it, and writes nothing but the copy.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use p2p_core::{CHUNKS_MAX, ChunkInfo, Digest, EntryKind};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::PublishProgress;
use super::cut::{self, ChunkSizes};
use super::walk::{Source, SourceError, Stamp, unreadable};
use crate::store::{StoreError, TreeFiles};

/// Bytes of a buffer. Up to a chunk of the largest size is carried over from the one before: with
/// half as much, most of the bytes would be copied; twice as much buys little for the memory.
const BUFFER_SIZE: usize = 16 << 20;

/// One is filled and one is carried over from, so two are with the workers. One less would make
/// them wait for each other, and each costs [`BUFFER_SIZE`] of memory.
const BUFFERS: usize = 4;

/// Most threads that hash and copy: one thread cuts no faster than three of them work.
const WORKERS_MAX: usize = 4;

/// Often enough for a smooth bar, seldom enough to cost nothing.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Why the pass ended early.
#[derive(Debug)]
pub(super) enum PassError {
    /// The source is not what the walk found, or cannot be read.
    Source(SourceError),
    /// The copy cannot be written.
    Copy(StoreError),
}

impl From<SourceError> for PassError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// Cuts and hashes the source's files and writes their bytes to `copy`, if any, whose files are
/// laid out like the source's. Returns the chunk table.
pub(super) fn run(
    source: &Source,
    copy: Option<&TreeFiles>,
    progress: &(dyn Fn(PublishProgress) + Sync),
) -> Result<Vec<ChunkInfo>, PassError> {
    let shared = Shared {
        copy,
        bytes_done: AtomicU64::new(0),
        failure: Mutex::default(),
        has_failed: AtomicBool::new(false),
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX);
    let mut report = Report { progress, bytes_total: source.size(), last: None };
    report.send(0);
    // A buffer is cut into this many chunks at most, but for very unlikely content.
    let sizes = ChunkSizes::for_build(source.size());
    let (jobs, received) = sync_channel(2 * BUFFER_SIZE / sizes.max * threads);
    let received = Mutex::new(received);
    let chunks = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| shared.work(&received))).collect();
        let fed = feed((source, sizes), &shared, &jobs, &mut report);
        drop(jobs);
        let mut chunks = vec![];
        for worker in workers {
            chunks.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        fed.map(|()| chunks)
    });
    // The reader stops for a failed worker without an error of its own.
    if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(PassError::Copy(error));
    }
    let mut chunks = chunks?;
    report.send(shared.bytes_done.into_inner());
    chunks.sort_unstable_by_key(|(number, _)| *number);
    Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect())
}

/// Tells the caller how far the pass is, at most every [`REPORT_INTERVAL`].
struct Report<'a> {
    progress: &'a (dyn Fn(PublishProgress) + Sync),
    bytes_total: u64,
    last: Option<Instant>,
}

impl Report<'_> {
    fn send_if_due(&mut self, bytes_done: u64) {
        if self.last.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL) {
            self.send(bytes_done);
        }
    }

    fn send(&mut self, bytes_done: u64) {
        (self.progress)(PublishProgress { bytes_total: self.bytes_total, bytes_done });
        self.last = Some(Instant::now());
    }
}

/// Bytes on loan from the pool.
struct Buffer {
    bytes: Vec<u8>,
    home: SyncSender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The pool has room for every buffer; it is gone only if the pass has ended.
        drop(self.home.try_send(std::mem::take(&mut self.bytes)));
    }
}

/// A chunk to be hashed and copied.
struct Job {
    buffer: Arc<Buffer>,
    range: Range<usize>,
    number: u32,
    offset: u64,
}

struct Shared<'a> {
    copy: Option<&'a TreeFiles>,
    bytes_done: AtomicU64,
    failure: Mutex<Option<StoreError>>,
    has_failed: AtomicBool,
}

impl Shared<'_> {
    /// Works until there are no more jobs; returns the chunks by number. After a failure the rest
    /// of the jobs are only taken off the queue, so that the reader is never stuck.
    fn work(&self, jobs: &Mutex<Receiver<Job>>) -> Vec<(u32, ChunkInfo)> {
        let mut chunks = vec![];
        loop {
            // In a statement of its own, so that the lock is not held while the job is done.
            let job = lock(jobs).recv();
            let Ok(Job { buffer, range, number, offset }) = job else { return chunks };
            if self.has_failed.load(Ordering::Relaxed) {
                continue;
            }
            let bytes = &buffer.bytes[range];
            let size = u32::try_from(bytes.len()).expect("chunks are cut below 2^32 bytes");
            chunks.push((number, ChunkInfo { digest: Digest::of(bytes), size }));
            if let Some(copy) = self.copy
                && let Err(error) = copy.write_at(offset, bytes)
            {
                lock(&self.failure).get_or_insert(error);
                self.has_failed.store(true, Ordering::Relaxed);
            }
            self.bytes_done.fetch_add(u64::from(size), Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the source to its end and queues its chunks; stops early if a worker has failed.
fn feed(
    (source, sizes): (&Source, ChunkSizes),
    shared: &Shared<'_>,
    jobs: &SyncSender<Job>,
    report: &mut Report<'_>,
) -> Result<(), PassError> {
    let (home, pool) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Room for every buffer was just made.
        drop(home.try_send(vec![]));
    }
    let mut reader = Reader { source, next: 0, open: None };
    let mut carried: Option<(Arc<Buffer>, usize)> = None;
    let (mut number, mut offset) = (0_u32, 0_u64);
    loop {
        let mut bytes = pool.recv().expect("the sender in scope keeps the pool open");
        if shared.has_failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        report.send_if_due(shared.bytes_done.load(Ordering::Relaxed));
        bytes.resize(BUFFER_SIZE, 0);
        let rest = carried.as_ref().map_or(&[][..], |(buffer, end)| &buffer.bytes[*end..]);
        let rest_size = rest.len();
        bytes[..rest_size].copy_from_slice(rest);
        drop(carried.take());
        let filled = rest_size + reader.fill(&mut bytes[rest_size..])?;
        let is_end = filled < BUFFER_SIZE;
        bytes.truncate(filled);
        let buffer = Arc::new(Buffer { bytes, home: home.clone() });
        let mut end = 0;
        for range in cut::cut(&buffer.bytes, sizes, is_end) {
            if number == CHUNKS_MAX {
                let path = source.given().to_owned();
                return Err(SourceError::TooManyChunks { path, limit: CHUNKS_MAX }.into());
            }
            end = range.end;
            let size = range.len() as u64;
            let job = Job { buffer: Arc::clone(&buffer), range, number, offset };
            jobs.send(job).expect("the queue's receiver outlives the workers");
            number += 1;
            offset += size;
        }
        if is_end {
            return Ok(());
        }
        carried = Some((buffer, end));
    }
}

/// Reads the bytes of the source's files laid end to end.
struct Reader<'a> {
    source: &'a Source,
    /// Position of the next entry.
    next: usize,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    size: u64,
    position: u64,
}

impl Reader<'_> {
    /// Fills `buffer`; the count is smaller than its length only at the end of the source.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(open) = &mut self.open else {
                if !self.open_next()? {
                    break;
                }
                continue;
            };
            filled += open.read(&mut buffer[filled..])?;
            if open.position == open.size {
                open.check()?;
                self.open = None;
            }
        }
        Ok(filled)
    }

    /// Opens the next file that has bytes; whether there is one.
    fn open_next(&mut self) -> Result<bool, SourceError> {
        while let Some(entry) = self.source.entries().get(self.next) {
            let stamp = self.source.stamp(self.next);
            self.next += 1;
            let EntryKind::File { size, .. } = entry.kind else { continue };
            if size == 0 {
                continue;
            }
            let path = self.source.path_of(entry);
            // Should a pipe have taken the file's place, opening it must not wait for a writer.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(&path)
                .map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
                        SourceError::Changed { path: path.clone() }
                    }
                    _ => unreadable(&path)(error),
                })?;
            let open = OpenFile { file, path, stamp, size, position: 0 };
            open.check()?;
            self.open = Some(open);
            return Ok(true);
        }
        Ok(false)
    }
}

impl OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        match self.file.read_at(&mut buffer[..wanted], self.position) {
            Ok(0) => Err(SourceError::Changed { path: self.path.clone() }),
            Ok(count) => {
                self.position += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(unreadable(&self.path)(error)),
        }
    }

    fn check(&self) -> Result<(), SourceError> {
        let found = self.file.metadata().map_err(unreadable(&self.path))?;
        if Stamp::of(&found) == self.stamp {
            Ok(())
        } else {
            Err(SourceError::Changed { path: self.path.clone() })
        }
    }
}
