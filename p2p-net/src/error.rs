//! Why a node did not start, a download ended or a question got no answer.
//!
//! One enum per operation of the handle. Each message ends with the next step where the reader can
//! take one; those of the disk are in `store/error.rs`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::{BuildId, NodeId};

use crate::control::{NoAnswer, Refusal};
use crate::progress::WaitingFor;
use crate::store::StoreError;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A socket could not be bound.
    #[error("cannot listen on UDP {address}; choose a free port of this machine, or port 0")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start the node's threads")]
    Threads {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a download ended without the build. What was stored is kept for the next attempt.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The disk failed or is full.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The build was to be copied from another store of this node, whose copy is damaged.
    #[error("build {build} in {path:?} is damaged: remove it, it is then fetched again")]
    DamagedCopy {
        /// The build.
        build: BuildId,
        /// The damaged files.
        path: PathBuf,
    },
    /// Nothing arrived for as long as [`FetchOptions::give_up_after`](crate::FetchOptions) allows.
    #[error("no progress for {waited:?}: {}", cause_of(waiting_for.as_ref()))]
    NoProgress {
        /// How long nothing was to arrive at most.
        waited: Duration,
        /// Why nothing arrived; `None` if nobody knows.
        waiting_for: Option<WaitingFor>,
    },
    /// The download was cancelled, or the node shut down.
    #[error("the download was cancelled")]
    Cancelled,
}

fn cause_of(waiting_for: Option<&WaitingFor>) -> String {
    waiting_for.map_or_else(|| "nothing arrives".to_owned(), WaitingFor::to_string)
}

impl FetchError {
    /// Bytes that have to be freed before another try can succeed; `None` if the disk is not full.
    pub fn disk_short_bytes(&self) -> Option<u64> {
        match self {
            Self::Store(error) => match **error {
                // The last bytes of a disk may be kept for root, or for the quota of others.
                StoreError::NoSpace { needed, available, .. } => {
                    Some(needed.saturating_sub(available).max(1))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// Why a question to a seeder got no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The seeder is not in the node's list.
    #[error("seeder {seeder} is not configured")]
    UnknownSeeder {
        /// The one that was to be asked.
        seeder: NodeId,
    },
    /// The topic or the body is longer than a question may be.
    #[error("a question about {topic_bytes} bytes of topic with {body_bytes} bytes is too long")]
    TooLong {
        /// Bytes of the topic.
        topic_bytes: usize,
        /// Bytes of the body.
        body_bytes: usize,
    },
    /// It does not answer.
    #[error("the seeder does not answer: {reason}")]
    Unreachable {
        /// What happened.
        reason: NoAnswer,
    },
    /// None of the node's seeders answers.
    #[error("no seeder answers: {reason}")]
    NobodyAnswers {
        /// What the last one that was asked did.
        reason: NoAnswer,
    },
    /// The seeder, or the last one of the list, was reached and refused to answer.
    #[error("the seeder refused the question: {refusal}")]
    Refused {
        /// Its reason.
        refusal: Refusal,
    },
    /// The node shut down.
    #[error("the node has shut down")]
    Shutdown,
}
