//! `shoal publish`: a file or a directory becomes a build in a store.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use goal_state::AppName;
use p2p_core::{BuildId, Manifest};
use p2p_net::BuildStore;
use serde::Serialize;

use crate::app::Outcome;
use crate::{bars, clock, history, human, output};

/// Arguments of `shoal publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file or directory to publish
    path: PathBuf,
    /// The app that it is a build of
    #[arg(long, value_name = "NAME")]
    app: AppName,
    /// The store to put it into; created if missing
    #[arg(long, value_name = "DIR", env = "SHOAL_STORE")]
    store: PathBuf,
    /// Write the length of every chunk to a file, one a line, in the order of the build
    #[arg(long, value_name = "FILE", hide = true)]
    chunk_lengths_to: Option<PathBuf>,
    /// Print one JSON object instead of the bare build id
    #[arg(long)]
    pub(crate) json: bool,
}

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
}

/// Publishes and prints the build's id on standard output.
///
/// # Errors
///
/// If the path cannot be read, is not something to publish, or the store cannot take it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let store = BuildStore::open(&args.store)
        .with_context(|| format!("cannot open the store {}", args.store.display()))?;
    let bar = bars::over_bytes("publishing");
    let published = p2p_net::publish(&args.path, &store, &|progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let published = published.with_context(|| format!("cannot publish {}", args.path.display()))?;
    let build = published.build.id();
    let previous = history::record(&args.store, &args.app, build, clock::now_ms())
        .with_context(|| format!("build {build} is in the store, but not in the app's history"))?;

    let manifest = published.build.manifest();
    if let Some(file) = &args.chunk_lengths_to {
        write_chunk_lengths(manifest, file)?;
    }
    if args.json {
        output::json(&Report {
            build,
            app: &args.app,
            bytes: manifest.build_size(),
            chunks: manifest.chunks().len(),
            entries: manifest.entries().len(),
            seconds: started.elapsed().as_secs_f64(),
            is_known: published.is_known,
            previous,
        })?;
        return Ok(Outcome::Done);
    }
    output::note(&format!(
        "{} {}: {} in {} chunks, {} ({})",
        if published.is_known { "already in the store as" } else { "published as" },
        build.short(),
        human::bytes(manifest.build_size()),
        manifest.chunks().len(),
        human::seconds(started.elapsed()),
        previous.map_or_else(
            || format!("first build of {}", args.app),
            |previous| format!("before it: {}", previous.short()),
        ),
    ));
    output::line(&build.to_string())?;
    Ok(Outcome::Done)
}

/// What the simulator reads to run the same build (`shoal-simnet swarm --chunk-lengths`).
fn write_chunk_lengths(manifest: &Manifest, file: &Path) -> anyhow::Result<()> {
    let mut lines = String::new();
    for chunk in manifest.chunks() {
        lines.push_str(&chunk.size.to_string());
        lines.push('\n');
    }
    std::fs::write(file, lines)
        .with_context(|| format!("cannot write the chunk lengths to {}", file.display()))
}
