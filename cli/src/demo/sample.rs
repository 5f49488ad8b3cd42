//! The builds that the demo publishes: a real service with data that does not compress.
//!
//! Each version is a tree with everything a build may hold: an executable, small and large files,
//! nested directories and a link. Equal versions have equal bytes on every run; different versions
//! differ in one file of the data and share the rest.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use p2p_core::{Prng, Seed};

/// Files of data per version, so that chunks cross the borders of files.
const PARTS: usize = 4;

/// Bytes of one of them. Together ([`DATA_BYTES`]) they are large enough that a swarm shows, and
/// small enough that a few hosts on a laptop take seconds.
const PART_BYTES: usize = 16 << 20;

/// The file of data that differs in each version.
const PART_OF_VERSION: usize = 1;

/// Bytes of data of a version, without the executable.
pub(super) const DATA_BYTES: u64 = (PARTS * PART_BYTES) as u64;

/// Bytes written at once; between two such steps a signal can be noticed.
const STEP_BYTES: usize = 1 << 20;

/// Writes the tree of `version` into `root`, which is created. The service in it is a copy of the
/// executable at `executable`.
///
/// # Errors
///
/// If the disk is full or the executable cannot be read.
///
/// # Cancel safety
///
/// A cancelled call leaves a part of the tree and does nothing further.
pub(super) async fn write(root: &Path, version: u32, executable: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot write version {version} to {}", root.display());
    let nested = root.join("data/nested");
    fs::create_dir_all(&nested).with_context(named)?;
    fs::copy(executable, root.join(demo_service::PROGRAM)).with_context(named)?;
    fs::write(root.join(demo_service::VERSION_FILE), format!("{version}\n")).with_context(named)?;
    std::os::unix::fs::symlink("nested/part-1.bin", root.join("data/newest"))
        .with_context(named)?;
    for part in 0..PARTS {
        let version = if part == PART_OF_VERSION { u64::from(version) } else { 0 };
        let mut prng = Prng::from_seed(Seed::from_u64(version * PARTS as u64 + part as u64));
        let folder = if part % 2 == 0 { root.join("data") } else { nested.clone() };
        let path = folder.join(format!("part-{part}.bin"));
        write_noise(&path, &mut prng).await.with_context(named)?;
    }
    Ok(())
}

async fn write_noise(path: &Path, prng: &mut Prng) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut bytes = vec![0_u8; STEP_BYTES];
    for _ in 0..PART_BYTES / STEP_BYTES {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&prng.next_u64().to_le_bytes());
        }
        file.write_all(&bytes)?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn version_is_a_tree_with_everything() {
        let folder = tempfile::tempdir().unwrap();
        let executable = folder.path().join("executable");
        fs::write(&executable, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().join("2");
        write(&root, 2, &executable).await.unwrap();

        assert_eq!(fs::read_to_string(root.join("VERSION")).unwrap(), "2\n");
        let service = fs::metadata(root.join("demo-service")).unwrap();
        assert_eq!(service.permissions().mode() & 0o777, 0o755);
        // Through the link, so it points somewhere.
        let part = fs::read(root.join("data/newest")).unwrap();
        assert_eq!(part.len(), PART_BYTES);
        assert_ne!(part, fs::read(root.join("data/part-0.bin")).unwrap());

        let other = folder.path().join("1");
        write(&other, 1, &executable).await.unwrap();
        let differs =
            |name: &str| fs::read(root.join(name)).unwrap() != fs::read(other.join(name)).unwrap();
        let names = ["part-0.bin", "nested/part-1.bin", "part-2.bin", "nested/part-3.bin"];
        assert_eq!(names.map(|name| differs(&format!("data/{name}"))), [false, true, false, false]);
    }
}
