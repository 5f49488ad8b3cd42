//! Why is this host not on the build of its goal? From facts to sentences and steps.
//!
//! Pure: the loop of the app fills in an [`Explanation`], [`Explanation::answer`] draws the
//! conclusion. Every reason that keeps the host off its goal is shown, in the order of a switch, so
//! that removing one does not bring up the next as a surprise.

use std::fmt;
use std::time::Duration;

use goal_state::{AppName, HostPhase};
use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::state::app_dir::Paused;

/// A download whose bytes did not change for this long is stuck: far above the time of a chunk over
/// a bad link, and short enough that a person who looks sees it.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// What the agent knows of one app when it is asked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The host's configured name.
    pub(crate) host: String,
    /// The app.
    pub(crate) app: AppName,
    /// When this was written down, in milliseconds since 1970. Ages are counted up to it.
    pub(crate) at_ms: u64,
    /// What the host is doing.
    pub(crate) phase: HostPhase,
    /// The goal that is followed; `None` if none is known.
    pub(crate) goal: Option<GoalFacts>,
    /// What `current` resolves to.
    pub(crate) current: Option<BuildId>,
    /// Why the rollout leaves this host out for now.
    pub(crate) not_yet: Option<String>,
    /// Whether the configuration has `hold = true`.
    pub(crate) is_held: bool,
    /// Set by `shoal-agent pause`.
    pub(crate) paused: Option<Paused>,
    /// The configured `pin`.
    pub(crate) pin: Option<BuildId>,
    /// Why there is no token yet; `None` if none is wanted or one is held.
    pub(crate) token: Option<String>,
    /// The build that failed here last and is not tried again for this goal.
    pub(crate) quarantine: Option<Quarantine>,
    /// The target's download; `None` once it is complete on disk.
    pub(crate) download: Option<DownloadFacts>,
    /// The candidate's health gate; `None` outside of one.
    pub(crate) checking: Option<CheckFacts>,
    /// What went wrong last and was not mended since.
    pub(crate) last_error: Option<String>,
    /// Bytes that the disk lacks for the next step.
    pub(crate) disk_short_bytes: Option<u64>,
    /// Milliseconds until the agent tries again; `None` if it does not wait.
    pub(crate) next_try_in_ms: Option<u64>,
    /// The program that serves.
    pub(crate) program: Option<ProgramFacts>,
    /// What somebody should look at although it does not keep the host off its goal, such as a
    /// program that prints too much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warning: Option<String>,
}

/// The goal of an app.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct GoalFacts {
    /// Its generation.
    pub generation: u64,
    /// The build that hosts should run.
    pub build: BuildId,
    /// When this host learnt of it, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A build that failed here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quarantine {
    /// The build.
    pub build: BuildId,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What it failed at.
    pub reason: String,
    /// The last lines of its output.
    pub output: String,
}

/// How far a download is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct DownloadFacts {
    /// Bytes that are here and verified.
    pub done: u64,
    /// Bytes of the build; `None` until its manifest is here.
    pub total: Option<u64>,
    /// Milliseconds for which `done` did not change.
    pub unchanged_for_ms: u64,
    /// What is waited for, such as "no node that has the build answers".
    pub waiting_for: Option<String>,
}

/// Where the health gate of a new build stands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckFacts {
    /// Milliseconds for which it is healthy without a break.
    pub healthy_for_ms: u64,
    /// Milliseconds for which it has to be.
    pub min_healthy_ms: u64,
    /// Milliseconds until it is given up.
    pub deadline_in_ms: u64,
    /// What the last probe said, if it failed.
    pub last_failure: Option<String>,
}

/// The program that serves.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProgramFacts {
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since its start.
    pub up_for_ms: u64,
    /// Starts after the first, of this build.
    pub restarts: u32,
}

