//! What a supervised program prints: `output.log` and, when that grows too long, `output.log.1`.
//!
//! Invariant: the program writes into the file itself, never into a pipe to the agent, so it goes
//! on undisturbed when the agent dies. The price is that the agent can only shorten the file behind
//! the program's back: it copies the end aside and truncates, which is safe because the file is
//! open for appending, but loses what is printed between the two steps.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Length past which the output is moved aside; with the copy, a program keeps about twice as much.
/// Far above what one crash prints, far below what a full disk of a thousand apps would notice.
pub const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How far back the last lines are looked for: longer lines are cut in messages anyway.
const TAIL_WINDOW: u64 = 4 * 1024;

/// Lines that a report of a failure shows: the end of a stack trace.
const TAIL_LINES_MAX: usize = 10;

/// Characters of a line that a message shows.
const LINE_CHARS_MAX: usize = 200;

/// What a look at the output found.
#[derive(Debug)]
pub(crate) struct Look {
    /// Bytes in the file, before it was cut.
    pub length: u64,
    /// Whether it was cut: it is empty now.
    pub is_cut: bool,
    /// Why the end of what was cut was not kept, if it was not: a full disk, most likely. It is cut
    /// all the same.
    pub lost: Option<io::Error>,
}

/// The output files of one app.
#[derive(Clone, Debug)]
pub(crate) struct OutputLog {
    path: PathBuf,
    bytes_max: u64,
}

impl OutputLog {
    /// Output in `path`, moved aside past `bytes_max` bytes.
    pub(crate) const fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, bytes_max }
    }

    /// Opens the file for a program that is about to start, and returns where its output will
    /// begin.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(crate) fn open(&self) -> io::Result<(File, u64)> {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > self.bytes_max) {
            // Nothing writes into it now, so it can be moved without losing a byte.
            fs::rename(&self.path, self.older())?;
        }
        let file = File::options().create(true).append(true).open(&self.path)?;
        let offset = file.metadata()?.len();
        Ok((file, offset))
    }

    /// How long the file is; 0 if it is not there.
    pub(crate) fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Looks how long the file is, and moves its end aside if it grew too long under a running
    /// program. `None` if there is no file.
    ///
    /// # Errors
    ///
    /// If the system refuses; the file is then as it was.
    pub(crate) fn look(&self) -> io::Result<Option<Look>> {
        match fs::metadata(&self.path) {
            Ok(found) if found.len() <= self.bytes_max => {
                return Ok(Some(Look { length: found.len(), is_cut: false, lost: None }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut file = File::options().read(true).write(true).open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(self.bytes_max)))?;
        let copied = File::create(self.older())
            .and_then(|mut older| io::copy(&mut (&mut file).take(self.bytes_max), &mut older));
        // As late as possible, so that little is lost uncounted.
        let length = file.metadata()?.len();
        file.set_len(0)?;
        Ok(Some(Look { length, is_cut: true, lost: copied.err() }))
    }

    /// The last lines printed at or after `offset` that are not empty; for people, so without
    /// control characters and cut to a readable length. `None` if nothing was printed.
    pub(crate) fn tail(&self, offset: u64) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        let length = file.metadata().ok()?.len();
        // A file that was shortened since then is shorter than `offset`.
        let begin = if offset > length { 0 } else { offset };
        file.seek(SeekFrom::Start(begin.max(length.saturating_sub(TAIL_WINDOW)))).ok()?;
        let mut bytes = vec![];
        file.take(TAIL_WINDOW).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        let mut shown: Vec<String> = lines.take(TAIL_LINES_MAX).map(readable).collect();
        shown.reverse();
        (!shown.is_empty()).then(|| shown.join("\n"))
    }

    /// The last lines of what was cut, as [`Self::tail`] gives them.
    pub(crate) fn older_tail(&self) -> Option<String> {
        Self::new(self.older(), self.bytes_max).tail(0)
    }

    /// Takes the place of the output at `path`, which is kept as the older one.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(crate) fn become_current(&self, path: &Path) -> io::Result<()> {
        if self.path == path {
            // An agent that died has moved it.
            return Ok(());
        }
        let older = path.with_added_extension("1");
        match fs::rename(path, older) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::rename(&self.path, path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn older(&self) -> PathBuf {
        self.path.with_added_extension("1")
    }
}

fn readable(line: &str) -> String {
    let mut shown: String =
        line.chars().filter(|c| !goal_state::is_hidden(*c)).take(LINE_CHARS_MAX).collect();
    if line.chars().count() > LINE_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn long_output_is_moved_aside_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let log = OutputLog::new(folder.path().join("output.log"), 10);
        let (mut file, offset) = log.open().unwrap();
        assert_eq!(offset, 0);
        file.write_all(b"0123456789").unwrap();
        assert_eq!(log.open().unwrap().1, 10);
        file.write_all(b"x").unwrap();
        assert_eq!(log.open().unwrap().1, 0);
        assert_eq!(fs::read(folder.path().join("output.log.1")).unwrap(), b"0123456789x");
    }

    #[test]
    fn running_program_goes_on_writing_into_the_shortened_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = OutputLog::new(folder.path().join("output.log"), 4);
        assert!(log.look().unwrap().is_none());
        let (mut file, _) = log.open().unwrap();
        file.write_all(b"0123").unwrap();
        assert!(!log.look().unwrap().unwrap().is_cut);
        assert_eq!(fs::read(log.path()).unwrap(), b"0123");
        file.write_all(b"456").unwrap();
        let look = log.look().unwrap().unwrap();
        assert!(look.is_cut && look.length == 7, "{look:?}");
        file.write_all(b"789").unwrap();
        assert_eq!(fs::read(log.path()).unwrap(), b"789");
        assert_eq!(fs::read(folder.path().join("output.log.1")).unwrap(), b"3456");
    }

    #[test]
    fn last_lines_are_those_of_this_run_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let log = OutputLog::new(folder.path().join("output.log"), OUTPUT_BYTES_MAX);
        assert_eq!(log.tail(0), None);
        let (mut file, _) = log.open().unwrap();
        file.write_all(b"earlier run\n").unwrap();
        let (_, offset) = log.open().unwrap();
        assert_eq!(log.tail(offset), None);
        file.write_all("first\n\x1b[31mport \u{202e}80 is taken\x07\n\n".as_bytes()).unwrap();
        assert_eq!(log.tail(offset).unwrap(), "first\n[31mport 80 is taken");
        assert_eq!(log.tail(1 << 40).unwrap(), "earlier run\nfirst\n[31mport 80 is taken");
        file.write_all("\u{e4}".repeat(300).as_bytes()).unwrap();
        let tail = log.tail(offset).unwrap();
        assert_eq!(tail.lines().last().unwrap().chars().count(), LINE_CHARS_MAX + 3);
        file.write_all("x\n".repeat(99).as_bytes()).unwrap();
        assert_eq!(log.tail(offset).unwrap().lines().count(), TAIL_LINES_MAX);
    }

    #[test]
    fn output_of_the_candidate_takes_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.log");
        fs::write(&path, "old").unwrap();
        let next = OutputLog::new(folder.path().join("output.next.log"), 10);
        let (mut file, _) = next.open().unwrap();
        file.write_all(b"new").unwrap();
        next.become_current(&path).unwrap();
        file.write_all(b"er").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read(folder.path().join("output.log.1")).unwrap(), b"old");
        OutputLog::new(path.clone(), 10).become_current(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer", "it has that place already");
    }
}
