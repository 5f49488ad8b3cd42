//! `shoal-seeder`: the daemon of every region. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    seeder::cli::main("shoal-seeder", std::env::args_os().skip(1))
}
