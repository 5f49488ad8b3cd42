//! The chunks being sent and those waiting to be: a short queue, fair between peers.
//!
//! Counts and orders requests; which of them are refused, and with which chunk they are answered,
//! is decided in `serving.rs`. Invariant: an upload is waiting or active, never both.

use std::collections::VecDeque;

use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::RequestId;

/// One request of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upload {
    pub(super) peer: NodeId,
    pub(super) request: RequestId,
    /// The chunk asked for while waiting, the chunk being sent afterwards.
    pub(super) chunk: ChunkIndex,
    /// The asker is a host of our rack.
    pub(super) is_near: bool,
    /// When it was put where it is: into the queue, or onto the wire.
    pub(super) since: Instant,
}

/// All requests of all peers.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    waiting: VecDeque<Upload>,
    /// Uploads begun.
    started: u64,
    active: Vec<Upload>,
}

impl Uploads {
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn active_count(&self) -> usize {
        self.active.len()
    }

    /// Requests of one peer, waiting or being sent.
    pub(super) fn count_of(&self, peer: NodeId) -> usize {
        let all = self.waiting.iter().chain(&self.active);
        all.filter(|upload| upload.peer == peer).count()
    }

    pub(super) fn enqueue(&mut self, upload: Upload) {
        self.waiting.push_back(upload);
    }

    /// Takes the next request to answer. Requests from other racks come first, because a host there
    /// passes what it gets on to its rack mates; then those of the peer to which the fewest chunks
    /// are being sent, then those that `rank` puts first, then the oldest.
    pub(super) fn dequeue<R: Ord>(&mut self, rank: impl Fn(NodeId) -> R) -> Option<Upload> {
        let active_of = |peer| self.active.iter().filter(|upload| upload.peer == peer).count();
        let rank = |upload: &Upload| (upload.is_near, active_of(upload.peer), rank(upload.peer));
        let next = (0..self.waiting.len()).min_by_key(|i| (rank(&self.waiting[*i]), *i))?;
        self.waiting.remove(next)
    }

    /// Notes that an upload begins, and returns its number, counted from one.
    pub(super) fn start(&mut self, upload: Upload) -> u64 {
        self.started += 1;
        self.active.push(upload);
        self.started
    }

    /// Takes out an upload that ended.
    pub(super) fn finish(&mut self, peer: NodeId, request: RequestId) -> Option<Upload> {
        let place = self.active.iter().position(|u| u.peer == peer && u.request == request)?;
        Some(self.active.swap_remove(place))
    }

    /// Forgets a request that waits. Returns whether it is being answered already.
    pub(super) fn cancel(&mut self, peer: NodeId, request: RequestId) -> bool {
        self.waiting.retain(|upload| upload.peer != peer || upload.request != request);
        self.active.iter().any(|upload| upload.peer == peer && upload.request == request)
    }

    /// Forgets everything of a peer that is gone.
    pub(super) fn forget_peer(&mut self, peer: NodeId) -> Vec<Upload> {
        self.waiting.retain(|upload| upload.peer != peer);
        let (gone, kept) = self.active.iter().partition(|upload| upload.peer == peer);
        self.active = kept;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ChunkLayout;

    fn peer(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// Goal: a peer that is being served waits for the others; then the rank
    /// decides, then the time.
    #[test]
    fn next_upload_is_fair_then_ranked_then_old() {
        let layout = ChunkLayout::new([1].into_iter()).unwrap();
        let (chunk, since) = (layout.index(0).unwrap(), Instant::ZERO);
        let mut uploads = Uploads::default();
        for (request, from) in [(0, 1), (1, 1), (2, 3), (3, 2), (4, 2)] {
            let (peer, request) = (peer(from), RequestId(request));
            uploads.enqueue(Upload { peer, request, chunk, is_near: false, since });
        }
        // Peer 3 ranks last, although it asked before peer 2.
        let rank = |node| u8::from(node == peer(3));
        let mut order = Vec::new();
        while let Some(upload) = uploads.dequeue(rank) {
            order.push(upload.request.0);
            assert_eq!(uploads.start(upload), order.len() as u64);
        }
        assert_eq!(order, [0, 3, 2, 1, 4]);
        assert!(uploads.finish(peer(1), RequestId(0)).is_some());
        assert_eq!((uploads.active_count(), uploads.waiting_count()), (4, 0));
    }

    #[test]
    fn other_racks_are_served_before_mates_and_peers_in_turn() {
        let mut uploads = Uploads::default();
        for (peer, is_near, request) in [(1, true, 0), (2, false, 1), (2, false, 2), (3, false, 3)]
        {
            uploads.enqueue(Upload {
                peer: NodeId::from_bytes([peer; 32]),
                request: RequestId(request),
                chunk: ChunkIndex::new_unchecked(0),
                is_near,
                since: Instant::ZERO,
            });
        }
        let order = core::iter::from_fn(|| {
            let upload = uploads.dequeue(|_| ())?;
            uploads.start(upload);
            Some(upload.request.0)
        });
        assert_eq!(order.collect::<Vec<_>>(), [1, 3, 2, 0]);
    }
}
