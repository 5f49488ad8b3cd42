//! Racks and zones that are cut off from everything else for a while.
//!
//! Nothing crosses a cut. Messages wait at its edge and arrive when it heals, chunks under way
//! begin anew then; unless it lasts so long that both ends give the connection up. Questions across
//! it fail after the driver's time to answer.

use core::ops::Range;

use p2p_core::{Instant, Prng};

use crate::node::Node;
use crate::queue::{NodeIndex, Step};
use crate::slab::SlabKey;

use super::contacts::{ANSWER_TIME, IDLE_TIME};
use super::{Fleet, Parcel};

/// Position of a cut in the fleet's table.
pub(crate) type CutIndex = u32;

/// All cuts, and what waits for their end.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    all: Vec<Cut>,
    /// To whom, from whom, what.
    messages: Vec<(NodeIndex, NodeIndex, Parcel)>,
    /// Chunks that were under way, or whose turn came.
    stalled: Vec<SlabKey>,
}

#[derive(Debug)]
struct Cut {
    /// The racks inside.
    racks: Range<u32>,
    is_on: bool,
}

impl Cut {
    fn has_inside(&self, node: &Node) -> bool {
        node.rack.is_some_and(|rack| self.racks.contains(&rack))
    }

    fn parts(&self, one: &Node, other: &Node) -> bool {
        self.is_on && self.has_inside(one) != self.has_inside(other)
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    /// One rack and one zone, drawn, at times within the first half of the bound.
    pub(super) fn plan_cuts(&mut self, prng: &mut Prng) {
        let (racks, faults) = (self.scenario.racks, self.scenario.faults);
        let (mut rack_prng, mut zone_prng) = (prng.split(), prng.split());
        if let Some(span) = faults.rack_outage {
            let rack = u32::try_from(rack_prng.below(u64::from(racks))).unwrap_or(0);
            let at = self.draw_time(50, &mut rack_prng);
            self.plan_cut(rack..rack + 1, at, at.after(span));
        }
        if let Some(span) = faults.zone_outage {
            let zones = u64::from(self.scenario.zones.max(1));
            let zone = u32::try_from(zone_prng.below(zones)).unwrap_or(0);
            let within: Vec<u32> =
                (0..racks).filter(|rack| self.scenario.zone_of(*rack) == zone).collect();
            let first = within.first().copied().unwrap_or(0);
            let end = within.last().map_or(first, |last| last + 1);
            let at = self.draw_time(50, &mut zone_prng);
            self.plan_cut(first..end, at, at.after(span));
        }
    }

    fn plan_cut(&mut self, racks: Range<u32>, from: Instant, until: Instant) {
        let cuts = &mut self.fate.cuts.all;
        let cut = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
        cuts.push(Cut { racks, is_on: false });
        self.queue.push(from, Step::CutBegins { cut });
        self.queue.push(from.after(IDLE_TIME), Step::CutIsNoticed { cut });
        self.plan_healing(until, Step::CutEnds { cut });
    }

    /// Whether nothing gets from one node to the other now.
    pub(super) fn is_cut(&self, one: NodeIndex, other: NodeIndex) -> bool {
        let (one, other) = (&self.nodes[one as usize], &self.nodes[other as usize]);
        self.fate.cuts.all.iter().any(|cut| cut.parts(one, other))
    }

    pub(super) fn on_cut_begins(&mut self, cut: CutIndex) {
        self.fate.cuts.all[cut as usize].is_on = true;
        for key in self.transfers_under_way() {
            if self.transfers.get(key).is_some_and(|one| self.is_cut(one.server(), one.asker())) {
                self.stall(key);
            }
        }
    }

    /// A transfer waits until its two ends reach each other again.
    pub(super) fn stall(&mut self, key: SlabKey) {
        let waiting = self.begin_anew(key);
        self.fate.cuts.stalled.extend(waiting);
    }

    /// What is sent across a cut waits at its edge, or is answered by silence.
    pub(super) fn hold_back(&mut self, from: NodeIndex, to: NodeIndex, parcel: Parcel) {
        let late = self.later(ANSWER_TIME);
        match parcel {
            Parcel::Message(_) | Parcel::Manifest { .. } => {
                self.fate.cuts.messages.push((to, from, parcel));
            }
            Parcel::Announce(_) => self.post_at(late, to, from, Parcel::NoAnswer),
            Parcel::Answer(_) | Parcel::NoAnswer => {
                self.post_at(late, from, to, Parcel::NoAnswer);
            }
            Parcel::ExchangeAsked => self.post_at(late, to, from, Parcel::Contacts(Vec::new())),
            Parcel::Contacts(_) => self.post_at(late, from, to, Parcel::Contacts(Vec::new())),
            Parcel::Hashed { .. } => unreachable!("disks are not cut off"),
        }
    }

    /// The cut lasts so long that whoever is connected across it gives up.
    pub(super) fn on_cut_noticed(&mut self, cut: CutIndex) {
        let cut = &self.fate.cuts.all[cut as usize];
        let inside = self.nodes.iter().zip(0..).filter(|(node, _)| cut.has_inside(node));
        let across = inside.flat_map(|(node, index)| {
            let peers = node.connected_peers();
            peers.map(move |peer| (index, peer))
        });
        let across: Vec<(NodeIndex, NodeIndex)> =
            across.filter(|(node, peer)| self.is_cut(*node, *peer)).collect();
        for (node, peer) in across {
            self.lose(node, peer);
            self.lose(peer, node);
        }
        let messages = core::mem::take(&mut self.fate.cuts.messages);
        let kept = messages.into_iter().filter(|(to, from, _)| !self.is_cut(*to, *from));
        let kept: Vec<_> = kept.collect();
        self.fate.cuts.messages = kept;
    }

    pub(super) fn on_cut_ends(&mut self, cut: CutIndex) {
        self.fate.cuts.all[cut as usize].is_on = false;
        for (to, from, parcel) in core::mem::take(&mut self.fate.cuts.messages) {
            // To a connection that is gone, or across another cut.
            if self.nodes[from as usize].is_connected(to) {
                self.post(from, to, parcel);
            }
        }
        for key in core::mem::take(&mut self.fate.cuts.stalled) {
            self.send_again(key);
        }
    }
}
