//! What a key is, and what follows from a table of keys: taking new settings over, and every value
//! by its key. The tables themselves are in `table`, how they are read in `place`.
//!
//! Invariant: whatever is done with settings key by key goes through a table of keys, so that a new
//! row is read, shown and taken over as it says, and nothing else has to know of it. Which keys
//! exclude each other is decided not here but in `apps`.

use std::collections::BTreeMap;

use toml::Value;

use super::access::{Access, Shown};
use super::{ConfigError, toml_key};

/// A setting of the agent (`C` is [`Config`](super::Config)) or of an app
/// ([`AppConfig`](super::AppConfig)).
#[derive(Debug)]
pub(super) struct Key<C> {
    /// The path within the table of the agent or of the app, dots between its parts. A last part in
    /// capitals stands for names that the operator chooses.
    pub(super) name: &'static str,
    /// When a new value takes effect.
    pub(super) effect: Effect<C>,
    /// The way to the value.
    pub(super) access: Access<C>,
    /// What it is for, in a sentence or two.
    pub(super) about: &'static str,
    /// What holds without a value, where the settings themselves have no value for that.
    pub(super) default: Option<&'static str>,
    /// What is said if it is not given; `None` if it need not be.
    pub(super) missing: Option<Missing>,
    /// Whether what the settings have is a value that could be given.
    pub(super) is_shown: fn(&C) -> bool,
    /// Whether values may hold secrets, so that they stay out of the log.
    pub(super) is_private: bool,
    /// Whether a bootstrap document may have it.
    pub(super) is_bootstrap: bool,
}

/// When a new value takes effect in an agent that runs.
#[derive(Debug)]
pub(super) enum Effect<C> {
    /// With SIGHUP.
    Now,
    /// With SIGHUP, unless the running and the wanted settings differ in what needs a restart.
    NowUnless(fn(&C, &C) -> bool),
    /// With a restart of the agent.
    Restart,
}

/// See [`ConfigError::Missing`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) what: &'static str,
    pub(super) key: &'static str,
    pub(super) flag: &'static str,
    pub(super) variable: &'static str,
}

impl From<Missing> for ConfigError {
    fn from(missing: Missing) -> Self {
        let Missing { what, key, flag, variable } = missing;
        Self::Missing { what, key, flag, variable }
    }
}

impl<C> Key<C> {
    /// A key that need not be given, is public, and always shown.
    pub(super) const fn new(
        name: &'static str,
        effect: Effect<C>,
        access: Access<C>,
        about: &'static str,
    ) -> Self {
        Self {
            name,
            effect,
            access,
            about,
            default: None,
            missing: None,
            is_shown: |_| true,
            is_private: false,
            is_bootstrap: false,
        }
    }

    /// Says in words what holds without a value.
    pub(super) const fn default(self, words: &'static str) -> Self {
        Self { default: Some(words), ..self }
    }

    /// Refuses settings without it.
    pub(super) const fn required(self, missing: Missing) -> Self {
        Self { missing: Some(missing), ..self }
    }

    /// Shows no value unless `is_shown`.
    pub(super) const fn shown_if(self, is_shown: fn(&C) -> bool) -> Self {
        Self { is_shown, ..self }
    }

    /// Keeps values out of the log.
    pub(super) const fn private(self) -> Self {
        Self { is_private: true, ..self }
    }

    /// Lets a bootstrap document have it.
    pub(super) const fn in_bootstrap(self) -> Self {
        Self { is_bootstrap: true, ..self }
    }

    /// The table below that of the agent or of the app; empty if it is that one.
    pub(super) fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// The last part.
    pub(super) fn last(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Whether the last part is a name that the operator chooses.
    pub(super) fn is_map(&self) -> bool {
        is_placeholder(self.last())
    }

    pub(super) fn shown(&self, config: &C) -> Shown {
        if (self.is_shown)(config) { (self.access.show)(config) } else { Shown::Unset }
    }
}

/// Whether a part of a name stands for any.
pub(super) fn is_placeholder(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Takes over into `running` what `tables` let take effect at once.
pub(super) fn adopt<C>(tables: &[&[Key<C>]], running: &mut C, wanted: &C) {
    for key in tables.iter().copied().flatten() {
        let is_now = match key.effect {
            Effect::Now => true,
            Effect::NowUnless(needs_restart) => !needs_restart(running, wanted),
            Effect::Restart => false,
        };
        if is_now {
            (key.access.adopt)(running, wanted);
        }
    }
}

/// The effective settings by dotted key; those without a value are missing.
pub(crate) type Settings = BTreeMap<String, SettingValue>;

/// The value of one of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SettingValue {
    /// As it could be given.
    pub(crate) value: Value,
    /// Whether it may hold a secret.
    pub(crate) is_private: bool,
}

/// Adds the values of `config`, whose keys are those of `tables` below `prefix`, to `settings`.
pub(super) fn collect<C>(tables: &[&[Key<C>]], prefix: &str, config: &C, settings: &mut Settings) {
    for key in tables.iter().copied().flatten() {
        let mut add = |name: &str, value| {
            let value = SettingValue { value, is_private: key.is_private };
            settings.insert(format!("{prefix}{name}"), value);
        };
        match key.shown(config) {
            Shown::Value(value) => add(key.name, value),
            Shown::Entries(entries) => {
                for (name, value) in entries {
                    add(&format!("{}.{}", key.table(), toml_key(&name)), value);
                }
            }
            Shown::Unset | Shown::Hidden | Shown::Comment(_) => {}
        }
    }
}
