//! What hosts report: one row per host and app, in documents of many rows.
//!
//! Owns the rows and the names of those who write them. Readers are tolerant (unknown fields and
//! phases, missing counters), because hosts are upgraded one after the other. How the documents of
//! all writers become one list is in [`super::inventory`].

use std::fmt;
use std::path::Path;

use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::fields::is_default;
use crate::documents::text::is_hidden;
use crate::documents::trouble::{
    TROUBLES_MAX, Trouble, TroubleKind, message_after, message_of, troubles_in,
};

/// Most rows of one status document: below etcd's limit for a value. A test adds up the bytes.
pub const STATUS_ROWS_MAX: usize = 560;

/// Most bytes of [`HostStatus::last_output`]: the last few lines, which say why a program ended.
/// Twice as much would be a third of a row.
pub const LAST_OUTPUT_BYTES_MAX: usize = 400;

/// How far a host's clock may be off before it is worth a word, in milliseconds. Less is what a
/// clock without NTP loses in a month, and a report may wait for seconds.
pub const CLOCK_OFF_MAX_MS: u64 = 60_000;

/// Where an app stands on one host, as the host reported it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host's configured name.
    pub host: String,
    /// The app.
    pub app: AppName,
    /// Generation of the goal that the host follows; `None` if it knows no goal.
    pub generation: Option<u64>,
    /// The build of that goal.
    pub target: Option<BuildId>,
    /// What `current` resolves to.
    pub current: Option<BuildId>,
    /// What the host is doing.
    pub phase: HostPhase,
    /// Process id of the running program.
    pub pid: Option<u32>,
    /// Bytes of the target build; `None` until its manifest is known.
    pub bytes_total: Option<u64>,
    /// Bytes of it that are stored and verified.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes of it that an interrupted attempt had left.
    #[serde(default)]
    pub bytes_resumed: u64,
    /// Bytes of it that were copied from other builds on the host.
    #[serde(default)]
    pub bytes_reused: u64,
    /// Chunk bytes received from seeders for the target.
    #[serde(default)]
    pub bytes_from_seeders: u64,
    /// Chunk bytes received from other hosts for the target.
    #[serde(default)]
    pub bytes_from_peers: u64,
    /// Chunk bytes of the target sent to others.
    #[serde(default)]
    pub bytes_served: u64,
    /// Cap on chunk bytes of the app sent per second, that of the host included; `None`: no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_limit: Option<u64>,
    /// As above, for what is received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_limit: Option<u64>,
    /// Bytes per second that come in over the last seconds; `None` while nothing is downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_rate: Option<u64>,
    /// Connections for chunks of the target by transport: QUIC...
    #[serde(default)]
    pub links_quic: u32,
    /// ...and TLS over TCP.
    #[serde(default)]
    pub links_tcp: u32,
    /// Milliseconds from learning the goal to running it; `None` until then.
    pub elapsed_ms: Option<u64>,
    /// What went wrong or is waited for, in words for a person; see [`HostStatus::troubles`].
    pub message: Option<String>,
    /// The kinds of what [`Self::message`] tells, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<TroubleKind>,
    /// What the switch waits for in [`HostPhase::Waiting`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitReason>,
    /// A build that failed here and is not tried again until the goal changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<BuildId>,
    /// Why that build failed here, without the advice that [`Self::message`] has around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The last lines that the program or hook that failed wrote, cut by [`last_output`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output: Option<String>,
    /// How often the program of `current` ended by itself, or was not healthy, and was started
    /// again since the switch to it or the last order to restart it, as far as the agent that runs
    /// saw.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restarts: u32,
    /// What the health probe said last of the program of `current`; `None` without a probe, before
    /// its first answer, and while a switch or an ordered restart waits for its first good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// The host's key, as [`NodeId`](p2p_core::NodeId) prints it: proven to the seeder that took
    /// the report, or claimed where the host wrote the row itself. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The group in which the host's absence counts against `max_unavailable`; empty where the
    /// host has none, `None` if its agent is of a version that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// When the host wrote this, in milliseconds since 1970, by its clock.
    pub updated_at_ms: u64,
    /// When this was received, in milliseconds since 1970, by the receiver's clock: that of the
    /// seeder, or of the file system that the row was written to. Zero: not known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub received_at_ms: u64,
}

