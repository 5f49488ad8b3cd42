//! Shoal's protocol, pure: what a build is, what nodes say to each other, and how a node and a
//! tracker decide.
//!
//! Nothing here reads a clock, draws entropy, opens a file or a socket, or starts a thread:
//! time, randomness and the outcome of every effect are inputs. The agent, the seeder and
//! the simulator therefore run exactly the same code. Chunk bytes never enter; only their
//! indices and verdicts do.
//!
//! Start at [`Swarm`] (one node's part in one build) and [`TrackerTable`] (who should know whom).

#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic, clippy::wildcard_enum_match_arm)]

mod action;
mod chunk_set;
mod config;
mod contact;
mod digest;
mod event;
mod fault;
mod layout;
mod manifest;
mod node_id;
pub mod pick;
mod prng;
mod rate;
mod swarm;
mod time;
mod tracker;
mod units;
pub mod wire;

pub use action::Action;
pub use chunk_set::ChunkSet;
pub use config::{SwarmConfig, TrackerConfig};
pub use contact::{Contact, Location, PeerRole};
pub use digest::{BuildId, Digest, ParseDigestError};
pub use event::{Event, LocalCopy, ManifestOutcome, Verdict};
pub use fault::PeerFault;
pub use layout::{CHUNK_SIZE_MAX, CHUNKS_MAX, ChunkIndex, ChunkLayout, LayoutError};
pub use manifest::{
    ChunkInfo, ENTRIES_MAX, Entry, EntryKind, MANIFEST_BYTES_MAX, Manifest, ManifestError,
    PathError,
};
pub use node_id::NodeId;
pub use prng::{Prng, Seed};
pub use rate::RateError;
pub use swarm::{Deadline, Holdings, Swarm, SwarmParams, TableSize, TimerKind, Waiting};
pub use time::Instant;
pub use tracker::TrackerTable;
pub use units::ByteRate;
