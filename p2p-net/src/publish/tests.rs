//! Publishing and verifying against real file systems: what becomes a build, and what does not.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use p2p_core::{EntryKind, Manifest};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::*;
use crate::store::testing::{
    Rig, assert_empty, child_directory, names, random_bytes, run_on_tmpfs, run_with_small_files,
    run_without_override, sample_tree, snapshot,
};

/// A directory to publish from and a store next to it.
fn rig() -> (TempDir, PathBuf, BuildStore) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let store = BuildStore::open(directory.path().join("store")).unwrap();
    (directory, source, store)
}

fn publish_quietly(path: &Path, store: &BuildStore) -> Result<Published, PublishError> {
    publish(path, store, None)
}

/// The error for `path`, after which the store is empty; its message is one line.
fn refusal(path: &Path, store: &BuildStore) -> SourceError {
    let refused = publish_quietly(path, store).unwrap_err();
    assert!(!refused.to_string().contains('\n'), "{refused}");
    assert_empty(store);
    match refused {
        PublishError::Source(error) => error,
        other => panic!("expected an error of the source, found {other:?}"),
    }
}

#[test]
fn published_tree_equals_its_source() {
    let rig = Rig::new();
    assert_eq!(snapshot(rig.published.root()), snapshot(&rig.source));
    let executable: Vec<&str> = rig
        .manifest()
        .entries()
        .iter()
        .filter(|entry| matches!(entry.kind, EntryKind::File { executable: true, .. }))
        .map(|entry| &*entry.path)
        .collect();
    assert_eq!(executable, ["bin/helper", "bin/run", "zero"]);
    for chunk in rig.manifest().layout().indices() {
        let bytes = rig.published.read_chunk(chunk).unwrap();
        let digest = rig.manifest().chunks()[chunk.as_usize()].digest;
        assert_eq!(p2p_core::Digest::of(&bytes), digest);
    }
    let mode = rig.published.root().join("bin/helper").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

/// Goal: a publisher into a store of another kind makes the same build of the same files.
#[test]
fn a_manifest_alone_is_that_of_the_published_build() {
    let rig = Rig::new();
    assert_eq!(manifest_of(&rig.source, None).unwrap(), **rig.published.manifest());
}

#[test]
fn publishing_again_finds_the_build_and_copies_nothing() {
    let rig = Rig::new();
    let store = BuildStore::open(rig.directory.path().join("from")).unwrap();
    let before = snapshot(store.directory());
    let again = publish_quietly(&rig.source, &store).unwrap();
    assert!(again.is_known);
    assert_eq!(again.build.id(), rig.published.id());
    assert_eq!(snapshot(store.directory()), before);
    // Elsewhere and under other names, modes and times, it is the same build.
    let copy = rig.directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    sample_tree(&copy);
    assert_eq!(publish_quietly(&copy, &rig.store).unwrap().build.id(), rig.published.id());
}

#[test]
fn build_id_of_a_tree_is_that_of_version_one() {
    let rig = Rig::new();
    assert_eq!(rig.published.id().short(), "890c423ad4e6");
}

#[test]
fn file_is_published_under_its_own_name() {
    let (directory, source, store) = rig();
    let file = source.join("program");
    std::fs::write(&file, random_bytes(9, 5 << 20)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
    let published = publish_quietly(&file, &store).unwrap();
    assert_eq!(snapshot(published.build.root()), snapshot(&source));
    assert!(publish_quietly(&source, &store).unwrap().is_known, "a tree of one file is that file");
    let link = directory.path().join("program-link");
    symlink(&file, &link).unwrap();
    let by_link = publish_quietly(&link, &store).unwrap();
    assert_eq!(names(by_link.build.root()), ["program-link"]);
}

#[test]
fn large_tree_keeps_every_thread_busy() {
    let (_directory, source, store) = rig();
    for number in 0..7_u64 {
        let size = 3_000_001 * usize::try_from(number).unwrap();
        std::fs::write(source.join(format!("{number}")), random_bytes(number, size)).unwrap();
    }
    std::fs::write(source.join("zeros"), vec![0; 9 << 20]).unwrap();
    let mut reports = vec![];
    let published = publish(&source, &store, Some(&mut |progress| reports.push(progress))).unwrap();
    assert_eq!(snapshot(published.build.root()), snapshot(&source));

    let total = published.build.manifest().build_size();
    assert!(reports.iter().all(|report| report.bytes_total == total));
    assert!(reports.is_sorted_by_key(|report| report.bytes_done));
    assert_eq!(reports.first().map(|report| report.bytes_done), Some(0));
    assert_eq!(reports.last().map(|report| report.bytes_done), Some(total));
    // The oracle: all bytes in one piece, cut by the crate's own loop.
    let whole: Vec<u8> =
        names(&source).iter().flat_map(|name| std::fs::read(source.join(name)).unwrap()).collect();
    let sizes = cut::ChunkSizes::for_build(total);
    let expected: Vec<ChunkInfo> =
        fastcdc::v2020::FastCDC::new(&whole, sizes.min, sizes.average, sizes.max)
            .map(|chunk| &whole[chunk.offset..][..chunk.length])
            .map(|chunk| ChunkInfo {
                size: u32::try_from(chunk.len()).unwrap(),
                digest: p2p_core::Digest::of(chunk),
            })
            .collect();
    assert_eq!(published.build.manifest().chunks(), expected);
}

#[test]
fn tree_of_many_small_files_is_published_and_verified() {
    let (_directory, source, store) = rig();
    for number in 0..400_u64 {
        let directory = source.join(format!("{}", number % 80));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("{number}")), random_bytes(number, 700)).unwrap();
    }
    let published = publish_quietly(&source, &store).unwrap().build;
    assert_eq!(snapshot(published.root()), snapshot(&source));
    let verified = verify(&source, Some(published.manifest()), None).unwrap();
    assert_eq!(verified, Verification { actual: published.id(), differences: vec![] });
}

