//! Why is this host not on the build of its goal? From its row to sentences and steps.
//!
//! Pure. The agent and the operator's desk both answer with [`Answer::of_row`], so that both say
//! the same words; each may add what only it knows. Everything that is so is said once, with a step
//! that helps, in the order of a switch, so that removing one trouble does not bring up the next as
//! a surprise.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::status::{HostPhase, HostStatus, WaitReason};
use crate::documents::text::{bytes_text, span};
use crate::documents::trouble::{Trouble, TroubleKind};

/// The share of a limit, in percent, from which on it is what holds a download up: a limiter lets
/// through a little less than it is set to.
const LIMITED_FROM_PERCENT: u128 = 90;

/// One thing that is so, with what to do about it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Which trouble; `None` if nothing is wrong, such as for a download that moves.
    pub kind: Option<TroubleKind>,
    /// What is the case.
    pub text: String,
    /// What a person can do, or that there is nothing to do.
    pub next_step: String,
}

impl Reason {
    /// Something that is no trouble.
    pub fn new(text: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { kind: None, text: text.into(), next_step: next_step.into() }
    }
}

/// Where an app stands on a host and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The host.
    pub host: String,
    /// The app.
    pub app: AppName,
    /// What the host is doing.
    pub phase: HostPhase,
    /// Whether the goal's build runs, is good, and is known to be that of the goal store.
    pub is_at_goal: bool,
    /// One line: what runs, and what should.
    pub headline: String,
    /// What keeps the host off its goal, then what needs a look all the same.
    pub reasons: Vec<Reason>,
    /// The last lines that a build which failed printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Answer {
    /// What `row` says, with the `troubles` that it tells of or that its host knows in full.
    ///
    /// `doing` replaces what the phase alone says of work under way.
    pub fn of_row(row: &HostStatus, troubles: &[Trouble], doing: Option<Reason>) -> Self {
        let is_at_goal = row.is_at_goal() && !troubles.iter().any(|one| one.kind.hides_goal());
        let mut reasons: Vec<Reason> = vec![];
        for trouble in troubles {
            let text = explained(row, trouble);
            if reasons.iter().all(|reason| reason.text != text) {
                let next_step = step_for(row, trouble);
                reasons.push(Reason { kind: Some(trouble.kind), text, next_step });
            }
        }
        let is_told = troubles.iter().any(|trouble| {
            trouble.kind.is_of_running_download() || trouble.kind == TroubleKind::NoGoal
        });
        if let Some(doing) = doing.or_else(|| doing_of(row, &reasons)).filter(|_| !is_told) {
            reasons.insert(0, doing);
        }
        Self {
            host: row.host.clone(),
            app: row.app.clone(),
            phase: row.phase,
            is_at_goal,
            headline: headline(row, troubles, is_at_goal),
            reasons,
            output: row.last_output.clone(),
        }
    }

    /// Puts something before all other reasons, unless it is said already.
    pub fn add_first(&mut self, reason: Reason) {
        if self.reasons.iter().all(|said| said.text != reason.text) {
            self.reasons.insert(0, reason);
        }
    }

    /// Puts something after all other reasons, unless it is said already.
    pub fn add_last(&mut self, reason: Reason) {
        if self.reasons.iter().all(|said| said.text != reason.text) {
            self.reasons.push(reason);
        }
    }

    /// Whether something is said that `step` helps against: the same, perhaps in other words.
    pub fn has_step(&self, step: &str) -> bool {
        self.reasons.iter().any(|said| said.next_step == step)
    }

    /// The trouble of the first reason; `None` if nothing is wrong.
    pub fn first_trouble(&self) -> Option<TroubleKind> {
        self.reasons.iter().find_map(|reason| reason.kind)
    }
}

fn explained(row: &HostStatus, trouble: &Trouble) -> String {
    let text = match row.last_output {
        Some(_) => trouble.text_without_output(),
        None => &trouble.text,
    };
    match progress_text(row).filter(|_| trouble.kind.is_of_running_download()) {
        Some(progress) => format!("{text} ({progress})"),
        None => text.to_owned(),
    }
}

