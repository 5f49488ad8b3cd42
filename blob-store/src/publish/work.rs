//! What a publisher keeps on its own disk, so that a killed publish goes on where it was.
//!
//! ```text
//! <state>/<build>-<store>/     one publish of one build into one store
//!   lock                       held while somebody works on it
//!   <digest>.pack              a pack on its way; removed once it is stored
//!   <digest>.table             its table
//!   <digest>.json              its record: what was sent, by the store's names of it
//! ```
//!
//! Invariant: a record is durable before anything depends on it, and is written after pack and
//! table. What a pack holds is believed only by its digest; a torn one is made anew, and a damaged
//! record costs its pack and nothing else. Calls block.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blake3::Hasher;
use disk::{Durability, replace_file, scratch_beside};
use p2p_core::{BuildId, Digest};
use serde::{Deserialize, Serialize};

use crate::format::codec;
use crate::format::index::PackRef;
use crate::format::pack;
use crate::format::segment::Segment;
use crate::plan::Runs;

/// Raised whenever an older publisher would misread the records.
const VERSION: u32 = 1;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The system's reason.
    #[error("cannot {operation} {path:?}, where the publisher keeps its state")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Another process is at it.
    #[error("another process publishes this build from {path:?}: wait for it")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkError {
    move |source| WorkError::Io { operation, path: path.to_owned(), source }
}

/// A publish that nobody went on with for so long is not gone on with. A week outlasts a weekend.
const ABANDONED_AFTER: Duration = Duration::from_hours(7 * 24);

/// Removes what other publishes left that were killed long ago. What cannot be looked at or removed
/// stays for the next time.
fn sweep_abandoned(state: &Path, own: &Path) {
    let Ok(listed) = std::fs::read_dir(state) else { return };
    for folder in listed.flatten().map(|entry| entry.path()).filter(|path| path != own) {
        let is_old = |path: &Path| {
            let age = path.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            Some(age > ABANDONED_AFTER)
        };
        let Ok(lock) = File::open(folder.join("lock")) else { continue };
        if is_old(&folder) == Some(true) && lock.try_lock().is_ok() {
            let removed = disk::remove_dir_all(&folder);
            tracing::info!("removal of {folder:?}, a publish given up long ago: {removed:?}");
        }
    }
}

/// An upload that another process can go on with.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    /// The store's name of the upload.
    pub(crate) id: String,
    /// The store's name of each part that arrived.
    pub(crate) parts: Vec<Option<String>>,
}

/// What is known of a pack of this publish.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    digest: String,
    bytes: u64,
    /// Digest of the table's file.
    table: String,
    is_stored: bool,
    upload: Option<UploadRecord>,
}

/// A pack of this publish.
#[derive(Clone, Debug)]
pub(crate) struct OwnPack {
    pub(crate) pack: PackRef,
    pub(crate) segments: Vec<Segment>,
    /// Digest of the table's file.
    pub(crate) table: Digest,
    /// Whether it is in the store, as far as this publisher knows.
    pub(crate) is_stored: bool,
    pub(crate) upload: Option<UploadRecord>,
}

/// The folder of one publish.
#[derive(Debug)]
pub(crate) struct Work {
    folder: PathBuf,
    build: BuildId,
    /// Closed with the value, and by that unlocked.
    _lock: File,
}