impl HostStatus {
    /// The row of a host that has done nothing for `app` yet. Its `updated_at_ms` is zero: whoever
    /// reports the row stamps it.
    pub fn new(host: impl Into<String>, app: AppName) -> Self {
        Self {
            host: host.into(),
            app,
            generation: None,
            target: None,
            current: None,
            phase: HostPhase::NoGoal,
            pid: None,
            bytes_total: None,
            bytes_done: 0,
            bytes_resumed: 0,
            bytes_reused: 0,
            bytes_from_seeders: 0,
            bytes_from_peers: 0,
            bytes_served: 0,
            upload_limit: None,
            download_limit: None,
            download_rate: None,
            links_quic: 0,
            links_tcp: 0,
            elapsed_ms: None,
            message: None,
            troubles: vec![],
            waiting_for: None,
            quarantined: None,
            failure: None,
            last_output: None,
            restarts: 0,
            healthy: None,
            node: None,
            group: None,
            updated_at_ms: 0,
            received_at_ms: 0,
        }
    }

    /// When the host was last heard of, by the receiver's clock where that is known: a host whose
    /// clock is wrong is not gone.
    pub const fn heard_at_ms(&self) -> u64 {
        if self.received_at_ms == 0 { self.updated_at_ms } else { self.received_at_ms }
    }

    /// The row with `troubles`: their texts as its message, their kinds beside it.
    #[must_use]
    pub fn with_troubles(self, troubles: &[Trouble]) -> Self {
        let kinds = troubles.iter().take(TROUBLES_MAX).map(|trouble| trouble.kind).collect();
        Self { message: message_of(troubles), troubles: kinds, ..self }
    }

    /// Puts a trouble before those that the row has.
    pub fn add_trouble(&mut self, trouble: Trouble) {
        self.message = Some(message_after(trouble.text, self.message.take()));
        self.troubles.insert(0, trouble.kind);
        self.troubles.truncate(TROUBLES_MAX);
    }

    /// The troubles that the row tells of.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.message.as_ref().map_or_else(Vec::new, |message| troubles_in(message, &self.troubles))
    }

    /// Whether the goal's build runs, is good, and the goal store is not known to have another
    /// goal. A store that cannot be read is a trouble of its own: an alarm of every host at once,
    /// because etcd restarts, would hide what it is.
    pub fn is_at_goal(&self) -> bool {
        let is_other = |kind: &TroubleKind| kind.hides_goal() && *kind != TroubleKind::GoalUnread;
        self.phase == HostPhase::Running && !self.troubles.iter().any(is_other)
    }

    /// How far the host's clock was off when it reported, in milliseconds; negative: behind. `None`
    /// if the receiver's time is not known.
    pub fn clock_off_ms(&self) -> Option<i64> {
        let off = i128::from(self.updated_at_ms) - i128::from(self.received_at_ms);
        (self.received_at_ms != 0).then(|| i64::try_from(off).unwrap_or(i64::MAX))
    }

    /// The same if it is worth a word: more than [`CLOCK_OFF_MAX_MS`].
    pub fn clock_trouble_ms(&self) -> Option<i64> {
        self.clock_off_ms().filter(|off_ms| off_ms.unsigned_abs() > CLOCK_OFF_MAX_MS)
    }
}

/// The end of what a program wrote, as a status carries it: at most [`LAST_OUTPUT_BYTES_MAX`]
/// bytes, whole characters, only line feeds for control characters. `None` if nothing is left.
pub fn last_output(output: &str) -> Option<String> {
    // Replaced first: every character that is left takes at most two bytes more in JSON than here.
    let clean: String = output
        .chars()
        .map(|letter| if is_hidden(letter) && letter != '\n' { ' ' } else { letter })
        .collect();
    let clean = clean.trim();
    let start = clean.ceil_char_boundary(clean.len().saturating_sub(LAST_OUTPUT_BYTES_MAX));
    let end = clean[start..].trim_start();
    (!end.is_empty()).then(|| end.to_owned())
}

