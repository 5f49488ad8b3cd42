//! What the trace and the checkers see of each step.
//!
//! Read only: nothing here changes what happens.

use p2p_core::wire::Message;
use p2p_core::{Event, NodeId};

use crate::buckets::Buckets;
use crate::network::{LinkClass, LinkUse};
use crate::node::index_of;
use crate::queue::NodeIndex;
use crate::trace::{Observation, StepKind};

use super::{Fleet, VIOLATIONS_MAX};

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    /// Keeps what a picture shows.
    pub fn record(&mut self) {
        let mut link_use = LinkUse::default();
        for (index, node) in self.nodes.iter().enumerate() {
            let is_seeder = index < self.scenario.seeders as usize;
            let class = if is_seeder { LinkClass::SeederUplink } else { LinkClass::HostUplink };
            link_use.watch(node.uplink, class);
        }
        for (_, into) in &self.racks {
            link_use.watch(*into, LinkClass::RackUplink);
        }
        self.network.link_use = Some(link_use);
        self.stored_over_time = Some(Buckets::default());
    }

    pub(super) fn observe(
        &mut self,
        node: NodeIndex,
        kind: StepKind,
        peer: Option<NodeIndex>,
        chunk: Option<u32>,
    ) {
        let step = Observation { at: self.now, node, kind, peer, chunk };
        self.trace.note(&step);
        for checker in &mut self.checkers {
            if let Err(violation) = checker.observe(&step)
                && self.violations.len() < VIOLATIONS_MAX
            {
                self.violations.push(violation);
            }
        }
    }

    pub(super) fn observe_event(&mut self, node: NodeIndex, event: &Event) {
        let about = |kind, peer: &NodeId| (kind, Some(index_of(*peer)), None);
        let (kind, peer, chunk) = match event {
            Event::PeerConnected { peer } => about(StepKind::Connected, peer),
            Event::DialFailed { peer } => about(StepKind::DialFailed, peer),
            Event::PeerLost { peer } => about(StepKind::Lost, peer),
            Event::MessageReceived { peer, message } => {
                let (kind, chunk) = kind_of(message);
                (kind, Some(index_of(*peer)), chunk)
            }
            Event::ManifestArrived { peer, .. } => about(StepKind::Manifest, peer),
            Event::FetchAdvanced { .. } => (StepKind::Advanced, None, None),
            Event::AnnounceAnswered { tracker, .. } => about(StepKind::Answered, tracker),
            Event::AnnounceFailed { tracker } => about(StepKind::Unanswered, tracker),
            Event::ContactsLearned { .. } => (StepKind::Contacts, None, None),
            Event::DeadlineReached => (StepKind::Wake, None, None),
            // Noted where they come from, with more than the event says, or never simulated.
            Event::Started
            | Event::ServeEnded { .. }
            | Event::ManifestServeEnded { .. }
            | Event::ChunkHashed { .. }
            | Event::FetchFailed { .. }
            | Event::MalformedReceived { .. }
            | Event::ChunksLost { .. }
            | Event::LocalCopy(_)
            | Event::TrackerAsked { .. }
            | Event::Leaving => return,
        };
        self.observe(node, kind, peer, chunk);
    }
}

fn kind_of(message: &Message) -> (StepKind, Option<u32>) {
    match message {
        Message::Join { .. } => (StepKind::Joined, None),
        Message::Offer { runs } => (StepKind::Offered, runs.iter().next().map(|(start, _)| start)),
        Message::Request { chunk, .. } => (StepKind::Requested, Some(*chunk)),
        Message::Cancel { .. } => (StepKind::Cancelled, None),
        Message::Busy { .. } => (StepKind::Busy, None),
        Message::Claim { chunk } | Message::Disclaim { chunk } => {
            (StepKind::OtherMessage, Some(*chunk))
        }
        Message::RequestManifest | Message::NoManifest | Message::Ready | Message::Leave => {
            (StepKind::OtherMessage, None)
        }
    }
}
