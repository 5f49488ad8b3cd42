//! The times that no way of distributing a build can beat, to compare a measured time with.
//!
//! Sources: Kumar and Ross, "Peer-assisted file distribution: the minimum distribution time", 2006
//! (fluid); Mundinger, Weber and Weiss, "Optimal scheduling of peer-to-peer file dissemination",
//! 2008 (equal chunks at equal rates).

use core::time::Duration;

use p2p_core::ByteRate;

/// The hosts that download and the seeder that has the build, with their link rates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FleetRates {
    /// Hosts without the build.
    pub(crate) hosts: u64,
    /// What the seeder can send.
    pub(crate) seeder_up: ByteRate,
    /// What one host can send.
    pub(crate) host_up: ByteRate,
    /// What one host can receive.
    pub(crate) host_down: ByteRate,
}

/// The least time in which `build_size` bytes reach every host, if bytes flow like water: the
/// seeder must send a copy, each host must receive one, and some node must send each copy.
pub(crate) fn fluid_bound(fleet: FleetRates, build_size: u64) -> Duration {
    let hosts = u128::from(fleet.hosts);
    let all_up = u128::from(fleet.seeder_up.get()) + hosts * u128::from(fleet.host_up.get());
    let copies_nanos = (hosts * u128::from(build_size) * 1_000_000_000).div_ceil(all_up);
    let copies = Duration::from_nanos(u64::try_from(copies_nanos).unwrap_or(u64::MAX));
    fleet.seeder_up.occupancy(build_size).max(fleet.host_down.occupancy(build_size)).max(copies)
}

/// The least time for `chunk_count` equal chunks over links of one rate, a chunk at a time: one
/// chunk time each, and as many more as it takes to double one copy to all hosts.
pub(crate) fn chunked_bound(
    hosts: u64,
    chunk_count: u32,
    chunk_size: u64,
    rate: ByteRate,
) -> Duration {
    let doublings = hosts.max(1).ilog2();
    rate.occupancy(chunk_size) * chunk_count.saturating_add(doublings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_place_sets_the_fluid_bound() {
        let rate = |bytes| ByteRate::new(bytes).unwrap();
        let equal =
            FleetRates { hosts: 100, seeder_up: rate(10), host_up: rate(10), host_down: rate(10) };
        let cases = [
            ("seeder", FleetRates { seeder_up: rate(5), ..equal }, 200),
            ("downlink", FleetRates { host_down: rate(4), ..equal }, 250),
            (
                "uplinks",
                FleetRates {
                    host_up: rate(1),
                    host_down: rate(100),
                    seeder_up: rate(100),
                    ..equal
                },
                500,
            ),
            ("all equal", equal, 100),
        ];
        for (name, fleet, seconds) in cases {
            assert_eq!(fluid_bound(fleet, 1_000), Duration::from_secs(seconds), "{name}");
        }
    }

    #[test]
    fn chunks_add_the_time_to_double() {
        let rate = ByteRate::new(1).unwrap();
        assert_eq!(chunked_bound(8, 10, 1, rate), Duration::from_secs(13));
        assert_eq!(chunked_bound(1, 10, 1, rate), Duration::from_secs(10));
    }
}
