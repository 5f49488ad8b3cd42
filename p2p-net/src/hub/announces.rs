//! Announces, and which of them leave together.
//!
//! Each announce wakes this host and the tracker a few times. The builds of a host have the same
//! trackers and about the same intervals, so one that announces takes along those that would do so
//! soon; their swarms say whether they are ready.

use p2p_core::wire::Announce;
use p2p_core::{Action, BuildId, Event, NodeId, PeerRole};

use super::Hub;
use super::clock::Alarms;

/// Builds that may go along when another announces: with it, half of the questions that a tracker
/// takes at once from one node.
const ALONG_MAX: usize = 15;

/// The builds that an announce among these actions takes along, each with its event.
fn taken_along(role: PeerRole, actions: &[Action], alarms: &Alarms) -> Vec<(BuildId, Event)> {
    // A seeder has thousands of builds: it is never at rest, and would ask too much at once.
    if role == PeerRole::Seeder {
        return Vec::new();
    }
    let asked = actions.iter().find_map(|action| match action {
        Action::Announce { tracker, announce } if !announce.is_leaving => Some(*tracker),
        _ => None,
    });
    let Some(tracker) = asked else { return Vec::new() };
    let near = alarms.next_builds(ALONG_MAX);
    near.map(|build| (build, Event::TrackerAsked { tracker })).collect()
}

#[expect(clippy::multiple_inherent_impl, reason = "the hub is cut by concern")]
impl Hub {
    /// Takes the builds along whose moment is near, if one of these is an announce.
    pub(super) fn take_along(&mut self, actions: &[Action]) {
        self.pending.extend(taken_along(self.contact.role, actions, &self.alarms));
    }

    /// Announces to this node's own tracker, or to another's.
    pub(super) fn announce(&mut self, tracker: NodeId, announce: Announce) {
        if tracker != self.contact.node {
            self.questions.announce(tracker, announce);
        } else if let Some(table) = &mut self.tracker {
            let answer = table.answer(self.clock.now(), &announce);
            let event = Event::AnnounceAnswered { tracker, answer: Box::new(answer) };
            self.pending.push_back((announce.build, event));
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::{Contact, Instant, Location};

    use super::*;

    fn announce(build: BuildId, is_leaving: bool) -> Action {
        let address = "127.0.0.1:1".parse().unwrap();
        let (node, role) = (NodeId::from_bytes([1; 32]), PeerRole::Host);
        let location = Location::default();
        let contact = Contact { node, control: address, data: address, role, location };
        let announce = Announce {
            build,
            contact,
            neighbours: Vec::new(),
            wanted: 0,
            is_complete: true,
            is_leaving,
        };
        Action::Announce { tracker: NodeId::from_bytes([9; 32]), announce: Box::new(announce) }
    }

    #[test]
    fn builds_whose_moment_is_near_go_along_with_an_announce() {
        let builds: Vec<BuildId> = (0..40_u8).map(|n| BuildId::of_manifest(&[n])).collect();
        let mut alarms = Alarms::default();
        for (at, build) in (0..).zip(&builds) {
            alarms.set(*build, Some(Instant::from_nanos(at)));
        }
        let along = |role, action| taken_along(role, &[action], &alarms);
        let nearest = along(PeerRole::Host, announce(builds[39], false));
        assert!(nearest.iter().map(|(build, _)| build).eq(&builds[..ALONG_MAX]));
        let of_it = NodeId::from_bytes([9; 32]);
        let is_it = |(_, event): &(_, Event)| matches!(event, Event::TrackerAsked { tracker } if *tracker == of_it);
        assert!(nearest.iter().all(is_it));
        assert!(along(PeerRole::Host, announce(builds[39], true)).is_empty(), "a farewell");
        assert!(along(PeerRole::Seeder, announce(builds[39], false)).is_empty());
        assert!(along(PeerRole::Host, Action::Complete).is_empty());
    }
}
