//! The one list of troubles of an app on this host, from what its loop knows.
//!
//! Pure. Status row, `explain`, metrics and log all tell this list; none of them looks for troubles
//! itself. Each trouble is told once, in the order of a switch, and nothing in it changes while
//! nothing happens: a row that changes is reported.

use std::time::Duration;

use goal_state::{NotYet, Trouble, TroubleKind, WaitReason, bytes_text};
use p2p_core::BuildId;

/// What the loop of an app knows that may be a trouble. The default is an app that has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct TroubleFacts {
    /// Whether there is a build that should run.
    pub has_target: bool,
    /// What is wrong with the goal store or with what it offers.
    pub goal: Option<Trouble>,
    /// What was found wrong with a build's files.
    pub damage: Option<String>,
    /// What could not be written.
    pub disk: Option<Retried>,
    /// Why the download failed that is tried again later.
    pub download: Option<Retried>,
    /// Bytes that the disk lacks, if that is why.
    pub disk_short_bytes: Option<u64>,
    /// What this host lacks to start the build that it is to switch to.
    pub unready: Option<Retried>,
    /// What the download that runs waits for, or that it does not move.
    pub stuck: Option<Trouble>,
    /// The goal's build, if it failed here.
    pub quarantine: Option<FailedHere>,
    /// The build of the configuration, if the goal is another.
    pub pin: Option<BuildId>,
    /// What is wrong with the program.
    pub program: Option<Trouble>,
    /// That the program prints too much.
    pub flood: Option<String>,
    /// A hook whose failure changes nothing.
    pub hook: Option<String>,
    /// Peers that were banned during the download, and the last of them.
    pub banned: Option<(usize, String)>,
    /// What keeps a switch or a restart that is due from its beginning.
    pub waits: Waits,
}

/// Something that failed and is tried again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Retried {
    /// Why it failed.
    pub reason: String,
    /// How long it waits from the failure on: not a time that runs down, by which the row would
    /// change all the time.
    pub wait: Duration,
}

impl Retried {
    fn trouble(self, kind: TroubleKind) -> Trouble {
        Trouble::new(kind, self.reason).with_next_try(self.wait)
    }
}

/// A build that failed here.
#[derive(Clone, Debug)]
pub(crate) struct FailedHere {
    pub build: BuildId,
    /// What `current` points to.
    pub current: Option<BuildId>,
    pub reason: String,
    /// What it printed.
    pub output: String,
}

/// What waits, and for what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits {
    /// `switch` or `restart`; `None` if neither is due.
    pub what: Option<&'static str>,
    /// Paused by a person, with the reason, which may be empty.
    pub paused: Option<String>,
    /// The configuration says `hold = true`.
    pub is_held: bool,
    /// The rollout leaves this host out for now.
    pub not_yet: Option<NotYet>,
    /// Why there is no token yet.
    pub token: Option<String>,
}

impl Waits {
    /// What is waited for first, as programs read it.
    pub(crate) fn reason(&self) -> Option<WaitReason> {
        self.what?;
        match (&self.paused, self.is_held, &self.not_yet, &self.token) {
            (Some(_), ..) => Some(WaitReason::Pause),
            (None, true, ..) => Some(WaitReason::Hold),
            (None, false, Some(not_yet), _) => Some(reason_of(not_yet)),
            (None, false, None, Some(_)) => Some(WaitReason::Token),
            (None, false, None, None) => None,
        }
    }
}

const fn reason_of(not_yet: &NotYet) -> WaitReason {
    match not_yet {
        NotYet::Halted { .. } => WaitReason::Halt,
        NotYet::Staged | NotYet::TooEarly { .. } => WaitReason::Stage,
        NotYet::OtherStage { .. } | NotYet::OutsidePercent { .. } => WaitReason::Wave,
        _ => WaitReason::Unknown,
    }
}

