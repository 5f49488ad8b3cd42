//! What a disk may hold after the host lost its power: for tests.
//!
//! A [`Record`] of [`watch`](crate::watch) is played into a [`Disk`] up to the moment of the
//! failure; [`Disk::after_power_loss`] then gives one state that the disk may be found in, chosen
//! by a seed, as a [`Tree`] that can be written into a fresh directory. The same seed gives the
//! same bytes.
//!
//! The rules are those of POSIX where journaling file systems differ from each other, so harsher
//! than any single one of them:
//!
//! - Bytes are durable after a sync of their file, or of the file system. Before that each block
//!   has, on its own, what it had at the last sync or what any later write put there; the
//!   length is the synced one or any later one, and what is missing reads as zeros.
//! - After a sync that failed, later ones do not make durable what it was for: the system may have
//!   dropped it. Writing it again helps.
//! - Permissions are durable after a sync of the file with its metadata.
//! - A name (created, renamed, linked, removed) is durable after a sync of its directory, and only
//!   of that: a synced file in a directory that was not synced may be gone, and so may all of a
//!   synced directory whose own name was not. Before that each change is kept or lost on its own.
//! - A rename is one change, kept or lost as one, also between two directories; the sync of either
//!   makes it durable.
//! - Changes of one name keep their order: a later one is only kept with the earlier ones. A
//!   directory is only removed along with what was in it. A sync of one change makes durable those
//!   that it builds on.
//!
//! Not part of the model: torn blocks, lost permissions of directories, and hard links as such (two
//! names of one file come back as two files with the same bytes). [`flip_bit`] is the disk that
//! damages what was synced.

mod file;
mod names;
mod prng;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use names::Disk;
use prng::Prng;

use crate::record::{Node, Tree};

/// Flips one bit of one file of `tree` for which `is_meant` holds, as a disk does that damages what
/// it has. Returns the file and the position of the byte; `None` if no such file has any bytes.
pub fn flip_bit(
    tree: &mut Tree,
    seed: u64,
    is_meant: impl Fn(&Path) -> bool,
) -> Option<(PathBuf, usize)> {
    let mut files: Vec<(&PathBuf, &mut Arc<[u8]>)> = tree
        .nodes
        .iter_mut()
        .filter_map(|(path, node)| match node {
            Node::File { bytes, .. } if !bytes.is_empty() && is_meant(path) => Some((path, bytes)),
            _ => None,
        })
        .collect();
    let mut prng = Prng::new(seed);
    if files.is_empty() {
        return None;
    }
    let (path, bytes) = files.swap_remove(prng.below(files.len()));
    let position = prng.below(bytes.len());
    Arc::make_mut(bytes)[position] ^= 1 << prng.below(8);
    Some((path.clone(), position))
}
