//! Brings a build into the store.
//!
//! Order: packs first, then the note of the app, then the build's object, created only if there is
//! none. Invariant: whoever finds the build finds all its bytes, whenever the publisher was killed
//! and whoever publishes or sweeps beside it. Before the build is written, each of its packs is
//! seen in the store and seen not to be condemned; what is condemned after that is swept only after
//! a time that no publisher needs between the two ([`crate::gc::GRACE_MIN`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use p2p_core::{BuildId, ChunkIndex, Digest};
use tokio::task::JoinSet;

use crate::builds;
use crate::files::{Files, FilesError};
use crate::format::build::{BuildObject, Notes};
use crate::format::error::FormatError;
use crate::format::index::{Index, PackPart, PackRef};
use crate::format::keys;
use crate::format::segment::SEGMENT_BYTES_MAX;
use crate::gc;
use crate::plan::Known;
use crate::store::error::StoreError;
use crate::store::{BlobStore, Created};

mod sending;
mod tally;
mod work;

use self::sending::Sender;
use self::tally::Tally;
pub use self::tally::{PublishProgress, Watcher};
pub use self::work::WorkError;
use self::work::{Made, OwnPack, Work};

/// Packs on their way at a time, beside the one that is being made.
const PACKS_AT_ONCE: usize = 2;

/// Segments being read and compressed at a time, at most. Each needs twice its length in memory.
const SEGMENTS_AT_ONCE_MAX: usize = 8;

/// How often packs may be swept away under a publisher before it gives up.
const ROUNDS_MAX: usize = 5;

/// The longest that a publisher takes from its look at the packs to the build's object. Less than
/// the shortest grace of a sweep, by enough for clocks that run differently.
const FINISH_MAX: Duration = Duration::from_mins(30);

const _: () = assert!(FINISH_MAX.as_secs() * 2 <= gc::GRACE_MIN.as_secs());

/// Requests about packs at a time.
const LOOKS_AT_ONCE: usize = 16;

/// How to publish.
#[derive(Clone)]
pub struct PublishOptions {
    /// The app that it is a build of.
    pub app: String,
    /// Builds in the store whose chunks it may share, the likeliest first. Those that are not there
    /// or cannot be read are passed over.
    pub earlier: Vec<BuildId>,
    /// Where to keep what a killed publish needs to go on: up to three packs, and the records.
    pub state: PathBuf,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Called with each step.
    pub watcher: Option<Watcher>,
}

impl fmt::Debug for PublishOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PublishOptions");
        shown.field("app", &self.app).field("state", &self.state);
        shown.field("earlier", &self.earlier).finish_non_exhaustive()
    }
}

/// A build that is in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Published {
    /// The build.
    pub build: BuildId,
    /// Whether the store had it before, or another publisher was faster.
    pub is_known: bool,
    /// How far the publish came.
    pub progress: PublishProgress,
}

/// Why nothing was published. The store has the build whole, or not at all; what was sent serves
/// the next try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The app's name cannot be part of a key.
    #[error("{app:?} is no name of an app: use letters, digits, '-', '_' and '.'")]
    App {
        /// The name.
        app: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read, or changed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The publisher's own disk failed.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The build cannot be written down.
    #[error("the build is too large for a store")]
    Format(#[from] FormatError),
    /// The store forgets uploads before they are complete.
    #[error(
        "{store} forgot every upload of {key} before it was complete: \
         look for a rule of the bucket that aborts uploads early"
    )]
    UploadsVanish {
        /// The store.
        store: String,
        /// The pack.
        key: String,
    },
    /// The store took too long to take the build's object after its packs were seen there.
    #[error("{store} took too long to take the last object of the build: publish again")]
    TooLate {
        /// The store.
        store: String,
    },
    /// The store has the build's object, but not all that it names.
    #[error("{store} has build {build} without some of its packs: shoal repair --fix, then again")]
    Incomplete {
        /// The store.
        store: String,
        /// The build.
        build: BuildId,
    },
    /// Packs vanish as fast as they are sent.
    #[error("packs vanish from {store} while a build is published: look for what removes them")]
    PacksVanish {
        /// The store.
        store: String,
    },
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Publishes `files`: a build that is complete in the store, or an error.
///
/// # Errors
///
/// See [`PublishError`].
///
/// # Cancel safety
///
/// May be dropped at any time, as a process may be killed at any time: the next call with the same
/// state folder goes on.
pub async fn publish(
    store: &BlobStore,
    files: &Files,
    options: PublishOptions,
) -> Result<Published, PublishError> {
    store.check_writable()?;
    if !keys::is_app(&options.app) {
        return Err(PublishError::App { app: options.app });
    }
    let (state, build, name) = (options.state.clone(), files.build(), store.to_string());
    let work = Arc::new(blocking(move || Work::open(&state, build, &name)).await?);
    let tally = Arc::new(Tally::new(files.manifest().build_size(), options.watcher.clone()));
    let mut publisher = Publisher {
        sender: Sender { store: store.clone(), work, tally },
        files: files.clone(),
        options,
        known: Known::default(),
        condemned: BTreeSet::new(),
    };
    let is_known = publisher.run().await?;
    let work = Arc::clone(&publisher.sender.work);
    blocking(move || work.finish()).await?;
    Ok(Published { build, is_known, progress: publisher.sender.tally.now() })
}

