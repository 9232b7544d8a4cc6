//! The tables in a file of SQLite. One process fills it, and any number of others may read it at the same time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream_store::{
    file::{mark_damaged, marked_damage, set_aside_with},
    read_store::{Checkpoint, ProjectionId},
};
use millstream_values::money::places_other_than_hundredths;
use rusqlite::{
    Connection, ErrorCode, Transaction, TransactionBehavior, ffi::SQLITE_IOERR_SHORT_READ, params,
    params_from_iter, types::ToSqlOutput,
};

use crate::{
    database::{Database, DatabaseError, Filling, Move, Rows, StoredPosition, TableChange},
    definition::{
        BESIDE, Dialect, column_list, create_beside, create_in_place, drop_old, quoted, take_place,
    },
    table::{LINE_COLUMN, Table, TableRow, Value},
};

/// How long a statement waits for another process that writes, such as one that is ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// What SQLite adds to the name of the file for its log of changes, and for the index of that.
const BESIDE_THE_FILE: [&str; 2] = ["-wal", "-shm"];
/// How many prepared statements are kept: more than three times the number of an application's tables.
const STATEMENTS_KEPT: usize = 512;

/// A file that this process fills.
pub struct SqliteDatabase {
    connection: Connection,
    path: PathBuf,
    opened: FileIdentity,
    _lock: File,
}

impl SqliteDatabase {
    /// Opens the file, and creates it and its folder if they are missing.
    ///
    /// # Errors
    /// [`DatabaseError`]. A file that was found damaged when it was open before is damaged.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let lock = lock(path)?;
        Ok(Self::of(connect(path)?, path, lock))
    }

    /// As [`Self::open`]; a damaged file is set aside, and a new one begun. Returns the name that the damaged file has now.
    ///
    /// # Errors
    /// As there.
    pub fn open_or_begin_anew(path: &Path) -> Result<(Self, Option<PathBuf>), DatabaseError> {
        let lock = lock(path)?;
        let (connected, aside) = match connect(path) {
            Err(DatabaseError::Damaged { detail }) => {
                // If the process is killed between these steps, the next one goes on with them.
                mark_damaged(path, &detail);
                let aside = set_aside_with(path, &BESIDE_THE_FILE)?;
                tracing::warn!(
                    detail, aside = %aside.display(), "set the damaged file of the tables aside; filling a new one"
                );
                (connect(path)?, Some(aside))
            }
            connected => (connected?, None),
        };
        Ok((Self::of(connected, path, lock), aside))
    }

    fn of((connection, opened): (Connection, FileIdentity), path: &Path, lock: File) -> Self {
        Self { connection, path: path.to_owned(), opened, _lock: lock }
    }

    /// Does work on the file. If that meets damage, the next process that opens the file is told.
    fn marking_damage<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let done = work(&mut self.connection);
        if let Err(DatabaseError::Damaged { detail }) = &done {
            mark_damaged(&self.path, detail);
        }
        done
    }
}

/// Opens the file, with what every file of tables has.
fn connect(path: &Path) -> Result<(Connection, FileIdentity), DatabaseError> {
    if let Some(detail) = marked_damage(path)? {
        return Err(DatabaseError::Damaged { detail });
    }
    let mut connection = Connection::open(path).map_err(failed("open"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed("busy_timeout"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Readers continue while it is written, and committed changes survive even a failure of the machine.
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
        connection.pragma_update(None, name, value).map_err(failed(name))?;
    }
    let opened = identity(path).map_err(file_failed(path))?;
    let transaction = begin(&mut connection)?;
    run(&transaction, &Dialect::Sqlite.system())?;
    for (code, places) in places_other_than_hundredths() {
        let statement = "INSERT OR REPLACE INTO millstream_currency VALUES (?1, ?2, ?3)";
        let units = 10_i64.pow(places);
        transaction.execute(statement, params![code, places, units]).map_err(failed(statement))?;
    }
    transaction.commit().map_err(failed("COMMIT"))?;
    Ok((connection, opened))
}

/// The lock that one process at a time holds while it fills the file.
fn lock(path: &Path) -> Result<File, DatabaseError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(file_failed(folder))?;
    }
    let lock_path = path.with_added_extension("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(file_failed(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DatabaseError::Taken { path: path.display().to_string() }),
        Err(TryLockError::Error(source)) => Err(file_failed(&lock_path)(source)),
    }
}

fn file_failed(path: &Path) -> impl FnOnce(std::io::Error) -> DatabaseError {
    move |source| DatabaseError::File { path: path.display().to_string(), source }
}

/// The device and inode of an open file.
type FileIdentity = (u64, u64);

/// The file at a path.
fn identity(path: &Path) -> std::io::Result<FileIdentity> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

fn failed(statement: &str) -> impl FnOnce(rusqlite::Error) -> DatabaseError {
    move |source| {
        let statement = statement.to_owned();
        match is_damage(&source) {
            true => DatabaseError::Damaged { detail: format!("SQLite failed at: {statement}: {source}") },
            false => DatabaseError::Sqlite { statement, source },
        }
    }
}