/// A host that is older than its reader tells no kinds: it knows best itself.
fn step_for(row: &HostStatus, trouble: &Trouble) -> String {
    let app = &row.app;
    if trouble.kind == TroubleKind::Unknown && row.troubles.is_empty() {
        return format!("run shoal-agent explain {app} on the host");
    }
    trouble.next_step(app)
}

fn headline(row: &HostStatus, troubles: &[Trouble], is_at_goal: bool) -> String {
    let HostStatus { app, host, phase, .. } = row;
    let Some(target) = row.target else { return format!("{app} on {host} has no goal") };
    let generation = row.generation.map_or_else(|| "-".into(), |number| number.to_string());
    let goal = format!("build {}, generation {generation}", target.short());
    if is_at_goal {
        return format!("{app} on {host} is at its goal: {goal}");
    }
    if troubles.iter().any(|trouble| trouble.kind == TroubleKind::Pin) {
        let pin = target.short();
        return format!(
            "{app} on {host} is pinned to build {pin}, which is not its goal of generation {generation}"
        );
    }
    match row.current {
        _ if *phase == HostPhase::Stopped => {
            format!("{app} on {host} is stopped; its goal is {goal}")
        }
        Some(current) if current == target && *phase == HostPhase::Running => {
            format!("{app} on {host} is at the last goal that it knows: {goal}")
        }
        Some(current) if current == target => {
            format!("{app} on {host} has switched to its goal and is {phase}: {goal}")
        }
        Some(current) if *phase == HostPhase::RolledBack => {
            format!("{app} on {host} went back to build {} from its goal: {goal}", current.short())
        }
        Some(current) => {
            format!("{app} on {host} is on build {}, not yet at its goal: {goal}", current.short())
        }
        None => format!("{app} on {host} runs nothing yet; its goal is {goal}"),
    }
}

/// What the host is doing, by its phase; `None` if nothing is under way.
fn doing_of(row: &HostStatus, told: &[Reason]) -> Option<Reason> {
    let wait = "wait a moment and ask again";
    let app = &row.app;
    match row.phase {
        HostPhase::Locating => Some(Reason::new("looking for nodes that have the build", wait)),
        HostPhase::Downloading => {
            let done =
                progress_text(row).unwrap_or_else(|| "its manifest is not here yet".to_owned());
            Some(Reason::new(
                format!("the build is being downloaded, {done}"),
                "wait; nothing is wrong",
            ))
        }
        HostPhase::Verifying => {
            Some(Reason::new("the build is here and is being read back and checked", wait))
        }
        HostPhase::Switching => Some(Reason::new("the next step of the switch is under way", wait)),
        HostPhase::Checking => Some(Reason::new(
            "the program has to stay healthy for a while before it counts as good",
            "wait; the agent decides by itself",
        )),
        HostPhase::Stopped => Some(Reason::new(
            "the agent was stopped, and its programs with it",
            "start the agent on the host: systemctl start shoal-agent",
        )),
        HostPhase::Waiting if told.is_empty() => {
            let kind = row.waiting_for.map_or(TroubleKind::Unknown, WaitReason::kind);
            let text = format!("the switch waits ({kind})");
            Some(Reason { kind: Some(kind), text, next_step: kind.next_step(app) })
        }
        HostPhase::Failed | HostPhase::RolledBack if told.is_empty() => Some(Reason::new(
            "something failed, and the report does not say what",
            "read the agent's log on the host: journalctl -u shoal-agent",
        )),
        HostPhase::Unknown => Some(Reason::new(
            "the host is in a phase that this program does not know",
            "upgrade this program: the host is newer",
        )),
        HostPhase::NoGoal => Some(Reason {
            kind: Some(TroubleKind::NoGoal),
            text: "the goal store names no build for this app".into(),
            next_step: TroubleKind::NoGoal.next_step(app),
        }),
        HostPhase::Waiting | HostPhase::Failed | HostPhase::RolledBack | HostPhase::Running => None,
    }
}

