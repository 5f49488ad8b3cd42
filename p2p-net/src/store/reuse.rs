//! Takes chunks of a build in the making from other builds on this host.
//!
//! Which chunks those are follows from the manifests alone. Where the file system can share blocks
//! between files, whole runs of chunks are shared and then read back; elsewhere chunks are read,
//! hashed and written. Invariant: a chunk counts as here only after the bytes in its new place, or
//! the very bytes that were written there, hashed to its digest, so a damaged build spreads no
//! damage. All calls block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use disk::{DiskFile, Open};
use p2p_core::{BuildId, ChunkIndex, ChunkSet, Digest, Manifest};
use parking_lot::Mutex;

use super::bitmap::{self, Claim};
use super::error::StoreError;
use super::staged::StagedBuild;
use super::tree::{Access, Extent, FileMap, TreeFiles};
use super::{BuildStore, stored};

/// Most bytes copied between two reports. Long runs keep files in few fragments; a run is what a
/// download that is cut short may have to do again.
const RUN_BYTES_MAX: u64 = 16 << 20;

/// Most threads that copy. One core is left to the network, and a disk gains nothing from more.
const THREADS_MAX: usize = 4;

/// Occurrences remembered per chunk: a second one helps if the first is damaged, a third hardly
/// ever.
const OCCURRENCES_MAX: usize = 2;

/// Least bytes of a span whose blocks are worth sharing.
const CLONE_BYTES_MIN: u64 = 64 << 10;

/// The chunks of a staged build that lie in other builds on this host, and where.
#[derive(Debug)]
pub(crate) struct Reuse {
    staged: StagedBuild,
    origins: Vec<Origin>,
    found: Vec<Found>,
    chunks: ChunkSet,
}

/// What became of some chunks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copied {
    /// Verified and stored.
    pub(crate) stored: Vec<ChunkIndex>,
    /// Damaged or gone where they should have been.
    pub(crate) failed: Vec<ChunkIndex>,
}

/// A build to copy from.
#[derive(Debug)]
struct Origin {
    id: BuildId,
    manifest: Arc<Manifest>,
    tree: TreeFiles,
    /// Whether its files can share blocks with those of the new build.
    can_clone: bool,
    /// Files whose damage was logged, by position in the map.
    complaints: Mutex<BTreeSet<usize>>,
}

/// A chunk of the new build and where it lies.
#[derive(Debug)]
struct Found {
    chunk: ChunkIndex,
    /// Never empty.
    occurrences: Vec<Occurrence>,
}

/// One place where a chunk of the new build lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Occurrence {
    origin: usize,
    /// Its index in the build there.
    chunk: ChunkIndex,
}

/// A range of bytes that lies in one file of the origin and in one of the new build.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    from_file: usize,
    from_offset: u64,
    to_file: usize,
    to_offset: u64,
    size: u64,
}

