//! Tests of the simulated disk against itself and against a real one.

use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::TempDir;

use super::{Disk, flip_bit};
use crate::*;

/// States looked at where any of them may occur.
const SEEDS: std::ops::Range<u64> = 0..200;

/// Records what `work` does in a fresh directory, which is returned.
fn recorded(work: impl FnOnce(&Path)) -> (Record, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let watching = watch(folder.path(), |_: usize, _: &Operation| Verdict::Pass).unwrap();
    work(folder.path());
    (watching.record(), folder)
}

/// All states that some seed gives after the whole record.
fn states(record: &Record) -> Vec<Tree> {
    let disk = Disk::after(record, record.operations.len());
    SEEDS.map(|seed| disk.after_power_loss(seed)).collect()
}

fn bytes<'a>(tree: &'a Tree, path: &str) -> Option<&'a [u8]> {
    match tree.nodes.get(Path::new(path))? {
        Node::File { bytes, .. } => Some(bytes),
        other => panic!("{other:?}"),
    }
}

fn write(path: &Path, bytes: &[u8]) -> DiskFile {
    let mut file = DiskFile::open(path, Open::New(0o666)).unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn unsynced_name_may_be_lost_and_unsynced_bytes_too() {
    let (record, _) = recorded(|root| drop(write(&root.join("a"), &[7; 2_000])));
    let states = states(&record);
    assert!(states.iter().any(|tree| bytes(tree, "a").is_none()), "no name");
    assert!(states.iter().any(|tree| bytes(tree, "a") == Some(&[])), "no bytes");
    assert!(states.iter().any(|tree| bytes(tree, "a") == Some(&[7; 2_000])), "all of it");
    let is_torn = |tree: &Tree| {
        bytes(tree, "a").is_some_and(|bytes| bytes.contains(&7) && bytes.contains(&0))
    };
    let torn: Vec<_> = states.iter().filter(|tree| is_torn(tree)).collect();
    assert!(!torn.is_empty(), "some of it");
    for tree in torn {
        for block in bytes(tree, "a").unwrap().chunks(512) {
            assert!(block.iter().all(|byte| *byte == block[0]), "a block is torn");
        }
    }
}

#[test]
fn synced_file_without_its_name_may_be_lost_and_comes_whole_with_it() {
    let (record, _) = recorded(|root| write(&root.join("a"), &[7; 2_000]).sync_all().unwrap());
    let states = states(&record);
    assert!(states.iter().any(|tree| bytes(tree, "a").is_none()));
    assert!(states.iter().any(|tree| bytes(tree, "a").is_some()));
    for tree in states {
        assert!(bytes(&tree, "a").is_none_or(|bytes| bytes == [7; 2_000]));
    }
}

#[test]
fn replaced_file_is_the_old_or_the_new_and_after_the_call_the_new() {
    let (record, _) = recorded(|root| {
        for byte in [1, 2] {
            let path = root.join("a");
            let scratch = scratch_beside(&path, ".new");
            replace_file(&path, &scratch, &[byte; 600], Durability::Synced).unwrap();
        }
    });
    let count = record.operations.len();
    for at in count / 2..=count {
        for seed in SEEDS {
            let tree = Disk::after(&record, at).after_power_loss(seed);
            let found = bytes(&tree, "a").unwrap();
            let is_new = found == [2; 600];
            assert!(is_new || (at < count && found == [1; 600]), "after {at} with seed {seed}");
        }
    }
}

#[test]
fn replaced_soft_state_may_come_back_torn() {
    let (record, _) = recorded(|root| {
        let scratch = root.join("scratch");
        replace_file(&root.join("a"), &scratch, &[1; 600], Durability::SoftState).unwrap();
    });
    assert!(states(&record).iter().any(|tree| bytes(tree, "a") == Some(&[])));
}

#[test]
fn rename_between_directories_is_one_change_made_durable_by_either() {
    let rename_and_sync = |synced: Option<&'static str>| {
        let (record, _) = recorded(|root| {
            for name in ["from", "to"] {
                create_dir_all_synced(&root.join(name)).unwrap();
            }
            write(&root.join("from/a"), b"x").sync_all().unwrap();
            sync_dir(&root.join("from")).unwrap();
            rename(&root.join("from/a"), &root.join("to/b")).unwrap();
            if let Some(synced) = synced {
                sync_dir(&root.join(synced)).unwrap();
            }
        });
        let places = |tree: &Tree| (bytes(tree, "from/a").is_some(), bytes(tree, "to/b").is_some());
        states(&record).iter().map(places).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(rename_and_sync(None), [(false, true), (true, false)].into());
    assert_eq!(rename_and_sync(Some("from")), [(false, true)].into());
    assert_eq!(rename_and_sync(Some("to")), [(false, true)].into());
}

#[test]
fn rename_between_two_names_of_one_file_leaves_both() {
    let (record, folder) = recorded(|root| {
        drop(write(&root.join("a"), b"x"));
        hard_link(&root.join("a"), &root.join("b")).unwrap();
        rename(&root.join("b"), &root.join("a")).unwrap();
    });
    let there = Tree::read(folder.path()).unwrap();
    assert_eq!(there.nodes.len(), 2, "what the system does");
    assert_eq!(Disk::after(&record, record.operations.len()).current(), there);
}

#[test]
fn synced_directory_without_its_own_name_may_be_lost() {
    let (record, _) = recorded(|root| {
        create_dir_all(&root.join("a/b")).unwrap();
        sync_dir(&root.join("a")).unwrap();
    });
    let states = states(&record);
    assert!(states.iter().any(|tree| tree.nodes.is_empty()));
    assert!(states.iter().any(|tree| tree.nodes.contains_key(Path::new("a"))));
    for tree in states {
        assert_ne!(tree.nodes.len(), 1, "b was synced into a");
    }
}

#[test]
fn removal_that_was_not_synced_may_be_undone_with_the_old_bytes() {
    let (record, _) = recorded(|root| {
        write(&root.join("a"), b"old").sync_all().unwrap();
        sync_dir(root).unwrap();
        remove_file(&root.join("a")).unwrap();
    });
    let found: std::collections::BTreeSet<_> =
        states(&record).iter().map(|tree| bytes(tree, "a").map(<[u8]>::to_vec)).collect();
    assert_eq!(found, [None, Some(b"old".to_vec())].into());
}

#[test]
fn removed_directory_is_gone_only_with_what_was_in_it() {
    let (record, _) = recorded(|root| {
        create_dir(&root.join("d")).unwrap();
        drop(write(&root.join("d/a"), b""));
        sync_file_system(root).unwrap();
        remove_dir_all(&root.join("d")).unwrap();
    });
    let counts: std::collections::BTreeSet<usize> =
        states(&record).iter().map(|tree| tree.nodes.len()).collect();
    assert_eq!(counts, [0, 1, 2].into());
}

#[test]
fn failed_sync_is_not_made_good_by_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut has_failed = false;
    let fail_once = move |_: usize, operation: &Operation| {
        let is_first = operation.is_sync() && !std::mem::replace(&mut has_failed, true);
        if is_first { Verdict::Fail(Errno::IO) } else { Verdict::Pass }
    };
    // The first sync is that of the file.
    let watching = watch(folder.path(), fail_once).unwrap();
    let file = write(&folder.path().join("a"), &[7; 512]);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    file.sync_data().unwrap();
    sync_dir(folder.path()).unwrap();
    let lost = |tree: &Tree| bytes(tree, "a") == Some(&[0; 512]);
    assert!(states(&watching.record()).iter().any(lost));
    file.write_all_at(&[7; 512], 0).unwrap();
    file.sync_data().unwrap();
    for tree in states(&watching.record()) {
        assert_eq!(bytes(&tree, "a"), Some(&[7; 512][..]));
    }
}

