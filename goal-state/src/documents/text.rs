//! Texts by people, as documents carry them: one line, printable, bounded; and moments,
//! spans and sizes for people.
//!
//! Pure. Nothing here knows what a text is about.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that has a year of four digits.
const LAST_SECOND: u64 = 253_402_300_799;

/// Characters that are not shown as themselves, with all between the two of a pair: those that
/// Unicode calls `Default_Ignorable_Code_Point` (nothing is drawn; some of them turn the direction
/// of what stands around them), the separators of lines and paragraphs, which end a line for some
/// readers, and the marks of annotations.
const HIDDEN: [(char, char); 18] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fff8}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a terminal would not show the character as itself: it controls, is invisible, or turns
/// the direction of what stands around it, so that two texts that differ look alike.
pub fn is_hidden(letter: char) -> bool {
    letter.is_control() || HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&letter))
}

/// `text` with a space for each character that [`is_hidden`]: text of others on one line, as a
/// terminal may show it.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if is_hidden(letter) { ' ' } else { letter }).collect()
}

/// `text` [`printable`], cut to `bytes_max` at a whole character.
pub(crate) fn line(text: &str, bytes_max: usize) -> String {
    let line = printable(text);
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
    fn what_a_terminal_does_not_show_becomes_a_space() {
        let hidden = "\u{0}\u{7f}\u{9b}\u{ad}\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\
                      \u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\
                      \u{34f}\u{180e}\u{2063}\u{3164}\u{fe0f}\u{fffa}\u{e0041}";
        assert_eq!(printable(hidden), " ".repeat(hidden.chars().count()));
        let shown = "a-\u{e4} \u{2010}\u{4e2d}\u{ffec}\u{fffd}\u{5d0}\u{1f600}";
        assert_eq!(printable(shown), shown);
    }

    #[test]
    fn moments_never_panic() {
        assert_eq!(moment(1_764_514_663_999), "2025-11-30T14:57:43Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
