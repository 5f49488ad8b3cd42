//! The store against real file systems: round trips, crashes, damage and full disks.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use p2p_core::{
    BuildId, ChunkIndex, ChunkInfo, ChunkSet, Digest, Entry, EntryKind, Manifest, ManifestError,
};

use super::testing::{
    Rig, assert_empty, child_directory, names, run_on_tmpfs, run_with_small_files, snapshot,
};
use super::*;
use crate::publish::publish;

fn flip_byte(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn numbers(chunks: impl IntoIterator<Item = ChunkIndex>) -> Vec<u32> {
    chunks.into_iter().map(ChunkIndex::get).collect()
}

/// The chunk that holds byte `offset` of the build.
fn chunk_at(manifest: &Manifest, offset: u64) -> ChunkIndex {
    let layout = manifest.layout();
    layout.indices().rfind(|chunk| layout.offset_of(*chunk) <= offset).unwrap()
}

/// A build of one file of zeros, cut into chunks of 4 MiB.
fn build_of_zeros(chunk_count: usize) -> (BuildId, Arc<Manifest>) {
    let size = p2p_core::CHUNK_SIZE_MAX;
    let chunk = ChunkInfo { digest: Digest::of(&vec![0; size as usize]), size };
    let kind = EntryKind::File { size: chunk_count as u64 * u64::from(size), executable: false };
    let entries = vec![Entry { path: "zeros".to_owned(), kind }];
    let manifest = Manifest::new(entries, vec![chunk; chunk_count]).unwrap();
    (BuildId::of_manifest(&manifest.encode().unwrap()), Arc::new(manifest))
}

#[test]
fn staged_build_becomes_what_was_published() {
    let rig = Rig::new();
    let staged = rig.stage();
    assert_eq!(rig.store.list_staged().unwrap(), [rig.published.id()]);
    rig.copy_all(&staged);
    assert!(staged.have().is_full());
    let build = staged.complete().unwrap().unwrap();

    assert_eq!(snapshot(build.root()), snapshot(&rig.source));
    for (path, mode) in
        [("bin/run", 0o755), ("bin/helper", 0o755), ("lib-data", 0o644), ("lib", 0o755)]
    {
        let found = build.root().join(path).metadata().unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }
    assert_eq!(rig.store.list().unwrap(), [build.id()]);
    assert_eq!(names(&rig.store.directory().join("staging")), [""; 0]);
    let found = rig.store.build(build.id()).unwrap().unwrap();
    assert_eq!(found.manifest(), rig.manifest());
    for chunk in rig.manifest().layout().indices() {
        let expected = rig.published.read_chunk(chunk).unwrap();
        assert_eq!(found.read_chunk(chunk).unwrap(), expected);
        assert_eq!(staged.read_chunk(chunk).unwrap(), expected, "staging handle after the move");
    }
    assert_eq!(
        Manifest::decode(build.id(), &build.manifest_bytes()).as_ref(),
        Ok(&**rig.manifest())
    );
    assert_eq!(staged.manifest_bytes(), build.manifest_bytes());
    assert_eq!(staged.complete().unwrap().unwrap().root(), build.root(), "completing again");
}

/// Goal: a program can be run as soon as its build is complete.
/// Method: the system refuses to run a file that is open for writing anywhere.
#[test]
fn completed_program_can_be_run() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/true", directory.path().join("true")).unwrap();
    let from = BuildStore::open(directory.path().join("from")).unwrap();
    let published = publish(&directory.path().join("true"), &from, None).unwrap().build;
    let to = BuildStore::open(directory.path().join("to")).unwrap();
    let staged = to.stage(published.id(), Arc::clone(published.manifest())).unwrap();
    for chunk in published.manifest().layout().indices() {
        staged.write_chunk(chunk, &published.read_chunk(chunk).unwrap()).unwrap();
    }
    let build = staged.complete().unwrap().unwrap();
    for build in [published, build] {
        assert!(std::process::Command::new(build.root().join("true")).status().unwrap().success());
    }
}

