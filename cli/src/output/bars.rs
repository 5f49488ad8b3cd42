//! Progress bars. They live on standard error and draw nothing when that is not a terminal.
//!
//! Owns how bars over bytes look, so that all commands show a transfer alike; when one moves and
//! ends is the command's.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes with a label in front. Empty until its length is set.
pub(crate) fn over_bytes(label: &'static str) -> ProgressBar {
    let template =
        "{prefix:<10} [{bar:30}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}  {wide_msg}";
    ProgressBar::no_length().with_style(style(template)).with_prefix(label)
}

/// A bar for one host, to be added to a screen of several. Setting the prefix later would draw it
/// at once, on its own, and leave that line behind.
pub(crate) fn of_host(name: String) -> ProgressBar {
    ProgressBar::no_length()
        .with_style(style("  {prefix:<9} [{bar:30}] {percent:>3} %  {wide_msg}"))
        .with_prefix(name)
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates of this file parse");
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn templates_parse() {
        super::over_bytes("x").finish_and_clear();
        super::of_host("x".into()).finish_and_clear();
    }
}
