//! Who switches to a goal's build and when: part of the goal document.
//!
//! Every host downloads the build at once, and works out for itself, from this and its own labels,
//! whether it may start the switch. Pure: the same goal and host give the same answer everywhere.
//!
//! Invariant: the order in which hosts come in depends on the app, the host's name and the
//! generation that made the build the goal, and on nothing else, so that widening a rollout only
//! adds hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use p2p_core::Digest;
use serde::{Deserialize, Deserializer, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::fields::is_default;
use crate::documents::limit::{HostCount, HostLimit};
use crate::documents::text;

/// Long enough for "stage=production-eu".
const LABEL_BYTES_MAX: usize = 64;

/// Most labels in one list of a rollout. A region has a few stages and canary groups; whoever wants
/// to list hosts labels those hosts.
pub(crate) const ROLLOUT_LABELS_MAX: usize = 32;

/// Keeps the draw apart from every other use of the digest. Changing it, or anything else in
/// [`Rollout::draw`], would change the order of hosts in the middle of a rollout.
const DRAW_CONTEXT: &[u8] = b"shoal rollout 1";

/// A mark on a host, such as `canary` or `stage=prod`: a short text of `a-z 0-9 - _ . = : /`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// A text that is no label.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a label: expected 1 to {LABEL_BYTES_MAX} of a-z, 0-9 and - _ . = : /")]
pub struct LabelError {
    text: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        let is_known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.=:/".contains(&byte)
        };
        if !text.is_empty() && text.len() <= LABEL_BYTES_MAX && text.bytes().all(is_known) {
            Ok(Self(text))
        } else {
            Err(LabelError { text })
        }
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        text.to_owned().try_into()
    }
}

/// Share of a group that may be down or switching at once where nobody said: a group that serves
/// with a quarter of its hosts away is the rule, and Kubernetes has the same default.
const MAX_UNAVAILABLE_PERCENT: NonZero<u8> = NonZero::new(25).expect("it is not zero");

/// Up to so many hosts the first that fails halts a rollout where nobody said.
const SMALL_ROLLOUT_HOSTS: usize = 50;

/// Share of the hosts of a larger rollout that may fail before it is halted where nobody said.
const MAX_FAILURES_PERCENT: NonZero<u8> = NonZero::new(2).expect("it is not zero");

/// Most bytes of [`Halted::reason`].
const HALT_REASON_BYTES_MAX: usize = 500;

/// Most bytes of [`Halted::by`].
const HALT_AUTHOR_BYTES_MAX: usize = 128;

/// Who switches and when. The default: everybody, a quarter of each group at once.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Generation that made the build the goal; later generations that only widen the rollout or
    /// ask for a restart keep it, and with it the order in which hosts come in. Zero: that of the
    /// goal itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub since: u64,
    /// Share of the hosts that may switch, 0 to 100.
    #[serde(
        default = "everybody",
        skip_serializing_if = "is_everybody",
        deserialize_with = "percent"
    )]
    pub percent: u8,
    /// Hosts with one of these labels are in whatever the percentage says.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "labels")]
    pub canary: BTreeSet<Label>,
    /// Only hosts with one of these labels are in, canaries included; empty: no such condition.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "labels")]
    pub stages: BTreeSet<Label>,
    /// Generation of the deploy that asked for the build. Unlike [`Self::since`] a rollback keeps
    /// it: a host on which the build failed since then does not try it again. Zero:
    /// [`Self::since`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub deployed: u64,
    /// Most hosts of a group that may be down or switching at once; see [`Self::unavailable_max`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_unavailable: HostLimit,
    /// How many failed hosts halt the rollout; see [`Self::failures_max`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_failures: HostLimit,
    /// Whether a rollout that would halt goes back to the last good build instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_revert: bool,
    /// When hosts that have the build may begin to switch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub switch: SwitchTime,
    /// Set once the rollout has halted: hosts that have not begun to switch do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Halted>,
    /// Failed hosts that whoever resumed the rollout knew of; they do not halt it again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tolerated: u32,
    /// Rises with each order to restart the program without a new build: the generation that
    /// ordered it. Zero: none ever did.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: u64,
}

