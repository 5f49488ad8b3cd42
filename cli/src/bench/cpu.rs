//! What the processor does to each byte of a build: hash it, encrypt it.
//!
//! The same libraries and sizes as in a download, so that the rates are the ones that it can reach.
//! Nothing of what is encrypted here leaves the process.

use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use p2p_core::Digest;
use serde::Serialize;

use crate::output::human;

/// Long enough to be past the first moments of a processor that was asleep.
const SPAN: Duration = Duration::from_millis(500);

/// The length of an average chunk.
const CHUNK_BYTES: usize = 1 << 20;

/// A TLS record at its largest.
const RECORD_BYTES: usize = 16 << 10;

/// What a QUIC packet carries on Ethernet.
const PACKET_BYTES: usize = 1_400;

/// BLAKE3, in bytes per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HashRates {
    pub(crate) one_thread: u64,
    pub(crate) all_threads: u64,
}

/// AES-128-GCM on one thread, in bytes per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SealRates {
    pub(crate) records_16k: u64,
    pub(crate) packets: u64,
}

/// Threads that can run at once.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

pub(crate) fn hash_rates(threads: usize) -> HashRates {
    let all = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(hash_rate)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    HashRates { one_thread: hash_rate(), all_threads: all }
}

fn hash_rate() -> u64 {
    let bytes = vec![7; CHUNK_BYTES];
    rate_of(CHUNK_BYTES, || {
        black_box(Digest::of(black_box(&bytes)));
        Some(())
    })
    .unwrap_or(0)
}

/// # Errors
///
/// If the cipher refuses its own key, which means a broken library.
pub(crate) fn seal_rates() -> Result<SealRates, Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16])?);
    let seal = |size: usize| {
        let mut bytes = vec![7; size];
        rate_of(size, || {
            // The same nonce again: nothing of this leaves the process.
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut bytes))
                .ok()
                .map(drop)
        })
        .ok_or(Unspecified)
    };
    Ok(SealRates { records_16k: seal(RECORD_BYTES)?, packets: seal(PACKET_BYTES)? })
}

/// Repeats work on `size` bytes for [`SPAN`]; `None` if it fails.
fn rate_of(size: usize, mut work: impl FnMut() -> Option<()>) -> Option<u64> {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < SPAN {
        // A look at the clock is cheap next to this; next to a single packet nothing would be.
        for _ in 0..(CHUNK_BYTES / size).max(1) {
            work()?;
            bytes += size as u64;
        }
    }
    Some(human::rate(bytes, started.elapsed()))
}