#[test]
fn torn_write_and_failed_operation_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = |_: usize, operation: &Operation| match operation {
        Operation::Write { .. } => Verdict::Tear { bytes: 5, errno: Errno::NOSPC },
        Operation::Rename { .. } => Verdict::Fail(Errno::ROFS),
        _ => Verdict::Pass,
    };
    let watching = watch(folder.path(), verdict).unwrap();
    let file = DiskFile::open(&folder.path().join("a"), Open::New(0o600)).unwrap();
    let error = file.write_all_at(b"0123456789", 0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let error = rename(&folder.path().join("a"), &folder.path().join("b")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let there = Tree::read(folder.path()).unwrap();
    assert_eq!(bytes(&there, "a"), Some(&b"01234"[..]));
    assert_eq!(Disk::after(&watching.record(), watching.count()).current(), there);
}

#[test]
fn without_power_nothing_reaches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let stop = |number: usize, _: &Operation| {
        if number == 2 { Verdict::Stop } else { Verdict::Pass }
    };
    let watching = watch(folder.path(), stop).unwrap();
    let path = folder.path().join("a");
    let error = replace_file(&path, &folder.path().join("s"), b"x", Durability::Synced);
    let is_power_lost = |error: std::io::Error| error.downcast::<PowerLost>().is_ok();
    assert!(is_power_lost(error.unwrap_err()));
    assert!(!watching.has_power());
    assert!(is_power_lost(create_dir(&folder.path().join("d")).unwrap_err()));
    // The scratch was made, which is operation 1 after the look for a leftover, but not written.
    assert_eq!(watching.count(), 2);
    assert_eq!(bytes(&Tree::read(folder.path()).unwrap(), "s"), Some(&[][..]));
    drop(watching);
    create_dir(&folder.path().join("d")).unwrap();
}

