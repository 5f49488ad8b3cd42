//! The starter: what the agent's executable is between the making of a process and its `exec`.
//!
//! It hears on its standard input what to become, becomes the user, and executes the program. Says
//! on the same socket that it is about to, and why it could not; the socket closes with the `exec`.
//! Invariant: as root it does nothing that the plan's user could have a say in: folder and program
//! are looked up only once it is that user.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use command_line::EXIT_USAGE;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::host::executable::{Executable, Obstacle, Surroundings};
use crate::host::user::UserIds;

/// The name under which Shoal's executables are a starter.
pub(crate) const STARTER: &str = "shoal-starter";

/// What a starter says right before the `exec`. No refusal begins like that.
pub(super) const STARTING: &[u8] = b"!";

/// What a starter becomes. Lives for one start: both sides are the same executable.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub program: OsString,
    pub arguments: Vec<String>,
    pub directory: OsString,
    pub environment: Vec<(OsString, OsString)>,
    /// `None`: the user that the starter has.
    pub user: Option<UserIds>,
    /// Whether the starter has sockets for it: `LISTEN_PID` says that they are the program's own.
    pub has_sockets: bool,
}

/// Why a starter could not become what it was to be, with the system's number for the error.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// It got no session or not the user's ids.
    User { errno: i32 },
    /// The folder to start in cannot be entered.
    Directory { errno: i32 },
    /// The program cannot be executed.
    Program { errno: i32 },
}

/// Whether an executable that was called by `name` is to be a starter.
pub fn is_starter(name: Option<&OsStr>) -> bool {
    name == Some(STARTER.as_ref())
}

/// The whole life of a starter. Returns only if it could not become its program.
pub fn main() -> ExitCode {
    let Ok((mut channel, plan)) = hear() else {
        command_line::note(&format!("{STARTER}: shoal-agent alone starts this, for each program"));
        return ExitCode::from(EXIT_USAGE);
    };
    let refusal = become_program(&mut channel, plan);
    let text = serde_json::to_vec(&refusal).expect("a number encodes");
    // If the agent is gone, nobody wants to know.
    drop(channel.write_all(&text));
    ExitCode::FAILURE
}

fn hear() -> io::Result<(UnixStream, Plan)> {
    // Closed by the `exec`, and above the sockets that are handed over.
    let channel: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = UnixStream::from(channel);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut plan = vec![];
    channel.read_to_end(&mut plan)?;
    Ok((channel, serde_json::from_slice(&plan)?))
}

fn become_program(channel: &mut UnixStream, plan: Plan) -> Refusal {
    let errno = |error: io::Error| error.raw_os_error().unwrap_or_default();
    if let Err(error) = become_user(plan.user.as_ref()) {
        return Refusal::User { errno: errno(error) };
    }
    // From here on the process is at the mercy of its user.
    if let Err(error) = env::set_current_dir(plan.directory) {
        return Refusal::Directory { errno: errno(error) };
    }
    let mut command = Command::new(plan.program);
    command.args(plan.arguments).env_clear().envs(plan.environment);
    if plan.has_sockets {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    if is_lost_on_a_shell(command.get_program().as_ref()) {
        return Refusal::Program { errno: Errno::NOEXEC.raw_os_error() };
    }
    if let Err(error) = channel.write_all(STARTING) {
        return Refusal::Program { errno: errno(error) };
    }
    Refusal::Program { errno: errno(command.exec()) }
}

/// Whether the C library would give the file to a shell although no shell can make sense of it: a
/// program for another machine would end in a syntax error.
fn is_lost_on_a_shell(program: &Path) -> bool {
    let is_path = program.as_os_str().as_encoded_bytes().contains(&b'/');
    let here = Surroundings { directory: Path::new("."), search: None, link: None };
    let looked = Executable::inspect(program).and_then(|file| file.runs_here(here));
    is_path
        && matches!(
            looked,
            Err(Obstacle::UnknownFormat | Obstacle::OtherMachine { .. } | Obstacle::NoProgram)
        )
}

/// A session of its own, so that nobody else can join its process group; then the user. This
/// process has one thread, so that ids of the thread are those of the process.
fn become_user(user: Option<&UserIds>) -> io::Result<()> {
    rustix::process::setsid()?;
    let Some(user) = user else { return Ok(()) };
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
