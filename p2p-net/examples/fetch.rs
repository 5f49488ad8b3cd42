//! Fetches a build into a directory and shows how far it is.
//!
//! ```text
//! cargo run -p p2p-net --example fetch -- BUILD SEEDER DIRECTORY [--give-up-after SECONDS]
//! ```
//!
//! `BUILD` and `SEEDER` are the two lines that `examples/seed.rs` prints. What is not complete yet
//! lies in `DIRECTORY/.fetch`, from where a run that was interrupted goes on. With
//! `--give-up-after` a build that nobody serves is an error after that time without any progress;
//! without it, the program waits until somebody does.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talks to a person")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use p2p_net::{
    BuildId, BuildStore, Download, FetchOptions, Identity, Node, NodeConfig, SeederAddress,
    StoredBuild,
};
use tokio::task::spawn_blocking;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fetched = match arguments[..] {
        [build, seeder, directory] => fetch(build, seeder, directory.into(), None),
        [build, seeder, directory, "--give-up-after", seconds] => {
            fetch(build, seeder, directory.into(), Some(seconds))
        }
        _ => {
            eprintln!("usage: fetch BUILD SEEDER DIRECTORY [--give-up-after SECONDS]");
            return ExitCode::from(2);
        }
    };
    match fetched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fetch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn fetch(
    build: &str,
    seeder: &str,
    directory: PathBuf,
    seconds: Option<&str>,
) -> anyhow::Result<()> {
    let build: BuildId = build.parse().context("BUILD")?;
    let seeder: SeederAddress = seeder.parse().context("SEEDER")?;
    let seconds = seconds.map(|seconds| {
        let expected = || format!("--give-up-after: expected whole seconds, found {seconds}");
        seconds.parse().with_context(expected)
    });
    let give_up_after = seconds.transpose()?.map(Duration::from_secs);
    let hidden = directory.join(".fetch");
    if is_occupied(&directory, &hidden) {
        bail!("DIRECTORY: {} is not empty", directory.display());
    }
    let place = hidden.clone();
    let store = spawn_blocking(move || BuildStore::open(place)).await??;

    // The unspecified address of the seeder's family: the system chooses the way and the port.
    let listen = if seeder.socket.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let node = Node::start(NodeConfig {
        seeders: vec![seeder],
        ..NodeConfig::host(Identity::generate(), listen.parse()?)
    })
    .await?;
    let options = FetchOptions { give_up_after, ..FetchOptions::default() };
    let outcome = follow(node.fetch(build, &store, options)).await;
    // The files are about to be moved, so they are not served any longer.
    node.shutdown().await;
    let stored = outcome?;

    let moved = spawn_blocking(move || move_out(&stored, &directory, &hidden)).await?;
    println!("{}", moved?.display());
    Ok(())
}

/// Returns whether anything but an earlier run's download lies in `directory`.
fn is_occupied(directory: &Path, hidden: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path() != hidden)
}

/// Shows the download until it ends.
async fn follow(mut download: Download) -> Result<StoredBuild, p2p_net::FetchError> {
    while let Some(now) = download.next_progress().await {
        match (&now.waiting_for, now.bytes_total) {
            (Some(reason), _) => eprintln!("waiting: {reason}"),
            (None, Some(total)) => {
                eprintln!("{} of {total} bytes, {} peers", now.bytes_done, now.neighbours);
            }
            (None, None) => {}
        }
    }
    download.finish().await
}

fn move_out(stored: &StoredBuild, directory: &Path, hidden: &Path) -> io::Result<PathBuf> {
    let moved = stored.move_into(directory).map_err(io::Error::other)?;
    std::fs::remove_dir_all(hidden)?;
    Ok(moved.root().to_owned())
}
