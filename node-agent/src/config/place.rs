//! The table of the agent or of one app within the layers: reads its keys into settings, and
//! complains about them by their whole path.
//!
//! Invariant: a key is read only by its row, in the order of the rows, so that of several mistakes
//! always the same is reported. Which keys there are is decided in `table`, and which of them
//! exclude each other in `apps`.

use toml::Value;

use super::ConfigError;
use super::access::Shown;
use super::keys::Key;
use super::layers::Layers;

/// The table of the agent or of an app within the layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) layers: &'a Layers,
    /// Where the table is: nothing for the agent, `apps` and its name for an app.
    pub(super) prefix: &'a [&'a str],
}

impl<'a> Place<'a> {
    /// The whole path of a key such as `health.http`.
    fn path<'k>(self, key: &'k str) -> Vec<&'k str>
    where
        'a: 'k,
    {
        self.prefix.iter().copied().chain(key.split('.')).collect()
    }

    pub(super) fn is_given(self, key: &str) -> bool {
        self.layers.origin(&self.path(key)).is_some()
    }

    pub(super) fn complaint(self, key: &str, reason: impl Into<String>) -> ConfigError {
        self.layers.complaint(&self.path(key), reason)
    }

    /// As [`Self::complaint`], where a name of the operator's choice may have dots in it.
    pub(super) fn complaint_of(self, parts: &[&str], reason: &str) -> ConfigError {
        self.layers.complaint(&[self.prefix, parts].concat(), reason)
    }

    /// Refuses `key`, if it is given, for `reason`.
    pub(super) fn refuse(self, key: &str, reason: &str) -> Result<(), ConfigError> {
        if self.is_given(key) { Err(self.complaint(key, reason)) } else { Ok(()) }
    }

    /// Reads all keys of `tables` into `config`, which has their defaults.
    pub(super) fn read<C>(self, tables: &[&[Key<C>]], config: &mut C) -> Result<(), ConfigError> {
        for key in tables.iter().copied().flatten() {
            let mut path = self.path(key.name);
            if key.is_map() {
                path.pop();
                for name in self.layers.names(&path) {
                    self.read_one(&[&path[..], &[name]].concat(), key, config)?;
                }
            } else {
                self.read_one(&path, key, config)?;
            }
        }
        Ok(())
    }

    fn read_one<C>(self, path: &[&str], key: &Key<C>, config: &mut C) -> Result<(), ConfigError> {
        let last = path.last().copied().unwrap_or_default();
        let read = self.layers.value(path, |raw| (key.access.read)(config, last, raw))?;
        let is_empty = || key.shown(config) == Shown::Value(Value::Array(vec![]));
        match key.missing {
            Some(missing) if read.is_none() || is_empty() => Err(missing.into()),
            _ => Ok(()),
        }
    }
}
