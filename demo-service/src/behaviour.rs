//! Ways in which a build of the service goes wrong, so that tests can see what an agent makes of
//! it.
//!
//! They are part of the build, because builds differ in their content: the file [`BEHAVIOUR_FILE`]
//! in its root, or the variable `BEHAVIOUR_VARIABLE` on top of it. Both hold words such as
//! `crash-after=5s answer-500`, separated by white space. Without either, the service does nothing
//! wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use std::{env, fs, io};

/// The file in the root of the build that holds its behaviours; it may be missing.
pub const BEHAVIOUR_FILE: &str = "behaviour";

/// The environment variable with further behaviours.
const BEHAVIOUR_VARIABLE: &str = "DEMO_BEHAVIOUR";

/// One thing that the service does wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Behaviour {
    /// `crash-at-start`: ends with an error before it listens.
    CrashAtStart,
    /// `crash-after=TIME`: ends with an error that long after it began to answer.
    CrashAfter(Duration),
    /// `slow-start=TIME`: listens, and says that it is ready, only then.
    SlowStart(Duration),
    /// `never-ready`: runs, but never listens and never says that it is ready.
    NeverReady,
    /// `hang-health`: listens and answers, but never to `/healthz`, and never says that it is
    /// ready.
    HangHealth,
    /// `unhealthy`: answers 500 to `/healthz`.
    Unhealthy,
    /// `answer-500`: answers 500 to everything.
    Answer500,
    /// `slow-answers=TIME`: every answer takes that long.
    SlowAnswers(Duration),
    /// `ignore-term`: goes on as before when told to stop.
    IgnoreTerm,
    /// `fill-log`: prints lines as fast as it can.
    FillLog,
    /// `chatty=TIME`: prints a line every so often, as a program at debug level does.
    Chatty(Duration),
    /// `leak-child`: starts a process that it never ends, and that ignores SIGTERM.
    LeakChild,
}

/// Everything that one run of the service does wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Behaviours(BTreeSet<Behaviour>);

/// Why a word is no behaviour.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{word:?} is no behaviour; known are crash-at-start, crash-after=TIME, slow-start=TIME, \
         never-ready, hang-health, unhealthy, answer-500, slow-answers=TIME, ignore-term, fill-log, \
         chatty=TIME, leak-child"
)]
pub(crate) struct BehaviourError {
    word: String,
}

impl Behaviours {
    /// Reads those of the build whose root is `root`, and those in the environment.
    ///
    /// # Errors
    ///
    /// If the file cannot be read although it is there, or a word is none of the behaviours.
    pub(crate) fn load(root: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(root.join(BEHAVIOUR_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let more = env::var(BEHAVIOUR_VARIABLE).unwrap_or_default();
        Self::parse(&format!("{text} {more}")).map_err(io::Error::other)
    }

    /// Reads words with white space between them.
    pub(crate) fn parse(text: &str) -> Result<Self, BehaviourError> {
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn has(&self, behaviour: Behaviour) -> bool {
        self.0.contains(&behaviour)
    }

    pub(crate) fn crash_after(&self) -> Option<Duration> {
        self.time(|behaviour| match behaviour {
            Behaviour::CrashAfter(time) => Some(time),
            _ => None,
        })
    }

    pub(crate) fn slow_start(&self) -> Option<Duration> {
        self.time(|behaviour| match behaviour {
            Behaviour::SlowStart(time) => Some(time),
            _ => None,
        })
    }

    pub(crate) fn slow_answers(&self) -> Option<Duration> {
        self.time(|behaviour| match behaviour {
            Behaviour::SlowAnswers(time) => Some(time),
            _ => None,
        })
    }

    pub(crate) fn chatty(&self) -> Option<Duration> {
        self.time(|behaviour| match behaviour {
            Behaviour::Chatty(time) => Some(time),
            _ => None,
        })
    }

    fn time(&self, pick: impl Fn(Behaviour) -> Option<Duration>) -> Option<Duration> {
        self.0.iter().copied().find_map(pick)
    }
}

impl FromStr for Behaviour {
    type Err = BehaviourError;

    fn from_str(word: &str) -> Result<Self, BehaviourError> {
        let wrong = || BehaviourError { word: word.to_owned() };
        if let Some((name, time)) = word.split_once('=') {
            let time = humantime::parse_duration(time).ok().ok_or_else(wrong)?;
            return match name {
                "crash-after" => Ok(Self::CrashAfter(time)),
                "slow-start" => Ok(Self::SlowStart(time)),
                "slow-answers" => Ok(Self::SlowAnswers(time)),
                "chatty" => Ok(Self::Chatty(time)),
                _ => Err(wrong()),
            };
        }
        match word {
            "crash-at-start" => Ok(Self::CrashAtStart),
            "never-ready" => Ok(Self::NeverReady),
            "hang-health" => Ok(Self::HangHealth),
            "unhealthy" => Ok(Self::Unhealthy),
            "answer-500" => Ok(Self::Answer500),
            "ignore-term" => Ok(Self::IgnoreTerm),
            "fill-log" => Ok(Self::FillLog),
            "leak-child" => Ok(Self::LeakChild),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_behaviours_and_others_are_named() {
        let some = Behaviours::parse("crash-after=5s\nanswer-500  ignore-term\n").unwrap();
        assert_eq!(some.crash_after(), Some(Duration::from_secs(5)));
        assert!(some.has(Behaviour::Answer500) && some.has(Behaviour::IgnoreTerm));
        assert_eq!((some.slow_start(), some.slow_answers()), (None, None));
        assert_eq!(
            Behaviours::parse("chatty=2ms").unwrap().chatty(),
            Some(Duration::from_millis(2))
        );
        for wrong in ["chatty", "crash-after", "crash-after=soon", "unhealthy=1s", "explode"] {
            let error = Behaviours::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("crash-at-start"), "{error}");
        }
    }

    #[test]
    fn build_without_the_file_behaves() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Behaviours::load(folder.path()).unwrap(), Behaviours::default());
        fs::write(folder.path().join(BEHAVIOUR_FILE), "leak-child\n").unwrap();
        assert!(Behaviours::load(folder.path()).unwrap().has(Behaviour::LeakChild));
        fs::write(folder.path().join(BEHAVIOUR_FILE), "leak-children\n").unwrap();
        assert!(Behaviours::load(folder.path()).is_err());
    }
}
