//! Programs that run without a record, found when an agent starts: the disk was full or failing
//! when an earlier agent started them, and that agent was killed.
//!
//! What happens to them is a pure choice, [`plan`]. An agent leaves at most two programs, of which
//! the newer may be a candidate that is not ready: so the older one keeps serving. Whether that is
//! the right one the brain decides afterwards, as for any program that was taken over.

use rustix::process::Signal;
use tracing::warn;

use super::{Slot, Supervisor};
use crate::host::{Age, Host, HostProcess as _, Stray, age_of};
use crate::state::app_dir::Place;

/// A program that was taken over by its record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Known {
    /// When it was started; `None` if that is not known, as for a systemd unit.
    age: Option<Age>,
}

/// What is to be done about strays, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Move {
    /// The candidate serves from now on.
    Promote,
    /// The stray with this number is taken over.
    TakeOver(usize, Place),
    /// The stray with this number is told to stop.
    End(usize),
}

/// What is to be done about strays of these ages, the oldest first, beside the program that serves
/// and the candidate that were found by their records.
fn plan(serving: Option<Known>, candidate: Option<Known>, strays: &[Age]) -> Vec<Move> {
    let is_older = |stray: Age, known: Option<Known>| {
        known.is_some_and(|known| known.age.is_none_or(|age| stray < age))
    };
    // What is older than the program that serves was replaced by it.
    let replaced = strays.iter().filter(|stray| is_older(**stray, serving)).count();
    let older_than_candidate = strays.iter().filter(|stray| is_older(**stray, candidate)).count();
    let mut keep: Vec<(usize, Place)> = vec![];
    let mut moves = vec![];
    match (serving, candidate) {
        (Some(_), Some(_)) => {}
        (Some(_), None) => {
            keep.extend((replaced..strays.len()).next_back().map(|it| (it, Place::Candidate)));
        }
        (None, Some(_)) if older_than_candidate > 0 => {
            keep.push((older_than_candidate - 1, Place::Serving));
        }
        (None, Some(_)) => {
            let newest = strays.len().checked_sub(1);
            moves.extend(newest.map(|_| Move::Promote));
            keep.extend(newest.map(|it| (it, Place::Candidate)));
        }
        (None, None) => {
            let serving = strays.len().checked_sub(2).or_else(|| strays.len().checked_sub(1));
            keep.extend(serving.map(|it| (it, Place::Serving)));
            keep.extend((1..strays.len()).next_back().map(|it| (it, Place::Candidate)));
        }
    }
    moves.extend((0..strays.len()).map(|it| match keep.iter().find(|(kept, _)| *kept == it) {
        Some((_, place)) => Move::TakeOver(it, *place),
        None => Move::End(it),
    }));
    moves
}

impl<H: Host> Supervisor<H> {
    /// Takes over or ends what runs without a record. Records come first.
    pub(super) fn take_over_strays(&mut self) {
        let found = self.host.find_all(&self.app);
        let mut strays = found.unwrap_or_else(|error| {
            warn!(%error, "cannot look for programs without a record");
            vec![]
        });
        let known: Vec<_> = Place::ALL
            .into_iter()
            .filter_map(|place| match self.slot(place) {
                Slot::Alive { instance, .. } => instance.process.identity().cloned(),
                Slot::Idle | Slot::Resting { .. } => None,
            })
            .collect();
        strays.retain(|stray| !stray.record.process.iter().any(|it| known.contains(it)));
        strays.sort_by_key(Stray::age);
        let ages: Vec<_> = strays.iter().filter_map(Stray::age).collect();
        for step in plan(self.known(Place::Serving), self.known(Place::Candidate), &ages) {
            match step {
                Move::Promote => self.promote(),
                Move::TakeOver(number, place) => self.take_over(place, &strays[number]),
                Move::End(number) => self.end_stray(&strays[number]),
            }
        }
    }

    fn known(&self, place: Place) -> Option<Known> {
        let Slot::Alive { instance, .. } = self.slot(place) else { return None };
        Some(Known { age: instance.process.identity().map(age_of) })
    }

    fn take_over(&mut self, place: Place, stray: &Stray) {
        warn!(build = stray.record.build.short(), "found a program that there is no record of");
        let (from, to) = (self.output(stray.place), self.app.output_path(place));
        if stray.place == Place::Candidate && place == Place::Serving && from.path().exists() {
            // As if it had been promoted.
            if let Err(error) = from.become_current(&to) {
                warn!(%error, "the program goes on printing into another file");
            }
        }
        self.adopt(place, stray.record.clone());
    }

    fn end_stray(&mut self, stray: &Stray) {
        warn!(
            build = stray.record.build.short(),
            "found a program that there is no record of, besides those that should run; ending it"
        );
        if matches!(self.leaving, Slot::Idle) {
            // It is told to stop when the recovery is over.
            return self.adopt(Place::Leaving, stray.record.clone());
        }
        let root = self.app.path().join("builds").join(stray.record.build.to_string());
        let killed = match self.host.find(&stray.record, &self.app, &root) {
            Ok(Some(process)) => process.signal(Signal::KILL),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = killed {
            warn!(%error, "cannot end the program");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_placed_by_the_table() {
        let known = |ticks| Some(Known { age: Some((ticks, 7)) });
        let unit = Some(Known { age: None });
        let serves = |it| Move::TakeOver(it, Place::Serving);
        let tries = |it| Move::TakeOver(it, Place::Candidate);
        let end = Move::End;
        #[rustfmt::skip]
        let cases = [
            ("nothing is amiss", known(1), known(2), vec![], vec![]),
            ("nothing runs", None, None, vec![], vec![]),
            ("one alone serves", None, None, vec![5], vec![serves(0)]),
            ("of two the older serves", None, None, vec![5, 6], vec![serves(0), tries(1)]),
            ("more than there can be", None, None, vec![4, 5, 6], vec![end(0), serves(1), tries(2)]),
            ("newer than the one that serves", known(5), None, vec![6], vec![tries(0)]),
            ("replaced by the one that serves", known(5), None, vec![4], vec![end(0)]),
            ("replaced and new", known(5), None, vec![4, 6], vec![end(0), tries(1)]),
            ("a unit serves", unit, None, vec![4], vec![end(0)]),
            ("older than the candidate", None, known(5), vec![4], vec![serves(0)]),
            ("both older", None, known(5), vec![3, 4], vec![end(0), serves(1)]),
            ("newer than a candidate that serves", None, known(5), vec![6], vec![Move::Promote, tries(0)]),
            ("around the candidate", None, known(5), vec![4, 6], vec![serves(0), end(1)]),
            ("no place is free", known(3), known(5), vec![2, 4, 6], vec![end(0), end(1), end(2)]),
        ];
        for (name, serving, candidate, strays, expected) in cases {
            let ages: Vec<Age> = strays.into_iter().map(|ticks| (ticks, 7)).collect();
            assert_eq!(plan(serving, candidate, &ages), expected, "{name}");
        }
    }

    #[test]
    fn programs_of_one_moment_are_ordered_by_process_id() {
        let serving = Some(Known { age: Some((5, 7)) });
        let candidate = [Move::TakeOver(0, Place::Candidate)];
        assert_eq!(plan(serving, None, &[(5, 8)]), candidate);
        assert_eq!(plan(serving, None, &[(5, 6)]), [Move::End(0)]);
    }
}