#[test]
fn two_publishers_of_one_tree_both_succeed() {
    let (_directory, source, store) = rig();
    sample_tree(&source);
    let outcomes: Vec<Published> = std::thread::scope(|scope| {
        let publish = || {
            let store = BuildStore::open(store.directory()).unwrap();
            publish_quietly(&source, &store).unwrap()
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(publish)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for published in outcomes {
        assert_eq!(
            published.build.root(),
            store.build(published.build.id()).unwrap().unwrap().root()
        );
        assert_eq!(snapshot(published.build.root()), snapshot(&source));
    }
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(names(&store.directory().join("staging")), [""; 0]);
}

#[test]
fn what_is_missing_or_empty_is_refused() {
    let (directory, source, store) = rig();
    let missing = refusal(&directory.path().join("nowhere"), &store);
    assert!(matches!(missing, SourceError::Missing { .. }), "{missing:?}");
    let empty = refusal(&source, &store);
    assert!(matches!(empty, SourceError::Empty { .. }), "{empty:?}");
    std::fs::create_dir(source.join("directory")).unwrap();
    let published = publish_quietly(&source, &store).unwrap();
    assert_eq!(names(published.build.root()), ["directory"], "an empty directory is an entry");
}

#[test]
fn what_is_unreadable_is_refused_before_anything_is_copied() {
    if child_directory().is_none() {
        return run_without_override(
            "publish::tests::what_is_unreadable_is_refused_before_anything_is_copied",
        );
    }
    let (_directory, source, store) = rig();
    let lock = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
    };
    std::fs::write(source.join("secret"), b"x").unwrap();
    lock(&source.join("secret"));
    for path in [source.join("secret"), source.clone()] {
        let refused = refusal(&path, &store);
        assert!(
            matches!(&refused, SourceError::Read { path, .. } if path.ends_with("secret")),
            "{refused:?}"
        );
    }
    std::fs::remove_file(source.join("secret")).unwrap();
    std::fs::create_dir(source.join("closed")).unwrap();
    lock(&source.join("closed"));
    let refused = refusal(&source, &store);
    assert!(
        matches!(&refused, SourceError::Read { path, .. } if path.ends_with("closed")),
        "{refused:?}"
    );
    std::fs::remove_dir(source.join("closed")).unwrap();
}

#[test]
fn what_no_build_can_hold_is_refused_by_name() {
    let (_directory, source, store) = rig();
    let odd = source.join("odd");
    let make_socket = || drop(std::os::unix::net::UnixListener::bind(&odd).unwrap());
    let make_odd_pipe = || make_pipe(&odd);
    let cases: [(&str, &dyn Fn()); 2] = [("socket", &make_socket), ("named pipe", &make_odd_pipe)];
    for (expected, make) in cases {
        make();
        for path in [&odd, &source] {
            let refused = refusal(path, &store);
            assert!(
                matches!(&refused, SourceError::Special { path, kind }
                if *path == odd && *kind == expected),
                "{refused:?}"
            );
        }
        std::fs::remove_file(&odd).unwrap();
    }
    let device = refusal(Path::new("/dev/null"), &store);
    assert!(matches!(device, SourceError::Special { kind: "device", .. }), "{device:?}");

    for mode in [0o4755, 0o2755] {
        std::fs::write(&odd, b"x").unwrap();
        std::fs::set_permissions(&odd, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(refusal(&source, &store), SourceError::Setuid { path } if path == odd));
        std::fs::remove_file(&odd).unwrap();
    }

    let name = OsStr::from_bytes(b"latin-\xE9");
    std::fs::write(source.join(name), b"x").unwrap();
    for path in [source.clone(), source.join(name)] {
        assert!(matches!(refusal(&path, &store), SourceError::NotUtf8 { .. }));
    }
    std::fs::remove_file(source.join(name)).unwrap();

    std::fs::create_dir(source.join(".shoal")).unwrap();
    assert!(matches!(refusal(&source, &store), SourceError::StateDirectory { .. }));
}

#[test]
fn links_that_leave_the_tree_are_refused() {
    let (_directory, source, store) = rig();
    std::fs::create_dir(source.join("d")).unwrap();
    for target in ["/etc/passwd", "../../outside", "x/../../y"] {
        symlink(target, source.join("d/link")).unwrap();
        let refused = refusal(&source, &store);
        assert!(
            matches!(&refused, SourceError::LinkLeaves { path, target: found }
            if path.ends_with("d/link") && *found == Path::new(target)),
            "{refused:?}"
        );
        std::fs::remove_file(source.join("d/link")).unwrap();
    }
    symlink("./../d//link/", source.join("d/link")).unwrap();
    let published = publish_quietly(&source, &store).unwrap();
    let found = std::fs::read_link(published.build.root().join("d/link")).unwrap();
    assert_eq!(found, Path::new("../d/link"), "spelt plainly");
}

#[test]
fn build_over_the_limits_is_refused_before_it_is_read() {
    let (_directory, source, store) = rig();
    let file = std::fs::File::create(source.join("huge")).unwrap();
    file.set_len((u64::from(p2p_core::CHUNKS_MAX) + 1) * u64::from(p2p_core::CHUNK_SIZE_MAX))
        .unwrap();
    assert!(matches!(refusal(&source, &store), SourceError::TooManyChunks { .. }));
    std::fs::remove_file(source.join("huge")).unwrap();

    let mut deep = source.clone();
    for _ in 0..14 {
        deep.push("d".repeat(240));
    }
    std::fs::create_dir_all(&deep).unwrap();
    let refused = refusal(&source, &store);
    assert!(matches!(refused, SourceError::Refused { .. }), "{refused:?}");
}

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

fn open_to_write(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().append(true).open(path).unwrap()
}

/// Goal: what was published existed at one moment.
/// Method: `change` is made at the first report, when the tree was listed but not read.
fn check_change_is_found(expected: &str, change: impl Fn(&Path)) {
    let (_directory, source, store) = rig();
    sample_tree(&source);
    // Away from the moment of the change, which a coarse clock may not distinguish from now.
    let helper = open_to_write(&source.join("bin/helper"));
    helper.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let mut is_done = false;
    let mut change_once = |_| {
        if !std::mem::replace(&mut is_done, true) {
            change(&source);
        }
    };
    let outcome = publish(&source, &store, Some(&mut change_once));
    let Err(PublishError::Source(SourceError::Changed { path })) = outcome else {
        panic!("change of {expected}: {outcome:?}");
    };
    // A change in a directory also shows at the directory itself, which comes before its entries.
    assert!(source.join(expected).starts_with(&path), "change of {expected} found at {path:?}");
    assert_empty(&store);
}

#[test]
fn file_that_changes_is_refused() {
    check_change_is_found("lib-data", |root| {
        open_to_write(&root.join("lib-data")).write_all(b"more").unwrap();
    });
    check_change_is_found("bin/helper", |root| {
        let file = std::fs::OpenOptions::new().write(true).open(root.join("bin/helper")).unwrap();
        file.write_all_at(b"same size", 3).unwrap();
    });
    check_change_is_found("bin/run", |root| std::fs::write(root.join("bin/run"), b"").unwrap());
    check_change_is_found("lib-data", |root| {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("lib-data"), mode).unwrap();
    });
}

#[test]
fn file_that_is_replaced_or_removed_is_refused() {
    check_change_is_found("lib-data", |root| {
        std::fs::copy(root.join("lib-data"), root.join("new")).unwrap();
        std::fs::rename(root.join("new"), root.join("lib-data")).unwrap();
    });
    check_change_is_found("lib-data", |root| {
        std::fs::remove_file(root.join("lib-data")).unwrap();
        make_pipe(&root.join("lib-data"));
    });
    check_change_is_found("lib-data", |root| {
        std::fs::rename(root.join("lib-data"), root.join("../elsewhere")).unwrap();
        symlink("../elsewhere", root.join("lib-data")).unwrap();
    });
    check_change_is_found("lib-data", |root| std::fs::remove_file(root.join("lib-data")).unwrap());
}

#[test]
fn directory_or_link_that_changes_is_refused() {
    check_change_is_found("lib/deep/empty", |root| {
        std::fs::write(root.join("lib/deep/empty/late"), b"").unwrap();
    });
    check_change_is_found("late", |root| std::fs::write(root.join("late"), b"").unwrap());
    check_change_is_found("lib/run", |root| {
        std::fs::remove_file(root.join("lib/run")).unwrap();
        symlink("../bin/helper", root.join("lib/run")).unwrap();
    });
}

#[test]
fn store_within_the_source_and_source_within_the_store_are_refused() {
    let rig = Rig::new();
    let inside = BuildStore::open(rig.source.join("store")).unwrap();
    for (path, store) in [
        (rig.source.as_path(), &inside),
        (rig.published.root(), &BuildStore::open(rig.directory.path().join("from")).unwrap()),
        (rig.store.directory(), &rig.store),
    ] {
        let refused = publish_quietly(path, store).unwrap_err();
        assert!(matches!(refused, PublishError::StoreWithin { .. }), "{refused:?}");
    }
    assert_empty(&inside);
}

#[test]
fn source_larger_than_the_stores_disk_is_refused_before_it_is_read() {
    let (_directory, source, store) = rig();
    let disk = rustix::fs::statvfs(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    file.set_len(disk.f_bavail * disk.f_frsize + (1 << 30)).unwrap();
    let mut is_begun = false;
    let refused = publish(&source, &store, Some(&mut |_| is_begun = true)).unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::NoSpace { .. })), "{refused:?}");
    assert!(!is_begun);
    assert_empty(&store);
}

