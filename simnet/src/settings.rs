//! Single fields of the protocol's configuration, set by name, for sweeps.

use core::time::Duration;

use p2p_core::{SwarmConfig, TrackerConfig};

use crate::units::parse_duration;

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

fn set_swarm(config: &mut SwarmConfig, field: &str, value: &str) -> Result<(), SettingError> {
    let durations: [(&str, &mut Duration); 13] = [
        ("offer_interval_max", &mut config.offer_interval_max),
        ("offer_interval_min", &mut config.offer_interval_min),
        ("claim_time_min", &mut config.claim_time_min),
        ("late_min", &mut config.late_min),
        ("late_unknown", &mut config.late_unknown),
        ("stall_time", &mut config.stall_time),
        ("starve_time", &mut config.starve_time),
        ("announce_retry_min", &mut config.announce_retry_min),
        ("announce_retry_max", &mut config.announce_retry_max),
        ("announce_hungry", &mut config.announce_hungry),
        ("announce_along", &mut config.announce_along),
        ("exchange_interval", &mut config.exchange_interval),
        ("reserve_min", &mut config.reserve_min),
    ];
    if let Some((_, place)) = durations.into_iter().find(|(name, _)| *name == field) {
        *place = parse_duration(value).map_err(|_error| bad_value(field, value))?;
        return Ok(());
    }
    match field {
        "neighbours_target" => set_number(&mut config.neighbours_target, field, value),
        "neighbours_max" => set_number(&mut config.neighbours_max, field, value),
        "far_target" => set_number(&mut config.far_target, field, value),
        "near_max" => set_number(&mut config.near_max, field, value),
        "dials_max" => set_number(&mut config.dials_max, field, value),
        "contacts_max" => set_number(&mut config.contacts_max, field, value),
        "requests_per_peer" => set_number(&mut config.requests_per_peer, field, value),
        "requests_per_peer_max" => set_number(&mut config.requests_per_peer_max, field, value),
        "requests_max" => set_number(&mut config.requests_max, field, value),
        "requests_target" => set_number(&mut config.requests_target, field, value),
        "ready_hints" => set_number(&mut config.ready_hints, field, value),
        "request_bytes_max" => set_number(&mut config.request_bytes_max, field, value),
        "pick_sample_max" => set_number(&mut config.pick_sample_max, field, value),
        "requests_target_small" => set_number(&mut config.requests_target_small, field, value),
        "small_chunk_bytes" => set_number(&mut config.small_chunk_bytes, field, value),
        "uploads_max_small" => set_number(&mut config.uploads_max_small, field, value),
        "uploads_max" => set_number(&mut config.uploads_max, field, value),
        "upload_queue_max" => set_number(&mut config.upload_queue_max, field, value),
        "upload_flood" => set_number(&mut config.upload_flood, field, value),
        "late_factor" => set_number(&mut config.late_factor, field, value),
        "copies_max" => set_number(&mut config.copies_max, field, value),
        "reserve_factor" => set_number(&mut config.reserve_factor, field, value),
        _ => Err(SettingError::UnknownField { field: field.to_owned() }),
    }
}

fn set_tracker(config: &mut TrackerConfig, field: &str, value: &str) -> Result<(), SettingError> {
    match field {
        "contacts_max" => set_number(&mut config.contacts_max, field, value),
        "degree_max" => set_number(&mut config.degree_max, field, value),
        "seeder_draws" => set_number(&mut config.seeder_draws, field, value),
        "seeded_per_rack" => set_number(&mut config.seeded_per_rack, field, value),
        "seeder_degree_max" => set_number(&mut config.seeder_degree_max, field, value),
        "mates_max" => set_number(&mut config.mates_max, field, value),
        "announces_per_second" => set_number(&mut config.announces_per_second, field, value),
        "interval_min" => {
            config.interval_min =
                parse_duration(value).map_err(|_error| bad_value(field, value))?;
            Ok(())
        }
        _ => Err(SettingError::UnknownField { field: field.to_owned() }),
    }
}

fn set_number<N: core::str::FromStr + Default + PartialOrd>(
    place: &mut N,
    field: &str,
    value: &str,
) -> Result<(), SettingError> {
    // A limit of nothing would stop a swarm rather than tune it.
    let number = value.parse().ok().filter(|number| *number > N::default());
    *place = number.ok_or_else(|| bad_value(field, value))?;
    Ok(())
}

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
