//! `bare-pipeline`: the work of a pair of nodes without their protocol, to compare Shoal with.
//!
//! One process reads a file from the page cache and sends it encrypted, another hashes what arrives
//! and writes it into a reserved file: the same cipher, the same file work, one connection, and no
//! decisions. What Shoal needs beyond this is what Shoal costs. The receiver's key is not checked.

mod files;
mod quic;
mod tcp;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use crate::files::{Destination, Source};

/// Bytes of one request, like an average chunk of Shoal.
const REQUEST_BYTES: usize = 1 << 20;

/// Requests under way at once. The measured rate is flat from 1 to 64 on loopback.
const REQUESTS_IN_FLIGHT: u64 = 16;

/// Sends a file from one process to another, encrypted, with as little else as possible
#[derive(Debug, Parser)]
#[command(name = "bare-pipeline")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Offer a file to one receiver; prints the address once it can connect
    Send {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        link: LinkArgs,
    },
    /// Receive the file, then read it back and sync it; prints its digest
    Receive {
        /// Where the sender listens
        address: SocketAddr,
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        link: LinkArgs,
    },
}

#[derive(Debug, clap::Args)]
struct LinkArgs {
    /// What carries the bytes
    #[arg(long)]
    transport: Transport,
    /// Where the sender leaves its certificate for the receiver
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Largest UDP payload of QUIC; more than an Ethernet has room for only helps on loopback
    #[arg(long, value_name = "BYTES", default_value_t = 1472)]
    mtu: u16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Transport {
    Quic,
    Tcp,
}

fn main() -> ExitCode {
    let ended = match Args::parse().command {
        Command::Send { file, link } => send(&file, &link),
        Command::Receive { address, out, link } => receive(address, &out, &link),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed there is nobody to report to.
            drop(writeln!(io::stderr(), "bare-pipeline: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn send(file: &Path, link: &LinkArgs) -> anyhow::Result<()> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let source = Source::new(opened)?;
    let made = rcgen::generate_simple_self_signed(vec!["shoal".to_owned()])?;
    std::fs::write(&link.certificate, made.cert.der())
        .with_context(|| format!("cannot write {}", link.certificate.display()))?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"bare".to_vec()];
    match link.transport {
        Transport::Quic => quic::send(&source, config, link.mtu),
        Transport::Tcp => tcp::send(&source, config),
    }
}

fn receive(address: SocketAddr, out: &Path, link: &LinkArgs) -> anyhow::Result<()> {
    let certificate = std::fs::read(&link.certificate)
        .with_context(|| format!("cannot read {}", link.certificate.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.into())?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"bare".to_vec()];
    let destination = match link.transport {
        Transport::Quic => quic::receive(address, out, config, link.mtu),
        Transport::Tcp => tcp::receive(address, out, config),
    }?;
    // Whoever measures looks at the processes when this line comes.
    writeln!(io::stderr(), "verifying")?;
    writeln!(io::stdout(), "{}", destination.finish()?)?;
    Ok(())
}

/// AES-128-GCM only, as two nodes of Shoal agree on.
fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites =
        vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.into()
}

/// Says where the receiver can connect.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}

/// Makes the receiver's file once the sender has sent the size.
fn destination(out: &Path, size: u64) -> anyhow::Result<Destination> {
    Destination::new(out, size).with_context(|| format!("cannot write {}", out.display()))
}
