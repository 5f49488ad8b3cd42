//! Chunks on their way.
//!
//! A node sends its chunks one after the other, in the order in which its swarm orders them, or in
//! turns if the scenario says so; links beyond its own work off in order what they are given
//! (`network.rs`). A transfer that is cancelled leaves the sender's queue at once, and gives back
//! the time of every link on which nothing was queued behind it.

use core::time::Duration;

use p2p_core::wire::RequestId;
use p2p_core::{ChunkIndex, Event};

use crate::network::Passage;
use crate::node::id_of;
use crate::queue::{NodeIndex, Step};
use crate::slab::SlabKey;
use crate::trace::StepKind;

use super::{Fleet, Parcel};

/// How often a transfer that is under way says so. Far below the time after which a swarm takes it
/// for stalled, and rare enough that it costs few steps.
const ADVANCE_TIME: Duration = Duration::from_secs(1);

/// One chunk from one node to another.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    server: NodeIndex,
    asker: NodeIndex,
    request: RequestId,
    chunk: ChunkIndex,
    /// Of its last turn on the uplink; `None` before the first.
    passage: Option<Passage>,
    /// Bytes that have had their turn on the uplink.
    sent: u64,
    /// Its next turn waits until the last one came out of the links behind the uplink.
    is_held: bool,
    /// A reminder to say that it moves is in the queue.
    is_advancing: bool,
    arrival: Arrival,
}

impl Transfer {
    pub(super) const fn server(&self) -> NodeIndex {
        self.server
    }

    pub(super) const fn asker(&self) -> NodeIndex {
        self.asker
    }
}