#[test]
fn build_of_empty_files_needs_no_chunk() {
    let store_directory = tempfile::tempdir().unwrap();
    let store = BuildStore::open(store_directory.path()).unwrap();
    let entry = Entry { path: "empty".into(), kind: EntryKind::File { size: 0, executable: true } };
    let manifest = Manifest::new(vec![entry], vec![]).unwrap();
    let id = BuildId::of_manifest(&manifest.encode().unwrap());
    let build = store.stage(id, Arc::new(manifest)).unwrap().complete().unwrap().unwrap();
    assert!(build.root().join("empty").metadata().unwrap().permissions().mode() & 0o111 != 0);
}

#[test]
fn only_checkpointed_chunks_survive_a_kill() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy(&staged, [0, 3]);
    staged.checkpoint().unwrap();
    rig.copy(&staged, [1, 2]);
    assert_eq!(numbers(staged.have().iter()), [0, 1, 2, 3]);
    drop(staged);

    let store = BuildStore::open(rig.store.directory()).unwrap();
    let staged = store.staged(rig.published.id()).unwrap().unwrap();
    assert_eq!(numbers(staged.have().iter()), [0, 3]);
    rig.copy_all(&staged);
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn kill_before_the_first_checkpoint_starts_over() {
    let rig = Rig::new();
    rig.copy(&rig.stage(), [0, 1]);
    assert!(rig.stage().have().is_empty());
}

#[test]
fn claimed_chunk_that_is_wrong_on_disk_is_not_resumed() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    staged.checkpoint().unwrap();
    drop(staged);
    let helper = rig.home().join("tree/bin/helper");
    flip_byte(&helper, 10);

    let staged = rig.stage();
    let lost = numbers(ChunkSet::full(staged.have().capacity()).iter_without(&staged.have()));
    assert_eq!(lost, [0], "the helper is the start of the build");
    rig.copy(&staged, lost);
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn deleted_cut_and_replaced_files_are_made_again() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    staged.checkpoint().unwrap();
    drop(staged);
    let tree = rig.home().join("tree");
    std::fs::remove_file(tree.join("bin/helper")).unwrap();
    OpenOptions::new().write(true).open(tree.join("lib-data")).unwrap().set_len(9).unwrap();
    std::fs::remove_dir_all(tree.join("lib")).unwrap();
    std::os::unix::fs::symlink(rig.directory.path(), tree.join("lib")).unwrap();
    std::fs::remove_file(tree.join("zero")).unwrap();
    std::fs::create_dir(tree.join("zero")).unwrap();

    let staged = rig.stage();
    assert!(!staged.have().is_full());
    rig.copy_all(&staged);
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
    assert_eq!(names(rig.directory.path()), ["from", "source", "to"], "wrote through a link");
}

/// Goal: a damaged bitmap costs no download and admits no wrong chunk.
/// Method: all but two chunks are on disk, one of them wrong; the bitmap is torn or foreign.
#[test]
fn chunks_are_found_again_without_a_readable_bitmap() {
    let rig = Rig::new();
    let count = rig.manifest().layout().chunk_count();
    for damage in ["torn", "foreign"] {
        let staged = rig.stage();
        rig.copy(&staged, 0..count - 1);
        staged.checkpoint().unwrap();
        drop(staged);
        flip_byte(&rig.home().join("tree/bin/helper"), 10);
        let bitmap = rig.home().join("bitmap");
        match damage {
            "torn" => OpenOptions::new().write(true).open(&bitmap).unwrap().set_len(40).unwrap(),
            _ => std::fs::write(&bitmap, b"shoalbm and then something else").unwrap(),
        }
        let staged = rig.stage();
        let expected: Vec<u32> = (1..count - 1).collect();
        assert_eq!(numbers(staged.have().iter()), expected, "{damage}");
        // And the next checkpoint makes it a bitmap again.
        staged.checkpoint().unwrap();
        drop(staged);
        assert_eq!(numbers(rig.stage().have().iter()), expected, "{damage}");
        rig.store.remove(rig.published.id()).unwrap();
    }
}

