//! Downloads and removes one build again and again in one process, and prints the process's memory
//! after each download, one number of KiB a line.
//!
//! Owns no rule: it does what an agent does with one build after the other, through the same
//! handle. Run by `benches/memory.py`, which says what the figures mean.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "prints its measurement")]

use std::error::Error;
use std::process::ExitCode;

use p2p_net::{BuildId, BuildStore, FetchOptions, Identity, Node, NodeConfig, SeederAddress};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [build, seeder, store, count] = &arguments[..] else {
        eprintln!("fetch_repeatedly: usage: fetch_repeatedly BUILD SEEDER STORE COUNT");
        return ExitCode::from(2);
    };
    match repeat(build, seeder, store, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fetch_repeatedly: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn repeat(build: &str, seeder: &str, store: &str, count: &str) -> Result<(), Box<dyn Error>> {
    let build: BuildId = build.parse()?;
    let seeder: SeederAddress = seeder.parse()?;
    let store = BuildStore::open(store)?;
    let mut config = NodeConfig::host(Identity::generate(), "127.0.0.1:0".parse()?);
    config.seeders = vec![seeder];
    let node = Node::start(config).await?;
    for _ in 0..count.parse::<u32>()? {
        drop(node.fetch(build, &store, FetchOptions::default()).finish().await?);
        node.leave(build).await;
        store.remove(build)?;
        println!("{}", rss_kib()?);
    }
    node.shutdown().await;
    Ok(())
}

/// The memory that this process has now, by the kernel's account.
fn rss_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(number.parse()?)
}
