//! Sweeping: which builds go, and then which packs no build needs any more.
//!
//! Two steps, at least a grace apart: what is not wanted is *condemned* by a note in the store, and
//! removed by a later sweep that finds the note old enough and the thing still not wanted. A
//! publisher relies on nothing that it sees condemned, and needs less than the grace from that look
//! to the build's object. So what a sweep removes, nobody came to rely on.
//!
//! Invariant: builds of `in_use` are never removed, nor is anything younger than the grace. Ages
//! are by the store's clock on both sides. No pack is swept while one build cannot be read: it may
//! need any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use p2p_core::{BuildId, Digest};
use tokio::time::Instant;

use crate::builds::{self, Publications};
use crate::format::keys;
use crate::store::error::StoreError;
use crate::store::{BlobStore, Listed};

/// Shortest grace. Publishers rely on it.
pub const GRACE_MIN: Duration = Duration::from_hours(1);

/// The longest that a sweep acts on what it saw of builds and apps.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(10);

/// Requests at a time.
const AT_ONCE: usize = 16;

/// What to keep.
#[derive(Clone, Debug)]
pub struct GcPolicy {
    /// Keep builds that were published within this time. `None`: age keeps nothing.
    pub keep_age: Option<Duration>,
    /// Keep so many builds of each app, the last published. `None`: rank keeps nothing.
    pub keep_per_app: Option<usize>,
    /// Keep these: the builds that goals name, and those that hosts run.
    pub in_use: BTreeSet<BuildId>,
    /// How long something must have been there, and condemned, before it is removed. At least
    /// [`GRACE_MIN`]; longer than the longest publish saves that from sending packs twice.
    pub grace: Duration,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct GcReport {
    /// Builds that stay.
    pub builds_kept: usize,
    /// Builds that a later sweep removes.
    pub builds_condemned: Vec<BuildId>,
    /// Builds that were removed.
    pub builds_removed: Vec<BuildId>,
    /// Packs that builds need.
    pub packs_kept: usize,
    /// Packs that no build needs, too young to be condemned.
    pub packs_young: usize,
    /// Packs that a later sweep removes.
    pub packs_condemned: Vec<Digest>,
    /// Packs that were removed.
    pub packs_removed: Vec<Digest>,
    /// Bytes of the packs that were removed.
    pub bytes_removed: u64,
}

/// Why a sweep ended early. What it removed until then was not needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// The grace is shorter than what publishers rely on.
    #[error("a grace of {} s is too short for publishers, give at least {} s",
        .grace.as_secs(), GRACE_MIN.as_secs())]
    Grace {
        /// The grace given.
        grace: Duration,
    },
    /// Nothing says what to keep, so everything that is not in use would go.
    #[error("nothing says which builds to keep: give an age, a count, or both")]
    KeepsNothing,
    /// A build cannot be read, so nobody knows which packs it needs.
    #[error("no pack was removed, because a build cannot be read: run shoal repair first")]
    Unreadable(#[source] StoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is condemned, with the age of the note.
struct Condemned {
    notes: BTreeMap<Digest, SystemTime>,
}

/// The packs and builds that may be removed at any time.
pub(crate) async fn condemned(store: &BlobStore) -> Result<BTreeSet<Digest>, StoreError> {
    let listed = store.list(keys::CONDEMNED).await?;
    Ok(listed.iter().filter_map(|listed| keys::digest_of(&listed.key)).collect())
}

/// Sweeps the store.
///
/// # Errors
///
/// See [`GcError`].
pub async fn gc(store: &BlobStore, policy: &GcPolicy) -> Result<GcReport, GcError> {
    if policy.grace < GRACE_MIN {
        return Err(GcError::Grace { grace: policy.grace });
    }
    if policy.keep_age.is_none() && policy.keep_per_app.is_none() {
        return Err(GcError::KeepsNothing);
    }
    store.check_writable()?;
    let now = store.now().await?;
    // Before anything else is looked at: notes that are written from now on wait for the next
    // sweep, which sees all that was published before them.
    let listed = store.list(keys::CONDEMNED).await?;
    let notes = listed
        .iter()
        .filter_map(|listed| keys::digest_of(&listed.key).map(|digest| (digest, listed.modified)));
    let mut sweep = Sweep {
        store,
        policy,
        now,
        condemned: Condemned { notes: notes.collect() },
        report: GcReport::default(),
    };
    sweep.sweep_builds().await?;
    sweep.sweep_packs().await?;
    if let Some(folder) = &store.place().folder
        && !policy.dry_run
    {
        let (folder, grace) = (folder.clone(), policy.grace);
        let swept = tokio::task::spawn_blocking(move || sweep_leftovers(&folder, now, grace)).await;
        swept.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    Ok(sweep.report)
}

struct Sweep<'a> {
    store: &'a BlobStore,
    policy: &'a GcPolicy,
    now: SystemTime,
    condemned: Condemned,
    report: GcReport,
}

/// What a sweep does about something that is not wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Young,
    Condemn,
    Wait,
    Remove,
}

