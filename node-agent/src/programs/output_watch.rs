//! Looks after the output of one running program: counts what it prints and keeps the file short.
//!
//! Each look costs one call to the file system, and looks become rare while nothing is printed.
//! Invariant: what is counted never includes what an earlier program printed into the same file,
//! nor anything twice, whether the file was cut here or by somebody else. What the program prints
//! between the last look at the file and the cut is lost and not counted.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::programs::output::{Look, OUTPUT_BYTES_MAX, OutputLog};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct OutputWatch {
    log: OutputLog,
    /// Where in the file this program's output begins.
    offset: u64,
    /// Length of the file up to which it was counted.
    counted: u64,
    written: u64,
    /// Whether the file was cut here while this program printed into it.
    was_cut: bool,
    /// How much of `written` was taken by [`Self::take_news`].
    taken: u64,
    interval: Duration,
    wait: Duration,
    /// `None`: the program was replaced, and what it still prints concerns nobody.
    next_at: Option<Instant>,
}

impl OutputWatch {
    /// A program that prints into `log`, whose output begins at `offset`. The file is looked at
    /// about every `interval`.
    pub(crate) fn new(log: OutputLog, offset: u64, interval: Duration, now: Instant) -> Self {
        // A program that fills its log does so from the start.
        let wait = interval / 8;
        let next_at = Some(now + wait);
        let (counted, written, taken, was_cut) = (offset, 0, 0, false);
        Self { log, offset, counted, written, was_cut, taken, interval, wait, next_at }
    }

    /// As above, for a program that was found running: what it has printed so far is its own, but
    /// nobody knows in what time.
    pub(crate) fn found(log: OutputLog, interval: Duration, now: Instant) -> Self {
        let counted = log.length();
        Self { offset: 0, counted, ..Self::new(log, 0, interval, now) }
    }

    /// Bytes that were printed since the watch began, up to the last look.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that were counted since it was asked last.
    pub(crate) const fn take_news(&mut self) -> u64 {
        let news = self.written - self.taken;
        self.taken = self.written;
        news
    }

