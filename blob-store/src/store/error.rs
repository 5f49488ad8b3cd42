//! What can go wrong between Shoal and a store, told with its cause and the next step.
//!
//! Stores say most of it in the text of their answers: a missing bucket and a missing object are
//! both "404", wrong keys and a missing permission both "403". [`classify`] reads that text.

use std::error::Error as _;
use std::time::Duration;

use object_store::Error as Answer;
use std::fmt;

use crate::format::error::FormatError;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store's name is none.
    #[error(
        "{url:?} names no store: {reason}; give a folder, or a URL that begins with file://, \
         s3://, gs://, az://, http:// or https://"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder is not there, or cannot be made.
    #[error("the folder {path:?} cannot be used as a store")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The store's client cannot be set up from the settings and the environment.
    #[error("the store {store} cannot be set up: check its URL and the variables of its client")]
    Setup {
        /// The store.
        store: String,
        /// What the client says.
        #[source]
        source: Said,
    },
    /// Bucket or container does not exist.
    #[error("the bucket of {store} does not exist: create it, or check the name")]
    NoBucket {
        /// The store.
        store: String,
        /// What the store says.
        #[source]
        source: Said,
    },
    /// The store does not accept who we say we are.
    #[error(
        "{store} refuses the credentials: check the key, the secret, their age and the region \
         (variables such as AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, \
         AZURE_STORAGE_ACCOUNT_KEY)"
    )]
    Credentials {
        /// The store.
        store: String,
        /// What the store says.
        #[source]
        source: Said,
    },
    /// The credentials are good, but not for this.
    #[error(
        "no permission to {operation} in {store}: grant it to these credentials \
         (those that may not list are told this also of what is not there)"
    )]
    Forbidden {
        /// The store.
        store: String,
        /// What was tried.
        operation: &'static str,
        /// What the store says.
        #[source]
        source: Said,
    },
    /// There is no such object.
    #[error("{store} has no {key}")]
    NotFound {
        /// The store.
        store: String,
        /// The object.
        key: String,
    },
    /// The store can only be read.
    #[error("{store} can only be read: give a folder, s3://, gs:// or az:// to write to")]
    ReadOnly {
        /// The store.
        store: String,
    },
    /// The store cannot list what it has.
    #[error("{store} cannot list what it has: name the build, or use the store's own URL")]
    NoListing {
        /// The store.
        store: String,
    },
    /// The store overwrites what it was told only to create.
    #[error(
        "{store} overwrites objects that it was told only to create, so two publishers could \
         destroy each other's builds: use a store that honours If-None-Match"
    )]
    IgnoresPreconditions {
        /// The store.
        store: String,
    },
    /// The store failed for too long.
    #[error("{store} did not manage to {operation} {key} for {} s: try again later", .after.as_secs())]
    GaveUp {
        /// The store.
        store: String,
        /// What was tried.
        operation: &'static str,
        /// The object.
        key: String,
        /// Time without progress.
        after: Duration,
        /// What went wrong the last time.
        #[source]
        source: Failure,
    },
    /// The store refuses for good, in words that we do not know.
    #[error("{store} refuses to {operation} {key}")]
    Refused {
        /// The store.
        store: String,
        /// What was tried.
        operation: &'static str,
        /// The object.
        key: String,
        /// What the store says.
        #[source]
        source: Said,
    },
    /// An object has another length than it must have.
    #[error(
        "{key} in {store} has {actual} bytes, expected {expected}: shoal repair finds the builds"
    )]
    WrongLength {
        /// The store.
        store: String,
        /// The object.
        key: String,
        /// Its length.
        actual: u64,
        /// What it should be; at least, or at most.
        expected: u64,
    },
    /// A pack could not be read.
    #[error("pack {pack} of {store} could not be read")]
    Pack {
        /// The store.
        store: String,
        /// The pack.
        pack: p2p_core::Digest,
        /// Why; shared by all its chunks.
        #[source]
        source: std::sync::Arc<Self>,
    },
    /// An object is not what it should be.
    #[error("{key} in {store} is damaged: run shoal repair, or publish the build once more")]
    Damaged {
        /// The store.
        store: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}

/// What a store, its client or the system said. Shows the innermost cause, in one line, because the
/// layers around it only repeat it; `{:?}` has them all.
#[derive(Debug)]
pub struct Said {
    answer: Box<Answer>,
}

/// Most characters of an answer that a person is shown: stores wrap their codes in pages of XML.
const SHOWN_MAX: usize = 300;

