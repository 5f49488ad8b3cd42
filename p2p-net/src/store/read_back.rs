//! Reads chunks back from disk and finds those that are not what the manifest says.
//!
//! Three words for "are the bytes right", of which this is the first: to *read back* is to read
//! chunks from disk and compare their digests with the manifest; to *audit* a complete build
//! (`store/audit.rs`) is to look at its entries and time stamps, and to read back only if they are
//! suspect; to *verify* a path (`publish/verify.rs`) is to compute which build it is. All calls
//! block, for as long as it takes to read what is asked for.

use std::io;
use std::num::NonZero;
use std::thread;

use p2p_core::{ChunkIndex, Digest, Manifest};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::error::StoreError;
use super::tree::TreeFiles;

/// Most threads that read back. Four outrun the disks of most hosts; more would only take the cores
/// from the program that the host is for.
const THREADS_MAX: usize = 4;

/// The chunks of `chunks` that do not read back as the manifest says, in order. Chunks whose bytes
/// are missing or cannot be read off the disk are among them.
///
/// # Errors
///
/// If files cannot be opened or read for a reason that has nothing to do with their bytes.
pub(crate) fn find_wrong(
    tree: &TreeFiles,
    manifest: &Manifest,
    chunks: impl Iterator<Item = ChunkIndex> + Send,
) -> Result<Vec<ChunkIndex>, StoreError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let chunks = Mutex::new(chunks);
    let next = || chunks.lock().next();
    let outcomes: Vec<Result<Vec<ChunkIndex>, StoreError>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| find_wrong_of(tree, manifest, std::iter::from_fn(next))))
            .collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    let mut wrong = vec![];
    for outcome in outcomes {
        wrong.extend(outcome?);
    }
    wrong.sort_unstable();
    Ok(wrong)
}

fn find_wrong_of(
    tree: &TreeFiles,
    manifest: &Manifest,
    chunks: impl Iterator<Item = ChunkIndex>,
) -> Result<Vec<ChunkIndex>, StoreError> {
    let layout = manifest.layout();
    let mut buffer = vec![];
    let mut wrong = vec![];
    for chunk in chunks {
        let size = layout.size_of(chunk) as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let bytes = &mut buffer[..size];
        match tree.read_at(layout.offset_of(chunk), bytes) {
            Ok(()) if Digest::of(bytes) == manifest.chunks()[chunk.as_usize()].digest => {}
            Ok(()) => wrong.push(chunk),
            Err(error) if is_about_bytes(&error) => wrong.push(chunk),
            Err(error) => return Err(error),
        }
    }
    Ok(wrong)
}

/// Whether fetching the bytes again is the cure.
fn is_about_bytes(error: &StoreError) -> bool {
    match error {
        StoreError::ShortFile { .. } => true,
        StoreError::Io { source, .. } => {
            source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(Errno::IO.raw_os_error())
        }
        _ => false,
    }
}
