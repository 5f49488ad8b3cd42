//! Amounts as people read them, and texts of others as a terminal may show them.
//!
//! Pure, integers only. One way for each kind of amount, so that two commands never print the same
//! amount in two ways.

use std::time::Duration;

pub(crate) use goal_state::{bytes_text as bytes, printable};

/// Widest name of a host in a table. Many are longer with their domain, and a table of them would
/// have no room for anything else.
const HOST_CHARS_MAX: usize = 40;

/// Characters that stay of the end of such a name.
const HOST_END_CHARS: usize = 12;

/// Bytes in MiB with one decimal and no unit, for columns. Rounds down.
pub(crate) fn mebibytes(count: u64) -> String {
    let tenths = u128::from(count) * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Seconds with one decimal below ten seconds and none above: `0.4 s`, `73 s`.
pub(crate) fn seconds(span: Duration) -> String {
    let tenths = span.as_millis() / 100;
    if tenths < 100 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        format!("{} s", tenths / 10)
    }
}

/// How long ago something was, in its largest unit: `3 s`, `5 min`, `2 h`, `9 d`.
pub(crate) fn age(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Bytes per second over `span`; 0 for an empty span.
pub(crate) fn rate(count: u64, span: Duration) -> u64 {
    let nanos = span.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// `part` of `whole` in percent, rounded down; 100 if `whole` is zero: nothing is complete.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 100;
    }
    u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(u64::MAX)
}

/// `part` of `whole` in percent with one decimal, rounded down: `92.8 %`; all if `whole` is zero.
pub(crate) fn per_mille(part: u64, whole: u64) -> String {
    let tenths = if whole == 0 { 1_000 } else { u128::from(part) * 1_000 / u128::from(whole) };
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `part / whole` with two decimals, rounded to nearest; `-` if `whole` is zero.
pub(crate) fn ratio(part: u128, whole: u128) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let hundredths = (part * 200 + whole) / (whole * 2);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A number of things: `1 host`, `5 hosts`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// The name of a host for a column: a long one without its middle, because names differ at either
/// end. Documents for scripts and pipes have it whole.
pub(crate) fn host_column(name: &str) -> String {
    let name = printable(name);
    let count = name.chars().count();
    if count <= HOST_CHARS_MAX {
        return name;
    }
    let end = name.chars().skip(count - HOST_END_CHARS);
    name.chars().take(HOST_CHARS_MAX - HOST_END_CHARS - 3).chain("...".chars()).chain(end).collect()
}

/// Text of others as [`printable`] has it, cut to `chars_max` characters.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars().take(chars_max.saturating_sub(3)).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_as_stated() {
        let cases = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(mebibytes(1_572_864), "1.5");
        assert_eq!(mebibytes(1_000), "0.0");
    }

    #[test]
    fn spans_are_short() {
        let cases =
            [(0, "0.0 s"), (449, "0.4 s"), (9_999, "9.9 s"), (10_000, "10 s"), (73_900, "73 s")];
        for (millis, expected) in cases {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d")];
        for (seconds, expected) in cases {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn shares_and_rates_survive_their_limits() {
        assert_eq!([percent(1, 3), percent(0, 0), percent(u64::MAX, u64::MAX)], [33, 100, 100]);
        assert_eq!([per_mille(2, 3), per_mille(0, 0)], ["66.6 %", "100.0 %"]);
        assert_eq!([ratio(4, 3), ratio(2, 3), ratio(1, 0)], ["1.33", "0.67", "-"]);
        assert_eq!(rate(10, Duration::from_millis(500)), 20);
        assert_eq!(rate(u64::MAX, Duration::ZERO), u64::MAX);
        assert_eq!([counted(0, "host"), counted(1, "host")], ["0 hosts", "1 host"]);
        assert_eq!(printable("a\u{1b}[2J\u{202e}b\n"), "a [2J b ");
    }

    #[test]
    fn long_names_of_hosts_lose_their_middle() {
        let fits = "h".repeat(HOST_CHARS_MAX);
        assert_eq!(host_column(&fits), fits);
        let long = "ip-10-123-123-123.eu-central-1.compute.\u{e4}nternal";
        assert_eq!(host_column(long), "ip-10-123-123-123.eu-cent...ute.\u{e4}nternal");
        assert_eq!(host_column(long).chars().count(), HOST_CHARS_MAX);
        assert_eq!(host_column("a\u{202e}b"), "a b");
    }
}
