//! What can go wrong with a goal store, each with its next step.
//!
//! One enum for all operations of a store: a caller that reports an error does not care which of
//! the two kinds of stores it came from.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::BuildId;

use crate::documents::app_name::AppName;
use crate::documents::goal::GoalChangeError;
use crate::documents::status::WriterNameError;
use crate::store::url::GoalUrl;

/// Why the goal store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoalStoreError {
    /// No goal is set for the app.
    #[error("no goal is set for {app}; set one with: shoal deploy {app} BUILD --goal URL")]
    NoGoal {
        /// The app.
        app: AppName,
    },
    /// There is nothing to roll back to.
    #[error(
        "{app} has no earlier build to go back to; name one with: shoal deploy {app} BUILD --goal \
         URL"
    )]
    NoHistory {
        /// The app.
        app: AppName,
    },
    /// What could be rolled back to never went to every host.
    #[error(
        "the earlier builds of {app} went to only some of the hosts; if every host shall have the \
         last of them, run: shoal deploy {app} {build} --goal URL"
    )]
    OnlyPartial {
        /// The app.
        app: AppName,
        /// The newest such build.
        build: BuildId,
    },
    /// What could be rolled back to halted or failed.
    #[error(
        "no earlier build of {app} was good: the last of them, {}, halted or failed on too many \
         hosts; see: shoal history {app}, and take one all the same with: shoal rollback {app} --to \
         BUILD", build.short()
    )]
    NoneGood {
        /// The app.
        app: AppName,
        /// The newest such build.
        build: BuildId,
    },
    /// The history does not reach back to a generation, or never had it.
    #[error(
        "the history of {app} has no generation {generation}; see: shoal history {app}, or name a \
         build with: shoal deploy {app} BUILD"
    )]
    NoSuchGeneration {
        /// The app.
        app: AppName,
        /// What was asked for.
        generation: u64,
    },
    /// Somebody else changed the goal first.
    #[error(
        "nothing was changed: the goal of {app} has generation {actual}{author}, not {expected}; \
         see: shoal history {app}"
    )]
    Moved {
        /// The app.
        app: AppName,
        /// The generation that was to be there.
        expected: u64,
        /// The one that is.
        actual: u64,
        /// Who set it.
        author: Author,
    },
    /// The goal is a rollback, perhaps somebody else's of a moment ago.
    #[error(
        "nothing was changed: goal {generation} of {app} is a rollback already{author}; to go back \
         further, run: shoal rollback {app} --from {generation}"
    )]
    AlreadyRolledBack {
        /// The app.
        app: AppName,
        /// The generation of its goal.
        generation: u64,
        /// Who set it.
        author: Author,
    },
    /// The change would make a document that nobody can read again.
    #[error("nothing was changed: the goal of {app} would not be valid: {reason}")]
    Unreadable {
        /// The app.
        app: AppName,
        /// What would be wrong with it.
        reason: String,
    },
    /// There is nothing to resume.
    #[error("the rollout of {app} is not halted; see: shoal rollout {app}")]
    NotHalted {
        /// The app.
        app: AppName,
    },
    /// The goal cannot change any more, because somebody wrote a generation that large by hand.
    #[error(
        "the goal of {app} has generation {generation}, the last one; write a lower one by hand"
    )]
    LastGeneration {
        /// The app.
        app: AppName,
        /// The generation.
        generation: u64,
    },
    /// A document in the store is not valid.
    #[error("{place} is not a valid document: {reason}")]
    Malformed {
        /// The file or key.
        place: String,
        /// What is wrong, where in it, and what to do.
        reason: String,
    },
    /// The directory of a file store is not there.
    #[error(
        "goal store {} does not exist; check the URL, or create it with: shoal deploy APP BUILD \
         --goal {}",
        directory.display(),
        GoalUrl::File { directory: directory.clone() }
    )]
    StoreMissing {
        /// The directory.
        directory: PathBuf,
    },
    /// Something that is not a directory stands where the store or a part of it should be.
    #[error(
        "no directory leads to {}: a part of the path is a file; check the URL of the goal store",
        path.display()
    )]
    NotADirectory {
        /// What was looked for.
        path: PathBuf,
    },
    /// The operating system denied access.
    #[error(
        "no permission to {action} {}; run as its owner or give this user access",
        path.display()
    )]
    NoPermission {
        /// What was tried.
        action: FileAction,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// No space, or a quota or limit on file sizes is used up. The old document is still there.
    #[error(
        "no room to {action} {}; free space or raise the limit, then try again",
        path.display()
    )]
    NoRoom {
        /// What was tried.
        action: FileAction,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {}; check the path and its file system", path.display())]
    File {
        /// What was tried.
        action: FileAction,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// Another process keeps the store locked.
    #[error(
        "{lock} is locked by another deploy; see which with: fuser -v {lock}",
        lock = path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Nobody answers, or not in time.
    #[error(
        "cannot reach the goal store {url}: {reason}; check that etcd runs there and that this \
         machine can connect to it"
    )]
    Unreachable {
        /// The store.
        url: String,
        /// What happened when it was tried.
        reason: String,
    },
    /// etcd answered with a refusal that trying again does not change.
    #[error("the goal store {url} refused the request: {reason}")]
    Refused {
        /// The store.
        url: String,
        /// etcd's words, with what to do.
        reason: String,
    },
    /// Who tells goals in the place of the store cannot, and says why.
    #[error("{reason}")]
    Told {
        /// What the seeder, or who asked it, says: cause and next step.
        reason: String,
    },
    /// Others changed the goal each time between our read and our write.
    #[error(
        "the goal of {app} was changed by others {attempts} times in a row; find out by whom, \
         then try again"
    )]
    Contended {
        /// The app.
        app: AppName,
        /// Attempts made.
        attempts: u32,
    },
    /// The document would exceed what etcd takes as one value.
    #[error(
        "{place} would have {bytes} bytes, the limit is {bytes_max}; split it over more documents \
         or shorten its messages"
    )]
    TooLarge {
        /// The file or key.
        place: String,
        /// Bytes of the document.
        bytes: usize,
        /// Most bytes of one.
        bytes_max: usize,
    },
    /// A status document has more rows than a reader expects.
    #[error(
        "the status of {writer} has {rows} rows, the limit is {rows_max}; split it over shards"
    )]
    TooManyRows {
        /// Who writes the document.
        writer: String,
        /// Rows given.
        rows: usize,
        /// Most rows of one document.
        rows_max: usize,
    },
    /// The writer's name is unsafe as a file name or key.
    #[error(transparent)]
    WriterName(#[from] WriterNameError),
}