/// How far a download is, how fast, how long it still takes and what limits it: `1.7 MiB of
/// 11.4 MiB at 290.0 KiB/s, 33s left, limited by download_limit 300 KB/s`. `None` until the size of
/// the build is known.
pub fn progress_text(row: &HostStatus) -> Option<String> {
    let total = row.bytes_total?;
    let done = format!("{} of {}", bytes_text(row.bytes_done), bytes_text(total));
    let Some(rate) = row.download_rate.filter(|rate| *rate > 0) else { return Some(done) };
    let left = span(Duration::from_secs(total.saturating_sub(row.bytes_done).div_ceil(rate)));
    let limit = limiting(row).map_or_else(String::new, |limit| {
        format!(", limited by download_limit {}", limit_text(limit))
    });
    Some(format!("{done} at {}/s, {left} left{limit}", bytes_text(rate)))
}

/// The cap on the download if that is what holds it up.
fn limiting(row: &HostStatus) -> Option<u64> {
    let (rate, limit) = (row.download_rate?, row.download_limit?);
    (u128::from(rate) * 100 >= u128::from(limit) * LIMITED_FROM_PERCENT).then_some(limit)
}

/// A limit in the unit in which people set it.
fn limit_text(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)];
    let round = units.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size));
    match round {
        Some((unit, size)) => format!("{} {unit}/s", bytes / size),
        None => format!("{}/s", bytes_text(bytes)),
    }
}