/// A time in the unit of all of these facts.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What keeps a host off its goal, in the order of a switch.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Situation {
    /// Nothing does.
    AtGoal,
    /// There is no goal.
    NoGoal,
    /// The configuration names another build.
    Pinned,
    /// The build failed here.
    Quarantined,
    /// The disk is full.
    DiskFull,
    /// The build is not complete here, and its download makes no progress.
    DownloadStuck,
    /// The build is being downloaded.
    Downloading,
    /// The configuration forbids switches.
    Held,
    /// A person forbade switches.
    Paused,
    /// The rollout has not come to this host.
    WaitingForRollout,
    /// Too many others are down.
    WaitingForToken,
    /// The new program is being watched.
    Checking,
    /// The program keeps ending.
    CrashLoop,
    /// Something else failed.
    Failed,
    /// The next step is under way.
    UnderWay,
}

/// One thing that keeps a host off its goal.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// Which kind.
    pub situation: Situation,
    /// What is the case.
    pub text: String,
    /// What a person can do, or that there is nothing to do.
    pub next_step: String,
}

/// The conclusion.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The kind of the first reason.
    pub situation: Situation,
    /// One line.
    pub headline: String,
    /// All reasons, in the order of a switch.
    pub(crate) reasons: Vec<Reason>,
    /// Last lines of the output of a build that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// What somebody should look at, whether the host is at its goal or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warning: Option<String>,
}

impl Explanation {
    /// The explanation of an app of which nothing is known yet.
    pub const fn new(host: String, app: AppName, at_ms: u64) -> Self {
        Self {
            host,
            app,
            at_ms,
            phase: HostPhase::NoGoal,
            goal: None,
            current: None,
            not_yet: None,
            is_held: false,
            paused: None,
            pin: None,
            token: None,
            quarantine: None,
            download: None,
            checking: None,
            last_error: None,
            disk_short_bytes: None,
            next_try_in_ms: None,
            program: None,
            warning: None,
        }
    }

    /// Why the host is not on the build of its goal, or that it is.
    pub fn answer(&self) -> Answer {
        let reasons = self.reasons();
        let situation = reasons.first().map_or(Situation::AtGoal, |reason| reason.situation);
        let quarantine =
            self.quarantine.as_ref().filter(|failed| Some(failed.build) == self.target());
        let output = quarantine.map_or_else(String::new, |failed| failed.output.clone());
        let (headline, warning) = (self.headline(&reasons), self.warning.clone());
        Answer { situation, headline, reasons, output, warning }
    }

    /// The build that this host is to run.
    fn target(&self) -> Option<BuildId> {
        self.pin.or(self.goal.as_ref().map(|goal| goal.build))
    }

    fn headline(&self, reasons: &[Reason]) -> String {
        let Self { host, app, .. } = self;
        let Some(goal) = &self.goal else { return format!("{app} on {host} has no goal") };
        let build = goal.build.short();
        let generation = goal.generation;
        let Some(reason) = reasons.first() else {
            return format!(
                "{app} on {host} is at its goal: build {build}, generation {generation}"
            );
        };
        let runs = match self.current {
            Some(current) if current == goal.build => format!("{app} on {host} has switched to"),
            Some(current) => format!("{app} on {host} is on {}, not on", current.short()),
            None => format!("{app} on {host} runs nothing yet, not"),
        };
        format!("{runs} build {build} of generation {generation}: {}", reason.text)
    }

    fn reasons(&self) -> Vec<Reason> {
        let (Some(goal), Some(target)) = (&self.goal, self.target()) else {
            return vec![reason(
                Situation::NoGoal,
                "the goal store names no build for this app".into(),
                "set one with shoal deploy, or check goal and app name with shoal-agent doctor",
            )];
        };
        let mut reasons = vec![];
        if let Some(pin) = self.pin.filter(|pin| *pin != goal.build) {
            reasons.push(reason(
                Situation::Pinned,
                format!("this host is pinned to build {}", pin.short()),
                "take pin out of the configuration and reload the agent (SIGHUP)",
            ));
        }
        reasons.extend(self.quarantined(target));
        if self.current != Some(target) {
            reasons.extend(self.not_here());
            reasons.extend(self.not_admitted());
        }
        reasons.extend(self.not_well());
        if reasons.is_empty() && (self.current != Some(target) || self.is_switching()) {
            reasons.push(reason(
                Situation::UnderWay,
                format!("the next step is under way ({})", self.phase),
                "wait a moment and ask again",
            ));
        }
        reasons
    }

