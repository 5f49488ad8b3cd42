//! What a changed configuration means for a running agent.
//!
//! The key table says which keys take effect at once, such as limits, and how an app's builds are
//! judged, kept and held; everything else waits for a restart. Owns the comparison only: `agent.rs`
//! carries it out.
//!
//! Invariant: no value that may hold a secret, such as a command, gets into log or status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use goal_state::AppName;

use crate::config::{AppConfig, Config, Settings, toml_key};

/// What came of reading the configuration again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reload {
    /// Settings that hold from now on, each as `KEY = VALUE (was VALUE)`.
    pub applied: Vec<String>,
    /// The apps of the running agent with new settings, as they are from now on: of the new
    /// configuration only what `adopt` takes over.
    pub apps: BTreeMap<AppName, AppConfig>,
    /// Keys that differ from what the agent runs with until it is restarted.
    pub pending: Vec<String>,
}

impl Reload {
    /// Takes what can change at once over from `wanted` into `running`.
    pub(crate) fn apply(running: &mut Config, wanted: &Config) -> Self {
        let before = running.settings();
        let old_apps = running.apps.clone();
        running.adopt(wanted);
        let new = running.apps.iter().filter(|(name, app)| old_apps.get(*name) != Some(*app));
        let apps = new.map(|(name, app)| (name.clone(), app.clone())).collect();
        let after = running.settings();
        let applied = differing(&before, &after).map(|key| change(key, &before, &after)).collect();
        let changed_apps = differing_apps(running, wanted);
        // Nobody set a group that only follows the zone.
        let follows_zone = [&*running, wanted].iter().all(|config| config.group == config.zone);
        let wanted = wanted.settings();
        let mut pending: Vec<String> = differing(&after, &wanted)
            .filter(|key| !(follows_zone && *key == "group"))
            .filter(|key| !changed_apps.iter().any(|app| key.starts_with(&format!("{app}."))))
            .map(String::from)
            .chain(changed_apps.iter().cloned())
            .collect();
        pending.sort_unstable();
        Self { applied, apps, pending }
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
            [] => f.write_str("nothing that holds at once changed")?,
            applied => f.write_str(&applied.join(", "))?,
        }
        self.note().map_or(Ok(()), |note| write!(f, "; {note}"))
    }
}

/// Apps that only one of them has, as keys: `apps.NAME`.
fn differing_apps(running: &Config, wanted: &Config) -> Vec<String> {
    let names: BTreeSet<_> = running.apps.keys().chain(wanted.apps.keys()).collect();
    names
        .into_iter()
        .filter(|name| running.apps.contains_key(name) != wanted.apps.contains_key(name))
        .map(|name| format!("apps.{}", toml_key(name.as_str())))
        .collect()
}

/// How `key` changed.
fn change(key: &str, before: &Settings, after: &Settings) -> String {
    let values = [after, before].map(|settings| settings.get(key));
    if values.iter().flatten().any(|value| value.is_private) {
        return format!("{key} changed");
    }
    let [new, old] =
        values.map(|value| value.map_or("none".into(), |value| value.value.to_string()));
    format!("{key} = {new} (was {old})")
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
            // The group is the zone's, as long as nobody says otherwise.
            ["apps.new", "apps.web.environment.PASSWORD", "zone"]
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
        assert_eq!(
            (reload.note(), reload.to_string().as_str()),
            (None, "nothing that holds at once changed")
        );
        assert!(reload.apps.is_empty());
    }

    #[test]
    fn judging_keeping_and_holding_are_taken_over_without_logging_commands() {
        let mut running = config(&[("apps.web.user", "a"), ("apps.other.exec", "./b")]);
        let wanted = config(&[
            ("apps.web.user", "b"),
            ("apps.web.hold", "true"),
            ("apps.web.keep_builds", "7"),
            ("apps.web.grace_period", "3s"),
            ("apps.web.health.http", "http://127.0.0.1:80/?token=secret"),
            ("apps.web.health.tries", "9"),
            ("apps.web.hooks.drain.exec", "./drain --password secret"),
            ("apps.other.exec", "./b"),
        ]);
        let reload = Reload::apply(&mut running, &wanted);
        let web: AppName = "web".parse().unwrap();
        assert_eq!(reload.apps.keys().collect::<Vec<_>>(), [&web]);
        assert_eq!(reload.apps[&web], running.apps[&web]);
        let expected = AppConfig { user: Some("a".into()), ..wanted.apps[&web].clone() };
        assert_eq!(running.apps[&web], expected);
        assert_eq!(reload.pending, ["apps.web.user"]);
        let line = reload.to_string();
        for part in [
            "apps.web.hold = true (was false)",
            "apps.web.keep_builds = 7 (was 3)",
            "apps.web.health.http changed",
            "apps.web.hooks.drain.exec changed",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("secret"), "{line}");
    }

    #[test]
    fn probe_by_notification_waits_for_a_restart() {
        let (mut running, wanted) = (config(&[]), config(&[("apps.web.health.notify", "true")]));
        let reload = Reload::apply(&mut running, &wanted);
        assert_eq!((reload.apps.len(), reload.pending), (0, vec!["apps.web.health.notify".into()]));
    }
}