/// For a terminal: the headline, then each reason with what to do.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline)?;
        for (index, reason) in self.reasons.iter().enumerate() {
            let lead = match index {
                _ if self.is_at_goal => "note",
                0 => "why ",
                _ => "and ",
            };
            writeln!(f, "  {lead}: {}", reason.text)?;
            writeln!(f, "  next: {}", reason.next_step)?;
        }
        if let Some(output) = &self.output {
            writeln!(f, "  last lines of its output:")?;
            for line in output.lines() {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2p_core::BuildId;

    use super::*;

    const PHASES: [HostPhase; 12] = [
        HostPhase::NoGoal,
        HostPhase::Locating,
        HostPhase::Downloading,
        HostPhase::Verifying,
        HostPhase::Waiting,
        HostPhase::Switching,
        HostPhase::Checking,
        HostPhase::Running,
        HostPhase::RolledBack,
        HostPhase::Stopped,
        HostPhase::Failed,
        HostPhase::Unknown,
    ];

    fn build(seed: u8) -> BuildId {
        BuildId::of_manifest(&[seed])
    }

    /// On build 1, with build 2 as the goal.
    fn row(phase: HostPhase) -> HostStatus {
        HostStatus {
            generation: Some(7),
            target: Some(build(2)),
            current: Some(build(1)),
            phase,
            ..HostStatus::new("h1", "web".parse().unwrap())
        }
    }

    fn answer(row: &HostStatus) -> Answer {
        Answer::of_row(row, &row.troubles(), None)
    }

    /// Goal: whatever a row says, no explanation says a thing twice or ends without a step.
    #[test]
    fn nothing_is_said_twice_and_every_reason_has_a_step() {
        for (phase, kind) in
            PHASES.into_iter().flat_map(|phase| TroubleKind::ALL.map(|kind| (phase, kind)))
        {
            for current in [None, Some(build(1)), Some(build(2))] {
                check_once(&HostStatus { current, ..row(phase) }, kind);
            }
        }
    }

    fn check_once(row: &HostStatus, kind: TroubleKind) {
        let trouble = Trouble::new(kind, "it is so; and so").with_last_line("x\nbye");
        let twin = Trouble::new(TroubleKind::Disk, "it is so; and so");
        let row =
            HostStatus { bytes_total: Some(9), last_output: Some("x\nbye".into()), ..row.clone() };
        let answer = answer(&row.with_troubles(&[trouble, twin]));
        let text = answer.to_string();
        let mut seen = BTreeSet::new();
        for line in text.lines().map(|line| line.trim_start_matches(' ')) {
            let said = line.split_once(": ").map_or(line, |(_, said)| said);
            assert!(seen.insert(said.to_owned()), "{said:?} twice in\n{text}");
        }
        assert!(!text.contains("docs/"), "{text}");
        assert!(answer.reasons.iter().all(|one| one.next_step.len() > 5), "{text}");
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
    }

    #[test]
    fn every_phase_is_explained_without_a_trouble() {
        for phase in PHASES {
            let answer = answer(&row(phase));
            assert_eq!(answer.reasons.is_empty(), phase == HostPhase::Running, "{answer}");
        }
    }

    #[test]
    fn goal_that_could_not_be_followed_is_no_goal_reached() {
        let there = HostStatus { current: Some(build(2)), ..row(HostPhase::Running) };
        let at_goal = answer(&there);
        assert!(at_goal.is_at_goal && at_goal.reasons.is_empty(), "{at_goal}");
        assert!(at_goal.headline.contains("is at its goal"), "{at_goal}");
        let why = Trouble::new(TroubleKind::GoalUnstored, "cannot store the new goal");
        let hidden = answer(&there.clone().with_troubles(std::slice::from_ref(&why)));
        assert!(!hidden.is_at_goal, "{hidden}");
        assert!(hidden.headline.contains("the last goal that it knows"), "{hidden}");
        assert_eq!(hidden.first_trouble(), Some(TroubleKind::GoalUnstored));
        assert_eq!(hidden.reasons[0].text, "cannot store the new goal");
        assert!(hidden.reasons[0].next_step.contains("free space"), "{hidden}");
        let noisy = Trouble::new(TroubleKind::Flood, "it wrote 5 GiB");
        let noisy = answer(&there.with_troubles(&[noisy])).to_string();
        assert!(noisy.contains("is at its goal") && noisy.contains("note: it wrote"), "{noisy}");
    }

    #[test]
    fn download_says_how_fast_how_long_and_what_limits_it() {
        let mut row = HostStatus {
            bytes_done: 1_800_000,
            bytes_total: Some(11_960_000),
            ..row(HostPhase::Downloading)
        };
        assert_eq!(progress_text(&row).unwrap(), "1.7 MiB of 11.4 MiB");
        row.download_rate = Some(296_960);
        let free = "1.7 MiB of 11.4 MiB at 290.0 KiB/s, 35s left";
        assert_eq!(progress_text(&row).unwrap(), free);
        for (limit, expected) in [
            (300_000, ", limited by download_limit 300 KB/s"),
            (1 << 18, ", limited by download_limit 256.0 KiB/s"),
            (1_000_000, ""),
        ] {
            row.download_limit = Some(limit);
            assert_eq!(progress_text(&row).unwrap(), format!("{free}{expected}"));
        }
        let text = answer(&row).to_string();
        assert!(text.contains(free) && text.contains("nothing is wrong"), "{text}");
        let stuck = Trouble::new(TroubleKind::NoSource, "no seeder has the build");
        row.download_rate = None;
        let text = answer(&row.with_troubles(&[stuck])).to_string();
        assert!(text.contains("no seeder has the build (1.7 MiB of 11.4 MiB)"), "{text}");
        assert!(!text.contains("nothing is wrong"), "{text}");
    }

    #[test]
    fn rows_of_older_hosts_are_explained_as_far_as_they_go() {
        let wave = HostStatus { waiting_for: Some(WaitReason::Wave), ..row(HostPhase::Waiting) };
        assert_eq!(answer(&wave).first_trouble(), Some(TroubleKind::Wave));
        let failed =
            HostStatus { message: Some("it fell; again".into()), ..row(HostPhase::Failed) };
        let text = answer(&failed).to_string();
        assert!(text.contains("it fell; again"), "{text}");
        assert!(text.contains("shoal-agent explain web on the host"), "{text}");
    }
}