/// What was done to a file when it failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FileAction {
    /// Creating it.
    Create,
    /// Taking the lock on it.
    Lock,
    /// Reading it or what it contains.
    Read,
    /// Writing, syncing or renaming it.
    Write,
}

impl fmt::Display for FileAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl GoalStoreError {
    /// The error for a file operation, by what a person has to do about it.
    pub(crate) fn file(action: FileAction, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.to_owned();
        match source.kind() {
            Kind::PermissionDenied => Self::NoPermission { action, path, source },
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                Self::NoRoom { action, path, source }
            }
            Kind::NotADirectory => Self::NotADirectory { path },
            _ => Self::File { action, path, source },
        }
    }

    pub(crate) fn change(app: &AppName, error: GoalChangeError) -> Self {
        let app = app.clone();
        match error {
            GoalChangeError::NoHistory => Self::NoHistory { app },
            GoalChangeError::OnlyPartial { build } => Self::OnlyPartial { app, build },
            GoalChangeError::LastGeneration { generation } => {
                Self::LastGeneration { app, generation }
            }
            GoalChangeError::NoneGood { build } => Self::NoneGood { app, build },
            GoalChangeError::NoSuchGeneration { generation } => {
                Self::NoSuchGeneration { app, generation }
            }
            GoalChangeError::Moved { expected, actual, author } => {
                Self::Moved { app, expected, actual, author: Author(author) }
            }
            GoalChangeError::AlreadyRolledBack { generation, author } => {
                Self::AlreadyRolledBack { app, generation, author: Author(author) }
            }
            GoalChangeError::NotHalted => Self::NotHalted { app },
        }
    }

    /// The message and those of its sources on one line, for where only a text is kept.
    pub(crate) fn one_line(&self) -> String {
        one_line(self)
    }
}

/// Who set a goal, in a sentence: nothing where nobody said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Author(pub Option<String>);

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(author) => write!(f, " (set by {author})"),
            None => Ok(()),
        }
    }
}

/// Why the goal of an app could not be read. Cheap to clone: every watcher keeps the last one.
///
/// Displays as the message with its causes, in one line. Two of them are equal if they read the
/// same: a watcher is not woken for what it would show in the same words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.one_line())]
pub struct GoalReadError(Arc<GoalStoreError>);

impl GoalReadError {
    /// What went wrong, for who decides by it.
    pub fn cause(&self) -> &GoalStoreError {
        &self.0
    }
}

impl From<GoalStoreError> for GoalReadError {
    fn from(error: GoalStoreError) -> Self {
        Self(Arc::new(error))
    }
}

impl PartialEq for GoalReadError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.one_line() == other.0.one_line()
    }
}

impl Eq for GoalReadError {}

/// An error's message and those of its sources, without those that the one before repeats.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_errors_are_sorted_by_what_to_do() {
        let cases = [
            (io::ErrorKind::PermissionDenied, "no permission to write /g; run as its owner"),
            (io::ErrorKind::StorageFull, "no room to write /g; free space"),
            (io::ErrorKind::QuotaExceeded, "no room to write /g; free space"),
            (io::ErrorKind::FileTooLarge, "no room to write /g; free space"),
            (io::ErrorKind::NotADirectory, "no directory leads to /g: a part of the path"),
            (io::ErrorKind::ReadOnlyFilesystem, "cannot write /g; check the path"),
        ];
        for (kind, expected) in cases {
            let error = GoalStoreError::file(FileAction::Write, Path::new("/g"), kind.into());
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn sources_are_joined_without_repetition() {
        let source = io::Error::from_raw_os_error(13);
        let error = GoalStoreError::file(FileAction::Read, Path::new("/g"), source);
        let text = error.one_line();
        assert!(text.ends_with("give this user access: Permission denied (os error 13)"), "{text}");
    }
}
