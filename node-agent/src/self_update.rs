//! The agent updates itself as any other app: the installed binary is a stub that starts the agent
//! of the build that `current` names, and rolls back one that does not come up.
//!
//! Invariant: a build that has not proved itself is started only while the journal grants it tries,
//! and each try is taken from the journal, durably, before it is made. So a new agent that crashes,
//! hangs (the watchdog) or cannot even read its configuration costs a few starts, and never the
//! host. The stub may be years older than the builds: it reads only what it needs from the journal
//! and preserves the rest, and it finds its app even in a configuration that it does not fully
//! understand.
//!
//! `decide` is pure. Everything here happens before the runtime and its threads start.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use command_line::StateLock;
use goal_state::now_ms;
use p2p_core::BuildId;
use tracing::{info, warn};

use crate::state::durable;

mod find;
mod journal;
pub(crate) mod own_agent;

pub(crate) use find::find_agent_app;
use journal::StubJournal;

/// The variable in which a stub says which build's agent it starts.
const BUILD_VARIABLE: &str = "SHOAL_STUB_BUILD";

/// The variable that says where that stub is.
const STUB_VARIABLE: &str = "SHOAL_STUB";

/// The variable that holds the arguments of that stub, as JSON: changes that a build makes to them
/// (a script that adds some) must not reach the agents after it. Missing if they are not text.
const ARGUMENTS_VARIABLE: &str = "SHOAL_STUB_ARGUMENTS";

/// Where the agent is in a build; the first that is there.
const PROGRAMS: [&str; 2] = ["shoal-agent", "bin/shoal-agent"];

/// The reason noted for a build whose agent was started and failed: those that come after it know
/// no more.
const ENDED_OR_HUNG: &str = "the agent of this build ended or hung each time before it was well for long enough; look at its log (journalctl -u shoal-agent)";

/// Most decisions of one start: each lowers what is left to try.
const DECISIONS_MAX: usize = 8;

/// What a stub finds when it starts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Facts {
    /// Whether a stub started this process: then it is the agent, whatever it finds.
    is_started_by_stub: bool,
    /// What `current` names.
    current: Option<BuildId>,
    journal: Option<StubJournal>,
    /// Builds that have an agent in them.
    runnable: BTreeSet<BuildId>,
}

/// What a stub does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It is the agent itself.
    Stay,
    /// It becomes the agent of a build that has proved itself, or that nobody judges.
    Exec { build: BuildId },
    /// It notes that one try less is left, and becomes the agent of a build that is being tried.
    Try { build: BuildId, tries_left: u32 },
    /// It lets `current` point to where the journal says already.
    Repoint { build: BuildId },
    /// It notes that `failed` failed and that `build` is to run, and lets `current` point there.
    RollBack { failed: BuildId, build: BuildId },
    /// It notes that `failed` failed; there is nothing to go back to but itself.
    GiveUp { failed: BuildId },
}

fn decide(facts: &Facts) -> Step {
    let runs = |build: BuildId| facts.runnable.contains(&build);
    let (false, Some(current)) = (facts.is_started_by_stub, facts.current) else {
        return Step::Stay;
    };
    let exec = |build| if runs(build) { Step::Exec { build } } else { Step::Stay };
    let Some(journal) = &facts.journal else { return exec(current) };
    let to = journal.to;
    if journal.is_rolling_back() && runs(to) && current != to {
        return Step::Repoint { build: to };
    }
    // If the journal of a switch is written but the link is not, the old agent does the rest.
    if !journal.is_switching() || current != to {
        return exec(current);
    }
    if journal.tries_left > 0 && runs(to) {
        return Step::Try { build: to, tries_left: journal.tries_left - 1 };
    }
    match journal.good.iter().copied().find(|build| *build != to && runs(*build)) {
        Some(build) => Step::RollBack { failed: to, build },
        None if journal.failed_build() != Some(to) => Step::GiveUp { failed: to },
        None => Step::Stay,
    }
}

/// Where the app that is the agent has its files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AgentApp {
    /// The state directory.
    pub(crate) state: PathBuf,
    /// The app's name.
    pub(crate) name: String,
}

impl AgentApp {
    fn directory(&self) -> PathBuf {
        self.state.join("apps").join(&self.name)
    }

    fn facts(&self) -> Facts {
        let directory = self.directory();
        let journal = StubJournal::load(&directory);
        let current = fs::read_link(directory.join("current")).ok().and_then(|t| build_of(&t));
        let mut builds: BTreeSet<BuildId> = current.into_iter().collect();
        builds.extend(journal.iter().flat_map(|journal| journal.good.iter().chain([&journal.to])));
        Facts {
            is_started_by_stub: running_build().is_some(),
            current,
            runnable: builds.into_iter().filter(|build| self.program(*build).is_some()).collect(),
            journal,
        }
    }

    /// The files of a build: in the place where `current` points to, with its name.
    fn root(&self, build: BuildId) -> Option<PathBuf> {
        let target = fs::read_link(self.directory().join("current")).ok()?;
        let renamed = target.components().map(|part| match part.as_os_str().to_str() {
            Some(name) if name.parse::<BuildId>().is_ok() => OsString::from(build.to_string()),
            _ => part.as_os_str().to_owned(),
        });
        Some(renamed.collect())
    }

