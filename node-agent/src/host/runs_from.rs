//! Whether a process runs from a build: for programs that somebody else starts, such as systemd.
//!
//! Invariant: only what the kernel says of the process counts, and never where `current` points by
//! now: a process that was started through `current` before a switch runs the old build.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::process::ProcessIdentity;

/// How exactly the start of a process is known: the kernel gives it in ticks since boot, and the
/// time of boot in hundredths of a second.
const START_SLACK: Duration = Duration::from_millis(50);

/// How many words of a command line are looked at for a script: it follows the interpreter and some
/// flags.
const ARGUMENTS_MAX: usize = 10;

/// What ties a process to a build, strongest first.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RunsFrom {
    /// Its executable is a file of the build.
    Executable(PathBuf),
    /// It has a file of the build mapped, such as a library of an interpreter.
    Mapped(PathBuf),
    /// It has a file of the build open.
    Open(PathBuf),
    /// It was started in a folder of the build and is still there.
    WorkingDirectory(PathBuf),
    /// Its command line names a file of the build by its real path, or through a link that had
    /// pointed to the build before the process was started: `python3 /.../current/app.py`.
    Argument(PathBuf),
}

impl fmt::Display for RunsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, path) = match self {
            Self::Executable(path) => ("its executable is", path),
            Self::Mapped(path) => ("it has mapped", path),
            Self::Open(path) => ("it has open", path),
            Self::WorkingDirectory(path) => ("its working directory is", path),
            Self::Argument(path) => ("its command line names", path),
        };
        write!(f, "{how} {}", path.display())
    }
}

/// Whether process `pid` runs from the build in `root`; also `false` if that cannot be found out.
pub fn runs_from(pid: u32, root: &Path) -> bool {
    why_runs_from(pid, root).is_ok_and(|reason| reason.is_some())
}

/// What shows that process `pid` runs from the build in `root`; `None` if nothing does.
///
/// The folder is recognised by device and inode, so a service that sees other mounts is understood.
///
/// # Errors
///
/// If the process is gone, or belongs to another user and the agent is not root.
pub fn why_runs_from(pid: u32, root: &Path) -> io::Result<Option<RunsFrom>> {
    let process = Seen { pid, root: Identity::of(&fs::metadata(root)?) };
    let executable = fs::read_link(process.path("exe"))?;
    if process.is_inside(&executable) {
        return Ok(Some(RunsFrom::Executable(executable)));
    }
    let mapped = fs::read(process.path("maps"))?;
    if let Some(path) = process.find_inside(mapped_paths(&mapped)) {
        return Ok(Some(RunsFrom::Mapped(path)));
    }
    let open = fs::read_dir(process.path("fd"))?.flatten();
    if let Some(path) =
        process.find_inside(open.filter_map(|entry| fs::read_link(entry.path()).ok()))
    {
        return Ok(Some(RunsFrom::Open(path)));
    }
    let directory = fs::read_link(process.path("cwd"))?;
    if process.is_inside(&directory) {
        return Ok(Some(RunsFrom::WorkingDirectory(directory)));
    }
    let command_line = fs::read(process.path("cmdline"))?;
    let arguments = command_line.split(|byte| *byte == 0).take(ARGUMENTS_MAX);
    // Not the first, which is the program: the kernel has said above which that is.
    let arguments = arguments.skip(1).filter(|argument| !argument.is_empty());
    for argument in arguments.filter(|argument| argument[0] != b'-') {
        let path = directory.join(OsStr::from_bytes(argument));
        if process.is_named(&path)? {
            return Ok(Some(RunsFrom::Argument(path)));
        }
    }
    Ok(None)
}

/// A file or folder, whatever its path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// A process, and the build that is looked for in it.
struct Seen {
    pid: u32,
    root: Identity,
}

impl Seen {
    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    /// `path`, which is absolute to the process, as the agent can open it.
    fn outside(&self, path: &Path) -> PathBuf {
        self.path("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether a path that the kernel has resolved is the build or inside it.
    fn is_inside(&self, path: &Path) -> bool {
        let is_root = |folder: &Path| {
            fs::metadata(self.outside(folder)).is_ok_and(|found| Identity::of(&found) == self.root)
        };
        path.is_absolute() && path.ancestors().any(is_root)
    }

    fn find_inside(&self, paths: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
        let mut paths = paths.filter(|path| path.is_absolute());
        paths.find(|path| self.is_inside(path))
    }

    /// Whether `path`, which may go through links, names a file of the build and did so when the
    /// process was started.
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        let is_there = fs::metadata(self.outside(path)).is_ok();
        if !is_there || !self.is_inside(path) {
            return Ok(false);
        }
        let started = started_at(self.pid)?;
        let is_older = |metadata: fs::Metadata| {
            let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
            let nanos = u64::try_from(metadata.ctime_nsec()).unwrap_or(0);
            let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanos);
            SystemTime::UNIX_EPOCH + changed <= started + START_SLACK
        };
        let mut links = path.ancestors().filter_map(|part| {
            let metadata = fs::symlink_metadata(self.outside(part)).ok()?;
            metadata.is_symlink().then_some(metadata)
        });
        Ok(links.all(is_older))
    }
}

/// When process `pid` was started, by the wall clock as it goes now.
fn started_at(pid: u32) -> io::Result<SystemTime> {
    let ticks = ProcessIdentity::of(pid)?.start_ticks;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let uptime = Duration::try_from(uptime).map_err(io::Error::other)?;
    let started = Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second);
    Ok(SystemTime::now() - uptime.saturating_sub(started))
}

/// Paths in `/proc/<pid>/maps`: what follows the five columns of numbers.
fn mapped_paths(maps: &[u8]) -> impl Iterator<Item = PathBuf> {
    let mut last: &[u8] = &[];
    maps.split(|byte| *byte == b'\n').filter_map(move |line| {
        let start = line.iter().position(|byte| *byte == b'/')?;
        let path = &line[start..];
        // A file has a line for each of its segments.
        let is_new = path != last;
        last = path;
        is_new.then(|| PathBuf::from(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_are_listed_once() {
        let maps = b"00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a b\n\
            00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/a b\n\
            00e03000-00e24000 rw-p 00000000 00:00 0           [heap]\n\
            35b1800000-35b1820000 r-xp 00000000 08:02 135522  /lib/ld.so\n";
        let paths: Vec<_> = mapped_paths(maps).collect();
        assert_eq!(paths, [PathBuf::from("/usr/bin/a b"), PathBuf::from("/lib/ld.so")]);
    }

    #[test]
    fn start_of_this_process_is_not_long_ago() {
        let started = started_at(std::process::id()).unwrap();
        assert!(started <= SystemTime::now() + START_SLACK);
        let age = SystemTime::now().duration_since(started - START_SLACK).unwrap();
        assert!(age < Duration::from_hours(1), "{age:?}");
    }
}
