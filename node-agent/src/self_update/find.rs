//! Finds the app that is the agent, also in a configuration that is newer than this binary.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::AgentApp;
use crate::config::{Config, Inputs, STATE_DEFAULT};

/// The app with `is_agent`; `None` if there is none.
pub(crate) fn find_agent_app(inputs: &Inputs, config: Option<&Config>) -> Option<AgentApp> {
    let Some(config) = config else { return find_leniently(inputs) };
    let (name, _) = config.apps.iter().find(|(_, app)| app.is_agent)?;
    Some(AgentApp { state: config.state.clone(), name: name.to_string() })
}

/// Of a configuration with mistakes, or with keys that only a newer agent knows, takes what a stub
/// needs: the agent that it starts judges the rest.
fn find_leniently(inputs: &Inputs) -> Option<AgentApp> {
    let text = inputs.file.as_ref().and_then(|path| fs::read_to_string(path).ok());
    let table: toml::Table = text.and_then(|text| text.parse().ok()).unwrap_or_default();
    let is_true = |text: &str| text.trim() == "true";

    let of_file = table.get("state").and_then(toml::Value::as_str).map(String::from);
    let of_variable = inputs.environment.iter().find(|(name, _)| name == "SHOAL_STATE");
    let of_flag = inputs.flags.iter().rev().find(|flag| flag.key == "state");
    let state = of_flag
        .and_then(|flag| flag.value.clone())
        .or_else(|| of_variable.map(|(_, value)| value.clone()))
        .or(of_file)
        .unwrap_or_else(|| STATE_DEFAULT.into());

    let apps = table.get("apps").and_then(toml::Value::as_table);
    let in_file = apps.into_iter().flatten().find_map(|(name, app)| {
        let is_agent = app.get("is_agent").and_then(toml::Value::as_bool);
        (is_agent == Some(true)).then(|| name.clone())
    });
    let in_variables = || {
        inputs.environment.iter().find_map(|(name, value)| {
            let name = name.strip_prefix("SHOAL_APPS__")?.strip_suffix("__IS_AGENT")?;
            is_true(value).then(|| name.to_ascii_lowercase())
        })
    };
    let in_flags = || {
        inputs.flags.iter().find_map(|flag| {
            let name = flag.key.strip_prefix("apps.")?.strip_suffix(".is_agent")?;
            flag.value.as_deref().is_some_and(is_true).then(|| name.trim_matches('"').to_owned())
        })
    };
    let name = in_file.or_else(in_variables).or_else(in_flags)?;
    // The name becomes part of a path.
    name.parse::<goal_state::AppName>().ok()?;
    Some(AgentApp { state: PathBuf::from(state), name })
}

/// The generation of the goal of `app` that this host follows.
pub(super) fn generation_of(state: &Path, app: &str) -> Option<u64> {
    let text = fs::read(state.join("goal.json")).ok()?;
    let goals: Value = serde_json::from_slice(&text).ok()?;
    goals.get(app)?.get("generation")?.as_u64()
}
