//! `shoal fetch`: one build, from the swarm into a directory.
//!
//! What is being downloaded lives in `DIR/.shoal`, so that nothing half done carries a name of the
//! build, and a run that was interrupted resumes from there. Only a complete, verified build is
//! moved out. [`place`] owns the directory; the node decides when to give up.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use command_line::Signals;
use indicatif::ProgressBar;
use p2p_core::{BuildId, ByteRate};
use p2p_net::{
    BufferBudget, DiskPriority, FetchError, FetchOptions, Identity, LinkCounts, Node, NodeConfig,
    Progress, SeederAddress, SharedLimits, StoredBuild, TrafficClass, Transport,
};
use serde::Serialize;

use crate::output::{self, Outcome, bars, human};
use crate::runtime::{block_on, catch_signals};

mod phase_times;
mod place;

use phase_times::{PhaseTimes, phase_word};
use place::Place;

/// How long a node may take to say goodbye to its peers.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two lines of progress where no bar is drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Arguments of `shoal fetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The build, 64 digits
    build: BuildId,
    /// A seeder of the region, as shoal-seeder prints it; several may be given
    #[arg(
        long = "seeder",
        value_name = "ADDRESS",
        required = true,
        env = "SHOAL_SEEDERS",
        value_delimiter = ','
    )]
    seeders: Vec<SeederAddress>,
    /// The directory that the build's files go to; created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Serve the build to others until stopped
    #[arg(long)]
    keep_serving: bool,
    /// UDP address to listen on; any free port by default
    #[arg(long, value_name = "IP:PORT", env = "SHOAL_LISTEN")]
    listen: Option<SocketAddr>,
    /// Cap on bytes sent to others per second, such as 10MB or 80Mbit; none by default
    #[arg(long, value_name = "RATE", env = "SHOAL_UPLOAD_LIMIT")]
    upload_limit: Option<ByteRate>,
    /// Cap on bytes received per second, such as 10MB or 80Mbit; none by default
    #[arg(long, value_name = "RATE", env = "SHOAL_DOWNLOAD_LIMIT")]
    download_limit: Option<ByteRate>,
    /// How the traffic asks to be treated by routers: default or background
    #[arg(long, value_name = "CLASS", env = "SHOAL_DSCP", default_value_t)]
    dscp: TrafficClass,
    /// How the download treats the disk: normal or low
    #[arg(long, value_name = "PRIORITY", env = "SHOAL_DISK_PRIORITY", default_value_t)]
    disk_priority: DiskPriority,
    /// How chunks travel: quic, tcp, or auto, which takes what suits and falls back to the other
    #[arg(long, value_name = "NAME", env = "SHOAL_TRANSPORT", default_value_t)]
    transport: Transport,
    /// Memory for chunks, such as 64MiB; what does not fit waits
    #[arg(long, value_name = "SIZE", env = "SHOAL_BUFFER_BUDGET", default_value_t)]
    buffer_budget: BufferBudget,
    /// Give up after this long without any progress
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    build: String,
    out: PathBuf,
    /// Whether the directory held the build before; nothing was transferred then.
    was_there: bool,
    bytes: u64,
    bytes_resumed: u64,
    bytes_reused: u64,
    bytes_from_seeders: u64,
    bytes_from_peers: u64,
    /// Connections at the end, by transport.
    links: LinkCounts,
    seconds: f64,
    /// Time spent in each phase; `verifying` is reading back, syncing and moving into place.
    seconds_by_phase: BTreeMap<&'static str, f64>,
    /// Where the build is served from now; `None` without `--keep-serving`.
    serving_at: Option<String>,
}

/// How a download ended.
enum End {
    Complete(Box<(StoredBuild, Progress, PhaseTimes)>),
    Interrupted,
}

/// Downloads the build, moves it into the directory, and goes on serving it if asked to.
///
/// # Errors
///
/// If the directory cannot take the build, the node does not start, or nothing arrives for too
/// long. What was stored is kept for the next run.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    block_on(async {
        let mut signals = catch_signals()?;
        tokio::select! {
            already = holds_build(args) => if already? {
                return report_already_there(args);
            },
            () = signals.stop() => return Ok(Outcome::Interrupted),
        }
        let place = Place::open(&args.out)?;
        let ended = download_and_serve(args, &place, &mut signals).await;
        if matches!(ended, Ok(Outcome::Done)) {
            place.remove()?;
        } else {
            place.remove_if_useless();
        }
        ended
    })
}