/// What a host is doing about its goal.
///
/// Usual order: `NoGoal`, `Locating`, `Downloading`, `Verifying`, `Waiting`, `Switching`,
/// `Checking`, `Running`. A new goal leads from any phase to `Locating` (or to `Waiting` or
/// `Switching` if the build is here), a build that fails from `Switching` and `Checking` to
/// `RolledBack` (or to `Failed` if there is no good one), another fault from any phase to `Failed`,
/// and the end of the agent to `Stopped`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HostPhase {
    /// No goal is set for the app.
    NoGoal,
    /// Looking for a node that has the build.
    Locating,
    /// Exchanging chunks.
    Downloading,
    /// Reading the build back and checking it.
    Verifying,
    /// The build is here and the switch waits: for its wave, for a token, or for a person who
    /// holds, paused or pinned the host; the message says for which.
    Waiting,
    /// Stopping the old program and starting the new one.
    Switching,
    /// The target build runs, and must stay healthy for a while before it counts as good.
    Checking,
    /// The target build runs.
    Running,
    /// The goal's build failed here; the previous good one runs. It stays so until the goal
    /// changes.
    RolledBack,
    /// The agent stopped; its programs with it.
    Stopped,
    /// Something failed that needs a look; see the message. The host keeps trying where that helps.
    Failed,
    /// A phase that this version of Shoal does not know: the host is newer than the reader.
    #[serde(other)]
    Unknown,
}

impl HostPhase {
    /// The phase as it is written in documents and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoGoal => "no-goal",
            Self::Locating => "locating",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Waiting => "waiting",
            Self::Switching => "switching",
            Self::Checking => "checking",
            Self::Running => "running",
            Self::RolledBack => "rolled-back",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for HostPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a switch waits for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The rollout has not reached this host yet, because of its percentage or its stages.
    Wave,
    /// Too many hosts of the group are down; its turn comes by itself.
    Token,
    /// The configuration of the host holds the app.
    Hold,
    /// Somebody paused the app on the host.
    Pause,
    /// The configuration of the host pins the app to another build.
    Pin,
    /// The build failed here, and is not tried again for this goal.
    Quarantine,
    /// The rollout has halted.
    Halt,
    /// The build is only to be downloaded until somebody orders the switch, or until its time.
    Stage,
    /// A reason that this version of Shoal does not know.
    #[serde(other)]
    Unknown,
}

impl WaitReason {
    /// The reason as it is written in documents and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wave => "wave",
            Self::Token => "token",
            Self::Hold => "hold",
            Self::Pause => "pause",
            Self::Pin => "pin",
            Self::Quarantine => "quarantine",
            Self::Halt => "halt",
            Self::Stage => "stage",
            Self::Unknown => "unknown",
        }
    }

    /// The trouble that such a wait is.
    pub const fn kind(self) -> TroubleKind {
        match self {
            Self::Wave => TroubleKind::Wave,
            Self::Token => TroubleKind::Token,
            Self::Hold => TroubleKind::Hold,
            Self::Pause => TroubleKind::Pause,
            Self::Pin => TroubleKind::Pin,
            Self::Quarantine => TroubleKind::Quarantine,
            Self::Halt => TroubleKind::Halt,
            Self::Stage => TroubleKind::Stage,
            Self::Unknown => TroubleKind::Unknown,
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What one writer reports. An object around the rows, so that later versions can add to it.
#[derive(Debug, Serialize, Deserialize)]
struct StatusDocument<Rows> {
    rows: Rows,
}

/// One writer's document on one line: it is rewritten often and read by programs.
pub(crate) fn status_to_json(rows: &[HostStatus]) -> Vec<u8> {
    serde_json::to_vec(&StatusDocument { rows }).expect("a status has only text and numbers")
}

/// One writer's document, laid out for people who look into a status directory.
pub(crate) fn status_to_pretty_json(rows: &[HostStatus]) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&StatusDocument { rows })
        .expect("a status has only text and numbers");
    bytes.push(b'\n');
    bytes
}

/// The rows of one writer's document.
pub(crate) fn status_from_json(bytes: &[u8]) -> Result<Vec<HostStatus>, serde_json::Error> {
    serde_json::from_slice::<StatusDocument<Vec<HostStatus>>>(bytes).map(|document| document.rows)
}

/// A file's name has 255 bytes on every file system in use; this leaves room for suffixes.
const WRITER_PART_BYTES_MAX: usize = 128;

/// Why a text cannot name the writer of a status document.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} cannot name the writer of a status: expected NAME or NAME/SHARD, each 1 to \
     {WRITER_PART_BYTES_MAX} of A-Z, a-z, 0-9, '-', '_' and '.', starting with a letter or digit \
     and not ending in .json"
)]
pub struct WriterNameError {
    text: String,
}

