//! The memory that chunks pass through: one budget per process, half of it for each direction.
//!
//! Invariant: chunk bytes are held only in [`Segment`]s, and there are never more of them than the
//! budget has. Room for a chunk to come is reserved before the chunk is asked for, so what arrives
//! never waits for memory; a chunk to send waits for room, segment by segment.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::BufferBudget;

/// Bytes of a segment. BLAKE3 works on many leaves side by side: half of it hashes measurably
/// slower, and twice as much is no faster and wastes more on the last segment of a small chunk.
pub(crate) const SEGMENT_BYTES: u32 = 128 << 10;

const SEGMENT_SIZE: usize = SEGMENT_BYTES as usize;

/// The segments of a process.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Segments that were used and may be used again: fresh memory costs a page fault per page.
    free: Mutex<Vec<Box<[u8]>>>,
    free_max: usize,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
    incoming_max: u32,
}

impl Buffers {
    /// Segments of `budget` in all.
    pub(crate) fn new(budget: BufferBudget) -> Arc<Self> {
        let segments = budget.bytes() / u64::from(SEGMENT_BYTES);
        let half = u32::try_from(segments / 2).unwrap_or(u32::MAX);
        Arc::new(Self {
            free: Mutex::default(),
            free_max: usize::try_from(segments).unwrap_or(usize::MAX),
            incoming: Arc::new(Semaphore::new(half as usize)),
            outgoing: Arc::new(Semaphore::new(half as usize)),
            incoming_max: half,
        })
    }

    /// Room for a chunk of `size` bytes to come, if there is any now.
    pub(crate) fn try_reserve(&self, size: u32) -> Option<Room> {
        let permit = self.incoming.clone().try_acquire_many_owned(self.segments_of(size)).ok()?;
        Some(Room { _permit: permit })
    }

    /// Room for a chunk of `size` bytes to come. Those who wait are served in turn.
    pub(crate) async fn reserve(&self, size: u32) -> Room {
        let permit = self.incoming.clone().acquire_many_owned(self.segments_of(size)).await;
        Room { _permit: permit.expect("the budget is never closed") }
    }

    fn segments_of(&self, size: u32) -> u32 {
        size.div_ceil(SEGMENT_BYTES).min(self.incoming_max)
    }

    /// An empty segment for bytes to send. Those who wait are served in turn.
    pub(crate) async fn segment_to_send(self: &Arc<Self>) -> Segment {
        let permit = self.outgoing.clone().acquire_owned().await;
        let permit = permit.expect("the budget is never closed");
        self.segment(Some(permit))
    }

    /// The same if there is room now.
    pub(crate) fn try_segment_to_send(self: &Arc<Self>) -> Option<Segment> {
        let permit = self.outgoing.clone().try_acquire_owned().ok()?;
        Some(self.segment(Some(permit)))
    }

    /// An empty segment for bytes that arrive, for which the receiver holds [`Room`].
    pub(crate) fn segment_to_fill(self: &Arc<Self>) -> Segment {
        self.segment(None)
    }

    fn segment(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Segment {
        let used = self.free.lock().pop();
        let memory = used.unwrap_or_else(|| vec![0; SEGMENT_SIZE].into_boxed_slice());
        Segment { memory, filled: 0, home: Arc::clone(self), _permit: permit }
    }

    /// Gives the memory of segments that nobody uses back to the system.
    pub(crate) fn trim(&self) {
        drop(std::mem::take(&mut *self.free.lock()));
    }
}

/// A part of the budget that is set aside for a chunk to come.
#[derive(Debug)]
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

/// Up to [`SEGMENT_BYTES`] of a chunk. Its memory goes back to its home when it is dropped.
#[derive(Debug)]
pub(crate) struct Segment {
    memory: Box<[u8]>,
    filled: usize,
    home: Arc<Buffers>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Segment {
    /// Memory that is not filled yet; what lies in it has no meaning.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled..]
    }

    /// The first `count` bytes of [`Self::space`] are filled now.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.room(), "more was filled than there is");
        self.filled += count;
    }

    /// Bytes that still fit.
    pub(crate) const fn room(&self) -> usize {
        SEGMENT_SIZE - self.filled
    }

    /// Fills in bytes, which must fit.
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// The same memory as shared bytes.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut free = self.home.free.lock();
        if free.len() < self.home.free_max {
            free.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let buffers = Buffers::new(BufferBudget::MIN);
        let mut segment = buffers.segment_to_fill();
        segment.extend_from_slice(b"chunk");
        let address = segment.as_ref().as_ptr();
        let bytes = segment.into_bytes();
        assert_eq!(&bytes[..], b"chunk");
        drop(bytes);
        let again = buffers.segment_to_fill();
        assert_eq!((again.as_ref().as_ptr(), again.as_ref().len()), (address, 0));
        drop(again);
        buffers.trim();
        assert!(buffers.free.lock().is_empty());
    }

    /// Goal: neither direction holds more than its half, and what is dropped makes room again.
    #[tokio::test]
    async fn budget_bounds_both_directions() {
        let buffers = Buffers::new(BufferBudget::MIN);
        let half = BufferBudget::MIN.bytes() / 2;
        let chunk = 4 << 20;
        let mut held = Vec::new();
        while let Some(room) = buffers.try_reserve(chunk) {
            held.push(room);
        }
        assert_eq!(held.len() as u64, half / u64::from(chunk));
        assert!(buffers.try_reserve(1).is_none());

        // Sending is not held up by what is being received.
        let mut sent = Vec::new();
        for _ in 0..half / u64::from(SEGMENT_BYTES) {
            sent.push(buffers.segment_to_send().await.into_bytes());
        }
        let mut next = std::pin::pin!(buffers.segment_to_send());
        assert!(futures::poll!(next.as_mut()).is_pending());
        sent.pop();
        next.await;

        let mut waiting = std::pin::pin!(buffers.reserve(chunk));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        held.pop();
        waiting.await;
    }

    #[test]
    fn chunk_larger_than_the_budget_gets_all_of_it() {
        let buffers = Buffers::new(BufferBudget::MIN);
        assert!(buffers.try_reserve(u32::MAX).is_some());
    }
}
