//! Troubles of an app on a host: what keeps it off its goal or needs a look, by kind.
//!
//! Owns the kinds, the next step for each, and how a row carries the texts: joined into its
//! message, with the kinds beside it in the same order, so that whoever reads the row finds both
//! again. Pure. Which troubles an app has is not decided here but on its host.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::notes::step_for;

/// Most troubles that a row names. One host has few at a time; a seeder cuts off the rest.
pub const TROUBLES_MAX: usize = 8;

/// Between two troubles of a message, and never within one.
const BETWEEN: &str = "; ";

/// Before the time of the next try, at the end of a trouble's text.
const NEXT_TRY: &str = ", next try in ";

/// Before the last line that a failed program printed, at the end of a trouble's text.
const LAST_LINE: &str = ", its last output: ";

/// What kind of trouble.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TroubleKind {
    /// Something about the whole agent, such as settings that need a restart.
    Agent,
    /// No goal is set.
    NoGoal,
    /// The goal store does not answer, or what it has is no goal.
    GoalUnread,
    /// The goal store has no goal any more for an app that had one.
    GoalGone,
    /// The goal in the store is older than the one followed, or is another of the same generation.
    GoalRefused,
    /// The goal cannot be stored on the host, so it is not followed.
    GoalUnstored,
    /// The files of a build were changed.
    Damage,
    /// The state on the host's disk cannot be written.
    Disk,
    /// The disk lacks room for a build.
    DiskShort,
    /// A download failed and is tried again.
    Download,
    /// A download makes no progress.
    DownloadStuck,
    /// No seeder that answers has the build.
    NoSource,
    /// The host lacks what the build of the goal needs to start, so it does not switch to it.
    HostUnready,
    /// The build of the goal failed here and is not tried again.
    Quarantine,
    /// The program ended by itself or cannot be started.
    Crash,
    /// The program runs again after it ended by itself.
    RunsAgain,
    /// The program does not answer its probe well.
    Unhealthy,
    /// The program prints too much.
    Flood,
    /// A hook failed.
    Hook,
    /// Peers sent something wrong and were banned.
    PeersBanned,
    /// Waits: the configuration pins the app to another build.
    Pin,
    /// Waits: a person paused the app on the host.
    Pause,
    /// Waits: the configuration holds the host.
    Hold,
    /// Waits: the rollout has halted.
    Halt,
    /// Waits: the build is here, and the switch has not been ordered or is set for later.
    Stage,
    /// Waits: the percentage or the stages of the rollout have not come to this host.
    Wave,
    /// Waits: too many hosts of the group are down.
    Token,
    /// A kind that this version of Shoal does not know.
    #[serde(other)]
    Unknown,
}

impl TroubleKind {
    /// Every kind, in the order in which they are told.
    pub const ALL: [Self; 28] = [
        Self::Agent,
        Self::NoGoal,
        Self::GoalUnread,
        Self::GoalGone,
        Self::GoalRefused,
        Self::GoalUnstored,
        Self::Damage,
        Self::Disk,
        Self::DiskShort,
        Self::Download,
        Self::DownloadStuck,
        Self::NoSource,
        Self::HostUnready,
        Self::Quarantine,
        Self::Crash,
        Self::RunsAgain,
        Self::Unhealthy,
        Self::Flood,
        Self::Hook,
        Self::PeersBanned,
        Self::Pin,
        Self::Pause,
        Self::Hold,
        Self::Halt,
        Self::Stage,
        Self::Wave,
        Self::Token,
        Self::Unknown,
    ];