#[test]
fn publishing_to_a_full_disk_leaves_nothing() {
    let Some(directory) = child_directory() else {
        let name = "publish::tests::publishing_to_a_full_disk_leaves_nothing";
        return run_on_tmpfs(name, "size=4m,nr_inodes=24");
    };
    let (_directory, source, _) = rig();
    let store = BuildStore::open(directory).unwrap();
    std::fs::write(source.join("data"), random_bytes(1, 5 << 20)).unwrap();
    let refused = publish_quietly(&source, &store).unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::NoSpace { .. })), "{refused:?}");
    assert_empty(&store);

    std::fs::remove_file(source.join("data")).unwrap();
    for number in 0..40 {
        std::fs::write(source.join(number.to_string()), b"").unwrap();
    }
    let refused = publish_quietly(&source, &store).unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::NoFilesLeft { .. })), "{refused:?}");
    assert_empty(&store);
}

#[test]
fn copy_that_the_system_refuses_leaves_nothing() {
    let Some(directory) = child_directory() else {
        let name = "publish::tests::copy_that_the_system_refuses_leaves_nothing";
        return run_with_small_files(name, 1_024);
    };
    let (source, store) = (directory.join("source"), directory.join("store"));
    let store = BuildStore::open(store).unwrap();
    std::fs::create_dir(&source).unwrap();
    for part in ["one", "two"] {
        std::fs::write(source.join(part), random_bytes(1, 1 << 20)).unwrap();
    }
    publish_quietly(&source, &store).unwrap();
    // The test itself is larger than any file it may write.
    let refused = publish_quietly(&std::env::current_exe().unwrap(), &store).unwrap_err();
    assert!(
        matches!(&refused, PublishError::Store(StoreError::Io { source, .. })
        if source.kind() == std::io::ErrorKind::FileTooLarge),
        "{refused:?}"
    );
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(names(&store.directory().join("staging")), [""; 0]);
}

