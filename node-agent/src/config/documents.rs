//! What operators read about the keys, checked against the key table: `example.toml` explains every
//! key and states its real default, and `docs/configuration.md` says what the table says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use toml::Value;

use super::access::Shown;
use super::keys::{Effect, Key, is_placeholder};
use super::layers::Layers;
use super::table::{AGENT, APP, HOOK_TIMEOUT_TEXT, paths};
use super::values::DURATION;
use super::{AppConfig, Config};
use crate::host::hook::HOOK_TIMEOUT_DEFAULT;

const EXAMPLE: &str = include_str!("../../example.toml");

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

/// If it is set, the document is written instead of compared.
const RENEW_VARIABLE: &str = "RENEW_DOCUMENTS";

const HEAD: &str = "\
# Configuration of the agent

Every key of `shoal-agent`, one line each. [example.toml](../node-agent/example.toml) explains
them at length and is a file to start from; `shoal-agent init` writes a shorter one. A test writes
this page from the table that the agent itself works with (`node-agent/src/config/table.rs`), so it
has all keys, and their real defaults.

Every key can be given in the file (`shoal-agent --config FILE`), as an environment variable, or as
a flag (`--set KEY=VALUE`; some have a flag of their own, see `shoal-agent --help`). Flags win over
variables, variables over the file, and the file over the bootstrap document.
`shoal-agent --check-config` shows what is in effect and where each value came from.

\"Takes effect\" says what makes a running agent take over another value: `SIGHUP`
(`systemctl reload shoal-agent`), or a restart of the agent, which restarts its programs, too. Log
and status name what waits for a restart.

| values | are written as |
|---|---|
| duration | `10s`, `1m 30s`, `1500ms` |
| rate | bytes per second: `40MB`, `16MiB`, `400Mbit` |
| size | bytes: `20GiB`, `128MiB` |
| command | a list, `[\"./server\", \"--port\", \"80\"]`, or one text that is split into words without a shell |
| list | `[\"a\", \"b\"]`; in variables and flags also `a,b` |
| build | the whole id, as `shoal publish` prints it |
| label | `canary`, `stage=prod` |
";

const COLUMNS: &str = "\
| key | values | default | what it is for | takes effect | variable |
|---|---|---|---|---|---|
";

const FOOT: &str = "
(1) With a restart of the agent if `health.notify` is added or removed, because that takes another
start of the program: it says READY=1 on a socket that it is started with.
";

/// A row of the key table, whoever it belongs to.
struct Row {
    /// The whole key; an app's name is `NAME`.
    key: String,
    kind: &'static str,
    is_required: bool,
    default: Option<String>,
    about: &'static str,
    effect: &'static str,
    is_bootstrap: bool,
}

impl Row {
    fn of<C>(prefix: &str, key: &Key<C>, defaults: &C) -> Self {
        let value = match (key.access.show)(defaults) {
            Shown::Value(value) => default_text(&value),
            Shown::Entries(_) | Shown::Unset | Shown::Hidden | Shown::Comment(_) => None,
        };
        Self {
            key: format!("{prefix}{}", key.name),
            kind: key.access.kind,
            is_required: key.missing.is_some(),
            default: key.default.map(String::from).or(value).filter(|_| key.missing.is_none()),
            about: key.about,
            effect: match key.effect {
                Effect::Now => "SIGHUP",
                Effect::NowUnless(_) => "SIGHUP (1)",
                Effect::Restart => "restart",
            },
            is_bootstrap: key.is_bootstrap,
        }
    }

    fn line(&self) -> String {
        let Self { key, kind, default, about, effect, .. } = self;
        let none = if self.is_required { "(required)" } else { "-" };
        let default = default.as_ref().map_or(none, String::as_str);
        let variable = key.replace('.', "__").to_uppercase();
        format!("| `{key}` | {kind} | {default} | {about} | {effect} | `SHOAL_{variable}` |\n")
    }
}

fn agent_rows() -> Vec<Row> {
    let (defaults, keys) = (Config::defaults(), AGENT.iter().copied().flatten());
    keys.map(|key| Row::of("", key, &defaults)).collect()
}

fn app_rows() -> Vec<Row> {
    let (defaults, keys) = (AppConfig::default(), APP.iter().copied().flatten());
    keys.map(|key| Row::of("apps.NAME.", key, &defaults)).collect()
}

/// A default as a person would write it; `None` for a text or a list with nothing in it.
fn default_text(value: &Value) -> Option<String> {
    const MEBIBYTE: u64 = 1 << 20;
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => String::new(),
        other => other.to_string(),
    };
    let bytes: Option<u64> = text.strip_suffix('B').and_then(|number| number.parse().ok());
    match bytes {
        Some(bytes) if bytes % MEBIBYTE == 0 => Some(format!("{}MiB", bytes / MEBIBYTE)),
        _ => (!text.is_empty()).then_some(text),
    }
}

