//! How far one running program is trusted: its probes, its output, and the times that follow from
//! them.
//!
//! Owns when the next probe is due and what its answers mean. A program that prints too much fails
//! while it is judged; later that is only reported, because it serves. The time is an argument, and
//! there is no IO: `instance` asks the probes.

use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use crate::brain::model::Gate;
use crate::host::probe::{Health, Probe, ProbeFailure};
use crate::programs::flood::{Flood, FloodWatch};

/// Time between two probes of a program that has been good for long: enough to see an outage in a
/// status table, little enough that ten idle apps cost nothing to speak of.
const CALM_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct HealthWatch {
    health: Health,
    /// Time after which a program without a probe counts as ready.
    settle_after: Duration,
    started_at: Instant,
    /// Since when it is known to be up; `None` for a unit that systemd still restarts. Until then
    /// whoever answers a probe is another program.
    up_at: Option<Instant>,
    /// How far it got; it never goes back.
    gate: Gate,
    /// Since when it has been healthy without a break.
    healthy_since: Option<Instant>,
    /// Whether the end of its time was looked at: that moment is waited for once.
    was_overdue: bool,
    next_check_at: Instant,
    last_failure: Option<ProbeError>,
    output: FloodWatch,
}

/// Why a program does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error(transparent)]
    Failed(#[from] ProbeFailure),
    #[error("the probe was not asked: {0}")]
    Interrupted(#[source] JoinError),
}

/// Where a program that is not good yet stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// How long it has been healthy without a break.
    pub healthy_for: Duration,
    /// Time until it is given up.
    pub deadline_in: Duration,
    /// What its last probe said, if it failed.
    pub last_failure: Option<String>,
}

impl HealthWatch {
    /// A program that was started at `now`. One that was found running is taken for ready: it
    /// served before, and its probe shows if it no longer does.
    pub(crate) fn new(
        now: Instant,
        health: Health,
        settle_after: Duration,
        was_found: bool,
    ) -> Self {
        let gate = if was_found { Gate::Ready } else { Gate::Starting };
        Self {
            health,
            settle_after,
            started_at: now,
            up_at: Some(now),
            gate,
            healthy_since: was_found.then_some(now),
            was_overdue: false,
            next_check_at: now,
            last_failure: None,
            output: FloodWatch::new(now),
        }
    }

    /// The same for a program that somebody else starts, and of which nothing is known before
    /// [`Self::on_ready`].
    pub(crate) fn not_up_yet(self) -> Self {
        Self { up_at: None, ..self }
    }

    /// Takes over settings that changed while the program runs.
    pub(crate) fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// Whether the last probe went well; `None` if there is none or it was not asked yet.
    pub(crate) fn is_healthy(&self) -> Option<bool> {
        self.health.probe.as_ref()?;
        if self.last_failure.is_some() { Some(false) } else { self.healthy_since.map(|_| true) }
    }

    /// Where it stands; `None` once it is good.
    pub(crate) fn check(&self, now: Instant) -> Option<Check> {
        let since = |moment: Instant| now.saturating_duration_since(moment);
        let deadline = self.started_at + self.health.deadline;
        (self.gate < Gate::Good).then(|| Check {
            healthy_for: self.healthy_since.map_or(Duration::ZERO, since),
            deadline_in: deadline.saturating_duration_since(now),
            last_failure: self.last_failure.as_ref().map(ToString::to_string),
        })
    }

    /// Why the program is not healthy.
    pub(crate) const fn last_failure(&self) -> Option<&ProbeError> {
        self.last_failure.as_ref()
    }

    /// Why the program has failed its health gate, for people; `None` while it has not.
    pub(crate) fn failure(&self, now: Instant) -> Option<String> {
        if self.gate == Gate::Good {
            return None;
        }
        let flood = self.flood().map(|flood| format!("it {flood}"));
        flood.or_else(|| self.is_overdue(now).then(|| self.describe_overdue()))
    }

