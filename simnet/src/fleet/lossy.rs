//! Links that lose packets.
//!
//! A message that is lost is sent again after the transport's probe timeout, which doubles; those
//! behind it on the connection wait, because they are read in order. Chunks are slower by what is
//! sent again and by what congestion control takes (`lossy_rate`).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use p2p_core::{Instant, Prng, Seed};

use crate::faults::{Loss, lossy_rate};
use crate::queue::NodeIndex;

use super::Fleet;

/// What QUIC adds to three round trips before it sends again: the longest time that the other end
/// may take to acknowledge (RFC 9002, section 6.2).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// Doublings of the timeout in a row. More losses in a row than this do not happen in a run.
const DOUBLINGS_MAX: u32 = 8;

/// The hosts behind such links, and what is on its way to keep it in order.
#[derive(Debug)]
pub(super) struct Lossy {
    hosts: BTreeSet<NodeIndex>,
    /// When the last message of each pair arrives.
    arrivals: BTreeMap<(NodeIndex, NodeIndex), Instant>,
    prng: Prng,
}

impl Default for Lossy {
    fn default() -> Self {
        let prng = Prng::from_seed(Seed::from_u64(0));
        Self { hosts: BTreeSet::new(), arrivals: BTreeMap::new(), prng }
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn plan_loss(&mut self, prng: &mut Prng) {
        let Some(Loss { percent, lost_percent }) = self.scenario.faults.loss else { return };
        let hosts = self.draw_hosts(percent, prng);
        for host in &hosts {
            let node = &self.nodes[*host as usize];
            for link in [node.uplink, node.downlink] {
                let rate = self.network.rate_of(link);
                let rate = lossy_rate(rate, lost_percent, self.scenario.latency);
                self.network.set_rate(link, rate);
            }
        }
        self.fate.lossy.hosts.extend(hosts);
        self.fate.lossy.prng = prng.split();
    }

    /// When a message that is sent now arrives.
    pub(super) fn arrival_of(&mut self, from: NodeIndex, to: NodeIndex) -> Instant {
        let direct = self.now.after(self.scenario.latency);
        let Some(Loss { lost_percent, .. }) = self.scenario.faults.loss else { return direct };
        let lossy = &mut self.fate.lossy;
        if !lossy.hosts.contains(&from) && !lossy.hosts.contains(&to) {
            return direct;
        }
        let timeout = self.scenario.latency * 6 + ACK_DELAY;
        let mut delay = Duration::ZERO;
        let mut losses = 0;
        while losses < DOUBLINGS_MAX && lossy.prng.below(100) < u64::from(lost_percent) {
            delay += timeout * (1 << losses);
            losses += 1;
        }
        let last = lossy.arrivals.entry((from, to)).or_insert(direct);
        *last = direct.after(delay).max(*last);
        *last
    }
}