/// Checks a name for [`GoalStore::put_status`](crate::store::GoalStore::put_status), such as a
/// host's name from a configuration file: it becomes a file's name or part of a key.
///
/// # Errors
///
/// The text is neither `NAME` nor `NAME/SHARD` in the letters that are allowed.
pub(crate) fn check_writer_name(text: &str) -> Result<(), WriterNameError> {
    let part_is_safe = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.len() <= WRITER_PART_BYTES_MAX
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            // NAME/ is a directory beside the files NAME.json.
            && Path::new(part).extension().is_none_or(|extension| extension != "json")
    };
    if text.split('/').count() <= 2 && text.split('/').all(part_is_safe) {
        Ok(())
    } else {
        Err(WriterNameError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(host: &str, app: &str, updated_at_ms: u64) -> HostStatus {
        HostStatus { updated_at_ms, ..HostStatus::new(host, app.parse().unwrap()) }
    }

    #[test]
    fn documents_round_trip_in_both_layouts() {
        let rows = [row("h1", "web", 1), HostStatus { pid: Some(7), ..row("h2", "web", 2) }];
        assert_eq!(status_from_json(&status_to_json(&rows)).unwrap(), rows);
        assert_eq!(status_from_json(&status_to_pretty_json(&rows)).unwrap(), rows);
    }

    #[test]
    fn reader_tolerates_newer_and_older_writers() {
        let newer = r#"{"zone":"z1","rows":[{"host":"h","app":"web","phase":"baking","mood":1,
            "updated_at_ms":5}]}"#;
        let rows = status_from_json(newer.as_bytes()).unwrap();
        assert_eq!(rows, [HostStatus { phase: HostPhase::Unknown, ..row("h", "web", 5) }]);
    }

    #[test]
    fn phases_have_one_spelling() {
        use {HostPhase as Phase, WaitReason as Wait};
        let phases = [
            Phase::NoGoal,
            Phase::Locating,
            Phase::Downloading,
            Phase::Verifying,
            Phase::Waiting,
            Phase::Switching,
            Phase::Checking,
            Phase::Running,
            Phase::RolledBack,
            Phase::Stopped,
            Phase::Failed,
            Phase::Unknown,
        ];
        for phase in phases {
            let json = serde_json::to_string(&phase).unwrap();
            assert_eq!(json, format!("\"{phase}\""));
            assert_eq!(serde_json::from_str::<HostPhase>(&json).unwrap(), phase);
        }
        assert_eq!(format!("[{:>9}]", Phase::Failed), "[   failed]");
        let reasons = [
            Wait::Wave,
            Wait::Token,
            Wait::Hold,
            Wait::Pause,
            Wait::Pin,
            Wait::Quarantine,
            Wait::Halt,
            Wait::Stage,
            Wait::Unknown,
        ];
        for reason in reasons {
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
            assert_eq!(serde_json::from_str::<WaitReason>(&json).unwrap(), reason);
        }
        assert_eq!(serde_json::from_str::<WaitReason>("\"mood\"").unwrap(), Wait::Unknown);
    }

    #[test]
    fn rows_of_full_documents_stay_below_the_limit_of_a_value() {
        let build = BuildId::of_manifest(b"x");
        let row = HostStatus {
            generation: Some(u64::MAX),
            target: Some(build),
            current: Some(build),
            pid: Some(u32::MAX),
            bytes_total: Some(u64::MAX),
            bytes_done: u64::MAX,
            bytes_resumed: u64::MAX,
            bytes_reused: u64::MAX,
            bytes_from_seeders: u64::MAX,
            bytes_from_peers: u64::MAX,
            bytes_served: u64::MAX,
            upload_limit: Some(u64::MAX),
            download_limit: Some(u64::MAX),
            download_rate: Some(u64::MAX),
            links_quic: u32::MAX,
            links_tcp: u32::MAX,
            elapsed_ms: Some(u64::MAX),
            message: Some("m".repeat(512)),
            troubles: vec![TroubleKind::DownloadStuck; TROUBLES_MAX],
            waiting_for: Some(WaitReason::Quarantine),
            quarantined: Some(build),
            failure: Some("f".repeat(256)),
            node: Some("n".repeat(64)),
            group: Some("g".repeat(64)),
            received_at_ms: u64::MAX,
            last_output: last_output(&"o\n".repeat(LAST_OUTPUT_BYTES_MAX)),
            restarts: u32::MAX,
            healthy: Some(false),
            ..row(&"h".repeat(64), &"a".repeat(64), u64::MAX)
        };
        let size = status_to_json(&vec![row; STATUS_ROWS_MAX]).len();
        assert!(size <= crate::store::etcd::VALUE_BYTES_MAX, "{size}");
    }

    #[test]
    fn row_carries_the_troubles_of_its_host() {
        let troubles = vec![Trouble::new(TroubleKind::Hook, "it failed; again"); TROUBLES_MAX + 1];
        let mut full = row("h", "web", 1).with_troubles(&troubles);
        assert_eq!(full.troubles()[..TROUBLES_MAX], troubles[..TROUBLES_MAX]);
        full.add_trouble(Trouble::new(TroubleKind::Agent, "restart"));
        assert_eq!(
            (full.troubles.len(), full.troubles()[0].kind),
            (TROUBLES_MAX, TroubleKind::Agent)
        );
        let newer = r#"{"rows":[{"host":"h","app":"web","phase":"running","troubles":["meteor"],
            "message":"it is near","updated_at_ms":5}]}"#;
        let read = status_from_json(newer.as_bytes()).unwrap();
        assert_eq!(read[0].troubles(), [Trouble::new(TroubleKind::Unknown, "it is near")]);
        assert!(read[0].is_at_goal());
        for (kind, is_at_goal) in [
            (TroubleKind::GoalUnstored, false),
            (TroubleKind::GoalRefused, false),
            (TroubleKind::GoalUnread, true),
            (TroubleKind::GoalGone, false),
            (TroubleKind::Flood, true),
        ] {
            let row = read[0].clone().with_troubles(&[Trouble::new(kind, "x")]);
            assert_eq!(row.is_at_goal(), is_at_goal, "{kind}");
        }
    }

    #[test]
    fn store_that_cannot_be_read_does_not_put_every_host_off_its_goal() {
        let at_goal = |kinds: &[TroubleKind]| {
            let running = HostStatus { phase: HostPhase::Running, ..row("h", "web", 1) };
            HostStatus { troubles: kinds.to_vec(), ..running }.is_at_goal()
        };
        assert!(at_goal(&[]) && at_goal(&[TroubleKind::GoalUnread]));
        for kind in [TroubleKind::GoalUnstored, TroubleKind::GoalRefused, TroubleKind::GoalGone] {
            assert!(!at_goal(&[kind, TroubleKind::GoalUnread]), "{kind:?}");
        }
    }

    #[test]
    fn last_output_is_the_end_and_bounded() {
        assert_eq!(last_output(" \n\u{1b}\n"), None);
        assert_eq!(last_output("a\u{1b}[1mb\r\nc\n").as_deref(), Some("a [1mb \nc"));
        assert_eq!(last_output("a\u{202e}b\n\u{200b}").as_deref(), Some("a b"));
        let long = "x".repeat(LAST_OUTPUT_BYTES_MAX) + "\u{e4}end";
        let cut = last_output(&long).unwrap();
        assert!(cut.len() == LAST_OUTPUT_BYTES_MAX && cut.ends_with("x\u{e4}end"), "{cut}");
        let wide = last_output(&"\u{1f41f}".repeat(LAST_OUTPUT_BYTES_MAX)).unwrap();
        assert!(wide.len() <= LAST_OUTPUT_BYTES_MAX && wide.len() > LAST_OUTPUT_BYTES_MAX - 4);
    }

    #[test]
    fn fields_that_say_nothing_are_not_written() {
        let text = serde_json::to_string(&row("h", "web", 1)).unwrap();
        for field in ["waiting_for", "quarantined", "troubles", "restarts", "rate", "healthy"] {
            assert!(!text.contains(field), "{text}");
        }
    }

    #[test]
    fn writer_names_are_strict() {
        let long = "a".repeat(129);
        for good in ["h", "Host-1.example_com", "12D3KooW/0", "12D3KooW/shard.1"] {
            assert_eq!(check_writer_name(good), Ok(()));
        }
        let bad = [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a/b/c",
            ".",
            "..",
            "../a",
            "a/..",
            ".a",
            "a/.b",
            "-a",
            "a b",
            "a\\b",
            "a\0",
            "a\n",
            "w\u{e4}b",
            "a.json",
            "a.json/b",
            long.as_str(),
        ];
        for text in bad {
            let error = check_writer_name(text).unwrap_err().to_string();
            assert!(error.contains("expected NAME or NAME/SHARD"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn writer_names_never_leave_the_directory(text in "[a./\\\\ -]{0,12}") {
            if check_writer_name(&text).is_ok() {
                let path = Path::new(&text);
                let normal = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(normal) && path.components().count() <= 2);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(status_from_json(&bytes).is_err());
        }
    }
}
