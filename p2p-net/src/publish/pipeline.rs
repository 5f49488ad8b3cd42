//! One pass over a source, in sections, each read, copied, cut and hashed by one of the threads.
//!
//! Where a section is cut depends on the last cut before it. But looking for candidates takes long
//! and choosing among them does not, so threads wait for each other only for the choice. A chunk
//! that begins in one section and ends in another is handed on together with its hash so far.
//! Invariant: the memory is a section for each thread, however large the source. Reads each byte
//! once, compares every file with what the walk found before and after reading it, and writes
//! nothing but the copy.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use blake3::Hasher;
use p2p_core::{CHUNK_SIZE_MAX, CHUNKS_MAX, ChunkInfo, Digest, EntryKind};
use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::PublishProgress;
use super::cut::{Candidate, ChunkSizes, Cutter, Section, WINDOW};
use super::walk::{Source, SourceError, Stamp, unreadable};
use crate::store::{FileMap, StoreError, TreeFiles};

/// Bytes of a section. A chunk that ends in a section began in it or in the one before; with less,
/// it could be an earlier one. More would need more memory for nothing.
const SECTION_SIZE: usize = CHUNK_SIZE_MAX as usize;

/// Bytes read at once, and then looked at while they are in the core's cache. Half as much would
/// need twice the system calls; twice as much leaves some caches.
const READ_SIZE: usize = 256 << 10;

/// Fewest threads.
const THREADS_MIN: usize = 2;

/// Most threads. Each needs the memory of a section, and fewer than these keep any disk busy.
const THREADS_MAX: usize = 8;

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
    mut progress: Option<&mut dyn FnMut(PublishProgress)>,
) -> Result<Vec<ChunkInfo>, PassError> {
    let mut report = |bytes_done| {
        if let Some(progress) = &mut progress {
            progress(PublishProgress { bytes_total: source.size(), bytes_done });
        }
    };
    report(0);
    let pass = Pass {
        reader: Reader::new(source),
        cutter: Cutter::new(ChunkSizes::for_build(source.size())),
        copy,
        sections_taken: AtomicU64::new(0),
        bytes_done: AtomicU64::new(0),
        baton: Mutex::new(Baton {
            position: 0,
            open: OpenChunk::new(0, 0),
            failure: None,
            is_lost: false,
        }),
        passed: Condvar::new(),
    };
    // On a single core, one works while the other waits for a disk. With one more than there are
    // cores, the scheduler would put a thread off that others wait for.
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.clamp(THREADS_MIN, THREADS_MAX);
    let mut chunks = thread::scope(|scope| {
        // Nothing is ever sent: the channel ends with the last thread.
        let (running, ended) = sync_channel::<()>(0);
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                let (pass, running) = (&pass, running.clone());
                scope.spawn(move || {
                    let _running = running;
                    pass.work()
                })
            })
            .collect();
        drop(running);
        while ended.recv_timeout(REPORT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            report(pass.bytes_done.load(Ordering::Relaxed));
        }
        let mut chunks = vec![];
        for thread in threads {
            chunks.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        chunks
    });
    if let Some(error) = pass.baton.into_inner().failure {
        return Err(error);
    }
    report(pass.bytes_done.into_inner());
    chunks.sort_unstable_by_key(|(number, _)| *number);
    Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect())
}

/// A chunk by its number.
type NumberedChunk = (u32, ChunkInfo);

struct Pass<'a> {
    reader: Reader<'a>,
    cutter: Cutter,
    copy: Option<&'a TreeFiles>,
    sections_taken: AtomicU64,
    bytes_done: AtomicU64,
    baton: Mutex<Baton>,
    /// Notified whenever the baton is passed on or dropped.
    passed: Condvar,
}

/// What the thread of one section hands to the thread of the next.
struct Baton {
    /// Where the section begins whose turn it is.
    position: u64,
    open: OpenChunk,
    /// The first failure, after which nobody goes on.
    failure: Option<PassError>,
    /// A thread panicked, so the baton may never be passed on.
    is_lost: bool,
}

impl Baton {
    const fn is_dropped(&self) -> bool {
        self.is_lost || self.failure.is_some()
    }
}

/// A chunk whose end is not known yet.
struct OpenChunk {
    number: u32,
    start: u64,
    /// Has hashed the chunk's bytes up to the end of the section.
    hasher: Hasher,
}

impl OpenChunk {
    fn new(number: u32, start: u64) -> Self {
        Self { number, start, hasher: Hasher::new() }
    }

    fn finish(mut self, rest: &[u8], end: u64) -> NumberedChunk {
        let digest = Digest::from_bytes(*self.hasher.update(rest).finalize().as_bytes());
        let size = u32::try_from(end - self.start).expect("chunks are cut below 2^32 bytes");
        (self.number, ChunkInfo { digest, size })
    }
}

