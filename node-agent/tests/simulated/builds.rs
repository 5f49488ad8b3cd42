//! Builds of the simulated host: a few files each, and how the program in it behaves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::{BuildId, ChunkIndex, ChunkInfo, Digest, Entry, EntryKind, Manifest, Prng, Seed};

/// How the program of a build behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Behaviour {
    Good,
    /// Ends at once.
    Crashes,
    /// Serves and ends after this time.
    CrashesAfter(Duration),
    /// Its port is never open.
    NeverReady,
    /// It answers its probe, but not well.
    Answers500,
    /// It answers well, and prints without end.
    Floods,
    /// It serves well, and has to be killed.
    IgnoresTerm,
    /// It serves well after a while.
    StartsSlowly(Duration),
    /// It serves well and does not answer any more after this time.
    HangsAfter(Duration),
}

impl Behaviour {
    pub(crate) const fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::IgnoresTerm | Self::StartsSlowly(_))
    }
}

/// A small build: chunks span files and files span chunks.
pub(crate) struct Sample {
    pub(crate) id: BuildId,
    pub(crate) behaviour: Behaviour,
    pub(crate) manifest: Arc<Manifest>,
    bytes: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(number: u64, behaviour: Behaviour) -> Self {
        let file = |size, executable| EntryKind::File { size, executable };
        let entries = [("data", file(900 + number, false)), ("run", file(700, true))];
        let mut prng = Prng::from_seed(Seed::from_u64(number));
        let size = usize::try_from(1_600 + number).unwrap();
        let bytes: Vec<u8> = (0..size).map(|_| prng.next_u64().to_le_bytes()[0]).collect();
        let chunks = bytes.chunks(777).map(|chunk| ChunkInfo {
            digest: Digest::of(chunk),
            size: u32::try_from(chunk.len()).unwrap(),
        });
        let entries = entries.map(|(path, kind)| Entry { path: path.to_owned(), kind }).into_iter();
        let manifest = Manifest::new(entries.collect(), chunks.collect()).unwrap();
        let id = BuildId::of_manifest(&manifest.encode().unwrap());
        Self { id, behaviour, manifest: Arc::new(manifest), bytes }
    }

    pub(crate) fn chunk(&self, chunk: ChunkIndex) -> &[u8] {
        let layout = self.manifest.layout();
        let start = usize::try_from(layout.offset_of(chunk)).unwrap();
        &self.bytes[start..start + layout.size_of(chunk) as usize]
    }

    /// What is not as it should be at `root`, byte for byte.
    pub(crate) fn find_wrong(&self, root: &Path) -> Option<String> {
        let mut start = 0;
        for Entry { path, kind } in self.manifest.entries() {
            let EntryKind::File { size, executable } = kind else { continue };
            let end = start + usize::try_from(*size).unwrap();
            match fs::read(root.join(path)) {
                Ok(bytes) if bytes == self.bytes[start..end] => {}
                Ok(_) => return Some(format!("{path} has other bytes")),
                Err(error) => return Some(format!("{path}: {error}")),
            }
            let mode = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o111;
            if (mode != 0) != *executable {
                return Some(format!("{path} has mode {mode:o}"));
            }
            start = end;
        }
        let count = fs::read_dir(root).map_or(0, Iterator::count);
        (count != self.manifest.entries().len()).then(|| format!("{count} entries"))
    }
}
