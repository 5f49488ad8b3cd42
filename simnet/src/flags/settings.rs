//! Single fields of the protocol's configuration, set by name, for sweeps.
//!
//! Invariant: every field can be set, because each is named here or this file does not compile.

use core::time::Duration;

use p2p_core::{SwarmConfig, TrackerConfig};

use crate::flags::units::parse_duration;

/// Why a setting is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingError {
    /// It is not of the form `FIELD=VALUE`.
    #[error(
        "{text:?} is no setting; write FIELD=VALUE, host.FIELD=VALUE, seeder.FIELD=VALUE or tracker.FIELD=VALUE"
    )]
    NoSetting {
        /// The text.
        text: String,
    },
    /// No field that can be set has this name.
    #[error("there is no field {field:?} to set; see SwarmConfig and TrackerConfig of p2p-core")]
    UnknownField {
        /// The name.
        field: String,
    },
    /// The value is not one of the field's.
    #[error("{value:?} is no value for {field}; numbers are whole, durations have a unit")]
    BadValue {
        /// The name.
        field: String,
        /// The value.
        value: String,
    },
}

/// The configurations of a fleet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Of each host.
    pub host: SwarmConfig,
    /// Of each seeder.
    pub seeder: SwarmConfig,
    /// Of each tracker.
    pub tracker: TrackerConfig,
}

impl Default for Settings {
    /// What the agent and the seeder run with.
    fn default() -> Self {
        Self {
            host: SwarmConfig::host(),
            seeder: SwarmConfig::seeder(),
            tracker: TrackerConfig::region(),
        }
    }
}

impl Settings {
    /// Sets one field: of hosts and seeders, or only of those that the text names.
    ///
    /// # Errors
    ///
    /// If the text does not name a field and a value of it.
    pub fn set(&mut self, text: &str) -> Result<(), SettingError> {
        let no_setting = || SettingError::NoSetting { text: text.to_owned() };
        let (name, value) = text.split_once('=').ok_or_else(no_setting)?;
        match name.split_once('.') {
            None => {
                set_swarm(&mut self.host, name, value)?;
                set_swarm(&mut self.seeder, name, value)
            }
            Some(("host", field)) => set_swarm(&mut self.host, field, value),
            Some(("seeder", field)) => set_swarm(&mut self.seeder, field, value),
            Some(("tracker", field)) => set_tracker(&mut self.tracker, field, value),
            Some(_) => Err(no_setting()),
        }
    }
}

/// Finds the field of a configuration that has this name.
///
/// Names every field, without `..`: a field that is missing here does not compile.
macro_rules! field_named {
    ($config:expr, $name:expr, $type:ident { $($field:ident),+ $(,)? }) => {{
        let $type { $($field),+ } = $config;
        let fields = [$((stringify!($field), $field as &mut dyn Value)),+];
        fields.into_iter().find(|(field, _)| *field == $name).map(|(_, value)| value)
    }};
}

fn set_swarm(config: &mut SwarmConfig, field: &str, value: &str) -> Result<(), SettingError> {
    #[rustfmt::skip]
    let found = field_named!(config, field, SwarmConfig {
        neighbours_target, neighbours_max, far_target, near_max, contacts_max, dials_max,
        dial_retry_min, dial_retry_max, redial_wait, recall_wait, bans_max, ban_time,
        requests_per_peer, requests_per_peer_max, first_requests_max, requests_target,
        requests_target_small, behind_min, small_chunk_bytes, requests_max, request_bytes_max,
        pick_sample_max, claim_time_min, claim_renewals_max, manifest_missing_wait,
        late_factor, late_min, late_unknown, asked_at_once_max, silence_wait, silences_max,
        fetch_failed_wait, stall_time, starve_time, starve_check,
        uploads_max, uploads_max_small, upload_queue_max, upload_flood, manifest_repeats_max, ready_hints,
        offer_interval_max, offer_interval_min,
        busy_min, busy_named_max, busy_wait_max, service_unknown,
        announce_interval_min, announce_interval_max, announce_retry_min, announce_retry_max,
        announce_hungry, announce_along, exchange_interval,
        reserve_min, reserve_factor, copies_max,
    });
    set_value(found, field, value)
}

fn set_tracker(config: &mut TrackerConfig, field: &str, value: &str) -> Result<(), SettingError> {
    #[rustfmt::skip]
    let found = field_named!(config, field, TrackerConfig {
        swarms_max, members_max, contacts_max, draws_per_pick, degree_max, seeder_draws, mates_max,
        seeded_per_rack, seeder_degree_max, interval_min, announces_per_second,
        intervals_missed_max,
    });
    set_value(found, field, value)
}

fn set_value(found: Option<&mut dyn Value>, field: &str, value: &str) -> Result<(), SettingError> {
    let place = found.ok_or_else(|| SettingError::UnknownField { field: field.to_owned() })?;
    place.set(value).ok_or_else(|| bad_value(field, value))
}

/// What a field holds.
trait Value {
    /// Takes over the value that a text names; `None`, and no change, if it names none.
    fn set(&mut self, text: &str) -> Option<()>;
}

impl Value for Duration {
    fn set(&mut self, text: &str) -> Option<()> {
        *self = parse_duration(text).ok()?;
        Some(())
    }
}

/// Numbers of one type.
macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            fn set(&mut self, text: &str) -> Option<()> {
                // A limit of nothing would stop a swarm rather than tune it.
                *self = text.parse().ok().filter(|number| *number > 0)?;
                Some(())
            }
        }
    )+};
}

numbers!(u8, u16, u32, u64, usize);

fn bad_value(field: &str, value: &str) -> SettingError {
    SettingError::BadValue { field: field.to_owned(), value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_those_that_they_name() {
        let mut settings = Settings::default();
        settings.set("requests_per_peer=3").unwrap();
        settings.set("seeder.uploads_max=9").unwrap();
        settings.set("host.offer_interval_max=20ms").unwrap();
        settings.set("tracker.degree_max=40").unwrap();
        assert_eq!((settings.host.requests_per_peer, settings.seeder.requests_per_peer), (3, 3));
        let usual = SwarmConfig::host().uploads_max;
        assert_eq!((settings.host.uploads_max, settings.seeder.uploads_max), (usual, 9));
        assert_eq!(settings.host.offer_interval_max, Duration::from_millis(20));
        assert_eq!(settings.tracker.degree_max, 40);
        settings.set("host.busy_wait_max=3s").unwrap();
        settings.set("tracker.draws_per_pick=2").unwrap();
        assert_eq!(settings.host.busy_wait_max, Duration::from_secs(3));
        assert_eq!(settings.tracker.draws_per_pick, 2);
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        let mut settings = Settings::default();
        let mut refused = |text: &str| settings.set(text).unwrap_err();
        assert!(matches!(refused("uploads_max"), SettingError::NoSetting { .. }));
        assert!(matches!(refused("rack.uploads_max=1"), SettingError::NoSetting { .. }));
        assert!(matches!(refused("colour=1"), SettingError::UnknownField { .. }));
        assert!(matches!(refused("tracker.colour=1"), SettingError::UnknownField { .. }));
        for text in ["uploads_max=0", "uploads_max=many", "late_min=5", "tracker.interval_min=x"] {
            assert!(matches!(refused(text), SettingError::BadValue { .. }), "{text}");
        }
    }
}
