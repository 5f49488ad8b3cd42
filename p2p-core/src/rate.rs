//! Rates as people write them: `10MB`, `1.5 MiB/s`, `200Mbit`.
//!
//! One parser for every flag and file, so that one text means one rate everywhere. Exact integer
//! arithmetic; nothing is rounded up, and a rate below one byte per second is refused because zero
//! would read as "no limit" to one person and as "nothing" to another.

use core::str::FromStr;

use crate::units::ByteRate;

/// Why a text is not a rate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// It does not start with a number, or the number is malformed.
    #[error("{text:?} does not start with a number; write a rate as 10MB, 1.5MiB or 200Mbit")]
    NoNumber {
        /// The text.
        text: String,
    },
    /// The unit is not one of those known.
    #[error(
        "unknown unit {unit:?}; expected B, kB, MB, GB, KiB, MiB, GiB, kbit, Mbit or Gbit, each per second"
    )]
    UnknownUnit {
        /// What stands where the unit belongs.
        unit: String,
    },
    /// Less than one byte, or more than 64 bits of bytes, per second.
    #[error("{text:?} is not between 1 byte per second and 18 exabytes per second")]
    OutOfRange {
        /// The text.
        text: String,
    },
}

/// Decimal digits that are read after the point. So many resolve single bytes of a GiB; more would
/// overflow the arithmetic below for large numbers.
const FRACTION_DIGITS_MAX: usize = 9;

impl FromStr for ByteRate {
    type Err = RateError;

    /// Reads a decimal number, a unit, and optionally `/s`. A bare number is bytes per second.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits_end);
        let no_number = || RateError::NoNumber { text: text.into() };
        let scaled = parse_decimal(number).ok_or_else(no_number)?;
        let unknown = || RateError::UnknownUnit { unit: unit.trim().into() };
        let bits = bits_of(unit.trim()).ok_or_else(unknown)?;
        let denominator = 8 * 10_u128.pow(FRACTION_DIGITS_MAX.try_into().unwrap_or(u32::MAX));
        scaled
            .checked_mul(u128::from(bits))
            .and_then(|product| u64::try_from(product / denominator).ok())
            .and_then(Self::new)
            .ok_or_else(|| RateError::OutOfRange { text: text.into() })
    }
}

/// The number, times ten to the power of [`FRACTION_DIGITS_MAX`].
fn parse_decimal(number: &str) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    // Refuses a second point, and numbers that no rate has.
    let whole: u64 = whole.parse().ok()?;
    let padded: u64 = format!("{fraction:0<FRACTION_DIGITS_MAX$}").parse().ok()?;
    let scale = 10_u128.pow(FRACTION_DIGITS_MAX.try_into().ok()?);
    Some(u128::from(whole) * scale + u128::from(padded))
}

/// Bits that one of the unit is; `None` if the unit is unknown. `b` alone is refused: half of the
/// world means bits by it.
fn bits_of(unit: &str) -> Option<u64> {
    let unit = unit.strip_suffix("/s").unwrap_or(unit).trim_end();
    Some(match unit {
        "" | "B" => 8,
        "kB" | "KB" => 8_000,
        "MB" => 8_000_000,
        "GB" => 8_000_000_000,
        "KiB" => 8 << 10,
        "MiB" => 8 << 20,
        "GiB" => 8 << 30,
        "kbit" | "Kbit" => 1_000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_rate(text: &str) -> Result<ByteRate, RateError> {
        text.parse()
    }

    #[test]
    fn rates_are_read_exactly() {
        let cases = [
            ("1", 1),
            ("1500 B/s", 1_500),
            ("10MB", 10_000_000),
            ("10 MB/s", 10_000_000),
            ("1.5MiB", 3 << 19),
            (" 2KiB ", 2_048),
            ("200Mbit", 25_000_000),
            ("1 Gbit/s", 125_000_000),
            ("0.000000001GB", 1),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_rate(text).map(ByteRate::get), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        for text in ["", "fast", "-1MB", ".5MB", "5.MB", "1.2.3MB", "1.0000000001GB"] {
            let expected = RateError::NoNumber { text: text.into() };
            assert_eq!(parse_rate(text), Err(expected), "{text}");
        }
        for (text, unit) in [("5b", "b"), ("5 mB", "mB"), ("5MBps", "MBps"), ("5MB 6", "MB 6")] {
            let expected = RateError::UnknownUnit { unit: unit.into() };
            assert_eq!(parse_rate(text), Err(expected), "{text}");
        }
        for text in ["0", "0.0MB", "7bit", "18446744073709551615MB"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_rate("0"), Err(RateError::OutOfRange { text: "0".into() }));
    }
}
