//! What a build consists of: its entries, and the chunks of its files' bytes laid end to end.
//!
//! Invariant: a [`Manifest`] value has passed every check, whoever made it. Nothing else in the
//! workspace may look at a path of a manifest that did not come out of here, because a path that
//! leaves the build's directory would let a stranger write anywhere on the host.
//!
//! Encoding: [`MAGIC`], one byte of [`VERSION`], then the postcard form of the entries and chunks.
//! There is exactly one encoding of a manifest, so that equal builds have equal names.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::{BuildId, Digest};
use crate::layout::{ChunkLayout, LayoutError};

/// Distinguishes a manifest from any other file that ended up under its name.
const MAGIC: &[u8; 7] = b"shoalmf";

/// Raised whenever an older node would misread the encoding.
const VERSION: u8 = 1;

/// Most bytes of an encoded manifest. A build of [`CHUNKS_MAX`](crate::CHUNKS_MAX) chunks needs two
/// thirds of it, so half would refuse such builds; twice as much would let one bad name cost a host
/// that much memory.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

/// Most files, directories and links of a build. Bounds the work of making and removing a slot.
pub const ENTRIES_MAX: usize = 1 << 20;

/// Longest path Linux takes in one call, less room for the state directory in front of it.
const PATH_BYTES_MAX: usize = 3_072;

/// Longest name Linux file systems store (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// One file, directory or link of a build.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Path from the root of the build, with `/` between names.
    pub path: String,
    /// What lies there.
    pub kind: EntryKind,
}

/// What lies at a path of a build. Owners, times and further permission bits are not distributed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory. Each parent of an entry is listed as one.
    Directory,
    /// A regular file, whose bytes follow those of the files before it in the chunk table.
    File {
        /// Its length in bytes.
        size: u64,
        /// Whether everybody may execute it.
        executable: bool,
    },
    /// A symbolic link that stays inside the build.
    Symlink {
        /// Where it points to, relative to the directory that holds the link.
        target: String,
    },
}

/// One chunk: what its bytes must hash to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// BLAKE3-256 of the chunk's bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u32,
}

/// A checked description of a build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    body: Body,
    layout: ChunkLayout,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Body {
    entries: Vec<Entry>,
    chunks: Vec<ChunkInfo>,
}

/// Why a manifest was refused. Nothing of a refused manifest is kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not those that the [`BuildId`] names: damaged, or another build's.
    #[error("manifest hashes to {actual}, expected {expected}")]
    WrongBuild {
        /// What the bytes hash to.
        actual: BuildId,
        /// The build that was asked for.
        expected: BuildId,
    },
    /// The bytes are some other file.
    #[error("not a Shoal manifest: the magic number is missing")]
    NoMagic,
    /// The manifest was written by a newer Shoal.
    #[error("manifest has version {actual}, this Shoal reads version {expected}: update it")]
    UnknownVersion {
        /// Version in the header.
        actual: u8,
        /// Version this code reads.
        expected: u8,
    },
    /// The body is truncated, damaged or has bytes after its end.
    #[error("manifest is damaged: its body does not decode")]
    Undecodable,
    /// More bytes than a node is willing to hold.
    #[error("manifest has {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// Its bytes.
        actual: usize,
        /// Most bytes of a manifest.
        limit: usize,
    },
    /// More files, directories and links than a node is willing to create.
    #[error("build has {actual} entries, the limit is {limit}")]
    TooManyEntries {
        /// Entries listed.
        actual: usize,
        /// Most entries of a build.
        limit: usize,
    },
    /// There is nothing to distribute.
    #[error("build has no entries")]
    NoEntries,
    /// The chunk table is impossible.
    #[error("chunk table is refused")]
    Layout(#[from] LayoutError),
    /// A path is one that no host must create.
    #[error("path {path:?} is refused")]
    Path {
        /// The path as listed.
        path: String,
        /// What is wrong with it.
        #[source]
        reason: PathError,
    },
    /// The chunks do not add up to the files.
    #[error("chunks hold {chunk_bytes} bytes, the files {file_bytes}")]
    SizesDiffer {
        /// Sum over the chunk table.
        chunk_bytes: u64,
        /// Sum over the files.
        file_bytes: u64,
    },
}

/// What is wrong with a path of a build.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It starts at the root of the host.
    #[error("it is absolute")]
    Absolute,
    /// A name is empty, `.` or `..`, or holds a NUL.
    #[error("it has a name that is empty, '.', '..' or holds a NUL")]
    BadName,
    /// No Linux file system would take it.
    #[error("it is longer than Linux allows")]
    TooLong,
    /// It comes before or at the path listed before it: twice the same, or out of order.
    #[error("it is listed twice or out of order")]
    OutOfOrder,
    /// The directory that should hold it is not listed, or is a file or a link.
    #[error("its parent is not a directory of the build")]
    NoParent,
    /// The link points out of the build, or may do so through another link.
    #[error("the link leaves the build")]
    LinkLeaves,
    /// The sizes of the files overflow.
    #[error("the build's size overflows")]
    SizeOverflow,
}

