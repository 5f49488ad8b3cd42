//! What hosts and the granting seeder say to each other about tokens: permissions to be down.
//!
//! A goal with `max_unavailable` makes hosts ask for a token before they start a switch. Tokens are
//! per app and group, each has a time limit (lease), and all tokens of one app and group come from
//! one seeder ([`granting_seeder`]). Owns the documents and their limits; who gets a token is
//! decided in the seeder, what a host does without one in the agent. Pure.
//!
//! A host names each wish with a number that rises ([`TokenRequest::wish`]), so that a message that
//! was late on its way cannot give back a token that was granted to a later wish.

use std::time::Duration;

use p2p_core::{Digest, NodeId};
use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::fields::is_default;
use crate::documents::limit::HostCount;
use crate::documents::text::is_hidden;

/// The topic of these documents on the control plane, with their version. A seeder that does not
/// know it refuses, and the host waits.
pub const TOKEN_TOPIC: &str = "tokens/1";

/// Most bytes of a request or an answer. Names are bounded, so half would do.
pub(crate) const TOKEN_BYTES_MAX: usize = 4 << 10;

/// Longest name of a group or a host in bytes: that of DNS.
const NAME_BYTES_MAX: usize = 253;

/// Shortest time limit that is granted: a few times what a busy seeder takes to answer.
pub(crate) const LEASE_MIN: Duration = Duration::from_secs(3);

/// Longest time limit that is granted. The token of a host that died stays out for this long, and a
/// seeder that lost its table grants nothing for this long.
pub const LEASE_MAX: Duration = Duration::from_mins(2);

/// What a host asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenAct {
    /// A token. Asked again and again until it is granted.
    Ask,
    /// More time for the token that it holds, asked before the time is up. From a host that holds
    /// none it is taken as [`Self::Ask`].
    Renew,
    /// Nothing more: the token is given back, the wish forgotten.
    Return,
}

/// A host's request.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// What it asks for.
    pub act: TokenAct,
    /// The app.
    pub app: AppName,
    /// The group in which `max_unavailable` counts.
    pub group: String,
    /// The host's name, for people; the host is known by its key.
    pub host: String,
    /// Number of the wish, higher than that of any earlier one of the host.
    pub wish: u64,
    /// Generation of the goal.
    pub generation: u64,
    /// Most hosts of the group that may hold a token, as that goal says.
    pub max_unavailable: HostCount,
    /// The time limit that the host would like, in milliseconds.
    pub lease_ms: u64,
    /// With [`TokenAct::Return`]: the build failed here. The others wait for a moment, until the
    /// failure is judged.
    #[serde(default, skip_serializing_if = "is_default")]
    pub has_failed: bool,
}

/// The seeder's answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum TokenAnswer {
    /// The host holds the token for this long, counted from when it asked.
    Granted {
        /// Milliseconds.
        lease_ms: u64,
    },
    /// Not yet.
    Waiting {
        /// Why, for people.
        reason: String,
        /// When to ask again, in milliseconds. A host that stays away for much longer loses its
        /// place.
        retry_ms: u64,
    },
    /// The token was given back, or there was none.
    Returned,
    /// This seeder does not grant it, and will not unless something changes.
    Refused {
        /// Why, for people, with the next step.
        reason: String,
        /// When to ask again all the same, in milliseconds.
        retry_ms: u64,
    },
}

/// Why bytes are no request or answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenDocumentError {
    /// More bytes than any version of Shoal writes.
    #[error("it has {bytes} bytes, the limit is {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Bytes found.
        bytes: usize,
    },
    /// Not JSON, or not the fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A name that no host or group has.
    #[error(
        "its field `{field}` has {bytes} bytes or is not printable, the limit is {NAME_BYTES_MAX}"
    )]
    BadName {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
}

impl TokenRequest {
    /// The time limit that may be granted: what was wished for, within bounds.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms).clamp(LEASE_MIN, LEASE_MAX)
    }

    /// Reads and checks a request. Unknown fields are left out: hosts may be newer than seeders.
    ///
    /// # Errors
    ///
    /// The bytes are no request, or out of bounds.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenDocumentError> {
        let request: Self = parse(bytes)?;
        for (field, name) in [("group", &request.group), ("host", &request.host)] {
            if name.len() > NAME_BYTES_MAX || name.chars().any(is_hidden) {
                return Err(TokenDocumentError::BadName { field, bytes: name.len() });
            }
        }
        Ok(request)
    }

    /// The request on one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a request has only text and numbers")
    }
}

