//! `shoal bench`: what this host can do, so that a slow download can be explained.
//!
//! Measures one thing after the other, each for about a second: hashing, encryption, the disk, and
//! the way to a peer. [`verdict`] says which of them limits a download. Leaves nothing behind.

use std::path::PathBuf;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use p2p_net::{PeerOutcome, PeerRate, SeederAddress, SocketBuffers};
use serde::Serialize;

use crate::output::{self, Outcome, human};

mod cpu;
mod disk;
mod verdict;

use cpu::{HashRates, SealRates};
use disk::DiskRates;

/// Arguments of `shoal bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to measure the disk: the file system that builds will be on
    #[arg(long, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Bytes to write there, such as 500MB or 4GiB; they are removed again
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    size: u64,
    /// A node to measure the way to: a seeder or an agent, as it prints its address
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<SeederAddress>,
    /// Bytes to ask of the peer over each transport, at most 1GiB
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    peer_size: u64,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints. Rates are in bytes per second.
#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    hash: HashRates,
    seal: SealRates,
    disk: DiskRates,
    socket_buffers: SocketBuffers,
    peer: Option<Vec<PeerRate>>,
    verdict: String,
}

/// Measures and prints.
///
/// # Errors
///
/// If the folder cannot be written to or has too little space, or the peer does not answer.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    // What can be refused at once is, before a second is spent on anything.
    let file = disk::MeasuredFile::open(&args.folder, args.size)?;
    let peer = args.peer.map(|peer| measure_peer(peer, args.peer_size)).transpose()?;
    let cores = cpu::cores();
    let hash = cpu::hash_rates(cores);
    let seal = cpu::seal_rates().context("the cipher does not work on this machine")?;
    let disk = file.measure()?;
    let socket_buffers = p2p_net::socket_buffers().context("cannot open a UDP socket")?;
    let found = verdict::Findings {
        hash: hash.all_threads,
        seal: seal.records_16k,
        disk: &disk,
        peer: peer.as_deref(),
    };
    let verdict = verdict::in_words(&found);
    let report = Report { cores, hash, seal, disk, socket_buffers, peer, verdict };
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&table(&report).to_string())?;
        output::line(&report.verdict)?;
    }
    Ok(Outcome::Done)
}

fn measure_peer(peer: SeederAddress, bytes: u64) -> anyhow::Result<Vec<PeerRate>> {
    output::note(&format!("measuring the way to {peer}"));
    p2p_net::measure_peer(peer, bytes).context("cannot measure the way to the peer")
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["what", "rate", "how"]);
    let mut add = |what: &str, rate: u64, how: String| {
        table.add_row([what.to_owned(), verdict::rate(rate), how]);
    };
    add("hash, one thread", report.hash.one_thread, "BLAKE3 of 1 MiB from the cache".to_owned());
    let threads = human::counted(report.cores, "thread");
    add("hash, all threads", report.hash.all_threads, format!("{threads} at once"));
    add("encrypt, TCP", report.seal.records_16k, "AES-128-GCM, records of 16 KiB".to_owned());
    add("encrypt, QUIC", report.seal.packets, "AES-128-GCM, packets of 1,400 bytes".to_owned());
    let (disk, size) = (&report.disk, human::bytes(report.disk.bytes));
    let place = human::printable(&disk.file_system);
    add("disk, write", disk.write_and_sync, format!("{size} written and synced, {place}"));
    add("disk, read", disk.read, disk.read_from.in_words().to_owned());
    add("page cache, read", disk.read_again, "the same bytes once more".to_owned());
    for rate in report.peer.iter().flatten() {
        let (rate_of, how) = match &rate.outcome {
            PeerOutcome::Measured { bytes, bytes_per_second, round_trip_us } => {
                let (bytes, away) = (human::bytes(*bytes), round_trip_us / 1_000);
                (*bytes_per_second, format!("{bytes} from the peer, {away} ms away"))
            }
            PeerOutcome::Failed { reason } => (0, human::printable(reason)),
        };
        add(&format!("network, {}", rate.transport), rate_of, how);
    }
    let buffers = report.socket_buffers;
    let granted = buffers.receive.min(buffers.send);
    let how = if granted < buffers.asked {
        format!(
            "of {} asked for: packets are lost at high rates; run: sysctl -w \
             net.core.rmem_max={} net.core.wmem_max={}",
            human::bytes(buffers.asked),
            buffers.asked,
            buffers.asked
        )
    } else {
        "granted as asked for".to_owned()
    };
    table.add_row(["UDP socket buffers".to_owned(), human::bytes(granted), how]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A number of bytes with a unit: `500MB`, `4GiB`.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let parse = || {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| text.strip_suffix(name).map(|digits| (digits, *unit)))?;
        digits.trim_end().parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
    };
    parse()
        .ok_or_else(|| "expected a size above zero with its unit, such as 500MB or 4GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_number_and_a_unit() {
        let cases = [("500MB", 500_000_000), ("4GiB", 4 << 30), ("7 KiB", 7_168), ("9B", 9)];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "MB", "0MB", "-1MB", "1.5GB", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
