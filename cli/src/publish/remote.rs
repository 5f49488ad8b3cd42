//! `shoal publish --store URL`: a build goes into the main store, from any machine.
//!
//! Owns where a publish that was killed finds what it needs to go on, and which earlier builds it
//! shares chunks with. Invariant: the id is printed only once the build is complete in the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use blob_store::{Access, BlobStore, Files, OpenOptions, PublishOptions, PublishProgress};
use goal_state::{AppName, now_ms};
use p2p_core::{BuildId, Manifest};
use serde::Serialize;

use super::{Args, write_chunk_lengths};
use crate::output::{self, Outcome, bars, human};
use crate::runtime::block_on;

/// Earlier builds of the app whose chunks are not sent again. The last one has most of them; what
/// two more add is little, and each costs reading its index.
const EARLIER_MAX: usize = 3;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    build: BuildId,
    app: &'a AppName,
    bytes: u64,
    chunks: usize,
    entries: usize,
    seconds: f64,
    is_known: bool,
    previous: Option<BuildId>,
    /// Bytes of chunks that the store had already.
    bytes_reused: u64,
    /// Bytes that were sent, compressed.
    bytes_sent: u64,
}

/// The URL, if the store is named by one. A plain folder is a seeder's own store.
pub(crate) fn url_of(store: &Path) -> Option<&str> {
    store.to_str().filter(|store| store.contains("://"))
}

/// Opens the main store.
///
/// # Errors
///
/// What is wrong with it, and what to do.
pub(crate) async fn open(url: &str, access: Access) -> anyhow::Result<BlobStore> {
    let options = OpenOptions { access, ..OpenOptions::default() };
    BlobStore::open(url, &options).await.context("cannot open the main store")
}

/// Publishes into the main store at `url`.
///
/// # Errors
///
/// If the path cannot be read, or the store cannot take the build.
pub(super) fn run(args: &Args, url: &str) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let state = match &args.state {
        Some(state) => state.clone(),
        None => usual_state()?,
    };
    block_on(async {
        // First, so that a wrong URL is not told after minutes of reading.
        let store = open(url, Access::Write).await?;
        let manifest = read_manifest(&args.path)?;
        if let Some(file) = &args.chunk_lengths_to {
            write_chunk_lengths(&manifest, file)?;
        }
        let manifest = Arc::new(manifest);
        let files = Files::new(Arc::clone(&manifest), &args.path)?;
        let mut earlier = blob_store::builds_of_app(&store, args.app.as_str()).await?;
        earlier.retain(|build| *build != files.build());
        earlier.truncate(EARLIER_MAX);
        let previous = earlier.first().copied();
        let bar = bars::over_bytes("sending");
        let shown = bar.clone();
        let options = PublishOptions {
            app: args.app.to_string(),
            earlier,
            state,
            now_ms: now_ms(),
            watcher: Some(Arc::new(move |now: PublishProgress| {
                shown.set_length(now.bytes_total.saturating_sub(now.bytes_reused));
                shown.set_position(now.bytes_packed);
                shown.set_message(format!("{} sent", human::bytes(now.bytes_sent)));
            })),
        };
        let published = blob_store::publish(&store, &files, options).await;
        bar.finish_and_clear();
        let published = published.with_context(|| {
            format!("cannot publish {}; the same command goes on with it", args.path.display())
        })?;
        let report = Report {
            build: published.build,
            app: &args.app,
            bytes: manifest.build_size(),
            chunks: manifest.chunks().len(),
            entries: manifest.entries().len(),
            seconds: started.elapsed().as_secs_f64(),
            is_known: published.is_known,
            previous,
            bytes_reused: published.progress.bytes_reused,
            bytes_sent: published.progress.bytes_sent,
        };
        tell(args, &report, started)
    })
}

fn tell(args: &Args, report: &Report<'_>, started: Instant) -> anyhow::Result<Outcome> {
    if args.json {
        output::json(report)?;
        return Ok(Outcome::Done);
    }
    output::note(&format!(
        "{} {}: {} in {} chunks, {} already there, {} sent, {}",
        if report.is_known { "already in the store as" } else { "published as" },
        report.build.short(),
        human::bytes(report.bytes),
        report.chunks,
        human::bytes(report.bytes_reused),
        human::bytes(report.bytes_sent),
        human::seconds(started.elapsed()),
    ));
    output::line(&report.build.to_string())?;
    Ok(Outcome::Done)
}

fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let bar = bars::over_bytes("reading");
    let manifest = p2p_net::manifest_of(
        path,
        Some(&mut |progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
        }),
    );
    bar.finish_and_clear();
    manifest.with_context(|| format!("cannot publish {}", path.display()))
}

/// Where programs of a person keep what they need to go on.
fn usual_state() -> anyhow::Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = from("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    let base = base.context(
        "cannot tell where to keep what a killed publish needs to go on: give --state DIR",
    )?;
    Ok(base.join("shoal/publish"))
}
