//! The rows of a bare loop: one for each aggregate in a redb file, one sync a second.

use std::{path::Path, time::Duration};

use redb::{Database, Durability, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use tokio::time::Instant;

const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");
/// Between two syncs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The rows cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("the bare loop's rows cannot be written")]
pub(crate) struct BareRowsError(#[source] Box<redb::Error>);

fn failed(error: impl Into<redb::Error>) -> BareRowsError {
    BareRowsError(Box::new(error.into()))
}

/// A file of rows.
#[derive(Debug)]
pub(crate) struct BareRows {
    database: Database,
    synced: Instant,
}

impl BareRows {
    /// Makes the file.
    pub(crate) fn create(path: &Path) -> Result<Self, BareRowsError> {
        Ok(Self { database: Database::create(path).map_err(failed)?, synced: Instant::now() })
    }

    /// Writes rows in one transaction, which the disk has at once where they are the last ones.
    pub(crate) fn put<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a str, &'a [u8])>,
        last: bool,
    ) -> Result<(), BareRowsError> {
        let mut write = self.database.begin_write().map_err(failed)?;
        if last || self.synced.elapsed() >= SYNC_INTERVAL {
            self.synced = Instant::now();
        } else {
            write.set_durability(Durability::None).map_err(failed)?;
        }
        {
            let mut table = write.open_table(ROWS).map_err(failed)?;
            for (key, value) in rows {
                table.insert(key, value).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> Result<u64, BareRowsError> {
        let table = self.database.begin_read().map_err(failed)?.open_table(ROWS).map_err(failed)?;
        table.len().map_err(failed)
    }
}
