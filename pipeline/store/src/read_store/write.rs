//! Writing: the changes of all projections and their checkpoints in one transaction.

use std::sync::Arc;

use redb::{TableHandle, WriteTransaction};

use super::{
    Checkpoint, ProjectionId, ProjectionRows, ReadStore, StoreError, TableName,
    changed_table::{ChangedTable, RowBytes},
    snapshot::{CHECKPOINTS, definition},
};
use crate::sealed::seal;

/// From this many rows on, writing is worth several threads.
const ROWS_FOR_CORES: usize = 1_000;

/// Which crashes a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Readers see the commit, but a crash of the process undoes it.
    Volatile,
    /// The commit, and every commit before it, survives a crash of the machine.
    Durable,
}

/// What one transaction changes for one projection.
pub struct Changes<'s> {
    /// The projection.
    pub projection: ProjectionId,
    /// Its changed rows.
    pub rows: ProjectionRows<'s>,
    /// Its checkpoint afterwards; if absent, the stored one stays.
    pub checkpoint: Option<Checkpoint>,
}

/// All changes of one transaction that are not in the file yet. The next transaction may be prepared on top of them
/// ([`ProjectionRows::above`]).
pub struct Uncommitted {
    tables: Vec<ChangedTable>,
    checkpoints: Vec<(ProjectionId, Checkpoint)>,
}

impl Uncommitted {
    /// The changes of several projections.
    pub fn new(changes: Vec<Changes<'_>>) -> Self {
        let (mut tables, mut checkpoints) = (Vec::new(), Vec::new());
        for Changes { projection, rows, checkpoint } in changes {
            tables.extend(rows.into_changed_tables());
            checkpoints.extend(checkpoint.map(|checkpoint| (projection, checkpoint)));
        }
        // The largest comes first: tables are written in parallel, and a large one at the end would keep the others waiting.
        tables.sort_by_key(|table| std::cmp::Reverse(table.len()));
        Self { tables, checkpoints }
    }

    /// How many rows it changes.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|table| table.len()).sum()
    }

    /// The tables that it changes, and the changed keys of each.
    pub fn keys(&self) -> impl Iterator<Item = (&TableName, &[Arc<str>])> {
        self.tables.iter().map(|table| (table.name(), table.keys()))
    }

    /// The tables that it changes and, in order, the changed keys of each with their rows afterwards; no row if it is removed.
    pub fn changed_rows(
        &self,
    ) -> impl Iterator<Item = (&TableName, impl Iterator<Item = (&str, Option<RowBytes<'_>>)>)> {
        self.tables.iter().map(|table| (table.name(), table.iter().map(|(key, change)| (key, change.row()))))
    }

    /// The projections that make progress, and their new sequence.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&ProjectionId, &Checkpoint)> {
        self.checkpoints.iter().map(|(projection, checkpoint)| (projection, checkpoint))
    }

    pub(super) fn table(&self, name: &TableName) -> Option<&ChangedTable> {
        self.tables.iter().find(|table| table.name() == name)
    }
}

impl ReadStore {
    /// Writes the changes of several projections: all or none. Even without changes, it gives earlier commits the durability in `durability`.
    ///
    /// # Errors
    /// [`StoreError`]. Nothing of it was written, and the file must be opened again.
    pub fn commit(&self, changes: Vec<Changes<'_>>, durability: Durability) -> Result<(), StoreError> {
        self.commit_prepared(&Uncommitted::new(changes), durability)
    }

    /// As [`Self::commit`], for changes over which the next transaction may already be prepared.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_prepared(&self, prepared: &Uncommitted, durability: Durability) -> Result<(), StoreError> {
        self.damage.noted(|| {
            let transaction = self.begin(durability)?;
            self.write_rows(&transaction, &prepared.tables)?;
            for (projection, checkpoint) in &prepared.checkpoints {
                self.write_checkpoint(&transaction, projection, checkpoint)?;
            }
            transaction.commit().map_err(|source| StoreError::from_commit(self.path(), source))
        })
    }

    /// Removes every row of a projection and sets its checkpoint, durably. Repeating it changes nothing.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn reset(&self, projection: &ProjectionId, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.damage.noted(|| {
            let transaction = self.begin(Durability::Durable)?;
            let prefix = projection.table_prefix();
            let tables: Vec<_> = transaction
                .list_tables()
                .map_err(|source| StoreError::from_storage(self.path(), source))?
                .filter(|table| table.name().starts_with(&prefix))
                .collect();
            for table in tables {
                transaction
                    .delete_table(table)
                    .map_err(|source| StoreError::from_table(self.path(), source))?;
            }
            self.write_checkpoint(&transaction, projection, checkpoint)?;
            transaction.commit().map_err(|source| StoreError::from_commit(self.path(), source))
        })
    }

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, StoreError> {
        let mut transaction = self
            .database
            .begin_write()
            .map_err(|source| StoreError::from_transaction(self.path(), source))?;
        match durability {
            Durability::Volatile => transaction
                .set_durability(redb::Durability::None)
                .expect("only savepoints and shared files forbid it, and this store uses neither"),
            // With this, the state of redb's allocator is written, too. Otherwise redb would scan the whole file when it opens it after a
            // crash.
            Durability::Durable => transaction.set_quick_repair(true),
        }
        Ok(transaction)
    }

    /// Writes tables in parallel if there is enough to write. This is possible because each table in redb has its own lock and pages.
    fn write_rows(&self, transaction: &WriteTransaction, tables: &[ChangedTable]) -> Result<(), StoreError> {
        let changed: usize = tables.iter().map(|table| table.len()).sum();
        let cores = self.cores.when(changed >= ROWS_FOR_CORES);
        cores
            .each(tables.iter().collect(), |table| self.write_table(transaction, table))
            .into_iter()
            .collect()
    }

    fn write_table(&self, transaction: &WriteTransaction, changed: &ChangedTable) -> Result<(), StoreError> {
        let failed = |source| StoreError::from_storage(self.path(), source);
        let mut table = transaction
            .open_table(definition(changed.name().as_str()))
            .map_err(|source| StoreError::from_table(self.path(), source))?;
        let mut sealed = Vec::new();
        for (key, change) in changed.iter() {
            match change.row() {
                Some(value) => {
                    sealed.clear();
                    sealed.extend_from_slice(&value);
                    seal(key.as_bytes(), &mut sealed);
                    drop(table.insert(key, sealed.as_slice()).map_err(failed)?);
                }
                None => drop(table.remove(key).map_err(failed)?),
            }
        }
        Ok(())
    }

    fn write_checkpoint(
        &self,
        transaction: &WriteTransaction,
        projection: &ProjectionId,
        checkpoint: &Checkpoint,
    ) -> Result<(), StoreError> {
        let mut value = serde_json::to_vec(checkpoint).expect("a checkpoint holds only texts and numbers");
        seal(projection.as_str().as_bytes(), &mut value);
        let mut table = transaction
            .open_table(definition(CHECKPOINTS))
            .map_err(|source| StoreError::from_table(self.path(), source))?;
        table
            .insert(projection.as_str(), value.as_slice())
            .map(drop)
            .map_err(|source| StoreError::from_storage(self.path(), source))
    }
}