    /// The kind as it is written in documents, tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::NoGoal => "no-goal",
            Self::GoalUnread => "goal-unread",
            Self::GoalGone => "goal-gone",
            Self::GoalRefused => "goal-refused",
            Self::GoalUnstored => "goal-unstored",
            Self::Damage => "damage",
            Self::Disk => "disk",
            Self::DiskShort => "disk-short",
            Self::Download => "download",
            Self::DownloadStuck => "download-stuck",
            Self::NoSource => "no-source",
            Self::HostUnready => "host-unready",
            Self::Quarantine => "quarantine",
            Self::Crash => "crash",
            Self::RunsAgain => "runs-again",
            Self::Unhealthy => "unhealthy",
            Self::Flood => "flood",
            Self::Hook => "hook",
            Self::PeersBanned => "peers-banned",
            Self::Pin => "pin",
            Self::Pause => "pause",
            Self::Hold => "hold",
            Self::Halt => "halt",
            Self::Stage => "stage",
            Self::Wave => "wave",
            Self::Token => "token",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the goal store may have another goal than the one that the host follows: what is
    /// said of the goal followed says nothing about the goal of the store then.
    pub const fn hides_goal(self) -> bool {
        matches!(self, Self::GoalUnread | Self::GoalGone | Self::GoalRefused | Self::GoalUnstored)
    }

    /// Whether a download that runs waits for something: what else it does is said with that.
    pub const fn is_of_running_download(self) -> bool {
        matches!(self, Self::DownloadStuck | Self::NoSource)
    }

    /// Whether nothing is wrong: somebody decided that the host waits.
    pub const fn is_wait(self) -> bool {
        matches!(
            self,
            Self::Pin
                | Self::Pause
                | Self::Hold
                | Self::Halt
                | Self::Stage
                | Self::Wave
                | Self::Token
        )
    }

    /// What a person can do about it, or that there is nothing to do.
    pub fn next_step(self, app: &AppName) -> String {
        if let Some(step) = self.end_of_wait(app).or_else(|| self.step_for_bytes()) {
            return step;
        }
        match self {
            Self::Agent => "look at the log of the agent on the host for more: journalctl -u \
                 shoal-agent"
                .into(),
            Self::NoGoal => format!(
                "set one with shoal deploy {app} BUILD; if there is one, compare the app's name \
                 and the goal store with shoal-agent doctor on the host"
            ),
            Self::GoalUnread => "look whether the goal store answers (shoal-agent doctor on the \
                 host); until it does, the host keeps to the goal that it knows"
                .into(),
            Self::GoalGone => format!(
                "set a goal again with shoal deploy {app} BUILD; the host keeps to the one that \
                 it knows until then"
            ),
            Self::GoalRefused => format!(
                "set a goal above what hosts follow with shoal deploy {app} BUILD; the store was \
                 probably lost or restored"
            ),
            Self::GoalUnstored => "free space in the agent's state directory on the host, or make \
                 it writable; the agent tries again every few seconds"
                .into(),
            Self::HostUnready => {
                "give the host what it lacks, it looks again by itself; or mend exec and user of \
                 the app in its configuration and restart the agent"
                    .into()
            }
            Self::Quarantine => format!(
                "deploy a build that is mended; to try this one once more: shoal deploy {app} with \
                 its id"
            ),
            Self::Crash => "look at its output (output.log of the app on the host), and deploy a \
                 build that is mended"
                .into(),
            Self::RunsAgain => "nothing now; output.log of the app on the host has what it \
                 printed before its end"
                .into(),
            Self::Unhealthy => format!(
                "ask its probe by hand and look at output.log of the app on the host; \
                 shoal-agent restart {app} there starts it anew"
            ),
            Self::Flood => {
                "make the program print less, or raise max_output_rate of the app".into()
            }
            Self::Hook => "run the hook by hand on the host, as its user and in the build's \
                 folder; the agent runs it again with the next switch"
                .into(),
            Self::PeersBanned => "nothing for this host, it fetches from others; look at the disk \
                 and memory of those that were banned"
                .into(),
            _ => "upgrade this program: the host is newer and tells more than it \
                 understands"
                .into(),
        }
    }

