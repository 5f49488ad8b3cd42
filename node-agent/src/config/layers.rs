//! Collects keys and raw values from the file, the environment and the flags.
//!
//! Invariant: of each key only the value of the highest layer is kept, and every key is known. A
//! table is never a value: `environment` is taken apart, so that a flag can change one variable of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{APP_KEYS, ConfigError, KEYS, VARIABLE_PREFIX};

/// Variables with the prefix that are no settings: they belong to the command line, or are what an
/// agent hands to the programs it runs, of which this agent may be one.
const OTHER_VARIABLES: [&str; 5] = ["APP", "APP_DIR", "BUILD", "CONFIG", "LOG_LEVEL"];

/// Where the settings come from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The configuration file; `None` if there is none.
    pub file: Option<PathBuf>,
    /// The process's environment. Entries without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Settings given as flags, in order; of equal keys the last one counts.
    pub flags: Vec<FlagSetting>,
}

/// A setting given on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlagSetting {
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
pub enum Origin {
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
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => f.write_str(name),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// A value before it has a type.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From the file.
    Toml(toml::Value),
    /// From the environment or a flag.
    Text(String),
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

    /// Names of the variables that are set for the program of `app`.
    pub(super) fn environment_names(&self, app: &str) -> impl Iterator<Item = &str> {
        self.settings.keys().filter_map(move |path| match path.as_slice() {
            [apps, of, environment, name]
                if apps == "apps" && of == app && environment == "environment" =>
            {
                Some(name.as_str())
            }
            _ => None,
        })
    }

    pub(super) fn origins(&self) -> BTreeMap<Vec<String>, Origin> {
        self.settings.iter().map(|(path, setting)| (path.clone(), setting.origin.clone())).collect()
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let file = SourceFile { path, text: &text };
        let spans = DeTable::parse(&text).map_err(|error| file.syntax_error(&error))?;
        let values: toml::Table = text.parse().map_err(|error| file.syntax_error(&error))?;
        for (key, value) in spans.get_ref() {
            let origin = file.origin(key);
            let name: &str = key.get_ref();
            if name == "apps" {
                let apps = table(&origin, "apps", value)?;
                for (app, value) in apps {
                    let keys = table(&file.origin(app), app.get_ref(), value)?;
                    self.add_app_table(&file, app, keys, &values)?;
                }
            } else {
                let path = known_key(&[name], &origin)?;
                self.set_toml(path, &values, origin);
            }
        }
        Ok(())
    }

    fn add_app_table(
        &mut self,
        file: &SourceFile<'_>,
        app: &Spanned<std::borrow::Cow<'_, str>>,
        keys: &DeTable<'_>,
        values: &toml::Table,
    ) -> Result<(), ConfigError> {
        let name: &str = app.get_ref();
        self.apps.entry(name.into()).or_insert_with(|| file.origin(app));
        for (key, value) in keys {
            let origin = file.origin(key);
            if key.get_ref() == "environment" {
                let variables = table(&origin, "environment", value)?;
                for (variable, _) in variables {
                    let path = ["apps", name, "environment", variable.get_ref()];
                    self.set_toml(path.map(String::from).to_vec(), values, file.origin(variable));
                }
            } else {
                let path = known_key(&["apps", name, key.get_ref()], &origin)?;
                self.set_toml(path, values, origin);
            }
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
        let parts: Vec<&str> = rest.split("__").collect();
        let lower = |text: &str| text.to_ascii_lowercase();
        let origin = Origin::Environment { name: name.into() };
        let path: Vec<String> = match parts.as_slice() {
            [key] if KEYS.contains(&lower(key).as_str()) => vec![lower(key)],
            [apps, app, key] if lower(apps) == "apps" => {
                known_key(&["apps", &lower(app), &lower(key)], &origin)?
            }
            // The name of a variable is the program's business, so its case stays; it may contain
            // the separator.
            [apps, app, key, variable @ ..]
                if lower(apps) == "apps" && lower(key) == "environment" =>
            {
                vec!["apps".into(), lower(app), lower(key), variable.join("__")]
            }
            [apps, ..] if lower(apps) == "apps" => {
                return Err(ConfigError::Syntax {
                    origin,
                    reason:
                        "expected SHOAL_APPS__APP__KEY or SHOAL_APPS__APP__ENVIRONMENT__VARIABLE"
                            .into(),
                });
            }
            [other] if OTHER_VARIABLES.contains(other) => return Ok(()),
            _ => {
                // Not an error: other programs of the family may have variables of their own.
                let hint = super::suggestion_text(closest(&lower(rest), &KEYS));
                self.warnings.push(format!("{name} is not a setting of the agent{hint}"));
                return Ok(());
            }
        };
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
        let path = match parts.as_slice() {
            ["apps", _, "environment", _] => parts.iter().copied().map(String::from).collect(),
            _ => known_key(&parts, &origin)?,
        };
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
    let syntax = |reason| ConfigError::Syntax { origin: origin.clone(), reason };
    let (known, within, key): (&[&'static str], _, _) = match parts {
        ["apps", _, "environment", ..] => {
            let reason = "\"environment\" takes one variable at a time: environment.NAME";
            return Err(syntax(reason.into()));
        }
        ["apps", app, key] => (&APP_KEYS, format!("apps.{app}"), (*key).to_owned()),
        ["apps", ..] => {
            return Err(syntax(format!("expected apps.NAME.KEY, found {}", parts.join("."))));
        }
        _ => (&KEYS, "the agent's settings".into(), parts.join(".")),
    };
    if !known.contains(&key.as_str()) {
        let suggestion = closest(&key, known);
        return Err(ConfigError::UnknownKey { origin: origin.clone(), key, within, suggestion });
    }
    Ok(parts.iter().copied().map(String::from).collect())
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

/// The key that `given` was probably meant to be: at most two letters away, and fewer than half.
fn closest(given: &str, known: &[&'static str]) -> Option<&'static str> {
    let distances = known.iter().map(|key| (edit_distance(given, key), *key));
    let (distance, key) = distances.min()?;
    (distance <= 2 && distance * 2 < key.len()).then_some(key)
}

/// Letters to insert, remove, replace, or swap with their neighbour to make `a` into `b` (optimal
/// string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_are_recognised_and_others_are_not() {
        let cases = [
            ("exce", &APP_KEYS[..], Some("exec")),
            ("grace-period", &APP_KEYS, Some("grace_period")),
            ("keep_build", &APP_KEYS, Some("keep_builds")),
            ("seeder", &KEYS, Some("seeders")),
            ("gaol", &KEYS, Some("goal")),
            ("colour", &KEYS, None),
            ("x", &KEYS, None),
        ];
        for (given, known, expected) in cases {
            assert_eq!(closest(given, known), expected, "{given}");
        }
    }

    #[test]
    fn keys_may_be_quoted() {
        assert_eq!(split_key("apps.web.exec").unwrap(), ["apps", "web", "exec"]);
        assert_eq!(split_key("apps.\"my.app\".exec").unwrap(), ["apps", "my.app", "exec"]);
        for wrong in ["", "a b", "a..b", "a = 1\nb"] {
            split_key(wrong).unwrap_err();
        }
    }
}
