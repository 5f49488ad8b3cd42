//! What to run for an app, and how that becomes a command.
//!
//! A program path with a slash that is not absolute (`./server`) means a file of the build; a name
//! without a slash is looked up in `PATH`. The program sees the build under its real path, never
//! through `current`, so a switch cannot pull files away from under it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use p2p_core::{BuildId, Digest};

use crate::app_dir::AppDir;

/// Prefix of the variables that are the agent's own; a program sees only those set by [`Launch`].
pub(crate) const VARIABLE_PREFIX: &str = "SHOAL_";

/// Tells programs of different agents and apps on one machine apart.
pub(crate) const APP_DIR_VARIABLE: &str = "SHOAL_APP_DIR";

/// Tells one start of a program from every other one.
pub(crate) const INSTANCE_VARIABLE: &str = "SHOAL_INSTANCE";

/// How long a program may take to stop if the operator says nothing: enough to finish requests,
/// short enough that a switch is not noticed by clients that retry.
pub const GRACE_PERIOD_DEFAULT: Duration = Duration::from_secs(10);

/// The configured program of one app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Launch {
    /// The app's name.
    pub app: String,
    /// The host's name.
    pub host: String,
    /// The program and its arguments; never empty.
    pub exec: Vec<String>,
    /// Variables on top of the agent's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where the program starts, relative to the build's root; `None` for the root itself.
    pub working_directory: Option<PathBuf>,
    /// How long the program may take to stop before it is killed.
    pub grace_period: Duration,
}

impl Launch {
    /// The command that runs `build` from `root`, and the program's path for messages.
    ///
    /// # Panics
    ///
    /// If `exec` is empty; the configuration does not let that through.
    pub fn command(&self, build: BuildId, root: &Path, app: &AppDir) -> (Command, PathBuf) {
        let (program, arguments) = self.exec.split_first().expect("the configuration has checked");
        let program = if program.contains('/') { root.join(program) } else { program.into() };
        let directory = self.working_directory.as_ref().map_or(root.into(), |path| root.join(path));

        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with(VARIABLE_PREFIX)) {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(directory)
            .envs(&self.environment)
            .env("SHOAL_APP", &self.app)
            .env("SHOAL_BUILD", build.to_string())
            .env("SHOAL_HOST", &self.host)
            .env(APP_DIR_VARIABLE, app.path());
        (command, program)
    }

    /// Names what is run and how, the build left out. A program that runs under another digest was
    /// started by another configuration. The grace period is not part of it: it takes effect
    /// without a restart.
    ///
    /// # Panics
    ///
    /// If `working_directory` is not UTF-8, which a configuration file cannot say.
    pub fn digest(&self) -> Digest {
        let parts = (&self.app, &self.host, &self.exec, &self.environment, &self.working_directory);
        let text = serde_json::to_vec(&parts).expect("strings and paths of strings encode");
        Digest::of(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(exec: &[&str]) -> Launch {
        Launch {
            app: "web".into(),
            host: "h1".into(),
            exec: exec.iter().copied().map(String::from).collect(),
            environment: BTreeMap::from([("PORT".into(), "80".into())]),
            working_directory: None,
            grace_period: Duration::from_secs(10),
        }
    }

    #[test]
    fn program_is_looked_up_by_the_shape_of_its_path() {
        let cases = [
            ("./server", "/b/./server"),
            ("bin/server", "/b/bin/server"),
            ("/bin/sh", "/bin/sh"),
            ("python3", "python3"),
        ];
        let build = BuildId::of_manifest(b"");
        for (given, expected) in cases {
            let app = AppDir::new("/a".into());
            let (command, program) = launch(&[given, "x"]).command(build, Path::new("/b"), &app);
            assert_eq!(program, Path::new(expected));
            assert_eq!(command.get_program(), expected);
            assert_eq!(command.get_current_dir(), Some(Path::new("/b")));
        }
    }

    #[test]
    fn digest_changes_with_what_needs_a_restart() {
        let first = launch(&["./server"]);
        let patient = Launch { grace_period: Duration::ZERO, ..first.clone() };
        assert_eq!(first.digest(), patient.digest());
        assert_ne!(first.digest(), launch(&["./server", "-v"]).digest());
        assert_ne!(
            first.digest(),
            Launch { environment: BTreeMap::new(), ..first.clone() }.digest()
        );
        let elsewhere = Launch { working_directory: Some("data".into()), ..first.clone() };
        assert_ne!(first.digest(), elsewhere.digest());
    }
}
