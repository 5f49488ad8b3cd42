//! `shoal builds`, `shoal gc`, `shoal repair`: what the main store has, and keeping it in order.
//!
//! The work is that of the crate `blob_store`; this room adds which builds are in use, from the
//! goal stores, and says what was done. Invariant: a goal that cannot be read stops a sweep.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use blob_store::{Access, BuildSummary, GcPolicy, GcReport, RepairOptions, RepairReport};
use goal_state::{GoalStore, GoalUrl};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::grid::{Layout, grid};
use crate::output::{self, Outcome, human};
use crate::publish::remote;
use crate::runtime::{block_on, read_inventory};

/// Which main store, and how to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The main store: `s3://BUCKET/PREFIX`, gs://, az://, or `file:///DIRECTORY`
    #[arg(long = "store", value_name = "URL", env = "SHOAL_STORE")]
    url: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `shoal builds`.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildsArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Only builds that were published as this app's
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
}

/// Arguments of `shoal gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Keep so many builds of each app, the last published
    #[arg(long, value_name = "COUNT", required_unless_present = "keep_age")]
    keep: Option<usize>,
    /// Keep builds that were published within this time, such as 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    keep_age: Option<Duration>,
    /// Keep the builds that the goals of this store name or named, and those that its hosts report;
    /// may be given several times
    #[arg(
        long = "goal",
        value_name = "URL",
        env = "SHOAL_GOAL",
        required_unless_present = "no_goals"
    )]
    goals: Vec<GoalUrl>,
    /// There are no goals: only --keep and --keep-age decide
    #[arg(long, conflicts_with = "goals")]
    no_goals: bool,
    /// How long something is condemned before it is removed. A publish that takes longer may have
    /// to send packs twice
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `shoal repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Only this build, 64 digits
    #[arg(long, value_name = "BUILD")]
    build: Option<BuildId>,
    /// Read and verify every chunk. Without it, packs that are missing or cut off are found
    #[arg(long)]
    deep: bool,
    /// Mend what other packs can mend, and remove broken builds from sight, so that publishing them
    /// once more brings them back
    #[arg(long)]
    fix: bool,
}

#[derive(Debug, Serialize)]
struct BuildDocument {
    build: BuildId,
    app: String,
    /// By the publisher's clock.
    published_at_ms: u64,
    /// By the store's clock.
    stored_at_ms: u64,
    bytes: u64,
    chunks: u64,
    packs: usize,
}

/// Prints the builds of the main store, the newest first.
///
/// # Errors
///
/// If the store cannot be read.
pub(crate) fn builds(args: &BuildsArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = remote::open(&args.store.url, Access::Read).await?;
        let mut found = blob_store::list_builds(&store).await?;
        if let Some(app) = &args.app {
            let of_app: BTreeSet<BuildId> =
                blob_store::builds_of_app(&store, app).await?.into_iter().collect();
            found.retain(|summary| of_app.contains(&summary.build));
        }
        let documents: Vec<BuildDocument> = found.iter().map(document).collect();
        if args.store.json {
            output::json(&serde_json::json!({ "builds": documents }))?;
            return Ok(Outcome::Done);
        }
        let now = SystemTime::now();
        let rows: Vec<[String; 5]> = found
            .iter()
            .map(|summary| {
                [
                    summary.build.to_string(),
                    human::printable(&summary.notes.app),
                    human::age(now.duration_since(summary.stored).unwrap_or_default()),
                    human::bytes(summary.notes.bytes),
                    summary.packs.len().to_string(),
                ]
            })
            .collect();
        let header = ["BUILD", "APP", "AGE", "SIZE", "PACKS"];
        output::raw(&grid(&header, &rows, Layout::of_output()))?;
        Ok(Outcome::Done)
    })
}

fn document(summary: &BuildSummary) -> BuildDocument {
    let stored = summary.stored.duration_since(UNIX_EPOCH).unwrap_or_default();
    BuildDocument {
        build: summary.build,
        app: summary.notes.app.clone(),
        published_at_ms: summary.notes.published_ms,
        stored_at_ms: u64::try_from(stored.as_millis()).unwrap_or(u64::MAX),
        bytes: summary.notes.bytes,
        chunks: summary.notes.chunk_count,
        packs: summary.packs.len(),
    }
}

/// Removes builds that nobody keeps, and packs that no build needs.
///
/// # Errors
///
/// If a goal cannot be read, or the store cannot be swept.
pub(crate) fn gc(args: &GcArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let mut in_use = BTreeSet::new();
        for url in &args.goals {
            in_use.extend(builds_in_use(url).await?);
        }
        let store = remote::open(&args.store.url, Access::Write).await?;
        let policy = GcPolicy {
            keep_age: args.keep_age,
            keep_per_app: args.keep,
            in_use,
            grace: args.grace,
            dry_run: args.dry_run,
        };
        let report = blob_store::gc(&store, &policy).await.context("the sweep ended early")?;
        tell_gc(args, &report)?;
        Ok(Outcome::Done)
    })
}

/// Every build that a goal names or named, and every one that a host reports.
async fn builds_in_use(url: &GoalUrl) -> anyhow::Result<BTreeSet<BuildId>> {
    let store = GoalStore::new(url);
    let goals = store.goals().await.context("cannot read the goals, so nothing was removed")?;
    if let Some(damaged) = goals.damaged.into_iter().next() {
        return Err(damaged.error).context("a goal cannot be read, so nothing was removed");
    }
    let named = goals.goals.iter().flat_map(|goal| {
        std::iter::once(goal.build).chain(goal.history.iter().map(|past| past.build))
    });
    let mut in_use: BTreeSet<BuildId> = named.collect();
    for row in read_inventory(&store).await? {
        in_use.extend(row.current.into_iter().chain(row.target));
    }
    Ok(in_use)
}

fn tell_gc(args: &GcArgs, report: &GcReport) -> anyhow::Result<()> {
    if args.store.json {
        let texts = |packs: &[p2p_core::Digest]| -> Vec<String> {
            packs.iter().map(ToString::to_string).collect()
        };
        return output::json(&serde_json::json!({
            "dry_run": args.dry_run,
            "builds_kept": report.builds_kept,
            "builds_condemned": report.builds_condemned,
            "builds_removed": report.builds_removed,
            "packs_kept": report.packs_kept,
            "packs_young": report.packs_young,
            "packs_condemned": texts(&report.packs_condemned),
            "packs_removed": texts(&report.packs_removed),
            "bytes_removed": report.bytes_removed,
        }));
    }
    let would = if args.dry_run { "would be " } else { "" };
    output::line(&format!(
        "{} and {} {would}removed, {} freed; {} and {} {would}condemned: a sweep after {} removes \
         them unless somebody needs them; {} and {} kept",
        human::counted(report.builds_removed.len(), "build"),
        human::counted(report.packs_removed.len(), "pack"),
        human::bytes(report.bytes_removed),
        human::counted(report.builds_condemned.len(), "build"),
        human::counted(report.packs_condemned.len(), "pack"),
        human::age(args.grace),
        human::counted(report.builds_kept, "build"),
        human::counted(report.packs_kept + report.packs_young, "pack"),
    ))
}

/// Finds builds whose index claims what the store does not have.
///
/// # Errors
///
/// If the store cannot be read, or written.
pub(crate) fn repair(args: &RepairArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let access = if args.fix { Access::Write } else { Access::Read };
        let store = remote::open(&args.store.url, access).await?;
        let options = RepairOptions { only: args.build, deep: args.deep, fix: args.fix };
        let report = blob_store::repair(&store, &options).await?;
        tell_repair(args, &report)?;
        let is_sound = report.broken.is_empty() || args.fix;
        Ok(if is_sound { Outcome::Done } else { Outcome::Negative })
    })
}

fn tell_repair(args: &RepairArgs, report: &RepairReport) -> anyhow::Result<()> {
    if args.store.json {
        let broken: Vec<serde_json::Value> = report
            .broken
            .iter()
            .map(|broken| {
                let packs: Vec<String> = broken.packs.iter().map(ToString::to_string).collect();
                serde_json::json!({
                    "build": broken.build,
                    "is_unreadable": broken.is_unreadable,
                    "packs": packs,
                    "chunks_lost": broken.chunks_lost,
                    "is_mendable": broken.is_mendable,
                })
            })
            .collect();
        return output::json(&serde_json::json!({
            "builds": report.builds,
            "fixed": args.fix,
            "broken": broken,
        }));
    }
    for broken in &report.broken {
        let what = if broken.is_unreadable {
            "its index cannot be read".to_owned()
        } else {
            format!(
                "{} missing or damaged, {} nowhere else",
                human::counted(broken.packs.len(), "pack"),
                human::counted(broken.chunks_lost, "chunk")
            )
        };
        let next = match (args.fix, broken.is_mendable) {
            (true, true) => "mended from other packs",
            (true, false) => "removed from sight; publish it once more",
            (false, true) => "--fix mends it from other packs",
            (false, false) => "--fix removes it from sight; then publish it once more",
        };
        output::line(&format!("{}: {what}; {next}", broken.build))?;
    }
    output::line(&format!(
        "{} looked at, {} broken",
        human::counted(report.builds, "build"),
        report.broken.len()
    ))
}
