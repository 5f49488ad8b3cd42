//! What a command says and how it ends: results on standard output, everything else on standard
//! error, and an [`Outcome`] for the exit code.
//!
//! Invariant: this is the one place that prints results, and standard output, which is for scripts
//! and pipes, carries nothing else. Knows no command.

use std::io::{self, Write as _};

use anyhow::Context as _;
pub(crate) use command_line::note;
use serde::Serialize;

pub(crate) mod bars;
pub(crate) mod grid;
pub(crate) mod human;

/// The command's name in what it says.
pub(crate) const PROGRAM: &str = "shoal";

/// How a command ended that did not fail with an error of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It did what was asked.
    Done,
    /// It said itself, in its output, that the answer is no.
    Negative,
    /// A signal ended it.
    Interrupted,
}

/// Prints a result.
///
/// # Errors
///
/// If standard output is closed or full: a script must not take a cut-off result for a whole one.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    raw(&format!("{text}\n"))
}

/// Prints a result as it is, such as a screen.
///
/// # Errors
///
/// As [`line()`].
pub(crate) fn raw(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output; is the reader still there?")
}

/// Prints a result for scripts, in one line.
///
/// # Errors
///
/// As [`line()`].
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value).context("cannot encode the result as JSON")?)
}
