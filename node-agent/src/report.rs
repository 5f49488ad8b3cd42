//! What the agent reports: a status row per app for the fleet (`status`), a page for Prometheus
//! (`metrics`, with what `counts` adds up), and whether it is well for the service manager
//! (`service`).
//!
//! Reporting decides nothing and holds nobody up: a reader that falls behind misses rows.

pub(crate) mod counts;
pub(crate) mod metrics;
pub(crate) mod service;
pub(crate) mod status;

pub use status::StatusBoard;
