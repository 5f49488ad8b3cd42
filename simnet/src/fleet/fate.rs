//! Who is hit by what: drawn from the seed when the fleet is made, kept in one place.
//!
//! Each kind has a stream of its own, which is drawn from even if the kind is off, so that
//! switching one kind leaves the others as they are.

use std::collections::BTreeSet;

use p2p_core::{Instant, Prng};

use crate::queue::{NodeIndex, Step};

use super::Fleet;
use super::cuts::Cuts;
use super::liars::Lies;
use super::lossy::Lossy;

/// What the fleet knows of its fate.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// Hosts that will crash and never return.
    pub(super) doomed: BTreeSet<NodeIndex>,
    /// Those of them that are gone.
    pub(super) gone: BTreeSet<NodeIndex>,
    pub(super) slow_disks: BTreeSet<NodeIndex>,
    pub(super) lossy: Lossy,
    pub(super) lies: Lies,
    pub(super) cuts: Cuts,
    /// When the last of what heals has healed, as far as that is known from the start.
    pub(super) heals_at: Instant,
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn plan_faults(&mut self, prng: &mut Prng) {
        self.plan_crashes(&mut prng.split());
        self.plan_slow_links(&mut prng.split());
        self.plan_slow_disks(&mut prng.split());
        self.plan_loss(&mut prng.split());
        self.plan_lies(&mut prng.split());
        self.plan_cuts(&mut prng.split());
    }

    /// `percent` of the hosts, drawn; at least one if it is not zero.
    pub(super) fn draw_hosts(&self, percent: u32, prng: &mut Prng) -> Vec<NodeIndex> {
        let mut hosts: Vec<NodeIndex> = (self.scenario.seeders..self.scenario.nodes()).collect();
        prng.shuffle(&mut hosts);
        hosts.truncate(self.count_of(percent));
        hosts
    }

    pub(super) fn count_of(&self, percent: u32) -> usize {
        let count = u64::from(self.scenario.hosts) * u64::from(percent) / 100;
        usize::try_from(count).unwrap_or(usize::MAX).max(usize::from(percent > 0))
    }

    /// A time up to `share` percent of the bound.
    pub(super) fn draw_time(&self, share: u32, prng: &mut Prng) -> Instant {
        let within = self.scenario.bound().time * share / 100;
        Instant::from_nanos(prng.below(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX).max(1)))
    }

    /// Something will be whole again at `at`, by this step.
    pub(super) fn plan_healing(&mut self, at: Instant, step: Step) {
        self.fate.heals_at = self.fate.heals_at.max(at);
        self.queue.push(at, step);
    }

    /// Whether the run waits for this host: it lives and is honest, and so must complete.
    pub(super) fn is_awaited(&self, host: NodeIndex) -> bool {
        !self.fate.gone.contains(&host) && !self.fate.lies.is_liar(host)
    }

    /// When everything that heals has healed.
    pub fn heals_at(&self) -> Instant {
        self.fate.heals_at
    }
}
