//! Whether a program is ready and healthy: what is asked, how often, and for how long.
//!
//! Owns the settings of the health gate and the probes themselves. A probe asks once and answers
//! with a reason for people; what follows from the answer, `reconcile` decides.

use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

/// How a program is asked whether it can serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A GET that has to be answered with a status of 200 to 399.
    Http {
        /// Where the program listens.
        address: SocketAddr,
        /// Path and query, starting with a slash.
        path: String,
    },
    /// A TCP connection that has to be accepted.
    Tcp {
        /// Where the program listens.
        address: SocketAddr,
    },
    /// A command of the build that has to end with exit code 0.
    Command {
        /// The command and its arguments, not empty. Looked up as an app's program is.
        exec: Vec<String>,
    },
    /// The program says `READY=1` itself, as with `sd_notify`.
    Notify,
}

/// When a new build counts as good on this host, and when it is given up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// How the program is asked. `None`: it is healthy while it runs.
    pub probe: Option<Probe>,
    /// Time between two probes.
    pub interval: Duration,
    /// Time for the answer to one probe.
    pub timeout: Duration,
    /// How long a new program has to be healthy without a break before its build is good.
    pub min_healthy_time: Duration,
    /// Time from the start of the new program to healthy for `min_healthy_time`; past it the build
    /// is rolled back.
    pub deadline: Duration,
    /// How often a build is started before it is rolled back because its program ended.
    pub tries: NonZero<u32>,
}

impl Default for Health {
    /// What an app has whose operator says nothing.
    fn default() -> Self {
        Self {
            probe: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            min_healthy_time: Duration::from_secs(10),
            deadline: Duration::from_mins(2),
            tries: NonZero::new(3).expect("it is not zero"),
        }
    }
}
