//! How far one running program is trusted: its probes, its output, and the times that follow from
//! them.
//!
//! Owns when the next probe is due and what its answers mean. A program that prints too much fails
//! while it is judged; later that is only reported, because it serves. The time is an argument, and
//! there is no IO: `instance` asks the probes.
//!
//! Invariant: a program that is asked becomes good by a good answer and by nothing else. That
//! nobody has heard a bad one, because a probe is still under way or none was sent, proves nothing.

use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use crate::brain::model::Gate;
use crate::host::probe::{AfterGood, Health, Probe, ProbeFailure};
use crate::programs::flood::{Flood, FloodWatch};

/// Time between two probes of a program that has been good for long: enough to see an outage in a
/// status table, little enough that ten idle apps cost nothing to speak of.
const CALM_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Longest time to get good that restarts in a row give a program whose deadline is shorter: enough
/// for a cold cache, or for a database that is away for a moment.
const PATIENCE_MAX: Duration = Duration::from_mins(10);

/// Most times that the deadline is doubled: by then it is beyond [`PATIENCE_MAX`] or long.
const DOUBLINGS_MAX: u32 = 10;

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
    /// Whether an earlier agent started it.
    was_found: bool,
    /// Times that it was started again in a row because it was not healthy; each doubles the time
    /// that it has to get good.
    restarts: u32,
    /// How far it got; it goes back only when it begins to serve alone.
    gate: Gate,
    /// Since when it has been healthy without a break.
    healthy_since: Option<Instant>,
    /// Whether the end of its time was looked at: that moment is waited for once.
    was_overdue: bool,
    next_check_at: Instant,
    last_failure: Option<ProbeError>,
    /// Probes that failed in a row.
    failures: u32,
    /// When the first of them failed.
    unhealthy_since: Option<Instant>,
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
    /// A program that was started at `now`.
    pub(crate) fn new(now: Instant, health: Health, settle_after: Duration) -> Self {
        Self {
            health,
            settle_after,
            started_at: now,
            up_at: Some(now),
            was_found: false,
            restarts: 0,
            gate: Gate::Starting,
            healthy_since: None,
            was_overdue: false,
            next_check_at: now,
            last_failure: None,
            failures: 0,
            unhealthy_since: None,
            output: FloodWatch::new(now),
        }
    }

    /// The same for a program that an earlier agent started and let serve. It is taken for ready;
    /// whether it still is, its probe has to say.
    pub(crate) fn found_serving(self) -> Self {
        let healthy_since = (!self.is_asked()).then_some(self.started_at);
        Self { was_found: true, gate: Gate::Ready, healthy_since, ..self }
    }

    /// The same after `restarts` in a row that a program which was not healthy has led to.
    pub(crate) fn after_restarts(self, restarts: u32) -> Self {
        Self { restarts, ..self }
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

    /// Whether it has never answered its probe well, and still has time for that.
    pub(crate) fn is_young(&self, now: Instant) -> bool {
        self.gate == Gate::Starting && !self.is_overdue(now)
    }

    /// Whether it is one that served, also under an earlier agent, and now fails its probe.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.last_failure.is_some() && (self.gate == Gate::Good || self.was_found)
    }

    /// Whether it is good and has not failed its probe since.
    pub(crate) fn is_well(&self) -> bool {
        self.gate == Gate::Good && self.last_failure.is_none()
    }

    /// Since when its probe has failed; `None` while it does not.
    pub(crate) const fn unhealthy_since(&self) -> Option<Instant> {
        self.unhealthy_since
    }

    /// Why the program has to be started again, for people; `None` while it need not be, or is only
    /// to be reported.
    pub(crate) fn ailment(&self, now: Instant) -> Option<String> {
        if self.health.after_good == AfterGood::Report {
            return None;
        }
        if self.gate < Gate::Good {
            return self.is_overdue(now).then(|| self.describe_overdue());
        }
        let failure = self.last_failure.as_ref()?;
        let is_lasting = self.unhealthy_since? + self.health.min_healthy_time <= now;
        let is_out = self.failures >= self.health.max_failed_probes.get() && is_lasting;
        is_out.then(|| format!("its probe failed {} times in a row: {failure}", self.failures))
    }

    /// The program serves alone from `now` on. Its probe may have been answered by the program that
    /// it replaced, so it is asked once more, and proves itself once more.
    pub(crate) fn on_alone(&mut self, now: Instant) {
        if !self.is_asked() || self.gate < Gate::Good {
            return;
        }
        self.gate = Gate::Ready;
        self.healthy_since = None;
        self.started_at = now;
        self.was_overdue = false;
        self.next_check_at = now;
    }

    /// Whether probes are sent to it.
    fn is_asked(&self) -> bool {
        self.health.probe.as_ref().is_some_and(|probe| *probe != Probe::Notify)
    }

    /// When it has to be good.
    fn deadline_at(&self) -> Instant {
        self.started_at + self.patience()
    }

    /// Time that it has to get good.
    fn patience(&self) -> Duration {
        let deadline = self.health.deadline;
        let doubled = deadline.saturating_mul(1 << self.restarts.min(DOUBLINGS_MAX));
        doubled.min(deadline.max(PATIENCE_MAX))
    }

    /// When it is good if it stays healthy; `None` if it is not healthy, or good already.
    fn good_at(&self) -> Option<Instant> {
        let is_due = self.gate >= Gate::Ready && self.gate < Gate::Good;
        Some(self.healthy_since.filter(|_| is_due)? + self.health.min_healthy_time)
    }

    /// Where it stands; `None` once it is good.
    pub(crate) fn check(&self, now: Instant) -> Option<Check> {
        let since = |moment: Instant| now.saturating_duration_since(moment);
        let deadline = self.deadline_at();
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
        self.gate < Gate::Good && self.deadline_at() <= now
    }

    /// How an overdue program is described to people.
    fn describe_overdue(&self) -> String {
        let deadline = humantime::format_duration(self.patience());
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

    /// The probe that is due now, if it is one to ask: the next one, or the one that decides
    /// whether the program is good.
    pub(crate) fn due_probe(&self, now: Instant) -> Option<&Probe> {
        let probe = self.health.probe.as_ref().filter(|_| self.is_asked())?;
        (self.up_at.is_some() && self.next_ask_at() <= now).then_some(probe)
    }

    fn next_ask_at(&self) -> Instant {
        self.good_at().map_or(self.next_check_at, |good_at| good_at.min(self.next_check_at))
    }

    /// Time for the answer.
    pub(crate) const fn timeout(&self) -> Duration {
        self.health.timeout
    }

    /// When something has to be looked at although nothing has happened.
    pub(crate) fn next_due(&self, is_probing: bool) -> Option<Instant> {
        let asks = self.is_asked();
        let may_ask = asks && self.up_at.is_some() && !is_probing;
        let probe_at = may_ask.then(|| self.next_ask_at());
        let ready_at = self
            .up_at
            .filter(|_| self.health.probe.is_none() && self.gate < Gate::Ready)
            .map(|up_at| up_at + self.settle_after);
        let good_at = self.good_at().filter(|_| !asks);
        let overdue_at = (self.gate < Gate::Good && !self.was_overdue).then(|| self.deadline_at());
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
        if !self.is_asked() {
            self.become_good(now);
        }
        self.was_overdue = self.is_overdue(now);
    }

    /// A probe was answered.
    pub(crate) fn on_answer(&mut self, now: Instant, answer: Result<(), ProbeError>) {
        let interval = self.health.interval;
        match answer {
            Ok(()) => {
                self.on_healthy(now);
                self.become_good(now);
                let is_good = self.gate == Gate::Good;
                self.next_check_at =
                    now + if is_good { interval.max(CALM_INTERVAL_MIN) } else { interval };
            }
            Err(error) => {
                self.healthy_since = None;
                self.last_failure = Some(error);
                self.failures = self.failures.saturating_add(1);
                self.unhealthy_since.get_or_insert(now);
                // Looked at closely again, so that its recovery is seen.
                self.next_check_at = now + interval;
            }
        }
        self.on_due(now);
    }

    fn become_good(&mut self, now: Instant) {
        if self.good_at().is_some_and(|good_at| good_at <= now) {
            self.gate = Gate::Good;
        }
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
        self.failures = 0;
        self.unhealthy_since = None;
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
        let mut watch = HealthWatch::new(start, health(None), seconds(1));
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
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        assert!(watch.due_probe(start).is_some());
        watch.on_answer(start, Err(refused()));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Starting, Some(false)));
        assert!(watch.is_young(start) && watch.is_young(start + seconds(59)));
        assert!(!watch.is_young(start + seconds(60)), "its time is over");
        watch.on_answer(start + seconds(1), Ok(()));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Ready, Some(true)));
        assert!(!watch.is_young(start + seconds(1)), "it has answered well");
        watch.on_answer(start + seconds(5), Err(answered(500)));
        watch.on_answer(start + seconds(6), Ok(()));
        watch.on_answer(start + seconds(11), Ok(()));
        assert_eq!(watch.gate(), Gate::Ready, "the time starts again");
        watch.on_answer(start + seconds(16), Ok(()));
        assert_eq!(watch.gate(), Gate::Good);
        watch.on_answer(start + seconds(17), Err(answered(500)));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Good, Some(false)));
        assert_eq!(watch.last_failure().unwrap().to_string(), "TCP 127.0.0.1:80: answered 500");
    }

    /// Goal: a program that hangs at the end of its time is not called good. Method: the probe that
    /// is under way then is not answered, or badly; only one that is asked and answered counts.
    #[test]
    fn time_without_an_answer_makes_nothing_good() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        watch.on_answer(start, Ok(()));
        watch.on_answer(start + seconds(9), Ok(()));
        watch.on_due(start + seconds(60));
        assert_eq!(watch.gate(), Gate::Ready);
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        let slow = Health { interval: seconds(7), ..health(tcp()) };
        watch.set_health(slow);
        watch.on_answer(start, Ok(()));
        watch.on_answer(start + seconds(7), Ok(()));
        assert_eq!(watch.next_due(false), Some(start + seconds(10)), "the probe that decides");
        assert!(watch.due_probe(start + seconds(10)).is_some());
        watch.on_answer(start + seconds(10), Ok(()));
        assert_eq!(watch.gate(), Gate::Good);
    }

    /// Goal: a program that an agent finds is not good before its probe says so.
    #[test]
    fn program_that_was_found_is_ready_and_has_to_answer_to_be_good() {
        let start = Instant::now();
        let found = |probe| HealthWatch::new(start, health(probe), seconds(1)).found_serving();
        let mut watch = found(tcp());
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Ready, None));
        watch.on_due(start + seconds(30));
        assert_eq!(watch.gate(), Gate::Ready);
        watch.on_answer(start + seconds(30), Err(refused()));
        assert_eq!((watch.gate(), watch.is_unhealthy()), (Gate::Ready, true));
        let mut watch = found(None);
        watch.on_due(start + seconds(10));
        assert_eq!(watch.gate(), Gate::Good);
    }

    #[test]
    fn good_program_that_fails_long_enough_and_often_enough_is_ailing() {
        let start = Instant::now();
        let good = |health: Health| {
            let mut watch = HealthWatch::new(start, health, seconds(1));
            watch.on_answer(start, Ok(()));
            watch.on_answer(start + seconds(10), Ok(()));
            assert!(watch.is_well());
            watch
        };
        // Seconds at which probes fail, and whether it is to be started again after the last.
        let cases: [(&[u64], bool); 4] =
            [(&[20], false), (&[20, 21, 22, 23], false), (&[20, 30], false), (&[20, 25, 30], true)];
        for (seconds_of, expected) in cases {
            let mut watch = good(health(tcp()));
            for second in seconds_of {
                watch.on_answer(start + seconds(*second), Err(refused()));
            }
            let now = start + seconds(*seconds_of.last().unwrap());
            let ailment = watch.ailment(now);
            assert_eq!(ailment.is_some(), expected, "{seconds_of:?}: {ailment:?}");
            assert!(ailment.is_none_or(|why| why.contains("3 times in a row: TCP")));
            assert!(watch.is_unhealthy() && !watch.is_well());
            watch.on_answer(now + seconds(1), Ok(()));
            assert_eq!((watch.ailment(now + seconds(1)), watch.is_well()), (None, true));
        }
        let mut watch = good(Health { after_good: AfterGood::Report, ..health(tcp()) });
        for second in 20..60 {
            watch.on_answer(start + seconds(second), Err(refused()));
        }
        assert_eq!(watch.ailment(start + seconds(60)), None);
    }

    /// Goal: a program whose restarts take longer than its deadline gets there after a few.
    #[test]
    fn each_restart_gives_a_program_twice_the_time() {
        let start = Instant::now();
        let after = |restarts| {
            let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
            watch = watch.after_restarts(restarts);
            watch.next_due(true).unwrap() - start
        };
        let times: Vec<_> = [0, 1, 2, 3, 4, 99].map(after).iter().map(Duration::as_secs).collect();
        assert_eq!(times, [60, 120, 240, 480, 600, 600]);
        let patient = Health { deadline: PATIENCE_MAX * 2, ..health(tcp()) };
        let watch = HealthWatch::new(start, patient, seconds(1)).after_restarts(1);
        assert_eq!(watch.next_due(true), Some(start + PATIENCE_MAX * 2));
    }

    /// Goal: the answers of the program that was replaced prove nothing of the one that serves.
    #[test]
    fn program_that_serves_alone_has_to_prove_itself_again_if_it_is_asked() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        watch.on_answer(start, Ok(()));
        watch.on_answer(start + seconds(10), Ok(()));
        watch.on_alone(start + seconds(11));
        assert_eq!((watch.gate(), watch.is_healthy()), (Gate::Ready, None));
        assert_eq!(watch.next_due(true), Some(start + seconds(71)), "it has its time again");
        watch.on_answer(start + seconds(11), Ok(()));
        watch.on_answer(start + seconds(20), Ok(()));
        assert_eq!(watch.gate(), Gate::Ready);
        watch.on_answer(start + seconds(21), Ok(()));
        assert_eq!(watch.gate(), Gate::Good);
        for probe in [None, Some(Probe::Notify)] {
            let mut watch = HealthWatch::new(start, health(probe), seconds(1));
            watch.on_ready(start);
            watch.on_due(start + seconds(10));
            watch.on_alone(start + seconds(11));
            assert_eq!(watch.gate(), Gate::Good, "nobody can have answered for it");
        }
    }

    #[test]
    fn good_program_is_asked_less_often() {
        let start = Instant::now();
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        watch.on_answer(start, Ok(()));
        assert!(watch.due_probe(start + seconds(1)).is_some());
        watch.on_answer(start + seconds(10), Ok(()));
        assert!(watch.due_probe(start + seconds(11)).is_none());
        assert!(watch.due_probe(start + seconds(10) + CALM_INTERVAL_MIN).is_some());
    }

    #[test]
    fn program_that_never_gets_good_is_overdue_and_says_why() {
        let start = Instant::now();
        let end = start + seconds(60);
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
        watch.on_answer(start, Err(refused()));
        assert!(!watch.is_overdue(end - seconds(1)) && watch.is_overdue(end));
        assert_eq!(
            watch.describe_overdue(),
            "it was not healthy within 1m: TCP 127.0.0.1:80: connection refused"
        );
        let watch = HealthWatch::new(start, health(Some(Probe::Notify)), seconds(1));
        assert!(watch.describe_overdue().contains("READY=1"));
        assert_eq!(watch.next_due(false), Some(end));
    }

    /// Goal: a program that is past its deadline and runs on, because there is nothing to go back
    /// to, does not keep the loop awake.
    #[test]
    fn deadline_that_has_passed_is_not_waited_for_again() {
        let start = Instant::now();
        let end = start + seconds(60);
        let mut watch = HealthWatch::new(start, health(tcp()), seconds(1));
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
            let mut watch = HealthWatch::new(start, health, seconds(1));
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
        let mut watch = HealthWatch::new(start, health, seconds(1));
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
            let mut watch = HealthWatch::new(start, health(probe), seconds(1)).not_up_yet();
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
        let mut watch = HealthWatch::new(start, health(Some(Probe::Notify)), seconds(1));
        watch.on_due(start + seconds(30));
        assert_eq!(watch.gate(), Gate::Starting);
        watch.on_ready(start + seconds(30));
        assert_eq!(watch.gate(), Gate::Ready);
        watch.on_due(start + seconds(40));
        assert_eq!(watch.gate(), Gate::Good);
    }
}