/// When hosts that have a build may begin to switch to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchTime {
    /// As soon as the rest of the rollout lets them.
    #[default]
    Now,
    /// When somebody orders it: until then the build is only downloaded.
    OnOrder,
    /// From this moment on, in milliseconds since 1970 by the host's clock.
    At(u64),
}

/// Why and when a rollout stopped.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halted {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who: a person, or `shoal-seeder` when too many hosts failed.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// Whether reports called for it ([`halt_due`](crate::halt_due)) and not a person: then it is
    /// reverted where the goal wants that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_rule: bool,
    /// Hosts that had failed...
    #[serde(default)]
    pub failed: u32,
    /// ...of so many that reported the app.
    #[serde(default)]
    pub hosts: u32,
}

impl Halted {
    /// A halt with texts cut to what a goal carries.
    pub fn new(at_ms: u64, by: &str, reason: &str) -> Self {
        let by = text::line(by, HALT_AUTHOR_BYTES_MAX);
        let reason = text::line(reason, HALT_REASON_BYTES_MAX);
        Self { at_ms, by, reason, by_rule: false, failed: 0, hosts: 0 }
    }
}

/// A host that asks whether it may switch.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Its configured name.
    pub host: &'a str,
    /// The app.
    pub app: &'a AppName,
    /// Its labels.
    pub labels: &'a BTreeSet<Label>,
    /// Its time, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What an operator changes about a rollout. What is `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RolloutChange {
    /// As [`Rollout::percent`]; above 100 means 100.
    pub percent: Option<u8>,
    /// As [`Rollout::canary`].
    pub canary: Option<BTreeSet<Label>>,
    /// As [`Rollout::stages`]; empty: every host.
    pub stages: Option<BTreeSet<Label>>,
    /// As [`Rollout::max_unavailable`].
    pub max_unavailable: Option<HostLimit>,
    /// As [`Rollout::max_failures`].
    pub max_failures: Option<HostLimit>,
    /// As [`Rollout::auto_revert`].
    pub auto_revert: Option<bool>,
    /// As [`Rollout::switch`].
    pub switch: Option<SwitchTime>,
}

/// Why a host does not start to switch yet.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NotYet {
    /// The rollout has halted.
    Halted {
        /// Why.
        reason: String,
    },
    /// The build is only to be downloaded; somebody will order the switch.
    Staged,
    /// The switch is set for later.
    TooEarly {
        /// From when on, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The rollout goes to other stages.
    OtherStage {
        /// What the host is labelled with in the place of a stage; `None` if it has no such label.
        own: Option<Label>,
        /// The stages that are in.
        stages: BTreeSet<Label>,
    },
    /// The percentage has not come to this host.
    OutsidePercent {
        /// The rollout's percentage.
        percent: u8,
        /// The percentage at which this host is in.
        in_at: u8,
    },
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted { reason } => write!(f, "the rollout is halted: {reason}"),
            Self::Staged => f.write_str("the build is staged, and nobody has ordered the switch"),
            Self::TooEarly { at_ms } => {
                write!(f, "the switch is set for {}", text::moment(*at_ms))
            }
            Self::OtherStage { own: Some(own), stages } => {
                write!(f, "{own} is not in {}", Listed(stages))
            }
            Self::OtherStage { own: None, stages } => {
                write!(f, "this host has none of the labels {}", Listed(stages))
            }
            Self::OutsidePercent { percent: 0, in_at } => {
                write!(f, "only canaries are in (this host is in at {in_at} percent)")
            }
            Self::OutsidePercent { percent, in_at } => {
                write!(f, "not in the first {percent} percent (this host is in at {in_at} percent)")
            }
        }
    }
}

impl NotYet {
    /// Whether it also keeps back a host that has nothing to run: unlike a wave, which only spares
    /// hosts that serve.
    pub const fn is_for_all(&self) -> bool {
        matches!(self, Self::Halted { .. } | Self::Staged | Self::TooEarly { .. })
    }
}

