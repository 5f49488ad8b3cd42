//! Files outside the build whose changes matter to an app, such as its configuration.
//!
//! Owns the settings and the watch (inotify). A change counts once the file is quiet and differs in
//! content: editors write a file in several steps. A file that is gone does not count, but coming
//! back with other content does: a program that runs is worth more than one without configuration.
//!
//! The folders are watched, not the files, because a file that is replaced is another file. Changes
//! that raise no event (links on the way, network file systems) are looked for now and then.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use p2p_core::Digest;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// What follows a change of a watched file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnChange {
    /// The program is replaced, as for a new build.
    #[default]
    Restart,
    /// The program is told to read its configuration again: SIGHUP, or `systemctl reload`.
    Reload,
}

/// The watched files of one app.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WatchedFiles {
    /// Absolute paths; a file may be missing.
    pub files: Vec<PathBuf>,
    /// What follows a change.
    pub on_change: OnChange,
}

/// How much of a file is read; of a longer one, its length and time count beside the beginning. A
/// configuration is far shorter.
const CONTENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// When files are looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WatchTimings {
    /// How long nothing may happen in a folder before its files are looked at.
    pub quiet: Duration,
    /// How long they are not looked at because something happens all the time.
    pub quiet_max: Duration,
    /// How often they are looked at where no event can come: a folder is missing, or the system has
    /// no inotify watch left.
    pub poll: Duration,
    /// How often they are looked at although no event came.
    pub audit: Duration,
}

impl WatchTimings {
    /// Configuration of servers: people and tools write it in less than a blink.
    pub const fn fleet() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            quiet_max: Duration::from_secs(2),
            poll: Duration::from_secs(2),
            audit: Duration::from_secs(30),
        }
    }
}

/// A watch on files. Ends when it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    timings: WatchTimings,
    files: Vec<File>,
    /// The folders with events.
    folders: BTreeSet<PathBuf>,
    /// `None` if the system gave no inotify instance.
    watcher: Option<RecommendedWatcher>,
    /// Whether it was logged that the system has no watches left.
    is_limit_logged: bool,
    events: mpsc::Receiver<()>,
    /// Keeps `events` open without a watcher.
    _sender: mpsc::Sender<()>,
    /// What happened since the files were looked at.
    stir: Option<Stir>,
    /// When they were looked at last.
    looked_at: Instant,
    changed: VecDeque<PathBuf>,
}

/// Events that were not followed by a look at the files yet. Kept here and not in a future, which
/// may be dropped and made anew all the time.
#[derive(Clone, Copy, Debug)]
struct Stir {
    first: Instant,
    last: Instant,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    /// As it was when its content was read last; `None` if that has to be done again.
    seen: Option<Signature>,
    /// What it contained then; `None` if it was never there.
    content: Option<Digest>,
}

/// What changes with the content, without reading it: device, inode and length, times of change.
type Signature = ([u64; 3], [i64; 4]);

impl FileWatch {
    /// Watches `files`, which may be missing; what they contain now is no change.
    ///
    /// Must be called within a tokio runtime. Never fails: without inotify the files are polled,
    /// and the log says so.
    pub fn start(files: &[PathBuf]) -> Self {
        Self::start_with(files, WatchTimings::fleet())
    }

    /// [`Self::start`] with other timings.
    pub fn start_with(files: &[PathBuf], timings: WatchTimings) -> Self {
        Self::start_by(files, timings, notify::recommended_watcher)
    }

    fn start_by<F>(files: &[PathBuf], timings: WatchTimings, make: F) -> Self
    where
        F: FnOnce(Handler) -> notify::Result<RecommendedWatcher>,
    {
        let (sender, events) = mpsc::channel(1);
        // A watcher is a thread and one of the few that the system gives a user.
        let watcher = (!files.is_empty()).then(|| make(Handler { sender: sender.clone() }));
        let watcher = watcher.and_then(|made| made.inspect_err(warn_of_polling).ok());
        let files = files.iter().map(|path| File { path: path.clone(), seen: None, content: None });
        let mut watch = Self {
            timings,
            files: files.collect(),
            folders: BTreeSet::new(),
            is_limit_logged: watcher.is_none(),
            watcher,
            events,
            _sender: sender,
            stir: None,
            looked_at: Instant::now(),
            changed: VecDeque::new(),
        };
        // The folders first: what is written between the two steps is seen twice rather than never.
        watch.watch_folders();
        for file in &mut watch.files {
            file.look();
        }
        watch
    }

