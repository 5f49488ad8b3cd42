//! What one run of the service is: what it says about itself, and what it does wrong.
//!
//! Invariant: read once at the start and never changed, so that a running service keeps saying the
//! version it was started as, even after its files were replaced.

use std::path::Path;
use std::{env, fs, io};

use crate::behaviour::Behaviours;

/// The file in the root of the build that holds the version, one line.
pub const VERSION_FILE: &str = "VERSION";

/// What the service says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The text of the version file, without surrounding white space.
    pub version: String,
    /// The host's name; `SHOAL_HOST`, or else the system's name.
    pub host: String,
    /// The build it was started from; `SHOAL_BUILD`, or `unknown`.
    pub build: String,
}

/// What the service is.
#[derive(Clone, Debug)]
pub struct Service {
    /// What it says.
    pub identity: Identity,
    /// What it does wrong.
    pub behaviours: Behaviours,
}

impl Identity {
    /// Reads the version of the build whose root is `root`, and host and build from the
    /// environment.
    ///
    /// # Errors
    ///
    /// If the version file cannot be read.
    pub(crate) fn load(root: &Path) -> io::Result<Self> {
        let system_name = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = env::var("SHOAL_HOST").ok().or_else(system_name);
        Ok(Self {
            version: fs::read_to_string(root.join(VERSION_FILE))?.trim().to_owned(),
            host: host.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned()),
            build: env::var("SHOAL_BUILD").unwrap_or_else(|_| "unknown".to_owned()),
        })
    }
}