impl Reuse {
    /// Finds what `staged` lacks in the builds of `stores`, newest builds first, unfinished ones
    /// included; `None` if that is nothing. A build that cannot be looked at is passed over.
    pub(crate) fn find(staged: &StagedBuild, stores: &[BuildStore]) -> Option<Self> {
        let have = staged.have();
        if have.is_full() {
            return None;
        }
        // By digest, because the manifests are all that is looked at. Equal chunks of the new build
        // share a digest, so one place serves all of them.
        let manifest = staged.manifest();
        let mut wanted: BTreeMap<Digest, Vec<ChunkIndex>> = BTreeMap::new();
        for chunk in manifest.layout().indices().filter(|chunk| !have.contains(*chunk)) {
            wanted.entry(manifest.chunks()[chunk.as_usize()].digest).or_default().push(chunk);
        }
        let mut origins = vec![];
        let mut occurrences: BTreeMap<ChunkIndex, Vec<Occurrence>> = BTreeMap::new();
        for Candidate { id, manifest, root, claimed, .. } in candidates(staged, stores) {
            // The number that the candidate gets if it turns out to be of use.
            let origin = origins.len();
            let is_here = |chunk: &ChunkIndex| claimed.as_ref().is_none_or(|c| c.contains(*chunk));
            let digest_of = |chunk: ChunkIndex| &manifest.chunks()[chunk.as_usize()].digest;
            let here = manifest.layout().indices().filter(is_here);
            let pairs = here.flat_map(|chunk| {
                wanted.get(digest_of(chunk)).into_iter().flatten().map(move |new| (*new, chunk))
            });
            let mut is_useful = false;
            for (new, chunk) in pairs {
                let known = occurrences.entry(new).or_default();
                // The newest build comes first, so what is kept is what is likeliest to be whole.
                if known.len() < OCCURRENCES_MAX {
                    known.push(Occurrence { origin, chunk });
                    is_useful = true;
                }
            }
            // Probing for shared blocks touches the disk: only for builds that give something.
            if is_useful {
                origins.push(Origin::new(id, manifest, &root, staged));
            }
        }
        let mut chunks = ChunkSet::empty(have.capacity());
        let found: Vec<Found> = occurrences
            .into_iter()
            .map(|(chunk, occurrences)| Found { chunk, occurrences })
            .collect();
        for found in &found {
            chunks.insert(found.chunk);
        }
        (!found.is_empty()).then(|| Self { staged: staged.clone(), origins, found, chunks })
    }

    /// The chunks that are to be copied.
    pub(crate) const fn chunks(&self) -> &ChunkSet {
        &self.chunks
    }

    /// The build that they are copied into.
    pub(crate) const fn staged(&self) -> &StagedBuild {
        &self.staged
    }

