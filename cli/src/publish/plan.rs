//! `shoal plan`: what a host that runs one build would fetch to get another.
//!
//! Compares two manifests of a store and reads nothing else. A store that is not there is not made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use p2p_core::{BuildId, Manifest};
use p2p_net::{BuildStore, ChangeKind, Comparison, FileChange, compare};
use serde::Serialize;

use crate::output::{self, Outcome, human};

/// Files that are listed for people: a screen.
const FILES_SHOWN_MAX: usize = 20;

/// Files that `--json` lists.
const FILES_LISTED_MAX: usize = 1_000;

/// Arguments of `shoal plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The build to get, 64 digits
    build: BuildId,
    /// The build that hosts have, 64 digits
    #[arg(long, value_name = "BUILD")]
    against: BuildId,
    /// A store with the manifests of both
    #[arg(long, value_name = "DIR", env = "SHOAL_STORE")]
    store: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    build: BuildId,
    against: BuildId,
    bytes: u64,
    chunks: u64,
    bytes_to_fetch: u64,
    chunks_to_fetch: u64,
    bytes_reused: u64,
    /// Most bytes to fetch first.
    files: &'a [FileChange],
    files_left_out: usize,
}

/// Prints what would be fetched and what reused, and which files are behind it.
///
/// # Errors
///
/// If there is no such store, or it lacks one of the builds.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let place = args.store.display();
    // Opening creates what is missing, and a question must not leave a store behind.
    anyhow::ensure!(args.store.is_dir(), "there is no store at {place}; check --store");
    let store =
        BuildStore::open(&args.store).with_context(|| format!("cannot open the store {place}"))?;
    let new = manifest_of(&store, &args.store, args.build)?;
    let old = manifest_of(&store, &args.store, args.against)?;
    let found = compare(&new, &old);
    if args.json {
        let listed = &found.files[..found.files.len().min(FILES_LISTED_MAX)];
        output::json(&Report {
            build: args.build,
            against: args.against,
            bytes: found.bytes,
            chunks: found.chunks,
            bytes_to_fetch: found.bytes_new,
            chunks_to_fetch: found.chunks_new,
            bytes_reused: found.bytes_shared(),
            files: listed,
            files_left_out: found.files.len() - listed.len(),
        })?;
    } else {
        output::raw(&text(&found))?;
    }
    Ok(Outcome::Done)
}

fn manifest_of(store: &BuildStore, place: &Path, build: BuildId) -> anyhow::Result<Arc<Manifest>> {
    let place = place.display();
    let manifest =
        store.manifest(build).with_context(|| format!("cannot read build {build} in {place}"))?;
    manifest.with_context(|| {
        format!(
            "the store {place} does not have build {build}; check the id, or name another store"
        )
    })
}

fn text(found: &Comparison) -> String {
    let share = |part| human::per_mille(part, found.bytes);
    let mut lines = vec![
        format!(
            "to fetch: {} in {} of {} chunks ({})",
            human::bytes(found.bytes_new),
            found.chunks_new,
            found.chunks,
            share(found.bytes_new)
        ),
        format!(
            "reused:   {} ({})",
            human::bytes(found.bytes_shared()),
            share(found.bytes_shared())
        ),
    ];
    lines.extend(found.files.iter().take(FILES_SHOWN_MAX).map(file_line));
    let more = found.files.len().saturating_sub(FILES_SHOWN_MAX);
    if more > 0 {
        lines.push(format!("  and {more} more; --json lists up to {FILES_LISTED_MAX}"));
    }
    lines.join("\n") + "\n"
}

fn file_line(file: &FileChange) -> String {
    let word = match file.change {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        _ => "changed",
    };
    let path = human::printable(&file.path);
    if file.change == ChangeKind::Removed {
        return format!("  {word:<8} {path}");
    }
    let (new, all) = (human::bytes(file.bytes_new), human::bytes(file.bytes));
    format!("  {word:<8} {path}: {new} to fetch of {all}")
}
