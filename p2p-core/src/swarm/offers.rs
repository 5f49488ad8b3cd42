//! Offers: what neighbours say that they have now, and what we say to them.
//!
//! New chunks are collected for a while, so that one message names several. Invariant: only chunks
//! that are here are offered, and none to a host that is known to have it.

use core::time::Duration;

use crate::chunk_set::{ChunkSet, bits_of, words_of_run};
use crate::config::SwarmConfig;
use crate::fault::PeerFault;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::{Message, Runs};

use super::Swarm;
use super::peers::PeerTable;

/// New chunks on their way to the neighbours, collected for a while.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// Chunks in the order in which they came since the last batch; a peer's `offers_sent` is a
    /// place in it.
    arrivals: Vec<ChunkIndex>,
    due: Option<Instant>,
}

impl Offers {
    /// How many chunks wait to be offered. A peer that is sent the whole set now
    /// has no need of them.
    pub(super) fn arrival_count(&self) -> usize {
        self.arrivals.len()
    }

    /// When the collected chunks are to be offered; `None` if there are none.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A chunk came: it is offered within `wait`, together with all that come until then.
    pub(super) fn note_arrival(&mut self, now: Instant, chunk: ChunkIndex, wait: Duration) {
        self.arrivals.push(chunk);
        let due = now.after(wait);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// What is now offered to whom. A complete host is offered nothing, because it wants nothing; a
    /// seeder is offered everything, because it gives us what we lack.
    pub(super) fn collect(
        &mut self,
        now: Instant,
        peers: &mut PeerTable,
        have: &ChunkSet,
    ) -> Vec<(NodeId, Message)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut offers = Vec::with_capacity(peers.len());
        let mut new: Vec<ChunkIndex> = Vec::with_capacity(self.arrivals.len());
        for peer in peers.iter_mut() {
            new.clear();
            let sent = core::mem::take(&mut peer.offers_sent).min(self.arrivals.len());
            new.extend(self.arrivals[sent..].iter().filter(|chunk| have.contains(**chunk)));
            if !peer.is_seeder() {
                let theirs = peer.have.as_ref();
                new.retain(|chunk| !theirs.is_some_and(|have| have.contains(*chunk)));
            }
            new.sort_unstable();
            new.dedup();
            if !new.is_empty() {
                offers.push((peer.node, Message::offer(&new)));
            }
        }
        self.arrivals.clear();
        offers
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "offers are a concern of their own")]
impl Swarm {
    /// A peer says that it has chunks now. Before the manifest is here, nothing about chunks is
    /// believed: what it says is kept as it came.
    pub(super) fn on_offer(&mut self, peer: NodeId, runs: &Runs) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        let Some(chunk_count) = entry.claimed_chunk_count() else {
            // A peer that does not know the manifest has no chunks to offer.
            return self.ban(peer, PeerFault::WrongLayout);
        };
        if runs.end() > chunk_count {
            let raw = runs.end() - 1;
            return self.ban(peer, PeerFault::NoSuchChunk { raw, chunk_count });
        }
        if let Some(hearsay) = &mut entry.hearsay {
            hearsay.note_offer(runs);
            entry.fed_at = self.now;
            return;
        }
        self.note_offered(peer, runs);
        let has_late = self.requests.has_late();
        let asked = |i| if has_late { 0 } else { self.requests.asked().word(i) };
        let mut words = runs.iter().flat_map(words_of_run);
        if words.any(|(i, mask)| mask & !self.have.word(i) & !asked(i) != 0) {
            self.look_at(peer);
        }
    }

    /// How long a new chunk may wait to be offered together with others: on links so fast that a
    /// chunk takes less than the longest interval, half of what it takes. A node with nothing to
    /// send gains nothing from waiting.
    pub(super) fn offer_wait(&self) -> Duration {
        if self.is_upload_slot_free() {
            return Duration::ZERO;
        }
        let SwarmConfig { offer_interval_min, offer_interval_max, .. } = *self.config;
        let half = self.peers.usual_service().unwrap_or(offer_interval_max) / 2;
        half.clamp(offer_interval_min, offer_interval_max)
    }

    pub(super) fn offer_new_chunks(&mut self) {
        for (peer, offer) in self.offers.collect(self.now, &mut self.peers, &self.have) {
            self.send(peer, offer);
        }
    }

    /// Notes what a peer has now. Nobody in the rack brings what a rack mate has.
    fn note_offered(&mut self, peer: NodeId, runs: &Runs) {
        let Some(entry) = self.peers.get(peer) else { return };
        let Some(theirs) = entry.have.as_ref() else { return };
        let words = || runs.iter().flat_map(words_of_run);
        let is_new = words().any(|(i, mask)| mask & !theirs.word(i) != 0);
        let mut brought = Vec::new();
        if entry.is_near() {
            let claimed = |(i, mask)| self.claims.claimed_word(i) & mask & !theirs.word(i);
            brought.extend(words().flat_map(|word| bits_of(word.0, claimed(word))));
        }
        self.peers.note_has(peer, words());
        if let Some(entry) = self.peers.get_mut(peer).filter(|_| is_new) {
            entry.fed_at = self.now;
        }
        for chunk in brought {
            self.claims.end(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chunk_set::work;
    use crate::contact::{Contact, Location, PeerRole};
    use crate::digest::BuildId;
    use crate::event::{Event, ManifestOutcome};
    use crate::layout::{CHUNKS_MAX, ChunkLayout};
    use crate::prng::Seed;
    use crate::swarm::{Holdings, SwarmParams};
    use crate::wire::{Have, encode};

    const PEER: NodeId = NodeId::from_bytes([2; 32]);

    /// Large enough that a step per chunk stands out from a step per word.
    const CHUNKS: u32 = 1 << 16;

    fn contact(node: NodeId, role: PeerRole) -> Contact {
        let address = "10.0.0.1:1".parse().unwrap();
        Contact { node, control: address, data: address, role, location: Location::named("z", "r") }
    }

    fn layout() -> Arc<ChunkLayout> {
        Arc::new(ChunkLayout::new((0..CHUNKS).map(|_| 1_000)).unwrap())
    }

    fn holdings(have: ChunkSet) -> Holdings {
        Holdings::Chunks { layout: layout(), have }
    }

    /// A node with a rack mate as its only neighbour.
    fn swarm(role: PeerRole, holdings: Holdings) -> Swarm {
        let params = SwarmParams {
            config: SwarmConfig::host().into(),
            build: BuildId::of_manifest(b"x"),
            contact: contact(NodeId::from_bytes([1; 32]), role),
            trackers: vec![],
            remembered: vec![],
            seed: Seed::from_u64(1),
        };
        let mut swarm = Swarm::new(params, holdings, Instant::ZERO);
        give(&mut swarm, Event::Started);
        give(&mut swarm, Event::PeerConnected { peer: PEER });
        swarm
    }

    fn give(swarm: &mut Swarm, event: Event) {
        swarm.handle_event(Instant::ZERO, event);
        while swarm.poll_action().is_some() {}
    }

    /// Looks at words that the message costs, and its bytes.
    fn cost_of(swarm: &mut Swarm, message: Message) -> (u64, u64) {
        let (bytes, before) = (encode(&message).len() as u64, work::words());
        give(swarm, Event::MessageReceived { peer: PEER, message });
        assert!(swarm.peers.contains(PEER), "it was banned");
        (work::words() - before, bytes)
    }

    fn join(chunk_count: u32) -> Message {
        let contact = Box::new(contact(PEER, PeerRole::Host));
        Message::Join { contact, have: Some(Have::of(&ChunkSet::empty(chunk_count))) }
    }

    fn offer(runs: Vec<(u32, u32)>) -> Message {
        Message::Offer { runs: runs.try_into().unwrap() }
    }

    /// The offers that ask for the most: few bytes for all chunks, and as many runs as there are.
    fn worst_offers(chunk_count: u32) -> [Message; 3] {
        let alternating = (0..chunk_count / 2).map(|i| (2 * i, 1)).collect();
        [offer(vec![(0, chunk_count)]), offer(vec![(0, chunk_count - 1)]), offer(alternating)]
    }

    /// Goal: no offer costs more than its bytes and a few passes over the words of the sets, on a
    /// seeder, on a host that lacks everything, and on one that is complete; nor does it together
    /// with the `Join` that takes it back.
    #[test]
    fn offer_costs_its_bytes_and_the_words_of_the_build() {
        let (empty, full) = (ChunkSet::empty(CHUNKS), ChunkSet::full(CHUNKS));
        let nodes = [(PeerRole::Seeder, &full), (PeerRole::Host, &full), (PeerRole::Host, &empty)];
        let check = |swarm: &mut Swarm, message| {
            let (cost, bytes) = cost_of(swarm, message);
            // Some requests go out, and each looks for the rarest chunk of a sample.
            let bound = 8 * bytes + 40 * u64::from(CHUNKS / 64);
            assert!(cost <= bound, "{cost} words, not {bound}");
        };
        for (role, have) in nodes {
            for message in worst_offers(CHUNKS) {
                let mut swarm = swarm(role, holdings(have.clone()));
                for _ in 0..3 {
                    check(&mut swarm, join(CHUNKS));
                    check(&mut swarm, message.clone());
                }
            }
        }
    }

    /// Goal: a peer that says goodbye costs the words of what it has, whatever it said.
    #[test]
    fn parting_costs_the_words_of_the_build() {
        let mut seeder = swarm(PeerRole::Seeder, holdings(ChunkSet::full(CHUNKS)));
        give(&mut seeder, Event::MessageReceived { peer: PEER, message: join(CHUNKS) });
        let message = offer(vec![(0, CHUNKS)]);
        give(&mut seeder, Event::MessageReceived { peer: PEER, message });
        let before = work::words();
        give(&mut seeder, Event::MessageReceived { peer: PEER, message: Message::Leave });
        let (cost, bound) = (work::words() - before, 40 * u64::from(CHUNKS / 64));
        assert!(cost <= bound, "{cost}, not {bound}");
    }

    /// Goal: before the manifest is here an offer costs its bytes, whatever build the peer makes
    /// up.
    /// Method: the largest build; small offers over and over, then the longest ones.
    #[test]
    fn offer_before_the_manifest_costs_its_bytes() {
        let mut swarm = swarm(PeerRole::Host, Holdings::Name);
        for _ in 0..1_000 {
            assert_eq!(cost_of(&mut swarm, join(CHUNKS_MAX)).0, 0);
            for message in &worst_offers(CHUNKS_MAX)[..2] {
                assert_eq!(cost_of(&mut swarm, message.clone()).0, 0);
            }
        }
        let alternating: Vec<_> = (0..40_000).map(|i| (2 * i, 1)).collect();
        let (mut cost, mut bytes) = (0, 0);
        for _ in 0..20 {
            let (words, length) = cost_of(&mut swarm, offer(alternating.clone()));
            (cost, bytes) = (cost + words, bytes + length);
        }
        assert!(cost <= 8 * bytes, "{cost} words for {bytes} bytes");
    }

    /// Goal: an honest peer that made offers before the manifest was here loses none of them.
    #[test]
    fn offers_before_the_manifest_count_once_it_is_here() {
        let mut swarm = swarm(PeerRole::Host, Holdings::Name);
        let messages =
            [join(CHUNKS), offer(vec![(5, 2), (9, 1)]), offer(vec![(7, 2), (CHUNKS - 1, 1)])];
        for message in messages {
            give(&mut swarm, Event::MessageReceived { peer: PEER, message });
        }
        assert!(swarm.peers.get(PEER).unwrap().have.is_none(), "nothing is believed yet");
        let outcome = ManifestOutcome::Valid(layout());
        give(&mut swarm, Event::ManifestArrived { peer: PEER, outcome });
        let entry = swarm.peers.get(PEER).unwrap();
        let have: Vec<u32> = entry.have.as_ref().unwrap().iter().map(ChunkIndex::get).collect();
        assert_eq!(have, [5, 6, 7, 8, 9, CHUNKS - 1]);
        assert_eq!((swarm.peers.source_count(), usize::from(entry.requests)), (1, 2));
    }
}
