//! What a fleet is, and what befalls it; checked before anything runs.
//!
//! Plain values with their units. Also the bound that the measured time is compared with.

use core::time::Duration;
use std::sync::Arc;

use p2p_core::{ByteRate, CHUNK_SIZE_MAX, CHUNKS_MAX, ChunkLayout, Instant};

use crate::bound::{FleetRates, chunked_bound, fluid_bound};
use crate::faults::{Faults, LOSS_PERCENT_MAX};
use crate::flags::settings::Settings;

/// Most hosts of one region. Above it a scenario is a typing error, not a fleet.
const HOSTS_MAX: u32 = 2_000_000;

/// One region and one build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scenario {
    /// Machines that want the build.
    pub hosts: u32,
    /// Machines that have it from the start.
    pub seeders: u32,
    /// Bytes of the build.
    pub build_size: u64,
    /// Bytes of each chunk but the last; the mean if `chunk_lengths` says more.
    pub chunk_size: u64,
    /// Bytes of each chunk, where they differ as those of a real build do.
    pub chunk_lengths: Option<Arc<[u32]>>,
    /// Chunks that a node sends at the same time take turns of this many bytes; `None`: whole
    /// chunks, one after the other.
    pub turn_size: Option<u64>,
    /// What a host can send, and what it can receive.
    pub host_rate: ByteRate,
    /// What a seeder can send, and what it can receive.
    pub seeder_rate: ByteRate,
    /// Racks over which the hosts are spread evenly; zero: hosts do not know where they stand.
    pub racks: u32,
    /// Zones over which the racks are spread evenly; zero: all of them are in one.
    pub zones: u32,
    /// What a rack's uplink carries each way; `None`: enough for everything.
    pub rack_rate: Option<ByteRate>,
    /// What a host can hash and write.
    pub disk_rate: ByteRate,
    /// Time of a message from any node to any other.
    pub latency: Duration,
    /// Hosts enter the swarm within this time, evenly; zero: all at once.
    pub join_within: Duration,
    /// Where every random choice comes from.
    pub seed: u64,
    /// Simulated time after which the run is given up.
    pub limit: Duration,
    /// What goes wrong.
    pub faults: Faults,
    /// What the machines run with.
    pub settings: Settings,
}

/// The least time that the fleet needs, whatever its protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bound {
    /// From the first host's start.
    pub time: Duration,
    /// Which of the bounds it is.
    pub kind: BoundKind,
}

/// Which bound is the tightest that is known for a scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BoundKind {
    /// Rates alone: bytes that flow like water.
    Fluid,
    /// One seeder as fast as the hosts, and whole chunks as units.
    Chunked,
    /// One copy of the build through the uplink of a rack.
    Rack,
}

impl BoundKind {
    /// How reports spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fluid => "fluid",
            Self::Chunked => "chunked",
            Self::Rack => "rack",
        }
    }
}

/// Why a scenario cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// There is nobody to bring the build to, or too many for one region.
    #[error("{actual} hosts: give --hosts a number from 1 to {limit}")]
    Hosts {
        /// Hosts asked for.
        actual: u32,
        /// Most hosts.
        limit: u32,
    },
    /// Nobody has the build, or more machines have it than want it.
    #[error("{seeders} seeders for {hosts} hosts: give --seeders a number from 1 to that of hosts")]
    Seeders {
        /// Seeders asked for.
        seeders: u32,
        /// Hosts.
        hosts: u32,
    },
    /// A rack would be empty.
    #[error("{racks} racks for {hosts} hosts: give --racks at most the number of hosts")]
    Racks {
        /// Racks asked for.
        racks: u32,
        /// Hosts.
        hosts: u32,
    },
    /// A zone would be without racks.
    #[error("{zones} zones for {racks} racks: give --zones at most the number of racks")]
    Zones {
        /// Zones asked for.
        zones: u32,
        /// Racks.
        racks: u32,
    },
    /// There is nothing that could be cut off from the rest.
    #[error("{flag} needs two of them at least: give {needs} as well")]
    Outage {
        /// The flag.
        flag: &'static str,
        /// The flag that says how many there are.
        needs: &'static str,
    },
    /// Nobody would be left to say to those who come late whom to ask.
    #[error(
        "--late with trackers that die: nobody can join then; leave out --tracker-dies-at and --seeder-gone"
    )]
    LateWithoutTracker,
    /// A link that carries nothing.
    #[error("--loss of {actual} percent: give a number up to {limit}")]
    Loss {
        /// Packets lost, in percent.
        actual: u32,
        /// Most of them.
        limit: u32,
    },
    /// An uplink without racks.
    #[error("--rack-rate without racks: give --racks as well")]
    RackRateWithoutRacks,
    /// No chunk can have this size.
    #[error("chunks of {actual} bytes: give --chunk a size from 1 to {limit} bytes")]
    ChunkSize {
        /// Bytes asked for.
        actual: u64,
        /// Most bytes.
        limit: u32,
    },
    /// A build has no chunks, or more than a node tracks.
    #[error("a build of {actual} chunks: give --build and --chunk for 1 to {limit} chunks")]
    ChunkCount {
        /// Chunks that the build would have.
        actual: u64,
        /// Most chunks.
        limit: u32,
    },
    /// A share above everything.
    #[error("{actual} percent in {flag}: give a number up to 100")]
    Percent {
        /// The flag.
        flag: &'static str,
        /// What it says.
        actual: u32,
    },
    /// Time that ends before anything can have happened.
    #[error("--limit of {limit:?} is below the bound of this scenario, {bound:?}: give more time")]
    Limit {
        /// The limit asked for.
        limit: Duration,
        /// The least time that the fleet needs.
        bound: Duration,
    },
}