impl Pass<'_> {
    /// Works until the source ends or any thread has failed; returns the chunks that it finished.
    fn work(&self) -> Vec<NumberedChunk> {
        let _guard = PanicGuard { pass: self };
        let mut chunks = vec![];
        let mut cursor = Cursor::default();
        let mut buffer = vec![0; WINDOW + SECTION_SIZE];
        let mut candidates = vec![];
        loop {
            let taken = self.sections_taken.fetch_add(1, Ordering::Relaxed);
            let start = taken.saturating_mul(SECTION_SIZE as u64);
            if start >= self.reader.source.size() {
                return chunks;
            }
            candidates.clear();
            let read = self.read(start, &mut cursor, &mut buffer, &mut candidates);
            let chosen = read.and_then(|section| {
                Ok(self.choose(&section, &candidates)?.map(|chosen| (section, chosen)))
            });
            match chosen {
                Ok(Some((section, (open, ends)))) => {
                    finish(&section, open, &ends, &mut chunks);
                    self.bytes_done.fetch_add(section.end() - start, Ordering::Relaxed);
                }
                Ok(None) => return chunks,
                Err(error) => {
                    self.baton.lock().failure.get_or_insert(error);
                    self.passed.notify_all();
                    return chunks;
                }
            }
        }
    }

    /// Reads, copies and scans the section from `start`.
    fn read<'b>(
        &self,
        start: u64,
        cursor: &mut Cursor,
        buffer: &'b mut [u8],
        candidates: &mut Vec<Candidate>,
    ) -> Result<Section<'b>, PassError> {
        let build_size = self.reader.source.size();
        let end = build_size.min(start + SECTION_SIZE as u64);
        let base = start.saturating_sub(WINDOW as u64);
        let index = |position: u64| {
            usize::try_from(position - base).expect("the position lies in the buffer")
        };
        self.reader.read(cursor, base, &mut buffer[..index(start)])?;
        for position in (start..end).step_by(READ_SIZE) {
            let range = index(position)..index(end.min(position + READ_SIZE as u64));
            self.reader.read(cursor, position, &mut buffer[range.clone()])?;
            self.cutter.scan(buffer, range.clone(), base, candidates);
            if let Some(copy) = self.copy {
                copy.write_at(position, &buffer[range]).map_err(PassError::Copy)?;
            }
        }
        Ok(Section { bytes: &buffer[..index(end)], base, start, build_size })
    }

    /// Chooses where a section is cut, when it is its turn: the chunk that was open before it, and
    /// the ends of that chunk and of those after it. `None` if the pass has failed.
    fn choose(
        &self,
        section: &Section<'_>,
        mut candidates: &[Candidate],
    ) -> Result<Option<(OpenChunk, Vec<u64>)>, SourceError> {
        let is_waiting = |baton: &mut Baton| baton.position != section.start && !baton.is_dropped();
        let mut baton = self.baton.lock();
        self.passed.wait_while(&mut baton, is_waiting);
        if baton.is_dropped() {
            return Ok(None);
        }
        let mut ends = vec![];
        let (mut number, mut start) = (baton.open.number, baton.open.start);
        while start < section.build_size
            && let Some(end) = self.cutter.end(section, start, &mut candidates)
        {
            if number == CHUNKS_MAX {
                let path = self.reader.source.given().to_owned();
                return Err(SourceError::TooManyChunks { path, limit: CHUNKS_MAX });
            }
            ends.push(end);
            number += 1;
            start = end;
        }
        let mut open = OpenChunk::new(number, start);
        open.hasher.update(section.slice(start..section.end()));
        baton.position = section.end();
        let open = std::mem::replace(&mut baton.open, open);
        self.passed.notify_all();
        Ok(Some((open, ends)))
    }
}

/// Lets nobody wait for a thread that has panicked.
struct PanicGuard<'a, 'b> {
    pass: &'a Pass<'b>,
}

impl Drop for PanicGuard<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.pass.baton.lock().is_lost = true;
            self.pass.passed.notify_all();
        }
    }
}

/// Hashes the chunks that end in a section, of which the first may have been open before it.
fn finish(
    section: &Section<'_>,
    mut open: OpenChunk,
    ends: &[u64],
    chunks: &mut Vec<NumberedChunk>,
) {
    for &end in ends {
        let next = OpenChunk::new(open.number + 1, end);
        let rest = section.slice(open.start.max(section.start)..end);
        chunks.push(std::mem::replace(&mut open, next).finish(rest, end));
    }
}

/// Reads any part of the source's files laid end to end.
struct Reader<'a> {
    source: &'a Source,
    files: FileMap,
    /// Which entry of the source each file of the map is.
    positions: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source) -> Self {
        let has_bytes =
            |kind: &EntryKind| matches!(kind, EntryKind::File { size, .. } if *size > 0);
        let entries = source.entries();
        let positions =
            (0..entries.len()).filter(|position| has_bytes(&entries[*position].kind)).collect();
        Self { source, files: FileMap::new(entries), positions }
    }

    /// Fills `buffer` from `offset` of the source.
    fn read(&self, cursor: &mut Cursor, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        for extent in self.files.extents(offset, buffer.len()) {
            let position = self.positions[extent.file];
            let stamp = self.source.stamp(position);
            let path = self.source.path_of(&self.source.entries()[position]);
            let file = match cursor.open.take() {
                Some((number, file)) if number == extent.file => file,
                Some(_) | None => {
                    let file = open(&path)?;
                    check(&file, stamp, &path)?;
                    file
                }
            };
            file.read_exact_at(&mut buffer[extent.part], extent.file_offset).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => SourceError::Changed { path: path.clone() },
                    _ => unreadable(&path)(error),
                }
            })?;
            check(&file, stamp, &path)?;
            cursor.open = Some((extent.file, file));
        }
        Ok(())
    }
}

/// The file that a thread read last, by its number: it often goes on there, and the system reads
/// ahead of it.
#[derive(Default)]
struct Cursor {
    open: Option<(usize, File)>,
}

fn open(path: &Path) -> Result<File, SourceError> {
    // Should a pipe have taken the file's place, opening it must not wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
            SourceError::Changed { path: path.to_owned() }
        }
        _ => unreadable(path)(error),
    })
}

fn check(file: &File, stamp: Stamp, path: &Path) -> Result<(), SourceError> {
    let found = file.metadata().map_err(unreadable(path))?;
    if Stamp::of(&found) == stamp {
        Ok(())
    } else {
        Err(SourceError::Changed { path: path.to_owned() })
    }
}