    fn is_switching(&self) -> bool {
        !matches!(self.phase, HostPhase::Running | HostPhase::NoGoal | HostPhase::Stopped)
    }

    fn quarantined(&self, target: BuildId) -> Option<Reason> {
        let failed = self.quarantine.as_ref().filter(|failed| failed.build == target)?;
        let what = match self.current {
            Some(current) if current == target => {
                "; its program is started again and again, because no build ran well here"
            }
            Some(_) => " and was rolled back",
            None => " and is not started; no build ran well here",
        };
        let age = self.age(failed.since_ms);
        let text = format!("the build failed here {age} ago{what}: {}", failed.reason);
        Some(reason(
            Situation::Quarantined,
            text,
            "deploy a build that is mended, or deploy this one again to try it once more",
        ))
    }

    fn not_here(&self) -> Vec<Reason> {
        let mut reasons = vec![];
        if let Some(bytes) = self.disk_short_bytes {
            reasons.push(reason(
                Situation::DiskFull,
                format!("the disk is full: {} more are needed", bytes_text(bytes)),
                "free space, or keep fewer builds (keep_builds, keep_bytes); the agent goes on by itself",
            ));
        }
        let Some(download) = &self.download else { return reasons };
        let done = match download.total {
            None => "its manifest is not here yet".to_owned(),
            Some(total) => {
                format!("{} of {} are here", bytes_text(download.done), bytes_text(total))
            }
        };
        let unchanged = Duration::from_millis(download.unchanged_for_ms);
        if download.waiting_for.is_none() && unchanged < STUCK_AFTER {
            let text = format!("the build is being downloaded, {done}");
            reasons.push(reason(Situation::Downloading, text, "wait; nothing is wrong"));
            return reasons;
        }
        let why = download.waiting_for.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let text = format!("the download makes no progress for {}, {done}{why}", span(unchanged));
        reasons.push(reason(
            Situation::DownloadStuck,
            text,
            "run shoal-agent doctor here, and look whether the seeder has the build (shoal status)",
        ));
        reasons
    }

    fn not_admitted(&self) -> Vec<Reason> {
        let mut reasons = vec![];
        if self.is_held {
            reasons.push(reason(
                Situation::Held,
                "this host is held by its configuration (hold = true)".into(),
                "take hold out of the configuration and reload the agent (SIGHUP)",
            ));
        }
        if let Some(paused) = &self.paused {
            let words = paused.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            reasons.push(Reason {
                situation: Situation::Paused,
                text: format!("a person paused it {} ago{words}", self.age(paused.since_ms)),
                next_step: format!("shoal-agent resume {}", self.app),
            });
        }
        if let Some(why) = &self.not_yet {
            reasons.push(reason(
                Situation::WaitingForRollout,
                format!("the rollout has not come to this host: {why}"),
                "wait, or widen the rollout with shoal rollout",
            ));
        }
        if let Some(why) = &self.token {
            reasons.push(reason(
                Situation::WaitingForToken,
                format!("waiting for its turn to be down: {why}"),
                "wait; if it lasts, look for hosts that are stuck (shoal status), or at the seeder",
            ));
        }
        reasons
    }