    /// Copies them on several threads, run by run, and reports each run to `note`; when that
    /// returns false no more are begun.
    ///
    /// # Errors
    ///
    /// If the new build cannot be written. An origin that cannot be read is no error.
    pub(crate) fn copy(&self, note: &(dyn Fn(Copied) -> bool + Sync)) -> Result<(), StoreError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = cores.saturating_sub(1).clamp(1, THREADS_MAX);
        let is_over = AtomicBool::new(false);
        let runs = Mutex::new(self.runs());
        let next = || runs.lock().next();
        let work = || -> Result<(), StoreError> {
            while let Some(run) = next() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let copied = self.copy_run(run);
                if !copied.as_ref().is_ok_and(|copied| note(copied.clone())) {
                    is_over.store(true, Ordering::Relaxed);
                }
                copied?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().try_for_each(join)
        })
    }

    /// Chunks that follow each other both here and there, cut to a bounded length.
    fn runs(&self) -> impl Iterator<Item = &[Found]> + Send {
        let layout = self.staged.manifest().layout();
        let mut rest = self.found.as_slice();
        std::iter::from_fn(move || {
            let first = rest.first()?;
            let mut bytes = u64::from(layout.size_of(first.chunk));
            let mut count = 1;
            for pair in rest.windows(2) {
                let [before, after] = pair else { break };
                bytes += u64::from(layout.size_of(after.chunk));
                let (here, there) = (&before.occurrences[0], &after.occurrences[0]);
                let follows = after.chunk.get() == before.chunk.get() + 1
                    && there.origin == here.origin
                    && there.chunk.get() == here.chunk.get() + 1;
                if !follows || bytes > RUN_BYTES_MAX {
                    break;
                }
                count += 1;
            }
            let (run, left) = rest.split_at(count);
            rest = left;
            Some(run)
        })
    }

    fn copy_run(&self, run: &[Found]) -> Result<Copied, StoreError> {
        let mut copied = Copied::default();
        let cloned = self.clone_run(run);
        for found in run {
            let is_cloned = cloned.contains(&found.chunk);
            if is_cloned || self.copy_chunk(found)? {
                copied.stored.push(found.chunk);
            } else {
                copied.failed.push(found.chunk);
            }
        }
        Ok(copied)
    }

    /// Lets the new build share the blocks of a run; returns the chunks that are right.
    fn clone_run(&self, run: &[Found]) -> BTreeSet<ChunkIndex> {
        let (first, chunk) = (run[0].occurrences[0], run[0].chunk);
        let origin = &self.origins[first.origin];
        if !origin.can_clone {
            return BTreeSet::new();
        }
        let layout = self.staged.manifest().layout();
        let size = run.iter().map(|found| layout.size_of(found.chunk) as usize).sum();
        let (from, to) = (origin.manifest.layout().offset_of(first.chunk), layout.offset_of(chunk));
        let chunks: Vec<ChunkIndex> = run.iter().map(|found| found.chunk).collect();
        let outcome = self.staged.copy_chunks(&chunks, |tree| {
            let spans = spans((origin.tree.map(), from), (tree.map(), to), size);
            let block = block_size(tree.root());
            if !spans.iter().any(|span| span.is_worth_cloning(block)) {
                return Err(StoreError::io("share blocks with", tree.root())(
                    io::ErrorKind::Unsupported.into(),
                ));
            }
            for span in spans {
                let (source, target) =
                    (origin.tree.open(span.from_file)?, tree.open(span.to_file)?);
                span.copy(source.as_file(), &target, block)
                    .map_err(StoreError::io("copy to", &tree.path_of(span.to_file)))?;
            }
            Ok(())
        });
        match outcome {
            Ok(Some(wrong)) => chunks.into_iter().filter(|chunk| !wrong.contains(chunk)).collect(),
            // Copied one by one, which also shows whose fault it is.
            Ok(None) | Err(_) => BTreeSet::new(),
        }
    }

    /// Copies one chunk from the first place where it is right. Returns whether there is one.
    fn copy_chunk(&self, found: &Found) -> Result<bool, StoreError> {
        let expected = self.staged.manifest().chunks()[found.chunk.as_usize()].digest;
        for there in &found.occurrences {
            let origin = &self.origins[there.origin];
            match stored::read_chunk(&origin.tree, &origin.manifest, there.chunk) {
                Ok(bytes) if Digest::of(&bytes) == expected => {
                    self.staged.write_chunk(found.chunk, &bytes)?;
                    return Ok(true);
                }
                Ok(_) => origin.complain(there.chunk, "its bytes are wrong"),
                // It was removed meanwhile, or moved to its final place.
                Err(error) if !origin.tree.root().is_dir() => {
                    tracing::debug!(build = %origin.id, %error, "a build to copy from is gone");
                }
                Err(error) => origin.complain(there.chunk, &error.to_string()),
            }
        }
        Ok(false)
    }
}

impl Origin {
    fn new(id: BuildId, manifest: Arc<Manifest>, root: &Path, staged: &StagedBuild) -> Self {
        let map = Arc::new(FileMap::new(manifest.entries()));
        let tree = TreeFiles::new(root.to_owned(), map, Access::Read, &Arc::default());
        let can_clone = can_clone(&tree, &staged.home().join("clone-probe"));
        Self { id, manifest, tree, can_clone, complaints: Mutex::default() }
    }

    /// Logs once per file that it is damaged.
    fn complain(&self, chunk: ChunkIndex, reason: &str) {
        let layout = self.manifest.layout();
        let mut extents =
            self.tree.map().extents(layout.offset_of(chunk), layout.size_of(chunk) as usize);
        let Some(Extent { file, .. }) = extents.next() else { return };
        let mut complaints = self.complaints.lock();
        if complaints.insert(file) {
            let path = self.tree.path_of(file);
            tracing::warn!(
                build = %self.id, ?path, chunk = chunk.get(), reason,
                "a build on this host is damaged; the chunk is fetched from the swarm instead: \
                 remove that build, or fetch it again"
            );
        }
    }
}

impl Span {
    /// Whether blocks can be shared: both offsets have the same alignment within blocks, and there
    /// are enough blocks.
    fn is_worth_cloning(&self, block: u64) -> bool {
        self.size >= CLONE_BYTES_MIN && self.from_offset % block == self.to_offset % block
    }

