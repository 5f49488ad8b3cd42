//! How every process of the agent begins: programs, hooks and command probes, of any user.
//!
//! The agent starts its own executable once more, as a *starter* (`starter`), tells it through a
//! socket what to become, and the starter becomes that by `exec`, with the process id it has.
//! Invariant: no thread of the agent ever has another user than the agent. The kernel asks a
//! thread's user before it delivers a signal or sets a limit, and both hold for the whole process:
//! a thread that became an app's user would put the agent into that user's hands.
//!
//! Invariant: the environment that a process is to have never reaches the starter as its own. While
//! that still is root, `LD_PRELOAD` of an app would be loaded into it.

pub mod starter;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::host::executable::{self, Executable, Obstacle, Surroundings};
use crate::host::sockets::{HeldSockets, LISTEN_FDS_START, SocketsError};
use crate::host::user::User;
use crate::process::ProcessIdentity;
use starter::{Plan, Refusal, STARTER, STARTING};

/// How long a process may take from its making to its `exec`. The user that it runs as can hold it
/// up in between, and the agent must not wait for that user for ever. A host that is badly
/// overloaded needs seconds.
const START_WAIT_MAX: Duration = Duration::from_secs(20);

/// The executable that runs as the starter: the file of this very process, also when another one
/// has taken its place since.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

static OTHER_EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// All that makes a process what it is.
#[derive(Debug)]
pub struct Recipe {
    /// What it executes; a name without a slash is looked up in `PATH` of `environment`.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub arguments: Vec<String>,
    /// Where it starts.
    pub directory: PathBuf,
    /// All of its variables.
    pub environment: BTreeMap<OsString, OsString>,
    /// `None`: the agent's own user, with the agent's groups.
    user: Option<User>,
    sockets: Vec<OwnedFd>,
    has_sockets: bool,
}

/// A process that was started, as a child of this one.
#[derive(Debug)]
pub struct Started {
    /// It has no parent that waits for it but the owner of this.
    pub child: Child,
    /// Which process it is: the leader of a group and of a session of its own.
    pub identity: ProcessIdentity,
}

/// Lets processes be started through another executable of Shoal than that of this process: for
/// tests, whose own executable is none.
pub fn start_through(executable: impl Into<PathBuf>) {
    OTHER_EXECUTABLE.get_or_init(|| executable.into());
}

impl Recipe {
    /// A process that executes `program` in `directory`, as the agent's own user and without any
    /// variable.
    pub(crate) const fn new(program: PathBuf, directory: PathBuf) -> Self {
        Self {
            program,
            arguments: vec![],
            directory,
            environment: BTreeMap::new(),
            user: None,
            sockets: vec![],
            has_sockets: false,
        }
    }

