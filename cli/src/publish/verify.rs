//! `shoal verify`: are these files that build, byte for byte?
//!
//! The id alone answers yes or no; with a store that has the build the files that differ are named.
//! Reads only: a store that is not there is not made.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use p2p_core::{BuildId, Manifest};
use p2p_net::BuildStore;
use serde::Serialize;

use crate::output::{self, Outcome, bars, human};

/// Differences that are printed for people; `--json` has them all.
const DIFFERENCES_SHOWN_MAX: usize = 20;

/// Arguments of `shoal verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file or directory to check
    path: PathBuf,
    /// The build that it should be, 64 digits
    build: BuildId,
    /// A store that has the build, to name the files that differ
    #[arg(long, value_name = "DIR", env = "SHOAL_STORE")]
    store: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    is_same: bool,
    expected: BuildId,
    actual: BuildId,
    differences: Vec<String>,
}

/// Hashes the files and says whether they are the build; "no" is [`Outcome::Negative`].
///
/// # Errors
///
/// If files or store cannot be read, or the store lacks the build.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let manifest = args.store.as_ref().map(|store| manifest_of(store, args.build)).transpose()?;
    let bar = bars::over_bytes("verifying");
    let verified = p2p_net::verify(
        &args.path,
        manifest.as_deref(),
        Some(&mut |progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
        }),
    );
    bar.finish_and_clear();
    let verified = verified.with_context(|| format!("cannot verify {}", args.path.display()))?;

    let differences: Vec<String> = verified.differences.iter().map(ToString::to_string).collect();
    let is_same = verified.actual == args.build;
    let outcome = if is_same { Outcome::Done } else { Outcome::Negative };
    let path = args.path.display();
    if args.json {
        output::json(&Report {
            is_same,
            expected: args.build,
            actual: verified.actual,
            differences,
        })?;
    } else if is_same {
        output::line(&format!("{path} is build {}", args.build.short()))?;
    } else {
        output::line(&format!("{path} is not build {}, but {}", args.build, verified.actual))?;
        for difference in differences.iter().take(DIFFERENCES_SHOWN_MAX) {
            output::line(&format!("  {}", human::printable(difference)))?;
        }
        let more = differences.len().saturating_sub(DIFFERENCES_SHOWN_MAX);
        if more > 0 {
            output::line(&format!("  and {more} more; --json has them all"))?;
        }
        if args.store.is_none() {
            output::note("add --store DIR of a store that has the build to see what differs");
        }
    }
    Ok(outcome)
}

fn manifest_of(store: &PathBuf, build: BuildId) -> anyhow::Result<Arc<Manifest>> {
    let place = store.display();
    // Opening creates what is missing, and a check must not leave a store behind.
    anyhow::ensure!(store.is_dir(), "there is no store at {place}; check --store");
    let opened =
        BuildStore::open(store).with_context(|| format!("cannot open the store {place}"))?;
    let stored =
        opened.build(build).with_context(|| format!("cannot read the build in {place}"))?;
    let stored = stored.with_context(|| {
        format!("the store {place} does not have build {build}; leave --store out or name another")
    })?;
    Ok(Arc::clone(stored.manifest()))
}