/// How far a transfer has come. From `Under` to one of the others, once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Arrival {
    /// On its way, or waiting for the uplink.
    Under,
    /// The receiver has all of it and wanted it.
    Delivered,
    /// It ended in any other way.
    Lost,
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn serve(
        &mut self,
        server: NodeIndex,
        (asker, request): (NodeIndex, RequestId),
        chunk: ChunkIndex,
    ) {
        self.observe(server, StepKind::Serve, Some(asker), Some(chunk.get()));
        if !self.nodes[server as usize].is_connected(asker) {
            return self.end_serve(server, (asker, request), (chunk, false));
        }
        let transfer = Transfer {
            server,
            asker,
            request,
            chunk,
            passage: None,
            sent: 0,
            is_held: false,
            is_advancing: false,
            arrival: Arrival::Under,
        };
        let key = self.transfers.insert(transfer);
        let node = &mut self.nodes[server as usize];
        node.serving.push((asker, request, key));
        node.uplink_queue.push_back(key);
        let before = u32::try_from(node.uplink_queue.len()).unwrap_or(u32::MAX);
        let size = u64::from(self.layout.size_of(chunk));
        let expected = self.network.rate_of(node.uplink).occupancy(size) * before.saturating_add(1);
        if expected > ADVANCE_TIME {
            self.remind_to_advance(key, self.scenario.latency);
        }
        self.send_next(server);
    }

    /// Puts the next chunk on the uplink if that is free.
    fn send_next(&mut self, server: NodeIndex) {
        let node = &mut self.nodes[server as usize];
        if node.sending.is_some() {
            return;
        }
        let Some(key) = node.uplink_queue.pop_front() else { return };
        let asker = self.transfers.get(key).map(|transfer| transfer.asker);
        if asker.is_some_and(|asker| self.is_cut(server, asker)) {
            self.stall(key);
            return self.send_next(server);
        }
        let node = &mut self.nodes[server as usize];
        node.sending = Some(key);
        let (uplink, from_rack) = (node.uplink, node.rack);
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        let asker = &self.nodes[transfer.asker as usize];
        let crosses = from_rack != asker.rack;
        let out = from_rack.filter(|_| crosses).map(|rack| self.racks[rack as usize].0);
        let into = asker.rack.filter(|_| crosses).map(|rack| self.racks[rack as usize].1);
        let way = [Some(uplink), out, into, Some(asker.downlink)];
        let whole = u64::from(self.layout.size_of(transfer.chunk));
        let left = whole - transfer.sent;
        let size = self.scenario.turn_size.map_or(left, |turn| left.min(turn));
        let passage = self.network.send(self.now, way.into_iter().flatten(), size);
        transfer.passage = Some(passage);
        transfer.sent += size;
        let is_slow = passage.finish > self.now.after(ADVANCE_TIME) && !transfer.is_advancing;
        self.queue.push(passage.first_hop_end(), Step::UplinkFree { transfer: key });
        if size == left {
            let arrives_at = passage.finish.after(self.scenario.latency);
            self.queue.push(arrives_at, Step::Arrived { transfer: key });
        }
        if is_slow {
            self.remind_to_advance(key, Duration::ZERO);
        }
    }

    fn remind_to_advance(&mut self, key: SlabKey, delay: Duration) {
        if let Some(transfer) = self.transfers.get_mut(key) {
            transfer.is_advancing = true;
            self.queue.push(self.later(delay + ADVANCE_TIME), Step::Advanced { transfer: key });
        }
    }

    pub(super) fn on_advanced(&mut self, key: SlabKey) {
        let Some(transfer) = self.transfers.get(key).filter(|one| one.arrival == Arrival::Under)
        else {
            return;
        };
        let Transfer { server, asker, request, .. } = *transfer;
        if self.nodes[asker as usize].expected.contains(&(server, request)) {
            if !self.is_cut(server, asker) {
                self.give(asker, Event::FetchAdvanced { request });
            }
            self.remind_to_advance(key, Duration::ZERO);
        }
    }

    /// A chunk has had its turn on the uplink, or may have the next one.
    pub(super) fn on_uplink_free(&mut self, key: SlabKey) {
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        let server = transfer.server;
        let whole = u64::from(self.layout.size_of(transfer.chunk));
        let needs_turn = transfer.sent < whole && transfer.arrival == Arrival::Under;
        let has_had_it = self.nodes[server as usize].sending == Some(key);
        if !has_had_it && !core::mem::take(&mut transfer.is_held) {
            return;
        }
        let node = &mut self.nodes[server as usize];
        if has_had_it {
            node.sending = None;
        }
        let through_at = transfer.passage.as_ref().map_or(self.now, |passage| passage.finish);
        if needs_turn && through_at > self.now {
            // Sending on while the receiver's link is busy would only fill queues on the way, and
            // congestion control prevents it.
            transfer.is_held = true;
            self.queue.push(through_at, Step::UplinkFree { transfer: key });
        } else if needs_turn {
            node.uplink_queue.push_back(key);
        }
        self.send_next(server);
    }

    /// The last byte is there: the receiver hashes and stores, the sender will hear of it.
    pub(super) fn on_arrived(&mut self, key: SlabKey) {
        let Some(transfer) = self.transfers.get_mut(key) else { return };
        let Transfer { server, asker, request, chunk, .. } = *transfer;
        if transfer.arrival != Arrival::Under {
            return;
        }
        let node = &mut self.nodes[asker as usize];
        // What was given up while it was on its way is stopped unread.
        let is_wanted = node.expected.contains(&(server, request));
        transfer.arrival = if is_wanted { Arrival::Delivered } else { Arrival::Lost };
        if is_wanted {
            let size = u64::from(self.layout.size_of(chunk));
            let begins_at = node.disk_free_at.max(self.now);
            let stored_at = begins_at.after(self.disk_rate_of(asker).occupancy(size));
            self.nodes[asker as usize].disk_free_at = stored_at;
            self.post_at(stored_at, server, asker, Parcel::Hashed { request, chunk });
        }
        self.queue.push(self.later(self.scenario.latency), Step::Served { transfer: key });
    }

    pub(super) fn on_served(&mut self, key: SlabKey) {
        let Some(transfer) = self.transfers.remove(key) else { return };
        let Transfer { server, asker, request, chunk, arrival, .. } = transfer;
        let is_delivered = arrival == Arrival::Delivered;
        self.nodes[server as usize].end_serving(key);
        self.end_serve(server, (asker, request), (chunk, is_delivered));
    }

    pub(super) fn cancel_serve(&mut self, server: NodeIndex, asker: NodeIndex, request: RequestId) {
        let serving = &self.nodes[server as usize].serving;
        let place = serving.iter().find(|(peer, id, _)| (*peer, *id) == (asker, request));
        let Some((_, _, key)) = place.copied() else { return };
        self.take_off_links(key);
        self.on_served_cancelled(key);
    }

    fn on_served_cancelled(&mut self, key: SlabKey) {
        if let Some(transfer) = self.transfers.get_mut(key) {
            transfer.arrival = Arrival::Lost;
            self.on_served(key);
        }
    }

    /// Reports to the server's swarm how sending a chunk ended.
    fn end_serve(
        &mut self,
        server: NodeIndex,
        (asker, request): (NodeIndex, RequestId),
        (chunk, is_delivered): (ChunkIndex, bool),
    ) {
        self.observe(server, StepKind::ServeEnded, Some(asker), Some(chunk.get()));
        self.give(server, Event::ServeEnded { peer: id_of(asker), request, is_delivered });
    }

    /// Frees what a transfer still occupies, and lets the sender go on with the next.
    fn take_off_links(&mut self, key: SlabKey) {
        let Some(transfer) = self.transfers.get(key) else { return };
        let server = transfer.server;
        if let Some(passage) = &transfer.passage {
            self.network.cancel(self.now, passage);
        }
        let node = &mut self.nodes[server as usize];
        // Also between two turns.
        node.uplink_queue.retain(|waiting| *waiting != key);
        if node.sending == Some(key) {
            node.sending = None;
            self.send_next(server);
        }
    }

    /// Chunks that are on some link, in the order of their slots.
    pub(super) fn transfers_under_way(&self) -> Vec<SlabKey> {
        let is_under =
            |transfer: &Transfer| transfer.arrival == Arrival::Under && transfer.passage.is_some();
        let all = self.transfers.iter().filter(|(_, transfer)| is_under(transfer));
        all.map(|(key, _)| key).collect()
    }

    /// Takes a transfer off its links and forgets how far it had come. Returns the name under which
    /// it waits from now on: a new one, so that nothing that was planned for it happens.
    pub(super) fn begin_anew(&mut self, key: SlabKey) -> Option<SlabKey> {
        self.take_off_links(key);
        let mut transfer = self.transfers.remove(key)?;
        transfer.passage = None;
        transfer.is_advancing = false;
        let server = transfer.server;
        let fresh = self.transfers.insert(transfer);
        let serving = &mut self.nodes[server as usize].serving;
        serving.iter_mut().filter(|(.., old)| *old == key).for_each(|(.., old)| *old = fresh);
        Some(fresh)
    }

    /// A transfer that waited for its two ends to reach each other waits for the uplink again.
    pub(super) fn send_again(&mut self, key: SlabKey) {
        let Some(server) = self.transfers.get(key).map(|transfer| transfer.server) else { return };
        self.nodes[server as usize].uplink_queue.push_back(key);
        self.send_next(server);
    }

    /// Ends what `server` sends to `asker`, and reports that to its swarm.
    pub(super) fn end_serves_to(&mut self, server: NodeIndex, asker: NodeIndex) {
        let serving = &self.nodes[server as usize].serving;
        let ended: Vec<SlabKey> =
            serving.iter().filter(|(peer, ..)| *peer == asker).map(|(.., key)| *key).collect();
        for key in ended {
            self.take_off_links(key);
            self.on_served_cancelled(key);
        }
    }

    /// Stops all transfers from and to a node that died. A server's swarm hears of it when it gives
    /// up the connection.
    pub(super) fn stop_transfers_of(&mut self, dead: NodeIndex) {
        let is_theirs = |transfer: &Transfer| transfer.server == dead || transfer.asker == dead;
        let all = self.transfers.iter().filter(|(_, transfer)| is_theirs(transfer));
        let stopped: Vec<SlabKey> = all.map(|(key, _)| key).collect();
        for key in &stopped {
            self.take_off_links(*key);
            if let Some(transfer) = self.transfers.get_mut(*key) {
                transfer.arrival = Arrival::Lost;
            }
        }
        for key in stopped {
            if self.transfers.get(key).is_some_and(|transfer| transfer.server == dead) {
                self.transfers.remove(key);
            }
        }
        self.nodes[dead as usize].serving.clear();
    }
}
