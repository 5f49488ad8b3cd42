//! Builds whose index claims what is not there.
//!
//! Each build is compared with the packs that the store has; on demand every chunk is read. A
//! broken build gets a new index if other builds' packs have what it lacks. Otherwise it is removed
//! from sight, so that publishing it once more brings it back whole; its sound packs are found
//! again by that. Invariant: nothing is written unless `fix` says so, and a build that is sound is
//! never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use p2p_core::{BuildId, ChunkIndex, Digest};

use crate::builds;
use crate::format::build::BuildObject;
use crate::format::index::{Index, PackPart};
use crate::format::keys;
use crate::plan::Known;
use crate::read::open_build;
use crate::store::BlobStore;
use crate::store::error::StoreError;

/// What to look at, and what to do.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// Look at this build only.
    pub only: Option<BuildId>,
    /// Read and verify every chunk, not only the lengths of the packs.
    pub deep: bool,
    /// Mend what can be mended, and remove what cannot.
    pub fix: bool,
}

/// What is wrong with a build.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct BrokenBuild {
    /// The build.
    pub build: BuildId,
    /// Whether its own object does not decode.
    pub is_unreadable: bool,
    /// Packs that are missing, cut off, or hold a damaged chunk.
    pub packs: Vec<Digest>,
    /// Different chunks that no sound pack of any build has.
    pub chunks_lost: usize,
    /// Whether other packs have everything, so that a new index is enough.
    pub is_mendable: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Builds looked at.
    pub builds: usize,
    /// Those that are broken.
    pub broken: Vec<BrokenBuild>,
}

/// Compares builds with what the store has.
///
/// # Errors
///
/// The store's. What is damaged in it is no error but part of the report.
pub async fn repair(
    store: &BlobStore,
    options: &RepairOptions,
) -> Result<RepairReport, StoreError> {
    if options.fix {
        store.check_writable()?;
    }
    let mut survey = Survey::default();
    for listed in store.list(keys::BUILDS).await? {
        let Some(digest) = keys::digest_of(&listed.key) else { continue };
        let build = BuildId::from_digest(digest);
        match builds::read(store, build).await {
            Ok(object) => survey.add(store, build, object).await?,
            Err(StoreError::Damaged { .. } | StoreError::WrongLength { .. }) => {
                survey.unreadable.insert(build);
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if options.deep {
        survey.read_chunks(store, options.only).await?;
    }
    if options.fix {
        // So that no publisher takes them for what their names say.
        for pack in &survey.damaged {
            store.write(&keys::condemned(pack), Bytes::new()).await?;
        }
    }
    let mut report = RepairReport::default();
    let is_meant = |build: &BuildId| options.only.is_none_or(|only| only == *build);
    for build in survey.unreadable.iter().filter(|build| is_meant(build)) {
        report.builds += 1;
        report.broken.push(BrokenBuild {
            build: *build,
            is_unreadable: true,
            packs: vec![],
            chunks_lost: 0,
            is_mendable: false,
        });
        if options.fix {
            store.remove(&keys::build(*build)).await?;
        }
    }
    for (build, object) in survey.builds.iter().filter(|(build, _)| is_meant(build)) {
        report.builds += 1;
        let Some((broken, parts)) = survey.judge(*build, object) else { continue };
        if options.fix {
            mend(store, &broken, object, parts).await?;
        }
        report.broken.push(broken);
    }
    Ok(report)
}

async fn mend(
    store: &BlobStore,
    broken: &BrokenBuild,
    object: &BuildObject,
    parts: Vec<PackPart>,
) -> Result<(), StoreError> {
    let key = keys::build(broken.build);
    if !broken.is_mendable {
        return store.remove(&key).await;
    }
    let refused = |source| builds::damaged(store, key.clone(), source);
    let index = Index::new(&object.manifest, parts).map_err(refused)?;
    let mended = BuildObject { index, ..object.clone() };
    let bytes = mended.encode().map_err(refused)?;
    store.write(&key, bytes.into()).await
}

/// What all builds of a store say, and what is there of it.
#[derive(Default)]
struct Survey {
    builds: BTreeMap<BuildId, Arc<BuildObject>>,
    unreadable: BTreeSet<BuildId>,
    looked_at: BTreeSet<Digest>,
    /// Missing, cut off, or damaged.
    unsound: BTreeSet<Digest>,
    /// Whole by their lengths, and wrong.
    damaged: BTreeSet<Digest>,
}

impl Survey {
    async fn add(
        &mut self,
        store: &BlobStore,
        build: BuildId,
        object: BuildObject,
    ) -> Result<(), StoreError> {
        for part in object.index.parts() {
            let is_new = self.looked_at.insert(part.pack.digest);
            if is_new && !builds::is_pack_there(store, part.pack).await? {
                self.unsound.insert(part.pack.digest);
            }
        }
        self.builds.insert(build, Arc::new(object));
        Ok(())
    }

    /// Reads every chunk; a pack with a damaged one is not sound.
    async fn read_chunks(
        &mut self,
        store: &BlobStore,
        only: Option<BuildId>,
    ) -> Result<(), StoreError> {
        for build in self.builds.keys() {
            if only.is_some_and(|only| only != *build) {
                continue;
            }
            let remote = open_build(store, *build).await?;
            let chunks: Vec<ChunkIndex> = remote.manifest().layout().indices().collect();
            let mut read = std::pin::pin!(remote.read(&chunks));
            while let Some(found) = read.next().await {
                match found.outcome {
                    Ok(_) => {}
                    Err(StoreError::Damaged { .. }) => {
                        let pack = remote.pack_of(found.chunk).digest;
                        self.damaged.insert(pack);
                        self.unsound.insert(pack);
                    }
                    // It is missing or cut off, which is known already.
                    Err(StoreError::Pack { .. })
                        if self.unsound.contains(&remote.pack_of(found.chunk).digest) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What is wrong with the build, and of what it could be made; `None` if it is sound.
    fn judge(
        &self,
        build: BuildId,
        object: &Arc<BuildObject>,
    ) -> Option<(BrokenBuild, Vec<PackPart>)> {
        let packs = object.index.parts().iter().map(|part| part.pack.digest);
        let packs: Vec<Digest> = packs.filter(|pack| self.unsound.contains(pack)).collect();
        if packs.is_empty() {
            return None;
        }
        let mut known = Known::default();
        let others = self.builds.values().filter(|other| !Arc::ptr_eq(other, object));
        for object in std::iter::once(object).chain(others) {
            for part in object.index.parts() {
                known.add(&object.manifest, part.clone());
            }
        }
        known.forget(&self.unsound);
        let (parts, lost) = known.parts(&object.manifest);
        let broken = BrokenBuild {
            build,
            is_unreadable: false,
            packs,
            chunks_lost: lost.len(),
            is_mendable: lost.is_empty(),
        };
        Some((broken, parts))
    }
}