#[test]
fn read_back_catches_a_flipped_byte() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    flip_byte(&rig.home().join("tree/lib-data"), 3 << 20);
    let helper_and_run = 1_000 + (3 << 20);
    let expected = chunk_at(rig.manifest(), helper_and_run + (3 << 20));

    let wrong = staged.complete().unwrap().unwrap_err();
    assert_eq!(wrong, [expected]);
    assert!(!staged.have().contains(expected));
    assert!(rig.store.build(rig.published.id()).unwrap().is_none());
    assert!(!rig.stage().have().contains(expected), "the bitmap claims it no more");

    rig.copy(&staged, [expected.get()]);
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn read_back_catches_files_that_were_deleted_cut_or_appended_to() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    let tree = rig.home().join("tree");
    std::fs::remove_file(tree.join("bin/helper")).unwrap();
    let open = |path: &str| OpenOptions::new().write(true).open(tree.join(path)).unwrap();
    open("bin/run").set_len(2 << 20).unwrap();
    open("lib-data").set_len(7 << 20).unwrap();

    let wrong = staged.complete().unwrap().unwrap_err();
    assert!(wrong.contains(&chunk_at(rig.manifest(), 0)), "{wrong:?}");
    assert!(wrong.contains(&chunk_at(rig.manifest(), 1_000 + (3 << 20) - 1)), "{wrong:?}");
    rig.copy(&staged, numbers(wrong));
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

/// Goal: a file that cannot be synced is thrown away, and its chunks are fetched again.
/// Method: the system refuses to sync a named pipe, so one takes the place of a file.
#[test]
fn failed_sync_throws_the_file_away() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    let data = rig.home().join("tree/lib-data");
    std::fs::remove_file(&data).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &data, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    staged.forget_handles();

    let failed = staged.checkpoint().unwrap_err();
    let StoreError::SyncFailed { path, chunks, .. } = &failed else { panic!("{failed:?}") };
    assert_eq!(path, &data);
    let lost = ChunkSet::full(staged.have().capacity());
    assert_eq!(*chunks, lost.iter_without(&staged.have()).collect::<Vec<_>>());
    assert!(chunks.len() >= 2 && chunks.len() < lost.count() as usize, "{chunks:?}");
    assert!(data.symlink_metadata().unwrap().is_file());
    assert!(matches!(staged.read_chunk(chunks[0]), Err(StoreError::ChunkMissing { .. })));

    rig.copy(&staged, numbers(chunks.clone()));
    staged.checkpoint().unwrap();
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn chunk_that_cannot_be_written_is_not_had() {
    let rig = Rig::new();
    let staged = rig.stage();
    std::fs::remove_file(rig.home().join("tree/bin/helper")).unwrap();
    let chunk = chunk_at(rig.manifest(), 0);
    let failed = staged.write_chunk(chunk, &rig.published.read_chunk(chunk).unwrap()).unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed:?}");
    assert!(staged.have().is_empty());
    assert!(matches!(staged.read_chunk(chunk), Err(StoreError::ChunkMissing { .. })));
    let incomplete = staged.complete().unwrap_err();
    assert!(matches!(incomplete, StoreError::Incomplete { missing } if missing > 0));
}

#[test]
fn files_are_never_written_through_a_link() {
    let rig = Rig::new();
    let staged = rig.stage();
    let helper = rig.home().join("tree/bin/helper");
    let victim = rig.directory.path().join("victim");
    std::fs::write(&victim, b"mine").unwrap();
    std::fs::remove_file(&helper).unwrap();
    std::os::unix::fs::symlink(&victim, &helper).unwrap();
    let chunk = chunk_at(rig.manifest(), 0);
    staged.write_chunk(chunk, &rig.published.read_chunk(chunk).unwrap()).unwrap_err();
    rig.stage();
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}

