//! How much is under way at once, by the size of the build's chunks.

use super::Swarm;

#[expect(clippy::multiple_inherent_impl, reason = "a decision of its own")]
impl Swarm {
    /// Chunks that are sent at once.
    pub(super) fn uploads_max(&self) -> usize {
        let config = &self.config;
        if self.is_of_small_chunks() { config.uploads_max_small } else { config.uploads_max }
    }

    /// Requests in flight beyond which only those are asked that have nothing to send.
    pub(super) fn requests_target(&self) -> u16 {
        let config = &self.config;
        if self.is_of_small_chunks() {
            config.requests_target_small
        } else {
            config.requests_target
        }
    }

    fn is_of_small_chunks(&self) -> bool {
        let average = self.layout.as_ref().map(|layout| layout.average_size());
        average.is_some_and(|average| average < self.config.small_chunk_bytes)
    }
}