    /// When the file has to be looked at without a reason.
    pub(crate) const fn next_due(&self) -> Option<Instant> {
        self.next_at
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|at| at <= now)
    }

    /// Counts what was printed, and cuts the file if it is too long.
    pub(crate) fn look(&mut self, now: Instant) {
        if self.next_at.is_none() {
            return;
        }
        let is_due = self.is_due(now);
        self.wait = match self.log.look().map(|found| self.count(found)) {
            // A program that fills its log is looked at again soon, any other less and less often.
            Ok(true) => self.interval / 8,
            Ok(false) if is_due => (self.wait * 2).min(self.interval * 2),
            Ok(false) => return,
            Err(error) => {
                let path = self.log.path().display();
                warn!(%error, %path, "cannot shorten the output");
                self.interval
            }
        };
        self.next_at = Some(now + self.wait);
    }

    /// Whether the file was cut.
    fn count(&mut self, found: Option<Look>) -> bool {
        let Some(Look { length, is_cut, lost }) = found else { return false };
        // Shorter than before: somebody else cut it, and all of it is new.
        let known = if length < self.counted { 0 } else { self.counted };
        self.written += length - known;
        self.counted = if is_cut { 0 } else { length };
        self.was_cut |= is_cut;
        if is_cut || known == 0 {
            self.offset = 0;
        }
        if let Some(error) = lost {
            let path = self.log.path().display();
            warn!(%error, %path, "output was cut without keeping its end");
        }
        is_cut
    }

    /// The last lines of this program, for people; `None` if it printed nothing.
    pub(crate) fn tail(&self) -> Option<String> {
        // Right after a cut the file is empty, and the last lines are in what was cut.
        let cut = || self.was_cut.then(|| self.log.older_tail()).flatten();
        self.log.tail(self.offset).or_else(cut)
    }

    /// The program serves from now on: its output takes the place of the output at `path`.
    pub(crate) fn become_current(&mut self, path: &Path) {
        match self.log.become_current(path) {
            Ok(()) => self.log = OutputLog::new(path.into(), OUTPUT_BYTES_MAX),
            Err(error) => warn!(%error, "the program goes on printing into another file"),
        }
    }

    /// The file is left alone from now on, because its name is another program's.
    pub(crate) const fn stop(&mut self) {
        self.next_at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(8);

    struct Rig {
        log: OutputLog,
        folder: tempfile::TempDir,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let log = OutputLog::new(folder.path().join("output.log"), 100);
            Self { log, folder, now: Instant::now() }
        }

        fn start(&self) -> (File, OutputWatch) {
            let (file, offset) = self.log.open().unwrap();
            (file, OutputWatch::new(self.log.clone(), offset, INTERVAL, self.now))
        }
    }

    #[test]
    fn all_that_one_program_prints_is_counted_once_whoever_cuts_the_file() {
        let rig = Rig::new();
        fs::write(rig.log.path(), "earlier program\n").unwrap();
        let (mut file, mut watch) = rig.start();
        let mut print = |watch: &mut OutputWatch, bytes: usize| {
            file.write_all(&vec![b'x'; bytes]).unwrap();
            watch.look(rig.now);
            watch.written()
        };
        assert_eq!(print(&mut watch, 0), 0);
        assert_eq!(print(&mut watch, 40), 40);
        assert_eq!(print(&mut watch, 0), 40);
        // Past what is kept: cut.
        assert_eq!(print(&mut watch, 60), 100);
        assert_eq!(fs::metadata(rig.log.path()).unwrap().len(), 0);
        assert!(watch.tail().unwrap().ends_with('x'), "the last lines are in what was cut");
        assert_eq!(print(&mut watch, 1_000), 1_100);
        assert_eq!(print(&mut watch, 7), 1_107);
        assert_eq!(watch.tail().unwrap(), "xxxxxxx");
        // A person cuts it, or a program that rotates logs.
        File::create(rig.log.path()).unwrap();
        assert_eq!(print(&mut watch, 3), 1_110);
        assert_eq!((watch.take_news(), watch.take_news()), (1_110, 0));
        fs::remove_file(rig.log.path()).unwrap();
        assert_eq!(print(&mut watch, 9), 1_110, "nobody can see that any more");
    }

    #[test]
    fn program_that_was_found_is_counted_from_then_on() {
        let rig = Rig::new();
        let (mut file, _) = rig.start();
        file.write_all(b"before\n").unwrap();
        let mut watch = OutputWatch::found(rig.log.clone(), INTERVAL, rig.now);
        file.write_all(b"after\n").unwrap();
        watch.look(rig.now);
        assert_eq!((watch.written(), watch.tail().unwrap().as_str()), (6, "before\nafter"));
    }

    #[test]
    fn quiet_program_is_looked_at_less_and_less_and_a_loud_one_often() {
        let rig = Rig::new();
        let (mut file, mut watch) = rig.start();
        let mut now = rig.now;
        let mut waits = vec![];
        for bytes in [0, 0, 0, 0, 0, 200, 200, 0] {
            waits.push((watch.next_due().unwrap() - now).as_secs());
            now = watch.next_due().unwrap();
            // A look in between changes nothing.
            watch.look(now - Duration::from_millis(1));
            file.write_all(&vec![b'x'; bytes]).unwrap();
            watch.look(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 1, 1]);
    }

    #[test]
    fn output_that_moves_is_counted_on_and_that_of_a_replaced_program_is_left_alone() {
        let rig = Rig::new();
        let (_, mut old) = rig.start();
        let next = OutputLog::new(rig.folder.path().join("output.next.log"), 100);
        let (mut file, offset) = next.open().unwrap();
        let mut new = OutputWatch::new(next, offset, INTERVAL, rig.now);
        file.write_all(b"123").unwrap();
        new.look(rig.now);
        new.become_current(rig.log.path());
        old.stop();
        file.write_all(b"4567").unwrap();
        new.look(rig.now);
        old.look(rig.now);
        assert_eq!((new.written(), old.written(), old.next_due()), (7, 0, None));
    }
}
