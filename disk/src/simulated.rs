//! What a disk may hold after the host lost its power: for tests.
//!
//! A [`Record`] of [`watch`](crate::watch) is played into a [`Disk`] up to the moment of the
//! failure; [`Disk::after_power_loss`] then gives one state that the disk may be found in, chosen by
//! a seed, as a [`Tree`] that can be written into a fresh directory. The same seed gives the same
//! bytes.
//!
//! The rules are those of POSIX where journaling file systems differ from each other, so harsher
//! than any single one of them:
//!
//! - Bytes are durable after a sync of their file, or of the file system. Before that each block of
//!   512 bytes has, on its own, what it had at the last sync or what any later write put there; the
//!   length is the synced one or any later one, and what is missing reads as zeros.
//! - After a sync that failed, later ones do not make durable what it was for: the system may have
//!   dropped it. Writing it again helps.
//! - Permissions are durable after a sync of the file with its metadata.
//! - A name (created, renamed, linked, removed) is durable after a sync of its directory, and only of
//!   that: a synced file in a directory that was not synced may be gone, and so may all of a synced
//!   directory whose own name was not. Before that each change is kept or lost on its own.
//! - A rename is one change, kept or lost as one, also between two directories; the sync of either
//!   makes it durable.
//! - Changes of one name keep their order: a later one is only kept with the earlier ones. A
//!   directory is only removed along with what was in it. A sync of one change makes durable those
//!   that it builds on.
//!
//! Not part of the model: torn blocks, lost permissions of directories, and hard links as such (two
//! names of one file come back as two files with the same bytes). [`Tree::flip_bit`] is the disk that
//! damages what was synced.

mod file;
mod names;
mod prng;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use names::Disk;
use prng::Prng;

use crate::operation::Recorded;

/// What happened under a watched root.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was there before, all of it durable.
    pub initial: Tree,
    /// What was done, in order.
    pub operations: Vec<Recorded>,
}

impl Record {
    /// The disk after the first `count` operations.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn disk_after(&self, count: usize) -> Disk {
        let mut disk = Disk::new(&self.initial);
        for recorded in &self.operations[..count] {
            disk.apply(recorded);
        }
        disk
    }
}

/// One thing in a directory tree.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields are what their names say")]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File { bytes: Arc<[u8]>, mode: u32 },
    /// A symbolic link.
    Symlink { target: PathBuf },
}

/// Everything under a directory, by its path from there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    /// A directory comes before what it holds.
    pub nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// What is in `directory`.
    ///
    /// # Errors
    ///
    /// If something cannot be read.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut unlisted = vec![PathBuf::new()];
        while let Some(parent) = unlisted.pop() {
            for entry in fs::read_dir(directory.join(&parent))? {
                let entry = entry?;
                let path = parent.join(entry.file_name());
                let metadata = fs::symlink_metadata(entry.path())?;
                let node = if metadata.is_dir() {
                    unlisted.push(path.clone());
                    Node::Directory
                } else if metadata.is_symlink() {
                    Node::Symlink { target: fs::read_link(entry.path())? }
                } else if metadata.is_file() {
                    let mode = metadata.permissions().mode() & 0o7777;
                    Node::File { bytes: fs::read(entry.path())?.into(), mode }
                } else {
                    // Sockets and pipes are none of the disk's.
                    continue;
                };
                nodes.insert(path, node);
            }
        }
        Ok(Self { nodes })
    }

    /// Makes all of it in `directory`, which is empty.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        for (path, node) in &self.nodes {
            let path = directory.join(path);
            match node {
                Node::Directory => fs::create_dir(path)?,
                Node::Symlink { target } => symlink(target, path)?,
                Node::File { bytes, mode } => {
                    let mut options = fs::OpenOptions::new();
                    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
                    io::Write::write_all(&mut file, bytes)?;
                    file.set_permissions(Permissions::from_mode(*mode))?;
                }
            }
        }
        Ok(())
    }

    /// Flips one bit of one file for which `is_meant` holds, as a disk does that damages what it
    /// has. Returns the file and the position of the byte; `None` if no such file has any bytes.
    pub fn flip_bit(
        &mut self,
        seed: u64,
        is_meant: impl Fn(&Path) -> bool,
    ) -> Option<(PathBuf, usize)> {
        let mut files: Vec<(&PathBuf, &mut Arc<[u8]>)> = self
            .nodes
            .iter_mut()
            .filter_map(|(path, node)| match node {
                Node::File { bytes, .. } if !bytes.is_empty() && is_meant(path) => {
                    Some((path, bytes))
                }
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
}
