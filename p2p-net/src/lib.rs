//! Runs Shoal's protocol on a real machine.
//!
//! - [`publish()`]: cuts a file or a directory tree into a build.
//! - [`Node`]: one process's place in the swarms: joins, downloads, serves, asks. Start here.
//! - [`BuildStore`]: builds on disk, complete and in the making.
//!
//! A seeder publishes and serves a program, and a host downloads it:
//!
//! ```
//! use p2p_net::{
//!     BuildStore, FetchOptions, Identity, Node, NodeConfig, SharedLimits, publish,
//! };
//! use tokio::task::spawn_blocking;
//! # use std::time::Duration;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let program = folder.path().join("program");
//! # std::fs::write(&program, "#!/bin/sh\necho hello\n")?;
//! # let [seeder_store, host_store] = ["a", "b"].map(|name| folder.path().join(name));
//! // Whatever touches the disk blocks, and belongs on a thread that may.
//! let published = spawn_blocking(move || {
//!     let store = BuildStore::open(seeder_store)?;
//!     publish(&program, &store, None)
//! })
//! .await??;
//! let config = NodeConfig::seeder(Identity::generate(), "127.0.0.1:0".parse()?);
//! let seeder = Node::start(config).await?;
//! seeder.serve(&published.build, &SharedLimits::default());
//!
//! // On another machine, which was given the build's id and the seeder's address:
//! let (build, address) = (published.build.id(), seeder.address());
//! let config = NodeConfig {
//!     seeders: vec![address],
//!     ..NodeConfig::host(Identity::generate(), "127.0.0.1:0".parse()?)
//! };
//! let host = Node::start(config).await?;
//! let store = spawn_blocking(|| BuildStore::open(host_store)).await??;
//! let options = FetchOptions {
//!     give_up_after: Some(Duration::from_secs(60)),
//!     ..FetchOptions::default()
//! };
//! let mut download = host.fetch(build, &store, options);
//! while let Some(now) = download.next_progress().await {
//!     match (&now.waiting_for, now.bytes_total) {
//!         (Some(reason), _) => println!("waiting: {reason}"),
//!         (None, Some(total)) => println!("{} of {total} bytes", now.bytes_done),
//!         (None, None) => {}
//!     }
//! }
//! let fetched = download.finish().await?; // the host goes on serving it
//! println!("{}", fetched.root().display());
//! # let bytes = std::fs::read(fetched.root().join("program"))?;
//! # assert_eq!(bytes, b"#!/bin/sh\necho hello\n");
//! host.shutdown().await;
//! # seeder.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/seed.rs` and `examples/fetch.rs` are the two halves as programs.

mod address;
mod ask;
mod budget;
mod compare;
mod control;
mod data;
mod disk_priority;
mod error;
mod hub;
mod identity;
mod measure;
mod node;
mod progress;
mod publish;
mod store;
mod tls;

pub use bytes::Bytes;
pub use libp2p::PeerId;
// Whatever the signatures of this crate name, so that its users need no other.
pub use p2p_core::{
    BuildId, ByteRate, ChunkIndex, ChunkInfo, ChunkLayout, ChunkSet, Digest, Entry, EntryKind,
    Manifest, ManifestError, NodeId, ParseDigestError, PathError, PeerFault, RateError,
};

pub use address::{ParseSeederAddressError, SeederAddress};
pub use ask::{Ask, KeptAsk};
pub use budget::{BufferBudget, ParseBufferBudgetError};
pub use compare::{ChangeKind, Comparison, FileChange, compare};
pub use control::{NoAnswer, Refusal, STATUS_TOPIC};
pub use data::dscp::{ParseTrafficClassError, TrafficClass};
pub use data::limiter::{Limits, SharedLimits};
pub use data::transport::{ParseTransportError, Transport, TransportKind};
pub use disk_priority::{DiskPriority, ParseDiskPriorityError};
pub use error::{AskError, FetchError, StartError};
pub use identity::{Identity, IdentityError};
pub use measure::{
    MeasureError, PeerOutcome, PeerRate, SocketBuffers, measure_peer, socket_buffers,
};
pub use node::{Download, FetchOptions, Node, NodeConfig};
pub use progress::{BannedPeer, LinkCounts, NodeStats, Phase, Progress, WaitingFor};
pub use publish::{
    Difference, EntryDifference, PublishError, PublishProgress, Published, SourceError,
    Verification, VerifyError, manifest_of, publish, verify,
};
pub use store::{BuildDamage, BuildStore, StagedBuild, StoreError, StoredBuild};
