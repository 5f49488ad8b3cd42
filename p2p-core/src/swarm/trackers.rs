//! Dealings with trackers: which one is asked, when, how often it failed, and when a neighbour is
//! asked instead.
//!
//! A node has one or more lines of trackers. A host has one line of all its trackers: it asks the
//! first as long as that answers, and goes on to the next when it fails. A seeder has a line per
//! tracker and so announces to all of them, because a host asks only one and must hear of every
//! seeder there.

use core::time::Duration;

use crate::config::SwarmConfig;
use crate::contact::PeerRole;
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::{Instant, doubled};

/// All lines.
#[derive(Debug)]
pub(super) struct Trackers {
    lines: Vec<Line>,
    /// When a neighbour may be asked for contacts, should no tracker answer.
    exchange_at: Instant,
}

/// Trackers that stand in for each other.
#[derive(Debug)]
struct Line {
    trackers: Vec<NodeId>,
    /// The tracker that is asked next.
    next: usize,
    /// One was asked and has not answered.
    is_announcing: bool,
    announce_at: Instant,
    announced_at: Option<Instant>,
    is_answered: bool,
    /// Announces that failed since the last answer.
    failures: u32,
}

impl Trackers {
    pub(super) fn new(now: Instant, trackers: Vec<NodeId>, role: PeerRole) -> Self {
        let lines: Vec<Vec<NodeId>> = match role {
            PeerRole::Host => vec![trackers],
            PeerRole::Seeder => trackers.into_iter().map(|tracker| vec![tracker]).collect(),
        };
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        Self { lines: lines.map(|trackers| Line::new(now, trackers)).collect(), exchange_at: now }
    }

    /// When the next announce is due, given whether there are too few neighbours.
    pub(super) fn due(&self, is_hungry: bool, config: &SwarmConfig) -> Option<Instant> {
        self.lines.iter().filter_map(|line| line.due(is_hungry, config)).min()
    }

    /// The tracker to announce to now, if one is due; its answer is awaited from here on.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        is_hungry: bool,
        config: &SwarmConfig,
    ) -> Option<NodeId> {
        let is_due = |line: &&mut Line| line.due(is_hungry, config).is_some_and(|due| due <= now);
        self.lines.iter_mut().find(is_due).map(|line| line.begin(now))
    }

    /// Whether to announce to `tracker` now, somewhat early, because the node asks it something
    /// anyway; its answer is awaited from here on. A tracker that failed gets its rest.
    pub(super) fn begin_along(
        &mut self,
        now: Instant,
        tracker: NodeId,
        is_hungry: bool,
        config: &SwarmConfig,
    ) -> bool {
        let is_meant = |line: &&mut Line| {
            line.trackers[line.next] == tracker
                && line.failures == 0
                && line.is_due_soon(now, is_hungry, config)
        };
        self.lines.iter_mut().find(is_meant).map(|line| line.begin(now)).is_some()
    }

    /// The trackers to say farewell to: those that heard of us last.
    pub(super) fn all(&self) -> Vec<NodeId> {
        self.lines.iter().map(|line| line.trackers[line.next]).collect()
    }

    pub(super) fn note_answer(
        &mut self,
        now: Instant,
        (tracker, interval_ms): (NodeId, u32),
        config: &SwarmConfig,
        prng: &mut Prng,
    ) {
        let Some(line) = self.line_of(tracker) else { return };
        line.is_announcing = false;
        line.is_answered = true;
        line.failures = 0;
        let named = Duration::from_millis(interval_ms.into());
        let interval = named.max(config.announce_interval_min).min(config.announce_interval_max);
        line.announce_at = now.after(jittered(interval, prng));
    }

    pub(super) fn note_failure(
        &mut self,
        now: Instant,
        tracker: NodeId,
        config: &SwarmConfig,
        prng: &mut Prng,
    ) {
        let Some(line) = self.line_of(tracker) else { return };
        line.is_announcing = false;
        line.failures = line.failures.saturating_add(1);
        line.next = (line.next + 1) % line.trackers.len();
        let (first, most) = (config.announce_retry_min, config.announce_retry_max);
        let wait = doubled(first, line.failures - 1, most);
        line.announce_at = now.after(jittered(wait, prng));
    }

    /// Whether no tracker answers: the last announces failed, or there is none.
    pub(super) fn are_failing(&self) -> bool {
        self.lines.iter().all(|line| line.failures > 0)
    }

    /// Whether the last announces failed, or none was answered yet.
    pub(super) fn are_silent(&self) -> bool {
        self.lines.iter().all(|line| line.failures > 0 || !line.is_answered)
    }

    /// When to ask a neighbour for contacts; only while no tracker answers.
    pub(super) fn exchange_due(&self) -> Option<Instant> {
        self.are_failing().then_some(self.exchange_at)
    }

    /// A neighbour is asked for contacts now.
    pub(super) fn note_exchange(&mut self, now: Instant, config: &SwarmConfig, prng: &mut Prng) {
        self.exchange_at = now.after(jittered(config.exchange_interval, prng));
    }

    fn line_of(&mut self, tracker: NodeId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.trackers.contains(&tracker))
    }
}

impl Line {
    const fn new(now: Instant, trackers: Vec<NodeId>) -> Self {
        Self {
            trackers,
            next: 0,
            is_announcing: false,
            announce_at: now,
            announced_at: None,
            is_answered: false,
            failures: 0,
        }
    }

    fn due(&self, is_hungry: bool, config: &SwarmConfig) -> Option<Instant> {
        if self.is_announcing {
            return None;
        }
        let hungry_at = self.announced_at.filter(|_| is_hungry && self.failures == 0);
        let hungry_at = hungry_at.map(|last| last.after(config.announce_hungry));
        Some(hungry_at.map_or(self.announce_at, |at| at.min(self.announce_at)))
    }