impl Scenario {
    /// Checks that the scenario can be run.
    ///
    /// # Errors
    ///
    /// The first thing that makes it impossible.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let Self { hosts, seeders, racks, .. } = *self;
        if hosts == 0 || hosts > HOSTS_MAX {
            return Err(ScenarioError::Hosts { actual: hosts, limit: HOSTS_MAX });
        }
        if seeders == 0 || seeders > hosts {
            return Err(ScenarioError::Seeders { seeders, hosts });
        }
        if racks > hosts {
            return Err(ScenarioError::Racks { racks, hosts });
        }
        if racks == 0 && self.rack_rate.is_some() {
            return Err(ScenarioError::RackRateWithoutRacks);
        }
        if self.chunk_size == 0 || self.chunk_size > u64::from(CHUNK_SIZE_MAX) {
            return Err(ScenarioError::ChunkSize {
                actual: self.chunk_size,
                limit: CHUNK_SIZE_MAX,
            });
        }
        let chunks = self.chunk_lengths.as_ref().map_or_else(
            || self.build_size.div_ceil(self.chunk_size),
            |lengths| lengths.len() as u64,
        );
        if chunks == 0 || chunks > u64::from(CHUNKS_MAX) {
            return Err(ScenarioError::ChunkCount { actual: chunks, limit: CHUNKS_MAX });
        }
        self.check_faults()?;
        let bound = self.bound().time;
        if self.limit < bound {
            return Err(ScenarioError::Limit { limit: self.limit, bound });
        }
        Ok(())
    }

    fn check_faults(&self) -> Result<(), ScenarioError> {
        let Self { racks, zones, faults, .. } = *self;
        if zones > racks {
            return Err(ScenarioError::Zones { zones, racks });
        }
        for (flag, actual) in faults.percents() {
            if actual > 100 {
                return Err(ScenarioError::Percent { flag, actual });
            }
        }
        let lost = faults.loss.map_or(0, |loss| loss.lost_percent);
        if lost > LOSS_PERCENT_MAX {
            return Err(ScenarioError::Loss { actual: lost, limit: LOSS_PERCENT_MAX });
        }
        let outage = |flag, needs| Err(ScenarioError::Outage { flag, needs });
        if faults.rack_outage.is_some() && racks < 2 {
            return outage("--rack-outage", "--racks");
        }
        if faults.zone_outage.is_some() && zones < 2 {
            return outage("--zone-outage", "--zones");
        }
        if faults.late_percent > 0 && faults.end_trackers() {
            return Err(ScenarioError::LateWithoutTracker);
        }
        Ok(())
    }

    /// The zone of a rack.
    pub(crate) fn zone_of(&self, rack: u32) -> u32 {
        let zone = u64::from(rack) * u64::from(self.zones) / u64::from(self.racks.max(1));
        u32::try_from(zone).unwrap_or(0)
    }

    /// Time that every live host has to complete once everything that heals has healed: a minute to
    /// find the others again, and three times what the weakest host needs for the build.
    pub fn liveness_time(&self) -> Duration {
        let build = self.host_rate.occupancy(self.build_size).max(self.bound().time);
        Duration::from_mins(1) + build.saturating_mul(3 * self.faults.slowdown())
    }

    /// Chunks of the build.
    pub fn chunk_count(&self) -> u32 {
        let equal = || self.build_size.div_ceil(self.chunk_size);
        let count = self.chunk_lengths.as_ref().map_or_else(equal, |lengths| lengths.len() as u64);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Cuts the build into chunks of these lengths.
    ///
    /// # Errors
    ///
    /// If a chunk is empty or too long, or there are none or too many.
    pub fn cut_into(&mut self, lengths: &[u32]) -> Result<(), ScenarioError> {
        let is_wrong = |length: &&u32| **length == 0 || **length > CHUNK_SIZE_MAX;
        if let Some(length) = lengths.iter().find(is_wrong) {
            let actual = u64::from(*length);
            return Err(ScenarioError::ChunkSize { actual, limit: CHUNK_SIZE_MAX });
        }
        let actual = lengths.len() as u64;
        if actual == 0 || actual > u64::from(CHUNKS_MAX) {
            return Err(ScenarioError::ChunkCount { actual, limit: CHUNKS_MAX });
        }
        self.build_size = lengths.iter().map(|length| u64::from(*length)).sum();
        self.chunk_size = self.build_size.div_ceil(actual);
        self.chunk_lengths = Some(lengths.into());
        Ok(())
    }

    /// All machines.
    pub const fn nodes(&self) -> u32 {
        self.seeders + self.hosts
    }

    /// The tightest bound that is known.
    ///
    /// The chunked bound counts whole chunks only, so that a short last chunk cannot lift it above
    /// what is possible.
    pub fn bound(&self) -> Bound {
        let all_seeders = self.seeder_rate.get().saturating_mul(u64::from(self.seeders));
        let rates = FleetRates {
            hosts: u64::from(self.hosts),
            seeder_up: ByteRate::new(all_seeders).unwrap_or(self.seeder_rate),
            host_up: self.host_rate,
            host_down: self.host_rate,
        };
        let mut bound = Bound { time: fluid_bound(rates, self.build_size), kind: BoundKind::Fluid };
        let mut tighten = |time, kind| {
            if time > bound.time {
                bound = Bound { time, kind };
            }
        };
        let is_chunked = self.chunk_lengths.is_none();
        if is_chunked && self.seeders == 1 && self.seeder_rate == self.host_rate {
            let whole = u32::try_from(self.build_size / self.chunk_size).unwrap_or(u32::MAX);
            let hosts = u64::from(self.hosts);
            let time = chunked_bound(hosts, whole, self.chunk_size, self.host_rate);
            tighten(time, BoundKind::Chunked);
        }
        if let Some(rate) = self.rack_rate {
            tighten(rate.occupancy(self.build_size), BoundKind::Rack);
        }
        bound
    }

    /// How the build is cut. Only for a scenario that was checked.
    pub(crate) fn layout(&self) -> Arc<ChunkLayout> {
        if let Some(lengths) = &self.chunk_lengths {
            let layout = ChunkLayout::new(lengths.iter().copied());
            return Arc::new(layout.expect("the lengths were checked"));
        }
        let sizes: Vec<u32> = (0..u64::from(self.chunk_count()))
            .map(|chunk| self.chunk_size.min(self.build_size - chunk * self.chunk_size))
            .map(|size| u32::try_from(size).expect("the scenario was checked"))
            .collect();
        Arc::new(ChunkLayout::new(sizes.into_iter()).expect("the scenario was checked"))
    }

    pub(crate) fn gives_up_at(&self) -> Instant {
        Instant::from_start(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Crashes, Loss};

    fn scenario() -> Scenario {
        let rate = ByteRate::new(1_000).unwrap();
        Scenario {
            hosts: 10,
            seeders: 1,
            build_size: 10_500,
            chunk_size: 1_000,
            chunk_lengths: None,
            turn_size: None,
            host_rate: rate,
            seeder_rate: rate,
            racks: 0,
            zones: 0,
            rack_rate: None,
            disk_rate: rate,
            latency: Duration::ZERO,
            join_within: Duration::ZERO,
            seed: 1,
            limit: Duration::from_mins(1),
            faults: Faults::default(),
            settings: Settings::default(),
        }
    }

    #[test]
    fn impossible_scenarios_are_refused() {
        let base = scenario();
        assert_eq!(base.check(), Ok(()));
        let faulty = |faults| Scenario { racks: 2, faults, ..scenario() };
        let minute = Some(Duration::from_mins(1));
        let loss = Some(Loss { percent: 1, lost_percent: 51 });
        let crashes = Some(Crashes { percent: 101, downtime: Duration::ZERO });
        let cases = vec![
            (Scenario { hosts: 0, ..base.clone() }, "0 hosts"),
            (Scenario { hosts: HOSTS_MAX + 1, ..base.clone() }, "2000001 hosts"),
            (Scenario { seeders: 0, ..base.clone() }, "0 seeders"),
            (Scenario { seeders: 11, ..base.clone() }, "11 seeders"),
            (Scenario { racks: 11, ..base.clone() }, "11 racks"),
            (Scenario { rack_rate: Some(base.host_rate), ..base.clone() }, "--rack-rate"),
            (Scenario { chunk_size: 0, ..base.clone() }, "chunks of 0 bytes"),
            (Scenario { chunk_size: 1 << 40, ..base.clone() }, "chunks of 1099511627776 bytes"),
            (Scenario { build_size: 0, ..base.clone() }, "a build of 0 chunks"),
            (Scenario { build_size: 1 << 60, ..base.clone() }, "a build of 1152921504606847"),
            (Scenario { faults: Faults { crashes, ..base.faults }, ..base.clone() }, "101 percent"),
            (Scenario { limit: Duration::from_secs(1), ..base.clone() }, "--limit of 1s"),
            (Scenario { racks: 2, zones: 3, ..base.clone() }, "3 zones for 2 racks"),
            (faulty(Faults { vanish_percent: 101, ..base.faults }), "101 percent in --vanish"),
            (faulty(Faults { liars_percent: 101, ..base.faults }), "101 percent in --liars"),
            (faulty(Faults { loss, ..base.faults }), "--loss of 51"),
            (faulty(Faults { zone_outage: minute, ..base.faults }), "--zone-outage needs"),
            (
                faulty(Faults { late_percent: 1, trackers_die_at_percent: Some(1), ..base.faults }),
                "--late with trackers",
            ),
            (
                Scenario { faults: Faults { rack_outage: minute, ..base.faults }, ..base.clone() },
                "--rack-outage needs",
            ),
        ];
        for (scenario, start) in cases {
            let error = scenario.check().unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn tightest_bound_is_taken() {
        let base = scenario();
        let fast = ByteRate::new(100_000).unwrap();
        let slow = ByteRate::new(100).unwrap();
        let cases = [
            (base.clone(), BoundKind::Chunked, 13_000),
            (Scenario { seeder_rate: fast, ..base.clone() }, BoundKind::Fluid, 10_500),
            (Scenario { racks: 2, rack_rate: Some(slow), ..base }, BoundKind::Rack, 105_000),
        ];
        for (scenario, kind, millis) in cases {
            let time = Duration::from_millis(millis);
            assert_eq!(scenario.bound(), Bound { time, kind });
        }
    }

    #[test]
    fn lengths_of_a_real_build_take_the_place_of_equal_ones() {
        let mut scenario = scenario();
        assert_eq!(scenario.cut_into(&[300, 1_200, 500]), Ok(()));
        assert_eq!(scenario.check(), Ok(()));
        let layout = scenario.layout();
        assert_eq!(
            (layout.chunk_count(), scenario.chunk_count(), layout.build_size()),
            (3, 3, 2_000)
        );
        // Chunks as units mean nothing when they differ.
        assert_eq!(scenario.bound().kind, BoundKind::Fluid);
        assert!(matches!(scenario.cut_into(&[1, 0]), Err(ScenarioError::ChunkSize { .. })));
        assert!(matches!(scenario.cut_into(&[u32::MAX]), Err(ScenarioError::ChunkSize { .. })));
        assert!(matches!(scenario.cut_into(&[]), Err(ScenarioError::ChunkCount { .. })));
    }

    #[test]
    fn last_chunk_has_the_rest() {
        let layout = scenario().layout();
        assert_eq!((layout.chunk_count(), layout.build_size()), (11, 10_500));
    }
}
