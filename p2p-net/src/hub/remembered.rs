//! Remembers the contacts of a download on disk, so that a host that is started again finds its
//! neighbours when no tracker is left.
//!
//! Owns when the file is written; `store/contacts.rs` owns how. Nothing depends on it: a file that
//! is missing or old costs a question to the tracker.

use p2p_core::{Contact, Swarm};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};
use tracing::warn;

use crate::progress::Phase;

use super::member::Member;

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

#[expect(clippy::multiple_inherent_impl, reason = "the member is cut by concern")]
impl Member {
    /// Writes the contacts of the swarm, if it is time and they changed. A failure is logged; all
    /// that is lost is the hint.
    pub(crate) fn save_contacts(&mut self) {
        let is_under_way = matches!(self.phase, Phase::Locating | Phase::Downloading);
        let since = self.remembered.saved_at.map(|at| at.elapsed());
        let is_due = since.is_none_or(|since| since >= SAVE_TIME_GROWING);
        let Some(swarm) = self.swarm.as_ref().filter(|_| is_under_way && is_due) else { return };
        let contacts = Swarm::lasting_contacts(swarm);
        let is_growing = contacts.len() > self.remembered.saved.len();
        let Some(store) = self.store.clone() else { return };
        let is_new = !contacts.is_empty() && contacts != self.remembered.saved;
        if !is_new || since.is_some_and(|since| since < SAVE_TIME && !is_growing) {
            return;
        }
        self.remembered.saved_at = Some(Instant::now());
        self.remembered.saved.clone_from(&contacts);
        let build = self.build;
        self.tasks.spawn(async move {
            if let Ok(Err(error)) = spawn_blocking(move || store.write_contacts(&contacts)).await {
                warn!(%build, %error, "cannot keep the contacts of neighbours");
            }
        });
    }
}
