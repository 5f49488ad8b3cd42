//! Texts by people, as documents carry them: one line, printable, bounded; and moments,
//! spans and sizes for people.
//!
//! Pure. Nothing here knows what a text is about.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that has a year of four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// `text` on one line without control characters, cut to `bytes_max` at a whole character.
pub(crate) fn line(text: &str, bytes_max: usize) -> String {
    let line: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let line = line.trim();
    line[..line.floor_char_boundary(bytes_max)].trim_end().to_owned()
}

/// A moment in milliseconds since 1970, such as `2026-11-30T14:57:43Z`; the last one of the year
/// 9999 for all after it.
pub fn moment(at_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs((at_ms / 1_000).min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A span of time in its two largest units, such as `2m 5s`.
pub fn span(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Bytes with one decimal and a binary unit: `64.0 MiB`. Rounds down.
pub fn bytes_text(bytes: u64) -> String {
    let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!(span(Duration::from_millis(3_725_999)), "1h 2m");
        assert_eq!(span(Duration::from_secs(5)), "5s");
        for (bytes, expected) in [(5, "5 B"), (1_536, "1.5 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(bytes_text(bytes), expected);
        }
    }

    #[test]
    fn lines_are_printable_and_bounded() {
        assert_eq!(line(" a\n\u{1b}[1mb ", 100), "a  [1mb");
        assert_eq!(line("w\u{e4}b", 2), "w");
        assert_eq!(line("\n", 9), "");
    }

    #[test]
    fn moments_never_panic() {
        assert_eq!(moment(1_764_514_663_999), "2025-11-30T14:57:43Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
