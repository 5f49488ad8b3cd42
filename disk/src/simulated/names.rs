//! The names of a simulated disk: directories, and the changes to them that are not durable yet.
//!
//! Invariant: a change is kept only with those that it builds on. Which of the others are kept is
//! drawn from the seed, and equal seeds draw alike.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::file::SimulatedFile;
use super::prng::{Chance, Prng};
use crate::operation::{Open, Operation, Outcome, Recorded};
use crate::record::{Node, Record, Tree};

/// A position in the table of inodes. Inodes are never forgotten.
type Inode = usize;

/// The directory that was watched.
const ROOT: Inode = 0;

/// Permission bits that new files do not get, as with the usual umask.
const UMASK: u32 = 0o022;

/// A disk on which a record is played back; see [the module](super) for its rules.
#[derive(Clone, Debug)]
pub struct Disk {
    inodes: Vec<Content>,
    handles: BTreeMap<u64, Inode>,
    /// Changes of names that are not durable, oldest first.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Content {
    Directory(Directory),
    File(SimulatedFile),
    Symlink(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    current: BTreeMap<OsString, Inode>,
    durable: BTreeMap<OsString, Inode>,
}

/// Names that are kept or lost together.
#[derive(Clone, Debug)]
struct Change {
    /// Directory, name, and what the name leads to afterwards.
    entries: Vec<(Inode, OsString, Option<Inode>)>,
    /// The directory that is removed by it.
    removed: Option<Inode>,
}

impl Change {
    fn touches(&self, directory: Inode) -> bool {
        self.entries.iter().any(|(parent, ..)| *parent == directory)
    }

    /// Whether this one is never kept without `earlier`.
    fn builds_on(&self, earlier: &Self) -> bool {
        let is_same = |(parent, name, _): &(Inode, OsString, Option<Inode>)| {
            earlier.entries.iter().any(|(other, its, _)| parent == other && name == its)
        };
        self.entries.iter().any(is_same)
            || self.removed.is_some_and(|removed| earlier.touches(removed))
    }
}

impl Disk {
    /// The disk after the first `count` operations of a record.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn after(record: &Record, count: usize) -> Self {
        let mut disk = Self::new(&record.initial);
        for recorded in &record.operations[..count] {
            disk.apply(recorded);
        }
        disk
    }

    /// A disk that holds `initial`, durable.
    fn new(initial: &Tree) -> Self {
        let root = Content::Directory(Directory::default());
        let mut disk = Self { inodes: vec![root], handles: BTreeMap::new(), pending: vec![] };
        for (path, node) in &initial.nodes {
            let content = match node {
                Node::Directory => Content::Directory(Directory::default()),
                Node::File { bytes, mode } => Content::File(SimulatedFile::durable(bytes, *mode)),
                Node::Symlink { target } => Content::Symlink(target.clone()),
            };
            let (inode, (parent, name)) = (disk.add(content), disk.place_of(path));
            disk.directory(parent).current.insert(name.clone(), inode);
            disk.directory(parent).durable.insert(name, inode);
        }
        disk
    }

    /// Does what the record says.
    ///
    /// # Panics
    ///
    /// If it does not fit what was done before: the record is not from one root, or is cut.
    pub fn apply(&mut self, recorded: &Recorded) {
        match (&recorded.operation, recorded.outcome) {
            (operation, Outcome::Done) => self.carry_out(operation),
            (Operation::Write { handle, offset, bytes, .. }, Outcome::Failed { written }) => {
                // It could not be opened, so nothing is written to it.
                self.file(*handle).write(*offset, &bytes[..written]);
            }
            (
                Operation::SyncData { handle, .. } | Operation::SyncAll { handle, .. },
                Outcome::Failed { .. },
            ) => self.file(*handle).fail_sync(),
            (Operation::SyncFileSystem { .. }, Outcome::Failed { .. }) => {
                for file in self.files() {
                    file.fail_sync();
                }
            }
            (_, Outcome::Failed { .. }) => {}
        }
    }

