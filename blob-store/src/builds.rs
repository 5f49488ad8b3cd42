//! Which builds a store has, and what it says of each.
//!
//! Invariant: a build is what lies under its key and decodes; nothing else makes one visible.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use p2p_core::BuildId;

use crate::format::build::{BUILD_BYTES_MAX, Beginning, BuildObject, Head, Notes};
use crate::format::error::FormatError;
use crate::format::index::PackRef;
use crate::format::keys;
use crate::store::error::StoreError;
use crate::store::{BlobStore, Listed};

/// Bytes of a build that are read for its head; enough for a hundred gigabytes.
const HEAD_BYTES: u64 = 64 << 10;

/// Heads read at a time.
const HEADS_AT_ONCE: usize = 16;

/// A build, as a listing shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildSummary {
    /// The build.
    pub build: BuildId,
    /// When it got into the store, by the store's clock.
    pub stored: SystemTime,
    /// What its publisher noted.
    pub notes: Notes,
    /// The packs that hold its chunks. Other builds may need the same.
    pub packs: Vec<PackRef>,
}

/// Reads a build's manifest and index.
pub(crate) async fn read(store: &BlobStore, build: BuildId) -> Result<BuildObject, StoreError> {
    let key = keys::build(build);
    let bytes = store.read_all(&key, BUILD_BYTES_MAX).await?;
    BuildObject::decode(build, &bytes).map_err(|source| damaged(store, key, source))
}

pub(crate) fn damaged(store: &BlobStore, key: String, source: FormatError) -> StoreError {
    StoreError::Damaged { store: store.to_string(), key, source }
}

/// Whether the pack is in the store, with all its bytes.
pub(crate) async fn is_pack_there(store: &BlobStore, pack: PackRef) -> Result<bool, StoreError> {
    let found = store.head(&keys::pack(&pack.digest)).await?;
    Ok(found.is_some_and(|found| found.bytes == pack.bytes))
}

/// Reads the beginning of a build that a listing named; `None` if it was removed since.
pub(crate) async fn head(store: &BlobStore, listed: &Listed) -> Result<Option<Head>, StoreError> {
    let mut wanted = HEAD_BYTES.min(listed.bytes);
    loop {
        let bytes = match store.read_range(&listed.key, 0..wanted).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let refused = |source| damaged(store, listed.key.clone(), source);
        match Head::decode(&bytes).map_err(refused)? {
            Beginning::Head(head) => return Ok(Some(head)),
            Beginning::Needs(more) if more as u64 <= listed.bytes && more > bytes.len() => {
                wanted = more as u64;
            }
            Beginning::Needs(_) => {
                return Err(refused(FormatError::Undecodable { what: "build" }));
            }
        }
    }
}

/// Every build of the store, the newest first.
///
/// # Errors
///
/// The store's, or the first build that is damaged: `shoal repair` deals with those.
pub async fn list_builds(store: &BlobStore) -> Result<Vec<BuildSummary>, StoreError> {
    let listed = store.list(keys::BUILDS).await?;
    let looks = listed.into_iter().filter_map(|listed| {
        let build = BuildId::from_digest(keys::digest_of(&listed.key)?);
        Some(async move { Ok((build, listed.modified, head(store, &listed).await?)) })
    });
    let found: Vec<_> =
        stream::iter(looks).buffer_unordered(HEADS_AT_ONCE).try_collect::<Vec<_>>().await?;
    let mut found: Vec<BuildSummary> = found
        .into_iter()
        .filter_map(|(build, stored, head)| {
            let Head { notes, packs } = head?;
            Some(BuildSummary { build, stored, notes, packs })
        })
        .collect();
    found.sort_by_key(|summary| (std::cmp::Reverse(summary.stored), summary.build));
    Ok(found)
}

/// When builds were published, by the notes of their apps.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    /// For each app its builds, with the publisher's time and the store's time of the newest note.
    pub(crate) by_app: BTreeMap<String, BTreeMap<BuildId, (u64, SystemTime)>>,
    /// Each note by its key.
    pub(crate) keys: Vec<(String, BuildId)>,
}

/// Reads the notes of all apps, or of those below `prefix`.
pub(crate) async fn publications(
    store: &BlobStore,
    prefix: &str,
) -> Result<Publications, StoreError> {
    let mut found = Publications::default();
    for listed in store.list(prefix).await? {
        let Some((app, time, build)) = keys::parse_published(&listed.key) else { continue };
        let builds = found.by_app.entry(app.to_owned()).or_default();
        let newest = builds.entry(build).or_insert((time, listed.modified));
        *newest = (newest.0.max(time), newest.1.max(listed.modified));
        found.keys.push((listed.key.clone(), build));
    }
    Ok(found)
}

/// The builds that were published as the app's, the last published first: what a publisher names as
/// earlier builds. Some of them may have been removed since.
///
/// # Errors
///
/// The store's.
pub async fn builds_of_app(store: &BlobStore, app: &str) -> Result<Vec<BuildId>, StoreError> {
    if !keys::is_app(app) {
        return Ok(vec![]);
    }
    let mut found = publications(store, &format!("{}/{app}", keys::APPS)).await?;
    let builds = found.by_app.remove(app).unwrap_or_default();
    let mut builds: Vec<(u64, BuildId)> =
        builds.into_iter().map(|(build, (time, _))| (time, build)).collect();
    builds.sort_by_key(|(time, build)| (std::cmp::Reverse(*time), *build));
    Ok(builds.into_iter().map(|(_, build)| build).collect())
}