#[test]
fn build_larger_than_the_disk_is_refused_before_it_is_staged() {
    let directory = tempfile::tempdir().unwrap();
    let store = BuildStore::open(directory.path()).unwrap();
    let available = durable::available_space(directory.path()).unwrap();
    // 64 GiB more than there is: others may free some meanwhile.
    let (id, manifest) = build_of_zeros(usize::try_from(available >> 22).unwrap() + (1 << 14));
    let refused = store.stage(id, manifest).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::NoSpace { needed, available, .. } if needed > available));
    assert!(refused.to_string().contains("not enough space"), "{refused}");
    assert_empty(&store);
}

#[test]
fn staging_that_fails_halfway_leaves_nothing() {
    let Some(directory) = child_directory() else {
        return run_with_small_files(
            "store::tests::staging_that_fails_halfway_leaves_nothing",
            1_024,
        );
    };
    let store = BuildStore::open(directory).unwrap();
    let (id, manifest) = build_of_zeros(1);
    let refused = store.stage(id, manifest).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Io { source, .. }
        if source.kind() == io::ErrorKind::FileTooLarge),
        "{refused:?}"
    );
    assert_empty(&store);
}

#[test]
fn full_disk_is_found_while_staging() {
    let Some(directory) = child_directory() else {
        return run_on_tmpfs(
            "store::tests::full_disk_is_found_while_staging",
            "size=6m,nr_inodes=24",
        );
    };
    let store = BuildStore::open(directory).unwrap();
    let (id, manifest) = build_of_zeros(2);
    let refused = store.stage(id, manifest).unwrap_err();
    assert!(matches!(refused, StoreError::NoSpace { needed: 8_388_608, .. }), "{refused:?}");
    assert_empty(&store);

    let file = |n: u32| Entry {
        path: format!("{n:03}"),
        kind: EntryKind::File { size: 0, executable: false },
    };
    let many = Arc::new(Manifest::new((0..50).map(file).collect(), vec![]).unwrap());
    let many_id = BuildId::of_manifest(&many.encode().unwrap());
    let refused = store.stage(many_id, many).unwrap_err();
    assert!(matches!(refused, StoreError::NoFilesLeft { .. }), "{refused:?}");
    assert_empty(&store);

    // An earlier attempt is not removed when there is no space to repair it.
    let (id, manifest) = build_of_zeros(1);
    let staged = store.stage(id, Arc::clone(&manifest)).unwrap();
    let zeros = vec![0; p2p_core::CHUNK_SIZE_MAX as usize];
    staged.write_chunk(manifest.layout().index(0).unwrap(), &zeros).unwrap();
    drop(staged);
    let home = store.directory().join("staging").join(id.to_string());
    std::fs::remove_file(home.join("tree/zeros")).unwrap();
    std::fs::write(store.directory().join("other"), vec![1; 4 << 20]).unwrap();
    assert!(matches!(store.stage(id, manifest), Err(StoreError::NoSpace { .. })));
    assert_eq!(store.list_staged().unwrap(), [id]);
}

#[test]
fn manifest_of_another_build_is_refused() {
    let rig = Rig::new();
    let (other, _) = build_of_zeros(1);
    let refused = rig.store.stage(other, Arc::clone(rig.manifest())).unwrap_err();
    assert!(matches!(refused, StoreError::WrongManifest { expected, .. } if expected == other));
    assert_empty(&rig.store);
}

#[test]
fn damaged_manifest_of_a_staging_is_replaced_when_staged_again() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy(&staged, [2]);
    staged.checkpoint().unwrap();
    drop(staged);
    std::fs::write(rig.home().join("manifest"), b"torn").unwrap();
    assert!(rig.store.staged(rig.published.id()).unwrap().is_none());
    assert!(matches!(
        rig.store.manifest(rig.published.id()),
        Err(StoreError::DamagedManifest { .. })
    ));
    assert_eq!(numbers(rig.stage().have().iter()), [2]);
    assert!(rig.store.manifest(rig.published.id()).unwrap().is_some());
}