    /// Copies in the kernel, whole blocks apart from the edges, so that file systems that can will
    /// share the blocks.
    fn copy(&self, source: &File, target: &DiskFile, block: u64) -> io::Result<()> {
        let (start, end) = (self.from_offset, self.from_offset + self.size);
        let first = start.next_multiple_of(block).min(end);
        let last = (end - end % block).max(first);
        for (from, until) in [(start, first), (first, last), (last, end)] {
            let (mut from, mut to) = (from, self.to_offset + (from - start));
            while from < until {
                let moved = target.copy_range(source, from, to, until - from)?;
                if moved == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                from += moved;
                to += moved;
            }
        }
        Ok(())
    }
}

/// A build that may have something.
struct Candidate {
    id: BuildId,
    manifest: Arc<Manifest>,
    root: std::path::PathBuf,
    /// What is there of an unfinished build; `None`: everything.
    claimed: Option<ChunkSet>,
    written_at: SystemTime,
}

/// All builds of the stores but `staged` itself, newest first.
fn candidates(staged: &StagedBuild, stores: &[BuildStore]) -> Vec<Candidate> {
    let mut found = vec![];
    for store in stores {
        let listed = store.list().and_then(|complete| Ok((complete, store.list_staged()?)));
        let (complete, unfinished) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(%error, "cannot look for chunks in a store");
                continue;
            }
        };
        let unfinished = unfinished.into_iter().filter(|id| store.home_of(*id) != staged.home());
        found.extend(complete.into_iter().filter_map(|id| complete_build(store, id)));
        found.extend(unfinished.filter_map(|id| unfinished_build(store, id)));
    }
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.written_at));
    found
}

fn complete_build(store: &BuildStore, id: BuildId) -> Option<Candidate> {
    let path = store.manifest_of(id);
    let manifest = super::read_manifest(&path, id).ok().flatten()?;
    let (root, written_at) = (store.tree_of(id), written_at(&path));
    Some(Candidate { id, manifest, root, claimed: None, written_at })
}

fn unfinished_build(store: &BuildStore, id: BuildId) -> Option<Candidate> {
    let home = store.home_of(id);
    let path = home.join("manifest");
    let manifest = super::read_manifest(&path, id).ok().flatten()?;
    let chunk_count = manifest.layout().chunk_count();
    let Ok(Claim::Chunks(claimed)) = bitmap::read(&home.join("bitmap"), id, chunk_count) else {
        return None;
    };
    let (root, written_at) = (home.join("tree"), written_at(&path));
    Some(Candidate { id, manifest, root, claimed: Some(claimed), written_at })
}

fn written_at(path: &Path) -> SystemTime {
    let metadata = std::fs::metadata(path);
    metadata.and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whether files beside `scratch` can share blocks with those of the tree: tried on its smallest.
fn can_clone(tree: &TreeFiles, scratch: &Path) -> bool {
    let files = tree.map().files().iter().enumerate();
    let smallest = files.min_by_key(|(_, file)| file.range.end - file.range.start);
    let try_it = |file: usize| {
        let source = tree.open(file).ok()?;
        DiskFile::open(scratch, Open::Empty(0o600)).ok()?.reflink(source.as_file()).ok()
    };
    let can_clone = smallest.and_then(|(file, _)| try_it(file)).is_some();
    if let Err(error) = disk::remove_file(scratch)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = ?scratch, %error, "cannot remove a probe");
    }
    can_clone
}

fn block_size(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(4_096, |disk| disk.f_bsize).max(1)
}

