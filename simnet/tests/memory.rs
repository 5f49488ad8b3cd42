//! Memory per simulated node, measured by an allocator that counts.
//!
//! A binary of its own: what other tests allocate must not be counted. Counted are the bytes that
//! the simulator asked for at the same time at most, so the figure is the same on every machine.

#![expect(unsafe_code, reason = "an allocator cannot be written without")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use p2p_core::ByteRate;
use shoal_simnet::{Faults, Fleet, Scenario, Settings};

/// Most bytes of heap per host with a build of [`CHUNKS`]. It keeps 200,000 hosts within 8 GiB with
/// a third of that to spare, and is a third above what was measured when it was written: most of it
/// are tables that double, where one more neighbour at the wrong moment costs a step.
const BYTES_PER_HOST_MAX: usize = 27_000;

/// Chunks of the build: each costs a bit per host and neighbour.
const CHUNKS: u64 = 640;

struct CountingAllocator;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Most bytes that a run of this many hosts had at once. It ends after an eighth of the bound: the
/// tables are as full then as at any time later.
fn peak_of(hosts: u32) -> usize {
    let rate = ByteRate::new(125_000_000).unwrap();
    let mut scenario = Scenario {
        hosts,
        seeders: 1,
        build_size: CHUNKS << 20,
        chunk_size: 1 << 20,
        host_rate: rate,
        seeder_rate: rate,
        chunk_lengths: None,
        turn_size: None,
        racks: 0,
        zones: 0,
        rack_rate: None,
        disk_rate: rate,
        latency: Duration::from_micros(500),
        join_within: Duration::ZERO,
        seed: 1,
        limit: Duration::ZERO,
        faults: Faults::default(),
        settings: Settings::default(),
    };
    scenario.limit = scenario.bound().time / 8;
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let outcome = Fleet::new(scenario).run().unwrap();
    assert!(outcome.trace_steps > 0);
    PEAK.load(Ordering::Relaxed) - before
}

/// Goal: a fleet of the target's size fits into the memory of a small machine.
/// Method: the difference between two fleets, so that what does not grow with hosts is left out.
#[test]
fn memory_per_host_is_bounded() {
    let (few, many) = (peak_of(40), peak_of(160));
    let per_host = (many - few) / 120;
    assert!(per_host <= BYTES_PER_HOST_MAX, "{per_host} bytes per host");
    assert!(per_host >= BYTES_PER_HOST_MAX / 2, "{per_host} bytes: the limit has become too loose");
}
