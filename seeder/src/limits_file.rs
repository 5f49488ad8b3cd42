//! The file with what may change while a seeder runs: `--limits FILE`, read again at SIGHUP.
//!
//! ```toml
//! upload_limit = "40MB"   # leave it out for what --upload-limit says
//! ```
//!
//! Owns the format. Every mistake is an error with its line, so that a misspelt key is not taken
//! for the absence of a limit.

use std::path::{Path, PathBuf};

use p2p_core::ByteRate;
use serde::Deserialize;
use toml::{Spanned, Value};

/// What the file says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct LimitsFile {
    /// Cap on chunk bytes sent; `None` if the file does not say.
    pub(crate) upload_limit: Option<ByteRate>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitsFileError {
    #[error("cannot read the limits {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}:{line}: {reason}", path.display())]
    Wrong { path: PathBuf, line: usize, reason: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    upload_limit: Option<Spanned<Value>>,
}

impl LimitsFile {
    /// Reads `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not what the head of this file shows.
    pub(crate) fn read(path: &Path) -> Result<Self, LimitsFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LimitsFileError::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|(offset, reason)| {
            let before = text.as_bytes().get(..offset).unwrap_or_default();
            let line = before.split(|byte| *byte == b'\n').count();
            LimitsFileError::Wrong { path: path.into(), line, reason }
        })
    }

    /// What the text says, or what is wrong with it and where.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let keys: Keys = toml::from_str(text).map_err(|error| {
            // Some messages span lines; a complaint is one line.
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            (error.span().map_or(0, |span| span.start), reason)
        })?;
        let rate = |value: Spanned<Value>| {
            let start = value.span().start;
            parse_rate(value.into_inner())
                .map_err(|reason| (start, format!("upload_limit: {reason}")))
        };
        Ok(Self { upload_limit: keys.upload_limit.map(rate).transpose()? })
    }
}

fn parse_rate(value: Value) -> Result<ByteRate, String> {
    match value {
        Value::String(text) => text.parse().map_err(|error| format!("{error}")),
        Value::Integer(bytes) => u64::try_from(bytes).ok().and_then(ByteRate::new).ok_or_else(|| {
            format!("{bytes} is not a number of bytes per second above 0; leave the key out for no limit")
        }),
        other => Err(format!("expected a rate such as \"40MB\", found {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let cases = [
            ("", None),
            ("# nothing\n", None),
            ("upload_limit = \"8Mbit\"", Some(1_000_000)),
            ("upload_limit = 5000", Some(5_000)),
        ];
        for (text, expected) in cases {
            let limits = LimitsFile::parse(text).unwrap();
            assert_eq!(limits.upload_limit.map(ByteRate::get), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.toml");
        let cases = [
            ("\nuplod_limit = 1", ":2: ", "upload_limit"),
            ("upload_limit = \"fast\"", ":1: upload_limit: ", "fast"),
            ("\n\nupload_limit = 0", ":3: upload_limit: ", "0 is not"),
            ("upload_limit = true", ":1: upload_limit: ", "expected a rate"),
            ("upload_limit = ", ":1: ", ""),
        ];
        for (text, place, reason) in cases {
            std::fs::write(&path, text).unwrap();
            let error = LimitsFile::read(&path).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(reason), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = LimitsFile::read(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
