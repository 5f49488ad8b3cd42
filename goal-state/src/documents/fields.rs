//! What fields of all documents have in common: those that say nothing are not written, and numbers
//! that nobody can mean are refused while the parser still knows line and column.
//!
//! Pure. Nothing here knows what a field is about.

use serde::{Deserialize, Deserializer};

/// Whether a field has the value that its absence stands for.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A generation: never zero.
pub(crate) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number == 0 {
        return Err(serde::de::Error::custom("generation is 0, expected 1 or more"));
    }
    Ok(number)
}