#[test]
fn damaged_manifest_of_a_build_is_named_and_repaired_by_publishing_again() {
    let rig = Rig::new();
    let (store, id) =
        (BuildStore::open(rig.directory.path().join("from")).unwrap(), rig.published.id());
    let manifest = store.directory().join(format!("builds/{id}.manifest"));
    flip_byte(&manifest, 20);
    let refused = store.build(id).unwrap_err();
    assert!(refused.to_string().contains(&id.to_string()), "{refused}");
    assert!(matches!(
        refused,
        StoreError::DamagedManifest { reason: ManifestError::WrongBuild { .. }, .. }
    ));
    let again = publish(&rig.source, &store, None).unwrap();
    assert!(!again.is_known);
    assert_eq!(snapshot(store.build(id).unwrap().unwrap().root()), snapshot(&rig.source));

    std::fs::remove_file(&manifest).unwrap();
    assert!(store.build(id).unwrap().is_none(), "a tree without a manifest is not a build");
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn short_file_of_a_build_is_named() {
    let rig = Rig::new();
    let path = rig.published.root().join("lib-data");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5 << 20).unwrap();
    let last = rig.manifest().layout().indices().next_back().unwrap();
    let failed = rig.published.read_chunk(last).unwrap_err();
    assert!(
        matches!(&failed, StoreError::ShortFile { path: named, expected: 6_291_456 }
        if *named == path),
        "{failed:?}"
    );
}

#[test]
fn removed_build_is_gone_in_every_form() {
    let rig = Rig::new();
    let id = rig.published.id();
    rig.copy_all(&rig.stage());
    rig.store.remove(id).unwrap();
    assert_empty(&rig.store);
    let staged = rig.stage();
    rig.copy_all(&staged);
    staged.complete().unwrap().unwrap();
    rig.stage();
    rig.store.remove(id).unwrap();
    assert_empty(&rig.store);
    assert!(rig.store.build(id).unwrap().is_none());
    rig.store.remove(id).unwrap();
}

#[test]
fn leftovers_of_dead_processes_are_swept_and_those_of_living_ones_kept() {
    let rig = Rig::new();
    let staging = rig.store.directory().join("staging");
    for name in ["publish-1-0", ".gc-7-3", "stage-999999-1", "move-1-1"] {
        std::fs::create_dir_all(staging.join(name).join("tree/deep")).unwrap();
    }
    let alive = WorkDir::new(&staging, Work::Publish).unwrap();
    std::fs::write(alive.path().join("file"), b"in use").unwrap();
    rig.stage();

    BuildStore::open(rig.store.directory()).unwrap();
    let mut expected = vec![
        alive.path().file_name().unwrap().to_str().unwrap().to_owned(),
        rig.published.id().to_string(),
    ];
    expected.sort();
    assert_eq!(names(&staging), expected);
    assert!(alive.path().join("file").exists());
    drop(alive);
    assert_eq!(names(&staging), [rig.published.id().to_string()]);
}

