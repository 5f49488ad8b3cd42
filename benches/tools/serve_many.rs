//! Many hosts in one process that serve one build from one store, until the process is ended.
//!
//! Owns no rule: each host is a node of its own. Prints a line once all of them serve. Run by
//! `benches/memory.py`, for neighbours without a copy on disk each.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "says when it is ready")]

use std::error::Error;
use std::process::ExitCode;

use p2p_net::{BuildId, BuildStore, Identity, Node, NodeConfig, SeederAddress, SharedLimits};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [build, seeder, store, count] = &arguments[..] else {
        eprintln!("serve_many: usage: serve_many BUILD SEEDER STORE COUNT");
        return ExitCode::from(2);
    };
    match serve(build, seeder, store, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve_many: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(build: &str, seeder: &str, store: &str, count: &str) -> Result<(), Box<dyn Error>> {
    let build: BuildId = build.parse()?;
    let seeder: SeederAddress = seeder.parse()?;
    let store = BuildStore::open(store)?;
    let mut nodes = vec![];
    for _ in 0..count.parse::<u32>()? {
        let mut config = NodeConfig::host(Identity::generate(), "127.0.0.1:0".parse()?);
        config.seeders = vec![seeder];
        let node = Node::start(config).await?;
        let stored = store.build(build)?.ok_or("the store does not hold the build")?;
        node.serve(&stored, &SharedLimits::default());
        nodes.push(node);
    }
    println!("{} hosts serve", nodes.len());
    std::future::pending().await
}