impl Manifest {
    /// A manifest of these entries, sorted by path, and of the chunks of the files' bytes.
    ///
    /// # Errors
    ///
    /// The first rule broken; see [`ManifestError`].
    pub fn new(entries: Vec<Entry>, chunks: Vec<ChunkInfo>) -> Result<Self, ManifestError> {
        let layout = ChunkLayout::new(chunks.iter().map(|chunk| chunk.size))?;
        check_entries(&entries, layout.build_size())?;
        Ok(Self { body: Body { entries, chunks }, layout })
    }

    /// Reads an encoded manifest and checks that it is the one `expected` names.
    ///
    /// # Errors
    ///
    /// The first rule broken; see [`ManifestError`]. Allocates nothing past the limits.
    pub fn decode(expected: BuildId, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { actual: bytes.len(), limit: MANIFEST_BYTES_MAX });
        }
        let actual = BuildId::of_manifest(bytes);
        if actual != expected {
            return Err(ManifestError::WrongBuild { actual, expected });
        }
        let versioned = bytes.strip_prefix(MAGIC).ok_or(ManifestError::NoMagic)?;
        let (&version, body) = versioned.split_first().ok_or(ManifestError::Undecodable)?;
        if version != VERSION {
            return Err(ManifestError::UnknownVersion { actual: version, expected: VERSION });
        }
        let Ok(body) = postcard::from_bytes::<Body>(body) else {
            return Err(ManifestError::Undecodable);
        };
        let manifest = Self::new(body.entries, body.chunks)?;
        // Refuses trailing bytes and overlong integers: one build, one name.
        if manifest.encode()? != bytes {
            return Err(ManifestError::Undecodable);
        }
        Ok(manifest)
    }

    /// The manifest's only encoding, whose digest is the [`BuildId`].
    ///
    /// # Errors
    ///
    /// If it would be longer than [`MANIFEST_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        let bytes = postcard::to_extend(&self.body, bytes)
            .expect("a vector takes any amount and the body has no foreign types");
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { actual: bytes.len(), limit: MANIFEST_BYTES_MAX });
        }
        Ok(bytes)
    }

    /// Every file, directory and link, in path order: a directory comes before what it holds.
    pub fn entries(&self) -> &[Entry] {
        &self.body.entries
    }

    /// Digest and size of every chunk, by chunk index.
    pub fn chunks(&self) -> &[ChunkInfo] {
        &self.body.chunks
    }

    /// Where each chunk lies within the files' bytes laid end to end.
    pub const fn layout(&self) -> &ChunkLayout {
        &self.layout
    }

    /// Bytes of all files.
    pub fn build_size(&self) -> u64 {
        self.layout.build_size()
    }
}

fn check_entries(entries: &[Entry], chunk_bytes: u64) -> Result<(), ManifestError> {
    if entries.is_empty() {
        return Err(ManifestError::NoEntries);
    }
    if entries.len() > ENTRIES_MAX {
        return Err(ManifestError::TooManyEntries { actual: entries.len(), limit: ENTRIES_MAX });
    }
    let mut directories = BTreeSet::new();
    let mut previous: Option<&str> = None;
    let mut file_bytes = 0_u64;
    for Entry { path, kind } in entries {
        let refused = |reason| ManifestError::Path { path: path.clone(), reason };
        check_path(path).map_err(refused)?;
        if previous.is_some_and(|previous| previous >= path.as_str()) {
            return Err(refused(PathError::OutOfOrder));
        }
        previous = Some(path);
        if parent_of(path).is_some_and(|parent| !directories.contains(parent)) {
            return Err(refused(PathError::NoParent));
        }
        match kind {
            EntryKind::Directory => {
                directories.insert(path.as_str());
            }
            EntryKind::File { size, .. } => {
                file_bytes =
                    file_bytes.checked_add(*size).ok_or(refused(PathError::SizeOverflow))?;
            }
            EntryKind::Symlink { target } => check_link(path, target).map_err(refused)?,
        }
    }
    if file_bytes != chunk_bytes {
        return Err(ManifestError::SizesDiffer { chunk_bytes, file_bytes });
    }
    Ok(())
}

fn parent_of(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

fn check_path(path: &str) -> Result<(), PathError> {
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    path.split('/').try_for_each(check_name)
}

fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        return Err(PathError::BadName);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    Ok(())
}