/// Goal: a worker that cannot write ends the pass with its reason, with chunks still queued.
/// Method: the copy's file is deleted at the first report.
#[test]
fn failure_while_copying_ends_the_pass() {
    let (_directory, source, store) = rig();
    std::fs::write(source.join("data"), random_bytes(1, 80 << 20)).unwrap();
    let staging = store.directory().join("staging");
    let mut remove_it = |_| {
        for work in names(&staging) {
            drop(std::fs::remove_file(staging.join(work).join("tree/data")));
        }
    };
    let refused = publish(&source, &store, Some(&mut remove_it)).unwrap_err();
    assert!(
        matches!(&refused, PublishError::Store(StoreError::Io { source, .. })
        if source.kind() == std::io::ErrorKind::NotFound),
        "{refused:?}"
    );
    assert_empty(&store);
}

fn differences(path: &Path, manifest: &Manifest) -> Vec<String> {
    let verified = verify(path, Some(manifest), None).unwrap();
    verified.differences.iter().map(Difference::to_string).collect()
}

#[test]
fn verified_tree_is_named_like_the_published_one() {
    let rig = Rig::new();
    std::fs::create_dir_all(rig.source.join(".shoal/builds")).unwrap();
    for manifest in [None, Some(&**rig.manifest())] {
        let mut last = PublishProgress::default();
        let verified =
            verify(&rig.source, manifest, Some(&mut |progress| last = progress)).unwrap();
        let expected = Verification { actual: rig.published.id(), differences: vec![] };
        assert_eq!(verified, expected);
        let total = rig.manifest().build_size();
        assert_eq!(last, PublishProgress { bytes_total: total, bytes_done: total });
    }
}