/// Labels in a sentence.
struct Listed<'a>(&'a BTreeSet<Label>);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{label}")?;
        }
        Ok(())
    }
}

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What comes before the `=`, such as `stage`; `None` if there is no `=`.
    fn key(&self) -> Option<&str> {
        self.0.split_once('=').map(|(key, _)| key)
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            since: 0,
            percent: everybody(),
            canary: BTreeSet::new(),
            stages: BTreeSet::new(),
            deployed: 0,
            max_unavailable: HostLimit::Unset,
            max_failures: HostLimit::Unset,
            auto_revert: false,
            switch: SwitchTime::Now,
            halted: None,
            tolerated: 0,
            restart: 0,
        }
    }
}

impl Rollout {
    /// Whether a host may start to switch. Once a host is in, a wider rollout of the same build
    /// never excludes it again. A host that has begun finishes whatever this says.
    ///
    /// # Arguments
    ///
    /// - `goal_generation`: the generation of the goal that this belongs to.
    ///
    /// # Errors
    ///
    /// Why not, for a person.
    pub fn admits(&self, goal_generation: u64, applicant: &Applicant<'_>) -> Result<(), NotYet> {
        let Applicant { host, app, labels, now_ms } = *applicant;
        if let Some(Halted { reason, .. }) = &self.halted {
            return Err(NotYet::Halted { reason: reason.clone() });
        }
        match self.switch {
            SwitchTime::OnOrder => return Err(NotYet::Staged),
            SwitchTime::At(at_ms) if now_ms < at_ms => return Err(NotYet::TooEarly { at_ms }),
            SwitchTime::Now | SwitchTime::At(_) => {}
        }
        if !self.stages.is_empty() && self.stages.is_disjoint(labels) {
            let keys: BTreeSet<_> = self.stages.iter().filter_map(Label::key).collect();
            let is_alike = |label: &&Label| label.key().is_some_and(|key| keys.contains(key));
            let own = labels.iter().find(is_alike).cloned();
            return Err(NotYet::OtherStage { own, stages: self.stages.clone() });
        }
        if !self.canary.is_disjoint(labels) {
            return Ok(());
        }
        let draw = Self::draw(self.since_of(goal_generation), host, app);
        if draw < self.percent {
            Ok(())
        } else {
            Err(NotYet::OutsidePercent { percent: self.percent, in_at: draw + 1 })
        }
    }

    /// The limit on hosts that are down or switching: what was asked for, or a quarter of the
    /// group. `None`: no limit.
    pub const fn unavailable_max(&self) -> Option<HostCount> {
        match self.max_unavailable {
            HostLimit::Unset => Some(HostCount::Percent(MAX_UNAVAILABLE_PERCENT)),
            HostLimit::AtMost(count) => Some(count),
            HostLimit::None => None,
        }
    }

    /// How many failed hosts of `hosts` halt the rollout, those that a resume accepted not counted:
    /// what was asked for, or the first of up to 50, 2 % of more. `None`: it never halts by itself.
    pub fn failures_max(&self, hosts: usize) -> Option<usize> {
        match self.max_failures {
            HostLimit::Unset if hosts <= SMALL_ROLLOUT_HOSTS => Some(1),
            HostLimit::Unset => Some(HostCount::Percent(MAX_FAILURES_PERCENT).of(hosts)),
            HostLimit::AtMost(count) => Some(count.of(hosts)),
            HostLimit::None => None,
        }
    }

    /// The generation of the deploy that asked for the build, for the goal of `goal_generation`.
    pub const fn deployed_of(&self, goal_generation: u64) -> u64 {
        if self.deployed == 0 { self.since_of(goal_generation) } else { self.deployed }
    }

    /// The generation that made the build the goal, for the goal of `goal_generation`.
    pub const fn since_of(&self, goal_generation: u64) -> u64 {
        if self.since == 0 { goal_generation } else { self.since }
    }

    /// Whether every host may switch, though perhaps not all at once.
    pub(crate) fn is_for_everybody(&self) -> bool {
        is_everybody(&self.percent) && self.stages.is_empty()
    }

