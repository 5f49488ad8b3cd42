//! What an earlier agent, a crash or a person left of an app's files, read at the start of its
//! loop.
//!
//! Invariant: nothing that is damaged keeps a host from running what is whole. Damaged builds are
//! passed over, files that are not the agent's are moved aside for a person to look at.

use std::collections::{BTreeMap, BTreeSet};

use command_line::causes;
use p2p_core::BuildId;
use p2p_net::{BuildStore, StoreError, StoredBuild};
use tracing::warn;

use super::OpenAppError;
use crate::state::app_dir::{AppDir, Journal, Paused};
use crate::state::durable::ReadError;

/// The complete builds of a store that are what they should be, and what is wrong with the last of
/// those that are not.
#[expect(clippy::type_complexity, reason = "two results of one pass")]
pub(super) fn open_builds(
    store: &BuildStore,
) -> Result<(BTreeMap<BuildId, StoredBuild>, Option<(BuildId, String)>), StoreError> {
    let (mut builds, mut damage) = (BTreeMap::new(), None);
    for build in store.list()? {
        let opened = match store.build(build) {
            Ok(None) => continue,
            Ok(Some(stored)) => stored.audit().map(|()| stored).map_err(causes),
            Err(error) => Err(causes(error)),
        };
        match opened {
            Ok(stored) => {
                builds.insert(build, stored);
            }
            Err(reason) => {
                let message = format!("build {} is damaged on this host: {reason}", build.short());
                warn!("{message}; it is not used until it is fetched again");
                store.distrust(build)?;
                damage = Some((build, message));
            }
        }
    }
    Ok((builds, damage))
}

/// Builds of which there is something on disk that is not a complete build.
pub(super) fn parts_of_builds(store: &BuildStore) -> Result<BTreeSet<BuildId>, StoreError> {
    Ok(store.list_staged()?.into_iter().chain(store.list_distrusted()?).collect())
}

pub(super) fn recover_current(directory: &AppDir) -> Result<Option<BuildId>, OpenAppError> {
    match directory.current() {
        Ok(current) => Ok(current),
        Err(error) => {
            warn!("`current` is not what the agent makes, so it is moved away: {error}");
            set_aside(directory, "current")?;
            Ok(None)
        }
    }
}

pub(super) fn recover_journal(directory: &AppDir) -> Result<Option<Journal>, OpenAppError> {
    match directory.journal() {
        Err(error @ ReadError::Malformed { .. }) => {
            warn!("going on without the journal: {}", causes(error));
            set_aside(directory, "journal")?;
            Ok(None)
        }
        other => Ok(other?),
    }
}

pub(super) fn recover_paused(directory: &AppDir) -> Result<Option<Paused>, OpenAppError> {
    match directory.paused() {
        Err(error @ ReadError::Malformed { .. }) => {
            // Treated as paused: a switch that somebody did not want does more harm than one that
            // waits.
            let reason = Some(format!("the note of the pause is damaged: {}", causes(error)));
            Ok(Some(Paused { since_ms: 0, reason }))
        }
        other => Ok(other?),
    }
}

fn set_aside(directory: &AppDir, name: &str) -> Result<(), OpenAppError> {
    let path = directory.path().join(name);
    directory.set_aside(name).map_err(|source| OpenAppError::SetAside { path, source })
}
