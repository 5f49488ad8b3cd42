//! Where each chunk lies within a build's bytes, and the checked index of a chunk.
//!
//! Chunks are content-defined, so every one has its own size; the layout is the running sum.

/// Most chunks of a build. At the average chunk size that is a hundred times the largest build the
/// fleet knows; a table with an entry per chunk stays a few MiB.
pub const CHUNKS_MAX: u32 = 1 << 20;

/// Most bytes of a chunk, which a node holds in memory while it checks them.
pub const CHUNK_SIZE_MAX: u32 = 4 << 20;

/// How a build's bytes are cut into chunks. Shared by everything that works on one build.
#[derive(Clone, Eq, PartialEq)]
pub struct ChunkLayout {
    /// `starts[i]` is the offset of chunk `i` in bytes; one entry more than there are chunks.
    starts: Box<[u64]>,
}

/// The position of a chunk within its build.
///
/// Only [`ChunkLayout::index`] admits a foreign number, so a function that takes a `ChunkIndex` has
/// nothing left to check. An index of one layout means nothing in another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// The number on the wire and on disk.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as a position in a table with one entry per chunk.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// For the set of chunks, whose own bounds stand in for the layout's check.
    pub(crate) const fn new_unchecked(raw: u32) -> Self {
        Self(raw)
    }
}

/// Why a list of sizes is not a layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// More chunks than a node is willing to track.
    #[error("{actual} chunks, the limit is {limit}")]
    TooManyChunks {
        /// Chunks listed.
        actual: usize,
        /// Most chunks of a build.
        limit: u32,
    },
    /// A chunk is empty, or larger than a node is willing to hold in memory.
    #[error("chunk {index} has {actual} bytes, expected 1 to {limit}")]
    ChunkSize {
        /// Its position in the list.
        index: usize,
        /// Its size, in bytes.
        actual: u32,
        /// Most bytes of a chunk.
        limit: u32,
    },
}

impl ChunkLayout {
    /// The layout of chunks with these sizes in bytes, in order.
    ///
    /// # Errors
    ///
    /// If there are too many chunks or one has an impossible size.
    pub fn new(sizes: impl ExactSizeIterator<Item = u32>) -> Result<Self, LayoutError> {
        if sizes.len() > CHUNKS_MAX as usize {
            return Err(LayoutError::TooManyChunks { actual: sizes.len(), limit: CHUNKS_MAX });
        }
        let mut starts = Vec::with_capacity(sizes.len() + 1);
        let mut end = 0_u64;
        starts.push(end);
        for (index, size) in sizes.enumerate() {
            if size == 0 || size > CHUNK_SIZE_MAX {
                return Err(LayoutError::ChunkSize { index, actual: size, limit: CHUNK_SIZE_MAX });
            }
            end += u64::from(size);
            starts.push(end);
        }
        Ok(Self { starts: starts.into_boxed_slice() })
    }

    /// How many chunks the build has. May be zero: a build of empty files has none.
    pub fn chunk_count(&self) -> u32 {
        u32::try_from(self.starts.len() - 1).unwrap_or(CHUNKS_MAX)
    }

    /// The bytes of the whole build.
    pub fn build_size(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Bytes of a chunk on average; zero for a build without chunks.
    pub(crate) fn average_size(&self) -> u64 {
        self.build_size().checked_div(self.chunk_count().into()).unwrap_or(0)
    }

    /// Admits a number that came from a peer or from disk; `None` if the build has no such chunk.
    pub fn index(&self, raw: u32) -> Option<ChunkIndex> {
        (raw < self.chunk_count()).then_some(ChunkIndex(raw))
    }

    /// Every index of the build, in order.
    pub fn indices(&self) -> impl DoubleEndedIterator<Item = ChunkIndex> + use<> {
        (0..self.chunk_count()).map(ChunkIndex)
    }

    /// Where the chunk begins, in bytes from the start of the build.
    pub fn offset_of(&self, index: ChunkIndex) -> u64 {
        self.starts[index.as_usize()]
    }

    /// The chunk's size in bytes.
    ///
    /// # Panics
    ///
    /// If the index belongs to another layout.
    pub fn size_of(&self, index: ChunkIndex) -> u32 {
        let size = self.starts[index.as_usize() + 1] - self.starts[index.as_usize()];
        u32::try_from(size).expect("the constructor admits no larger chunk")
    }
}

impl core::fmt::Debug for ChunkLayout {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ChunkLayout")
            .field("chunk_count", &self.chunk_count())
            .field("build_size", &self.build_size())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_end_to_end() {
        let layout = ChunkLayout::new([3, 5, 2].into_iter()).unwrap();
        let places: Vec<_> =
            layout.indices().map(|i| (layout.offset_of(i), layout.size_of(i))).collect();
        assert_eq!(places, [(0, 3), (3, 5), (8, 2)]);
        assert_eq!(layout.build_size(), 10);
        assert_eq!(layout.index(3), None);
    }

    #[test]
    fn empty_build_has_no_chunks() {
        let layout = ChunkLayout::new([].into_iter()).unwrap();
        assert_eq!((layout.chunk_count(), layout.build_size(), layout.index(0)), (0, 0, None));
    }

    #[test]
    fn sizes_are_checked_at_the_limit_and_past_it() {
        assert!(ChunkLayout::new([CHUNK_SIZE_MAX].into_iter()).is_ok());
        for actual in [0, CHUNK_SIZE_MAX + 1] {
            let expected = LayoutError::ChunkSize { index: 0, actual, limit: CHUNK_SIZE_MAX };
            assert_eq!(ChunkLayout::new([actual].into_iter()), Err(expected));
        }
        let many = vec![1; CHUNKS_MAX as usize + 1];
        assert!(matches!(
            ChunkLayout::new(many.into_iter()),
            Err(LayoutError::TooManyChunks { .. })
        ));
    }
}
