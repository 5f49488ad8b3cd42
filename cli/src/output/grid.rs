//! Cells as a table with lines for terminals, or as aligned columns for pipes and files.
//!
//! Pure: whoever calls has made the cells printable. Knows no command.

use std::io::{self, IsTerminal as _};

use comfy_table::{ContentArrangement, Table, presets};

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// With lines, wrapped to `width` columns; `None` asks the terminal.
    Table { width: Option<u16> },
    /// Columns aligned by spaces, one line per host, for pipes and files.
    Plain,
}

impl Layout {
    /// What suits standard output.
    pub(crate) fn of_output() -> Self {
        if io::stdout().is_terminal() { Self::Table { width: None } } else { Self::Plain }
    }
}

/// A table of any cells, ending with a line break.
pub(crate) fn grid<const N: usize>(
    header: &[&str; N],
    rows: &[[String; N]],
    layout: Layout,
) -> String {
    let Layout::Table { width } = layout else {
        return columns(header, rows);
    };
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(header);
    table.add_rows(rows.iter().map(|row| row.iter()));
    format!("{}\n", table.trim_fmt())
}

/// Columns aligned by spaces, ending with a line break.
pub(crate) fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<&[String; N]> = std::iter::once(&header).chain(rows).collect();
    let width =
        |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let draw = |line: &&[String; N]| {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(draw).collect()
}
