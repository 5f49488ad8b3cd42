//! Collects keys and raw values from the bootstrap document, the file, the environment and the
//! flags.
//!
//! Invariant: of each key only the value of the highest layer is kept, and every key is known. A
//! table is never a value: it is taken apart, so that a flag can change one key of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{self, Node, PathError};
use super::values::Raw;
use super::{ConfigError, VARIABLE_PREFIX};

/// Variables with the prefix that are no settings: they belong to the command line, or are what an
/// agent hands to the programs it runs, of which this agent may be one.
const OTHER_VARIABLES: [&str; 11] = [
    "APP",
    "APP_DIR",
    "BOOTSTRAP",
    "BOOTSTRAP_URL",
    "BUILD",
    "CONFIG",
    "HOOK",
    "INSTANCE",
    "LOG",
    "LOG_LEVEL",
    "MARK",
];

/// Begins the names of what a stub hands to the agent that it starts; a newer stub may hand over
/// more.
const STUB_VARIABLE_PREFIX: &str = "STUB";

/// Where the settings come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// Settings of the document that this host was started from, below all others.
    pub bootstrap: Option<BootstrapSettings>,
    /// The configuration file; `None` if there is none.
    pub file: Option<PathBuf>,
    /// The process's environment. Entries without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Settings given as flags, in order; of equal keys the last one counts.
    pub flags: Vec<FlagSetting>,
}

/// The settings that a bootstrap document gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BootstrapSettings {
    /// Where the document came from, for messages.
    pub source: String,
    /// Values by key of the agent, such as `goal`.
    pub settings: toml::Table,
}

/// A setting given on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FlagSetting {
    /// The flag, for messages.
    pub flag: String,
    /// The key, dots between its parts.
    pub key: String,
    /// The value: plain text, or TOML where the key takes more than text. `None` only declares the
    /// app that `key` names.
    pub value: Option<String>,
}