/// Goal: a process that dies in `complete` leaves something that a restart finishes.
/// Method: the states between its renames, made by hand.
#[test]
fn death_between_the_last_renames_is_repaired() {
    let rig = Rig::new();
    let id = rig.published.id();
    let staged = rig.stage();
    rig.copy_all(&staged);
    staged.checkpoint().unwrap();
    drop(staged);
    let builds = rig.store.directory().join("builds");
    // The manifest is in place, the tree is not.
    std::fs::copy(rig.home().join("manifest"), builds.join(format!("{id}.manifest"))).unwrap();
    assert!(rig.store.build(id).unwrap().is_none());
    assert_eq!(rig.store.list().unwrap(), []);
    let staged = rig.store.staged(id).unwrap().unwrap();
    staged.complete().unwrap().unwrap();
    // Both are in place, the rest of the staging is still there.
    std::fs::create_dir(rig.home()).unwrap();
    std::fs::copy(builds.join(format!("{id}.manifest")), rig.home().join("manifest")).unwrap();
    let store = BuildStore::open(rig.store.directory()).unwrap();
    assert_eq!(store.list_staged().unwrap(), []);
    assert_eq!(snapshot(store.build(id).unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn second_process_that_completes_the_same_build_gets_the_first_ones() {
    let rig = Rig::new();
    let other = BuildStore::open(rig.store.directory()).unwrap();
    let staged = rig.stage();
    rig.copy_all(&staged);
    let published = publish(&rig.source, &other, None).unwrap();
    assert!(!published.is_known);
    let build = staged.complete().unwrap().unwrap();
    assert_eq!(build.root(), published.build.root());
    assert_eq!(snapshot(build.root()), snapshot(&rig.source));
    assert_eq!(rig.store.list().unwrap(), [build.id()]);
    assert_eq!(names(&rig.store.directory().join("staging")), [""; 0]);
}

#[test]
fn chunks_are_written_and_checkpointed_by_several_threads() {
    let rig = Rig::new();
    let staged = rig.stage();
    let count = rig.manifest().layout().chunk_count();
    std::thread::scope(|scope| {
        for first in 0..3 {
            let (rig, staged) = (&rig, staged.clone());
            scope.spawn(move || {
                for number in (first..count).step_by(2) {
                    rig.copy(&staged, [number]);
                    staged.checkpoint().unwrap();
                    let chunk = rig.manifest().layout().index(number).unwrap();
                    assert_eq!(
                        staged.read_chunk(chunk).unwrap(),
                        rig.published.read_chunk(chunk).unwrap()
                    );
                }
            });
        }
    });
    assert!(rig.stage().have().is_full());
    assert_eq!(snapshot(staged.complete().unwrap().unwrap().root()), snapshot(&rig.source));
}

#[test]
fn moved_build_lies_under_its_own_names_and_is_still_served() {
    let rig = Rig::new();
    let out = rig.directory.path().join("from");
    let moved = rig.published.move_into(&out).unwrap();
    assert_eq!(moved.root(), std::fs::canonicalize(&out).unwrap());
    for chunk in rig.manifest().layout().indices() {
        assert_eq!(
            Digest::of(&moved.read_chunk(chunk).unwrap()),
            rig.manifest().chunks()[chunk.as_usize()].digest
        );
    }
    let mut expected = snapshot(&rig.source);
    let mut found = snapshot(&out);
    found.retain(|path, _| !path.starts_with("builds") && !path.starts_with("staging"));
    assert_eq!(found, std::mem::take(&mut expected));

    let store = BuildStore::open(&out).unwrap();
    let again = store.build(moved.id()).unwrap().unwrap();
    assert_eq!(again.move_into(&out).unwrap().root(), moved.root(), "moving again");
    let chunk = chunk_at(rig.manifest(), 0);
    assert_eq!(again.read_chunk(chunk).unwrap(), moved.read_chunk(chunk).unwrap());
    let elsewhere = rig.directory.path().join("to");
    for build in [&again, &moved] {
        assert!(matches!(build.move_into(&elsewhere), Err(StoreError::AlreadyMoved { .. })));
    }
    store.remove(moved.id()).unwrap();
    assert!(store.build(moved.id()).unwrap().is_none());
    assert!(out.join("bin/run").exists(), "moved files are not the store's any more");
    let at = StoredBuild::at(moved.id(), Arc::clone(moved.manifest()), &out);
    assert!(at.read_chunk(chunk).is_ok());
}

#[test]
fn nothing_is_moved_over_what_is_there() {
    let rig = Rig::new();
    let out = rig.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("zero"), b"mine").unwrap();
    let refused = rig.published.move_into(&out).unwrap_err();
    assert!(matches!(&refused, StoreError::AlreadyExists { path } if path.ends_with("zero")));
    assert_eq!(names(&out), ["zero"]);
    assert_eq!(std::fs::read(out.join("zero")).unwrap(), b"mine");
    assert_eq!(snapshot(rig.published.root()), snapshot(&rig.source));
}

#[test]
fn move_that_was_cut_off_is_completed() {
    let rig = Rig::new();
    let out = rig.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::rename(rig.published.root().join("bin"), out.join("bin")).unwrap();
    rig.published.move_into(&out).unwrap();
    assert_eq!(snapshot(&out), snapshot(&rig.source));
}

#[test]
fn store_in_an_impossible_place_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let refused = BuildStore::open(&file).unwrap_err();
    assert!(refused.to_string().contains("file"), "{refused}");
}

/// Goal: what somebody did to the files of a complete build is found, and only that.
/// Method: every kind of change to a build of its own; a time stamp alone costs one reading.
#[test]
fn audit_finds_what_was_changed() {
    type Change = fn(&Path);
    let append = |path: &Path| {
        std::io::Write::write_all(
            &mut OpenOptions::new().append(true).open(path).unwrap(),
            b"more",
        )
        .unwrap();
    };
    let changes: [(&str, &str, Change); 6] = [
        ("lib-data", "changed", |path| flip_byte(path, 5)),
        ("lib-data", "gone", |path| std::fs::remove_file(path).unwrap()),
        ("lib-data", "bytes, expected", append),
        ("bin/helper", "executable bit", |path| {
            let plain = PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(path, plain).unwrap();
        }),
        ("lib/run", "no link", |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("elsewhere", path).unwrap();
        }),
        ("lib", "no directory", |path| {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::write(path, "").unwrap();
        }),
    ];
    for (name, expected, change) in changes {
        let rig = Rig::new();
        let build = rig.published.clone();
        build.audit().unwrap();
        change(&build.root().join(name));
        let damage = build.audit().unwrap_err().to_string();
        assert!(damage.contains(name) && damage.contains(expected), "{name}: {damage}");
    }
    let rig = Rig::new();
    let file = std::fs::File::open(rig.published.root().join("lib-data")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_mins(1)).unwrap();
    rig.published.audit().unwrap();
}