struct Publisher {
    sender: Sender,
    files: Files,
    options: PublishOptions,
    known: Known,
    /// Packs and builds that may be swept at any time.
    condemned: BTreeSet<Digest>,
}

impl Publisher {
    fn store(&self) -> &BlobStore {
        &self.sender.store
    }

    /// Returns whether somebody else published the build.
    async fn run(&mut self) -> Result<bool, PublishError> {
        if self.is_there().await? {
            return Ok(true);
        }
        self.condemned = gc::condemned(self.store()).await?;
        self.learn_earlier().await?;
        self.go_on().await?;
        for round in 0..ROUNDS_MAX {
            let (_, missing) = self.known.parts(self.files.manifest());
            if round == 0 {
                self.tell_reused(&missing);
            }
            self.bring(missing).await?;
            let (parts, _) = self.known.parts(self.files.manifest());
            let lost = self.unreliable(&parts).await?;
            if lost.is_empty() {
                let finished = tokio::time::timeout(FINISH_MAX, self.finish(parts)).await;
                let late = |_| PublishError::TooLate { store: self.store().to_string() };
                return finished.map_err(late)?;
            }
            tracing::info!("{} packs are being swept: sending their chunks again", lost.len());
            self.known.forget(&lost);
            let work = Arc::clone(&self.sender.work);
            blocking(move || lost.iter().try_for_each(|pack| work.forget(pack))).await?;
        }
        Err(PublishError::PacksVanish { store: self.store().to_string() })
    }

    /// Whether the build is in the store, and stays there: it is noted as published once more.
    async fn is_there(&self) -> Result<bool, PublishError> {
        let build = self.files.build();
        let object = match builds::read(self.store(), build).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // Nothing that publishes or sweeps makes such a build, but hands and lost disks do.
        if !self.lost_of(object.index.parts()).await?.is_empty() {
            return Err(PublishError::Incomplete { store: self.store().to_string(), build });
        }
        self.note().await?;
        if !gc::condemned(self.store()).await?.contains(build.digest()) {
            return Ok(true);
        }
        // A sweep that looked before the note was written may remove it within this time; one that
        // looks later sees the note.
        tokio::time::sleep(gc::LOOK_MAX + gc::LOOK_MAX / 2).await;
        Ok(self.store().head(&keys::build(build)).await?.is_some())
    }

    async fn note(&self) -> Result<(), PublishError> {
        let key = keys::published(&self.options.app, self.options.now_ms, self.files.build());
        Ok(self.store().write(&key, Bytes::new()).await?)
    }

