//! When a swarm has something to do by itself.
//!
//! Invariant: the deadline that is kept is never later than the first thing that is due. It may be
//! earlier: then nothing is due when it comes, and it is found anew.

use crate::event::Event;
use crate::wire::Message;

use super::asking::is_routine;
use super::{Deadline, Swarm, TimerKind};

/// Whether the event can only move timers to later, unless it leads to a request or a parting,
/// after which `is_deadline_stale` is set. Most events are of this kind, and a look at all timers
/// would cost more than they do.
pub(super) const fn leaves_timers_alone(event: &Event) -> bool {
    let moves_timers = matches!(
        event,
        Event::ChunkHashed { .. }
            | Event::TrackerAsked { .. }
            | Event::MessageReceived {
                message: Message::Join { .. }
                    | Message::Busy { .. }
                    | Message::Claim { .. }
                    | Message::Disclaim { .. },
                ..
            }
    );
    is_routine(event) && !moves_timers
}

#[expect(clippy::multiple_inherent_impl, reason = "`swarm.rs` dispatches, this only looks")]
impl Swarm {
    /// Looks at every timer for the first that is due; `None` while only an event can move us.
    pub(super) fn find_deadline(&self) -> Option<Deadline> {
        let offer = (self.offers.due(), TimerKind::Offer);
        // Complete nodes only offer and announce; all other timers are about what is missing.
        let announce = self.trackers.due(self.is_hungry(), &self.config);
        let announce = (announce, TimerKind::Announce);
        let nothing = (None, TimerKind::Members);
        let mut deadlines =
            [offer, announce, nothing, nothing, nothing, nothing, nothing, nothing, nothing];
        if !self.is_complete() {
            // Once starving, this moment has passed; the next look is then one interval from now,
            // and not at once, which would be a busy loop.
            let starves = self.progress_at.after(self.config.starve_time);
            let look_again = self.now.after(self.config.starve_check);
            // A contact that must wait only matters while another neighbour is wanted. One that may
            // be dialled already was dialled before this, or all dials are taken.
            let is_short = self.missing_neighbours() > 0;
            let dial = is_short.then(|| self.members.next_dial_at(self.now)).flatten();
            deadlines[2..].copy_from_slice(&[
                (self.exchange_due(), TimerKind::Exchange),
                (self.requests.check_at(), TimerKind::Requests),
                (self.claims.due(), TimerKind::Claims),
                (self.manifest_due(), TimerKind::Manifest),
                (self.peers.busy_until(), TimerKind::Busy),
                (Some(starves.max(look_again)), TimerKind::Members),
                (dial, TimerKind::Members),
            ]);
        }
        let earliest = deadlines.into_iter().filter_map(|(at, kind)| Some((at?, kind))).min()?;
        Some(Deadline { at: earliest.0, kind: earliest.1 })
    }
}
