//! What to run for an app, and how that becomes a process.
//!
//! A program path with a slash that is not absolute (`./server`) means a file of the build; a name
//! without a slash is looked up in `PATH`. The program sees the build under its real path, never
//! through `current`, so a switch cannot pull files away from under it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_core::{BuildId, Digest};

use crate::host::sockets::SocketAddress;
use crate::host::start::Recipe;
use crate::host::user::{User, UserError};
use crate::state::app_dir::AppDir;

/// Prefix of the variables that are the agent's own; a program sees only those set by [`Launch`].
pub(crate) const VARIABLE_PREFIX: &str = "SHOAL_";

/// Distinguishes programs of different agents and apps on one machine.
pub(crate) const APP_DIR_VARIABLE: &str = "SHOAL_APP_DIR";

/// Distinguishes one start of a program from every other.
pub(crate) const INSTANCE_VARIABLE: &str = "SHOAL_INSTANCE";

/// Variables by which a service manager speaks to the agent. A program that inherited them would
/// speak in the agent's name, or take sockets that are not there.
const SERVICE_VARIABLES: [&str; 7] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How long a program may take to stop if the operator says nothing: enough to finish requests,
/// short enough that a switch is not noticed by clients that retry.
pub(crate) const GRACE_PERIOD_DEFAULT: Duration = Duration::from_secs(10);

/// The configured program of one app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Launch {
    /// The app's name.
    pub app: String,
    /// The host's name.
    pub host: String,
    /// The program and its arguments; empty only if there is a `unit`.
    pub exec: Vec<String>,
    /// The systemd unit that is restarted instead of running `exec`.
    pub unit: Option<String>,
    /// Variables on top of the agent's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where the program starts, relative to the build's root; `None` for the root itself.
    pub working_directory: Option<PathBuf>,
    /// How long the program may take to stop before it is killed.
    pub grace_period: Duration,
    /// The user that the program runs as, by name or number; `None`: the agent's own.
    pub user: Option<String>,
    /// The sockets that are handed to the program, by name.
    pub sockets: BTreeMap<String, SocketAddress>,
}

impl Launch {
    /// The process that runs `build` from `root`, as the configured user, with `HOME`, `USER` and
    /// `LOGNAME` of that user unless the operator set them.
    ///
    /// # Panics
    ///
    /// If `exec` is empty, which it is for units only.
    ///
    /// # Errors
    ///
    /// If there is no such user, or the agent may not run anything as that user.
    pub fn recipe(&self, build: BuildId, root: &Path, app: &AppDir) -> Result<Recipe, UserError> {
        let directory = self.working_directory.as_ref().map_or(root.into(), |path| root.join(path));
        let mut recipe = Recipe::new(self.program(root), directory);
        recipe.arguments = self.exec[1..].into();
        recipe.environment = std::env::vars_os().filter(|(name, _)| !is_own(name)).collect();
        if let Some(name) = &self.user {
            recipe.run_as(&User::find(name)?);
        }
        for (name, value) in &self.environment {
            recipe.set(name, value);
        }
        recipe.set("SHOAL_APP", &self.app);
        recipe.set("SHOAL_BUILD", build.to_string());
        recipe.set("SHOAL_HOST", &self.host);
        recipe.set(APP_DIR_VARIABLE, app.path());
        Ok(recipe)
    }

    /// The path of the program in the build at `root`, or the name that is looked up in `PATH`.
    ///
    /// # Panics
    ///
    /// As [`Self::recipe`].
    pub fn program(&self, root: &Path) -> PathBuf {
        let program = self.exec.first().expect("the configuration has checked");
        if program.contains('/') { root.join(program) } else { program.into() }
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
        let mut text = serde_json::to_vec(&parts).expect("strings and paths of strings encode");
        // Appended only if there are any: programs that still run may have digests that were made
        // by agents that knew neither.
        if self.user.is_some() || !self.sockets.is_empty() {
            let sockets: BTreeMap<_, _> =
                self.sockets.iter().map(|(name, address)| (name, address.to_string())).collect();
            let more = serde_json::to_vec(&(&self.user, sockets));
            text.extend(more.expect("strings and maps of strings encode"));
        }
        if let Some(unit) = &self.unit {
            text.extend(unit.as_bytes());
        }
        Digest::of(&text)
    }
}

/// Whether a variable is the agent's own: no program inherits it.
fn is_own(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| SERVICE_VARIABLES.contains(&name) || name.starts_with(VARIABLE_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(exec: &[&str]) -> Launch {
        Launch {
            app: "web".into(),
            host: "h1".into(),
            exec: exec.iter().copied().map(String::from).collect(),
            unit: None,
            environment: BTreeMap::from([("PORT".into(), "80".into())]),
            working_directory: None,
            grace_period: Duration::from_secs(10),
            user: None,
            sockets: BTreeMap::new(),
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
            let recipe = launch(&[given, "x"]).recipe(build, Path::new("/b"), &app).unwrap();
            assert_eq!(recipe.program, Path::new(expected));
            assert_eq!(recipe.arguments, ["x"]);
            assert_eq!(recipe.directory, Path::new("/b"));
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
        let somebody = Launch { user: Some("www-data".into()), ..first.clone() };
        assert_ne!(first.digest(), somebody.digest());
        let on = |name: &str, port| {
            let address = SocketAddress::Tcp(([127, 0, 0, 1], port).into());
            Launch { sockets: [(name.into(), address)].into(), ..first.clone() }.digest()
        };
        let digests = [first.digest(), on("a", 1), on("b", 1), on("a", 2)];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{digests:?}");
        }
    }

    #[test]
    fn program_does_not_speak_to_the_service_manager_in_the_name_of_the_agent() {
        for (name, expected) in
            [("NOTIFY_SOCKET", true), ("LISTEN_FDS", true), ("SHOAL_STATE", true), ("PATH", false)]
        {
            assert_eq!(is_own(name.as_ref()), expected, "{name}");
        }
        let app = AppDir::new("/a".into());
        let mut launch = launch(&["./server"]);
        launch.environment.insert("WATCHDOG_USEC".into(), "7".into());
        let recipe = launch.recipe(BuildId::of_manifest(b""), Path::new("/b"), &app).unwrap();
        let set = &recipe.environment["WATCHDOG_USEC".as_ref() as &OsStr];
        assert_eq!(set, "7", "the operator's word counts");
    }
}
