//! `shoal-agent`: the daemon of every host. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    if node_agent::host::starter::is_starter(name.as_deref()) {
        return node_agent::host::starter::main();
    }
    node_agent::cli::main("shoal-agent", arguments)
}
