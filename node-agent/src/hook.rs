//! Commands that an operator wants run around a switch, bounded in time and output.
//!
//! Owns their settings and how one is run: own user, clean environment, a process group that is
//! ended with the hook, output captured up to a limit. What a failure means, `reconcile` decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Time for a hook whose operator says nothing.
pub const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);

/// One command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hook {
    /// The command and its arguments, not empty. Looked up in the build, as an app's program is.
    pub exec: Vec<String>,
    /// The user that it runs as; `None`: that of the app's program.
    pub user: Option<String>,
    /// Time after which its process group is told to stop, then killed.
    pub timeout: Duration,
}

/// The commands of one app.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hooks {
    /// In the new build, before `current` points to it; a failure fails the build.
    pub before_switch: Option<Hook>,
    /// In the new build, once `current` points to it and before its program starts; a failure fails
    /// the build.
    pub after_switch: Option<Hook>,
    /// In the build that was gone back to; a failure is only told.
    pub after_rollback: Option<Hook>,
    /// Takes the host out of a load balancer before its program stops; a failure is only told.
    pub drain: Option<Hook>,
    /// Puts it back once the program is ready; a failure is only told.
    pub undrain: Option<Hook>,
}

/// One run of a hook.
#[derive(Clone, Debug)]
pub struct HookOrder {
    /// What to run.
    pub hook: Hook,
    /// The build that it runs in.
    pub root: PathBuf,
    /// Variables that it is given besides the few that every hook has.
    pub variables: BTreeMap<String, String>,
    /// The user if the hook names none.
    pub default_user: Option<String>,
}
