//! Hears at once when something changes in the directory of a goal store (inotify).
//!
//! Invariant: [`FolderWatch::covers`] is true only where the kernel reports every change: on a file
//! system of this machine, reached without links. Network file systems are silent when another
//! machine writes, and a link on the way that is pointed elsewhere raises no event. Users of the
//! watch have to poll for everything else.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{inotify, statfs};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// File systems that only this machine's kernel writes: ext, XFS, Btrfs, tmpfs, F2FS, ZFS and
/// bcachefs, by the numbers that statfs gives. Overlays are not here: writes into a layer from
/// outside raise no event.
const OWN_FILE_SYSTEMS: [u64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// Bytes of events read at once; what they say does not matter, so they need not fit.
const EVENTS_BYTES: usize = 4 << 10;

/// Watches a few directories.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    events: AsyncFd<OwnedFd>,
}

impl FolderWatch {
    /// Watches nothing yet; `None` if the system has no watch to give. Must be called within a
    /// runtime.
    pub(crate) fn new() -> Option<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let events = inotify::init(flags).ok()?;
        #[expect(
            deprecated,
            reason = "unsound only for types that lie about their descriptor, which OwnedFd does \
                      not; the replacement is an unsafe function"
        )]
        let events = AsyncFd::with_interest(events, Interest::READABLE).ok()?;
        Some(Self { events })
    }

    /// Watches the directories as they are now. Returns whether every change of what lies directly
    /// in them will be heard from here on. Blocks. May be called again for the same directories,
    /// and must be now and then, because another directory may have taken the place of one.
    pub(crate) fn covers(&self, directories: &[&Path]) -> bool {
        // All of them, even after one that is not covered: what is heard early is worth something.
        let covered = directories.iter().filter(|directory| self.watch(directory)).count();
        covered == directories.len()
    }

    fn watch(&self, directory: &Path) -> bool {
        // A write is reported when the file is closed: half of a document says nothing.
        let flags = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF
            | inotify::WatchFlags::ONLYDIR;
        let is_direct = fs::canonicalize(directory).is_ok_and(|real| real == directory);
        let kind = statfs(directory).ok().and_then(|found| u64::try_from(found.f_type).ok());
        let is_own = kind.is_some_and(|kind| OWN_FILE_SYSTEMS.contains(&kind));
        is_direct && is_own && inotify::add_watch(&self.events, directory, flags).is_ok()
    }

    /// Waits until something has happened since the last call.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped and called again.
    pub(crate) async fn heard(&self) {
        // Only without the runtime's driver, whose end is the end of the watcher, too.
        let Ok(mut ready) = self.events.readable().await else {
            return std::future::pending().await;
        };
        let mut buffer = [0; EVENTS_BYTES];
        while let Ok(1..) | Err(Errno::INTR) = rustix::io::read(&self.events, &mut buffer) {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// On a file system that is this machine's own wherever the tests run.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[tokio::test]
    async fn only_directories_of_this_machine_without_links_are_covered() {
        let root = directory();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let watch = FolderWatch::new().unwrap();
        assert!(watch.covers(&[root.path(), &real]));
        assert!(watch.covers(&[&real]), "again");
        assert!(!watch.covers(&[root.path(), &link]), "behind a link");
        assert!(!watch.covers(&[Path::new("/proc/self")]), "not a file system of files");
        assert!(!watch.covers(&[root.path(), &root.path().join("missing")]));
    }

    /// Goal: whatever changes a document is heard.
    /// Method: each way to change one, after everything before was heard; unheard, it never ends.
    #[tokio::test]
    async fn every_way_to_change_a_document_is_heard() {
        let root = directory();
        let (goal, other) = (root.path().join("web.json"), root.path().join("other"));
        let watch = FolderWatch::new().unwrap();
        assert!(watch.covers(&[root.path()]));
        let ways: [&dyn Fn(); 5] = [
            &|| fs::write(&goal, "one").unwrap(),
            &|| fs::write(&goal, "two").unwrap(),
            &|| fs::rename(&goal, &other).unwrap(),
            &|| fs::hard_link(&other, &goal).unwrap(),
            &|| fs::remove_file(&goal).unwrap(),
        ];
        for change in ways {
            change();
            watch.heard().await;
        }
    }
}
