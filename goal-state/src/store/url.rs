//! Where a goal store is: the URL that operators and configuration files write.
//!
//! Invariant: a parsed URL displays as a text that parses to the same URL. Does not touch the
//! store.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{percent_decode_str, percent_encode_byte};

/// Where a goal store is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GoalUrl {
    /// `file:///absolute/directory`. `%20` stands for a space, `%25` for a percent sign; every
    /// other character may be written as it is.
    File {
        /// The directory of the store; absolute.
        directory: PathBuf,
    },
    /// `etcd://host:port[,host:port...]/prefix`, without TLS.
    Etcd {
        /// `host:port` of members of one cluster, IPv6 addresses in brackets; at least one.
        endpoints: Vec<String>,
        /// What the store's keys start with, without a slash at either end. Empty: nothing.
        prefix: String,
    },
}

/// Why a text is not the URL of a goal store.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GoalUrlError {
    /// Neither of the two kinds of stores.
    #[error("{text:?} is not a goal store: expected file:///DIRECTORY or etcd://HOST:PORT/PREFIX")]
    UnknownScheme {
        /// The whole text.
        text: String,
    },
    /// A relative directory would be another one for each process.
    #[error(
        "{text:?} names no absolute directory: expected file:///DIRECTORY with three slashes, \
         such as \
         file:///var/lib/shoal/goal"
    )]
    NotAbsolute {
        /// The whole text.
        text: String,
    },
    /// A percent sign that two hexadecimal digits do not follow, or an encoded zero byte.
    #[error("{text:?} has a wrong %-sequence: expected %20 for a space, %25 for a percent sign")]
    WrongPercent {
        /// The whole text.
        text: String,
    },
    /// The URL holds a user and password.
    #[error("the etcd URL names a user, which is not supported: leave out everything up to '@'")]
    HasUser,
    /// A part between the commas is not `HOST:PORT`.
    #[error(
        "{endpoint:?} is not an etcd endpoint: expected HOST:PORT such as 10.0.0.1:2379, or \
         [::1]:2379 for IPv6"
    )]
    WrongEndpoint {
        /// The part in question.
        endpoint: String,
    },
    /// The prefix would be hard to type for `etcdctl`, or ambiguous.
    #[error(
        "{prefix:?} is not a prefix for etcd keys: expected parts of letters, digits, '-', '_', \
         '.' \
         and '~' with single slashes between"
    )]
    WrongPrefix {
        /// The prefix.
        prefix: String,
    },
}

impl FromStr for GoalUrl {
    type Err = GoalUrlError;

    fn from_str(text: &str) -> Result<Self, GoalUrlError> {
        if text.starts_with("file:") {
            return parse_directory(text).map(|directory| Self::File { directory });
        }
        let Some(rest) = text.strip_prefix("etcd://") else {
            return Err(GoalUrlError::UnknownScheme { text: text.to_owned() });
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            // Not repeated in the message: it may hold a password.
            return Err(GoalUrlError::HasUser);
        }
        let endpoints =
            authority.split(',').map(parse_endpoint).collect::<Result<Vec<_>, GoalUrlError>>()?;
        Ok(Self::Etcd { endpoints, prefix: parse_prefix(prefix)? })
    }
}

fn parse_directory(text: &str) -> Result<PathBuf, GoalUrlError> {
    let not_absolute = || GoalUrlError::NotAbsolute { text: text.to_owned() };
    let path = text.strip_prefix("file://").ok_or_else(not_absolute)?;
    let wrong_percent = || GoalUrlError::WrongPercent { text: text.to_owned() };
    let bytes = percent_decoded(path).ok_or_else(wrong_percent)?;
    // A path with nothing but slashes is the root directory, which nobody means.
    if bytes.first() != Some(&b'/') || bytes.iter().all(|byte| *byte == b'/') {
        return Err(not_absolute());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The bytes that a text stands for; `None` if a percent sign in it is not followed by two
/// hexadecimal digits, or a byte is zero, which no path has.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let is_sequence = |after_sign: &str| {
        let digits = after_sign.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    // The crate leaves wrong sequences as they are.
    if !text.split('%').skip(1).all(is_sequence) {
        return None;
    }
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    (!bytes.contains(&0)).then_some(bytes)
}

fn parse_endpoint(endpoint: &str) -> Result<String, GoalUrlError> {
    let is_endpoint = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        let port_is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0);
        is_host(host) && port_is_number && port_fits
    });
    if is_endpoint {
        Ok(endpoint.to_owned())
    } else {
        Err(GoalUrlError::WrongEndpoint { endpoint: endpoint.to_owned() })
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    host.starts_with(|first: char| first.is_ascii_alphanumeric())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn parse_prefix(text: &str) -> Result<String, GoalUrlError> {
    let prefix = text.strip_suffix('/').unwrap_or(text);
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    if prefix.is_empty() && text.len() <= 1 && !text.starts_with('/')
        || prefix.split('/').all(is_part)
    {
        Ok(prefix.to_owned())
    } else {
        Err(GoalUrlError::WrongPrefix { prefix: text.to_owned() })
    }
}

impl fmt::Display for GoalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { directory } => {
                f.write_str("file://")?;
                write_percent_encoded(f, directory)
            }
            Self::Etcd { endpoints, prefix } => {
                write!(f, "etcd://{}/{prefix}", endpoints.join(","))
            }
        }
    }
}

