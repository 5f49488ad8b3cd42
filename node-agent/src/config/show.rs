//! Prints the effective configuration as a configuration file, each value with its origin.
//!
//! Invariant: what is printed is read again to the same effect; every key appears, those without a
//! value as a comment.

use std::fmt::{self, Write as _};

use super::access::Shown;
use super::keys::Key;
use super::table::{AGENT, APP};
use super::{Loaded, Origin};

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables(f, &[], AGENT, &self.config)?;
        for (name, app) in &self.config.apps {
            writeln!(f, "\n[apps.{}]", toml_key(name.as_str()))?;
            self.tables(f, &["apps", name.as_str()], APP, app)?;
        }
        Ok(())
    }
}

impl Loaded {
    /// The tables below `prefix`, whose own one has its head already.
    fn tables<C>(
        &self,
        f: &mut fmt::Formatter<'_>,
        prefix: &[&str],
        tables: &[&[Key<C>]],
        config: &C,
    ) -> fmt::Result {
        for keys in tables {
            let Some(first) = keys.first() else { continue };
            let mut lines = String::new();
            for key in *keys {
                self.key(&mut lines, prefix, key, config)?;
            }
            let parts = prefix.iter().map(|part| toml_key(part));
            let parts: Vec<_> = parts.chain([first.table().to_owned()]).collect();
            let head = format!("[{}]", parts.join("."));
            match (first.table(), lines.is_empty()) {
                ("", _) => f.write_str(&lines)?,
                (_, false) => write!(f, "\n{head}\n{lines}")?,
                (_, true) if first.is_map() => {}
                (_, true) => writeln!(f, "\n# {head} is not set")?,
            }
        }
        Ok(())
    }

    fn key<C>(&self, lines: &mut String, prefix: &[&str], key: &Key<C>, config: &C) -> fmt::Result {
        let path: Vec<&str> = prefix.iter().copied().chain(key.name.split('.')).collect();
        let (last, table) = path.split_last().unwrap_or((&key.name, &[]));
        match key.shown(config) {
            // TOML has no null, so a value that is not set is shown as a comment.
            Shown::Unset => self.line(lines, &path, &format!("# {last} is not set")),
            Shown::Value(value) => self.line(lines, &path, &format!("{last} = {value}")),
            Shown::Entries(entries) => entries.iter().try_for_each(|(name, value)| {
                let text = format!("{} = {value}", toml_key(name));
                self.line(lines, &[table, &[name]].concat(), &text)
            }),
            Shown::Comment(text) => writeln!(lines, "# {text}"),
            Shown::Hidden => Ok(()),
        }
    }

    /// Adds `text`, which is about the key at `path`, with the place where that was given.
    fn line(&self, lines: &mut String, path: &[&str], text: &str) -> fmt::Result {
        let path: Vec<String> = path.iter().copied().map(String::from).collect();
        let origin = self.origins.get(&path).unwrap_or(&Origin::Default);
        writeln!(lines, "{text:<50} # {origin}")
    }
}

/// A key as TOML writes it: quoted if it has more than letters, digits, `-` and `_`.
pub(crate) fn toml_key(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_bare { key.into() } else { toml::Value::from(key).to_string() }
}
