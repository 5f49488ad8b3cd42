//! The files of a build on this machine, as the publisher reads them.
//!
//! Invariant: a chunk that is returned has the digest that the manifest says. Files that changed
//! since the manifest was made are found by that, whatever their times say. Calls block.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{BuildId, ChunkIndex, Digest, EntryKind, Manifest, ManifestError};

/// The files that a manifest describes.
#[derive(Clone, Debug)]
pub struct Files {
    build: BuildId,
    manifest: Arc<Manifest>,
    /// Where each file begins in the build's bytes, and its path. Empty files are left out.
    places: Arc<Vec<(u64, PathBuf)>>,
}

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The system's reason.
    #[error("cannot read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// What is there is not what the manifest was made of.
    #[error("{path:?} changed since it was measured: stop what writes to it and publish again")]
    Changed {
        /// The first file of the chunk that differs.
        path: PathBuf,
    },
}

impl Files {
    /// The files of `manifest` at `path`: its directory, or the only file of the build.
    ///
    /// # Errors
    ///
    /// If the manifest is too large to be written down.
    pub fn new(manifest: Arc<Manifest>, path: &Path) -> Result<Self, ManifestError> {
        let build = BuildId::of_manifest(&manifest.encode()?);
        let is_file = path.is_file();
        let mut places = vec![];
        let mut start = 0;
        for entry in manifest.entries() {
            if let EntryKind::File { size, .. } = entry.kind
                && size > 0
            {
                let place = if is_file { path.to_owned() } else { path.join(&entry.path) };
                places.push((start, place));
                start += size;
            }
        }
        Ok(Self { build, manifest, places: Arc::new(places) })
    }

    /// The build that the files are.
    pub const fn build(&self) -> BuildId {
        self.build
    }

    /// What the files are.
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The bytes of these chunks, one after the other.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or is not what it was.
    pub(crate) fn read(&self, chunks: &[ChunkIndex]) -> Result<Vec<u8>, FilesError> {
        let layout = self.manifest.layout();
        let total = chunks.iter().map(|chunk| layout.size_of(*chunk) as usize).sum();
        let mut bytes = vec![0; total];
        let mut rest = bytes.as_mut_slice();
        let mut open = None;
        for chunk in chunks {
            let (piece, after) = rest.split_at_mut(layout.size_of(*chunk) as usize);
            rest = after;
            let first = self.read_at(layout.offset_of(*chunk), piece, &mut open)?;
            if Digest::of(piece) != self.manifest.chunks()[chunk.as_usize()].digest {
                return Err(FilesError::Changed { path: self.places[first].1.clone() });
            }
        }
        Ok(bytes)
    }

    /// Fills `bytes` from this position of the build on; returns the file in which that begins.
    fn read_at(
        &self,
        position: u64,
        mut bytes: &mut [u8],
        open: &mut Option<(usize, File)>,
    ) -> Result<usize, FilesError> {
        let first = self.places.partition_point(|(start, _)| *start <= position).saturating_sub(1);
        let mut file = first;
        let mut position = position;
        while !bytes.is_empty() {
            let (start, path) = &self.places[file];
            let end = self.places.get(file + 1).map_or(self.manifest.build_size(), |next| next.0);
            let count = usize::try_from(end - position).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at_mut(count);
            let failed = |source: io::Error| match source.kind() {
                io::ErrorKind::UnexpectedEof => FilesError::Changed { path: path.clone() },
                _ => FilesError::Read { path: path.clone(), source },
            };
            if open.as_ref().is_none_or(|(number, _)| *number != file) {
                *open = Some((file, File::open(path).map_err(failed)?));
            }
            let (_, handle) = open.as_ref().expect("it was just opened");
            handle.read_exact_at(piece, position - start).map_err(failed)?;
            bytes = rest;
            position = end;
            file += 1;
        }
        Ok(first)
    }
}
