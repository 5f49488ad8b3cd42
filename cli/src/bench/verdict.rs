//! What limits a download on this host, in plain words.
//!
//! Pure: rates in, sentences out. Names the slowest stage that every byte of a download passes, and
//! says so if the network was not measured.

use p2p_net::{PeerOutcome, PeerRate};

use super::disk::{DiskRates, ReadFrom};

/// In percent of the network's rate: a disk this much faster is not what a download waits for.
const MARGIN_PERCENT: u64 = 110;

/// What was measured; rates in bytes per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Findings<'a> {
    /// BLAKE3 on all threads.
    pub(crate) hash: u64,
    /// AES-GCM on one thread: a connection has one.
    pub(crate) seal: u64,
    pub(crate) disk: &'a DiskRates,
    /// `None` if no peer was named.
    pub(crate) peer: Option<&'a [PeerRate]>,
}

/// One stage that every byte of a download passes.
struct Stage {
    name: &'static str,
    rate: u64,
    /// By what a download is then bound.
    bound_to: &'static str,
}

/// One or two sentences.
pub(crate) fn in_words(found: &Findings<'_>) -> String {
    let disk = if found.disk.read_from == ReadFrom::Memory { "memory" } else { "disk" };
    let mut stages = [
        Stage { name: disk, rate: found.disk.write_and_sync, bound_to: "run at the disk's rate" },
        Stage { name: "hashing", rate: found.hash, bound_to: "wait for the processor" },
        Stage { name: "encryption", rate: found.seal, bound_to: "wait for the processor" },
    ];
    stages.sort_by_key(|stage| stage.rate);
    let slowest = &stages[0];
    match found.peer.map(fastest) {
        None => format!(
            "{}: {} is the least of what was measured on this host; name a node with --peer to \
             compare the network with it",
            slowest.name,
            rate(slowest.rate)
        ),
        Some(None) => "network: the peer sent nothing over any transport".to_owned(),
        Some(Some(network)) if slowest.rate < network => format!(
            "{}: {} is below the network's {}: downloads {}",
            slowest.name,
            rate(slowest.rate),
            rate(network),
            slowest.bound_to
        ),
        Some(Some(network)) => {
            let spare = slowest.rate < network.saturating_mul(MARGIN_PERCENT) / 100;
            let close = if spare { ", and not by much" } else { "" };
            format!(
                "network: {} to this peer is below the {} of {}{close}: downloads run at the \
                 network's rate",
                rate(network),
                rate(slowest.rate),
                slowest.name
            )
        }
    }
}

/// The rate of the better transport, if any worked.
fn fastest(rates: &[PeerRate]) -> Option<u64> {
    let measured = rates.iter().filter_map(|rate| match rate.outcome {
        PeerOutcome::Measured { bytes_per_second, .. } => Some(bytes_per_second),
        PeerOutcome::Failed { .. } => None,
    });
    measured.max()
}

/// Bytes per second for people, in units of 10^6 or 10^9.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    let tenths = bytes_per_second / 100_000_000;
    if tenths >= 10 {
        format!("{}.{} GB/s", tenths / 10, tenths % 10)
    } else {
        format!("{} MB/s", bytes_per_second / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use p2p_net::TransportKind;

    use super::*;

    fn disk(write_and_sync: u64) -> DiskRates {
        DiskRates {
            folder: "/".into(),
            file_system: "ext4".to_owned(),
            bytes: 1,
            write_and_sync,
            read: 1,
            read_from: ReadFrom::Disk,
            read_again: 1,
        }
    }

    fn peer(rate: Option<u64>) -> PeerRate {
        let outcome = match rate {
            Some(bytes_per_second) => {
                PeerOutcome::Measured { bytes: 1, bytes_per_second, round_trip_us: 1 }
            }
            None => PeerOutcome::Failed { reason: "refused".to_owned() },
        };
        PeerRate { transport: TransportKind::Quic, outcome }
    }

    fn verdict(disk_rate: u64, peer: Option<&[PeerRate]>) -> String {
        let disk = disk(disk_rate);
        in_words(&Findings { hash: 9_000_000_000, seal: 5_000_000_000, disk: &disk, peer })
    }

    #[test]
    fn slowest_stage_is_named_with_both_rates() {
        let fast = [peer(Some(1_100_000_000)), peer(None)];
        let text = verdict(180_000_000, Some(&fast));
        assert_eq!(
            text,
            "disk: 180 MB/s is below the network's 1.1 GB/s: downloads run at the disk's rate"
        );
        let slow = [peer(Some(100_000_000)), peer(Some(120_000_000))];
        let text = verdict(180_000_000, Some(&slow));
        assert!(
            text.starts_with("network: 120 MB/s to this peer is below the 180 MB/s of disk:"),
            "{text}"
        );
        let text = verdict(130_000_000, Some(&slow));
        assert!(text.contains("not by much"), "{text}");
    }

    #[test]
    fn missing_network_is_said() {
        assert!(verdict(180_000_000, None).contains("--peer"));
        let none = [peer(None)];
        assert!(verdict(180_000_000, Some(&none)).starts_with("network: the peer sent nothing"));
    }

    #[test]
    fn rates_have_a_unit_that_fits() {
        let cases = [(0, "0 MB/s"), (999_999_999, "999 MB/s"), (1_000_000_000, "1.0 GB/s")];
        for (count, expected) in cases {
            assert_eq!(rate(count), expected);
        }
    }
}
