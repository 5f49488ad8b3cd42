//! What is done to every byte of a build: digests, and the publisher's pass of cutting, hashing and
//! copying.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput};
use p2p_core::{Digest, Prng, Seed};
use p2p_net::{BuildStore, publish, verify};

/// Enough that a pass is more than the start of its threads, and little enough for a page cache.
const BUILD_BYTES: usize = 64 << 20;

fn random_bytes(count: usize) -> Vec<u8> {
    let mut prng = Prng::from_seed(Seed::from_u64(8));
    (0..count / 8).flat_map(|_| prng.next_u64().to_le_bytes()).collect()
}

pub(crate) fn digests(criterion: &mut Criterion) {
    let bytes = random_bytes(4 << 20);
    let mut group = criterion.benchmark_group("digest");
    for (name, size) in [("1 KiB", 1 << 10), ("256 KiB", 256 << 10), ("4 MiB", 4 << 20)] {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |bench| bench.iter(|| Digest::of(black_box(&bytes[..size]))));
    }
}

/// On the file system of the temporary directory.
pub(crate) fn publishing(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("data");
    std::fs::write(&source, random_bytes(BUILD_BYTES)).unwrap();
    let mut group = criterion.benchmark_group("build of 64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(BUILD_BYTES as u64));
    // Cuts and hashes, writes nothing.
    group.bench_function("verify", |bench| {
        bench.iter(|| verify(black_box(&source), None, None).unwrap());
    });
    // Cuts, hashes, writes a copy, syncs it.
    group.bench_function("publish", |bench| {
        bench.iter_batched(
            || empty_store(folder.path()),
            |store| publish(black_box(&source), &store, None).unwrap(),
            BatchSize::PerIteration,
        );
    });
}

fn empty_store(folder: &Path) -> BuildStore {
    let path = folder.join("store");
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    BuildStore::open(&path).unwrap()
}