/// Whether SQLite cannot read its own file. Of a file that was cut short it says, where a row goes on in further pages, that there is less to
/// read than it expects.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error();
    code.is_some_and(|code| {
        matches!(code.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            || code.extended_code == SQLITE_IOERR_SHORT_READ
    })
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>, DatabaseError> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("BEGIN IMMEDIATE"))
}

fn run(transaction: &Transaction<'_>, statements: &str) -> Result<(), DatabaseError> {
    transaction.execute_batch(statements).map_err(failed(statements))
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(rusqlite::types::Value::Null),
            Self::Integer(number) => (*number).into(),
            Self::Real(number) => (*number).into(),
            Self::Boolean(truth) => i64::from(*truth).into(),
            Self::Text(text) => text.as_str().into(),
        })
    }
}

fn stored_positions(connection: &Connection) -> Result<Vec<StoredPosition>, DatabaseError> {
    let statement =
        "SELECT projection, generation, sequence, message_id, version, definition FROM millstream_position";
    let mut prepared = connection.prepare_cached(statement).map_err(failed(statement))?;
    let rows = prepared.query_map([], |row| {
        Ok(StoredPosition {
            projection: ProjectionId::from_text(row.get_ref(0)?.as_str()?),
            checkpoint: Checkpoint {
                generation: row.get(1)?,
                sequence: u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default(),
                message_id: row.get(3)?,
                version: row.get(4)?,
                complete_from: 0,
            },
            definition: row.get(5)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(failed(statement))
}

/// A sequence as the database stores it. JetStream's sequences never come near the limit.
pub(crate) fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// Advances positions, each from where this process left it. None if all have already advanced.
fn move_positions(transaction: &Transaction<'_>, moves: &[Move]) -> Result<bool, DatabaseError> {
    let statement = "UPDATE millstream_position SET generation = ?1, sequence = ?2, message_id = ?3, version = ?4 \
         WHERE projection = ?5 AND generation = ?6 AND sequence = ?7 AND message_id = ?8";
    let mut prepared = transaction.prepare_cached(statement).map_err(failed(statement))?;
    for Move { projection, from, to } in moves {
        let changed = prepared.execute(params![
            to.generation,
            number(to.sequence),
            to.message_id,
            to.version,
            projection.as_str(),
            from.generation,
            number(from.sequence),
            from.message_id,
        ]);
        if changed.map_err(failed(statement))? != 1 {
            let stored = stored_positions(transaction)?;
            return match all_moved(moves, &stored) {
                true => Ok(false),
                false => Err(DatabaseError::Moved { projection: projection.to_string() }),
            };
        }
    }
    Ok(true)
}

/// Whether the database has all these positions at their expected values.
pub(crate) fn all_moved(moves: &[Move], stored: &[StoredPosition]) -> bool {
    moves.iter().all(|Move { projection, to, .. }| {
        let found = stored.iter().find(|each| each.projection == *projection);
        found.is_some_and(|found| {
            let found = &found.checkpoint;
            (&found.generation, found.sequence, &found.message_id)
                == (&to.generation, to.sequence, &to.message_id)
        })
    })
}

/// The statements that change a table.
struct Statements {
    put: String,
    remove: String,
    /// For each list: the statement that removes a row's entries, and the one that adds an entry.
    lists: Vec<(String, String)>,
}

fn where_key(table: &Table) -> String {
    let parts = (1..).zip(table.key()).map(|(place, column)| format!("{} = ?{place}", quoted(&column.name)));
    parts.collect::<Vec<_>>().join(" AND ")
}

fn places(count: usize) -> String {
    (1..=count).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ")
}

impl Statements {
    fn of(table: &Table, suffix: &str) -> Self {
        let named = |name: &str| Dialect::Sqlite.name(&table.context, &format!("{name}{suffix}"));
        let (name, key) = (named(&table.name), where_key(table));
        let columns = column_list(table.columns.iter().map(|column| column.name.as_str()));
        let key_names = || table.key().iter().map(|column| column.name.as_str());
        let lists = table.lists.iter().map(|list| {
            let names = key_names()
                .chain([LINE_COLUMN])
                .chain(list.columns.iter().map(|column| column.name.as_str()));
            let count = table.key_columns + 1 + list.columns.len();
            let list = named(&list.name);
            (
                format!("DELETE FROM {list} WHERE {key}"),
                format!("INSERT INTO {list} ({}) VALUES ({})", column_list(names), places(count)),
            )
        });
        Self {
            put: format!(
                "INSERT OR REPLACE INTO {name} ({columns}) VALUES ({})",
                places(table.columns.len())
            ),
            remove: format!("DELETE FROM {name} WHERE {key}"),
            lists: lists.collect(),
        }
    }

    fn remove(&self, transaction: &Transaction<'_>, key: &[Value]) -> Result<(), DatabaseError> {
        for (remove, _) in &self.lists {
            execute(transaction, remove, key)?;
        }
        execute(transaction, &self.remove, key)
    }

    fn put(
        &self,
        transaction: &Transaction<'_>,
        row: &TableRow,
        key: &[Value],
        fresh: bool,
    ) -> Result<(), DatabaseError> {
        execute(transaction, &self.put, &row.values)?;
        for ((remove, add), entries) in self.lists.iter().zip(&row.lists) {
            if !fresh {
                execute(transaction, remove, key)?;
            }
            for (line, entry) in (1..).zip(entries) {
                let line = [Value::Integer(line)];
                execute(transaction, add, key.iter().chain(&line).chain(entry))?;
            }
        }
        Ok(())
    }
}

fn execute<'v>(
    transaction: &Transaction<'_>,
    statement: &str,
    values: impl IntoIterator<Item = &'v Value>,
) -> Result<(), DatabaseError> {
    let mut prepared = transaction.prepare_cached(statement).map_err(failed(statement))?;
    prepared.execute(params_from_iter(values)).map(drop).map_err(failed(statement))
}

fn key_of<'r>(table: &Table, row: &'r TableRow) -> &'r [Value] {
    row.values.get(..table.key_columns).unwrap_or_default()
}

impl Database for SqliteDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn connect_again(&mut self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn positions(&mut self) -> Result<Vec<StoredPosition>, DatabaseError> {
        self.marking_damage(|connection| stored_positions(connection))
    }

    fn make_missing(&mut self, tables: &[Arc<Table>]) -> Result<(), DatabaseError> {
        self.marking_damage(|connection| {
            let transaction = begin(connection)?;
            for table in tables {
                let statement =
                    "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
                let name = format!("{}_{}", table.context, table.name);
                let is_there: bool =
                    transaction.query_row(statement, [name], |row| row.get(0)).map_err(failed(statement))?;
                if !is_there {
                    run(&transaction, &create_in_place(Dialect::Sqlite, table).join("\n"))?;
                }
            }
            transaction.commit().map_err(failed("COMMIT"))
        })
    }

    fn write(&mut self, changes: &[TableChange], moves: &[Move]) -> Result<(), DatabaseError> {
        // Nobody can read what is written to a file that has no name any more.
        if identity(&self.path).ok() != Some(self.opened) {
            return Err(DatabaseError::Gone { path: self.path.display().to_string() });
        }
        self.marking_damage(|connection| {
            let transaction = begin(connection)?;
            if !move_positions(&transaction, moves)? {
                return Ok(());
            }
            for TableChange { table, removed, rows } in changes {
                let statements = Statements::of(table, "");
                for key in removed {
                    statements.remove(&transaction, key)?;
                }
                for row in rows {
                    statements.put(&transaction, row, key_of(table, row), false)?;
                }
            }
            transaction.commit().map_err(failed("COMMIT"))
        })
    }

    fn fill(&mut self, filling: &Filling, rows: &mut Rows<'_>) -> Result<(), DatabaseError> {
        self.marking_damage(|connection| {
            let transaction = begin(connection)?;
            let id = &filling.position.projection;
            let stored = stored_positions(&transaction)?.into_iter().find(|each| each.projection == *id);
            if stored != filling.before {
                return Err(DatabaseError::Moved { projection: id.to_string() });
            }
            let keeps = filling.keeps_tables();
            for table in &filling.tables {
                let statements = match keeps {
                    true => emptied(table),
                    false => create_beside(Dialect::Sqlite, table),
                };
                run(&transaction, &statements.join("\n"))?;
            }
            let suffix = if keeps { "" } else { BESIDE };
            let statements: Vec<_> =
                filling.tables.iter().map(|table| Statements::of(table, suffix)).collect();
            rows(&mut |index, rows| {
                let Some((table, statements)) = filling.tables.get(index).zip(statements.get(index)) else {
                    return Ok(());
                };
                rows.iter().try_for_each(|row| statements.put(&transaction, row, key_of(table, row), true))
            })?;
            if !keeps {
                for table in &filling.tables {
                    let statements =
                        [drop_old(Dialect::Sqlite, table), take_place(Dialect::Sqlite, table)].concat();
                    run(&transaction, &statements.join("\n"))?;
                }
            }
            let statement = "INSERT OR REPLACE INTO millstream_position VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let StoredPosition { checkpoint, definition, .. } = &filling.position;
            transaction
                .execute(
                    statement,
                    params![
                        id.as_str(),
                        checkpoint.generation,
                        number(checkpoint.sequence),
                        checkpoint.message_id,
                        checkpoint.version,
                        definition
                    ],
                )
                .map_err(failed(statement))?;
            transaction.commit().map_err(failed("COMMIT"))
        })
    }
}

fn emptied(table: &Table) -> Vec<String> {
    let lists = table.lists.iter().map(|list| &list.name);
    let names = lists.chain([&table.name]);
    names.map(|name| format!("DELETE FROM {};", Dialect::Sqlite.name(&table.context, name))).collect()
}
