//! What hosts and seeders say to each other about goals, where hosts do not read the goal store.
//!
//! A host says of each of its apps what it knows, as a [`GoalVersion`]; the seeder keeps the
//! question until it knows something else of one of them, and tells it: the goal as the very text
//! that is stored, so that whoever signs it can be checked by the host. Owns the documents and
//! their limits. Pure.
//!
//! Invariant: a version is computed from what is told, so that all seeders that tell the same give
//! it the same version, before and after a restart.

use std::collections::BTreeMap;

use p2p_core::Digest;
use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;

/// The topic of these documents on the control plane, with their version.
pub const GOALS_TOPIC: &str = "goals/1";

/// Most apps of one question, and so of a host that hears of goals in this way.
pub const GOAL_APPS_MAX: usize = 256;

/// Most characters of a trouble that is told: a path or URL or two, and what to do.
const TROUBLE_CHARS_MAX: usize = 1_000;

/// Digits of a digest in a version: enough that no two goals share one by chance. Who could make
/// two on purpose can write any goal.
const VERSION_CHARS: usize = 32;

/// Longest version that is understood: longer than ours, for seeders that are newer.
const VERSION_BYTES_MAX: usize = 64;

/// What somebody knows of the goal of an app, as a short text. Empty: nothing.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GoalVersion(String);

impl GoalVersion {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a goal as it is stored, and of what is wrong.
    fn of(goal: Option<&str>, trouble: Option<&str>) -> Self {
        let part = |part: Option<&str>| match part {
            // Its length parts it from what follows.
            Some(text) => [&[1][..], &text.len().to_le_bytes(), text.as_bytes()].concat(),
            None => vec![0],
        };
        let digest = Digest::of(&[part(goal), part(trouble)].concat()).to_string();
        Self(digest.chars().take(VERSION_CHARS).collect())
    }
}

impl From<GoalVersion> for String {
    fn from(version: GoalVersion) -> Self {
        version.0
    }
}

/// A version is longer than any.
#[derive(Debug, thiserror::Error)]
#[error("a version has {bytes} bytes, the limit is {VERSION_BYTES_MAX}")]
pub struct GoalVersionError {
    bytes: usize,
}

impl TryFrom<String> for GoalVersion {
    type Error = GoalVersionError;

    fn try_from(text: String) -> Result<Self, GoalVersionError> {
        let bytes = text.len();
        if bytes > VERSION_BYTES_MAX { Err(GoalVersionError { bytes }) } else { Ok(Self(text)) }
    }
}

/// A host's question.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct GoalQuestion {
    /// What it knows, by app.
    pub apps: BTreeMap<AppName, GoalVersion>,
}

/// Why bytes are no question or answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoalNewsError {
    /// Not JSON, or not the fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It names no app.
    #[error("it names no app")]
    NoApp,
    /// It names more apps than may be asked for at once.
    #[error("it names {apps} apps, the limit is {GOAL_APPS_MAX}")]
    TooManyApps {
        /// How many.
        apps: usize,
    },
}

impl GoalQuestion {
    /// The question as JSON. With up to [`GOAL_APPS_MAX`] apps it fits into one of the control
    /// plane.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names are text")
    }

    /// Reads and checks a question. Unknown fields are left out: hosts may be newer than seeders.
    ///
    /// # Errors
    ///
    /// The bytes are no question, or out of bounds.
    pub fn from_json(bytes: &[u8]) -> Result<Self, GoalNewsError> {
        let question: Self = serde_json::from_slice(bytes)?;
        match question.apps.len() {
            0 => Err(GoalNewsError::NoApp),
            apps if apps > GOAL_APPS_MAX => Err(GoalNewsError::TooManyApps { apps }),
            _ => Ok(question),
        }
    }
}

/// What a seeder tells of one app.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ToldGoal {
    /// The app.
    pub app: AppName,
    /// What whoever hears this knows then.
    pub version: GoalVersion,
    /// The document, as it is stored. With a trouble it is what was read last. `None`: there is no
    /// goal or, with a trouble, none is known.
    pub goal: Option<String>,
    /// Why the goal cannot be read now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl ToldGoal {
    /// With the version that follows. A trouble that is too long is cut.
    pub fn new(app: AppName, goal: Option<String>, trouble: Option<&str>) -> Self {
        let cut = |text: &str| text.chars().take(TROUBLE_CHARS_MAX).collect::<String>();
        let trouble = trouble.map(cut);
        let version = GoalVersion::of(goal.as_deref(), trouble.as_deref());
        Self { app, version, goal, trouble }
    }

    /// As it stands in an answer; see [`goal_news_of`].
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("all of it is text")
    }
}

