//! Whether a build could start on this host at all, found out before anything of the old build is
//! touched, and without starting anything.
//!
//! Looks at the program, at the hooks that a switch needs, and at the command that asks for health.
//! Invariant: what the build brings along and what only this host decides are told apart: the first
//! does not change without another deploy, the second may be mended at any time. A build is not
//! refused for what a hook of the switch that is still to come may bring.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use p2p_core::BuildId;

use crate::host::executable::{Obstacle, Surroundings, find};
use crate::host::hook::{self, Hook, Hooks};
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
    /// Whether the hook before the switch has run, or there is none.
    pub is_prepared: bool,
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
    /// Whether no hook can help.
    is_final: bool,
    text: String,
}

impl CannotStart {
    /// With this text for people.
    pub fn new(is_of_build: bool, text: impl Into<String>) -> Self {
        Self { is_of_build, is_final: false, text: text.into() }
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
        let current = self.current();
        let is_ready = self.is_prepared && self.hooks.after_switch.is_none();
        if let Some(launch) = self.launch.filter(|launch| launch.unit.is_none()) {
            unless_mended(is_ready, self.check_program(launch, &current))?;
        }
        if let Some(hook) = &self.hooks.before_switch
            && !self.is_prepared
        {
            self.check_hook("before_switch", hook, &current)?;
        }
        if let Some(hook) = &self.hooks.after_switch {
            unless_mended(self.is_prepared, self.check_hook("after_switch", hook, &current))?;
        }
        match self.probe {
            Some(Probe::Command { exec }) => {
                unless_mended(is_ready, self.check_command("health", exec, &current))
            }
            _ => Ok(()),
        }
    }

    /// The link that leads to this build once it is switched to.
    fn current(&self) -> PathBuf {
        let link = self.app.path().join("current");
        std::path::absolute(&link).unwrap_or(link)
    }

    fn check_program(&self, launch: &Launch, current: &Path) -> Result<(), CannotStart> {
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
        let link = Some((current, self.root));
        let around = Surroundings { directory: &recipe.directory, search, link };
        check_file(name, &recipe.program, around)
            .map_err(|fault| fault.told(&format!("{} cannot start", shown(name))))
    }

    fn check_hook(&self, name: &str, hook: &Hook, current: &Path) -> Result<(), CannotStart> {
        if let Some(user) = &hook.user {
            User::find(user).map_err(|error| CannotStart::new(false, error.to_string()))?;
        }
        self.check_command(name, &hook.exec, current)
    }

    /// A command that is part of the build. One that the host brings along is its own business.
    fn check_command(
        &self,
        purpose: &str,
        exec: &[String],
        current: &Path,
    ) -> Result<(), CannotStart> {
        let link = Some((current, self.root));
        let around =
            Surroundings { directory: self.root, search: Some(OsStr::new(hook::PATH)), link };
        let Some(name) = exec.first().filter(|name| is_of_build(name, around)) else {
            return Ok(());
        };
        check_file(name, &self.root.join(name), around).map_err(|fault| {
            fault.told(&format!("{}, the command for {purpose}, cannot start", shown(name)))
        })
    }
}

/// What is wrong with a file.
struct Fault {
    is_of_build: bool,
    is_final: bool,
    why: String,
}

impl Fault {
    fn told(self, what: &str) -> CannotStart {
        let Self { is_of_build, is_final, why } = self;
        CannotStart { is_of_build, is_final, text: format!("{what}: {why}") }
    }
}

/// Leaves out what a hook that is still to come may mend.
fn unless_mended(is_ready: bool, looked: Result<(), CannotStart>) -> Result<(), CannotStart> {
    looked.or_else(|fault| if is_ready || fault.is_final { Err(fault) } else { Ok(()) })
}

/// Looks at the file that `name` means, which is `program`.
fn check_file(name: &str, program: &Path, around: Surroundings<'_>) -> Result<(), Fault> {
    let is_path = name.contains('/');
    let fault = |obstacle: Obstacle| {
        let is_of_build = is_of_build(name, around);
        let is_final = is_of_build && is_in_the_bytes(&obstacle);
        let why = match obstacle {
            Obstacle::Missing { .. } if is_of_build => "the build has no such file".into(),
            Obstacle::Interpreter { why, .. } if !is_path => format!("it {why}"),
            other => other.to_string(),
        };
        Fault { is_of_build, is_final, why }
    };
    let path = if is_path { program.to_owned() } else { find(program, around).map_err(fault)? };
    around.inspect(&path).and_then(|file| file.runs_here(around)).map_err(fault)
}

/// Whether another content of the file is needed, which makes it another build.
const fn is_in_the_bytes(obstacle: &Obstacle) -> bool {
    matches!(
        obstacle,
        Obstacle::CarriageReturn
            | Obstacle::NoInterpreter
            | Obstacle::UnknownFormat
            | Obstacle::OtherMachine { .. }
            | Obstacle::NoProgram
    )
}

/// Whether a program's name means a file of the build, by its path there or through `current`.
fn is_of_build(name: &str, around: Surroundings<'_>) -> bool {
    let is_through_link = around.link.is_some_and(|(link, _)| Path::new(name).starts_with(link));
    let leads_out = name.split('/').any(|part| part == "..");
    !leads_out && (is_through_link || (name.contains('/') && !name.starts_with('/')))
}

fn shown(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

#[cfg(test)]
mod tests;
