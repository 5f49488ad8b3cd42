//! Which process is meant: a process id alone is not enough, because the kernel hands it out again.
//!
//! Invariant: nothing here or in `supervisor` signals a process or a group unless it is still the
//! one that was started. A process is its id, the tick of its start and the boot it lives in; a
//! group is ours as long as no other process has taken its leader's id, which the kernel does not
//! give away while the group has members.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// A process, distinct from every other that this machine ever ran.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessIdentity {
    /// Process id, and id of the process group that it leads.
    pub pid: u32,
    /// Start, in clock ticks since the machine booted (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
    /// The boot, by its random id: process ids and ticks start again with the next.
    pub boot: String,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stat {
    pub(crate) is_zombie: bool,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) start_ticks: u64,
}

impl ProcessIdentity {
    /// The process that has `pid` now.
    ///
    /// # Errors
    ///
    /// If there is none, or `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = read_stat(pid)?.ok_or(io::ErrorKind::NotFound)?;
        Self::with_start(pid, stat.start_ticks)
    }

    /// The process with `pid` that this machine has started at `start_ticks` since it booted last.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub(crate) fn with_start(pid: u32, start_ticks: u64) -> io::Result<Self> {
        Ok(Self { pid, start_ticks, boot: boot_id()? })
    }

    /// A handle on the process if it still runs. The handle never comes to mean another process.
    ///
    /// # Errors
    ///
    /// If the system refuses for a reason other than that the process is gone.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = self.kernel_pid() else { return Ok(None) };
        if boot_id()? != self.boot {
            return Ok(None);
        }
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after the handle was taken: the id cannot change its owner in between.
        let runs = read_stat(self.pid)?
            .is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie);
        Ok(runs.then_some(handle))
    }

    /// Sends `signal` to the process group that this process leads or led.
    ///
    /// A group that is gone, or an id that by now belongs to another process, is left alone.
    ///
    /// # Errors
    ///
    /// If the system refuses, such as for programs that changed their user.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = self.kernel_pid() else { return Ok(()) };
        if !self.owns_group()? {
            return Ok(());
        }
        match rustix::process::kill_process_group(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether any process of the group still runs; zombies do not count.
    ///
    /// # Cost
    ///
    /// A pass over `/proc` if the group exists, else one system call.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn is_group_alive(&self) -> io::Result<bool> {
        let Some(pid) = self.kernel_pid() else { return Ok(false) };
        let group_exists =
            rustix::process::test_kill_process_group(pid) != Err(rustix::io::Errno::SRCH);
        if !group_exists || !self.owns_group()? {
            return Ok(false);
        }
        for pid in all_pids()? {
            if self.is_in_group(pid)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The processes of the group that still run; zombies do not count.
    ///
    /// # Cost
    ///
    /// A pass over `/proc`.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn members(&self) -> io::Result<Vec<u32>> {
        let mut members = vec![];
        if self.owns_group()? {
            for pid in all_pids()? {
                if self.is_in_group(pid)? {
                    members.push(pid);
                }
            }
        }
        Ok(members)
    }

    /// Whether process `pid` runs and is of the group.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn has_member(&self, pid: u32) -> io::Result<bool> {
        Ok(self.owns_group()? && self.is_in_group(pid)?)
    }

    /// The user that the process runs as and those that it can become again: real, effective and
    /// saved. Empty if it is gone.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub(crate) fn users(&self) -> io::Result<Vec<u32>> {
        let status = match fs::read_to_string(format!("/proc/{}/status", self.pid)) {
            Err(error) if is_gone(&error) => return Ok(vec![]),
            status => status?,
        };
        // After the file was read: if the process is ours now, it was then.
        if self.open()?.is_none() {
            return Ok(vec![]);
        }
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        Ok(line.split_ascii_whitespace().take(3).filter_map(|id| id.parse().ok()).collect())
    }

    fn is_in_group(&self, pid: u32) -> io::Result<bool> {
        let stat = read_stat(pid)?;
        Ok(stat.is_some_and(|stat| stat.group == self.pid && !stat.is_zombie))
    }

    /// Whether the group with our id is ours: no other process has the id of its leader.
    fn owns_group(&self) -> io::Result<bool> {
        if boot_id()? != self.boot {
            return Ok(false);
        }
        Ok(read_stat(self.pid)?.is_none_or(|stat| stat.start_ticks == self.start_ticks))
    }

    fn kernel_pid(&self) -> Option<Pid> {
        // A group id of 1 would mean every process of the machine.
        let raw = i32::try_from(self.pid).ok().filter(|raw| *raw > 1)?;
        Pid::from_raw(raw)
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().into())
}

/// Every process that this user may know of.
pub(crate) fn all_pids() -> io::Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

pub(crate) fn read_stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text)
            .map(Some)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has an unknown format"))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // A process that ends while its file is read makes the read fail with ESRCH.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Fields are numbered from 1 in proc(5); the second is the program's name in parentheses, which
/// may itself contain spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { is_zombie: matches!(state, "Z" | "X"), group, session, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_program_name() {
        let rest = "S 1 77 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["sh", "a b", "a) S 1 (b"] {
            let stat = parse_stat(&format!("12 ({name}) {rest}")).unwrap();
            let expected = Stat { is_zombie: false, group: 77, session: 3, start_ticks: 4242 };
            assert_eq!(stat, expected, "{name}");
        }
        assert!(parse_stat("12 (sh) Z 1 77 3").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn own_process_is_found_and_a_later_owner_of_its_id_is_not() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.open().unwrap().is_some());
        let reused = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert!(reused.open().unwrap().is_none());
        let other_boot = ProcessIdentity { boot: "earlier".into(), ..own };
        assert!(other_boot.open().unwrap().is_none());
    }

    #[test]
    fn group_whose_id_was_reused_is_never_signalled() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        // The signal would end this test if it were sent.
        for stranger in [
            ProcessIdentity { start_ticks: own.start_ticks + 1, ..own.clone() },
            ProcessIdentity { boot: "earlier".into(), ..own.clone() },
            ProcessIdentity { pid: 1, ..own.clone() },
            ProcessIdentity { pid: 0, ..own.clone() },
            ProcessIdentity { pid: u32::MAX, ..own.clone() },
        ] {
            stranger.signal_group(Signal::KILL).unwrap();
            assert!(!stranger.is_group_alive().unwrap(), "{stranger:?}");
        }
    }
}
