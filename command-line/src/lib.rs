//! What `shoal`, `shoal-seeder` and `shoal-agent` do alike before and after their work: read
//! arguments, start the log, lock the state directory, and say how it ended.
//!
//! Invariant: a program complains in exactly one line on standard error, which begins with its name
//! and ends with the next step. Exit codes: 0 done, 1 failed, 2 wrong usage. Knows no command.

mod complaint;
mod state_lock;
mod terminal;
mod usage;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

pub use complaint::{complain, describe, fail, note};
pub use state_lock::{StateLock, StateLockError};
pub use terminal::Terminal;
pub use usage::{EXIT_USAGE, parse};

/// Why a text is no log filter.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a log filter; expected one such as info or p2p_net=debug,info")]
pub struct LogFilterError {
    text: String,
    #[source]
    source: ParseError,
}

/// Reads a filter for [`start_log`]. Its own conversion would pass over what it does not know.
///
/// # Errors
///
/// If a part of the text is not a directive.
pub fn log_filter(text: &str) -> Result<EnvFilter, LogFilterError> {
    EnvFilter::try_new(text).map_err(|source| LogFilterError { text: text.into(), source })
}

/// Logs what `filter` lets pass to standard error, with colours if that is a terminal.
pub fn start_log(filter: EnvFilter) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // It would complain on standard error that standard error is gone, and die of it: a daemon whose
    // terminal was closed has programs to stop first.
    let log = log.log_internal_errors(false);
    // Fails only if a log is running, which then stays.
    drop(log.with_ansi(io::stderr().is_terminal()).try_init());
}