#[test]
fn differences_are_named_in_path_order() {
    let rig = Rig::new();
    let root = &rig.source;
    let mut data = std::fs::read(root.join("lib-data")).unwrap();
    data[5 << 20] ^= 1;
    std::fs::write(root.join("lib-data"), data).unwrap();
    std::fs::write(root.join("bin/run"), b"short").unwrap();
    std::fs::set_permissions(root.join("bin/run"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::remove_file(root.join("lib/empty")).unwrap();
    std::fs::write(root.join("extra\n"), b"").unwrap();
    std::fs::remove_file(root.join("dangling")).unwrap();
    std::fs::create_dir(root.join("dangling")).unwrap();
    std::fs::remove_file(root.join("lib/run")).unwrap();
    symlink("../bin/helper", root.join("lib/run")).unwrap();

    let actual = verify(root, Some(rig.manifest()), None).unwrap().actual;
    assert_ne!(actual, rig.published.id());
    let expected = [
        r#""bin/run": has 5 bytes, expected 3145728"#,
        r#""bin/run": is not executable, expected executable"#,
        r#""dangling": is a directory, expected a link"#,
        r#""extra\n": not part of the build"#,
        r#""lib-data": content differs"#,
        r#""lib/empty": missing"#,
        r#""lib/run": links to "../bin/helper", expected "../bin/run""#,
    ];
    assert_eq!(differences(root, rig.manifest()), expected);
}

#[test]
fn change_in_a_chunk_of_several_files_names_them() {
    let (_directory, source, store) = rig();
    for name in ["a", "b", "c", "d", "e", "f"] {
        std::fs::write(source.join(name), name).unwrap();
    }
    let build = publish_quietly(&source, &store).unwrap().build;
    std::fs::write(source.join("d"), b"x").unwrap();
    let expected = r#""a": content differs here or in "b", "c", "d" or 2 others"#;
    assert_eq!(differences(&source, build.manifest()), [expected]);
}

#[test]
fn differences_are_counted_past_the_limit() {
    let (_directory, source, store) = rig();
    std::fs::write(source.join("kept"), b"").unwrap();
    for number in 0..120 {
        std::fs::write(source.join(format!("{number:03}")), b"").unwrap();
    }
    let build = publish_quietly(&source, &store).unwrap().build;
    for number in 0..100 {
        std::fs::remove_file(source.join(format!("{number:03}"))).unwrap();
    }
    assert_eq!(differences(&source, build.manifest()).len(), 100);
    for number in 100..120 {
        std::fs::remove_file(source.join(format!("{number:03}"))).unwrap();
    }
    let lines = differences(&source, build.manifest());
    assert_eq!((lines.len(), lines[100].as_str()), (101, "and 20 more"));
}

#[test]
fn single_file_is_verified_by_itself_or_by_its_directory() {
    let (_directory, source, store) = rig();
    let file = source.join("program");
    std::fs::write(&file, random_bytes(4, 3 << 20)).unwrap();
    let build = publish_quietly(&file, &store).unwrap().build;
    std::fs::write(source.join("neighbour"), b"not ours").unwrap();
    std::fs::rename(&file, source.join("renamed")).unwrap();
    std::fs::copy(source.join("renamed"), &file).unwrap();
    for path in [&source, &file, &source.join("renamed")] {
        let verified = verify(path, Some(build.manifest()), None).unwrap();
        assert_eq!(verified, Verification { actual: build.id(), differences: vec![] });
    }
    for path in [&file, &source.join("renamed")] {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[2 << 20] ^= 1;
        std::fs::write(path, bytes).unwrap();
        assert_eq!(differences(path, build.manifest()), [r#""program": content differs"#]);
    }
    std::fs::remove_file(&file).unwrap();
    let lines = differences(&source, build.manifest());
    assert_eq!(lines[1], r#""program": missing"#, "{lines:?}");
    let nothing = verify(&source.join("nowhere"), None, None).unwrap_err();
    assert!(matches!(nothing, VerifyError::Source(SourceError::Missing { .. })));
}
