//! Which contacts of a download are remembered on disk, so that a host that is started again finds
//! its neighbours when no tracker is left.
//!
//! Owns when the file is written; the member writes it, and `store/contacts.rs` owns how. Nothing
//! depends on it: a file that is missing or old costs a question to the tracker.

use p2p_core::Contact;
use tokio::time::{Duration, Instant};

/// How often contacts are written at most. Neighbours last for minutes, and each write costs two
/// syncs.
const SAVE_TIME: Duration = Duration::from_secs(5);

/// The same while more of them are known than were written: a host that dies in its first seconds
/// should not come back knowing only its seeder.
const SAVE_TIME_GROWING: Duration = Duration::from_millis(500);

/// What is known of the file of contacts.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Contacts of an earlier life, until the swarm takes them.
    pub(crate) contacts: Vec<Contact>,
    saved: Vec<Contact>,
    saved_at: Option<Instant>,
}

impl Remembered {
    /// Whether it may be time to write again, whatever is known by now.
    pub(crate) fn is_due(&self) -> bool {
        self.since_saved().is_none_or(|since| since >= SAVE_TIME_GROWING)
    }

    /// Takes note that the download knows `contacts` now. Returns whether they are to be written.
    pub(crate) fn note(&mut self, contacts: &[Contact]) -> bool {
        let is_growing = contacts.len() > self.saved.len();
        let is_new = !contacts.is_empty() && contacts != self.saved;
        let since = self.since_saved();
        if !is_new || since.is_some_and(|since| since < SAVE_TIME && !is_growing) {
            return false;
        }
        self.saved_at = Some(Instant::now());
        self.saved = contacts.to_vec();
        true
    }

    fn since_saved(&self) -> Option<Duration> {
        self.saved_at.map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::{Location, NodeId, PeerRole};
    use tokio::time::sleep;

    use super::*;

    fn contacts(count: u8) -> Vec<Contact> {
        let address = "127.0.0.1:1".parse().unwrap();
        let (role, location) = (PeerRole::Host, Location::default());
        let node = |number| NodeId::from_bytes([number; 32]);
        (0..count)
            .map(|number| Contact {
                node: node(number),
                control: address,
                data: address,
                role,
                location,
            })
            .collect()
    }

    /// Goal: new contacts are written soon while they become more, seldom otherwise, and never when
    /// there are none or they are the same.
    #[tokio::test(start_paused = true)]
    async fn contacts_are_written_as_often_as_they_are_worth() {
        let mut remembered = Remembered::default();
        assert!(remembered.is_due() && !remembered.note(&[]));
        assert!(remembered.note(&contacts(2)));
        assert!(!remembered.is_due(), "written a moment ago");
        sleep(SAVE_TIME_GROWING).await;
        assert!(remembered.is_due());
        assert!(!remembered.note(&contacts(2)), "the same");
        assert!(!remembered.note(&contacts(1)), "fewer, and soon");
        assert!(remembered.note(&contacts(3)), "more");
        sleep(SAVE_TIME).await;
        assert!(remembered.note(&contacts(1)));
    }
}