    /// What is wrong whichever build is meant.
    fn not_well(&self) -> Vec<Reason> {
        let mut reasons = vec![];
        if let Some(checking) = &self.checking {
            let healthy = Duration::from_millis(checking.healthy_for_ms);
            let least = span(Duration::from_millis(checking.min_healthy_ms));
            let left = span(Duration::from_millis(checking.deadline_in_ms));
            let said = checking.last_failure.as_ref();
            let said = said.map_or_else(
                || format!("healthy for {} of {least}", span(healthy)),
                |said| format!("not healthy: {said}"),
            );
            let text = format!(
                "the new program is being checked, {said}, rolled back in {left} otherwise"
            );
            reasons.push(reason(Situation::Checking, text, "wait; the agent decides by itself"));
        }
        let error = self.last_error.as_deref();
        let next = self.next_try_in_ms.map(|ms| span(Duration::from_millis(ms)));
        match (error, next) {
            (Some(error), Some(next)) if self.program.is_none() && self.current.is_some() => {
                reasons.push(reason(
                    Situation::CrashLoop,
                    format!("the program does not stay up: {error}; next try in {next}"),
                    "look at its output (output.log of the app), and deploy a build that is mended",
                ));
            }
            (Some(error), next) if self.disk_short_bytes.is_none() => {
                let next = next.map_or_else(String::new, |next| format!("; next try in {next}"));
                let text = format!("{error}{next}");
                reasons.push(reason(Situation::Failed, text, "see docs/operations.md"));
            }
            _ => {}
        }
        reasons
    }

    fn age(&self, since_ms: u64) -> String {
        span(Duration::from_millis(self.at_ms.saturating_sub(since_ms)))
    }
}

fn reason(situation: Situation, text: String, next_step: &str) -> Reason {
    Reason { situation, text, next_step: next_step.into() }
}

