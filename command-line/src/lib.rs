//! What `shoal`, `shoal-seeder` and `shoal-agent` do alike before and after their work: read
//! arguments, start the log, lock the state directory, hear signals, and say how it ended.
//!
//! Invariant: a program complains in exactly one line on standard error, which begins with its name
//! and ends with the next step. Exit codes: 0 done, 1 failed, 2 wrong usage. Knows no command.

mod complaint;
mod log;
mod signals;
mod state_lock;
mod usage;

pub use complaint::{causes, complain, describe, fail, note};
pub use log::{LogFilterError, LogFormat, LogFormatError, log_filter, start_log, start_log_as};
pub use signals::{Hangup, SignalError, SignalRequest, Signals};
pub use state_lock::{StateLock, StateLockError};
pub use usage::{EXIT_USAGE, Unparsed, parse};
