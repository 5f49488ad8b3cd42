//! The manifest: whom to ask for it, and what changes once it is here.
//!
//! One neighbour after the other is asked, hosts before seeders: the manifest of a large build,
//! sent to every host of a region, would be more than a copy of the build. A host that did not
//! answer comes after the seeders, or two that never do could keep a node from it for ever.
//! Invariant: `layout` is set once, together with every table that has an entry per chunk.

use std::sync::Arc;

use crate::action::Action;
use crate::chunk_set::ChunkSet;

use crate::config::SwarmConfig;
use crate::contact::PeerRole;
use crate::event::ManifestOutcome;
use crate::fault::PeerFault;
use crate::layout::ChunkLayout;
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::Instant;

use super::Swarm;
use super::ledger::Ledger;
use super::locality::Claims;
use super::peers::{Peer, PeerTable};
use super::requests::RequestTable;

/// The search for the manifest; without use once it is here.
#[derive(Debug, Default)]
pub(super) struct ManifestSearch {
    /// Who was asked and has not answered, and since when.
    asked: Option<(NodeId, Instant)>,
}

impl ManifestSearch {
    /// When to ask; `None` while no neighbour claims to know the build.
    pub(super) fn due(&self, peers: &PeerTable, config: &SwarmConfig) -> Option<Instant> {
        let until = self.asked.map(|(_, since)| since.after(config.late_unknown));
        let knowing = peers.iter().filter(|peer| peer.knows_manifest());
        until.or_else(|| knowing.map(|peer| peer.manifest_after).min())
    }

    /// Whom to ask now, if anybody.
    pub(super) fn next(
        &mut self,
        now: Instant,
        peers: &mut PeerTable,
        config: &SwarmConfig,
        prng: &mut Prng,
    ) -> Option<NodeId> {
        if self.due(peers, config).is_none_or(|due| due > now) {
            return None;
        }
        if let Some((late, _)) = self.asked.take()
            && let Some(peer) = peers.get_mut(late)
        {
            peer.manifest_after = now.after(config.late_unknown);
            peer.kept_manifest = true;
        }
        let may_ask = |peer: &Peer| peer.knows_manifest() && peer.manifest_after <= now;
        let rank = |peer: &Peer| (!peer.is_seeder() && peer.kept_manifest, peer.is_seeder());
        let sources = peers.iter().filter(|peer| may_ask(peer));
        let first = sources.map(rank).min()?;
        let sources = peers.iter().filter(|peer| may_ask(peer) && rank(peer) == first);
        let sources: Vec<&Peer> = sources.collect();
        let peer = sources[prng.index_below(sources.len())].node;
        self.asked = Some((peer, now));
        Some(peer)
    }

    /// `peer` answered, or is gone.
    pub(super) fn note_end(&mut self, peer: NodeId) {
        self.asked = self.asked.filter(|(asked, _)| *asked != peer);
    }

    /// A neighbour does not have the manifest after all.
    fn note_missing(now: Instant, entry: &mut Peer, config: &SwarmConfig) {
        entry.manifest_after = now.after(config.manifest_missing_wait);
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the manifest is a concern of its own")]
impl Swarm {
    pub(super) fn on_manifest_arrived(&mut self, peer: NodeId, outcome: ManifestOutcome) {
        self.search.note_end(peer);
        match outcome {
            ManifestOutcome::Valid(layout) if self.layout.is_none() => self.learn_layout(layout),
            ManifestOutcome::Valid(_) => {}
            ManifestOutcome::Wrong => self.ban(peer, PeerFault::WrongManifest),
            ManifestOutcome::Missing => {
                if let Some(entry) = self.peers.get_mut(peer) {
                    ManifestSearch::note_missing(self.now, entry, &self.config);
                }
            }
        }
    }

    /// The manifest is here. Neighbours whose sets it proves impossible are banned; the others hear
    /// of it, so that they can ask us for it.
    pub(super) fn learn_layout(&mut self, layout: Arc<ChunkLayout>) {
        let have = ChunkSet::empty(layout.chunk_count());
        let liars = self.peers.check_hearsay(layout.chunk_count());
        self.adopt_layout(layout, have);
        self.progress_at = self.now;
        for liar in liars {
            self.ban(liar, PeerFault::WrongLayout);
        }
        self.join_all();
        if self.is_complete() {
            self.actions.push_back(Action::Complete);
        }
    }

    /// Makes every table with an entry per chunk anew, for a build that is cut like this.
    pub(super) fn adopt_layout(&mut self, layout: Arc<ChunkLayout>, have: ChunkSet) {
        let chunk_count = layout.chunk_count();
        assert_eq!(have.capacity(), chunk_count, "the chunks are of another build");
        self.requests = RequestTable::new(chunk_count);
        self.claims = Claims::new(chunk_count, &self.config);
        if self.contact.role == PeerRole::Seeder {
            self.ledger = Some(Ledger::new(chunk_count, &self.config));
        }
        if !have.is_full() {
            self.peers.start_counting(chunk_count);
        }
        self.peers.renew_interest();
        self.have = have;
        self.layout = Some(layout);
    }

    /// When to ask for the manifest; `None` once it is here, or while nobody claims to know it.
    pub(super) fn manifest_due(&self) -> Option<Instant> {
        self.layout.is_none().then(|| self.search.due(&self.peers, &self.config)).flatten()
    }

    pub(super) fn ask_for_manifest(&mut self) {
        if self.layout.is_none()
            && let Some(peer) =
                self.search.next(self.now, &mut self.peers, &self.config, &mut self.prng)
        {
            self.actions.push_back(Action::FetchManifest { peer });
        }
    }
}
