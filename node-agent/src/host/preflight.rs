//! Whether a build could start on this host at all, found out before anything of the old build is
//! touched, and without starting anything.
//!
//! Looks at the program, at the hooks that a switch needs, and at the command that asks for health.
//! Invariant: what the build brings along and what only this host decides are told apart: the first
//! does not change without another deploy, the second may be mended at any time.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use p2p_core::BuildId;

use crate::host::executable::{Executable, Obstacle, find};
use crate::host::hook::{self, Hooks};
use crate::host::launch::Launch;
use crate::host::probe::Probe;
use crate::host::user::User;
use crate::state::app_dir::AppDir;

/// A build that is about to be switched to.
#[derive(Debug)]
pub struct Preflight<'a> {
    /// The app's directory.
    pub app: &'a AppDir,
    /// What the operator configured; `None` if there is no program to run.
    pub launch: Option<&'a Launch>,
    /// Commands around a switch.
    pub hooks: &'a Hooks,
    /// How the program is asked for its health.
    pub probe: Option<&'a Probe>,
    /// Which build.
    pub build: BuildId,
    /// Its files.
    pub root: &'a Path,
}

/// Why a build cannot start. `Display` is for an operator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct CannotStart {
    /// Whether the build itself is to blame: it will not start before another is deployed.
    pub is_of_build: bool,
    text: String,
}

impl CannotStart {
    /// With this text for people.
    pub fn new(is_of_build: bool, text: impl Into<String>) -> Self {
        Self { is_of_build, text: text.into() }
    }
}

impl Preflight<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    ///
    /// The first thing that keeps the build from starting.
    ///
    /// # Cost
    ///
    /// Blocks while the user database answers, which may be on the network.
    pub fn check(&self) -> Result<(), CannotStart> {
        if let Some(launch) = self.launch.filter(|launch| launch.unit.is_none()) {
            self.check_program(launch)?;
        }
        for (name, hook) in [
            ("before_switch", &self.hooks.before_switch),
            ("after_switch", &self.hooks.after_switch),
        ] {
            let Some(hook) = hook else { continue };
            if let Some(user) = &hook.user {
                User::find(user).map_err(|error| CannotStart::new(false, error.to_string()))?;
            }
            self.check_command(name, &hook.exec)?;
        }
        match self.probe {
            Some(Probe::Command { exec }) => self.check_command("health", exec),
            _ => Ok(()),
        }
    }

    fn check_program(&self, launch: &Launch) -> Result<(), CannotStart> {
        let recipe = launch.recipe(self.build, self.root, self.app);
        let recipe = recipe.map_err(|error| CannotStart::new(false, error.to_string()))?;
        let name = &launch.exec[0];
        if !recipe.directory.is_dir() {
            let text = format!(
                "{} cannot start: its working directory {} is not there",
                shown(name),
                recipe.directory.display()
            );
            return Err(CannotStart::new(recipe.directory.starts_with(self.root), text));
        }
        let search = recipe.environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
        check_file(name, &recipe.program, (&recipe.directory, search)).map_err(|(of_build, why)| {
            CannotStart::new(of_build, format!("{} cannot start: {why}", shown(name)))
        })
    }

    /// A command that is part of the build. One that the host brings along is its own business.
    fn check_command(&self, hook: &str, exec: &[String]) -> Result<(), CannotStart> {
        let Some(name) = exec.first().filter(|name| is_of_build(name)) else { return Ok(()) };
        let place = (self.root, Some(OsStr::new(hook::PATH)));
        check_file(name, &self.root.join(name), place).map_err(|(of_build, why)| {
            let text = format!("{}, the command for {hook}, cannot start: {why}", shown(name));
            CannotStart::new(of_build, text)
        })
    }
}

/// Whether the build is to blame, and what is wrong with the file that `name` means.
fn check_file(
    name: &str,
    program: &Path,
    (directory, search): (&Path, Option<&OsStr>),
) -> Result<(), (bool, String)> {
    let fault = |obstacle: Obstacle| {
        let of_build = is_of_build(name);
        let why = match obstacle {
            Obstacle::Missing { .. } if of_build => "the build has no such file".into(),
            Obstacle::Interpreter { why, .. } if !name.contains('/') => {
                format!("it {why}")
            }
            other => other.to_string(),
        };
        (of_build, why)
    };
    let path = if name.contains('/') {
        program.to_owned()
    } else {
        find(program, directory, search).map_err(fault)?
    };
    let file = Executable::inspect(&path).map_err(fault)?;
    file.runs_here(directory, search).map_err(fault)
}

/// Whether a program's name means a file of the build.
fn is_of_build(name: &str) -> bool {
    name.contains('/') && !name.starts_with('/')
}

fn shown(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}
