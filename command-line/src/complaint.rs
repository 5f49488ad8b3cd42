//! How a program says that it failed.
//!
//! Invariant: one error is one line on standard error, made here out of the error and its causes.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// An error with its causes in one line. A cause that only repeats the text before it is left out:
/// libraries wrap what the system said in errors that say it again.
pub fn describe(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = vec![];
    for cause in error.chain() {
        let text = one_line(&cause.to_string());
        if texts.last().is_none_or(|last| !last.ends_with(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// An error with all its causes in one line, also those that repeat the text before them.
pub fn causes(error: impl std::error::Error) -> String {
    let first: &dyn std::error::Error = &error;
    let chain = std::iter::successors(Some(first), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Reports the error that ended `program`. Returns the exit code for it.
pub fn fail(program: &str, error: &anyhow::Error) -> ExitCode {
    complain(program, &describe(error));
    ExitCode::FAILURE
}

/// Reports what is wrong.
pub fn complain(program: &str, text: &str) {
    note(&format!("{program}: error: {text}"));
}

/// Says something to the person at the terminal.
pub fn note(text: &str) {
    // If standard error is gone there is nowhere left to say so.
    drop(writeln!(io::stderr(), "{text}"));
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn described_error_is_one_line_that_says_things_once() {
        let cause = io::Error::other(io::Error::other("port in\nuse"));
        let error = anyhow::Error::from(cause).context("cannot listen").context("cannot start");
        assert_eq!(describe(&error), "cannot start: cannot listen: port in use");
    }
}