    /// What to do where the bytes of a build or the state are not as they should be; `None` for any
    /// other trouble.
    fn step_for_bytes(self) -> Option<String> {
        let step = match self {
            Self::Damage => {
                "nothing now, the build is fetched again; if it comes back, find out \
                 who writes below the agent's state directory, and check the disk"
            }
            Self::Disk => {
                "make the state directory on the host writable and free space there; \
                 the agent goes on by itself"
            }
            Self::DiskShort => {
                "free space on the host, or keep fewer builds (keep_builds, \
                 keep_bytes); the agent goes on by itself"
            }
            Self::Download => {
                "look at the cause with shoal-agent doctor on the host; the agent \
                 tries again by itself"
            }
            Self::DownloadStuck => {
                "wait, it goes on by itself; if it lasts, run shoal-agent \
                 doctor on the host, which asks each seeder"
            }
            Self::NoSource => {
                "compare the build's id with the one that was published, or publish \
                 the build into the store of a seeder"
            }
            _ => return None,
        };
        Some(step.into())
    }

    /// What ends a wait; `None` for any other trouble.
    fn end_of_wait(self, app: &AppName) -> Option<String> {
        let step = match self {
            Self::Pin => {
                "take pin out of the host's configuration and reload the agent (SIGHUP)".into()
            }
            Self::Pause => format!("shoal-agent resume {app} on the host"),
            Self::Hold => {
                "take hold out of the host's configuration and reload the agent (SIGHUP)".into()
            }
            Self::Halt => format!(
                "look at what failed (shoal rollout {app}), then go on or give up with shoal \
                 rollout {app} --resume or --abort"
            ),
            Self::Stage => {
                format!("wait for its time, or order the switch with shoal switch {app}")
            }
            Self::Wave => format!("wait, or widen the rollout with shoal rollout {app}"),
            Self::Token => format!(
                "wait, it comes by itself; if it lasts, mend the hosts of the group that do not \
                 serve (shoal status {app}), shoal forget those that are gone, or allow more with \
                 shoal rollout {app} --max-unavailable"
            ),
            _ => return None,
        };
        Some(step)
    }
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One trouble of an app on a host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind.
    pub kind: TroubleKind,
    /// What is the case, on one line and without the next step.
    pub text: String,
}

impl Trouble {
    /// A trouble. The text may come from anywhere; what parts the troubles of a message is taken
    /// out of it.
    pub fn new(kind: TroubleKind, text: impl AsRef<str>) -> Self {
        Self { kind, text: text.as_ref().replace(BETWEEN, ", ") }
    }

    /// The same, with the last line of `output`, if it has one.
    #[must_use]
    pub fn with_last_line(self, output: &str) -> Self {
        match output.lines().next_back() {
            Some(line) => Self::new(self.kind, format!("{}{LAST_LINE}{line}", self.text)),
            None => self,
        }
    }

    /// The same, with how long it is until the next try.
    #[must_use]
    pub fn with_next_try(self, wait: Duration) -> Self {
        let wait = humantime::format_duration(wait);
        Self { text: format!("{}{NEXT_TRY}{wait}", self.text), ..self }
    }

    /// What a person can do about it, or that there is nothing to do.
    pub fn next_step(&self, app: &AppName) -> String {
        let of_agent = (self.kind == TroubleKind::Agent).then(|| step_for(&self.text)).flatten();
        of_agent.map_or_else(|| self.kind.next_step(app), String::from)
    }

    /// The text without the time of the next try: the same trouble each time.
    pub fn text_without_next_try(&self) -> &str {
        self.text.rsplit_once(NEXT_TRY).map_or(&self.text, |(text, _)| text)
    }

    /// The text without the last line of output, for where the whole output stands.
    pub fn text_without_output(&self) -> &str {
        self.text.split(LAST_LINE).next().unwrap_or(&self.text)
    }
}

/// The message of a row that has `troubles`; `None` without any.
pub(crate) fn message_of(troubles: &[Trouble]) -> Option<String> {
    let texts: Vec<&str> = troubles.iter().map(|trouble| trouble.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join(BETWEEN))
}

/// The message with `text` told before it.
pub(crate) fn message_after(text: String, message: Option<String>) -> String {
    [Some(text), message].into_iter().flatten().collect::<Vec<_>>().join(BETWEEN)
}