/// The place a setting came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// The bootstrap document.
    Bootstrap {
        /// Where that came from.
        source: String,
    },
    /// A line of the configuration file.
    File {
        /// The file, as it was given.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag.
    Flag {
        /// The flag with its dashes.
        flag: String,
    },
    /// Nowhere: the agent's own default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap { source } => f.write_str(source),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => f.write_str(name),
            Self::Flag { flag } => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it was given.
#[derive(Clone, Debug)]
struct Setting {
    value: Raw,
    origin: Origin,
}

/// The settings of all layers, the highest of each key.
#[derive(Debug, Default)]
pub(super) struct Layers {
    settings: BTreeMap<Vec<String>, Setting>,
    apps: BTreeMap<String, Origin>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    pub(super) fn collect(inputs: &Inputs) -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        if let Some(bootstrap) = &inputs.bootstrap {
            layers.add_bootstrap(bootstrap)?;
        }
        if let Some(path) = &inputs.file {
            layers.add_file(path)?;
        }
        // In order of names, so that the first mistake reported does not depend on the shell.
        let environment: BTreeMap<_, _> = inputs.environment.iter().cloned().collect();
        for (name, value) in environment {
            layers.add_variable(&name, value)?;
        }
        for setting in &inputs.flags {
            layers.add_flag(setting)?;
        }
        Ok(layers)
    }

    /// The value of a key by `parse`; `None` if no layer sets it.
    pub(super) fn value<T>(
        &self,
        path: &[&str],
        parse: impl FnOnce(&Raw) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let owned: Vec<String> = path.iter().copied().map(String::from).collect();
        let Some(Setting { value, origin }) = self.settings.get(&owned) else { return Ok(None) };
        parse(value).map(Some).map_err(|reason| ConfigError::Invalid {
            origin: origin.clone(),
            key: path.join("."),
            reason,
        })
    }

    /// Names of all apps, each with the first place that named it.
    pub(super) fn apps(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.apps.iter().map(|(name, origin)| (name.as_str(), origin))
    }

    /// Names of the keys directly below the table at `path`, each once, in order.
    pub(super) fn names(&self, path: &[&str]) -> Vec<&str> {
        let below = self.settings.keys().filter_map(|key| {
            let (prefix, rest) = key.split_at_checked(path.len())?;
            (prefix == path).then_some(rest.first()?.as_str())
        });
        let mut names: Vec<&str> = below.collect();
        names.dedup();
        names
    }

    /// Where a key was given; `None` if no layer sets it.
    pub(super) fn origin(&self, path: &[&str]) -> Option<&Origin> {
        self.settings.iter().find(|(key, _)| *key == path).map(|(_, setting)| &setting.origin)
    }

    /// A complaint about the value of a key that is given.
    pub(super) fn complaint(&self, path: &[&str], reason: impl Into<String>) -> ConfigError {
        let (key, reason) = (path.join("."), reason.into());
        match self.origin(path) {
            Some(origin) => ConfigError::Invalid { origin: origin.clone(), key, reason },
            None => ConfigError::Invalid { origin: Origin::Default, key, reason },
        }
    }

    pub(super) fn origins(&self) -> BTreeMap<Vec<String>, Origin> {
        self.settings.iter().map(|(path, setting)| (path.clone(), setting.origin.clone())).collect()
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        self.add_text(path, &text)
    }

    /// Adds what the file at `path` says or is to say.
    pub(super) fn add_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let file = SourceFile { path, text };
        let spans = DeTable::parse(text).map_err(|error| file.syntax_error(&error))?;
        let values: toml::Table = text.parse().map_err(|error| file.syntax_error(&error))?;
        self.add_table(&file, &mut vec![], (schema::root(), spans.get_ref()), &values)
    }

    fn add_bootstrap(&mut self, bootstrap: &BootstrapSettings) -> Result<(), ConfigError> {
        let origin = Origin::Bootstrap { source: bootstrap.source.clone() };
        for (key, value) in &bootstrap.settings {
            let path = known_key(&[key.as_str()], &origin)?;
            let value = Raw::Toml(value.clone());
            self.settings.insert(path, Setting { value, origin: origin.clone() });
        }
        Ok(())
    }

    /// Adds what is in the table at `path`, which is `node` by the schema.
    fn add_table(
        &mut self,
        file: &SourceFile<'_>,
        path: &mut Vec<String>,
        (node, keys): (&'static Node, &DeTable<'_>),
        values: &toml::Table,
    ) -> Result<(), ConfigError> {
        for (key, value) in keys {
            let (origin, name) = (file.origin(key), key.get_ref().to_string());
            path.push(name);
            let name = path.last().expect("it was pushed");
            match node.child(name) {
                None => {
                    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
                    known_key(&parts, &origin)?;
                }
                Some(Node::Value) => self.set_toml(path.clone(), values, origin),
                Some(child) => {
                    let inner = table(&origin, name, value)?;
                    if let [apps, app] = path.as_slice()
                        && apps == "apps"
                    {
                        self.apps.entry(app.clone()).or_insert(origin);
                    }
                    self.add_table(file, path, (child, inner), values)?;
                }
            }
            path.pop();
        }
        Ok(())
    }

    fn set_toml(&mut self, path: Vec<String>, values: &toml::Table, origin: Origin) {
        let (first, rest) = path.split_first().expect("a known key is not empty");
        let value = rest.iter().try_fold(values.get(first), |value, part| {
            Some(value.and_then(|value| value.get(part)))
        });
        let value = value.flatten().expect("both readings of one text have the same keys").clone();
        self.settings.insert(path, Setting { value: Raw::Toml(value), origin });
    }

    fn add_variable(&mut self, name: &str, value: String) -> Result<(), ConfigError> {
        let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return Ok(()) };
        let origin = Origin::Environment { name: name.into() };
        let path = path_of_variable(rest);
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if parts.first() == Some(&"apps") {
            known_key(&parts, &origin).map_err(|error| as_variable(error, &path))?;
        } else if schema::check_path(&parts).is_err() {
            // Not an error: other programs of the family may have variables of their own.
            if !OTHER_VARIABLES.contains(&rest) && !rest.starts_with(STUB_VARIABLE_PREFIX) {
                let hint = super::suggestion_text(schema::root().suggestion(&parts.join("__")));
                self.warnings.push(format!("{name} is not a setting of the agent{hint}"));
            }
            return Ok(());
        }
        self.set_text(path, value, origin);
        Ok(())
    }

    fn add_flag(&mut self, setting: &FlagSetting) -> Result<(), ConfigError> {
        let origin = Origin::Flag { flag: setting.flag.clone() };
        let syntax = |reason: String| ConfigError::Syntax { origin: origin.clone(), reason };
        let parts = split_key(&setting.key).map_err(syntax)?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let Some(value) = setting.value.clone() else {
            self.apps.entry(parts.last().copied().unwrap_or_default().into()).or_insert(origin);
            return Ok(());
        };
        let path = known_key(&parts, &origin)?;
        self.set_text(path, value, origin);
        Ok(())
    }

    fn set_text(&mut self, path: Vec<String>, value: String, origin: Origin) {
        if let [_, app, _, ..] = path.as_slice() {
            self.apps.entry(app.clone()).or_insert_with(|| origin.clone());
        }
        self.settings.insert(path, Setting { value: Raw::Text(value), origin });
    }
}

