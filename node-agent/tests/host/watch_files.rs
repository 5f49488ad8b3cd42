//! Watched files that are written, replaced, removed, linked, and come into being with their
//! folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node_agent::host::{FileWatch, WatchTimings};

use crate::rig::within;

/// No change is found by looking now and then: only events count.
fn events_only() -> WatchTimings {
    WatchTimings {
        quiet: Duration::from_millis(20),
        quiet_max: Duration::from_secs(2),
        poll: Duration::from_hours(1),
        audit: Duration::from_hours(1),
    }
}

/// A folder with a watched file beside another one, which shows that all earlier events were seen.
struct Watched {
    folder: tempfile::TempDir,
    path: PathBuf,
    bell: PathBuf,
    rings: u32,
    watch: FileWatch,
}

impl Watched {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, bell) = (folder.path().join("web.conf"), folder.path().join("bell"));
        fs::write(&path, "first").unwrap();
        let watch = FileWatch::start_with(&[path.clone(), bell.clone()], events_only());
        Self { folder, path, bell, rings: 0, watch }
    }

    async fn expect_change(&mut self) {
        assert_eq!(within(self.watch.changed()).await, self.path);
    }

    /// Rings the bell; had the file changed, that would be reported first or with it.
    async fn expect_no_change(&mut self) {
        self.rings += 1;
        fs::write(&self.bell, self.rings.to_string()).unwrap();
        assert_eq!(within(self.watch.changed()).await, self.bell);
    }

    fn replace(&self, content: &str) {
        let beside = self.folder.path().join("web.conf.new");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, &self.path).unwrap();
    }
}

#[tokio::test]
async fn file_counts_when_its_content_is_another_one_however_it_was_written() {
    let mut watched = Watched::new();
    watched.expect_no_change().await;
    fs::write(&watched.path, "second").unwrap();
    watched.expect_change().await;
    watched.replace("third");
    watched.expect_change().await;
    // The same again, by the same and by another way.
    fs::write(&watched.path, "third").unwrap();
    watched.expect_no_change().await;
    watched.replace("third");
    watched.expect_no_change().await;
}

#[tokio::test]
async fn file_that_is_gone_counts_only_when_it_comes_back_different() {
    let mut watched = Watched::new();
    fs::remove_file(&watched.path).unwrap();
    watched.expect_no_change().await;
    fs::write(&watched.path, "first").unwrap();
    watched.expect_no_change().await;
    fs::remove_file(&watched.path).unwrap();
    fs::write(&watched.path, "second").unwrap();
    watched.expect_change().await;
}

/// Goal: many writes in a row are one change.
#[tokio::test]
async fn file_is_looked_at_once_it_is_quiet() {
    let mut watched = Watched::new();
    for step in 0..100 {
        fs::write(&watched.path, format!("step {step}")).unwrap();
    }
    watched.expect_change().await;
    watched.expect_no_change().await;
}

#[tokio::test]
async fn change_is_not_lost_when_nobody_waits_for_it() {
    let mut watched = Watched::new();
    fs::write(&watched.path, "second").unwrap();
    // Dropped in the middle of the wait for quiet, as by a loop that has other things to do.
    let impatient = async {
        loop {
            let wait = Duration::from_millis(3);
            if let Ok(path) = tokio::time::timeout(wait, watched.watch.changed()).await {
                return path;
            }
        }
    };
    assert_eq!(within(impatient).await, watched.path);
}

#[tokio::test]
async fn link_counts_when_it_is_turned_and_when_its_target_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let real = |name: &str| folder.path().join(name);
    for name in ["one", "two", "here"] {
        fs::create_dir(real(name)).unwrap();
        fs::write(real(name).join("web.conf"), name).unwrap();
    }
    let link = real("here").join("link.conf");
    symlink("../one/web.conf", &link).unwrap();
    let mut watch = FileWatch::start_with(std::slice::from_ref(&link), events_only());
    fs::write(real("one/web.conf"), "written").unwrap();
    assert_eq!(within(watch.changed()).await, link);
    symlink("../two/web.conf", real("here/next")).unwrap();
    fs::rename(real("here/next"), &link).unwrap();
    assert_eq!(within(watch.changed()).await, link);
    // The new target is watched from here on.
    fs::write(real("two/web.conf"), "written again").unwrap();
    assert_eq!(within(watch.changed()).await, link);
}

/// Goal: a folder that is missing, and one that is replaced as a whole, are watched once they are
/// there.
/// Method: folders are looked for often, files in folders that are there are not.
#[tokio::test]
async fn folder_may_come_later_and_be_another_one() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("etc");
    let path = folder.join("web.conf");
    let timings = WatchTimings { poll: Duration::from_millis(10), ..events_only() };
    let mut watch = FileWatch::start_with(std::slice::from_ref(&path), timings);
    let write = |folder: &Path, content: &str| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("web.conf"), content).unwrap();
    };
    write(&folder, "first");
    assert_eq!(within(watch.changed()).await, path);
    fs::write(&path, "second").unwrap();
    assert_eq!(within(watch.changed()).await, path);
    fs::remove_dir_all(&folder).unwrap();
    write(&folder, "third");
    assert_eq!(within(watch.changed()).await, path);
    fs::write(&path, "fourth").unwrap();
    assert_eq!(within(watch.changed()).await, path);
}
