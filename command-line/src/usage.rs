//! From arguments to values, or to one line that says what is wrong with them.
//!
//! Invariant: whatever the parser has to complain about becomes one line that ends with where to
//! read on. Help and version are printed as the parser makes them.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::complaint::{complain, one_line};

/// Exit code for wrong arguments, variables or configuration files.
pub const EXIT_USAGE: u8 = 2;

/// Arguments that no command came of. What there is to say to a person is said already.
#[derive(Debug)]
pub struct Unparsed {
    /// The exit code with which the program is to end.
    pub exit: ExitCode,
    /// What is wrong, in one line; `None` for help and version, which were asked for.
    pub mistake: Option<String>,
}

/// Reads the arguments of `program`, without its name.
///
/// # Errors
///
/// Nothing is to be run: help and version are printed as they are, a mistake as one line.
pub fn parse<P: Parser>(
    program: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<P, Unparsed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let named = std::iter::once(OsString::from(program)).chain(arguments.iter().cloned());
    P::try_parse_from(named).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let printed = error.print();
            let exit = printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
            Unparsed { exit, mistake: None }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // The overview is the answer to a bare name. If it cannot be printed, the code says it.
            drop(error.print());
            Unparsed { exit: ExitCode::from(EXIT_USAGE), mistake: None }
        }
        _ => {
            let mistake = usage_line::<P>(program, &error, &arguments);
            complain(program, &mistake);
            Unparsed { exit: ExitCode::from(EXIT_USAGE), mistake: Some(mistake) }
        }
    })
}

/// The parser's message without its frame, in one line, with where to read on.
fn usage_line<P: Parser>(program: &str, error: &clap::Error, arguments: &[OsString]) -> String {
    let message = error.to_string();
    let body: Vec<&str> = message
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .collect();
    let body = one_line(&body.join(" ")).replace(" tip: ", "; ");
    let body = body.strip_prefix("error: ").unwrap_or(&body);
    let known = P::command();
    let command = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .find(|name| known.find_subcommand(name).is_some())
        .map_or_else(|| program.to_owned(), |name| format!("{program} {name}"));
    format!("{body}; run: {command} --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with commands.
    #[derive(Debug, Parser)]
    enum Fleet {
        /// Starts ships.
        Launch {
            /// How many.
            #[arg(long, value_parser = clap::value_parser!(u8).range(1..=50))]
            ships: u8,
            /// Where to.
            #[arg(long)]
            port: String,
        },
    }

    /// A program without commands.
    #[derive(Debug, Parser)]
    struct Ship {
        /// Where to.
        #[arg(long)]
        port: String,
    }

    fn line<P: Parser + std::fmt::Debug>(arguments: &[&str]) -> String {
        let error = P::try_parse_from(["fleet"].iter().chain(arguments)).unwrap_err();
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        usage_line::<P>("fleet", &error, &arguments)
    }

    #[test]
    fn wrong_usage_is_one_line_with_the_next_step() {
        let cases: [(String, &[&str]); 5] = [
            (line::<Fleet>(&["launch"]), &["--ships", "--port", "run: fleet launch --help"]),
            (line::<Fleet>(&["lunch"]), &["lunch", "'launch'", "run: fleet --help"]),
            (
                line::<Fleet>(&["launch", "--ships", "51", "--port", "x"]),
                &["51", "1..=50", "run: fleet launch --help"],
            ),
            (line::<Ship>(&[]), &["--port", "run: fleet --help"]),
            (line::<Ship>(&["--prot", "x"]), &["--prot", "'--port'", "run: fleet --help"]),
        ];
        for (line, expected) in cases {
            assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
            for part in expected {
                assert!(line.contains(part), "{part:?} is missing in {line:?}");
            }
        }
    }

    #[test]
    fn arguments_are_read_without_the_name() {
        let ship: Ship = parse("fleet ship", ["--port", "x"].map(OsString::from)).unwrap();
        assert_eq!(ship.port, "x");
    }
}