    /// The agent of a build.
    fn program(&self, build: BuildId) -> Option<PathBuf> {
        let root = self.directory().join(self.root(build)?);
        PROGRAMS.iter().map(|name| root.join(name)).find(|path| {
            fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }

    fn point_to(&self, build: BuildId) -> io::Result<()> {
        let root = self.root(build).ok_or(io::ErrorKind::NotFound)?;
        durable::write_symlink(&self.directory().join("current"), &root).map_err(|e| e.source)
    }

    /// Does what [`decide`] says until this process is the agent that it should be. Returns if that
    /// is the one that it is already.
    ///
    /// # Errors
    ///
    /// If the journal cannot be written: no try is made that is not noted.
    pub(crate) fn boot(&self, arguments: &[OsString]) -> io::Result<()> {
        if running_build().is_some() || !self.directory().join("current").exists() {
            return Ok(());
        }
        // Another agent is running and decides about the journal itself; the start fails later, and
        // says so.
        let Ok(_lock) = StateLock::take(&self.state) else { return Ok(()) };
        let mut last_error = None;
        for _ in 0..DECISIONS_MAX {
            let facts = self.facts();
            let step = decide(&facts);
            let mut journal = facts.journal;
            match step {
                Step::Stay => break,
                Step::Exec { build } => {
                    let error = self.exec(build, arguments);
                    warn!(build = build.short(), %error, "cannot start the agent of the build; this one runs instead");
                    break;
                }
                Step::Try { build, tries_left } => {
                    let Some(journal) = &mut journal else { break };
                    info!(build = build.short(), tries_left, "starting the new agent");
                    journal.set_tries_left(tries_left);
                    journal.write(&self.directory())?;
                    let error = self.exec(build, arguments);
                    warn!(build = build.short(), %error, "cannot start the new agent");
                    last_error = Some(error);
                }
                Step::Repoint { build } => self.point_to(build)?,
                Step::RollBack { failed, build } => {
                    let Some(journal) = &mut journal else { break };
                    warn!(
                        from = failed.short(),
                        to = build.short(),
                        "the new agent did not come up, rolling back"
                    );
                    self.note_failure(journal, failed, last_error.as_ref());
                    journal.set_rolling_back(build);
                    journal.write(&self.directory())?;
                    self.point_to(build)?;
                }
                Step::GiveUp { failed } => {
                    let Some(journal) = &mut journal else { break };
                    warn!(
                        build = failed.short(),
                        "the new agent did not come up, and there is none before it; this one runs"
                    );
                    self.note_failure(journal, failed, last_error.as_ref());
                    journal.write(&self.directory())?;
                }
            }
        }
        Ok(())
    }

    /// Notes why `build` is not used; `error` if its agent could not even be started.
    fn note_failure(&self, journal: &mut StubJournal, build: BuildId, error: Option<&io::Error>) {
        let since = find::generation_of(&self.state, &self.name);
        let reason = match (self.program(build), error) {
            (None, _) => format!("the build has no program {}", PROGRAMS.join(" or ")),
            (Some(_), Some(error)) => format!("the agent of this build cannot be started: {error}"),
            (Some(_), None) => ENDED_OR_HUNG.into(),
        };
        journal.set_failed(build, since, &reason, now_ms());
    }

    /// Only returns if that fails.
    fn exec(&self, build: BuildId, arguments: &[OsString]) -> io::Error {
        let (Some(program), Ok(stub)) = (self.program(build), own_path()) else {
            return io::ErrorKind::NotFound.into();
        };
        let mut command = Command::new(program);
        command.args(arguments).env(BUILD_VARIABLE, build.to_string()).env(STUB_VARIABLE, stub);
        let words: Option<Vec<&str>> = arguments.iter().map(|word| word.to_str()).collect();
        if let Some(text) = words.and_then(|words| serde_json::to_string(&words).ok()) {
            command.env(ARGUMENTS_VARIABLE, text);
        }
        command.exec()
    }
}

/// The build of which this process is the agent; `None` for the installed binary.
pub(crate) fn running_build() -> Option<BuildId> {
    std::env::var(BUILD_VARIABLE).ok()?.parse().ok()
}

/// Replaces this process by a new start of the stub, which picks the agent that `current` names.
/// The process keeps its id, and its programs run on. Call it with the journal written and
/// `current` switched; only returns if it fails.
pub(crate) fn restart_in_place() -> io::Error {
    let arguments = arguments_of_stub().unwrap_or_else(|| std::env::args_os().skip(1).collect());
    let stub = match std::env::var_os(STUB_VARIABLE) {
        Some(stub) => PathBuf::from(stub),
        None => match own_path() {
            Ok(path) => path,
            Err(error) => return error,
        },
    };
    let mut command = Command::new(&stub);
    // The agent of a build is called without the subcommand that `shoal` needs.
    if running_build().is_some() && stub.file_name().is_some_and(|name| name == "shoal") {
        command.arg("agent");
    }
    for name in [BUILD_VARIABLE, STUB_VARIABLE, ARGUMENTS_VARIABLE] {
        command.env_remove(name);
    }
    command.args(arguments).exec()
}

fn arguments_of_stub() -> Option<Vec<OsString>> {
    let words: Vec<String> = serde_json::from_str(&std::env::var(ARGUMENTS_VARIABLE).ok()?).ok()?;
    Some(words.into_iter().map(OsString::from).collect())
}

/// The path of this binary, also once another one was installed over it.
fn own_path() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    Ok(text.map_or_else(|| path.clone(), PathBuf::from))
}

fn build_of(target: &Path) -> Option<BuildId> {
    target.components().find_map(|part| part.as_os_str().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
