//! The name of an app.
//!
//! Invariant: a name that exists is safe as a file name and as part of a key, because every way to
//! make one goes through [`AppName::from_str`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Long enough for "team.service-component", short enough for a column of a table.
const APP_NAME_BYTES_MAX: usize = 64;

/// The name of an app: a short text of `a-z 0-9 - _ .` that starts with a letter or digit. Checked
/// on parse and on deserialisation, because it becomes a file name and a key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

impl AppName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0
    }
}

impl TryFrom<String> for AppName {
    type Error = AppNameError;

    fn try_from(text: String) -> Result<Self, AppNameError> {
        let in_alphabet = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if starts_well && text.len() <= APP_NAME_BYTES_MAX && text.bytes().all(in_alphabet) {
            Ok(Self(text))
        } else {
            Err(AppNameError { text })
        }
    }
}

impl FromStr for AppName {
    type Err = AppNameError;

    fn from_str(text: &str) -> Result<Self, AppNameError> {
        text.to_owned().try_into()
    }
}

/// Why a text is not an app's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not an app name: expected 1 to {APP_NAME_BYTES_MAX} of a-z, 0-9, '-', '_' and \
     '.', \
     starting with a letter or digit"
)]
pub struct AppNameError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_in_paths_and_keys_are_taken() {
        let longest = "a".repeat(64);
        for text in ["a", "0", "web", "team.web-1_b", "a..b", longest.as_str()] {
            assert_eq!(text.parse::<AppName>().map(String::from), Ok(text.to_owned()));
        }
    }

    #[test]
    fn every_other_name_is_refused() {
        let too_long = "a".repeat(65);
        let texts = [
            "",
            ".",
            "..",
            "../web",
            ".web",
            "-web",
            "_web",
            "Web",
            "a/b",
            "a b",
            "a\0",
            "a\n",
            "w\u{e4}b",
            too_long.as_str(),
        ];
        for text in texts {
            let error = text.parse::<AppName>().unwrap_err();
            assert!(error.to_string().contains("expected 1 to 64 of a-z"), "{text}: {error}");
        }
    }

    #[test]
    fn json_goes_through_the_same_check() {
        assert_eq!(serde_json::from_str::<AppName>("\"web\"").unwrap().as_str(), "web");
        let error = serde_json::from_str::<AppName>("\"../web\"").unwrap_err().to_string();
        assert!(error.contains("is not an app name"), "{error}");
    }
}