    /// The flood of output that goes on, if there is one.
    pub(crate) const fn flood(&self) -> Option<&Flood> {
        self.output.flood()
    }

    /// The program has printed `written` bytes in all, since it was started or found.
    pub(crate) fn on_output(&mut self, now: Instant, written: u64) {
        self.output.on_look(now, written, self.health.max_output_rate);
    }

    /// Whether the program was not good within its deadline.
    fn is_overdue(&self, now: Instant) -> bool {
        self.gate < Gate::Good && self.started_at + self.health.deadline <= now
    }

    /// How an overdue program is described to people.
    fn describe_overdue(&self) -> String {
        let deadline = humantime::format_duration(self.health.deadline);
        let why = match (&self.last_failure, self.gate >= Gate::Ready) {
            (Some(failure), _) => failure.to_string(),
            (None, false) if self.health.probe == Some(Probe::Notify) => {
                "it never said that it is ready (READY=1)".into()
            }
            (None, false) if self.up_at.is_none() => "systemd did not get it up".into(),
            (None, _) => "it never answered its probe".into(),
        };
        format!("it was not healthy within {deadline}: {why}")
    }

    /// The probe that is due now, if it is one to ask.
    pub(crate) fn due_probe(&self, now: Instant) -> Option<&Probe> {
        let probe = self.health.probe.as_ref().filter(|probe| **probe != Probe::Notify)?;
        (self.up_at.is_some() && self.next_check_at <= now).then_some(probe)
    }

    /// Time for the answer.
    pub(crate) const fn timeout(&self) -> Duration {
        self.health.timeout
    }