/// Goal: a distrusted build is not in the list, its files stay until it is stored anew, and then
/// they are right again.
#[test]
fn distrusted_build_is_made_anew_in_its_place() {
    let rig = Rig::new();
    let staged = rig.stage();
    rig.copy_all(&staged);
    let build = staged.complete().unwrap().unwrap();
    let held = std::fs::canonicalize(build.root()).unwrap();
    flip_byte(&held.join("lib-data"), 5);
    build.audit().unwrap_err();
    rig.store.distrust(build.id()).unwrap();
    assert!(rig.store.build(build.id()).unwrap().is_none());
    assert!(held.join("bin/helper").exists());

    let staged = rig.stage();
    assert!(held.join("bin/helper").exists());
    rig.copy_all(&staged);
    let build = staged.complete().unwrap().unwrap();
    assert_eq!(snapshot(build.root()), snapshot(&rig.source));
    assert_eq!(std::fs::canonicalize(build.root()).unwrap(), held);
    build.audit().unwrap();
    assert_eq!(names(&rig.store.directory().join("staging")), [""; 0]);
}

/// Goal: what an unfinished removal leaves is gone after the next start, and what another process
/// or a running program needs is not.
#[test]
fn trees_and_manifests_without_each_other_are_swept() {
    let rig = Rig::new();
    let builds = rig.store.directory().join("builds");
    let (orphan, lone) = (BuildId::of_manifest(b"1"), BuildId::of_manifest(b"2"));
    std::fs::create_dir(builds.join(orphan.to_string())).unwrap();
    std::fs::write(builds.join(orphan.to_string()).join("data"), "x").unwrap();
    std::fs::write(builds.join(format!("{lone}.manifest")), "x").unwrap();
    std::fs::write(builds.join(format!("{lone}.distrusted")), "x").unwrap();
    let staged = rig.stage();
    rig.copy_all(&staged);
    let build = staged.complete().unwrap().unwrap();
    BuildStore::open(rig.store.directory()).unwrap();
    let id = build.id();
    assert_eq!(names(&builds), [id.to_string(), format!("{id}.manifest")]);

    rig.store.distrust(id).unwrap();
    BuildStore::open(rig.store.directory()).unwrap();
    assert_eq!(names(&builds), [id.to_string(), format!("{id}.distrusted")]);
    rig.store.remove(id).unwrap();
    assert_empty(&rig.store);
}
