//! `shoal`: the operator's command.
//!
//! One executable with three faces: the command itself, the daemons behind `shoal seeder` and
//! `shoal agent`, and, under the name `demo-service`, the service that `shoal demo` deploys. The
//! demo thus needs nothing but this one file. A build of agents may hold it as `shoal-agent`.
//! Everything is in the modules.

mod app;
mod bench;
mod demo;
mod explain;
mod fetch;
mod forget;
mod main_store;
mod output;
mod publish;
mod rollout;
mod runtime;
mod status;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::main(std::env::args_os().collect())
}
