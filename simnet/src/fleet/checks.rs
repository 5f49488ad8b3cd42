//! Puts checkers to work: all of them at once, with what they must know of the scenario.
//!
//! A violation is kept and the run goes on, so that one run shows more than its first mistake.

use p2p_core::Instant;

use crate::checker::{
    Checker, EveryoneCompletes, NoEarlyServe, TablesWithinLimits, UploadsWithinLimit, Violation,
};
use crate::queue::NodeIndex;

use super::{Fleet, VIOLATIONS_MAX};

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    /// Lets every checker see every step.
    pub fn watch_everything(&mut self) {
        let (nodes, seeders) = (self.scenario.nodes(), self.scenario.seeders);
        self.watch(NoEarlyServe::new(nodes, seeders, self.scenario.chunk_count()));
        let settings = &self.scenario.settings;
        let average = self.scenario.build_size / u64::from(self.scenario.chunk_count()).max(1);
        let most_of = |config: &p2p_core::SwarmConfig| {
            let is_small = average < config.small_chunk_bytes;
            if is_small { config.uploads_max_small } else { config.uploads_max }
        };
        let most = most_of(&settings.host).max(most_of(&settings.seeder));
        self.watch(UploadsWithinLimit::new(nodes, u32::try_from(most).unwrap_or(u32::MAX)));
        self.watch(TablesWithinLimits::default());
        let awaited = (seeders..nodes).filter(|host| self.is_awaited(*host));
        let awaited: Vec<NodeIndex> = awaited.collect();
        self.watch(EveryoneCompletes::new(awaited, self.completes_until()));
    }

    /// When every live host must have the build: a while after everything that heals has healed.
    pub fn completes_until(&self) -> Instant {
        self.heals_at().after(self.scenario.liveness_time())
    }

    pub(super) fn check_tables(&mut self, node: NodeIndex) {
        if self.checkers.is_empty() {
            return;
        }
        let Some(swarm) = &self.nodes[node as usize].swarm else { return };
        let (now, tables) = (self.now, swarm.table_sizes());
        self.ask_checkers(|checker| checker.look_at(now, node, &tables));
    }

    pub(super) fn finish_checks(&mut self) {
        let now = self.now;
        self.ask_checkers(|checker| checker.finish(now));
    }

    fn ask_checkers(&mut self, ask: impl Fn(&mut dyn Checker) -> Result<(), Violation>) {
        for checker in &mut self.checkers {
            if let Err(violation) = ask(checker.as_mut())
                && self.violations.len() < VIOLATIONS_MAX
            {
                self.violations.push(violation);
            }
        }
    }
}