/// The troubles, in the order of a switch.
pub(crate) fn troubles(facts: TroubleFacts) -> Vec<Trouble> {
    use TroubleKind as Kind;
    let said = |kind: Kind| move |text: String| Trouble::new(kind, text);
    let mut list: Vec<Trouble> = vec![];
    if !facts.has_target && facts.goal.is_none() {
        list.push(Trouble::new(Kind::NoGoal, "the goal store names no build for this app"));
    }
    list.extend(facts.goal);
    list.extend(facts.damage.map(said(Kind::Damage)));
    list.extend(facts.disk.map(|failed| failed.trouble(Kind::Disk)));
    list.extend(facts.download.map(|failed| match facts.disk_short_bytes {
        Some(bytes) => {
            let bytes = bytes_text(bytes);
            let reason = format!("the disk is full, {bytes} more are needed: {}", failed.reason);
            Retried { reason, ..failed }.trouble(Kind::DiskShort)
        }
        None => failed.trouble(Kind::Download),
    }));
    list.extend(facts.stuck);
    list.extend(facts.unready.map(|lacks| lacks.trouble(Kind::HostUnready)));
    list.extend(facts.quarantine.map(quarantined));
    list.extend(facts.pin.map(|pin| {
        let text = format!("pinned to build {} by the configuration of this host", pin.short());
        Trouble::new(Kind::Pin, text)
    }));
    list.extend(facts.program);
    list.extend(facts.flood.map(said(Kind::Flood)));
    list.extend(facts.hook.map(said(Kind::Hook)));
    list.extend(waits(facts.waits));
    list.extend(facts.banned.map(|(count, last)| {
        Trouble::new(Kind::PeersBanned, format!("{count} peers banned, the last one: {last}"))
    }));
    let mut once: Vec<Trouble> = Vec::with_capacity(list.len());
    for trouble in list {
        if once.iter().all(|told| told.text_without_next_try() != trouble.text_without_next_try()) {
            once.push(trouble);
        }
    }
    once
}

fn quarantined(failed: FailedHere) -> Trouble {
    let FailedHere { build, current, reason, output } = failed;
    let what = match current {
        Some(current) if current == build => {
            "failed here, its program is started again and again, because no build ran well here"
        }
        Some(_) | None => "failed here and is not tried again until another deploy",
    };
    Trouble::new(TroubleKind::Quarantine, format!("build {} {what}: {reason}", build.short()))
        .with_last_line(&output)
}