impl Sweep<'_> {
    fn is_older(&self, time: SystemTime, age: Duration) -> bool {
        self.now.duration_since(time).is_ok_and(|passed| passed >= age)
    }

    fn judge(&self, digest: &Digest, since: SystemTime) -> Verdict {
        let grace = self.policy.grace;
        match self.condemned.notes.get(digest) {
            _ if !self.is_older(since, grace) => Verdict::Young,
            None => Verdict::Condemn,
            Some(noted) if self.is_older(*noted, grace) => Verdict::Remove,
            Some(_) => Verdict::Wait,
        }
    }

    async fn condemn(&self, digest: &Digest) -> Result<(), StoreError> {
        if self.policy.dry_run {
            return Ok(());
        }
        self.store.write(&keys::condemned(digest), Bytes::new()).await
    }

    /// Removes something, and then the note that it was condemned.
    async fn remove(&self, key: &str, digest: &Digest) -> Result<(), StoreError> {
        if self.policy.dry_run {
            return Ok(());
        }
        self.store.remove(key).await?;
        self.store.remove(&keys::condemned(digest)).await
    }

    /// Takes back that something was condemned.
    async fn pardon(&self, digest: &Digest) -> Result<(), StoreError> {
        if self.policy.dry_run || !self.condemned.notes.contains_key(digest) {
            return Ok(());
        }
        self.store.remove(&keys::condemned(digest)).await
    }

    async fn sweep_builds(&mut self) -> Result<(), StoreError> {
        let looked = Instant::now();
        let publications = builds::publications(self.store, keys::APPS).await?;
        let listed = self.store.list(keys::BUILDS).await?;
        let kept = self.kept_by_rank(&publications);
        for found in &listed {
            let Some(digest) = keys::digest_of(&found.key) else { continue };
            let build = BuildId::from_digest(digest);
            let since = last_published(&publications, build, found);
            let is_recent = self.policy.keep_age.is_some_and(|age| !self.is_older(since, age));
            if is_recent || kept.contains(&build) || self.policy.in_use.contains(&build) {
                self.report.builds_kept += 1;
                self.pardon(&digest).await?;
                continue;
            }
            match self.judge(&digest, since) {
                Verdict::Young => self.report.builds_kept += 1,
                Verdict::Condemn => {
                    self.condemn(&digest).await?;
                    self.report.builds_condemned.push(build);
                }
                Verdict::Remove if looked.elapsed() < LOOK_MAX => {
                    self.remove(&found.key, &digest).await?;
                    self.report.builds_removed.push(build);
                }
                // The next sweep removes it.
                Verdict::Wait | Verdict::Remove => self.report.builds_condemned.push(build),
            }
        }
        self.sweep_notes(&publications, &listed).await
    }

    /// Builds that are among the last published of an app and still there.
    fn kept_by_rank(&self, publications: &Publications) -> BTreeSet<BuildId> {
        let mut kept = BTreeSet::new();
        let Some(count) = self.policy.keep_per_app else { return kept };
        for builds in publications.by_app.values() {
            let mut builds: Vec<_> =
                builds.iter().map(|(build, (time, _))| (*time, *build)).collect();
            builds.sort_unstable_by(|a, b| b.cmp(a));
            kept.extend(builds.into_iter().take(count).map(|(_, build)| build));
        }
        kept
    }

    /// Removes the notes of apps whose builds are gone.
    async fn sweep_notes(
        &self,
        publications: &Publications,
        listed: &[Listed],
    ) -> Result<(), StoreError> {
        if self.policy.dry_run {
            return Ok(());
        }
        let there: BTreeSet<Digest> =
            listed.iter().filter_map(|found| keys::digest_of(&found.key)).collect();
        for (key, build) in &publications.keys {
            let newest = publications.by_app.values().filter_map(|builds| builds.get(build));
            let newest = newest.map(|(_, stored)| *stored).max();
            // A publisher writes the note before the build.
            let is_old = newest.is_some_and(|newest| self.is_older(newest, self.policy.grace));
            if is_old && !there.contains(build.digest()) {
                self.store.remove(key).await?;
            }
        }
        Ok(())
    }

    /// Every pack that a build needs.
    async fn mark(&self) -> Result<BTreeSet<Digest>, GcError> {
        let listed = self.store.list(keys::BUILDS).await?;
        let store = self.store;
        let heads =
            listed.into_iter().map(|listed| async move { builds::head(store, &listed).await });
        let mut heads = stream::iter(heads).buffer_unordered(AT_ONCE);
        let mut needed = BTreeSet::new();
        while let Some(head) = heads.try_next().await.map_err(|error| match error {
            StoreError::Damaged { .. } | StoreError::WrongLength { .. } => {
                GcError::Unreadable(error)
            }
            error => GcError::Store(error),
        })? {
            needed.extend(head.into_iter().flat_map(|head| head.packs).map(|pack| pack.digest));
        }
        Ok(needed)
    }

    async fn sweep_packs(&mut self) -> Result<(), GcError> {
        // Listed before the builds: a pack that came later is not among them, and needs no mark.
        let packs = self.store.list(keys::PACKS).await?;
        let needed = self.mark().await?;
        for found in packs {
            let Some(digest) = keys::digest_of(&found.key) else { continue };
            if needed.contains(&digest) {
                self.report.packs_kept += 1;
                self.pardon(&digest).await?;
                continue;
            }
            match self.judge(&digest, found.modified) {
                Verdict::Young => self.report.packs_young += 1,
                Verdict::Condemn => {
                    self.condemn(&digest).await?;
                    self.report.packs_condemned.push(digest);
                }
                Verdict::Wait => self.report.packs_condemned.push(digest),
                Verdict::Remove => {
                    self.remove(&found.key, &digest).await?;
                    self.report.packs_removed.push(digest);
                    self.report.bytes_removed += found.bytes;
                }
            }
        }
        Ok(())
    }
}

/// Removes what killed processes left half written in a folder: files beside their places, which
/// no listing shows. One that cannot be removed stays for the next sweep.
fn sweep_leftovers(folder: &Path, now: SystemTime, grace: Duration) {
    let Ok(listed) = std::fs::read_dir(folder) else { return };
    for entry in listed.flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            sweep_leftovers(&entry.path(), now, grace);
            continue;
        }
        let name = entry.file_name();
        let scratch = name.to_str().and_then(|name| name.rsplit_once('#'));
        let is_scratch = scratch.is_some_and(|(_, number)| number.parse::<u64>().is_ok());
        let is_old = |time| now.duration_since(time).is_ok_and(|age| age >= grace);
        if is_scratch && found.modified().is_ok_and(is_old) {
            let removed = disk::remove_file(&entry.path());
            tracing::debug!("removal of {:?}, left by a killed process: {removed:?}", entry.path());
        }
    }
}

/// When the build was last published, by the store's clock.
fn last_published(publications: &Publications, build: BuildId, found: &Listed) -> SystemTime {
    let noted = publications.by_app.values().filter_map(|builds| builds.get(&build));
    noted.map(|(_, stored)| *stored).fold(found.modified, SystemTime::max)
}
