//! Runs Shoal's protocol on a real machine.
//!
//! - [`Node`]: one process's place in the swarms: joins, downloads, serves, reports. Start here.
//! - [`BuildStore`]: builds on disk, complete and in the making.
//! - [`publish()`]: cuts a file or a directory tree into a build.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use p2p_net::{BuildStore, Identity, Node, NodeConfig};
//!
//! let config = NodeConfig {
//!     seeders: vec!["/ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooW...".parse()?],
//!     ..NodeConfig::host(Identity::generate(), "0.0.0.0:0".parse()?)
//! };
//! let node = Node::start(config).await?;
//! let store = BuildStore::open("/var/lib/example")?;
//! let mut download = node.fetch("<64 digits>".parse()?, &store);
//! while let Some(progress) = download.next_progress().await {
//!     println!("{} of {:?} bytes", progress.bytes_done, progress.bytes_total);
//! }
//! let build = download.finish().await?; // the node goes on serving it
//! println!("{}", build.root().display());
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```

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

pub use address::{ParseSeederAddressError, SeederAddress};
pub use ask::Ask;
pub use budget::{BufferBudget, ParseBufferBudgetError};
pub use compare::{ChangeKind, Comparison, FileChange, compare};
pub use data::dscp::{ParseTrafficClassError, TrafficClass};
pub use data::limiter::{Limits, SharedLimits};
pub use data::transport::{ParseTransportError, Transport, TransportKind};
pub use disk_priority::{DiskPriority, ParseDiskPriorityError};
pub use error::{AskError, FetchError, ReportError, StartError};
pub use identity::{Identity, IdentityError};
pub use measure::{
    MeasureError, PeerOutcome, PeerRate, SocketBuffers, measure_peer, socket_buffers,
};
pub use node::{Download, Node, NodeConfig};
pub use progress::{LinkCounts, NodeStats, Phase, Progress, StatusReport};
pub use publish::{
    PublishError, PublishProgress, Published, SourceError, Verification, VerifyError, publish,
    verify,
};
pub use store::{BuildDamage, BuildStore, StagedBuild, StoreError, StoredBuild};