fn document() -> String {
    let mut text = format!("{HEAD}\n## The agent\n\n{COLUMNS}");
    let (agent, app) = (agent_rows(), app_rows());
    text.extend(agent.iter().map(Row::line));
    let bootstrap = agent.iter().filter(|row| row.is_bootstrap);
    let bootstrap: Vec<String> = bootstrap.map(|row| format!("`{}`", row.key)).collect();
    write!(
        text,
        "\nA bootstrap document ([operations](operations.md#starting-a-host-from-nothing)) may have {}.\n\
         \n## An app\n\nThe name of the app is `NAME`; in a variable it is written in capitals.\n\n{COLUMNS}",
        bootstrap.join(", ")
    )
    .unwrap();
    text.extend(app.iter().map(Row::line));
    text + FOOT
}

/// Goal: nobody has to remember to write a key into the document.
#[test]
fn configuration_document_is_the_key_table() {
    if std::env::var_os(RENEW_VARIABLE).is_some() {
        fs::write(DOCUMENT, document()).unwrap();
    }
    let found = fs::read_to_string(DOCUMENT).unwrap_or_default();
    let new = document();
    let differing = new.lines().zip(found.lines()).find(|(new, found)| new != found);
    assert!(
        found == new,
        "docs/configuration.md is not what the key table says, such as {differing:?}; renew it with: \
         {RENEW_VARIABLE}=1 cargo nextest run -p node-agent config::documents"
    );
}

#[test]
fn default_in_words_is_the_real_one() {
    let shown = default_text(&(DURATION.show)(&HOOK_TIMEOUT_DEFAULT));
    assert_eq!(shown.as_deref(), Some(HOOK_TIMEOUT_TEXT));
}

/// What a comment of the example is about: the keys of the line below, or of the table below.
#[derive(Default)]
struct Block {
    comment: String,
    /// As they are called in the key table.
    keys: Vec<String>,
}

/// The blocks of the example. A key that is commented out counts as one that is there.
fn blocks() -> Vec<Block> {
    let (mut blocks, mut of_table, mut comment) = (vec![], Block::default(), String::new());
    let mut head = String::new();
    for line in EXAMPLE.lines() {
        let text = line.trim_start_matches('#').trim();
        if line.is_empty() {
            comment.clear();
        } else if line.starts_with('[') {
            head = line.into();
            let comment = std::mem::take(&mut comment);
            blocks.push(std::mem::replace(&mut of_table, Block { comment, keys: vec![] }));
        } else if text.parse::<toml::Table>().is_ok_and(|table| !table.is_empty()) {
            let keys = keys_of(&format!("{head}\n{text}"));
            of_table.keys.extend(keys.clone());
            blocks.push(Block { comment: std::mem::take(&mut comment), keys });
        } else {
            assert!(line.starts_with('#'), "{line:?} is neither a key nor a comment");
            write!(comment, "{text} ").unwrap();
        }
    }
    blocks.push(of_table);
    blocks
}

/// The keys that `text` sets, as they are called in the key table.
fn keys_of(text: &str) -> Vec<String> {
    let mut layers = Layers::default();
    layers.add_text(Path::new("example.toml"), text).expect(text);
    layers.origins().into_keys().map(|path| name_of(&path)).collect()
}

/// As a key is called in the key table. Parts that all hooks have alike are explained for one.
fn name_of(path: &[String]) -> String {
    let is_this = |name: &&Vec<&str>| {
        let mut parts = name.iter().zip(path);
        name.len() == path.len() && parts.all(|(part, given)| is_placeholder(part) || part == given)
    };
    once(&paths().collect::<Vec<_>>().iter().find(is_this).expect("the key is known").join("."))
}

fn once(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["apps", _, "hooks", _, part @ ("user" | "timeout")] => {
            format!("apps.NAME.hooks.HOOK.{part}")
        }
        _ => key.into(),
    }
}

/// Goal: the example has every key with its real default, and no other.
/// Method: it is taken apart line by line, keys that are commented out included.
#[test]
fn example_has_every_key_with_its_default() {
    let rows: Vec<Row> = agent_rows().into_iter().chain(app_rows()).collect();
    let blocks = blocks();
    let defaults: BTreeMap<String, String> = rows
        .iter()
        .filter_map(|row| Some((once(&row.key), format!("{}.", row.default.as_ref()?))))
        .collect();
    for key in rows.iter().map(|row| once(&row.key)) {
        let mut of_key = blocks.iter().filter(|block| block.keys.contains(&key)).peekable();
        assert!(of_key.peek().is_some(), "{key} is missing in example.toml");
        let Some(default) = defaults.get(&key) else { continue };
        let statement = format!("Default: {default}");
        let is_stated = of_key.any(|block| block.comment.contains(&statement));
        assert!(is_stated, "the comment on {key} in example.toml does not say {statement:?}");
    }
    for Block { comment, keys } in blocks {
        for statement in comment.split("Default: ").skip(1) {
            let mut real = keys.iter().filter_map(|key| defaults.get(key));
            let is_real = real.any(|default| statement.starts_with(default));
            assert!(
                is_real,
                "example.toml states the default {statement:?}, which is none of {keys:?}"
            );
        }
    }
}
