//! What others may read of a swarm: how full its tables are, whom it knows, why it waits.
//!
//! Read only: nothing here changes anything.

use crate::contact::Contact;

use super::{Swarm, Waiting};

/// One table, queue or account of a swarm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableSize {
    /// What is in it.
    pub name: &'static str,
    /// Entries, or bytes where the name says so.
    pub size: u64,
    /// Most of them, from [`SwarmConfig`](crate::SwarmConfig).
    pub limit: u64,
}

#[expect(clippy::multiple_inherent_impl, reason = "`swarm.rs` dispatches, this only looks")]
impl Swarm {
    /// Why nothing moves; `None` if chunks are on their way or all of them here.
    pub fn waiting(&self) -> Option<Waiting> {
        let is_moving = self.requests.len() > 0 || !self.requests.local().is_empty();
        if self.is_complete() || is_moving {
            return None;
        }
        if self.peers.has_something_beyond(&self.have) {
            let no_manifest = self.layout.is_none();
            return Some(if no_manifest { Waiting::Manifest } else { Waiting::Chunks });
        }
        Some(if self.trackers.are_silent() {
            Waiting::Tracker
        } else if self.members.is_refused_by_seeder() {
            Waiting::Room
        } else if self.members.knows_seeder() {
            Waiting::Neighbours
        } else {
            Waiting::Source
        })
    }

    /// Every table with a limit of its own.
    ///
    /// # Cost
    ///
    /// Constant: each table knows its size.
    pub fn table_sizes(&self) -> [TableSize; 12] {
        let config = &self.config;
        let [contacts, dials, waits, bans, mates, mate_dials] = self.members.sizes();
        // A chunk larger than the limit may be under way on its own.
        let alone = if self.requests.len() == 1 { self.requests.bytes() } else { 0 };
        let count = |name, size: usize, limit: usize| TableSize {
            name,
            size: size as u64,
            limit: limit as u64,
        };
        [
            count("neighbours", self.peers.len(), config.neighbours_max_at(self.contact.location)),
            count("contacts", contacts, config.contacts_max),
            count("dials", dials, config.dials_max),
            count("waits", waits, config.bans_max),
            count("bans", bans, config.bans_max),
            count("rack mates known", mates, config.near_max.into()),
            count("dials of rack mates", mate_dials, config.near_max.into()),
            count("requests", self.requests.len(), config.requests_max.into()),
            TableSize {
                name: "bytes asked for",
                size: self.requests.bytes(),
                limit: config.request_bytes_max.max(alone),
            },
            count("uploads", self.uploads.active_count(), self.uploads_max()),
            count("manifests under way", self.manifests.len(), self.manifests_max()),
            count("uploads waiting", self.uploads.waiting_count(), config.upload_queue_max),
        ]
    }

    /// The nodes to name when a neighbour asks whom we know.
    pub fn known_contacts(&self) -> Vec<Contact> {
        self.peers.iter().filter_map(|peer| peer.contact.as_deref().copied()).collect()
    }

    /// The nodes to remember after this node has died: neighbours first, then others that it knows
    /// of. The driver keeps them where they survive and hands them to the next life as
    /// [`SwarmParams::remembered`](crate::SwarmParams::remembered).
    pub fn lasting_contacts(&self) -> Vec<Contact> {
        let mut lasting = self.known_contacts();
        for contact in self.members.lasting() {
            if !lasting.iter().any(|known| known.node == contact.node) {
                lasting.push(contact);
            }
        }
        lasting.truncate(self.config.contacts_max);
        lasting
    }
}