/// A seeder's answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoalNews {
    /// What has changed; nothing if the time to wait is over. There may be more, for who asks
    /// again.
    Goals(Vec<ToldGoal>),
    /// The seeder does not tell; why, for people, with the next step.
    Refused(String),
}

impl GoalNews {
    /// The answer as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("all of it is text")
    }

    /// Reads an answer. Unknown fields are left out: seeders may be newer than hosts.
    ///
    /// # Errors
    ///
    /// The bytes are no answer.
    pub fn from_json(bytes: &[u8]) -> Result<Self, GoalNewsError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// [`GoalNews::Goals`] as JSON, of goals that were made into JSON before: many hosts are told the
/// same.
pub fn goal_news_of<'a>(told: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let told: Vec<&[u8]> = told.into_iter().collect();
    [&b"{\"goals\":["[..], &told.join(&b',')[..], &b"]}"[..]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    #[test]
    fn version_is_that_of_what_is_told_and_of_nothing_else() {
        let told = |goal: Option<&str>, trouble| {
            ToldGoal::new(app("web"), goal.map(str::to_owned), trouble).version
        };
        let mut versions = vec![
            told(None, None),
            told(Some(""), None),
            told(Some("{}"), None),
            told(Some("{} "), None),
            told(None, Some("{}")),
            told(Some("{}"), Some("{}")),
            GoalVersion::default(),
        ];
        assert_eq!(versions[2], ToldGoal::new(app("api"), Some("{}".into()), None).version);
        versions.sort();
        versions.dedup();
        assert_eq!(versions.len(), 7);
        let long = "x".repeat(TROUBLE_CHARS_MAX + 1);
        let cut = ToldGoal::new(app("web"), None, Some(&long));
        assert_eq!(cut.trouble.as_ref().unwrap().len(), TROUBLE_CHARS_MAX);
        assert_eq!(cut.version, told(None, cut.trouble.as_deref()));
    }

    #[test]
    fn questions_are_bounded() {
        let question = |apps: usize| GoalQuestion {
            apps: (0..apps)
                .map(|number| (app(&format!("{number:064}")), GoalVersion("x".repeat(64))))
                .collect(),
        };
        let full = question(GOAL_APPS_MAX);
        assert_eq!(GoalQuestion::from_json(&full.to_json()).unwrap(), full);
        assert!(full.to_json().len() < 64_000, "{}", full.to_json().len());
        let newer = br#"{"apps":{"web":""},"soon":1}"#;
        assert_eq!(GoalQuestion::from_json(newer).unwrap().apps.len(), 1);
        let many = question(GOAL_APPS_MAX + 1).to_json();
        let long = format!(r#"{{"apps":{{"web":"{}"}}}}"#, "x".repeat(65));
        let cases: [(&[u8], &str); 6] = [
            (&many, "257 apps, the limit is 256"),
            (long.as_bytes(), "65 bytes, the limit is 64"),
            (br#"{"apps":{}}"#, "no app"),
            (br#"{"apps":{"We b":""}}"#, "We b"),
            (b"{}", "apps"),
            (b"\xff", "expected value"),
        ];
        for (bytes, expected) in cases {
            let error = GoalQuestion::from_json(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let refused = GoalNews::Refused("started without --goal".into());
        assert_eq!(refused.to_json(), br#"{"refused":"started without --goal"}"#);
        assert_eq!(GoalNews::from_json(&refused.to_json()).unwrap(), refused);
        for bytes in [&b""[..], b"{", b"[]", br#"{"goals":[{"app":"web"}]}"#, br#"{"tea":1}"#] {
            assert!(GoalNews::from_json(bytes).is_err());
        }
    }

    proptest! {
        /// Goal: whatever is stored arrives as the same bytes.
        #[test]
        fn goals_arrive_as_the_bytes_that_are_stored(
            goals in prop::collection::vec(prop::option::of(any::<String>()), 0..4),
            trouble in prop::option::of(any::<String>()),
        ) {
            let told: Vec<ToldGoal> = goals
                .into_iter()
                .map(|goal| ToldGoal::new(app("web"), goal, trouble.as_deref()))
                .collect();
            let parts: Vec<Vec<u8>> = told.iter().map(ToldGoal::to_json).collect();
            let bytes = goal_news_of(parts.iter().map(Vec::as_slice));
            prop_assert_eq!(GoalNews::from_json(&bytes).unwrap(), GoalNews::Goals(told));
        }
    }
}
