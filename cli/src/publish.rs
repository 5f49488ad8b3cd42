//! `shoal publish`: a file or a directory becomes a build in a store.
//!
//! The work is `p2p_net::publish`; this room adds the name of the app ([`history`]), what is new
//! against the build before, and two commands that ask about published builds: [`plan`] and
//! [`verify`]. Invariant: standard output has the build's id or the report, whatever else is said.

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use goal_state::{AppName, now_ms};
use node_agent::host::{Executable, Obstacle};
use p2p_core::{BuildId, Manifest};
use p2p_net::{BuildStore, Comparison, compare};
use serde::Serialize;

use crate::output::{self, Outcome, bars, human};

pub(crate) mod history;
pub(crate) mod plan;
pub(crate) mod remote;
pub(crate) mod verify;

/// Arguments of `shoal publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file or directory to publish
    path: PathBuf,
    /// The app that it is a build of
    #[arg(long, value_name = "NAME")]
    app: AppName,
    /// The store to put it into: a seeder's folder, created if missing, or the main store as a URL,
    /// `s3://BUCKET/PREFIX`, gs://, az:// or `file:///DIRECTORY`, with the credentials that such stores
    /// usually take from the environment
    #[arg(long, value_name = "DIR|URL", env = "SHOAL_STORE")]
    store: PathBuf,
    /// With a URL: where to keep what a publish that was killed needs to go on
    #[arg(long, value_name = "DIR", env = "SHOAL_PUBLISH_STATE")]
    state: Option<PathBuf>,
    /// Refuse to publish unless this file of the build can be executed: it is there, it has its
    /// execute bit, and it is a program (ELF) or a script whose first line is whole. May be given
    /// several times. Whether a host has the interpreter and the right processor, each host finds
    /// out itself before it switches
    #[arg(long, value_name = "PATH_IN_BUILD")]
    check_exec: Vec<PathBuf>,
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
    /// Bytes of chunks that the previous build does not have; `None` without one in the store.
    bytes_new: Option<u64>,
    /// How many chunks those are.
    chunks_new: Option<u64>,
}

/// Publishes and prints the build's id on standard output.
///
/// # Errors
///
/// If the path cannot be read, is not something to publish, or the store cannot take it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    for program in &args.check_exec {
        check_exec(&args.path, program)?;
    }
    if let Some(url) = remote::url_of(&args.store) {
        return remote::run(args, url);
    }
    let store = BuildStore::open(&args.store)
        .with_context(|| format!("cannot open the store {}", args.store.display()))?;
    let bar = bars::over_bytes("publishing");
    let published = p2p_net::publish(
        &args.path,
        &store,
        Some(&mut |progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
        }),
    );
    bar.finish_and_clear();
    let published = published.with_context(|| format!("cannot publish {}", args.path.display()))?;
    let build = published.build.id();
    let previous = history::record(&args.store, &args.app, build, now_ms())
        .with_context(|| format!("build {build} is in the store, but not in the app's history"))?;

    let manifest = published.build.manifest();
    let news = previous.and_then(|previous| against(&store, manifest, previous));
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
            bytes_new: news.as_ref().map(|news| news.bytes_new),
            chunks_new: news.as_ref().map(|news| news.chunks_new),
        })?;
        return Ok(Outcome::Done);
    }
    output::note(&format!(
        "{} {}: {} in {} chunks, {}",
        if published.is_known { "already in the store as" } else { "published as" },
        build.short(),
        human::bytes(manifest.build_size()),
        manifest.chunks().len(),
        human::seconds(started.elapsed()),
    ));
    output::note(&news_line(&args.app, previous, news.as_ref()));
    output::line(&build.to_string())?;
    Ok(Outcome::Done)
}

/// Fails if `program` of the build that `path` will be cannot be executed anywhere.
fn check_exec(path: &Path, program: &Path) -> anyhow::Result<()> {
    let is_inside =
        program.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    anyhow::ensure!(
        is_inside,
        "--check-exec {}: give a path inside the build, such as bin/server",
        program.display()
    );
    // A build of one file has that under its own name.
    let is_alone = path.is_file() && program.file_name() == path.file_name();
    let file = if is_alone { path.to_owned() } else { path.join(program) };
    let looked = Executable::inspect(&file);
    let looked = looked
        .and_then(|file| if file.is_bare_text() { Err(Obstacle::UnknownFormat) } else { Ok(()) });
    looked.with_context(|| {
        format!("{} cannot be executed, so nothing was published", program.display())
    })
}

/// What is new against the previous build; `None` if that is damaged or no longer in the store.
fn against(store: &BuildStore, manifest: &Manifest, previous: BuildId) -> Option<Comparison> {
    let old = store.manifest(previous).unwrap_or_else(|error| {
        tracing::warn!("cannot read the previous build: {}", command_line::describe(&error.into()));
        None
    });
    old.map(|old| compare(manifest, &old))
}

fn news_line(app: &AppName, previous: Option<BuildId>, news: Option<&Comparison>) -> String {
    match (previous, news) {
        (None, _) => format!("first build of {app}: all of it is new"),
        (Some(previous), None) => format!(
            "the build of {app} before it, {}, cannot be read in this store: what is new is unknown",
            previous.short()
        ),
        (Some(previous), Some(news)) => format!(
            "new against {}: {} in {} chunks; {} is shared",
            previous.short(),
            human::bytes(news.bytes_new),
            news.chunks_new,
            human::per_mille(news.bytes_shared(), news.bytes)
        ),
    }
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