fn waits(waits: Waits) -> Vec<Trouble> {
    let Some(what) = waits.what else { return vec![] };
    let wait = |kind, text: String| Trouble::new(kind, format!("the {what} waits: {text}"));
    let mut list = vec![];
    list.extend(waits.paused.map(|reason| {
        let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
        wait(TroubleKind::Pause, format!("a person paused the app on this host{reason}"))
    }));
    if waits.is_held {
        let text = "held by `hold = true` in the configuration of this host";
        list.push(wait(TroubleKind::Hold, text.into()));
    }
    list.extend(waits.not_yet.map(|not_yet| wait(reason_of(&not_yet).kind(), not_yet.to_string())));
    list.extend(waits.token.map(|reason| {
        Trouble::new(TroubleKind::Token, format!("the {what} waits for a token: {reason}"))
    }));
    list
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn facts() -> TroubleFacts {
        TroubleFacts { has_target: true, ..TroubleFacts::default() }
    }

    fn switch(waits: Waits) -> TroubleFacts {
        TroubleFacts { waits: Waits { what: Some("switch"), ..waits }, ..facts() }
    }

    fn text(text: &str) -> String {
        text.into()
    }

    fn retried(reason: &str) -> Retried {
        Retried { reason: reason.into(), wait: Duration::from_secs(5) }
    }

    fn of_goal_and_disk() -> Vec<(TroubleFacts, TroubleKind, &'static str, &'static str)> {
        use TroubleKind as Kind;
        let goal = |kind| Some(Trouble::new(kind, "the goal is not what it was"));
        let with_goal = |kind| TroubleFacts { goal: goal(kind), ..facts() };
        let no_room = TroubleFacts {
            disk_short_bytes: Some(5 << 30),
            download: Some(retried("cannot download")),
            ..facts()
        };
        let stuck = |kind, text| TroubleFacts { stuck: Some(Trouble::new(kind, text)), ..facts() };
        vec![
            (TroubleFacts::default(), Kind::NoGoal, "names no build", "shoal deploy web BUILD"),
            (with_goal(Kind::GoalUnread), Kind::GoalUnread, "not what it was", "doctor"),
            (with_goal(Kind::GoalGone), Kind::GoalGone, "not what it was", "shoal deploy web"),
            (with_goal(Kind::GoalRefused), Kind::GoalRefused, "not what", "above what hosts"),
            (with_goal(Kind::GoalUnstored), Kind::GoalUnstored, "not what", "free space"),
            (
                TroubleFacts { damage: Some(text("build x is damaged")), ..facts() },
                Kind::Damage,
                "build x is damaged",
                "fetched again",
            ),
            (
                TroubleFacts { disk: Some(retried("cannot write journal")), ..facts() },
                Kind::Disk,
                "cannot write journal, next try in 5s",
                "writable",
            ),
            (no_room, Kind::DiskShort, "5.0 GiB more are needed: cannot", "keep_builds"),
            (
                TroubleFacts { download: Some(retried("cannot download")), ..facts() },
                Kind::Download,
                "cannot download, next try in 5s",
                "doctor",
            ),
            (
                stuck(Kind::DownloadStuck, "connecting to other nodes"),
                Kind::DownloadStuck,
                "connecting to other nodes",
                "doctor",
            ),
            (
                stuck(Kind::NoSource, "no seeder has build x"),
                Kind::NoSource,
                "no seeder has build x",
                "publish the build",
            ),
            (
                TroubleFacts { unready: Some(retried("python3 is not in PATH")), ..facts() },
                Kind::HostUnready,
                "python3 is not in PATH",
                "looks again by itself",
            ),
            (
                TroubleFacts { banned: Some((2, "h3".into())), ..facts() },
                Kind::PeersBanned,
                "2 peers banned, the last one: h3",
                "memory",
            ),
        ]
    }

    fn of_program_and_waits() -> Vec<(TroubleFacts, TroubleKind, &'static str, &'static str)> {
        use TroubleKind as Kind;
        let program =
            |kind| TroubleFacts { program: Some(Trouble::new(kind, "exit code 3")), ..facts() };
        let failed = FailedHere {
            build: BuildId::of_manifest(b"x"),
            current: Some(BuildId::of_manifest(b"y")),
            reason: "exit code 3".into(),
            output: "a\nbye".into(),
        };
        let not_yet = |not_yet| switch(Waits { not_yet: Some(not_yet), ..Waits::default() });
        vec![
            (
                TroubleFacts { quarantine: Some(failed), ..facts() },
                Kind::Quarantine,
                "until another deploy: exit code 3, its last output: bye",
                "mended",
            ),
            (
                TroubleFacts { pin: Some(BuildId::of_manifest(b"x")), ..facts() },
                Kind::Pin,
                "pinned to build",
                "take pin out",
            ),
            (program(Kind::Crash), Kind::Crash, "exit code 3", "output.log"),
            (program(Kind::RunsAgain), Kind::RunsAgain, "exit code 3", "output.log"),
            (program(Kind::Unhealthy), Kind::Unhealthy, "exit code 3", "restart web"),
            (
                TroubleFacts { flood: Some(text("it wrote 5 GiB")), ..facts() },
                Kind::Flood,
                "5 GiB",
                "max_output_rate",
            ),
            (
                TroubleFacts { hook: Some(text("hook drain: exit code 1")), ..facts() },
                Kind::Hook,
                "hook drain",
                "by hand",
            ),
            (
                switch(Waits { paused: Some(text("ticket 5")), ..Waits::default() }),
                Kind::Pause,
                "the switch waits: a person paused the app on this host (ticket 5)",
                "shoal-agent resume web",
            ),
            (
                switch(Waits { is_held: true, ..Waits::default() }),
                Kind::Hold,
                "hold = true",
                "SIGHUP",
            ),
            (
                not_yet(NotYet::Halted { reason: "3 failed".into() }),
                Kind::Halt,
                "halted: 3 failed",
                "--resume or --abort",
            ),
            (not_yet(NotYet::Staged), Kind::Stage, "staged", "shoal switch web"),
            (
                not_yet(NotYet::OutsidePercent { percent: 5, in_at: 40 }),
                Kind::Wave,
                "5 percent",
                "shoal rollout web",
            ),
            (
                switch(Waits { token: Some(text("2 of 2 are out")), ..Waits::default() }),
                Kind::Token,
                "the switch waits for a token: 2 of 2 are out",
                "it comes by itself",
            ),
        ]
    }

    #[test]
    fn each_fact_is_one_trouble_with_its_step() {
        let app = "web".parse().unwrap();
        let cases = [of_goal_and_disk(), of_program_and_waits()].concat();
        let mut seen = BTreeSet::new();
        for (facts, kind, text, step) in cases {
            let list = troubles(facts);
            let [trouble] = &list[..] else { panic!("{kind}: {list:?}") };
            assert_eq!(trouble.kind, kind);
            assert!(trouble.text.contains(text), "{text:?} is not in {:?}", trouble.text);
            assert!(kind.next_step(&app).contains(step), "{kind}: {}", kind.next_step(&app));
            seen.insert(kind);
        }
        // Those are of the agent as a whole, and of hosts that are newer.
        let others = [TroubleKind::Agent, TroubleKind::Unknown];
        let all: BTreeSet<_> = TroubleKind::ALL.into_iter().collect();
        assert_eq!(seen.len() + others.len(), all.len(), "a kind without a case");
    }

    #[test]
    fn failed_build_is_told_by_what_runs_instead() {
        let build = BuildId::of_manifest(b"x");
        for (current, expected) in [
            (Some(build), "started again and again"),
            (Some(BuildId::of_manifest(b"y")), "not tried again until another deploy"),
            (None, "not tried again until another deploy"),
        ] {
            let failed =
                FailedHere { build, current, reason: text("exit code 3"), output: String::new() };
            let list = troubles(TroubleFacts { quarantine: Some(failed), ..facts() });
            assert!(list[0].text.contains(expected), "{list:?}");
            assert!(list[0].text.ends_with(": exit code 3"), "{list:?}");
        }
    }

    #[test]
    fn troubles_stand_in_the_order_of_a_switch_and_once() {
        use TroubleKind::{Disk, Hold, Hook, Pause, Token};
        assert_eq!(troubles(facts()), []);
        let nothing_due = Waits { is_held: true, token: Some(text("x")), ..Waits::default() };
        assert_eq!(troubles(TroubleFacts { waits: nothing_due, ..facts() }), []);
        let all = TroubleFacts {
            disk: Some(Retried { wait: Duration::from_secs(9), ..retried("the disk is full") }),
            download: Some(retried("the disk is full")),
            hook: Some(text("hook drain")),
            waits: Waits {
                what: Some("restart"),
                paused: Some(text("")),
                is_held: true,
                token: Some(text("x")),
                ..Waits::default()
            },
            ..facts()
        };
        let list = troubles(all);
        let kinds: Vec<_> = list.iter().map(|trouble| trouble.kind).collect();
        assert_eq!(kinds, [Disk, Hook, Pause, Hold, Token]);
        assert!(list[2].text.starts_with("the restart waits: "), "{list:?}");
    }
}