    /// Waits until the content of a file is another one, and returns the file's path.
    ///
    /// # Cancel safety
    ///
    /// No change is lost if the future is dropped.
    pub async fn changed(&mut self) -> PathBuf {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            if let Some(path) = self.changed.pop_front() {
                return path;
            }
            self.next_stir().await;
            self.watch_folders();
            let mut files = self.files.clone();
            // A file may be on a network file system that hangs.
            let look = move || {
                let changed: Vec<_> = files
                    .iter_mut()
                    .filter_map(|file| file.look().then(|| file.path.clone()))
                    .collect();
                (files, changed)
            };
            if let Ok((files, changed)) = tokio::task::spawn_blocking(look).await {
                self.files = files;
                self.changed.extend(changed);
            }
            self.stir = None;
            self.looked_at = Instant::now();
        }
    }

    /// Waits until there may be something to see, and then until it is quiet.
    async fn next_stir(&mut self) {
        let has_all = self.watcher.is_some() && self.wanted_folders().len() == self.folders.len();
        let pause = if has_all { self.timings.audit } else { self.timings.poll };
        loop {
            let due = match self.stir {
                None => self.looked_at + pause,
                Some(stir) => {
                    (stir.last + self.timings.quiet).min(stir.first + self.timings.quiet_max)
                }
            };
            // In this order, or a folder in which something happens all the time is never looked
            // at.
            tokio::select! {
                biased;
                () = sleep_until(due) => return,
                _ = self.events.recv() => {
                    let now = Instant::now();
                    self.stir = Some(Stir { first: self.stir.map_or(now, |stir| stir.first), last: now });
                }
            }
        }
    }

    /// The folders of the files, and of what they link to.
    fn wanted_folders(&self) -> BTreeSet<PathBuf> {
        let real = self.files.iter().filter_map(|file| fs::canonicalize(&file.path).ok());
        let paths = self.files.iter().map(|file| file.path.clone()).chain(real);
        paths.filter_map(|path| path.parent().map(Path::to_owned)).collect()
    }

    /// Watches the folders that are there now. After an event all of them anew: a folder may be
    /// another one by the same name, and the watch on the old one is of no use.
    fn watch_folders(&mut self) {
        let wanted = self.wanted_folders();
        let Some(watcher) = &mut self.watcher else { return };
        let is_stirred = self.stir.is_some();
        self.folders.retain(|folder| {
            let is_kept = !is_stirred && wanted.contains(folder);
            if !is_kept {
                // An error says that the watch went with the folder.
                drop(watcher.unwatch(folder));
            }
            is_kept
        });
        for folder in wanted {
            if self.folders.contains(&folder) || !folder.is_dir() {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(folder);
                }
                Err(error) if !self.is_limit_logged => {
                    warn_of_polling(&error);
                    self.is_limit_logged = true;
                }
                Err(_) => {}
            }
        }
    }
}

impl File {
    /// Takes in what the file contains now. Returns whether that is a change.
    fn look(&mut self) -> bool {
        let signature = fs::metadata(&self.path).ok().map(|metadata| signature_of(&metadata));
        if signature.is_none() || signature == self.seen {
            return false;
        }
        // One that may not be read, or goes away meanwhile, is as good as gone.
        let Ok(content) = read_content(&self.path) else { return false };
        let is_change = self.content != Some(content);
        self.seen = signature;
        self.content = Some(content);
        is_change
    }
}

/// Passes on that something happened. One waiting event is as good as many.
struct Handler {
    sender: mpsc::Sender<()>,
}

impl notify::EventHandler for Handler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        // Reading a file, as this watch does, is an event too.
        let is_reading = event.is_ok_and(|event| {
            let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
            matches!(event.kind, EventKind::Access(_)) && event.kind != written
        });
        if !is_reading {
            // Full: the news waits already. Closed: the watch is being dropped.
            let (Ok(()) | Err(_)) = self.sender.try_send(());
        }
    }
}

fn warn_of_polling(error: &notify::Error) {
    warn!(
        %error,
        "watched files are only looked at every few seconds, because the system gives no inotify \
         watch; raise fs.inotify.max_user_watches and fs.inotify.max_user_instances with sysctl"
    );
}

fn signature_of(metadata: &fs::Metadata) -> Signature {
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    ([metadata.dev(), metadata.ino(), metadata.len()], times)
}

fn read_content(path: &Path) -> io::Result<Digest> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for a writer.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = vec![];
    fs::File::open(path)?.take(CONTENT_BYTES_MAX).read_to_end(&mut content)?;
    if metadata.len() > CONTENT_BYTES_MAX {
        content.extend(format!("{:?}", signature_of(&metadata)).as_bytes());
    }
    Ok(Digest::of(&content))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a host without inotify watches left notices changes nevertheless.
    /// Method: the watcher cannot be made; time passes whenever nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn without_inotify_files_are_polled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/web.conf");
        let mut watch =
            FileWatch::start_by(std::slice::from_ref(&path), WatchTimings::fleet(), |_| {
                Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch))
            });
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(&path, "one").unwrap();
        assert_eq!(watch.changed().await, path);
        fs::write(&path, "three").unwrap();
        assert_eq!(watch.changed().await, path);
        fs::write(&path, "three").unwrap();
        let minute = tokio::time::timeout(Duration::from_mins(1), watch.changed());
        assert!(minute.await.is_err(), "the content is the same");
    }

    /// Goal: an app without such files costs neither a thread nor a wake.
    /// Method: no watcher may be asked for; no timer may exist, or the paused clock would go on.
    #[tokio::test(start_paused = true)]
    async fn no_files_need_no_watch() {
        let refuse = |_| panic!("a watcher for nothing");
        let mut watch = FileWatch::start_by(&[], WatchTimings::fleet(), refuse);
        let start = Instant::now();
        tokio::select! {
            biased;
            path = watch.changed() => panic!("{}", path.display()),
            () = tokio::time::sleep(Duration::from_hours(1)) => {}
        }
        assert_eq!(start.elapsed(), Duration::from_hours(1));
    }

    #[test]
    fn content_beyond_the_limit_counts_by_its_length_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let length = usize::try_from(CONTENT_BYTES_MAX).unwrap();
        fs::write(&path, vec![0; length]).unwrap();
        let first = read_content(&path).unwrap();
        fs::write(&path, vec![0; length + 1]).unwrap();
        let second = read_content(&path).unwrap();
        fs::write(&path, vec![0; length + 2]).unwrap();
        assert!(first != second && second != read_content(&path).unwrap());
        assert!(read_content(folder.path()).is_err());
    }
}
