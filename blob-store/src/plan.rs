//! Which chunks of a build the store has already, and how its index comes together. Pure.
//!
//! Invariant: what [`Known::parts`] names was named before by the index of a build, or by the table
//! of a pack that this publisher made. Whether the packs are still there is asked elsewhere, before
//! they are made known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use p2p_core::{ChunkIndex, Digest, Manifest};

use crate::format::index::PackPart;
use crate::format::segment::{Run, Segment};

/// Chunks that have no place yet, by digest and size.
type Wanted = BTreeMap<(Digest, u32), ChunkIndex>;

/// Packs with chunks that a build may be made of.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Each with the manifest whose indices its segments use; the first that has a chunk gives it.
    parts: Vec<(Arc<Manifest>, PackPart)>,
}

impl Known {
    pub(crate) fn add(&mut self, manifest: &Arc<Manifest>, part: PackPart) {
        self.parts.push((Arc::clone(manifest), part));
    }

    /// Forgets packs that must not be relied on.
    pub(crate) fn forget(&mut self, packs: &BTreeSet<Digest>) {
        self.parts.retain(|(_, part)| !packs.contains(&part.pack.digest));
    }

    /// The parts of which `manifest` can be made, and the chunks that none of them has: of equal
    /// ones the first.
    pub(crate) fn parts(&self, manifest: &Manifest) -> (Vec<PackPart>, Vec<ChunkIndex>) {
        let mut wanted = Wanted::new();
        for (chunk, index) in manifest.chunks().iter().zip(manifest.layout().indices()) {
            wanted.entry((chunk.digest, chunk.size)).or_insert(index);
        }
        let mut parts: Vec<PackPart> = vec![];
        for (owner, part) in &self.parts {
            let segments = part.segments.iter();
            let segments: Vec<Segment> =
                segments.filter_map(|segment| translate(owner, segment, &mut wanted)).collect();
            if segments.is_empty() {
                continue;
            }
            // Two builds may know different segments of one pack.
            match parts.iter_mut().find(|known| known.pack == part.pack) {
                Some(known) => known.segments.extend(segments),
                None => parts.push(PackPart { pack: part.pack, segments }),
            }
        }
        for part in &mut parts {
            part.segments.sort_by_key(|segment| segment.offset);
        }
        let mut missing: Vec<ChunkIndex> = wanted.into_values().collect();
        missing.sort_unstable_by_key(|chunk| chunk.get());
        (parts, missing)
    }
}

/// The segment by the indices of the wanted chunks, which are wanted no more; `None` if it has none
/// of them.
fn translate(owner: &Manifest, segment: &Segment, wanted: &mut Wanted) -> Option<Segment> {
    let mut runs = Runs::default();
    let mut has_any = false;
    for run in &segment.runs {
        let (first, count) = match *run {
            Run::Other { bytes } => {
                runs.other(bytes);
                continue;
            }
            Run::Chunks { first, count } => (first as usize, count as usize),
        };
        for chunk in &owner.chunks()[first..first + count] {
            match wanted.remove(&(chunk.digest, chunk.size)) {
                Some(index) => {
                    has_any = true;
                    runs.chunk(index.get());
                }
                None => runs.other(chunk.size),
            }
        }
    }
    has_any.then(|| Segment { runs: runs.list, ..segment.clone() })
}

/// Runs in the making: neighbours that can be one are one.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) list: Vec<Run>,
}

impl Runs {
    pub(crate) fn chunk(&mut self, index: u32) {
        match self.list.last_mut() {
            Some(Run::Chunks { first, count }) if *first + *count == index => *count += 1,
            _ => self.list.push(Run::Chunks { first: index, count: 1 }),
        }
    }

    fn other(&mut self, more: u32) {
        match self.list.last_mut() {
            Some(Run::Other { bytes }) => *bytes += more,
            _ => self.list.push(Run::Other { bytes: more }),
        }
    }
}
