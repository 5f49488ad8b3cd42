//! What goes wrong: crashes, returns, and the ends of seeders and trackers.
//!
//! A node dies without a word: its neighbours notice when nothing comes for a while. Everything is
//! drawn from the seed when the fleet is made, or follows from how far the fleet has come.

use p2p_core::Prng;

use crate::faults::Crashes;
use crate::queue::{NodeIndex, Step};
use crate::trace::StepKind;

use super::Fleet;
use super::contacts::IDLE_TIME;

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn plan_crashes(&mut self, prng: &mut Prng) {
        let mut hosts = self.draw_hosts(100, &mut prng.split());
        let (mut return_prng, mut vanish_prng) = (prng.split(), prng.split());
        if let Some(Crashes { percent, downtime }) = self.scenario.faults.crashes {
            let rest = hosts.split_off(self.count_of(percent).min(hosts.len()));
            for node in core::mem::replace(&mut hosts, rest) {
                let at = self.draw_time(100, &mut return_prng);
                self.queue.push(at, Step::Crash { node });
                self.plan_healing(at.after(downtime), Step::Return { node });
            }
        }
        hosts.truncate(self.count_of(self.scenario.faults.vanish_percent));
        for node in hosts {
            let at = self.draw_time(100, &mut vanish_prng);
            self.queue.push(at, Step::Vanish { node });
            self.fate.doomed.insert(node);
        }
    }

    /// The machine is gone for good.
    pub(super) fn vanish(&mut self, index: NodeIndex) {
        let was_awaited = self.is_awaited(index);
        self.crash(index);
        self.fate.gone.insert(index);
        self.observe(index, StepKind::Vanish, None, None);
        if was_awaited && self.nodes[index as usize].completed_at.is_none() {
            self.incomplete -= 1;
        }
    }

    /// Lets happen whatever is to go wrong once the fleet has come this far.
    pub(super) fn let_fate_strike(&mut self) {
        let faults = self.scenario.faults;
        if let Some(percent) = faults.trackers_die_at_percent {
            let all = u64::from(self.scenario.hosts) * u64::from(self.layout.chunk_count());
            if self.stored * 100 >= all * u64::from(percent) {
                self.are_trackers_alive = false;
            }
        }
        if faults.seeders_die_after_first_copy && self.seen.is_full() {
            for seeder in 0..self.scenario.seeders {
                self.crash(seeder);
            }
        }
    }

    /// The machine is gone, and with it everything but its disk.
    pub(super) fn crash(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index as usize];
        let Some(swarm) = node.swarm.take() else { return };
        node.crashes += 1;
        node.kept = Some(swarm.have().clone()).filter(|have| have.capacity() > 0);
        node.remembered = swarm.lasting_contacts();
        node.alarm_generation = node.alarm_generation.wrapping_add(1);
        node.alarm_at = None;
        node.dialling.clear();
        node.expected.clear();
        let connections = node.take_connections();
        self.observe(index, StepKind::Crash, None, None);
        for connection in connections {
            let peer = connection.peer;
            if let Some(other_end) = self.nodes[peer as usize].connection(index) {
                other_end.is_stale = true;
                let at = self.later(IDLE_TIME);
                self.queue.push(at, Step::PeerSilent { node: peer, peer: index });
            }
        }
        self.stop_transfers_of(index);
    }

    /// The machine is back under its name, with what its disk kept.
    pub(super) fn bring_back(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index as usize];
        if node.is_alive() || node.crashes == 0 {
            // It is back already, or has not started yet.
            return;
        }
        let kept = node.kept.take();
        self.observe(index, StepKind::Return, None, None);
        self.enter_swarm(index, kept);
    }
}
