//! What a program logs and how log lines look.
//!
//! Invariant: the log goes to standard error and nowhere else, and a program whose standard error
//! is gone goes on. Standard output is never touched.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A text is no [`LogFormat`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected text or json")]
pub struct LogFormatError;

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, LogFormatError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogFormatError),
        }
    }
}

/// Logs what `filter` lets pass to standard error, as lines for people.
pub fn start_log(filter: EnvFilter) {
    start_log_as(filter, LogFormat::Text);
}

/// Logs what `filter` lets pass to standard error. Colours only if that is a terminal; no time if
/// it is the journal, which has its own.
pub fn start_log_as(filter: EnvFilter, format: LogFormat) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // It would complain on standard error that standard error is gone, and die of it: a daemon
    // whose terminal was closed has programs to stop first.
    let log = log.log_internal_errors(false);
    let log = log.with_ansi(io::stderr().is_terminal() && format == LogFormat::Text);
    // Fails only if a log is running, which then stays.
    drop(match format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text if is_journal() => log.without_time().try_init(),
        LogFormat::Text => log.try_init(),
    });
}

/// Whether standard error is what `JOURNAL_STREAM` names, by device and inode: the variable is
/// inherited, the stream may have been redirected.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let own = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    own.and_then(|stream| stream.metadata())
        .is_ok_and(|stream| named == format!("{}:{}", stream.dev(), stream.ino()))
}