/// Whether the directory holds exactly the build and nothing of ours.
async fn holds_build(args: &Args) -> anyhow::Result<bool> {
    let (out, build) = (args.out.clone(), args.build);
    on_disk(move || Ok(place::holds(&out, build))).await
}

async fn download_and_serve(
    args: &Args,
    place: &Place,
    signals: &mut Signals,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let node = Node::start(NodeConfig {
        seeders: args.seeders.clone(),
        upload_limit: args.upload_limit,
        download_limit: args.download_limit,
        traffic_class: args.dscp,
        disk_priority: args.disk_priority,
        transport: args.transport,
        buffer_budget: args.buffer_budget,
        ..NodeConfig::host(identity(place)?, listen_address(args))
    })
    .await
    .context("cannot join the swarm")?;
    let ended = tokio::select! {
        ended = download_with(args, place, &node, started) => ended,
        () = signals.stop() => Ok(End::Interrupted),
    };
    let ended = match ended {
        Ok(End::Complete(complete)) => {
            let (stored, progress, times) = *complete;
            conclude(args, place, &node, (stored, progress, times)).await
        }
        Ok(End::Interrupted) => {
            output::note("interrupted; run the same command again to resume");
            Ok(Outcome::Interrupted)
        }
        Err(error) => Err(error),
    };
    let is_serving = args.keep_serving && matches!(ended, Ok(Outcome::Done));
    if is_serving {
        signals.stop().await;
        output::note("stopping");
    }
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, node.shutdown()).await.is_err() {
        tracing::warn!("the node did not shut down in time");
    }
    ended
}

fn identity(place: &Place) -> anyhow::Result<Identity> {
    Identity::load_or_create(&place.key()).context("cannot use the directory of --out")
}

/// Any free port, of the address family that the seeders have.
fn listen_address(args: &Args) -> SocketAddr {
    let needs_v6 = args.seeders.iter().any(|seeder| seeder.socket.is_ipv6());
    let any = if needs_v6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    args.listen.unwrap_or(any)
}

/// Follows the download to its end.
async fn download_with(
    args: &Args,
    place: &Place,
    node: &Node,
    started: Instant,
) -> anyhow::Result<End> {
    let found = place.clone();
    let build = args.build;
    // Files of an earlier run that was kept serving may have been edited since.
    on_disk(move || found.check_moved_out(build)).await?;

    let options = FetchOptions { give_up_after: Some(args.timeout), ..FetchOptions::default() };
    let mut download = node.fetch(args.build, place.store(), options);
    let mut view = View::new(started);
    let mut times = PhaseTimes::new(started);
    let mut is_checked = false;
    while let Some(progress) = download.next_progress().await {
        view.show(&progress, times.enter(progress.phase));
        if !is_checked && progress.bytes_total.is_some() {
            // As soon as the names are known, not after gigabytes.
            let found = place.clone();
            match on_disk(move || found.check_names(build)).await {
                Ok(is_known) => is_checked = is_known,
                Err(error) => {
                    return Err(abandon(build, place, node, &progress).await.unwrap_or(error));
                }
            }
        }
    }
    drop(view);
    times.end();
    let progress = download.progress();
    match download.finish().await {
        Ok(stored) => Ok(End::Complete(Box::new((stored, progress, times)))),
        Err(FetchError::NoProgress { .. }) => Err(give_up(args, &progress)),
        Err(error) => {
            Err(error).context("the download failed; run the same command again to resume")
        }
    }
}

/// Releases what a download had reserved before it turned out that its files have no place to go.
/// What earlier runs had stored stays.
async fn abandon(
    build: BuildId,
    place: &Place,
    node: &Node,
    progress: &Progress,
) -> Option<anyhow::Error> {
    if progress.bytes_resumed > 0 {
        return None;
    }
    node.leave(build).await;
    let store = place.store().clone();
    let removed = on_disk(move || store.remove(build).context("cannot clear the download")).await;
    removed.err()
}

fn give_up(args: &Args, progress: &Progress) -> anyhow::Error {
    let timeout = humantime::format_duration(args.timeout);
    let cause = progress.waiting_for.as_ref().map_or_else(
        || "nothing arrives; check --seeder, or wait longer with --timeout".to_owned(),
        ToString::to_string,
    );
    let kept = if progress.bytes_done > 0 {
        "; what arrived is kept, run the same command again to resume"
    } else {
        ""
    };
    anyhow::anyhow!("no progress for {timeout}: {}{kept}", human::printable(&cause))
}

