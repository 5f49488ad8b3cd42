//! The main store: builds in a folder or in a bucket, from which every region takes its copy.
//!
//! - [`BlobStore::open`]: a folder, `s3://`, `gs://`, `az://`, or `http(s)://` for reading.
//! - [`publish()`]: brings a build there. Killed at any moment, the build is whole there or not
//!   there at all, and the next call goes on where it was.
//! - [`open_build`]: manifest and index of a build, and from them any of its chunks, verified.
//! - [`list_builds`], [`gc()`], [`repair()`]: what is there, what may go, what is broken.
//!
//! Chunks lie compressed in packs of 64 MiB, and a chunk that an earlier build brought is not
//! brought again. The store is trusted with nothing: what is read is compared with the digests of
//! the manifest, and that with the build's id.

#![forbid(unsafe_code)]

mod builds;
mod files;
mod format;
mod gc;
mod plan;
mod publish;
mod read;
mod repair;
mod store;

pub use builds::{BuildSummary, builds_of_app, list_builds};
pub use files::{Files, FilesError};
pub use format::build::Notes;
pub use format::error::FormatError;
pub use format::index::PackRef;
pub use gc::{GRACE_MIN, GcError, GcPolicy, GcReport, gc};
pub use publish::{
    PublishError, PublishOptions, PublishProgress, Published, Watcher, WorkError, publish,
};
pub use read::{ChunkRead, RemoteBuild, open_build};
pub use repair::{BrokenBuild, RepairOptions, RepairReport, repair};
pub use store::error::{Failure, Said, StoreError};
pub use store::retry::Patience;
pub use store::{Access, BlobStore, OpenOptions};
