//! Weak machines: links and disks with an eighth of the rate, uplinks thinner than downlinks.
//!
//! Rates are set once, before anything was sent; the swarms are not aware of them.

use p2p_core::Prng;

use crate::faults::slow_rate;

use super::Fleet;

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn plan_slow_links(&mut self, prng: &mut Prng) {
        let (slow, asymmetric) =
            (self.scenario.faults.slow_percent, self.scenario.faults.asymmetric_percent);
        for host in self.draw_hosts(slow, &mut prng.split()) {
            let node = &self.nodes[host as usize];
            for link in [node.uplink, node.downlink] {
                self.network.set_rate(link, slow_rate(self.network.rate_of(link)));
            }
        }
        for host in self.draw_hosts(asymmetric, &mut prng.split()) {
            let node = &self.nodes[host as usize];
            let rate = slow_rate(self.network.rate_of(node.downlink));
            self.network.set_rate(node.uplink, rate);
        }
    }

    pub(super) fn plan_slow_disks(&mut self, prng: &mut Prng) {
        let slow = self.draw_hosts(self.scenario.faults.slow_disk_percent, prng);
        self.fate.slow_disks.extend(slow);
    }

    /// What a node can hash and write.
    pub(super) fn disk_rate_of(&self, node: crate::queue::NodeIndex) -> p2p_core::ByteRate {
        let rate = self.scenario.disk_rate;
        if self.fate.slow_disks.contains(&node) { slow_rate(rate) } else { rate }
    }
}
