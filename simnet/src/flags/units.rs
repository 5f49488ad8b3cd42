//! Durations and sizes as people write them on the command line: `0.5ms`, `10GB`.
//!
//! Exact integer arithmetic. Sizes and rates share their parser with the rest of Shoal.

use core::time::Duration;

use p2p_core::ByteRate;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnitError {
    /// It is no number with a unit of time.
    #[error("{text:?} is no duration; write it as 500us, 0.5ms, 30s, 10m or 2h")]
    NoDuration {
        /// The text.
        text: String,
    },
    /// It is no number with a unit of data.
    #[error("{text:?} is no size; write it as 1048576, 10MB or 4MiB")]
    NoSize {
        /// The text.
        text: String,
    },
}

/// Reads a duration: a decimal number and a unit from `ns` to `h`. Zero needs no unit.
///
/// # Errors
///
/// If the text is anything else, or longer than 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let no_duration = || UnitError::NoDuration { text: text.to_owned() };
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let nanos_per_unit: u64 = match unit.trim() {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(no_duration()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits behind the point: below a nanosecond of a second.
    if fraction.is_empty() || fraction.len() > 9 {
        return Err(no_duration());
    }
    let parse = |digits: &str| digits.parse::<u64>().map_err(|_error| no_duration());
    let whole = u128::from(parse(whole)?) * u128::from(nanos_per_unit);
    let fraction = u128::from(parse(&format!("{fraction:0<9}"))?) * u128::from(nanos_per_unit);
    let nanos = u64::try_from(whole + fraction / 1_000_000_000);
    nanos.map(Duration::from_nanos).map_err(|_error| no_duration())
}

/// Reads an amount of data in bytes: a decimal number and an optional unit.
///
/// # Errors
///
/// If the text is anything else, zero, or a rate.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let no_size = || UnitError::NoSize { text: text.to_owned() };
    if text.contains("bit") || text.contains("/s") {
        return Err(no_size());
    }
    text.parse::<ByteRate>().map(ByteRate::get).map_err(|_error| no_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("0", Duration::ZERO),
            ("500us", Duration::from_micros(500)),
            ("0.5ms", Duration::from_micros(500)),
            ("0.000000001s", Duration::from_nanos(1)),
            ("30 s", Duration::from_secs(30)),
            ("1.5h", Duration::from_mins(90)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "ms", ".5ms", "5.ms", "1.2.3s", "-1s", "5 days", "99999999999h"] {
            let expected = UnitError::NoDuration { text: text.to_owned() };
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_exactly_and_rates_are_none() {
        for (text, expected) in [("7", 7), ("4MiB", 4 << 20), ("2.5GB", 2_500_000_000)] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "1Gbit", "1MB/s", "x"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
