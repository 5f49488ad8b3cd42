//! What a seeder tells a host about its reports: why rows were turned away, or what is wrong with
//! them.
//!
//! A report is acknowledged before anybody reads it, so a host asks again, about [`NOTES_TOPIC`],
//! with an empty question; the seeder knows it by its key. Owns the document and its limits, and
//! what helps against what is said of an agent as a whole. Pure.

use serde::{Deserialize, Serialize};

use crate::documents::text::printable;

/// The topic of these documents on the control plane, with their version. A seeder that does not
/// know it refuses, and the host learns nothing.
pub const NOTES_TOPIC: &str = "notes/1";

/// Most notes of one host. There are fewer kinds of trouble.
const NOTES_MAX: usize = 8;

/// Most characters of a note: a sentence with two long host names.
const NOTE_CHARS_MAX: usize = 400;

/// A seeder's answer.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct HostNotes {
    /// Sentences for a person, the most important first.
    pub notes: Vec<String>,
}

impl HostNotes {
    /// The answer within its limits, on one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.bounded()).expect("notes are text")
    }

    /// Reads an answer; what is beyond the limits is cut, because a seeder may be newer.
    ///
    /// # Errors
    ///
    /// The bytes are no answer.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Self>(bytes).map(|notes| notes.bounded())
    }

    fn bounded(&self) -> Self {
        let cut = |note: &String| printable(note).chars().take(NOTE_CHARS_MAX).collect();
        Self { notes: self.notes.iter().take(NOTES_MAX).map(cut).collect() }
    }
}

/// What to do where the clock of a host is off.
pub const CLOCK_STEP: &str =
    "set the clock of the host, and let a service keep it (chrony, systemd-timesyncd)";

/// What to do where several nodes report under one name.
pub const NAMESAKE_STEP: &str =
    "give each host a name of its own (host in its configuration) and restart its agent";

/// Words of notes of seeders and agents, also of earlier versions, each with what helps.
const STEPS: [(&str, &str); 5] = [
    (
        "restart the agent to take over",
        "restart the agent on the host (systemctl restart shoal-agent) when its programs may be \
         restarted with it: these settings do not change while it runs",
    ),
    (
        "configuration not read again",
        "mend the configuration of the host, then reload the agent (systemctl reload shoal-agent)",
    ),
    ("clock is", CLOCK_STEP),
    (
        "two machines have one key",
        "on the machine that is the copy: systemctl stop shoal-agent, remove node.key from its \
         state directory, systemctl start shoal-agent",
    ),
    ("nodes report as host", NAMESAKE_STEP),
];

/// What helps against what `note` says of an agent; `None` if it is not known.
pub(crate) fn step_for(note: &str) -> Option<&'static str> {
    STEPS.into_iter().find_map(|(words, step)| note.contains(words).then_some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_at_both_ends() {
        let notes = HostNotes { notes: vec!["a\u{202e}b".repeat(NOTE_CHARS_MAX); NOTES_MAX + 1] };
        let read = HostNotes::from_json(&notes.to_json()).unwrap();
        assert_eq!(read.notes.len(), NOTES_MAX);
        assert_eq!(read.notes[0].chars().count(), NOTE_CHARS_MAX);
        assert!(read.notes[0].starts_with("a ba b"), "{read:?}");
        let raw = serde_json::to_vec(&notes).unwrap();
        assert_eq!(HostNotes::from_json(&raw).unwrap(), read);
        assert!(HostNotes::from_json(b"{").is_err());
    }
}
