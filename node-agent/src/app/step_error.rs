//! Why a step of an app's loop on the disk failed.

use p2p_core::BuildId;
use p2p_net::{BuildDamage, StoreError};

use crate::state::durable::WriteError;

/// Why a step on disk failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("cannot switch to build {}", build.short())]
    Switch {
        build: BuildId,
        #[source]
        source: WriteError,
    },
    #[error("cannot note that build {} failed", build.short())]
    Quarantine {
        build: BuildId,
        #[source]
        source: WriteError,
    },
    #[error("cannot note that the build runs")]
    Settle(#[source] WriteError),
    #[error("cannot remove build {}", build.short())]
    Remove {
        build: BuildId,
        #[source]
        source: Box<StoreError>,
    },
    #[error("build {} is damaged on this host", build.short())]
    Damaged {
        build: BuildId,
        #[source]
        source: Box<BuildDamage>,
    },
    #[error("the removal of build {} was interrupted", build.short())]
    RemoveInterrupted { build: BuildId },
}