impl TokenAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// The bytes are no answer, or too many.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenDocumentError> {
        parse(bytes)
    }

    /// The answer on one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an answer has only text and numbers")
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, TokenDocumentError> {
    if bytes.len() > TOKEN_BYTES_MAX {
        return Err(TokenDocumentError::TooLong { bytes: bytes.len() });
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// The seeder that grants the tokens of an app and group: of `seeders`, the one whose key and the
/// two names have the highest digest. `None` without seeders.
///
/// There is no second choice. Two seeders that grant for one app and group would each let
/// `max_unavailable` hosts go, and to a host a seeder that is gone looks like one that only this
/// host cannot reach. Hosts that get no answer wait.
pub fn granting_seeder(
    app: &AppName,
    group: &str,
    seeders: impl IntoIterator<Item = NodeId>,
) -> Option<NodeId> {
    let weight = |seeder: &NodeId| {
        let mut bytes = b"shoal tokens 1".to_vec();
        for text in [app.as_str(), group] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(seeder.as_bytes());
        Digest::of(&bytes)
    };
    seeders.into_iter().max_by_key(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> TokenRequest {
        TokenRequest {
            act: TokenAct::Ask,
            app: "web".parse().unwrap(),
            group: "z1".into(),
            host: "host-1".into(),
            wish: 7,
            generation: 3,
            max_unavailable: "2".parse().unwrap(),
            lease_ms: 60_000,
            has_failed: false,
        }
    }

    #[test]
    fn documents_round_trip_and_keep_their_form() {
        let text = r#"{"act":"ask","app":"web","group":"z1","host":"host-1","wish":7,"generation":3,"max_unavailable":2,"lease_ms":60000}"#;
        assert_eq!(String::from_utf8(request().to_json()).unwrap(), text);
        assert_eq!(TokenRequest::from_json(text.as_bytes()).unwrap(), request());
        let failed = text.replace("60000}", "60000,\"has_failed\":true}");
        let with_failure = TokenRequest { has_failed: true, ..request() };
        assert_eq!(TokenRequest::from_json(failed.as_bytes()).unwrap(), with_failure);
        let newer = text.replace("\"wish\"", "\"mood\":[1],\"wish\"");
        assert_eq!(TokenRequest::from_json(newer.as_bytes()).unwrap(), request());
        let answers = [
            (TokenAnswer::Granted { lease_ms: 5 }, r#"{"answer":"granted","lease_ms":5}"#),
            (
                TokenAnswer::Waiting { reason: "so".into(), retry_ms: 5 },
                r#"{"answer":"waiting","reason":"so","retry_ms":5}"#,
            ),
            (TokenAnswer::Returned, r#"{"answer":"returned"}"#),
            (
                TokenAnswer::Refused { reason: "so".into(), retry_ms: 5 },
                r#"{"answer":"refused","reason":"so","retry_ms":5}"#,
            ),
        ];
        for (answer, text) in answers {
            assert_eq!(String::from_utf8(answer.to_json()).unwrap(), text);
            assert_eq!(TokenAnswer::from_json(text.as_bytes()).unwrap(), answer);
        }
    }

    #[test]
    fn requests_out_of_bounds_are_refused() {
        let text = String::from_utf8(request().to_json()).unwrap();
        let cases = [
            ("too long", text.replace("host-1", &"h".repeat(TOKEN_BYTES_MAX)), "the limit is 4096"),
            ("long host", text.replace("host-1", &"h".repeat(254)), "`host` has 254 bytes"),
            ("long group", text.replace("z1", &"g".repeat(254)), "`group` has 254 bytes"),
            ("control character", text.replace("z1", "z\\n1"), "not printable"),
            ("turned", text.replace("host-1", "host\u{202e}-1"), "`host` has"),
            ("no tokens", text.replace(":2,", ":0,"), "expected a number from 1 on"),
            ("app", text.replace("web", "../web"), "not an app name"),
            ("act", text.replace("ask", "steal"), "unknown variant"),
            ("cut off", text[..40].into(), "EOF"),
        ];
        for (name, text, expected) in cases {
            let error = TokenRequest::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let longest = TokenRequest {
            group: "\u{1f41f}".repeat(63),
            host: "\\".repeat(253),
            app: "a".repeat(64).parse().unwrap(),
            wish: u64::MAX,
            generation: u64::MAX,
            lease_ms: u64::MAX,
            max_unavailable: "4294967295".parse().unwrap(),
            ..request()
        };
        assert_eq!(TokenRequest::from_json(&longest.to_json()).unwrap(), longest);
    }

    #[test]
    fn lease_stays_within_bounds() {
        let lease = |lease_ms| TokenRequest { lease_ms, ..request() }.lease();
        assert_eq!(lease(0), LEASE_MIN);
        assert_eq!(lease(20_000), Duration::from_secs(20));
        assert_eq!(lease(u64::MAX), LEASE_MAX);
    }

    #[test]
    fn one_seeder_grants_and_the_work_is_spread() {
        let seeders: Vec<_> = (0..4).map(|number| NodeId::from_bytes([number; 32])).collect();
        let web: AppName = "web".parse().unwrap();
        let mut counts = [0; 4];
        for group in 0..400 {
            let group = format!("z{group}");
            let granting = granting_seeder(&web, &group, seeders.clone()).unwrap();
            let reversed = granting_seeder(&web, &group, seeders.iter().rev().copied()).unwrap();
            assert_eq!(granting, reversed, "the order of the list does not matter");
            counts[seeders.iter().position(|seeder| *seeder == granting).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
        assert_eq!(granting_seeder(&web, "z1", []), None);
        // Every version must choose the same; computed once.
        let first: Vec<_> = ["z1", "z2", "z3", "z4", "z5", "z6"]
            .iter()
            .map(|group| granting_seeder(&web, group, seeders.clone()).unwrap().as_bytes()[0])
            .collect();
        assert_eq!(first, [3, 2, 1, 2, 0, 2]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(TokenRequest::from_json(&bytes).is_err());
            prop_assert!(TokenAnswer::from_json(&bytes).is_err());
        }

        #[test]
        fn seeders_that_do_not_grant_do_not_matter(group in "[a-z0-9]{0,8}", gone in 0..4_u8) {
            // Goal: a list that loses a seeder moves only the groups of that one.
            let app: AppName = "web".parse().unwrap();
            let all = (0..4).map(|number| NodeId::from_bytes([number; 32]));
            let rest = all.clone().filter(|seeder| seeder.as_bytes()[0] != gone);
            let before = granting_seeder(&app, &group, all).unwrap();
            if before.as_bytes()[0] != gone {
                prop_assert_eq!(granting_seeder(&app, &group, rest), Some(before));
            }
        }
    }
}