    /// This rollout as `change` wants it.
    #[must_use]
    pub fn changed(mut self, change: &RolloutChange) -> Self {
        if let Some(percent) = change.percent {
            self.percent = percent.min(everybody());
        }
        if let Some(canary) = &change.canary {
            self.canary.clone_from(canary);
        }
        if let Some(stages) = &change.stages {
            self.stages.clone_from(stages);
        }
        self.max_unavailable = change.max_unavailable.unwrap_or(self.max_unavailable);
        self.max_failures = change.max_failures.unwrap_or(self.max_failures);
        self.auto_revert = change.auto_revert.unwrap_or(self.auto_revert);
        self.switch = change.switch.unwrap_or(self.switch);
        self
    }

    /// The number from 0 to 99 that decides when a host comes in. Every version of Shoal must draw
    /// the same: lengths before the texts, so that no two pairs of app and host are alike.
    fn draw(since: u64, host: &str, app: &AppName) -> u8 {
        let mut bytes = DRAW_CONTEXT.to_vec();
        for text in [app.as_str(), host] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(since.to_le_bytes());
        let digest = Digest::of(&bytes);
        let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        u8::try_from(u64::from_le_bytes(*first) % 100).expect("it is below 100")
    }
}

const fn everybody() -> u8 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_everybody(percent: &u8) -> bool {
    *percent >= everybody()
}

/// Refuses more than everybody while the parser still knows line and column.
fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(deserializer)?;
    if percent > everybody() {
        let reason = format!("percent is {percent}, expected 0 to {}", everybody());
        return Err(serde::de::Error::custom(reason));
    }
    Ok(percent)
}

fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Label>, D::Error> {
    let labels = BTreeSet::<Label>::deserialize(deserializer)?;
    if labels.len() > ROLLOUT_LABELS_MAX {
        let reason = format!("{} labels, the limit is {ROLLOUT_LABELS_MAX}", labels.len());
        return Err(serde::de::Error::custom(reason));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    fn labels(texts: &[&str]) -> BTreeSet<Label> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(percent: u8) -> Rollout {
        Rollout { percent, ..Rollout::default() }
    }

    fn admitted(
        rollout: &Rollout,
        generation: u64,
        host: &str,
        labels: &BTreeSet<Label>,
    ) -> Result<(), NotYet> {
        let app = app("web");
        rollout.admits(generation, &Applicant { host, app: &app, labels, now_ms: 1_000 })
    }

    fn is_in(rollout: &Rollout, generation: u64, host: &str) -> bool {
        admitted(rollout, generation, host, &BTreeSet::new()).is_ok()
    }

    #[test]
    fn draws_are_the_same_in_every_version() {
        // Goal: two versions of the agent never disagree on who is in. Computed once; a change of
        // these numbers breaks rollouts that are under way.
        let draws: Vec<u8> = ["host-1", "host-2", "host-3", ""]
            .into_iter()
            .map(|host| Rollout::draw(7, host, &app("web")))
            .collect();
        assert_eq!(draws, [30, 5, 80, 85]);
        assert_eq!(Rollout::draw(u64::MAX, "host-1", &app("db")), 94);
    }

    #[test]
    fn percentage_takes_about_that_share_of_the_hosts() {
        let hosts: Vec<String> = (0..10_000).map(|number| format!("web-{number:05}.eu")).collect();
        for percent in [0, 1, 10, 50, 90, 100] {
            let count = hosts.iter().filter(|host| is_in(&at(percent), 5, host)).count();
            // Five standard deviations of a fair draw.
            let p = f64::from(percent) / 100.0;
            let slack = 5.0 * (10_000.0 * p * (1.0 - p)).sqrt();
            let off = (f64::from(u32::try_from(count).unwrap()) - 10_000.0 * p).abs();
            assert!(off <= slack, "{count} hosts at {percent} percent");
        }
    }

    #[test]
    fn each_build_has_another_order_and_widening_keeps_it() {
        let hosts: Vec<String> = (0..1_000).map(|number| format!("h{number}")).collect();
        let those_in = |rollout: &Rollout, generation| -> Vec<&String> {
            hosts.iter().filter(|host| is_in(rollout, generation, host)).collect()
        };
        assert_ne!(those_in(&at(30), 5), those_in(&at(30), 6));
        let widened = Rollout { since: 5, ..at(30) };
        assert_eq!(those_in(&at(30), 5), those_in(&widened, 6));
        let (db, labels) = (app("db"), BTreeSet::new());
        let other_app = hosts.iter().filter(|host| {
            let applicant = Applicant { host, app: &db, labels: &labels, now_ms: 0 };
            at(30).admits(5, &applicant).is_ok()
        });
        assert_ne!(those_in(&at(30), 5), other_app.collect::<Vec<_>>());
    }

    #[test]
    fn labels_decide_as_the_table_says() {
        let canary = Rollout { canary: labels(&["canary"]), ..at(0) };
        let stages = labels(&["stage=dev", "stage=staging"]);
        let staged = Rollout { stages: stages.clone(), ..at(100) };
        let both = Rollout { stages, ..canary.clone() };
        let cases: [(&str, &Rollout, &[&str], &str); 9] = [
            ("a canary", &canary, &["canary", "stage=prod"], ""),
            ("no canary", &canary, &["stage=prod"], "only canaries are in"),
            ("in the stage", &staged, &["stage=dev"], ""),
            (
                "in another",
                &staged,
                &["stage=prod"],
                "stage=prod is not in stage=dev, stage=staging",
            ),
            ("in none", &staged, &["canary"], "has none of the labels stage=dev, stage=staging"),
            ("canary of the stage", &both, &["canary", "stage=dev"], ""),
            ("canary of another stage", &both, &["canary", "stage=prod"], "stage=prod is not in"),
            ("stage, but no canary", &both, &["stage=dev"], "only canaries are in"),
            ("not yet", &at(1), &[], "not in the first 1 percent (this host is in at "),
        ];
        for (name, rollout, own, expected) in cases {
            match admitted(rollout, 7, "host-2", &labels(own)) {
                Ok(()) => assert_eq!(expected, "", "{name}"),
                Err(not_yet) => {
                    let text = not_yet.to_string();
                    assert!(!expected.is_empty() && text.contains(expected), "{name}: {text}");
                }
            }
        }
    }

    #[test]
    fn default_fields_are_not_written_and_older_documents_are_read() {
        assert_eq!(serde_json::to_string(&Rollout::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Rollout>("{}").unwrap(), Rollout::default());
        let rollout = Rollout {
            since: 3,
            canary: labels(&["canary"]),
            max_unavailable: "2".parse().unwrap(),
            ..at(10)
        };
        let text = serde_json::to_string(&rollout).unwrap();
        assert_eq!(text, r#"{"since":3,"percent":10,"canary":["canary"],"max_unavailable":2}"#);
        assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
    }

    #[test]
    fn rollouts_out_of_bounds_are_refused() {
        let many: Vec<String> =
            (0..=ROLLOUT_LABELS_MAX).map(|number| format!("l{number}")).collect();
        let just = serde_json::json!({ "canary": many[1..] });
        assert!(serde_json::from_value::<Rollout>(just).is_ok());
        let cases = [
            (serde_json::json!({ "percent": 101 }), "percent is 101"),
            (serde_json::json!({ "percent": -1 }), "-1"),
            (serde_json::json!({ "max_unavailable": 0 }), "a number from 1 on"),
            (serde_json::json!({ "canary": many }), "33 labels, the limit is 32"),
            (serde_json::json!({ "stages": many }), "33 labels"),
            (serde_json::json!({ "stages": ["Prod"] }), "not a label"),
            (serde_json::json!({ "wave": 1 }), "unknown field"),
        ];
        for (document, expected) in cases {
            let error = serde_json::from_value::<Rollout>(document).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn changes_touch_what_they_name() {
        let limit = "2".parse().unwrap();
        let before = Rollout { since: 4, max_unavailable: limit, restart: 3, ..at(10) };
        let nothing = before.clone().changed(&RolloutChange::default());
        assert_eq!(nothing, before);
        let change = RolloutChange {
            percent: Some(200),
            stages: Some(labels(&["dev"])),
            max_unavailable: Some(HostLimit::None),
            max_failures: Some("5%".parse().unwrap()),
            auto_revert: Some(true),
            switch: Some(SwitchTime::At(7)),
            ..RolloutChange::default()
        };
        let stages = labels(&["dev"]);
        let expected = Rollout {
            since: 4,
            restart: 3,
            stages,
            max_unavailable: HostLimit::None,
            max_failures: "5%".parse().unwrap(),
            auto_revert: true,
            switch: SwitchTime::At(7),
            ..Rollout::default()
        };
        assert_eq!(before.changed(&change), expected);
    }

    #[test]
    fn halted_staged_and_timed_rollouts_admit_nobody_yet() {
        let halted = Some(Halted::new(5, "seeder", "exit code 3 on 2 hosts"));
        let cases = [
            (Rollout { halted, ..at(100) }, "halted: exit code 3 on 2 hosts"),
            (Rollout { switch: SwitchTime::OnOrder, ..at(100) }, "nobody has ordered the switch"),
            (Rollout { switch: SwitchTime::At(1_001), ..at(100) }, "set for 1970-01-01T00:00:01Z"),
        ];
        for (rollout, expected) in cases {
            let not_yet = admitted(&rollout, 7, "h", &labels(&["canary"])).unwrap_err();
            assert!(not_yet.is_for_all() && not_yet.to_string().contains(expected), "{not_yet}");
            let json = serde_json::to_string(&rollout).unwrap();
            assert_eq!(serde_json::from_str::<Rollout>(&json).unwrap(), rollout);
        }
        assert!(is_in(&Rollout { switch: SwitchTime::At(1_000), ..at(100) }, 7, "h"));
        let wave = admitted(&at(0), 7, "h", &BTreeSet::new()).unwrap_err();
        assert!(!wave.is_for_all(), "a wave spares hosts that serve");
    }

    #[test]
    fn limits_that_nobody_set_are_safe() {
        let quiet = Rollout::default();
        let unavailable = |hosts| quiet.unavailable_max().unwrap().of(hosts);
        assert_eq!([1, 3, 8, 100].map(unavailable), [1, 1, 2, 25]);
        let failures = |hosts| quiet.failures_max(hosts).unwrap();
        assert_eq!([0, 1, 50, 51, 99, 1_000].map(failures), [1, 1, 1, 1, 1, 20]);
        let none = HostLimit::None;
        let open = Rollout { max_unavailable: none, max_failures: none, ..Rollout::default() };
        assert_eq!((open.unavailable_max(), open.failures_max(8)), (None, None));
    }

    proptest! {
        #[test]
        fn widening_only_adds_hosts(
            host in "[a-z0-9.-]{0,40}",
            generation in 1..1_000_u64,
            narrow in 0..=100_u8,
            wide in 0..=100_u8,
        ) {
            let (narrow, wide) = (narrow.min(wide), narrow.max(wide));
            if is_in(&at(narrow), generation, &host) {
                prop_assert!(is_in(&at(wide), generation, &host));
            }
            prop_assert!(is_in(&at(100), generation, &host));
            prop_assert!(!is_in(&at(0), generation, &host));
        }

        #[test]
        fn reported_percentage_is_the_one_at_which_the_host_comes_in(
            host in "[a-z0-9.-]{0,40}",
            generation in 1..1_000_u64,
        ) {
            let not_yet = admitted(&at(0), generation, &host, &BTreeSet::new());
            let Err(NotYet::OutsidePercent { in_at, .. }) = not_yet else {
                return Err(TestCaseError::fail("nobody is in at 0 percent"));
            };
            prop_assert!(is_in(&at(in_at), generation, &host));
            prop_assert!(!is_in(&at(in_at - 1), generation, &host));
        }
    }
}
