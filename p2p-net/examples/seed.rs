//! Publishes a file or a directory tree and serves it until Ctrl-C.
//!
//! ```text
//! cargo run -p p2p-net --example seed -- PATH STORE [LISTEN]
//! ```
//!
//! `STORE` is the directory that the copy goes to; it is made if it is missing. `LISTEN` is an IP
//! address and a UDP port, by default any free port of this machine's loopback. Prints two lines,
//! the build and the address, which `examples/fetch.rs` takes in this order.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talks to a person")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use p2p_net::{BuildStore, Identity, Node, NodeConfig, SharedLimits, publish};
use tokio::task::spawn_blocking;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, store, listen) = match &arguments[..] {
        [path, store] => (path, store, "127.0.0.1:0"),
        [path, store, listen] => (path, store, listen.as_str()),
        _ => {
            eprintln!("usage: seed PATH STORE [LISTEN]");
            return ExitCode::from(2);
        }
    };
    match seed(path.into(), store.into(), listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn seed(path: PathBuf, store: PathBuf, listen: &str) -> anyhow::Result<()> {
    let expected = || format!("LISTEN: expected IP:PORT, found {listen}");
    let listen: SocketAddr = listen.parse().with_context(expected)?;
    // Looked at before a store is made for it.
    if !path.exists() {
        bail!("PATH: {} does not exist", path.display());
    }
    let published = spawn_blocking(move || {
        let store = BuildStore::open(store)?;
        let mut show = |progress: p2p_net::PublishProgress| {
            eprint!("\rread {} of {} bytes", progress.bytes_done, progress.bytes_total);
        };
        publish(&path, &store, Some(&mut show))
    })
    .await??;
    eprintln!();

    // A seeder that is to keep its address loads its key with `Identity::load_or_create`.
    let node = Node::start(NodeConfig::seeder(Identity::generate(), listen)).await?;
    node.serve(&published.build, &SharedLimits::default());
    println!("{}\n{}", published.build.id(), node.address());
    tokio::signal::ctrl_c().await?;
    node.shutdown().await;
    Ok(())
}
