//! `shoal-agent`: the daemon of every host. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    node_agent::cli::main("shoal-agent", std::env::args_os().skip(1))
}
