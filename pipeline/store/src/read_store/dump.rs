//! All rows and checkpoints as text. The same content gives the same bytes, so two stores that were built in different ways can be
//! compared by their dumps.

use std::{
    io::{self, Write},
    ops::{Bound, ControlFlow},
};

use super::{Direction, KeyRange, Snapshot, StoreError, snapshot::CHECKPOINTS};

/// The tables, by their last name, whose rows are work to be done instead of content. Dumps leave them out.
pub const TRANSIENT_TABLES: [&str; 1] = ["outbox"];

impl Snapshot {
    /// Writes one JSON object a line: `{"table":…,"key":…,"value":…}` by table and key, then
    /// `{"checkpoint":…,"sequence":…,"message_id":…,"version":…}` by projection.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Io`] also when `output` fails.
    pub fn dump(&self, output: &mut dyn Write) -> Result<(), StoreError> {
        let written = |source: io::Error| StoreError::Io { path: self.path().to_owned(), source };
        let transient =
            |name: &&String| name.rsplit('.').next().is_some_and(|last| TRANSIENT_TABLES.contains(&last));
        for name in self.row_tables()?.iter().filter(|name| !transient(name)) {
            self.each_row(name, |key, value| {
                write!(output, "{{\"table\":{},\"key\":{},\"value\":", json_text(name), json_text(key))
                    .and_then(|()| output.write_all(value))
                    .and_then(|()| output.write_all(b"}\n"))
                    .map_err(written)
            })?;
        }
        self.each_row(CHECKPOINTS, |projection, value| {
            let checkpoint = self.parse_checkpoint(projection, value)?;
            writeln!(
                output,
                "{{\"checkpoint\":{},\"sequence\":{},\"message_id\":{},\"version\":{}}}",
                json_text(projection),
                checkpoint.sequence,
                json_text(&checkpoint.message_id),
                checkpoint.version,
            )
            .map_err(written)
        })
    }

    fn each_row(
        &self,
        table: &str,
        mut visit: impl FnMut(&str, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(rows) = self.table(table)? else { return Ok(()) };
        let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
        self.each_stored(&rows, everything, Direction::Ascending, |key, stored| {
            visit(key, self.row(table, key, stored)?).map(ControlFlow::Continue)
        })
    }
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text is always JSON")
}
