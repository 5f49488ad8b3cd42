//! Micro benches of the hot paths: `cargo bench -p benches [-- FILTER]`.
//!
//! [`core`] is what the state machines do per chunk and per message, [`bytes`] what is done to the
//! bytes themselves. Never run as timed tests; `-- --test` runs each once to see that it works.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing better to do")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod bytes;
mod core;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    hot_paths,
    core::chunk_sets,
    core::picking,
    core::swarm,
    core::messages,
    core::manifests,
    bytes::digests,
    bytes::publishing,
);
criterion_main!(hot_paths);
