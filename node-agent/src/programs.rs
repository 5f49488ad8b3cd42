//! An app's programs, as the agent judges them: which one serves, which is tried beside it, which
//! is leaving, and how far each is trusted.
//!
//! - `supervisor` owns the places of an app and starts, stops and adopts what stands in them; an
//!   `instance` is one program in one place.
//! - `health_watch` says whether a program may be called good; `output` keeps what it prints,
//!   `output_watch` counts and cuts it, `flood` (pure) says what is too much.
//! - `hook_runner` runs the commands around a switch.
//!
//! Nothing here touches the machine but through the traits of `host`, and nothing decides what an
//! app should run: that is `brain`.

pub(crate) mod flood;
pub(crate) mod health_watch;
pub(crate) mod hook_runner;
pub(crate) mod instance;
pub(crate) mod output;
pub(crate) mod output_watch;
pub(crate) mod supervisor;

pub use flood::OUTPUT_WINDOW;
pub use health_watch::Check;
pub use output::OUTPUT_BYTES_MAX;
pub use supervisor::{
    OutputCounts, ProgramSettings, RestartCounts, Supervisor, SupervisorTimings, SupervisorWake,
    Told,
};