    /// Sets a variable, in place of what it was.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.environment.insert(name.into(), value.into());
    }

    /// The process belongs to `user`, with the user's own groups and none of the agent's, and with
    /// `HOME`, `USER` and `LOGNAME` as a login sets them.
    pub(crate) fn run_as(&mut self, user: &User) {
        self.set("HOME", &user.home);
        self.set("USER", &user.name);
        self.set("LOGNAME", &user.name);
        self.user = (user.uid() != rustix::process::geteuid().as_raw()).then(|| user.clone());
    }

    /// The user that alone will be in the process; `None` if it starts as root, which can become
    /// anybody.
    pub(crate) fn uid(&self) -> Option<u32> {
        let own = rustix::process::geteuid().as_raw();
        Some(self.user.as_ref().map_or(own, User::uid)).filter(|uid| *uid != 0)
    }

    /// Hands the sockets to the process as systemd does: as descriptors 3 and up, in the order of
    /// their names, announced in `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID`. The recipe holds
    /// copies of them.
    ///
    /// # Errors
    ///
    /// If the agent has too many files open.
    pub fn hand_over(&mut self, held: &HeldSockets) -> Result<(), SocketsError> {
        self.sockets = held.copies()?;
        self.has_sockets = !self.sockets.is_empty();
        if self.has_sockets {
            self.set("LISTEN_FDS", self.sockets.len().to_string());
            self.set("LISTEN_FDNAMES", held.names());
        }
        Ok(())
    }

    /// Starts the process, in a session of its own and with an empty standard input. `finish` is
    /// told which process it will be, and has the last word on its variables.
    ///
    /// # Errors
    ///
    /// If the system refuses; no process is left then. The kind is that of the system's error.
    ///
    /// # Cost
    ///
    /// Blocks until the process executes its program. In a runtime with several threads the
    /// runtime's other tasks go on meanwhile.
    pub fn start(
        self,
        [stdout, stderr]: [Stdio; 2],
        finish: impl FnOnce(&ProcessIdentity, &mut BTreeMap<OsString, OsString>),
    ) -> io::Result<Started> {
        let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
            return tokio::task::block_in_place(|| self.start_here([stdout, stderr], finish));
        }
        self.start_here([stdout, stderr], finish)
    }

    /// [`Self::start`] on a thread that may be held up.
    pub(crate) fn start_here(
        mut self,
        outputs: [Stdio; 2],
        finish: impl FnOnce(&ProcessIdentity, &mut BTreeMap<OsString, OsString>),
    ) -> io::Result<Started> {
        let (channel, mut child) = self.spawn_starter(outputs)?;
        let started = ProcessIdentity::of(child.id()).and_then(|identity| {
            finish(&identity, &mut self.environment);
            self.instruct(channel)?;
            Ok(identity)
        });
        match started {
            Ok(identity) => Ok(Started { child, identity }),
            Err(error) => {
                drop(child.kill());
                // It cannot have become anything that hangs in the kernel.
                drop(child.wait());
                Err(error)
            }
        }
    }

    fn spawn_starter(&mut self, [stdout, stderr]: [Stdio; 2]) -> io::Result<(UnixStream, Child)> {
        let (channel, its_end) = UnixStream::pair()?;
        let own = || PathBuf::from(OWN_EXECUTABLE);
        let mut command = Command::new(OTHER_EXECUTABLE.get().cloned().unwrap_or_else(own));
        // The argument says the same as the name, so that another program complains of it.
        command.arg0(STARTER).arg(format!("--{STARTER}")).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(its_end)).stdout(stdout).stderr(stderr);
        let mappings = (LISTEN_FDS_START..).zip(std::mem::take(&mut self.sockets));
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        if self.has_sockets {
            command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        }
        // The command holds copies of all of it.
        let child = command.spawn()?;
        Ok((channel, child))
    }

    /// Tells the starter what to become and waits until it is that.
    fn instruct(&self, mut channel: UnixStream) -> io::Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        channel.set_write_timeout(Some(START_WAIT_MAX))?;
        channel.write_all(&serde_json::to_vec(&self.plan())?).map_err(in_time)?;
        channel.shutdown(Shutdown::Write)?;
        let mut answer = vec![];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            channel.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut more = [0; 1024];
            match channel.read(&mut more) {
                Ok(0) => break,
                Ok(length) => answer.extend_from_slice(&more[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(in_time(error)),
            }
        }
        match answer.strip_prefix(STARTING) {
            // The `exec` has closed the socket.
            Some([]) => Ok(()),
            refusal => Err(self.refused(refusal.unwrap_or(&answer))),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            program: self.program.clone().into(),
            arguments: self.arguments.clone(),
            directory: self.directory.clone().into(),
            environment: self.environment.clone().into_iter().collect(),
            user: self.user.as_ref().map(User::ids),
            has_sockets: self.has_sockets,
        }
    }

    fn refused(&self, answer: &[u8]) -> io::Error {
        let refusal = match serde_json::from_slice(answer) {
            Ok(refusal) => refusal,
            Err(_) if answer.is_empty() => {
                return io::Error::other("its process was killed before it began");
            }
            Err(error) => return error.into(),
        };
        match refusal {
            Refusal::User { errno } => {
                let source = io::Error::from_raw_os_error(errno);
                let text = format!("its process cannot get a session and a user: {source}");
                io::Error::new(source.kind(), text)
            }
            Refusal::Directory { errno } => {
                let source = io::Error::from_raw_os_error(errno);
                let directory = self.directory.display();
                let advice = self.user.as_ref().map(|user| match source.kind() {
                    io::ErrorKind::PermissionDenied => format!(" (may {} enter it?)", user.name),
                    _ => String::new(),
                });
                let text = format!(
                    "its folder {directory} cannot be entered: {source}{}",
                    advice.unwrap_or_default()
                );
                io::Error::new(source.kind(), text)
            }
            Refusal::Program { errno } => self.advised(io::Error::from_raw_os_error(errno)),
        }
    }

    /// The system's word, or what it is about where that can be found out.
    fn advised(&self, error: io::Error) -> io::Error {
        let search = self.environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let is_path = self.program.as_os_str().as_encoded_bytes().contains(&b'/');
        let around = Surroundings { directory: &self.directory, search, link: None };
        let looked = if is_path {
            Executable::inspect(&self.program).and_then(|file| file.runs_here(around))
        } else {
            executable::find(&self.program, around).map(drop)
        };
        match (looked, &self.user, error.kind()) {
            (Err(Obstacle::Interpreter { why, .. }), ..) if !is_path => {
                io::Error::new(error.kind(), format!("it {why}"))
            }
            (Err(obstacle), ..) => io::Error::new(error.kind(), obstacle),
            (Ok(()), Some(user), io::ErrorKind::PermissionDenied) => {
                let name = &user.name;
                let advice =
                    format!("{error} (may {name} enter the build's folder and execute it?)");
                io::Error::new(error.kind(), advice)
            }
            _ => error,
        }
    }
}

fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "its process did not begin within {}; is the host overloaded, or does \
                 somebody stop processes of its user?",
                humantime::format_duration(START_WAIT_MAX)
            ),
        ),
        _ => error,
    }
}