    /// Whether the next announce is due within `announce_along`, and nearer than the last one.
    fn is_due_soon(&self, now: Instant, is_hungry: bool, config: &SwarmConfig) -> bool {
        let (Some(due), Some(last)) = (self.due(is_hungry, config), self.announced_at) else {
            return false;
        };
        let ahead = due.max(now).since(now);
        ahead <= config.announce_along && ahead <= now.since(last)
    }

    fn begin(&mut self, now: Instant) -> NodeId {
        self.is_announcing = true;
        self.announced_at = Some(now);
        self.trackers[self.next]
    }
}

/// `span`, a tenth more or less, so that nodes that start together drift apart.
fn jittered(span: Duration, prng: &mut Prng) -> Duration {
    let tenth = u64::try_from((span / 10).as_nanos()).unwrap_or(u64::MAX / 4).max(1);
    span * 9 / 10 + Duration::from_nanos(prng.below(2 * tenth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Seed;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// Whom a node announces to at the very start, one after the other.
    fn asked_at_start(role: PeerRole) -> Vec<NodeId> {
        let mut trackers = Trackers::new(Instant::ZERO, vec![node(1), node(2)], role);
        let config = SwarmConfig::host();
        std::iter::from_fn(|| trackers.begin(Instant::ZERO, false, &config)).collect()
    }

    #[test]
    fn hosts_ask_one_tracker_and_seeders_announce_to_all() {
        assert_eq!(asked_at_start(PeerRole::Host), [node(1)]);
        assert_eq!(asked_at_start(PeerRole::Seeder), [node(1), node(2)]);
    }

    #[test]
    fn host_goes_to_the_next_tracker_and_waits_longer_each_time() {
        let config = SwarmConfig::host();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut trackers = Trackers::new(Instant::ZERO, vec![node(1), node(2)], PeerRole::Host);
        let mut now = Instant::ZERO;
        let mut waits = Vec::new();
        for asked in [1, 2, 1, 2] {
            assert_eq!(trackers.begin(now, false, &config), Some(node(asked)));
            assert_eq!(trackers.due(false, &config), None, "asked twice at once");
            trackers.note_failure(now, node(asked), &config, &mut prng);
            let due = trackers.due(false, &config).unwrap();
            waits.push(due.since(now));
            now = due;
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert!(trackers.are_failing() && trackers.are_silent());
        trackers.begin(now, false, &config);
        trackers.note_answer(now, (node(1), 60_000), &config, &mut prng);
        assert!(!trackers.are_failing() && !trackers.are_silent());
    }

    /// Goal: an announce goes along with that of another build if it is due soon, and only
    /// then. Method: an interval of a minute, so that the longest time ahead counts, and one
    /// of two seconds, of which it is the half; asked at moments of which each row says what
    /// is to come of them.
    #[test]
    fn announce_goes_along_when_it_is_due_soon() {
        let config = SwarmConfig::host();
        let at = |ms| Instant::from_start(Duration::from_millis(ms));
        let rows = [
            (60_000, 30_000, false),
            (60_000, 51_000, false),
            // At most a tenth later than the interval, at least a tenth earlier.
            (60_000, 65_000, true),
            (2_000, 800, false),
            (2_000, 1_150, true),
        ];
        for (interval_ms, asked_ms, goes) in rows {
            let mut prng = Prng::from_seed(Seed::from_u64(1));
            let mut trackers = Trackers::new(at(0), vec![node(1)], PeerRole::Host);
            assert!(!trackers.begin_along(at(0), node(1), false, &config), "before the first");
            trackers.begin(at(0), false, &config);
            assert!(
                !trackers.begin_along(at(1), node(1), false, &config),
                "while one is under way"
            );
            trackers.note_answer(at(0), (node(1), interval_ms), &config, &mut prng);
            assert!(!trackers.begin_along(at(asked_ms), node(2), false, &config), "of another");
            let went = trackers.begin_along(at(asked_ms), node(1), false, &config);
            assert_eq!(went, goes, "{asked_ms} of {interval_ms}");
            let is_awaited = trackers.due(false, &config).is_none();
            assert_eq!(is_awaited, goes, "its answer is awaited");
        }
    }

    #[test]
    fn tracker_that_failed_is_left_alone_when_others_ask_it() {
        let config = SwarmConfig::host();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut trackers = Trackers::new(Instant::ZERO, vec![node(1)], PeerRole::Host);
        trackers.begin(Instant::ZERO, false, &config);
        trackers.note_failure(Instant::ZERO, node(1), &config, &mut prng);
        let just_before = Instant::from_start(Duration::from_millis(400));
        assert!(!trackers.begin_along(just_before, node(1), false, &config));
    }

    #[test]
    fn a_failing_tracker_of_a_seeder_does_not_hold_up_the_others() {
        let config = SwarmConfig::seeder();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut trackers = Trackers::new(Instant::ZERO, vec![node(1), node(2)], PeerRole::Seeder);
        while trackers.begin(Instant::ZERO, false, &config).is_some() {}
        trackers.note_answer(Instant::ZERO, (node(1), 5_000), &config, &mut prng);
        trackers.note_failure(Instant::ZERO, node(2), &config, &mut prng);
        assert!(!trackers.are_failing());
        let later = Instant::from_start(Duration::from_secs(1));
        assert_eq!(trackers.begin(later, false, &config), Some(node(2)));
        assert_eq!(trackers.begin(later, false, &config), None);
    }
}