#[test]
fn other_directories_go_unseen() {
    let (watched, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let watching = watch(watched.path(), |_: usize, _: &Operation| Verdict::Stop).unwrap();
    create_dir(&other.path().join("d")).unwrap();
    assert_eq!(watching.count(), 0);
    assert!(watching.has_power());
}

#[test]
fn flipped_bit_is_one_bit_of_a_file_that_was_meant() {
    let (record, _) = recorded(|root| {
        for name in ["a", "b"] {
            drop(write(&root.join(name), &[0; 100]));
        }
    });
    let whole = Disk::after(&record, record.operations.len()).current();
    for seed in SEEDS {
        let mut tree = whole.clone();
        let (path, position) = flip_bit(&mut tree, seed, |path| path.ends_with("b")).unwrap();
        assert_eq!(path, Path::new("b"));
        assert_eq!(bytes(&tree, "a"), Some(&[0; 100][..]));
        let flipped = bytes(&tree, "b").unwrap();
        assert_eq!(flipped[position].count_ones(), 1);
        assert_eq!(flipped.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
    assert_eq!(flip_bit(&mut Tree::default(), 1, |_| true), None);
}

/// One step of a random script; numbers choose among few names, so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Write { name: u8, offset: u16, byte: u8, size: u16 },
    SetLength { name: u8, length: u16 },
    SyncFile { name: u8 },
    MakeDirectory { name: u8 },
    Remove { name: u8 },
    Rename { from: u8, to: u8 },
    Exchange { one: u8, other: u8 },
    Link { from: u8, to: u8 },
    Symlink { name: u8 },
    SyncDirectory { name: u8 },
    SyncAll,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..12_u8;
    prop_oneof![
        4 => (name(), 0..3_000_u16, 1..255_u8, 0..2_000_u16)
            .prop_map(|(name, offset, byte, size)| Step::Write { name, offset, byte, size }),
        1 => (name(), 0..3_000_u16).prop_map(|(name, length)| Step::SetLength { name, length }),
        2 => name().prop_map(|name| Step::SyncFile { name }),
        2 => name().prop_map(|name| Step::MakeDirectory { name }),
        1 => name().prop_map(|name| Step::Remove { name }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => (name(), name()).prop_map(|(one, other)| Step::Exchange { one, other }),
        1 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => name().prop_map(|name| Step::Symlink { name }),
        1 => name().prop_map(|name| Step::SyncDirectory { name }),
        1 => Just(Step::SyncAll),
    ]
}

/// Four names in the root, four in each of two directories.
fn place(root: &Path, name: u8) -> std::path::PathBuf {
    let parent = ["", "0", "1"][usize::from(name / 4)];
    root.join(parent).join((name % 4).to_string())
}

/// Carries a step out. What the real disk refuses is of no interest.
fn take(root: &Path, step: &Step) -> std::io::Result<()> {
    let place = |name: &u8| place(root, *name);
    let open = |name: &u8| {
        let path = place(name);
        DiskFile::open(&path, Open::ReadWrite).or_else(|_| DiskFile::open(&path, Open::New(0o644)))
    };
    match step {
        Step::Write { name, offset, byte, size } => {
            open(name)?.write_all_at(&vec![*byte; usize::from(*size)], u64::from(*offset))
        }
        Step::SetLength { name, length } => open(name)?.set_len(u64::from(*length)),
        Step::SyncFile { name } => open(name)?.sync_all(),
        Step::MakeDirectory { name } => create_dir(&place(name)),
        Step::Remove { name } => remove_dir_all(&place(name)),
        Step::Rename { from, to } => rename(&place(from), &place(to)),
        Step::Exchange { one, other } => exchange(&place(one), &place(other)),
        Step::Link { from, to } => hard_link(&place(from), &place(to)),
        Step::Symlink { name } => symlink(Path::new("somewhere"), &place(name)),
        Step::SyncDirectory { name } => sync_dir(&place(name)),
        Step::SyncAll => sync_file_system(root),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: without a loss the model has what a real file system has; with all synced nothing is
    /// lost; a seed always gives the same bytes; what is lost never mixes with what was synced.
    #[test]
    fn model_agrees_with_a_real_disk(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let (record, folder) = recorded(|root| {
            for step in &steps {
                take(root, step).ok();
            }
        });
        let mut disk = Disk::after(&record, record.operations.len());
        let there = Tree::read(folder.path()).unwrap();
        prop_assert_eq!(&disk.current(), &there);
        let after = disk.after_power_loss(seed);
        prop_assert_eq!(&disk.after_power_loss(seed), &after);
        // What was there by then can be made real.
        let real = tempfile::tempdir().unwrap();
        after.write(real.path()).unwrap();
        prop_assert_eq!(&Tree::read(real.path()).unwrap(), &after);
        disk.apply(&Recorded {
            operation: Operation::SyncFileSystem { path: "".into() },
            outcome: Outcome::Done,
        });
        prop_assert_eq!(&disk.after_power_loss(seed), &there);
    }

    /// Goal: writes that were not synced change nothing outside of their blocks.
    #[test]
    fn only_unsynced_blocks_are_torn(
        writes in prop::collection::vec((0..9_000_u64, 0..1_500_usize), 1..8),
        seed: u64,
    ) {
        let (record, _) = recorded(|root| {
            let file = write(&root.join("a"), &[1; 10_500]);
            sync_file_system(root).unwrap();
            for (offset, size) in &writes {
                file.write_all_at(&vec![2; *size], *offset).unwrap();
            }
        });
        let tree = Disk::after(&record, record.operations.len()).after_power_loss(seed);
        let found = bytes(&tree, "a").unwrap();
        prop_assert_eq!(found.len(), 10_500);
        for (position, byte) in (0_u64..).zip(found) {
            let is_in = |(offset, size): &(u64, usize)| {
                (*offset..offset + *size as u64).contains(&position)
            };
            prop_assert!(*byte == 1 || writes.iter().any(is_in), "at {}", position);
        }
    }
}