/// A link may climb only at its start, where it climbs through directories of the build. A `..`
/// after a name could follow another link first and climb from wherever that leads.
fn check_link(path: &str, target: &str) -> Result<(), PathError> {
    if target.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if target.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let depth = path.split('/').count() - 1;
    let names: Vec<&str> = target.split('/').collect();
    let climbs = names.iter().take_while(|name| **name == "..").count();
    if climbs > depth {
        return Err(PathError::LinkLeaves);
    }
    let rest = &names[climbs..];
    // "." alone, or a link that only climbs, names a directory of the build.
    if rest.is_empty() || rest == ["."] {
        return Ok(());
    }
    if rest.contains(&"..") {
        return Err(PathError::LinkLeaves);
    }
    rest.iter().try_for_each(|name| check_name(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry { path: path.into(), kind: EntryKind::File { size, executable: false } }
    }

    fn directory(path: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::Directory }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::Symlink { target: target.into() } }
    }

    fn chunk(bytes: &[u8]) -> ChunkInfo {
        ChunkInfo { digest: Digest::of(bytes), size: u32::try_from(bytes.len()).unwrap() }
    }

    fn sample() -> Manifest {
        let entries =
            vec![directory("bin"), file("bin/run", 5), link("bin/self", "run"), file("data", 3)];
        Manifest::new(entries, vec![chunk(b"hello"), chunk(b"sea")]).unwrap()
    }

    fn reason_of(entries: Vec<Entry>) -> PathError {
        match Manifest::new(entries, vec![]) {
            Err(ManifestError::Path { reason, .. }) => reason,
            other => panic!("expected a refused path, found {other:?}"),
        }
    }

    #[test]
    fn encoding_round_trips_under_its_own_name() {
        let bytes = sample().encode().unwrap();
        let build = BuildId::of_manifest(&bytes);
        assert_eq!(Manifest::decode(build, &bytes), Ok(sample()));
    }

    #[test]
    fn damaged_manifest_is_refused_by_its_name() {
        let good = sample().encode().unwrap();
        let expected = BuildId::of_manifest(&good);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            let actual = BuildId::of_manifest(&bad);
            assert_eq!(
                Manifest::decode(expected, &bad),
                Err(ManifestError::WrongBuild { actual, expected })
            );
        }
    }

    #[test]
    fn manifest_named_right_but_malformed_is_refused() {
        let good = sample().encode().unwrap();
        let trailing = [good.as_slice(), b"x"].concat();
        let mut newer = good.clone();
        newer[MAGIC.len()] = VERSION + 1;
        let cases: [(&[u8], ManifestError); 5] = [
            (b"", ManifestError::NoMagic),
            (MAGIC, ManifestError::Undecodable),
            (&good[..good.len() - 1], ManifestError::Undecodable),
            (&trailing, ManifestError::Undecodable),
            (&newer, ManifestError::UnknownVersion { actual: VERSION + 1, expected: VERSION }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Manifest::decode(BuildId::of_manifest(bytes), bytes), Err(expected));
        }
    }

    #[test]
    fn paths_that_no_host_must_create_are_refused() {
        let long_name = "n".repeat(NAME_BYTES_MAX + 1);
        let long_path = vec!["directory"; 400].join("/");
        let cases = [
            (vec![file("/etc/passwd", 0)], PathError::Absolute),
            (vec![file("../escape", 0)], PathError::BadName),
            (vec![directory("a"), file("a/../b", 0)], PathError::BadName),
            (vec![file("a//b", 0)], PathError::BadName),
            (vec![file("", 0)], PathError::BadName),
            (vec![file("nul\0", 0)], PathError::BadName),
            (vec![file(&long_name, 0)], PathError::TooLong),
            (vec![file(&long_path, 0)], PathError::TooLong),
            (vec![file("a", 0), file("a", 0)], PathError::OutOfOrder),
            (vec![file("b", 0), file("a", 0)], PathError::OutOfOrder),
            (vec![file("a/b", 0)], PathError::NoParent),
            (vec![file("a", 0), file("a/b", 0)], PathError::NoParent),
            (vec![link("a", "."), file("a/b", 0)], PathError::NoParent),
            (vec![link("a", "/etc")], PathError::Absolute),
            (vec![link("a", "..")], PathError::LinkLeaves),
            (vec![link("a", "b/../..")], PathError::LinkLeaves),
            (vec![link("a", "")], PathError::BadName),
            (vec![directory("d"), link("d/a", "../../x")], PathError::LinkLeaves),
            (vec![file("a", u64::MAX), file("b", 1)], PathError::SizeOverflow),
        ];
        for (entries, expected) in cases {
            let listed = format!("{entries:?}");
            assert_eq!(reason_of(entries), expected, "{listed}");
        }
    }

    #[test]
    fn links_inside_the_build_are_admitted() {
        let entries =
            vec![directory("d"), link("d/here", "."), link("d/up", ".."), link("d/x", "../d/y")];
        assert!(Manifest::new(entries, vec![]).is_ok());
    }

    #[test]
    fn chunks_must_add_up_to_the_files() {
        let refused = Manifest::new(vec![file("a", 4)], vec![chunk(b"sea")]);
        assert_eq!(refused, Err(ManifestError::SizesDiffer { chunk_bytes: 3, file_bytes: 4 }));
        assert_eq!(Manifest::new(vec![], vec![]), Err(ManifestError::NoEntries));
    }

    proptest! {
        /// Goal: whatever a peer or a disk hands over, decoding ends with a value or an error.
        #[test]
        fn decoding_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [MAGIC.as_slice(), &[VERSION], &body].concat();
            if let Ok(manifest) = Manifest::decode(BuildId::of_manifest(&bytes), &bytes) {
                prop_assert_eq!(manifest.encode(), Ok(bytes));
            }
        }
    }
}
