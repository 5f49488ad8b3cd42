//! How a row of the inventory is made to fit: its texts are cut until its JSON is short enough.
//!
//! Owns the order in which texts are cut. Invariant: what is left out is the least that helps, of
//! whole characters; numbers, names and kinds stay. Counts bytes as JSON has them: characters say
//! little about how long a text of emoji or quotes becomes. Pure.

use std::io;

use serde::Serialize;

use crate::documents::status::HostStatus;

/// Most bytes of one row as JSON. An honest row needs a quarter; the rest is room for texts.
pub const STATUS_ROW_BYTES_MAX: usize = 2_560;

/// What stands behind a text that was cut.
const CUT: &str = "...";

/// Cuts texts of `row` until it has at most `bytes_max` bytes as JSON: first the output, of which
/// the end stays, then the message, then the failure, by which hosts are grouped. Returns how many
/// bytes it has then; more than `bytes_max` if what is not text has too many.
pub fn fit_row(row: &mut HostStatus, bytes_max: usize) -> usize {
    let mut bytes = json_bytes(row);
    for cut in [cut_output, cut_message, cut_failure] {
        if bytes <= bytes_max {
            break;
        }
        cut(row, bytes - bytes_max);
        bytes = json_bytes(row);
    }
    bytes
}

fn cut_output(row: &mut HostStatus, excess: usize) {
    row.last_output = row.last_output.take().and_then(|output| {
        let bytes_max = json_bytes(&output).checked_sub(excess)?;
        let end = &output[output.len() - fitting(output.chars().rev(), bytes_max)..];
        let end = end.trim_start();
        (!end.is_empty()).then(|| end.to_owned())
    });
}

fn cut_message(row: &mut HostStatus, excess: usize) {
    row.message = row.message.take().and_then(|text| beginning(&text, excess));
}

fn cut_failure(row: &mut HostStatus, excess: usize) {
    row.failure = row.failure.take().and_then(|text| beginning(&text, excess));
}

/// The text without its last `excess` bytes of JSON; `None` if nothing is left.
fn beginning(text: &str, excess: usize) -> Option<String> {
    let bytes_max = json_bytes(text).checked_sub(excess + CUT.len())?;
    let end = fitting(text.chars(), bytes_max);
    (end > 0).then(|| format!("{}{CUT}", &text[..end]))
}

/// How many bytes of UTF-8 the first letters have that fit into `bytes_max` bytes of JSON with its
/// two quotes.
fn fitting(letters: impl Iterator<Item = char>, bytes_max: usize) -> usize {
    let mut room = bytes_max.saturating_sub(2);
    let mut bytes = 0;
    for letter in letters {
        let needed = json_bytes(&letter) - 2;
        if needed > room {
            break;
        }
        room -= needed;
        bytes += letter.len_utf8();
    }
    bytes
}

/// How long the value is as JSON.
fn json_bytes<T: Serialize + ?Sized>(value: &T) -> usize {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).expect("a status has only text and numbers");
    counted.0
}

/// Counts bytes instead of keeping them.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(output: &str, message: &str, failure: &str) -> HostStatus {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        HostStatus {
            last_output: text(output),
            message: text(message),
            failure: text(failure),
            ..HostStatus::new("h", "web".parse().unwrap())
        }
    }

    #[test]
    fn row_that_fits_stays_as_it_is() {
        let mut status = row("o", "m", "f");
        let bytes = serde_json::to_vec(&status).unwrap().len();
        assert_eq!(fit_row(&mut status, bytes), bytes);
        assert_eq!(status, row("o", "m", "f"));
    }

    /// Goal: whatever the texts are made of, the row fits, and as little is cut as that takes.
    #[test]
    fn texts_are_cut_by_their_bytes_in_json_output_first() {
        for letter in ["a", "\u{e4}", "\u{1f600}", "\"", "\\", "\u{1}"] {
            let texts = [letter.repeat(400), letter.repeat(300), letter.repeat(200)];
            let whole = row(&texts[0], &texts[1], &texts[2]);
            let bytes = serde_json::to_vec(&whole).unwrap().len();
            let of_letter = serde_json::to_vec(letter).unwrap().len() - 2;
            for cut in [1, 200, 450, 750] {
                let mut status = whole.clone();
                let bytes_max = bytes - cut * of_letter;
                let left = fit_row(&mut status, bytes_max);
                assert_eq!(left, serde_json::to_vec(&status).unwrap().len());
                assert!(left <= bytes_max, "{letter:?} {cut}: {left} > {bytes_max}");
                assert!(left + of_letter + 24 > bytes_max, "{letter:?} {cut}: {left}, {bytes_max}");
                assert_eq!(status.last_output.is_some(), cut < 400, "{letter:?} {cut}");
                assert_eq!(status.message == whole.message, cut < 400, "{letter:?} {cut}");
                assert_eq!(status.failure == whole.failure, cut < 700, "{letter:?} {cut}");
            }
        }
    }

    #[test]
    fn beginning_of_messages_and_end_of_output_stay() {
        let mut status = row("first\nlast", "", "");
        let bytes = serde_json::to_vec(&status).unwrap().len();
        fit_row(&mut status, bytes - 2);
        assert_eq!(status.last_output.as_deref(), Some("rst\nlast"));
        let mut status = row("", "first and last", "");
        let bytes = serde_json::to_vec(&status).unwrap().len();
        fit_row(&mut status, bytes - 2);
        assert_eq!(status.message.as_deref(), Some("first and..."));
    }

    #[test]
    fn row_without_texts_may_be_too_large() {
        let group = Some("g".repeat(100));
        let mut status = HostStatus { group, ..row("o", "m", "f") };
        assert!(fit_row(&mut status, 100) > 100);
        let texts = (&status.last_output, &status.message, &status.failure);
        assert_eq!(texts, (&None, &None, &None));
    }
}
