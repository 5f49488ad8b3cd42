//! The daemon of every region: serves a store of builds, is tracker for their swarms, and carries
//! hosts' reports to the goal store.
//!
//! - [`Seeder`]: a seeder inside a program. Start here.
//! - [`cli`]: the same as a process, behind `shoal-seeder`.
//! - [`TokenTable`]: which hosts may be down.
//! - [`StatusTable`]: what hosts reported, cut into documents for the goal store.

mod catalog;
pub mod cli;
mod daemon;
mod limits_file;
mod status_relay;
mod token_server;
mod tokens;

pub use daemon::{HOSTS_MAX, Seeder, SeederConfig, SeederError};
pub use status_relay::{ROW_BYTES_MAX, ROWS_PER_SHARD_MAX, ReportFault, StatusTable, Taken};
pub use tokens::{Handled, TokenFileError, TokenLimits, TokenTable};
