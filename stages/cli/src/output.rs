//! Results on standard output: lines, and tables for people. Deliberately absent: the form of CSV, which is in
//! `millstream_values::report_table`, and the form of JSON, which each command defines.
//!
//! Names, actors and other texts come from the senders of commands. Their control characters are escaped, so that none of them reaches the
//! terminal.

use std::fmt::Display;

use comfy_table::{CellAlignment, Table, presets};
use millstream_runtime::standard_streams::{OutputError, write_result};
use millstream_values::text::{escape_controls, escape_controls_in_lines};

/// Writes one line, or several lines that belong together. Control characters are escaped as in JSON.
///
/// # Errors
/// [`OutputError`]; the command then ends.
pub(crate) fn line(text: impl Display) -> Result<(), OutputError> {
    write_result(&format!("{}\n", escape_controls_in_lines(&text.to_string())))
}

/// Prints a part of a line.
pub(crate) fn part(text: impl Display) -> Result<(), OutputError> {
    write_result(&escape_controls_in_lines(&text.to_string()))
}

/// A table of texts whose header has the names of fields as words. Columns named in `numbers` are aligned to the right.
pub(crate) fn table(fields: &[String], rows: &[Vec<String>], numbers: &[usize]) -> String {
    let columns: Vec<String> = fields.iter().map(|name| name.replace('_', " ")).collect();
    table_under(&columns, rows, numbers)
}

/// The same with a header as it is given.
pub(crate) fn table_under(columns: &[String], rows: &[Vec<String>], numbers: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    table.add_rows(rows.iter().map(|row| row.iter().map(|text| escape_controls(text))));
    for column in numbers {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // Trailing blanks would be a nuisance for people who copy a line.
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_a_table_stays_on_its_line_and_controls_nothing() {
        let rows = [vec!["a\u{1b}[2Jb\nc".to_owned(), "\u{202e}1".to_owned()]];
        let shown = table(&["name".to_owned(), "units".to_owned()], &rows, &[1]);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.contains("a\\u001b[2Jb\\u000ac"), "{shown}");
        assert!(shown.contains("\\u202e1"), "{shown}");
    }
}