impl From<Answer> for Said {
    fn from(answer: Answer) -> Self {
        Self { answer: Box::new(answer) }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut innermost = self.answer.to_string();
        let mut cause = self.answer.source();
        while let Some(error) = cause {
            innermost = error.to_string();
            cause = error.source();
        }
        let words: Vec<&str> = innermost.split_whitespace().collect();
        let line = words.join(" ");
        if line.chars().count() <= SHOWN_MAX {
            return f.write_str(&line);
        }
        let shown: String = line.chars().take(SHOWN_MAX).collect();
        write!(f, "{shown} ...")
    }
}

impl std::error::Error for Said {}

/// What went wrong in one try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing came for too long.
    #[error("no byte came for {} s", .0.as_secs())]
    Stalled(
        /// How long.
        Duration,
    ),
    /// The answer ended before its end.
    #[error("the answer ended after {actual} of {expected} bytes")]
    CutOff {
        /// Bytes that came.
        actual: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// The store said something is there, then that it is not.
    #[error("the store contradicts itself about whether the object is there")]
    Contradiction,
    /// The store or the way to it failed.
    #[error(transparent)]
    Answer(Said),
}

/// What an answer means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Meaning {
    NoBucket,
    NotFound,
    Exists,
    Credentials,
    Forbidden,
    /// The same question will get the same answer.
    Lasting,
    /// Worth another try.
    Passing,
}

const BUCKET_CODES: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"];

const CREDENTIAL_CODES: [&str; 13] = [
    "failed to authenticate the request",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "AuthorizationHeaderMalformed",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
    "Invalid Credentials",
    "NotSignedUp",
];

/// The answer and its causes, in one text.
fn text_of(answer: &Answer) -> String {
    let mut text = answer.to_string();
    let mut cause = answer.source();
    while let Some(error) = cause {
        text.push('\n');
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The status that the text of an answer names.
fn status_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

pub(crate) fn classify(answer: &Answer) -> Meaning {
    let text = text_of(answer);
    let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    if says(&BUCKET_CODES) {
        return Meaning::NoBucket;
    }
    if says(&CREDENTIAL_CODES) {
        return Meaning::Credentials;
    }
    match answer {
        Answer::NotFound { .. } => Meaning::NotFound,
        Answer::AlreadyExists { .. } | Answer::Precondition { .. } => Meaning::Exists,
        Answer::Unauthenticated { .. } => Meaning::Credentials,
        Answer::PermissionDenied { .. } => Meaning::Forbidden,
        Answer::InvalidPath { .. }
        | Answer::NotSupported { .. }
        | Answer::NotImplemented { .. }
        | Answer::NotModified { .. }
        | Answer::UnknownConfigurationKey { .. } => Meaning::Lasting,
        _ => match status_in(&text) {
            Some(408 | 425 | 429) | None => Meaning::Passing,
            Some(401) => Meaning::Credentials,
            Some(403) => Meaning::Forbidden,
            Some(404) => Meaning::NotFound,
            Some(409 | 412) => Meaning::Exists,
            // A redirect is the answer of a store in another region.
            Some(300..=499) => Meaning::Lasting,
            Some(_) => Meaning::Passing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Answer {
        Answer::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn answers_are_read_by_their_words() {
        let not_found =
            |text: &str| Answer::NotFound { path: "x".into(), source: text.to_owned().into() };
        let denied = |text: &str| Answer::PermissionDenied {
            path: "x".into(),
            source: text.to_owned().into(),
        };
        let cases = [
            (not_found("<Code>NoSuchKey</Code>"), Meaning::NotFound),
            (not_found("<Code>NoSuchBucket</Code>"), Meaning::NoBucket),
            (not_found("<Code>ContainerNotFound</Code>"), Meaning::NoBucket),
            (denied("<Code>AccessDenied</Code>"), Meaning::Forbidden),
            (denied("<Code>SignatureDoesNotMatch</Code>"), Meaning::Credentials),
            (generic("status code: 400 Bad Request: <Code>ExpiredToken"), Meaning::Credentials),
            (generic("status code: 400 Bad Request: <Code>Odd"), Meaning::Lasting),
            (generic("status code: 403 Forbidden: <Code>AccessDenied"), Meaning::Forbidden),
            (generic("status code: 301 Moved"), Meaning::Lasting),
            (generic("status code: 429 Too Many Requests"), Meaning::Passing),
            (generic("status code: 503 Service Unavailable: SlowDown"), Meaning::Passing),
            (generic("connection reset"), Meaning::Passing),
        ];
        for (answer, expected) in cases {
            assert_eq!(classify(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn an_answer_is_shown_once_and_in_one_line() {
        let said = Said::from(generic("<Error>\n  <Code>Odd</Code>\n</Error>"));
        assert_eq!(said.to_string(), "<Error> <Code>Odd</Code> </Error>");
        let long = Said::from(generic(&"x".repeat(SHOWN_MAX + 1))).to_string();
        assert_eq!(long.len(), SHOWN_MAX + " ...".len());
    }
}
