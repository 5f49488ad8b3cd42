//! Whom to ask for the manifest: one neighbour after the other, hosts before seeders.
//!
//! Hosts first, because the manifest of a large build, sent to every host of a region, would be more
//! than a copy of the build.

use core::time::Duration;

use crate::config::SwarmConfig;
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::Instant;

use super::peers::{Peer, PeerTable};

/// A peer that turned out not to have the manifest gets this long to find it.
const MISSING_TIME: Duration = Duration::from_secs(1);

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
        let knowing = peers.iter().filter(|peer| peer.have.is_some());
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
        }
        let may_ask = |peer: &Peer| peer.have.is_some() && peer.manifest_after <= now;
        let sources = peers.iter().filter(|peer| may_ask(peer));
        let (seeders, hosts): (Vec<&Peer>, Vec<&Peer>) = sources.partition(|peer| peer.is_seeder());
        let sources = if hosts.is_empty() { seeders } else { hosts };
        if sources.is_empty() {
            return None;
        }
        let peer = sources[prng.index_below(sources.len())].node;
        self.asked = Some((peer, now));
        Some(peer)
    }

    /// `peer` answered, or is gone.
    pub(super) fn note_end(&mut self, peer: NodeId) {
        self.asked = self.asked.filter(|(asked, _)| *asked != peer);
    }

    /// `peer` does not have the manifest after all.
    pub(super) fn note_missing(now: Instant, peer: &mut Peer) {
        peer.manifest_after = now.after(MISSING_TIME);
    }
}
