//! The mark in the environment of every program that the agent starts: by it the next agent finds a
//! program of which the disk has no record, because it was full or failing when that was written.
//!
//! Invariant: a process counts as a program only if it is the very one that was started: the mark
//! names the session that this process leads and the tick in which it was made, and a child that
//! inherits the mark leads another session or none. The mark also names the app's directory, by
//! path and by inode, since agents in containers may have the same paths; and it is signed with a
//! key that only this state directory has, since any user of the host may write what they like into
//! the environment of their own processes.
//!
//! What it cannot find: programs that write over their own environment to change their title.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use p2p_core::Digest;
use serde::{Deserialize, Serialize};

use crate::host::Stray;
use crate::process::{self, ProcessIdentity, Stat};
use crate::state::app_dir::{AppDir, Place, RunningRecord};

const VARIABLE: &str = "SHOAL_MARK";

/// Most seconds between the tick in a mark and the start of its process, for programs that share
/// their agent's session: agents that start them so read the clock before they make the process.
const START_SECONDS_MAX: u64 = 2;

/// Ticks per second in which kernels count the starts of processes, the same on every platform.
const TICKS_PER_SECOND: u64 = 100;

/// What the marks of one state directory are signed with.
#[derive(Clone, Copy)]
pub struct MarkKey(Digest);

impl fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkKey")
    }
}

/// Where the programs of an app belong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Home {
    directory: String,
    device: u64,
    inode: u64,
}

/// What is known of a program once its process is made, before that becomes the program.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Mark {
    home: Home,
    /// The one that the program leads; its agent's for programs of agents that gave them none.
    session: u32,
    /// Whether the program leads its session. Agents that do not know this do not ask, either.
    #[serde(default)]
    leads_session: bool,
    /// When the process was made, in ticks since the machine booted; for programs that share their
    /// agent's session when it was about to be.
    ticks: u64,
    place: Place,
    record: RunningRecord,
}

impl MarkKey {
    /// The key that follows from the secret in `file`.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn of_file(file: &Path) -> io::Result<Self> {
        Ok(Self::of_secret(&fs::read(file)?))
    }

    /// The key that follows from `secret`.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(Digest::of(&[b"shoal: marks of programs\0", secret].concat()))
    }

    fn sign(self, text: &str) -> String {
        let signature = Digest::of(&[self.0.as_bytes().as_slice(), text.as_bytes()].concat());
        format!("{signature} {text}")
    }

    /// The text, if it was signed with this key.
    fn verify(self, signed: &str) -> Option<&str> {
        let (_, text) = signed.split_once(' ')?;
        (self.sign(text) == signed).then_some(text)
    }
}

/// The variable that marks `process`, which is about to become the program of `record`, and its
/// value.
///
/// # Errors
///
/// If the app's directory cannot be looked at. The program may be started all the same.
pub(crate) fn of(
    process: &ProcessIdentity,
    app: &AppDir,
    (place, record): (Place, &RunningRecord),
    key: MarkKey,
) -> io::Result<(&'static str, String)> {
    let mark = Mark {
        home: Home::of(app)?,
        session: process.pid,
        leads_session: true,
        ticks: process.start_ticks,
        place,
        record: record.clone(),
    };
    let text = serde_json::to_string(&mark).map_err(io::Error::other)?;
    Ok((VARIABLE, key.sign(&text)))
}

/// The programs of the app that run and bear its mark, each once.
///
/// # Cost
///
/// One pass over `/proc`, which reads one file of each process.
///
/// # Errors
///
/// If `/proc` or the app's directory cannot be read. Processes that this user may not look into are
/// passed over.
pub(crate) fn find(app: &AppDir, key: MarkKey) -> io::Result<Vec<Stray>> {
    let home = Home::of(app)?;
    let mut found: BTreeMap<String, Stray> = BTreeMap::new();
    for pid in process::all_pids()? {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let Some(mark) = mark_in(&environment, key).filter(|mark| mark.home == home) else {
            continue;
        };
        let Some(stat) = process::read_stat(pid)?.filter(|stat| mark.is_of(pid, stat)) else {
            continue;
        };
        let process = Some(ProcessIdentity::with_start(pid, stat.start_ticks)?);
        let record = RunningRecord { process, ..mark.record };
        let stray = Stray { place: mark.place, record };
        let older = found.get(&stray.record.instance).filter(|other| other.age() <= stray.age());
        if older.is_none() {
            found.insert(stray.record.instance.clone(), stray);
        }
    }
    Ok(found.into_values().collect())
}

