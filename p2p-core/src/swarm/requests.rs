//! The requests in flight: which chunk was asked of whom, and since when.
//!
//! Invariant: `asked` holds exactly the chunks with a request in the table, and those of `local`.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::RequestId;

/// One request that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) peer: NodeId,
    pub(super) chunk: ChunkIndex,
    /// Bytes of the chunk.
    pub(super) size: u32,
    pub(super) asked_at: Instant,
    /// When bytes of the answer were last seen; `asked_at` before the first.
    pub(super) advanced_at: Instant,
    /// It took longer than is usual for the peer; the chunk may be asked of a second one.
    pub(super) is_late: bool,
    /// When to look at it next.
    pub(super) check_at: Instant,
}

impl Request {
    /// When the request is given up and its peer dropped, unless bytes arrive before.
    pub(super) fn stalled_at(&self, config: &SwarmConfig) -> Instant {
        self.advanced_at.after(config.stall_time)
    }

    /// When the request is given up because not a byte of the answer has come; `None` once one has.
    /// An answer that is merely slow keeps its request.
    pub(super) fn silent_at(&self, patience: Option<Duration>) -> Option<Instant> {
        let is_silent = self.advanced_at == self.asked_at;
        patience.filter(|_| is_silent).map(|patience| self.asked_at.after(patience))
    }

    /// When to look at the request next: when it becomes late, silent or stalled. It is late
    /// measured by what its peer usually takes, and sooner near the end, where nothing else is left
    /// to ask for.
    pub(super) fn next_check(
        &self,
        (usual, patience): (Option<Duration>, Option<Duration>),
        is_end: bool,
        config: &SwarmConfig,
    ) -> Instant {
        let stalled = self.stalled_at(config);
        let stalled = self.silent_at(patience).map_or(stalled, |silent| silent.min(stalled));
        if self.is_late {
            return stalled;
        }
        let Some(usual) = usual else {
            return stalled.min(self.asked_at.after(config.late_unknown));
        };
        let patience = (usual * config.late_factor).max(config.late_min);
        stalled.min(self.asked_at.after(if is_end { patience / 2 } else { patience }))
    }
}

/// All requests in flight. A few, so they lie in a row, oldest first.
#[derive(Debug)]
pub(super) struct RequestTable {
    requests: Vec<(RequestId, Request)>,
    next: u64,
    asked: ChunkSet,
    /// Chunks that this host copies from its own disk: asked of nobody.
    local: ChunkSet,
    bytes: u64,
    late: usize,
    /// There was no memory for one more request; stays so until one ends.
    is_full: bool,
    /// No later than the first moment at which a request is to be looked at.
    check_at: Option<Instant>,
}

impl RequestTable {
    pub(super) fn new(chunk_count: u32) -> Self {
        Self {
            requests: Vec::new(),
            next: 0,
            asked: ChunkSet::empty(chunk_count),
            local: ChunkSet::empty(chunk_count),
            bytes: 0,
            late: 0,
            is_full: false,
            check_at: None,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.requests.len()
    }

    /// Bytes of all chunks in flight.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chunks in flight, those from this host's own disk included.
    pub(super) const fn asked(&self) -> &ChunkSet {
        &self.asked
    }

    /// The chunks that come from this host's own disk.
    pub(super) const fn local(&self) -> &ChunkSet {
        &self.local
    }

    /// A chunk comes from this host's own disk.
    pub(super) fn note_local(&mut self, chunk: ChunkIndex) {
        self.local.insert(chunk);
        self.asked.insert(chunk);
    }

    /// A chunk is here, or will not come from this host's own disk after all. Returns whether it
    /// was expected from there.
    pub(super) fn end_local(&mut self, chunk: ChunkIndex) -> bool {
        let was_local = self.local.remove(chunk);
        if was_local && self.of_chunk(chunk).next().is_none() {
            self.asked.remove(chunk);
        }
        was_local
    }

    /// Whether there was no memory for one more request.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// There is no memory for one more request.
    pub(super) const fn note_full(&mut self) {
        self.is_full = true;
    }

    /// Whether some request is late.
    pub(super) const fn has_late(&self) -> bool {
        self.late > 0
    }

    /// No later than the first moment at which a request is to be looked at.
    pub(super) const fn check_at(&self) -> Option<Instant> {
        self.check_at
    }

    pub(super) fn add(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.bytes += u64::from(request.size);
        self.asked.insert(request.chunk);
        self.late += usize::from(request.is_late);
        self.check_at = Some(self.check_at.map_or(request.check_at, |at| at.min(request.check_at)));
        self.requests.push((id, request));
        id
    }

    fn place_of(&self, id: RequestId) -> Option<usize> {
        self.requests.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.place_of(id).map(|place| &self.requests[place].1)
    }

    /// Bytes of the answer arrived.
    pub(super) fn note_advance(&mut self, now: Instant, id: RequestId) {
        if let Some(place) = self.place_of(id) {
            self.requests[place].1.advanced_at = now;
        }
    }

    /// The request took longer than usual.
    pub(super) fn note_late(&mut self, id: RequestId) {
        if let Some(place) = self.place_of(id) {
            let request = &mut self.requests[place].1;
            self.late += usize::from(!core::mem::replace(&mut request.is_late, true));
        }
    }

    /// Sets anew when to look at each request.
    pub(super) fn plan_checks(&mut self, check_of: impl Fn(&Request) -> Instant) {
        for (_, request) in &mut self.requests {
            request.check_at = check_of(request);
        }
        self.check_at = self.requests.iter().map(|(_, request)| request.check_at).min();
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let (_, request) = self.requests.remove(self.place_of(id)?);
        self.bytes -= u64::from(request.size);
        self.is_full = false;
        self.late -= usize::from(request.is_late);
        let is_local = self.local.contains(request.chunk);
        if !is_local && self.of_chunk(request.chunk).next().is_none() {
            self.asked.remove(request.chunk);
        }
        Some(request)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.requests.iter().map(|(id, request)| (*id, request))
    }

    /// The requests for one chunk.
    pub(super) fn of_chunk(&self, chunk: ChunkIndex) -> impl Iterator<Item = (RequestId, NodeId)> {
        let same = move |request: &Request| request.chunk == chunk;
        self.iter().filter(move |(_, request)| same(request)).map(|(id, r)| (id, r.peer))
    }

    /// The requests to one peer.
    pub(super) fn of_peer(&self, peer: NodeId) -> Vec<RequestId> {
        self.iter().filter(|(_, request)| request.peer == peer).map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ChunkLayout;

    #[test]
    fn chunk_stays_asked_until_its_last_request_is_gone() {
        let layout = ChunkLayout::new([4, 4].into_iter()).unwrap();
        let chunk = layout.index(1).unwrap();
        let request = |peer| Request {
            peer: NodeId::from_bytes([peer; 32]),
            chunk,
            size: 4,
            asked_at: Instant::ZERO,
            advanced_at: Instant::ZERO,
            is_late: false,
            check_at: Instant::ZERO,
        };
        let mut table = RequestTable::new(2);
        let (first, second) = (table.add(request(1)), table.add(request(2)));
        assert_eq!(table.bytes(), 8);
        table.remove(first);
        assert!(table.asked().contains(chunk));
        table.remove(second);
        assert!(table.asked().is_empty());
        assert_eq!((table.bytes(), table.len()), (0, 0));
    }
}