    /// What is there if the disk was synced, or if only processes were killed.
    pub fn current(&self) -> Tree {
        self.tree(|directory| &directory.current, SimulatedFile::current)
    }

    /// What is there after the power was lost at this moment; one of many possibilities.
    pub fn after_power_loss(&self, seed: u64) -> Tree {
        let mut prng = Prng::new(seed);
        let (names, data) = (Chance::draw(&mut prng), Chance::draw(&mut prng));
        let mut kept = BTreeSet::new();
        for (number, change) in self.pending.iter().enumerate() {
            let earlier = self.pending[..number].iter().enumerate();
            let can_be_kept =
                earlier.filter(|(_, e)| change.builds_on(e)).all(|(e, _)| kept.contains(&e));
            if can_be_kept && names.hits(&mut prng) {
                kept.insert(number);
            }
        }
        let mut after = self.clone();
        after.make_durable(&kept);
        after.tree(|directory| &directory.durable, |file| file.after_power_loss(data, &mut prng))
    }

    fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::Open { path, handle, how } => self.open(path, *handle, *how),
            Operation::Write { handle, offset, bytes, .. } => {
                self.file(*handle).write(*offset, bytes);
            }
            Operation::SetLength { handle, length, .. } => self.file(*handle).set_len(*length),
            Operation::Allocate { handle, length, .. } => self.file(*handle).allocate(*length),
            Operation::SetMode { handle, mode, .. } => {
                // Those of directories are not part of the model.
                if let Content::File(file) = &mut self.inodes[self.handles[handle]] {
                    file.set_mode(*mode);
                }
            }
            Operation::SyncData { handle, .. } => self.file(*handle).sync_data(),
            Operation::SyncAll { handle, .. } => self.file(*handle).sync_all(),
            Operation::SyncDirectory { path } => {
                let directory = self.find(path);
                self.sync_directory(directory);
            }
            Operation::SyncFileSystem { .. } => {
                for file in self.files() {
                    file.sync_all();
                }
                self.make_durable(&(0..self.pending.len()).collect());
            }
            Operation::CreateDirectory { path } => {
                let inode = self.add(Content::Directory(Directory::default()));
                self.change([(path.as_path(), Some(inode))], None);
            }
            Operation::RemoveDirectory { path } => {
                let removed = self.find(path);
                self.change([(path.as_path(), None)], Some(removed));
            }
            Operation::RemoveFile { path } => self.change([(path.as_path(), None)], None),
            Operation::Rename { from, to } => {
                let inode = self.find(from);
                match to {
                    // Two names of one file: rename(2) does nothing, both stay.
                    Some(to) if self.look_up(to) == Some(inode) => {}
                    Some(to) => {
                        self.change([(from.as_path(), None), (to.as_path(), Some(inode))], None);
                    }
                    None => self.change([(from.as_path(), None)], None),
                }
            }
            Operation::Exchange { one, other } => {
                let (first, second) = (self.find(one), self.find(other));
                let entries = [(one.as_path(), Some(second)), (other.as_path(), Some(first))];
                self.change(entries, None);
            }
            Operation::Symlink { path, target } => {
                let inode = self.add(Content::Symlink(target.clone()));
                self.change([(path.as_path(), Some(inode))], None);
            }
            Operation::HardLink { from, to } => {
                let inode = self.find(from);
                self.change([(to.as_path(), Some(inode))], None);
            }
        }
    }

    fn open(&mut self, path: &Path, handle: u64, how: Open) {
        let found = self.look_up(path);
        let inode = match (how, found) {
            (Open::New(mode), _) | (Open::Empty(mode), None) => {
                let inode = self.add(Content::File(SimulatedFile::new(mode & !UMASK)));
                self.change([(path, Some(inode))], None);
                inode
            }
            (_, found) => {
                found.unwrap_or_else(|| panic!("{} was opened, but is not there", path.display()))
            }
        };
        self.handles.insert(handle, inode);
        if matches!(how, Open::Empty(_)) {
            self.file(handle).set_len(0);
        }
    }

    fn sync_directory(&mut self, directory: Inode) {
        let mut synced = BTreeSet::new();
        for (number, change) in self.pending.iter().enumerate().rev() {
            if change.touches(directory)
                || synced.iter().any(|later: &usize| self.pending[*later].builds_on(change))
            {
                synced.insert(number);
            }
        }
        self.make_durable(&synced);
    }

    fn make_durable(&mut self, numbers: &BTreeSet<usize>) {
        let pending = std::mem::take(&mut self.pending);
        for (number, change) in pending.into_iter().enumerate() {
            if !numbers.contains(&number) {
                self.pending.push(change);
                continue;
            }
            for (parent, name, inode) in change.entries {
                set(&mut self.directory(parent).durable, name, inode);
            }
        }
    }

    fn change<const N: usize>(
        &mut self,
        names: [(&Path, Option<Inode>); N],
        removed: Option<Inode>,
    ) {
        let mut entries = vec![];
        for (path, inode) in names {
            let (parent, name) = self.place_of(path);
            set(&mut self.directory(parent).current, name.clone(), inode);
            entries.push((parent, name, inode));
        }
        self.pending.push(Change { entries, removed });
    }

    fn add(&mut self, content: Content) -> Inode {
        self.inodes.push(content);
        self.inodes.len() - 1
    }

    fn directory(&mut self, inode: Inode) -> &mut Directory {
        match &mut self.inodes[inode] {
            Content::Directory(directory) => directory,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn file(&mut self, handle: u64) -> &mut SimulatedFile {
        match &mut self.inodes[self.handles[&handle]] {
            Content::File(file) => file,
            other => panic!("not a file: {other:?}"),
        }
    }

    fn files(&mut self) -> impl Iterator<Item = &mut SimulatedFile> {
        self.inodes.iter_mut().filter_map(|content| match content {
            Content::File(file) => Some(file),
            _ => None,
        })
    }

    /// The directory that holds `path`, and the name in it.
    fn place_of(&self, path: &Path) -> (Inode, OsString) {
        let name = path.file_name().unwrap_or_else(|| panic!("{} has no name", path.display()));
        (self.find(path.parent().unwrap_or(Path::new(""))), name.to_owned())
    }

    fn find(&self, path: &Path) -> Inode {
        self.look_up(path)
            .unwrap_or_else(|| panic!("{} was used, but is not there", path.display()))
    }

    fn look_up(&self, path: &Path) -> Option<Inode> {
        path.iter().try_fold(ROOT, |inode, name| match &self.inodes[inode] {
            Content::Directory(directory) => directory.current.get(name).copied(),
            Content::File(_) | Content::Symlink(_) => None,
        })
    }

    fn tree<'a>(
        &'a self,
        names: impl Fn(&'a Directory) -> &'a BTreeMap<OsString, Inode>,
        mut bytes: impl FnMut(&SimulatedFile) -> (std::sync::Arc<[u8]>, u32),
    ) -> Tree {
        let mut tree = Tree::default();
        let mut unlisted = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = unlisted.pop() {
            let node = match &self.inodes[inode] {
                Content::Symlink(target) => Node::Symlink { target: target.clone() },
                Content::File(file) => {
                    let (bytes, mode) = bytes(file);
                    Node::File { bytes, mode }
                }
                Content::Directory(directory) => {
                    let below = names(directory).iter();
                    unlisted.extend(below.map(|(name, inode)| (path.join(name), *inode)));
                    Node::Directory
                }
            };
            if inode != ROOT {
                tree.nodes.insert(path, node);
            }
        }
        tree
    }
}

fn set(names: &mut BTreeMap<OsString, Inode>, name: OsString, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name, inode),
        None => names.remove(&name),
    };
}
