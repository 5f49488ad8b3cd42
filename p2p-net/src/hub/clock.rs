//! The node's clock and alarms: the one place where the core's moments meet the system's.
//!
//! Invariant: a swarm has one alarm at most, the deadline that it named last. Waits for nothing:
//! the hub does.

use std::collections::{BTreeMap, BTreeSet};

use p2p_core::{BuildId, Instant};

/// Makes the core's moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: tokio::time::Instant::now() }
    }

    pub(super) fn now(self) -> Instant {
        Instant::from_start(self.start.elapsed())
    }

    /// The system's moment of one of the core's.
    pub(super) fn to_system(self, at: Instant) -> tokio::time::Instant {
        self.start + at.since(Instant::ZERO)
    }
}

/// When each swarm wants to be woken.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    by_build: BTreeMap<BuildId, Instant>,
    by_time: BTreeSet<(Instant, BuildId)>,
}

impl Alarms {
    pub(super) fn set(&mut self, build: BuildId, at: Option<Instant>) {
        if let Some(old) = self.by_build.remove(&build) {
            self.by_time.remove(&(old, build));
        }
        if let Some(at) = at {
            self.by_build.insert(build, at);
            self.by_time.insert((at, build));
        }
    }

    pub(super) fn earliest(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The swarms whose moments come first, at most so many.
    pub(super) fn next_builds(&self, count_max: usize) -> impl Iterator<Item = BuildId> {
        self.by_time.iter().take(count_max).map(|(_, build)| *build)
    }

    /// Takes the swarms whose moment has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<BuildId> {
        let due: Vec<BuildId> =
            self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, build)| *build).collect();
        for build in &due {
            self.set(*build, None);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_go_off_in_order_and_once() {
        let (one, two) = (BuildId::of_manifest(b"1"), BuildId::of_manifest(b"2"));
        let at = Instant::from_nanos;
        let mut alarms = Alarms::default();
        alarms.set(one, Some(at(5)));
        alarms.set(two, Some(at(3)));
        alarms.set(one, Some(at(7)));
        assert_eq!(alarms.earliest(), Some(at(3)));
        assert!(alarms.next_builds(1).eq([two]) && alarms.next_builds(3).eq([two, one]));
        assert_eq!(alarms.take_due(at(6)), [two]);
        assert_eq!(alarms.take_due(at(7)), [one]);
        assert_eq!(alarms.earliest(), None);
    }
}