struct SourceFile<'a> {
    path: &'a Path,
    text: &'a str,
}

impl SourceFile<'_> {
    fn origin<T>(&self, spanned: &Spanned<T>) -> Origin {
        self.origin_at(spanned.span().start)
    }

    fn origin_at(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        Origin::File { path: self.path.into(), line }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        // Some messages span lines; a complaint is one line.
        let reason = error.message().lines().collect::<Vec<_>>().join(", ");
        ConfigError::Syntax {
            origin: self.origin_at(error.span().map_or(0, |span| span.start)),
            reason,
        }
    }
}

/// The table that `value` has to be.
fn table<'v, 'i>(
    origin: &Origin,
    name: &str,
    value: &'v Spanned<DeValue<'i>>,
) -> Result<&'v DeTable<'i>, ConfigError> {
    value.get_ref().as_table().ok_or_else(|| ConfigError::Syntax {
        origin: origin.clone(),
        reason: format!("{name:?} has to be a table, found a value"),
    })
}

/// The path of a key that exists and takes a value.
fn known_key(parts: &[&str], origin: &Origin) -> Result<Vec<String>, ConfigError> {
    let origin = origin.clone();
    match schema::check_path(parts) {
        Ok(()) => Ok(parts.iter().copied().map(String::from).collect()),
        Err(PathError::Depth { expected }) => {
            let reason = format!("expected {expected}, found {}", parts.join("."));
            Err(ConfigError::Syntax { origin, reason })
        }
        Err(PathError::Unknown { within, key, suggestion }) => {
            let own = "the agent's settings".to_owned();
            let within = if within.is_empty() { own } else { within };
            Err(ConfigError::UnknownKey { origin, key, within, suggestion })
        }
    }
}

/// The key that a variable without its prefix names. Case is lost in variables, but for names of
/// which it is part; those may contain the separator, too.
fn path_of_variable(rest: &str) -> Vec<String> {
    let mut path = vec![];
    let mut node = schema::root();
    let mut rest = Some(rest);
    while let Some(text) = rest {
        if node.keeps_case() {
            path.push(text.to_owned());
            break;
        }
        let (part, next) = text.split_once("__").map_or((text, None), |(a, b)| (a, Some(b)));
        path.push(part.to_ascii_lowercase());
        node = path.last().and_then(|part| node.child(part)).unwrap_or(&Node::Value);
        rest = next;
    }
    path
}

/// The complaint about a variable says how variables look.
fn as_variable(error: ConfigError, path: &[String]) -> ConfigError {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match (error, schema::check_path(&parts)) {
        (ConfigError::Syntax { origin, .. }, Err(PathError::Depth { expected })) => {
            let expected = expected.replace('.', "__").to_uppercase();
            let reason = format!("expected {VARIABLE_PREFIX}{expected}");
            ConfigError::Syntax { origin, reason }
        }
        (other, _) => other,
    }
}

/// The parts of a dotted key, which TOML allows to be quoted (`apps."my.app".exec`).
fn split_key(key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{key:?} is not a key; expected one such as apps.web.exec");
    let mut table: toml::Table = format!("{key} = 0").parse().map_err(|_error| wrong())?;
    let mut parts = vec![];
    loop {
        let mut entries = table.into_iter();
        let (Some((part, value)), None) = (entries.next(), entries.next()) else {
            return Err(wrong());
        };
        parts.push(part);
        match value {
            toml::Value::Table(inner) => table = inner,
            _ => return Ok(parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_be_quoted() {
        assert_eq!(split_key("apps.web.exec").unwrap(), ["apps", "web", "exec"]);
        assert_eq!(split_key("apps.\"my.app\".exec").unwrap(), ["apps", "my.app", "exec"]);
        for wrong in ["", "a b", "a..b", "a = 1\nb"] {
            split_key(wrong).unwrap_err();
        }
    }
}
