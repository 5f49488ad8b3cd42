//! How a node treats the disk: like any program, or behind all others.
//!
//! Low priority has two halves. Reads and writes carry the idle class of the system's scheduler
//! ([`DiskPriority::apply_to_this_thread`]), which decides who waits for the disk; schedulers
//! without classes ignore it (`none`, `kyber`). And bytes do not stay in the page cache
//! (`store/drop_behind.rs`), which decides who has to go to the disk at all; that works everywhere,
//! and makes the node's own threads write out what they wrote, so that the class counts for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Once;

use ioprio::{Class, Pid, Priority, Target};
use tracing::warn;

/// How a node treats the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DiskPriority {
    /// Like any program.
    #[default]
    Normal,
    /// Behind all other programs, and without taking the page cache from them.
    Low,
}

/// The text is not the name of a priority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a priority for the disk; expected low or normal")]
pub struct ParseDiskPriorityError {
    text: String,
}

impl FromStr for DiskPriority {
    type Err = ParseDiskPriorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "normal" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            _ => Err(ParseDiskPriorityError { text: text.into() }),
        }
    }
}

impl fmt::Display for DiskPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::Low => "low",
        })
    }
}

impl DiskPriority {
    /// Gives the calling thread its class, which threads that it starts inherit. A refusal of
    /// the system is logged once; nothing depends on it.
    pub(crate) fn apply_to_this_thread(self) {
        static LOGGED: Once = Once::new();
        if self == Self::Normal {
            return;
        }
        let this_thread = Target::Process(Pid::from_raw(0));
        if let Err(error) = ioprio::set_priority(this_thread, Priority::new(Class::Idle)) {
            LOGGED.call_once(|| {
                warn!(%error, "the system refuses the idle class for the disk; going on without it");
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of_this_thread() -> Option<Class> {
        ioprio::get_priority(Target::Process(Pid::from_raw(0))).unwrap().class()
    }

    #[test]
    fn low_priority_is_that_of_the_thread_and_of_those_it_starts() {
        let (own, inherited) = std::thread::spawn(|| {
            DiskPriority::Low.apply_to_this_thread();
            (class_of_this_thread(), std::thread::spawn(class_of_this_thread).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((own, inherited), (Some(Class::Idle), Some(Class::Idle)));
        let own = std::thread::spawn(|| {
            DiskPriority::Normal.apply_to_this_thread();
            class_of_this_thread()
        });
        assert_ne!(own.join().unwrap(), Some(Class::Idle));
    }

    #[test]
    fn priorities_are_read_and_shown() {
        for priority in [DiskPriority::Normal, DiskPriority::Low] {
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        let error = "idle".parse::<DiskPriority>().unwrap_err();
        assert!(error.to_string().contains("low"), "{error}");
    }
}
