//! What a configuration that changed means for an agent that runs.
//!
//! Limits are taken over at once, everything else waits for a restart. Owns the comparison only:
//! `agent.rs` carries it out. Values other than limits are never told: they may be secrets.

use std::collections::BTreeSet;
use std::fmt;

use crate::config::{Config, Settings};

/// What came of reading the configuration again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reload {
    /// Limits that hold from now on, each as `KEY = VALUE (was VALUE)`.
    pub applied: Vec<String>,
    /// Keys that differ from what the agent runs with until it is restarted.
    pub pending: Vec<String>,
}

impl Reload {
    /// Takes the limits of `wanted` over into `running`.
    pub(crate) fn apply(running: &mut Config, wanted: &Config) -> Self {
        let before = running.settings();
        running.upload_limit = wanted.upload_limit;
        running.download_limit = wanted.download_limit;
        for (name, app) in &mut running.apps {
            if let Some(wanted) = wanted.apps.get(name) {
                app.upload_limit = wanted.upload_limit;
                app.download_limit = wanted.download_limit;
            }
        }
        let after = running.settings();
        let applied = differing(&before, &after)
            .map(|key| format!("{key} = {} (was {})", shown(&after, key), shown(&before, key)));
        let wanted = wanted.settings();
        Self {
            applied: applied.collect(),
            pending: differing(&after, &wanted).map(String::from).collect(),
        }
    }

    /// What is worth a place in the status; `None` if the agent runs as it is configured.
    pub(crate) fn note(&self) -> Option<String> {
        (!self.pending.is_empty())
            .then(|| format!("restart the agent to take over: {}", self.pending.join(", ")))
    }
}

/// For the log, in one line.
impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied.as_slice() {
            [] => f.write_str("no limit changed")?,
            applied => f.write_str(&applied.join(", "))?,
        }
        self.note().map_or(Ok(()), |note| write!(f, "; {note}"))
    }
}

fn shown(settings: &Settings, key: &str) -> String {
    settings.get(key).map_or_else(|| "none".into(), ToString::to_string)
}

/// Keys that only one of them has, or that differ, in order.
fn differing<'a>(one: &'a Settings, other: &'a Settings) -> impl Iterator<Item = &'a str> {
    let keys: BTreeSet<&str> = one.keys().chain(other.keys()).map(String::as_str).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key))
}

#[cfg(test)]
mod tests {
    use crate::config::FlagSetting;
    use crate::config::Inputs;

    use super::*;

    const SEEDER: &str =
        "/ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

    fn config(more: &[(&str, &str)]) -> Config {
        let enough = [
            ("host", "h"),
            ("goal", "file:///goal"),
            ("seeders", SEEDER),
            ("apps.web.exec", "./a"),
        ];
        let flags = enough.iter().chain(more).map(|(key, value)| FlagSetting {
            flag: "--set".into(),
            key: (*key).into(),
            value: Some((*value).into()),
        });
        Config::load(&Inputs { flags: flags.collect(), ..Inputs::default() }).unwrap().config
    }

    #[test]
    fn limits_are_taken_over_and_the_rest_waits() {
        let before = [("upload_limit", "2MB"), ("apps.web.download_limit", "1MB"), ("zone", "a")];
        let after = [
            ("upload_limit", "3MB"),
            ("download_limit", "4MB"),
            ("apps.web.upload_limit", "5MB"),
            ("zone", "b"),
            ("apps.web.environment.PASSWORD", "secret"),
            ("apps.new.upload_limit", "1MB"),
        ];
        let (mut running, wanted) = (config(&before), config(&after));
        let reload = Reload::apply(&mut running, &wanted);
        let applied = [
            "apps.web.download_limit = none (was \"1000000B\")",
            "apps.web.upload_limit = \"5000000B\" (was none)",
            "download_limit = \"4000000B\" (was none)",
            "upload_limit = \"3000000B\" (was \"2000000B\")",
        ];
        assert_eq!(reload.applied, applied);
        assert_eq!(
            reload.pending,
            [
                "apps.new.grace_period",
                "apps.new.keep_builds",
                "apps.new.upload_limit",
                "apps.web.environment.PASSWORD",
                "zone",
            ]
        );
        let line = reload.to_string();
        assert!(line.contains("restart the agent") && !line.contains("secret"), "{line}");
        assert_eq!(running.upload_limit, wanted.upload_limit);
        assert_eq!(running.zone, "a");
        // The second time nothing is new, and what waits still does.
        let again = Reload::apply(&mut running, &wanted);
        assert_eq!((again.applied, again.pending), (vec![], reload.pending));
    }

    #[test]
    fn same_configuration_leaves_nothing_to_say() {
        let same = [("upload_limit", "2MB"), ("apps.web.environment.A", "1")];
        let reload = Reload::apply(&mut config(&same), &config(&same));
        assert_eq!((reload.note(), reload.to_string().as_str()), (None, "no limit changed"));
    }
}