fn mark_in(environment: &[u8], key: MarkKey) -> Option<Mark> {
    let prefix = format!("{VARIABLE}=");
    let mut entries = environment.split(|byte| *byte == 0);
    let signed = entries.find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    serde_json::from_str(key.verify(str::from_utf8(signed).ok()?)?).ok()
}

impl Home {
    fn of(app: &AppDir) -> io::Result<Self> {
        let metadata = fs::metadata(app.path())?;
        let directory = app.path().display().to_string();
        Ok(Self { directory, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Mark {
    /// Whether the process that has this mark is the one that was started with it.
    fn is_of(&self, pid: u32, stat: &Stat) -> bool {
        if stat.is_zombie || stat.group != pid || stat.session != self.session {
            return false;
        }
        if self.leads_session {
            return pid == self.session && stat.start_ticks == self.ticks;
        }
        let latest = self.ticks + START_SECONDS_MAX * TICKS_PER_SECOND;
        (self.ticks..=latest).contains(&stat.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;

    fn mark() -> Mark {
        Mark {
            home: Home { directory: "/s/apps/web".into(), device: 1, inode: 2 },
            session: 5,
            leads_session: false,
            ticks: 1000,
            place: Place::Candidate,
            record: RunningRecord {
                build: BuildId::of_manifest(b"1"),
                command: Digest::of(b"./run"),
                restart: 3,
                instance: "7-8-9".into(),
                unit: None,
                process: None,
            },
        }
    }

    #[test]
    fn mark_is_read_back_only_with_the_key_that_signed_it() {
        let (key, other) = (MarkKey::of_secret(b"a"), MarkKey::of_secret(b"b"));
        let text = serde_json::to_string(&mark()).unwrap();
        let environment = |value: String| format!("PATH=/bin\0SHOAL_MARK={value}\0A=b\0");
        let signed = environment(key.sign(&text));
        assert_eq!(mark_in(signed.as_bytes(), key), Some(mark()));
        assert_eq!(mark_in(signed.as_bytes(), other), None);
        let forged = signed.replace("7-8-9", "7-8-1");
        for wrong in [environment(text), environment(String::new()), forged, "PATH=/bin".into()] {
            assert_eq!(mark_in(wrong.as_bytes(), key), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_process_that_was_started_bears_its_mark() {
        let program = Stat { is_zombie: false, group: 42, session: 42, start_ticks: 1000 };
        let mark = Mark { session: 42, leads_session: true, ..mark() };
        let child = Stat { group: 43, session: 43, ..program };
        let cases = [
            ("the program", 42, program, true),
            ("a child in its group", 43, program, false),
            ("a child with a group of its own", 43, Stat { group: 43, ..program }, false),
            ("a child with a session of its own", 43, child, false),
            ("a later owner of its id", 42, Stat { start_ticks: 1001, ..program }, false),
            ("ended", 42, Stat { is_zombie: true, ..program }, false),
        ];
        for (name, pid, stat, expected) in cases {
            assert_eq!(mark.is_of(pid, &stat), expected, "{name}");
        }
    }

    #[test]
    fn program_that_shares_the_session_of_an_earlier_agent_bears_its_mark() {
        let program = Stat { is_zombie: false, group: 42, session: 5, start_ticks: 1000 };
        let cases = [
            ("the program", 42, program, true),
            ("started by a slow host", 42, Stat { start_ticks: 1200, ..program }, true),
            ("a child in its group", 43, program, false),
            ("a child with a group of its own", 42, Stat { start_ticks: 1201, ..program }, false),
            ("a child with a session of its own", 42, Stat { session: 42, ..program }, false),
            ("older than the mark", 42, Stat { start_ticks: 999, ..program }, false),
            ("ended", 42, Stat { is_zombie: true, ..program }, false),
        ];
        for (name, pid, stat, expected) in cases {
            assert_eq!(mark().is_of(pid, &stat), expected, "{name}");
        }
    }
}