/// The ranges of two builds that hold the same `size` bytes, cut where either changes its file.
fn spans(from: (&FileMap, u64), to: (&FileMap, u64), size: usize) -> Vec<Span> {
    let mut spans = vec![];
    let mut sources = from.0.extents(from.1, size);
    let mut targets = to.0.extents(to.1, size);
    let (mut source, mut target) = (sources.next(), targets.next());
    while let (Some(here), Some(there)) = (&source, &target) {
        let start = here.part.start.max(there.part.start);
        let end = here.part.end.min(there.part.end);
        spans.push(Span {
            from_file: here.file,
            from_offset: here.file_offset + (start - here.part.start) as u64,
            to_file: there.file,
            to_offset: there.file_offset + (start - there.part.start) as u64,
            size: (end - start) as u64,
        });
        let (is_source_done, is_target_done) = (here.part.end == end, there.part.end == end);
        if is_source_done {
            source = sources.next();
        }
        if is_target_done {
            target = targets.next();
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::publish::publish;
    use crate::store::testing::{Rig, random_bytes};

    /// The rig's build with one file more, staged in the empty store; most chunks are in both.
    fn next_version(rig: &Rig) -> StagedBuild {
        std::fs::write(rig.source.join("zz-news"), random_bytes(77, 3 << 20)).unwrap();
        let elsewhere = BuildStore::open(rig.directory.path().join("next")).unwrap();
        let next = publish(&rig.source, &elsewhere, None).unwrap().build;
        rig.store.stage(next.id(), Arc::clone(next.manifest())).unwrap()
    }

    fn sources(rig: &Rig) -> Vec<BuildStore> {
        vec![BuildStore::open(rig.directory.path().join("from")).unwrap(), rig.store.clone()]
    }

    fn copy_all(reuse: &Reuse) -> Copied {
        let all = Mutex::new(Copied::default());
        let note = |copied: Copied| {
            let mut all = all.lock();
            all.stored.extend(copied.stored);
            all.failed.extend(copied.failed);
            true
        };
        reuse.copy(&note).unwrap();
        all.into_inner()
    }

    /// Whether every chunk that counts as here is what the manifest says.
    fn assert_right(staged: &StagedBuild) {
        for chunk in staged.have().iter() {
            let bytes = staged.read_chunk(chunk).unwrap();
            assert_eq!(Digest::of(&bytes), staged.manifest().chunks()[chunk.as_usize()].digest);
        }
    }

    #[test]
    fn shared_chunks_are_copied_and_are_right() {
        let rig = Rig::new();
        let staged = next_version(&rig);
        let reuse = Reuse::find(&staged, &sources(&rig)).unwrap();
        let expected = reuse.chunks().clone();
        assert!(!expected.is_empty() && !expected.is_full());
        let copied = copy_all(&reuse);
        assert_eq!(copied.failed, []);
        assert_eq!(staged.have(), expected);
        assert_right(&staged);
        assert!(Reuse::find(&staged, &sources(&rig)).is_none(), "what is here is not looked for");
    }

    #[test]
    fn nothing_is_found_where_nothing_is_shared() {
        let rig = Rig::new();
        let staged = next_version(&rig);
        assert!(Reuse::find(&staged, std::slice::from_ref(&rig.store)).is_none());
        assert!(Reuse::find(&staged, &[]).is_none());
    }

    /// Goal: a damaged origin gives up its wrong chunk and nothing else, and a second place helps.
    #[test]
    fn damaged_chunks_are_not_kept() {
        let rig = Rig::new();
        let staged = next_version(&rig);
        let damaged = rig.published.root().join("lib-data");
        let file = std::fs::OpenOptions::new().write(true).open(damaged).unwrap();
        file.write_all_at(&[0xab; 100], 3 << 20).unwrap();
        let reuse = Reuse::find(&staged, &sources(&rig)).unwrap();
        let copied = copy_all(&reuse);
        assert_eq!(copied.failed.len(), 1, "{copied:?}");
        assert!(!staged.have().contains(copied.failed[0]));
        assert_right(&staged);

        let whole = BuildStore::open(rig.directory.path().join("next")).unwrap();
        let again = Reuse::find(&staged, &[sources(&rig).remove(0), whole]).unwrap();
        copy_all(&again);
        assert!(staged.have().contains(copied.failed[0]));
        assert_right(&staged);
    }

    /// Goal: the death of the process in the middle of the copying costs what was not synced, and
    /// the bitmap claims nothing that is not there.
    #[test]
    fn copying_that_was_cut_off_is_resumed() {
        let rig = Rig::new();
        let staged = next_version(&rig);
        let reuse = Reuse::find(&staged, &sources(&rig)).unwrap();
        let all = reuse.chunks().clone();
        let half = Mutex::new(0);
        let stop = |copied: Copied| {
            *half.lock() += copied.stored.len();
            false
        };
        reuse.copy(&stop).unwrap();
        let (id, manifest) = (staged.id(), Arc::clone(staged.manifest()));
        drop((staged, reuse));
        let unsynced = rig.store.stage(id, Arc::clone(&manifest)).unwrap();
        assert!(unsynced.have().is_empty(), "chunks are claimed before a checkpoint");

        let reuse = Reuse::find(&unsynced, &sources(&rig)).unwrap();
        copy_all(&reuse);
        unsynced.checkpoint().unwrap();
        drop((unsynced, reuse));
        let synced = rig.store.stage(id, manifest).unwrap();
        assert_eq!(synced.have(), all);
    }

    /// Goal: bytes that a damaged origin brings never take the place of right ones.
    #[test]
    fn chunk_that_is_here_is_not_copied_over() {
        let rig = Rig::new();
        let staged = rig.stage();
        rig.copy(&staged, [0]);
        let chunk = rig.manifest().layout().index(0).unwrap();
        let outcome = staged.copy_chunks(&[chunk], |_| panic!("it is here"));
        assert_eq!(outcome.unwrap(), None);
    }

    #[test]
    fn chunks_that_are_cloned_wrong_do_not_count() {
        let rig = Rig::new();
        let staged = rig.stage();
        let layout = rig.manifest().layout();
        let chunks: Vec<_> = layout.indices().take(2).collect();
        let right = rig.published.read_chunk(chunks[0]).unwrap();
        let outcome = staged.copy_chunks(&chunks, |tree| tree.write_at(0, &right));
        assert_eq!(outcome.unwrap(), Some(vec![chunks[1]]));
        assert_eq!(staged.have().iter().collect::<Vec<_>>(), [chunks[0]]);
    }

    #[test]
    fn spans_end_where_either_side_changes_its_file() {
        use p2p_core::{Entry, EntryKind};
        let map = |sizes: &[u64]| {
            let file = |(number, size): (usize, &u64)| Entry {
                path: format!("{number}"),
                kind: EntryKind::File { size: *size, executable: false },
            };
            FileMap::new(&sizes.iter().enumerate().map(file).collect::<Vec<_>>())
        };
        let found = spans((&map(&[10, 10]), 4), (&map(&[3, 20]), 0), 12);
        let found: Vec<_> = found
            .iter()
            .map(|p| ((p.from_file, p.from_offset), (p.to_file, p.to_offset), p.size))
            .collect();
        let expected = [((0, 4), (0, 0), 3), ((0, 7), (1, 0), 3), ((1, 0), (1, 3), 6)];
        assert_eq!(found, expected);
    }

    /// Goal: the edges of a span, which lie within blocks, are copied as well as the blocks.
    #[test]
    fn span_is_copied_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = random_bytes(5, 300_000);
        for (from_offset, to_offset, size) in [(0, 0, 300_000), (4_097, 1, 200_000), (5, 9, 3)] {
            let (from, to) = (folder.path().join("from"), folder.path().join("to"));
            std::fs::write(&from, &bytes).unwrap();
            std::fs::write(&to, vec![7; 400_000]).unwrap();
            let source = File::open(&from).unwrap();
            let target = DiskFile::open(&to, Open::ReadWrite).unwrap();
            let span = Span { from_file: 0, from_offset, to_file: 0, to_offset, size };
            span.copy(&source, &target, 4_096).unwrap();
            let found = std::fs::read(&to).unwrap();
            let at = |offset: u64| usize::try_from(offset).unwrap();
            let (start, end) = (at(to_offset), at(to_offset + size));
            assert_eq!(found[start..end], bytes[at(from_offset)..at(from_offset + size)]);
            assert!(found[..start].iter().chain(&found[end..]).all(|byte| *byte == 7));
        }
    }
}