/// Encodes what would end the URL for a shell, a terminal or the parser; everything else stays
/// readable, letters that are not ASCII among it.
fn write_percent_encoded(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match u8::try_from(character) {
                Ok(byte) if matches!(byte, b'%' | b' ') || byte.is_ascii_control() => {
                    f.write_str(percent_encode_byte(byte))?;
                }
                _ => f.write_char(character)?,
            }
        }
        chunk.invalid().iter().try_for_each(|byte| f.write_str(percent_encode_byte(*byte)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(directory: &str) -> GoalUrl {
        GoalUrl::File { directory: directory.into() }
    }

    fn etcd(endpoints: &[&str], prefix: &str) -> GoalUrl {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        GoalUrl::Etcd { endpoints, prefix: prefix.into() }
    }

    #[test]
    fn urls_of_both_kinds_are_read_and_displayed() {
        let cases = [
            ("file:///goal", file("/goal"), "file:///goal"),
            ("file:///a%20b/c", file("/a b/c"), "file:///a%20b/c"),
            ("file:///a b", file("/a b"), "file:///a%20b"),
            ("file:///100%25", file("/100%"), "file:///100%25"),
            ("file:///g%C3%A4/#?", file("/g\u{e4}/#?"), "file:///g\u{e4}/#?"),
            ("etcd://h:1", etcd(&["h:1"], ""), "etcd://h:1/"),
            ("etcd://h:1/", etcd(&["h:1"], ""), "etcd://h:1/"),
            ("etcd://h:1/shoal/", etcd(&["h:1"], "shoal"), "etcd://h:1/shoal"),
            ("etcd://h:1/a/b.c~d", etcd(&["h:1"], "a/b.c~d"), "etcd://h:1/a/b.c~d"),
            (
                "etcd://10.0.0.1:2379,[::1]:65535,e-3.x:1/p",
                etcd(&["10.0.0.1:2379", "[::1]:65535", "e-3.x:1"], "p"),
                "etcd://10.0.0.1:2379,[::1]:65535,e-3.x:1/p",
            ),
        ];
        for (text, expected, displayed) in cases {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), displayed);
        }
    }

    #[test]
    fn wrong_urls_are_refused_with_what_is_expected() {
        let cases = [
            ("", "expected file:///DIRECTORY or etcd://HOST:PORT/PREFIX"),
            ("/var/lib/goal", "expected file:///DIRECTORY or etcd"),
            ("http://h:1/p", "expected file:///DIRECTORY or etcd"),
            ("etcd:/h:1", "expected file:///DIRECTORY or etcd"),
            ("ETCD://h:1", "expected file:///DIRECTORY or etcd"),
            ("file:", "no absolute directory"),
            ("file:/goal", "no absolute directory"),
            ("file://", "no absolute directory"),
            ("file:///", "no absolute directory"),
            ("file:////", "no absolute directory"),
            ("file://goal", "no absolute directory"),
            ("file://./goal", "no absolute directory"),
            ("file://localhost/goal", "no absolute directory"),
            ("file:///a%2", "wrong %-sequence"),
            ("file:///a%zz", "wrong %-sequence"),
            ("file:///a%00b", "wrong %-sequence"),
            ("file:///a\0b", "wrong %-sequence"),
            ("etcd://", "\"\" is not an etcd endpoint"),
            ("etcd:///p", "\"\" is not an etcd endpoint"),
            ("etcd://h", "\"h\" is not an etcd endpoint"),
            ("etcd://h:", "is not an etcd endpoint"),
            ("etcd://:1", "is not an etcd endpoint"),
            ("etcd://h:0", "is not an etcd endpoint"),
            ("etcd://h:65536", "is not an etcd endpoint"),
            ("etcd://h:+1", "is not an etcd endpoint"),
            ("etcd://h:1,/p", "\"\" is not an etcd endpoint"),
            ("etcd://::1:2379/p", "[::1]:2379 for IPv6"),
            ("etcd://[::g]:2379/p", "[::1]:2379 for IPv6"),
            ("etcd://http:h:1/p", "is not an etcd endpoint"),
            ("etcd://h:1//", "is not a prefix"),
            ("etcd://h:1//p", "is not a prefix"),
            ("etcd://h:1/a//b", "is not a prefix"),
            ("etcd://h:1/a b", "is not a prefix"),
            ("etcd://h:1/a?x=1", "is not a prefix"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<GoalUrl>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn password_in_a_url_is_refused_and_not_repeated() {
        let error = "etcd://root:secret@h:1/p".parse::<GoalUrl>().unwrap_err();
        assert_eq!(error, GoalUrlError::HasUser);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn directories_round_trip(name in prop::collection::vec(1_u8..=255, 1..20)) {
            prop_assume!(name.iter().any(|byte| *byte != b'/'));
            let mut bytes = b"/".to_vec();
            bytes.extend(name);
            let url = GoalUrl::File { directory: OsString::from_vec(bytes).into() };
            let text = url.to_string();
            prop_assert!(!text.contains([' ', '\n']));
            prop_assert_eq!(text.parse(), Ok(url));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(file:|etcd://|)[a-z0-9%:,/@\\[\\]. ]{0,20}") {
            if let Ok(url) = text.parse::<GoalUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }
}