/// Moves the files to their place and says so.
async fn conclude(
    args: &Args,
    place: &Place,
    node: &Node,
    (stored, progress, times): (StoredBuild, Progress, PhaseTimes),
) -> anyhow::Result<Outcome> {
    // Peers that ask meanwhile would meet files that are between two places.
    node.leave(args.build).await;
    let directory = place.directory().to_owned();
    let moved = on_disk(move || stored.move_into(&directory).map_err(anyhow::Error::from)).await;
    let moved = moved.with_context(|| {
        format!(
            "the build is complete in {}, but cannot be moved out of it; run the same command again after the repair",
            place.hidden().display()
        )
    })?;
    if args.keep_serving {
        node.serve(&moved, &SharedLimits::default());
    }
    let report = Report {
        build: args.build.to_string(),
        out: args.out.clone(),
        was_there: false,
        bytes: moved.manifest().build_size(),
        bytes_resumed: progress.bytes_resumed,
        bytes_reused: progress.bytes_reused,
        bytes_from_seeders: progress.bytes_from_seeders,
        bytes_from_peers: progress.bytes_from_peers,
        links: progress.links,
        seconds: times.started().elapsed().as_secs_f64(),
        seconds_by_phase: times.in_seconds(),
        serving_at: args.keep_serving.then(|| node.address().to_string()),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&sentence(args, &report, times.started().elapsed()))?;
        if let Some(address) = &report.serving_at {
            output::note(&format!("serving at {address} until stopped"));
        }
    }
    Ok(Outcome::Done)
}

fn sentence(args: &Args, report: &Report, took: Duration) -> String {
    let resumed = if report.bytes_resumed == 0 {
        String::new()
    } else {
        format!(", {} were here before", human::bytes(report.bytes_resumed))
    };
    let reused = if report.bytes_reused == 0 {
        String::new()
    } else {
        format!(", {} from other builds on this host", human::bytes(report.bytes_reused))
    };
    format!(
        "fetched {} into {}: {} in {} ({} from seeders, {} from peers{reused}{resumed})",
        args.build.short(),
        args.out.display(),
        human::bytes(report.bytes),
        human::seconds(took),
        human::bytes(report.bytes_from_seeders),
        human::bytes(report.bytes_from_peers),
    )
}

fn report_already_there(args: &Args) -> anyhow::Result<Outcome> {
    if args.keep_serving {
        output::note(
            "not serving: the directory holds the build's files only; to serve, fetch into an empty one",
        );
    }
    if args.json {
        let (build, out) = (args.build.to_string(), args.out.clone());
        output::json(&Report { build, out, was_there: true, ..Report::default() })?;
    } else {
        let out = args.out.display();
        output::line(&format!("{out} already holds build {}", args.build.short()))?;
    }
    Ok(Outcome::Done)
}

/// Runs work that waits for a disk where it does not hold up the bar and the signals.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a disk task ended early")?
}

/// What the person sees while the download runs: a bar, or a line now and then.
struct View {
    bar: ProgressBar,
    started: Instant,
    printed_at: Instant,
}

impl View {
    fn new(started: Instant) -> Self {
        Self { bar: bars::over_bytes("locating"), started, printed_at: started }
    }

    /// `is_news`: the download has just entered its phase.
    fn show(&mut self, progress: &Progress, is_news: bool) {
        let word = phase_word(progress.phase);
        let note = match &progress.waiting_for {
            Some(reason) => human::printable(&reason.to_string()),
            None => format!(
                "{} peers ({}), {} from seeders, {} from peers",
                progress.neighbours,
                progress.links,
                human::bytes(progress.bytes_from_seeders),
                human::bytes(progress.bytes_from_peers)
            ),
        };
        if self.bar.is_hidden() {
            if is_news || self.printed_at.elapsed() >= LINE_INTERVAL {
                self.printed_at = Instant::now();
                let total = progress.bytes_total.map_or_else(|| "?".to_owned(), human::bytes);
                let (after, done) =
                    (human::seconds(self.started.elapsed()), human::bytes(progress.bytes_done));
                output::note(&format!("{after}: {word}, {done} of {total}, {note}"));
            }
        } else {
            self.bar.set_prefix(word);
            if let Some(total) = progress.bytes_total {
                self.bar.set_length(total);
            }
            self.bar.set_position(progress.bytes_done);
            self.bar.set_message(note);
        }
    }
}

impl Drop for View {
    /// However the download ends, what is printed next starts on a clean line.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
