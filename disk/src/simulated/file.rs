//! The bytes of one simulated file: what is written, what is durable, and what is neither.
//!
//! Invariant: what was synced is never lost, and a block that was not synced holds one of the
//! contents that it had since. Knows no names; those are in `names.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::prng::{Chance, Prng};

/// Bytes that a disk writes as one.
const BLOCK_BYTES: usize = 512;

/// A file, as long as it has a name or a handle.
#[derive(Clone, Debug)]
pub(super) struct SimulatedFile {
    current: Vec<u8>,
    /// What a disk has for certain, apart from the blocks in `unsynced`.
    durable: Vec<u8>,
    /// By number of the block.
    unsynced: BTreeMap<usize, Unsynced>,
    /// Every length since the last sync, oldest first.
    lengths: Vec<usize>,
    mode: u32,
    durable_mode: u32,
}

#[derive(Clone, Debug, Default)]
struct Unsynced {
    /// What was in the block since the last sync, oldest first; never empty.
    versions: Vec<Box<[u8]>>,
    /// Whether a sync of the last version failed.
    is_dropped: bool,
}

impl SimulatedFile {
    pub(super) const fn new(mode: u32) -> Self {
        Self {
            current: vec![],
            durable: vec![],
            unsynced: BTreeMap::new(),
            lengths: vec![],
            mode,
            durable_mode: mode,
        }
    }

    /// One that is durable as it is.
    pub(super) fn durable(bytes: &[u8], mode: u32) -> Self {
        Self { current: bytes.to_vec(), durable: bytes.to_vec(), ..Self::new(mode) }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).expect("it fits into memory");
        let end = start + bytes.len();
        if end > self.current.len() {
            self.grow(end);
        }
        self.current[start..end].copy_from_slice(bytes);
        self.note_changed(start, end);
    }

    pub(super) fn set_len(&mut self, length: u64) {
        let length = usize::try_from(length).expect("it fits into memory");
        if length >= self.current.len() {
            return self.grow(length);
        }
        let end = self.current.len();
        self.current[length..].fill(0);
        // Should it grow again, zeros are what is there.
        self.note_changed(length, end);
        self.current.truncate(length);
        self.lengths.push(length);
    }

    /// Reserves space, by which a file may grow and never shrinks.
    pub(super) fn allocate(&mut self, length: u64) {
        if length > self.current.len() as u64 {
            self.set_len(length);
        }
    }

    pub(super) const fn set_mode(&mut self, mode: u32) {
        self.mode = mode;
    }

    pub(super) fn sync_data(&mut self) {
        self.durable.resize(self.current.len(), 0);
        let (current, durable) = (&self.current, &mut self.durable);
        self.unsynced.retain(|number, block| {
            if !block.is_dropped {
                let range = range_of(*number, current.len());
                durable[range.clone()].copy_from_slice(&current[range]);
            }
            block.is_dropped
        });
        self.lengths.clear();
    }

    pub(super) fn sync_all(&mut self) {
        self.sync_data();
        self.durable_mode = self.mode;
    }

    /// A sync that failed: what it was for may be on the disk or not, whatever comes later.
    pub(super) fn fail_sync(&mut self) {
        for block in self.unsynced.values_mut() {
            block.is_dropped = true;
        }
    }

    /// The bytes as programs see them.
    pub(super) fn current(&self) -> (Arc<[u8]>, u32) {
        (self.current.as_slice().into(), self.mode)
    }

    /// The bytes as the disk may have them.
    pub(super) fn after_power_loss(&self, chance: Chance, prng: &mut Prng) -> (Arc<[u8]>, u32) {
        let mut bytes = self.durable.clone();
        if !self.lengths.is_empty() && chance.hits(prng) {
            bytes.resize(self.lengths[prng.below(self.lengths.len())], 0);
        }
        for (number, block) in &self.unsynced {
            if chance.hits(prng) {
                let version = &block.versions[prng.below(block.versions.len())];
                let range =
                    range_of(*number, bytes.len().min(number * BLOCK_BYTES + version.len()));
                bytes[range.clone()].copy_from_slice(&version[..range.len()]);
            }
        }
        let mode = if chance.hits(prng) { self.mode } else { self.durable_mode };
        (bytes.into(), mode)
    }

    fn grow(&mut self, length: usize) {
        if length > self.current.len() {
            self.current.resize(length, 0);
            self.lengths.push(length);
        }
    }

    /// Keeps the blocks that hold these bytes as they are now.
    fn note_changed(&mut self, start: usize, end: usize) {
        for number in start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            let version = self.current[range_of(number, self.current.len())].into();
            let block = self.unsynced.entry(number).or_default();
            block.versions.push(version);
            block.is_dropped = false;
        }
    }
}

/// Where a block lies in a file of this length.
fn range_of(number: usize, length: usize) -> std::ops::Range<usize> {
    let start = (number * BLOCK_BYTES).min(length);
    start..(start + BLOCK_BYTES).min(length)
}