    /// When something has to be looked at although nothing has happened.
    pub(crate) fn next_due(&self, is_probing: bool) -> Option<Instant> {
        let asks = self.health.probe.as_ref().is_some_and(|probe| *probe != Probe::Notify);
        let is_up = self.up_at.is_some();
        let probe_at = (asks && is_up && !is_probing).then_some(self.next_check_at);
        let ready_at = self
            .up_at
            .filter(|_| self.health.probe.is_none() && self.gate < Gate::Ready)
            .map(|up_at| up_at + self.settle_after);
        let good_at = self
            .healthy_since
            .filter(|_| self.gate >= Gate::Ready && self.gate < Gate::Good)
            .map(|since| since + self.health.min_healthy_time);
        let overdue_at = (self.gate < Gate::Good && !self.was_overdue)
            .then_some(self.started_at + self.health.deadline);
        [probe_at, ready_at, good_at, overdue_at].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn on_due(&mut self, now: Instant) {
        if let Some(up_at) = self.up_at
            && self.health.probe.is_none()
            && up_at + self.settle_after <= now
        {
            self.gate = self.gate.max(Gate::Ready);
            self.healthy_since.get_or_insert(up_at);
        }
        let is_long = |since: Instant| since + self.health.min_healthy_time <= now;
        if self.gate >= Gate::Ready && self.healthy_since.is_some_and(is_long) {
            self.gate = Gate::Good;
        }
        self.was_overdue = self.is_overdue(now);
    }

    /// A probe was answered.
    pub(crate) fn on_answer(&mut self, now: Instant, answer: Result<(), ProbeError>) {
        let interval = self.health.interval;
        self.next_check_at =
            now + if self.gate == Gate::Good { interval.max(CALM_INTERVAL_MIN) } else { interval };
        match answer {
            Ok(()) => self.on_healthy(now),
            Err(error) => {
                self.healthy_since = None;
                self.last_failure = Some(error);
                // Looked at closely again, so that its recovery is seen.
                self.next_check_at = now + interval;
            }
        }
        self.on_due(now);
    }

    /// The program said that it is ready.
    pub(crate) fn on_ready(&mut self, now: Instant) {
        self.up_at.get_or_insert(now);
        if self.health.probe == Some(Probe::Notify) {
            self.on_healthy(now);
            self.on_due(now);
        }
    }

    fn on_healthy(&mut self, now: Instant) {
        self.gate = self.gate.max(Gate::Ready);
        self.healthy_since.get_or_insert(now);
        self.last_failure = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::host::probe::ProbeFailureCause;

    fn failure(cause: ProbeFailureCause) -> ProbeError {
        ProbeFailure { asked: "TCP 127.0.0.1:80".into(), cause }.into()
    }

    fn refused() -> ProbeError {
        failure(ProbeFailureCause::Connect(io::ErrorKind::ConnectionRefused.into()))
    }

    fn answered(status: u16) -> ProbeError {
        let status = status.to_string();
        failure(ProbeFailureCause::Status { status, first_line: None })
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn health(probe: Option<Probe>) -> Health {
        let (min_healthy_time, deadline) = (seconds(10), seconds(60));
        Health { probe, min_healthy_time, deadline, ..Health::default() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is in the settings")]
    fn tcp() -> Option<Probe> {
        Some(Probe::Tcp { address: ([127, 0, 0, 1], 1).into() })
    }

    #[test]
    fn program_without_a_probe_is_ready_after_a_moment_and_good_after_its_time() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(None), seconds(1), false);
        assert_eq!(
            (watch.gate(), watch.next_due(false)),
            (Gate::Starting, Some(start + seconds(1)))
        );
        watch.on_due(start + seconds(1));
        assert_eq!((watch.gate(), watch.next_due(false)), (Gate::Ready, Some(start + seconds(10))));
        watch.on_due(start + seconds(10));
        assert_eq!((watch.gate(), watch.next_due(false)), (Gate::Good, None));
        assert!(!watch.is_overdue(start + seconds(99)));
    }

    #[test]
    fn failed_probe_starts_the_healthy_time_again_but_a_good_program_stays_good() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1), false);
        assert!(watch.due_probe(start).is_some());
        watch.on_answer(start, Err(refused()));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Starting, Some(false)));
        watch.on_answer(start + seconds(1), Ok(()));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Ready, Some(true)));
        watch.on_answer(start + seconds(5), Err(answered(500)));
        watch.on_answer(start + seconds(6), Ok(()));
        watch.on_due(start + seconds(11));
        assert_eq!(watch.gate(), Gate::Ready, "the time starts again");
        watch.on_due(start + seconds(16));
        assert_eq!(watch.gate(), Gate::Good);
        watch.on_answer(start + seconds(17), Err(answered(500)));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Good, Some(false)));
        assert_eq!(watch.last_failure().unwrap().to_string(), "TCP 127.0.0.1:80: answered 500");
    }

    #[test]
    fn good_program_is_asked_less_often() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1), false);
        watch.on_answer(start, Ok(()));
        assert!(watch.due_probe(start + seconds(1)).is_some());
        watch.on_due(start + seconds(10));
        watch.on_answer(start + seconds(10), Ok(()));
        assert!(watch.due_probe(start + seconds(11)).is_none());
        assert!(watch.due_probe(start + seconds(10) + CALM_INTERVAL_MIN).is_some());
    }

    #[test]
    fn program_that_never_gets_good_is_overdue_and_says_why() {
        let start = Instant::now();
        let end = start + seconds(60);
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1), false);
        watch.on_answer(start, Err(refused()));
        assert!(!watch.is_overdue(end - seconds(1)) && watch.is_overdue(end));
        assert_eq!(
            watch.describe_overdue(),
            "it was not healthy within 1m: TCP 127.0.0.1:80: connection refused"
        );
        let watch = HealthWatch::new(start, health(Some(Probe::Notify)), seconds(1), false);
        assert!(watch.describe_overdue().contains("READY=1"));
        assert_eq!(watch.next_due(false), Some(end));
    }

    /// Goal: a program that is past its deadline and runs on, because there is nothing to go back
    /// to, does not keep the loop awake.
    #[test]
    fn deadline_that_has_passed_is_not_waited_for_again() {
        let start = Instant::now();
        let end = start + seconds(60);
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1), false);
        watch.on_answer(end, Err(refused()));
        watch.on_due(end);
        assert!(watch.is_overdue(end));
        assert_eq!(watch.next_due(true), None);
        assert_eq!(watch.next_due(false), Some(end + Health::default().interval));
    }

    #[test]
    fn flood_of_output_is_a_failure_only_while_the_program_is_judged() {
        let start = Instant::now();
        let rate = p2p_core::ByteRate::new(100);
        let cases = [
            // (looks at second, bytes in all), the limit, whether it fails then
            (vec![(2, 900), (6, 1_000), (9, 1_000)], rate, false),
            (vec![(2, 1_001)], rate, true),
            (vec![(2, 500), (9, 1_100)], rate, true),
            (vec![(2, 1_000_000)], None, false),
            (vec![(9, 900), (11, 9_000)], rate, false),
        ];
        for (looks, max_output_rate, expected) in cases {
            let health = Health { max_output_rate, ..health(None) };
            let mut watch = HealthWatch::new(start, health, seconds(1), false);
            for (second, written) in &looks {
                let now = start + seconds(*second);
                if *second > 10 {
                    watch.on_due(start + seconds(10));
                }
                watch.on_output(now, *written);
                watch.on_due(now);
            }
            let end = start + seconds(looks.last().unwrap().0);
            let failure = watch.failure(end);
            assert_eq!(failure.is_some(), expected, "{looks:?}: {failure:?}");
            assert!(failure.is_none_or(|why| why.starts_with("it wrote 1")), "{looks:?}");
            assert_eq!(watch.flood().is_some(), expected || end > start + seconds(10));
        }
    }

    /// Goal: the verdict on its output comes first; nobody has to wait for the deadline.
    #[test]
    fn flood_is_the_reason_also_of_a_program_that_is_overdue() {
        let start = Instant::now();
        let max_output_rate = p2p_core::ByteRate::new(100);
        let health = Health { max_output_rate, ..health(tcp()) };
        let mut watch = HealthWatch::new(start, health, seconds(1), false);
        watch.on_answer(start + seconds(60), Err(refused()));
        assert!(watch.failure(start + seconds(60)).unwrap().ends_with("refused"));
        watch.on_output(start + seconds(60), 1);
        watch.on_output(start + seconds(61), 2_000);
        assert!(watch.failure(start + seconds(61)).unwrap().contains("wrote 1.9 KiB of output"));
    }

    #[test]
    fn unit_is_not_asked_before_it_is_up() {
        let start = Instant::now();
        let up_at = start + seconds(30);
        for probe in [None, tcp()] {
            let has_probe = probe.is_some();
            let mut watch = HealthWatch::new(start, health(probe), seconds(1), false).not_up_yet();
            watch.on_due(up_at);
            assert!(watch.due_probe(up_at).is_none(), "another program would answer");
            assert_eq!(
                (watch.gate(), watch.next_due(false)),
                (Gate::Starting, Some(start + seconds(60)))
            );
            assert!(watch.describe_overdue().contains("systemd did not get it up"));
            watch.on_ready(up_at);
            assert_eq!(watch.due_probe(up_at).is_some(), has_probe);
            watch.on_due(up_at + seconds(1));
            assert_eq!(watch.gate() >= Gate::Ready, !has_probe);
        }
    }

    #[test]
    fn program_that_says_ready_is_healthy_from_then_on() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(Some(Probe::Notify)), seconds(1), false);
        watch.on_due(start + seconds(30));
        assert_eq!(watch.gate(), Gate::Starting);
        watch.on_ready(start + seconds(30));
        assert_eq!(watch.gate(), Gate::Ready);
        watch.on_due(start + seconds(40));
        assert_eq!(watch.gate(), Gate::Good);
    }
}
