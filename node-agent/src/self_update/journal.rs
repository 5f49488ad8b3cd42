//! The journal as a stub of any age reads it: the fields that it needs, and the rest as it is.

use std::path::Path;

use p2p_core::BuildId;
use serde_json::{Map, Value, json};

use std::io;

use crate::state::app_dir::FAILURES_REMEMBERED_MAX;
use crate::state::durable;

/// See the head of this file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct StubJournal {
    /// What `current` is to point to.
    pub(super) to: BuildId,
    /// Builds that ran well here, newest first.
    pub(super) good: Vec<BuildId>,
    /// Starts that are left to `to`.
    pub(super) tries_left: u32,
    fields: Map<String, Value>,
}

impl StubJournal {
    /// The journal in `directory`; `None` if there is none that can be understood.
    pub(super) fn load(directory: &Path) -> Option<Self> {
        let fields: Map<String, Value> =
            durable::read_json(&directory.join("journal")).ok().flatten()?;
        Self::of_fields(fields)
    }

    pub(super) fn of_fields(fields: Map<String, Value>) -> Option<Self> {
        let build = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let good = fields.get("good").and_then(Value::as_array);
        let tries = fields.get("tries_left").and_then(Value::as_u64).unwrap_or_default();
        Some(Self {
            to: fields.get("to").and_then(build)?,
            good: good.into_iter().flatten().filter_map(build).collect(),
            tries_left: u32::try_from(tries).unwrap_or(u32::MAX),
            fields,
        })
    }

    fn phase(&self) -> &str {
        self.fields.get("phase").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn is_switching(&self) -> bool {
        self.phase() == "switching"
    }

    pub(super) fn is_rolling_back(&self) -> bool {
        self.phase() == "rolling-back"
    }

    /// The build that failed here last.
    pub(super) fn failed_build(&self) -> Option<BuildId> {
        self.fields.get("failed")?.get("build")?.as_str()?.parse().ok()
    }

    pub(super) fn set_tries_left(&mut self, tries_left: u32) {
        self.tries_left = tries_left;
        self.fields.insert("tries_left".into(), tries_left.into());
    }

    pub(super) fn set_rolling_back(&mut self, to: BuildId) {
        self.fields.insert("from".into(), self.to.to_string().into());
        self.fields.insert("to".into(), to.to_string().into());
        self.fields.insert("phase".into(), "rolling-back".into());
        self.fields.insert("elapsed_ms".into(), Value::Null);
        self.to = to;
        self.set_tries_left(0);
    }

    /// Notes that `build` failed at `at_ms` for `reason`, while the goal of generation `since` was
    /// followed. It does not count as a build that ran well any more.
    pub(super) fn set_failed(
        &mut self,
        build: BuildId,
        since: Option<u64>,
        reason: &str,
        at_ms: u64,
    ) {
        let generation = self.fields.get("generation").and_then(Value::as_u64);
        let since = since.or(generation).unwrap_or_default();
        let failed = json!({ "build": build.to_string(), "since": since, "reason": reason, "output": "", "at_ms": at_ms });
        let older = self.fields.insert("failed".into(), failed);
        self.remember(older.filter(Value::is_object), build);
        self.good.retain(|good| *good != build);
        let good: Vec<_> = self.good.iter().map(ToString::to_string).collect();
        self.fields.insert("good".into(), good.into());
    }

    /// Keeps the failure that was the last one until `build` failed, as the agent does.
    fn remember(&mut self, older: Option<Value>, build: BuildId) {
        let before = self.fields.remove("failed_before");
        let before = before.and_then(|before| before.as_array().cloned()).unwrap_or_default();
        let is_other = |failed: &Value| {
            failed.get("build").and_then(Value::as_str) != Some(build.to_string().as_str())
        };
        let mut known: Vec<Value> = older.into_iter().chain(before).filter(is_other).collect();
        known.truncate(FAILURES_REMEMBERED_MAX - 1);
        for failed in known.iter_mut().filter_map(Value::as_object_mut) {
            failed.insert("output".into(), "".into());
        }
        if !known.is_empty() {
            self.fields.insert("failed_before".into(), known.into());
        }
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        durable::write_json(&directory.join("journal"), &self.fields).map_err(|error| error.source)
    }
}
