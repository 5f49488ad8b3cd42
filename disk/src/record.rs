//! What is kept of a watched directory: what lay in it, and what was done to it since.
//!
//! Invariant: a record is complete. Whoever plays its operations on its initial tree knows what the
//! directory holds; what a disk makes of that at a power cut is not decided here.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::operation::Recorded;

/// What happened under a watched root.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was there before, all of it durable.
    pub initial: Tree,
    /// What was done, in order.
    pub operations: Vec<Recorded>,
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
}