/// What [`message_of`] joined. What `message` says beyond `kinds`, as that of an older host does,
/// is of an unknown kind.
pub(crate) fn troubles_in(message: &str, kinds: &[TroubleKind]) -> Vec<Trouble> {
    if kinds.is_empty() {
        return vec![Trouble { kind: TroubleKind::Unknown, text: message.into() }];
    }
    let kinds = kinds.iter().copied().chain(std::iter::repeat(TroubleKind::Unknown));
    let texts = message.split(BETWEEN);
    texts.zip(kinds).map(|(text, kind)| Trouble { kind, text: text.into() }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn trouble(kind: TroubleKind, text: &str) -> Trouble {
        Trouble { kind, text: text.into() }
    }

    #[test]
    fn kinds_have_one_spelling_and_a_step_that_stands_alone() {
        let app: AppName = "web".parse().unwrap();
        let mut steps = BTreeSet::new();
        for kind in TroubleKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<TroubleKind>(&json).unwrap(), kind);
            let step = kind.next_step(&app);
            assert!(!step.contains("docs/") && !step.contains("  "), "{kind}: {step}");
            assert!(!step.ends_with('.') && step.len() > 10, "{kind}: {step}");
            assert!(steps.insert(step), "{kind} has the step of another");
        }
        let newer = serde_json::from_str::<TroubleKind>("\"meteor\"").unwrap();
        assert_eq!(newer, TroubleKind::Unknown);
    }

    /// Goal: each thing that is said of an agent as a whole has the step that helps, and not one
    /// that changes nothing, such as a reload for a key that waits for a restart.
    #[test]
    fn what_is_said_of_an_agent_has_the_step_that_helps() {
        let app: AppName = "web".parse().unwrap();
        for (note, step) in [
            ("restart the agent to take over: apps.web.user", "systemctl restart shoal-agent"),
            ("configuration not read again, old settings stay: x", "systemctl reload shoal-agent"),
            ("this host's clock is 60 min behind the seeder's; set it, or run NTP", "chrony"),
            ("two nodes report as host h1: this one, A, and B; give each host", "name of its own"),
            ("this node reports as host h1 and as host h2: two machines have one key", "node.key"),
            ("something new", "journalctl"),
        ] {
            let said = Trouble::new(TroubleKind::Agent, note).next_step(&app);
            assert!(said.contains(step), "{note}: {said}");
        }
        let disk = Trouble::new(TroubleKind::Disk, "the clock is wrong");
        assert_eq!(disk.next_step(&app), TroubleKind::Disk.next_step(&app));
    }

    #[test]
    fn troubles_of_a_message_are_found_again() {
        let troubles = [
            Trouble::new(TroubleKind::Disk, "cannot write; a")
                .with_next_try(Duration::from_secs(5)),
            Trouble::new(TroubleKind::Quarantine, "it failed").with_last_line("one\ntwo; three"),
        ];
        let message = message_of(&troubles).unwrap();
        assert_eq!(
            message,
            "cannot write, a, next try in 5s; it failed, its last output: two, three"
        );
        let kinds = [TroubleKind::Disk, TroubleKind::Quarantine];
        assert_eq!(troubles_in(&message, &kinds), troubles);
        assert_eq!(troubles[1].text_without_output(), "it failed");
        assert_eq!(troubles[0].text_without_next_try(), "cannot write, a");
        assert_eq!(troubles[1].text_without_next_try(), troubles[1].text);
        assert_eq!(message_of(&[]), None);
    }

    #[test]
    fn messages_of_others_are_read_as_far_as_they_go() {
        use TroubleKind::{Hook, Unknown};
        assert_eq!(troubles_in("a; b", &[]), [trouble(Unknown, "a; b")]);
        assert_eq!(troubles_in("a; b", &[Hook]), [trouble(Hook, "a"), trouble(Unknown, "b")]);
        assert_eq!(troubles_in("a", &[Hook, Hook]), [trouble(Hook, "a")]);
    }
}
