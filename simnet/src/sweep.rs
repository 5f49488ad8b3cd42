//! How long fleets take by their size, their build, the degree of their graph, and churn: the table
//! that is kept as `simnet/sweep.txt`, so that a change of a policy shows as a change of a text.
//!
//! A line is a function of its case and of the protocol alone; it says nothing of the machine it
//! was made on.

use core::fmt::{self, Display};
use core::time::Duration;
use std::io;

use p2p_core::ByteRate;

use crate::faults::{Crashes, Faults};
use crate::flags::settings::Settings;
use crate::fleet::Fleet;
use crate::report::Summary;
use crate::scenario::Scenario;

/// A gigabit, for hosts and the seeder.
const RATE: u64 = 125_000_000;

/// Small, so that the table is made in minutes: what matters is how many chunks there are.
const CHUNK_SIZE: u64 = 1 << 20;

/// How long a host that crashed stays away.
const DOWNTIME: Duration = Duration::from_secs(1);

/// One line of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Case {
    /// Machines that want the build.
    pub hosts: u32,
    /// Chunks of the build.
    pub chunks: u32,
    /// Neighbours that each host looks for.
    pub degree: u16,
    /// Hosts that crash and return, in percent.
    pub crash_percent: u32,
}

/// The head of the table.
pub const HEADER: &str = "\
# Completion by fleet size, chunk count, neighbours and churn. Chunks of 1 MiB, 1 Gbit/s for hosts and
# the one seeder, 0.5 ms, seed 1; hosts that crash are away for 1 s. Reviewed like code; renew it with
#   cargo run --release -p simnet -- sweep --write simnet/sweep.txt
# hosts chunks degree crash%   p50/bound last/bound   copies  messages/host
";

/// All lines of the table, small fleets first.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (hosts, chunks) in [(50, 80), (50, 320), (200, 80), (200, 320), (800, 80), (800, 320)] {
        for degree in [6, 12, 24] {
            for crash_percent in [0, 5] {
                cases.push(Case { hosts, chunks, degree, crash_percent });
            }
        }
    }
    cases
}

impl Case {
    fn scenario(self) -> Scenario {
        let rate = ByteRate::new(RATE).expect("the constant is not zero");
        let crashes = (self.crash_percent > 0)
            .then_some(Crashes { percent: self.crash_percent, downtime: DOWNTIME });
        let mut settings = Settings::default();
        settings.host.neighbours_target = self.degree;
        Scenario {
            hosts: self.hosts,
            seeders: 1,
            build_size: CHUNK_SIZE * u64::from(self.chunks),
            chunk_size: CHUNK_SIZE,
            chunk_lengths: None,
            turn_size: None,
            host_rate: rate,
            seeder_rate: rate,
            racks: 0,
            zones: 0,
            rack_rate: None,
            disk_rate: ByteRate::new(1_000_000_000).expect("the constant is not zero"),
            latency: Duration::from_micros(500),
            join_within: Duration::ZERO,
            seed: 1,
            limit: Duration::from_mins(10),
            faults: Faults { crashes, ..Faults::default() },
            settings,
        }
    }

    /// Runs the case and writes its line.
    ///
    /// # Errors
    ///
    /// Never, as no trace is written; the error is that of [`Fleet::run`].
    pub fn line(self) -> io::Result<String> {
        let scenario = self.scenario();
        let outcome = Fleet::new(scenario.clone()).run()?;
        let summary = Summary::new(&scenario, &outcome, Duration::ZERO);
        Ok(Line { case: self, summary: &summary }.to_string())
    }
}

struct Line<'a> {
    case: Case,
    summary: &'a Summary,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { hosts, chunks, degree, crash_percent } = self.case;
        let ratio = |number: Option<f64>| {
            number.map_or_else(|| "never".to_owned(), |number| format!("{number:.3}"))
        };
        write!(
            f,
            "{hosts:>7} {chunks:>6} {degree:>6} {crash_percent:>6}   {:>9} {:>10} {:>8.3} {:>14}",
            ratio(self.summary.p50_over_bound),
            ratio(self.summary.last_over_bound),
            self.summary.seeder_copies,
            self.summary.messages / u64::from(hosts),
        )
    }
}