impl Work {
    /// Opens the folder for this build and store, made if it is missing.
    pub(crate) fn open(state: &Path, build: BuildId, store: &str) -> Result<Self, WorkError> {
        let mut name = Digest::of(store.as_bytes()).to_string();
        name.truncate(12);
        let folder = state.join(format!("{build}-{name}"));
        disk::create_dir_all_synced(&folder).map_err(failed("make", &folder))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {
                sweep_abandoned(state, &folder);
                Ok(Self { folder, build, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(WorkError::Busy { path: folder }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    fn file(&self, pack: &Digest, kind: &str) -> PathBuf {
        self.folder.join(format!("{pack}.{kind}"))
    }

    /// The packs of an earlier try; what cannot be gone on with is removed.
    pub(crate) fn resume(&self) -> Result<Vec<OwnPack>, WorkError> {
        let mut found = vec![];
        let listed = std::fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        for entry in listed {
            let path = entry.map_err(failed("list", &self.folder))?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                found.extend(self.read(&path));
            }
        }
        self.sweep(&found)?;
        found.sort_by_key(|own| own.pack);
        Ok(found)
    }

    /// The pack of a record; `None` if anything about it is wrong.
    fn read(&self, path: &Path) -> Option<OwnPack> {
        let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let digest: Digest = record.digest.parse().ok()?;
        let named_right = *path == self.file(&digest, "json");
        if record.version != VERSION || record.bytes > pack::PACK_BYTES_MAX || !named_right {
            return None;
        }
        let footer = std::fs::read(self.file(&digest, "table")).ok()?;
        let table: Digest = record.table.parse().ok()?;
        if Digest::of(&footer) != table {
            return None;
        }
        let end = record.bytes.checked_sub(footer.len() as u64)?;
        let segments = pack::decode_footer(&footer, end).ok()?;
        if !record.is_stored {
            let mut hasher = Hasher::new();
            hasher.update_reader(File::open(self.file(&digest, "pack")).ok()?).ok()?;
            let is_whole = hasher.finalize().as_bytes() == digest.as_bytes();
            is_whole.then_some(())?;
        }
        let pack = PackRef { digest, bytes: record.bytes };
        Some(OwnPack { pack, segments, table, is_stored: record.is_stored, upload: record.upload })
    }

    /// Removes what belongs to none of these packs.
    fn sweep(&self, kept: &[OwnPack]) -> Result<(), WorkError> {
        let names: Vec<String> = kept.iter().map(|own| own.pack.digest.to_string()).collect();
        for entry in std::fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let path = entry.map_err(failed("list", &self.folder))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if stem != "lock" && !names.iter().any(|name| name == stem) {
                std::fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Begins a pack with this salt.
    pub(crate) fn begin(&self, salt: u64) -> Result<Spool, WorkError> {
        let path = self.folder.join("making.pack");
        // Not through `disk`: after a power cut a torn pack is told by its digest and made anew.
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.map_err(failed("create", &path))?;
        let header = pack::header(self.build, salt);
        file.write_all_at(&header, 0).map_err(failed("write", &path))?;
        Ok(Spool { file, path, end: header.len() as u64, segments: vec![] })
    }

    /// Ends a pack and makes it durable, under another salt than its own if `is_taken` says that
    /// its name must not be used. `None` if nothing was put into it.
    pub(crate) fn seal(
        &self,
        spool: Spool,
        is_taken: impl Fn(&Digest) -> bool,
    ) -> Result<Option<OwnPack>, WorkError> {
        let Spool { file, path, end, segments } = spool;
        if segments.is_empty() {
            return Ok(None);
        }
        let footer = pack::footer(&segments).expect("a pack is full long before its table is");
        file.write_all_at(&footer, end).map_err(failed("write", &path))?;
        let mut digest = digest_of(&path).map_err(failed("read", &path))?;
        let mut salt = 0_u64;
        while is_taken(&digest) {
            salt += 1;
            let header = pack::header(self.build, salt);
            file.write_all_at(&header, 0).map_err(failed("write", &path))?;
            digest = digest_of(&path).map_err(failed("read", &path))?;
        }
        let own = OwnPack {
            pack: PackRef { digest, bytes: end + footer.len() as u64 },
            segments,
            table: Digest::of(&footer),
            is_stored: false,
            upload: None,
        };
        let place = self.file(&digest, "pack");
        std::fs::rename(&path, &place).map_err(failed("rename", &path))?;
        let table = self.file(&digest, "table");
        replace_file(&table, &scratch_beside(&table, ".tmp"), &footer, Durability::Synced)
            .map_err(failed("write", &table))?;
        self.save(&own)?;
        Ok(Some(own))
    }

    /// Writes down how far a pack is.
    pub(crate) fn save(&self, own: &OwnPack) -> Result<(), WorkError> {
        let record = Record {
            version: VERSION,
            digest: own.pack.digest.to_string(),
            bytes: own.pack.bytes,
            table: own.table.to_string(),
            is_stored: own.is_stored,
            upload: own.upload.clone(),
        };
        let path = self.file(&own.pack.digest, "json");
        let text = serde_json::to_vec(&record).expect("a record has only text and numbers");
        replace_file(&path, &scratch_beside(&path, ".tmp"), &text, Durability::Synced)
            .map_err(failed("write", &path))?;
        if own.is_stored {
            remove_file(&self.file(&own.pack.digest, "pack"))?;
        }
        Ok(())
    }

    /// These bytes of a pack that is on its way.
    pub(crate) fn read_pack(
        &self,
        pack: &Digest,
        start: u64,
        count: usize,
    ) -> Result<Vec<u8>, WorkError> {
        let path = self.file(pack, "pack");
        let mut bytes = vec![0; count];
        let file = File::open(&path).map_err(failed("open", &path))?;
        file.read_exact_at(&mut bytes, start).map_err(failed("read", &path))?;
        Ok(bytes)
    }

    /// Forgets a pack.
    pub(crate) fn forget(&self, pack: &Digest) -> Result<(), WorkError> {
        ["json", "table", "pack"]
            .into_iter()
            .try_for_each(|kind| remove_file(&self.file(pack, kind)))
    }

    /// Removes the folder: the build is published.
    pub(crate) fn finish(&self) -> Result<(), WorkError> {
        disk::remove_dir_all(&self.folder).map_err(failed("remove", &self.folder))
    }
}

fn remove_file(path: &Path) -> Result<(), WorkError> {
    match disk::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// A pack in the making.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    path: PathBuf,
    /// Where the next payload goes.
    end: u64,
    segments: Vec<Segment>,
}

/// A segment that is ready to be put into a pack.
#[derive(Debug)]
pub(crate) struct Made {
    coder: crate::format::segment::Coder,
    stored: Vec<u8>,
    plain: u32,
    runs: Runs,
}

impl Made {
    /// Compresses these chunks, whose bytes are `plain`.
    pub(crate) fn of(chunks: &[p2p_core::ChunkIndex], plain: Vec<u8>) -> Self {
        let length = u32::try_from(plain.len()).expect("segments are far smaller");
        let mut runs = Runs::default();
        for chunk in chunks {
            runs.chunk(chunk.get());
        }
        let (coder, stored) = codec::compress(plain);
        Self { coder, stored, plain: length, runs }
    }

    /// Bytes of the chunks.
    pub(crate) const fn plain(&self) -> u32 {
        self.plain
    }
}

impl Spool {
    /// Puts a segment behind the others.
    pub(crate) fn add(&mut self, made: Made) -> Result<(), WorkError> {
        self.file.write_all_at(&made.stored, self.end).map_err(failed("write", &self.path))?;
        let stored = u32::try_from(made.stored.len()).expect("never more than the chunks");
        let segment = Segment {
            offset: self.end,
            stored,
            plain: made.plain,
            coder: made.coder,
            runs: made.runs.list,
        };
        self.end += u64::from(stored);
        self.segments.push(segment);
        Ok(())
    }

    /// Whether no further segment should be put into it.
    pub(crate) const fn is_full(&self) -> bool {
        self.end >= pack::PACK_BYTES
    }
}