    /// Makes the packs of earlier builds known, as far as they can be relied on.
    async fn learn_earlier(&mut self) -> Result<(), PublishError> {
        for earlier in self.options.earlier.clone() {
            let object = match builds::read(self.store(), earlier).await {
                Ok(object) => object,
                Err(error @ (StoreError::NotFound { .. } | StoreError::Damaged { .. })) => {
                    tracing::warn!("build {} is passed over: {error}", earlier.short());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for part in object.index.parts() {
                self.known.add(&object.manifest, part.clone());
            }
        }
        let (parts, _) = self.known.parts(self.files.manifest());
        let lost = self.lost_of(&parts).await?;
        self.known.forget(&lost);
        Ok(())
    }

    /// Goes on with the packs of a try that was killed.
    async fn go_on(&mut self) -> Result<(), PublishError> {
        let work = Arc::clone(&self.sender.work);
        let found = blocking(move || work.resume()).await?;
        let (stored, unsent): (Vec<OwnPack>, Vec<OwnPack>) =
            found.into_iter().partition(|own| own.is_stored);
        for own in stored {
            self.learn(own);
        }
        let sender = &self.sender;
        let sent = stream::iter(unsent.into_iter().map(|own| sender.send(own)));
        let sent: Vec<OwnPack> = sent.buffer_unordered(PACKS_AT_ONCE).try_collect().await?;
        for own in sent {
            self.learn(own);
        }
        Ok(())
    }

    fn learn(&mut self, own: OwnPack) {
        let part = PackPart { pack: own.pack, segments: own.segments };
        self.known.add(self.files.manifest(), part);
    }

    fn tell_reused(&self, missing: &[ChunkIndex]) {
        let manifest = self.files.manifest();
        let all: BTreeSet<(Digest, u32)> =
            manifest.chunks().iter().map(|chunk| (chunk.digest, chunk.size)).collect();
        let all: u64 = all.iter().map(|(_, size)| u64::from(*size)).sum();
        let sizes = missing.iter().map(|chunk| u64::from(manifest.layout().size_of(*chunk)));
        self.sender.tally.on_reused(all - sizes.sum::<u64>());
    }

    /// Makes packs of these chunks and sends them.
    async fn bring(&mut self, missing: Vec<ChunkIndex>) -> Result<(), PublishError> {
        let mut segments = stream::iter(self.segments(&missing))
            .map(|chunks| {
                let files = self.files.clone();
                blocking(move || files.read(&chunks).map(|plain| Made::of(&chunks, plain)))
            })
            .buffered(segments_at_once())
            .boxed();
        let mut sending: JoinSet<Result<OwnPack, PublishError>> = JoinSet::new();
        let mut sent = vec![];
        let mut next = segments.try_next().await?;
        while let Some(first) = next {
            let work = Arc::clone(&self.sender.work);
            let mut spool = blocking(move || work.begin(0)).await?;
            let mut segment = Some(first);
            while let Some(made) = segment {
                self.sender.tally.on_packed(made.plain().into());
                spool = blocking(move || spool.add(made).map(|()| spool)).await?;
                segment = if spool.is_full() { None } else { segments.try_next().await? };
            }
            let (work, condemned) = (Arc::clone(&self.sender.work), self.condemned.clone());
            let sealed = blocking(move || work.seal(spool, |name| condemned.contains(name)));
            if let Some(own) = sealed.await? {
                while sending.len() >= PACKS_AT_ONCE {
                    sent.extend(joined(&mut sending).await?);
                }
                let sender = self.sender.clone();
                sending.spawn(async move { sender.send(own).await });
            }
            next = segments.try_next().await?;
        }
        drop(segments);
        while let Some(own) = joined(&mut sending).await? {
            sent.push(own);
        }
        for own in sent {
            self.learn(own);
        }
        Ok(())
    }

    /// The chunks by segment, in the order of the build.
    fn segments(&self, chunks: &[ChunkIndex]) -> Vec<Vec<ChunkIndex>> {
        let layout = self.files.manifest().layout();
        let mut segments: Vec<Vec<ChunkIndex>> = vec![];
        let mut room = 0;
        for chunk in chunks {
            let size = layout.size_of(*chunk);
            match segments.last_mut() {
                Some(segment) if size <= room => segment.push(*chunk),
                _ => {
                    segments.push(vec![*chunk]);
                    room = SEGMENT_BYTES_MAX;
                }
            }
            room -= size;
        }
        segments
    }

    /// Packs of these parts that are being swept, or are gone.
    async fn unreliable(&mut self, parts: &[PackPart]) -> Result<BTreeSet<Digest>, PublishError> {
        // In this order: a pack is removed before it is struck from the list.
        self.condemned = gc::condemned(self.store()).await?;
        self.lost_of(parts).await
    }

    async fn lost_of(&self, parts: &[PackPart]) -> Result<BTreeSet<Digest>, PublishError> {
        let packs: Vec<PackRef> = parts.iter().map(|part| part.pack).collect();
        let looks = packs.into_iter().map(|pack| async move {
            let is_condemned = self.condemned.contains(&pack.digest);
            let is_sound = !is_condemned && builds::is_pack_there(self.store(), pack).await?;
            Ok::<_, PublishError>((!is_sound).then_some(pack.digest))
        });
        let lost = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        let lost: Vec<Option<Digest>> = lost.try_collect().await?;
        Ok(lost.into_iter().flatten().collect())
    }

    /// Makes the build visible. Returns whether somebody else did.
    async fn finish(&self, parts: Vec<PackPart>) -> Result<bool, PublishError> {
        let manifest = self.files.manifest();
        let notes = Notes {
            app: self.options.app.clone(),
            published_ms: self.options.now_ms,
            bytes: manifest.build_size(),
            chunk_count: manifest.chunks().len() as u64,
        };
        let index = Index::new(manifest, parts)?;
        let object = BuildObject { notes, manifest: Arc::clone(manifest), index };
        let bytes = object.encode()?;
        self.note().await?;
        let build = self.files.build();
        match self.store().create(&keys::build(build), bytes.into()).await? {
            Created::Now => Ok(false),
            // Ours, by a try whose answer was lost, or another publisher's: it has to be whole.
            Created::Before => {
                let found = builds::read(self.store(), build).await?;
                Ok(found != object)
            }
        }
    }
}

async fn joined(
    sending: &mut JoinSet<Result<OwnPack, PublishError>>,
) -> Result<Option<OwnPack>, PublishError> {
    match sending.join_next().await {
        None => Ok(None),
        Some(Ok(sent)) => sent.map(Some),
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn segments_at_once() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(SEGMENTS_AT_ONCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a publish can run on any thread of a runtime.
    #[test]
    fn publishing_may_move_between_threads() {
        fn check<T: Send>(_: impl FnOnce(&'static BlobStore, &'static Files, PublishOptions) -> T) {
        }
        check(publish);
    }
}