/// A span of time in its two largest units, for people.
pub(crate) fn span(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A size for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// For a terminal: the headline, then each reason with what to do.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline)?;
        for (index, reason) in self.reasons.iter().enumerate() {
            let lead = if index == 0 { "why" } else { "and" };
            writeln!(f, "  {lead}:  {}", reason.text)?;
            writeln!(f, "  next: {}", reason.next_step)?;
        }
        if let Some(warning) = &self.warning {
            writeln!(f, "  note: {warning}")?;
        }
        if !self.output.is_empty() {
            writeln!(f, "  last lines of its output:")?;
            for line in self.output.lines() {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(seed: u8) -> BuildId {
        BuildId::of_manifest(&[seed])
    }

    /// Long on build 1; the goal is build 2, which is on disk, and nothing is in the way.
    fn ready() -> Explanation {
        Explanation {
            phase: HostPhase::Running,
            goal: Some(GoalFacts { generation: 7, build: build(2), since_ms: 1_000 }),
            current: Some(build(1)),
            program: Some(ProgramFacts { pid: 1, up_for_ms: 5, restarts: 0 }),
            ..Explanation::new("h1".into(), "web".parse().unwrap(), 181_000)
        }
    }

    fn quarantine(seed: u8) -> Quarantine {
        let (reason, output) = ("answered 500 for 2m".into(), "panicked at main\nbye".into());
        Quarantine { build: build(seed), since_ms: 61_000, reason, output }
    }

    fn download(unchanged_for_ms: u64, waiting_for: Option<&str>) -> DownloadFacts {
        let (done, total) = (3 << 20, Some(10 << 30));
        let waiting_for = waiting_for.map(String::from);
        DownloadFacts { done, total, unchanged_for_ms, waiting_for }
    }

    fn check(explanation: &Explanation, expected: &[Situation], parts: &[&str]) {
        let answer = explanation.answer();
        let found: Vec<_> = answer.reasons.iter().map(|reason| reason.situation).collect();
        assert_eq!(found, expected, "{answer}");
        let first = expected.first().copied().unwrap_or(Situation::AtGoal);
        assert_eq!(answer.situation, first, "{answer}");
        let text = answer.to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert_eq!(answer.headline.lines().count(), 1);
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
    }

    #[test]
    fn every_reason_before_the_switch_is_shown() {
        use Situation::{
            DiskFull, DownloadStuck, Downloading, Held, NoGoal, Paused as IsPaused, Quarantined,
            UnderWay, WaitingForRollout, WaitingForToken,
        };
        let ready = ready();
        check(
            &Explanation { goal: None, ..ready.clone() },
            &[NoGoal],
            &["no goal", "shoal deploy"],
        );
        check(&ready, &[UnderWay], &["build", "generation 7", "not on"]);
        let facts = Explanation { download: Some(download(5, None)), ..ready.clone() };
        check(&facts, &[Downloading], &["3.0 MiB of 10.0 GiB", "nothing is wrong"]);
        let facts = Explanation { download: Some(download(61_000, None)), ..ready.clone() };
        check(&facts, &[DownloadStuck], &["no progress for 1m 1s", "doctor"]);
        let facts =
            Explanation { download: Some(download(5, Some("no node has it"))), ..ready.clone() };
        check(&facts, &[DownloadStuck], &["no node has it"]);
        let short = Some(5 << 30);
        let facts =
            Explanation { disk_short_bytes: short, last_error: Some("x".into()), ..ready.clone() };
        check(&facts, &[DiskFull], &["5.0 GiB more are needed", "keep_builds"]);
        let facts = Explanation { is_held: true, ..ready.clone() };
        check(&facts, &[Held], &["hold = true", "SIGHUP"]);
        let paused = Some(Paused { since_ms: 1_000, reason: Some("ticket 5".into()) });
        let facts = Explanation { paused: paused.clone(), ..ready.clone() };
        check(&facts, &[IsPaused], &["paused it 3m ago: ticket 5", "shoal-agent resume web"]);
        let facts =
            Explanation { not_yet: Some("not in the first 5 percent".into()), ..ready.clone() };
        check(&facts, &[WaitingForRollout], &["first 5 percent", "shoal rollout"]);
        let facts = Explanation {
            token: Some("2 of 2 tokens of group z1 are out".into()),
            ..ready.clone()
        };
        check(&facts, &[WaitingForToken], &["2 of 2 tokens"]);
        let facts = Explanation { quarantine: Some(quarantine(2)), ..ready.clone() };
        check(&facts, &[Quarantined], &["2m ago", "answered 500", "    panicked at main\n    bye"]);
        let facts = Explanation {
            download: Some(download(5, None)),
            is_held: true,
            paused,
            not_yet: Some("x".into()),
            ..ready
        };
        check(&facts, &[Downloading, Held, IsPaused, WaitingForRollout], &["and:"]);
    }

    #[test]
    fn switched_host_is_not_mistaken_for_one_at_its_goal() {
        use Situation::{Checking, CrashLoop, Failed};
        let there = Explanation { current: Some(build(2)), ..ready() };
        check(&there, &[], &["is at its goal", "generation 7"]);
        // What would hold up a switch is no reason once it is done.
        let held = Explanation { is_held: true, not_yet: Some("x".into()), ..there.clone() };
        check(&Explanation { quarantine: Some(quarantine(1)), ..held }, &[], &[]);
        let gate = |last_failure| CheckFacts {
            healthy_for_ms: 4_000,
            min_healthy_ms: 10_000,
            deadline_in_ms: 90_000,
            last_failure,
        };
        let facts = Explanation { checking: Some(gate(None)), ..there.clone() };
        check(&facts, &[Checking], &["healthy for 4s of 10s", "rolled back in 1m 30s"]);
        let facts =
            Explanation { checking: Some(gate(Some("status 500".into()))), ..there.clone() };
        check(&facts, &[Checking], &["not healthy: status 500"]);
        let facts = Explanation {
            program: None,
            last_error: Some("it ended with exit code 1".into()),
            next_try_in_ms: Some(8_000),
            ..there.clone()
        };
        check(&facts, &[CrashLoop], &["exit code 1", "next try in 8s", "output.log"]);
        let facts = Explanation { last_error: Some("cannot write journal".into()), ..there };
        check(&facts, &[Failed], &["cannot write journal"]);
    }

    #[test]
    fn pin_is_the_goal_of_its_host() {
        use Situation::{Downloading, Pinned};
        let pinned = Explanation { pin: Some(build(1)), ..ready() };
        check(&pinned, &[Pinned], &["pinned to build", "take pin out"]);
        let elsewhere =
            Explanation { pin: Some(build(3)), download: Some(download(5, None)), ..ready() };
        check(&elsewhere, &[Pinned, Downloading], &[]);
        let same = Explanation { pin: Some(build(2)), current: Some(build(2)), ..ready() };
        check(&same, &[], &["is at its goal"]);
    }
}
