//! One pass over a source: each thread takes the next chunk, hashes it, copies it, and comes again.
//!
//! Reading and cutting need their order, so one thread at a time does that; the rest of the work on
//! a chunk follows on the same thread, while its bytes are in that core's cache. Invariant: the
//! memory is a buffer of the largest chunk for each thread, however large the source. Reads each
//! byte once, compares every file with what the walk found before and after reading it, and writes
//! nothing but the copy.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use p2p_core::{CHUNKS_MAX, ChunkInfo, Digest, EntryKind};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::PublishProgress;
use super::cut::{ChunkSizes, Cutter};
use super::walk::{Source, SourceError, Stamp, unreadable};
use crate::store::{StoreError, TreeFiles};

/// Bytes read at once. What lies behind a cut is copied to the next chunk's buffer, which is a small
/// part of the work up to here; half as much would need twice the system calls.
const READ_SIZE: usize = 128 << 10;

/// Most threads: reading and cutting take a third of the work, so more would wait for their turn.
const THREADS_MAX: usize = 4;

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
    let sizes = ChunkSizes::for_build(source.size());
    let pass = Pass {
        copy,
        queue: Mutex::new(Queue::new(source, sizes)),
        bytes_done: AtomicU64::new(0),
        failure: Mutex::default(),
    };
    let report = |bytes_done| progress(PublishProgress { bytes_total: source.size(), bytes_done });
    report(0);
    // One more than there are cores, for the time that one waits for a disk or for its turn.
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX) + 1;
    let mut chunks = thread::scope(|scope| {
        // Nothing is ever sent: the channel is gone as soon as the last thread is.
        let (done, ended) = sync_channel::<()>(0);
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                let (pass, done) = (&pass, done.clone());
                scope.spawn(move || {
                    let _done = done;
                    pass.work(sizes)
                })
            })
            .collect();
        drop(done);
        while ended.recv_timeout(REPORT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            report(pass.bytes_done.load(Ordering::Relaxed));
        }
        let mut chunks = vec![];
        for thread in threads {
            chunks.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        chunks
    });
    if let Some(error) = pass.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    report(pass.bytes_done.into_inner());
    chunks.sort_unstable_by_key(|(number, _)| *number);
    Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect())
}

struct Pass<'a> {
    copy: Option<&'a TreeFiles>,
    queue: Mutex<Queue<'a>>,
    bytes_done: AtomicU64,
    /// The first failure. What fails after it fails because of it, or would have to wait its turn.
    failure: Mutex<Option<PassError>>,
}

impl Pass<'_> {
    /// Works until the source ends or any thread has failed; returns the chunks by number.
    fn work(&self, sizes: ChunkSizes) -> Vec<(u32, ChunkInfo)> {
        let mut chunks = vec![];
        // Zeroed by the system, page by page where a chunk is large enough to need it.
        let mut buffer = vec![0; sizes.max + READ_SIZE];
        loop {
            match self.next(&mut buffer) {
                Ok(None) => return chunks,
                Ok(Some(chunk)) => chunks.push(chunk),
                Err(error) => {
                    lock(&self.failure).get_or_insert(error);
                    lock(&self.queue).is_ended = true;
                    return chunks;
                }
            }
        }
    }

    /// Takes, hashes and copies a chunk, by way of `buffer`.
    fn next(&self, buffer: &mut [u8]) -> Result<Option<(u32, ChunkInfo)>, PassError> {
        // In a statement of its own, so that the lock is not held during the rest of the work.
        let taken = lock(&self.queue).take(buffer)?;
        let Some(Place { number, offset, size }) = taken else { return Ok(None) };
        let bytes = &buffer[..size];
        let digest = Digest::of(bytes);
        if let Some(copy) = self.copy {
            copy.write_at(offset, bytes).map_err(PassError::Copy)?;
        }
        self.bytes_done.fetch_add(size as u64, Ordering::Relaxed);
        let size = u32::try_from(size).expect("chunks are cut below 2^32 bytes");
        Ok(Some((number, ChunkInfo { digest, size })))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a chunk lies.
struct Place {
    number: u32,
    /// Bytes of the build before it.
    offset: u64,
    size: usize,
}

/// The chunks of a source that nobody has taken yet.
struct Queue<'a> {
    reader: Reader<'a>,
    cutter: Cutter,
    /// What was read behind the last cut.
    rest: Vec<u8>,
    number: u32,
    offset: u64,
    is_ended: bool,
}

impl<'a> Queue<'a> {
    fn new(source: &'a Source, sizes: ChunkSizes) -> Self {
        let reader = Reader { source, next: 0, open: None };
        let cutter = Cutter::new(sizes);
        Self { reader, cutter, rest: vec![], number: 0, offset: 0, is_ended: false }
    }

    /// Reads the next chunk to the start of `buffer`, whose length is that of the largest chunk and
    /// [`READ_SIZE`]; `None` after the last one.
    fn take(&mut self, buffer: &mut [u8]) -> Result<Option<Place>, SourceError> {
        let mut filled = self.rest.len();
        buffer[..filled].copy_from_slice(&self.rest);
        self.rest.clear();
        let mut tested = 0;
        // Nothing is read while the rest is enough for a chunk.
        let mut is_end = false;
        while !self.is_ended {
            if let Some(size) = self.cutter.cut(&buffer[..filled], tested, is_end) {
                if size == 0 {
                    self.is_ended = true;
                    break;
                }
                self.rest.extend_from_slice(&buffer[size..filled]);
                return self.place(size).map(Some);
            }
            tested = filled;
            let wanted = &mut buffer[filled..][..READ_SIZE];
            let count = self.reader.fill(wanted)?;
            is_end = count < READ_SIZE;
            filled += count;
        }
        Ok(None)
    }

    /// Counts the next chunk.
    fn place(&mut self, size: usize) -> Result<Place, SourceError> {
        let (number, offset) = (self.number, self.offset);
        if number == CHUNKS_MAX {
            let path = self.reader.source.given().to_owned();
            return Err(SourceError::TooManyChunks { path, limit: CHUNKS_MAX });
        }
        self.number += 1;
        self.offset += size as u64;
        Ok(Place { number, offset, size })
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
