//! Queries a file of SQLite, through connections that can only read. Everything except reading and computing is forbidden to them.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, Statement, ToSql,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};
use serde_json::{Map, Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Argument, AskError, Limits, Reader, StatementText, exact_sum::use_exact_sum, position_of, size_of,
};
use crate::{
    database::DatabaseError,
    definition::{Dialect, create_in_place},
    plan::Plan,
    sqlite::is_damage,
};

/// How many idle connections are kept.
const KEPT: usize = 8;
/// How many steps of SQLite's virtual machine run between two checks of the time. They are few, because one step may work on a whole text.
const STEPS_BETWEEN_LOOKS: i32 = 200;
/// The longest text in bytes, the same as that of a message. Nothing can interrupt the single step that searches one text in another.
const LENGTH_MAX: i32 = 1024 * 1024;
/// The memory for the pages of one connection, in KiB.
const CACHE_KIBIBYTES: i64 = 8 * 1024;
/// How long it may take to understand a statement.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// How long a connection waits for a lock of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Functions that reach beyond the database or reveal something about the machine.
const FORBIDDEN_FUNCTIONS: [&str; 6] =
    ["load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "sqlite_compileoption_get"];
const POSITIONS: &str = "SELECT projection, generation, sequence FROM millstream_position";

/// A file that is queried.
pub struct SqliteReader {
    path: PathBuf,
    projections: Vec<String>,
    idle: Mutex<Vec<Connection>>,
    /// The first damage that was met.
    damage: OnceLock<String>,
}

impl SqliteReader {
    /// A reader for a file, which need not exist yet. An answer's position is that of `projections`, those of events.
    pub fn new(path: &Path, projections: Vec<String>) -> Self {
        Self { path: path.to_owned(), projections, idle: Mutex::default(), damage: OnceLock::new() }
    }

    /// A reader for a database in memory that has the tables of a plan, without rows, for checking queries.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn of_empty_tables(plan: &Plan) -> Result<Self, AskError> {
        let unavailable = |error: rusqlite::Error| AskError::Unavailable(error.to_string());
        let mut connection = Connection::open_in_memory().map_err(unavailable)?;
        connection.execute_batch(&Dialect::Sqlite.system()).map_err(unavailable)?;
        for table in plan.tables() {
            let statements = create_in_place(Dialect::Sqlite, table);
            connection.execute_batch(&statements.join("\n")).map_err(unavailable)?;
        }
        restrict(&mut connection)?;
        let idle = Mutex::new(vec![connection]);
        Ok(Self { path: PathBuf::new(), projections: Vec::new(), idle, damage: OnceLock::new() })
    }

    fn connection(&self) -> Result<Connection, AskError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    fn open(&self) -> Result<Connection, AskError> {
        let unavailable = |error: rusqlite::Error| AskError::Unavailable(error.to_string());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags).map_err(unavailable)?;
        restrict(&mut connection)?;
        Ok(connection)
    }
}

/// Restricts a connection to reading.
fn restrict(connection: &mut Connection) -> Result<(), AskError> {
    let unavailable = |error: rusqlite::Error| AskError::Unavailable(error.to_string());
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unavailable)?;
    connection.pragma_update(None, "query_only", true).map_err(unavailable)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(unavailable)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES).map_err(unavailable)?;
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, LENGTH_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 128 * 1024),
        (Limit::SQLITE_LIMIT_COLUMN, 500),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 32),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most).map_err(unavailable)?;
    }
    use_exact_sum(connection).map_err(unavailable)?;
    connection.authorizer(Some(allowed)).map_err(unavailable)
}

fn begin_or_end(connection: &mut Connection, statement: &str) -> Result<(), AskError> {
    let unavailable = |error: rusqlite::Error| AskError::Unavailable(error.to_string());
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(unavailable)?;
    connection.execute_batch(statement).map_err(unavailable)?;
    connection.authorizer(Some(allowed)).map_err(unavailable)
}

fn asks_pragma(table: &str) -> bool {
    table.get(.."pragma_".len()).is_some_and(|start| start.eq_ignore_ascii_case("pragma_"))
}

/// Allows reading and computing, and nothing else.
fn allowed(context: AuthContext<'_>) -> Authorization {
    match context.action {
        // Such a table asks a PRAGMA, which is refused when it is read; the statement is refused when it is checked.
        AuthAction::Read { table_name, .. } if asks_pragma(table_name) => Authorization::Deny,
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !FORBIDDEN_FUNCTIONS.contains(&function_name) => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// What SQLite says, and where in the statement.
fn refused(error: &rusqlite::Error, time: Duration) -> AskError {
    let code = error.sqlite_error_code();
    match (error, code) {
        (_, Some(ErrorCode::OperationInterrupted)) => AskError::TooLong(time),
        (_, Some(ErrorCode::DatabaseBusy | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)) => {
            AskError::Unavailable(error.to_string())
        }
        (rusqlite::Error::SqlInputError { msg, sql, offset, .. }, _) => {
            let before = usize::try_from(*offset).ok().and_then(|offset| sql.get(..offset));
            match before {
                Some(before) => {
                    let line = before.matches('\n').count() + 1;
                    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
                    AskError::Refused(format!("line {line}, column {column}: {msg}"))
                }
                None => AskError::Refused(msg.clone()),
            }
        }
        _ => AskError::Refused(error.to_string()),
    }
}

fn json_of(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// Does something with a connection, which is interrupted when the time is over, also while it understands a statement.
fn within<T>(
    connection: &mut Connection,
    time: Duration,
    work: impl FnOnce(&Connection) -> Result<T, AskError>,
) -> Result<T, AskError> {
    let unavailable = |error: rusqlite::Error| AskError::Unavailable(error.to_string());
    let deadline = Instant::now() + time;
    let is_late = move || Instant::now() >= deadline;
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(is_late)).map_err(unavailable)?;
    let done = work(connection);
    connection.progress_handler(0, None::<fn() -> bool>).map_err(unavailable)?;
    done
}

/// # Errors
/// If a statement has a place for a value that is not written as a parameter, such as `?1`. It would be null.
fn check_places(prepared: &Statement<'_>) -> Result<(), AskError> {
    let mut names = (1..=prepared.parameter_count()).map(|place| prepared.parameter_name(place));
    match names.find(|name| name.is_none_or(|name| !name.starts_with(':'))) {
        None => Ok(()),
        Some(name) => {
            let name = name.unwrap_or("?");
            Err(AskError::Refused(format!("a parameter is written :name, and not {name}")))
        }
    }
}

fn written(statement: &StatementText) -> String {
    statement.written(Dialect::Sqlite, |name| format!(":{name}"))
}

impl SqliteReader {
    /// As [`refused`]; damage is kept in mind, because whoever asks can do nothing about it.
    fn failed(&self, error: &rusqlite::Error, time: Duration) -> AskError {
        if !is_damage(error) {
            return refused(error, time);
        }
        let detail = error.to_string();
        self.found(detail.clone());
        AskError::Unavailable(DatabaseError::Damaged { detail }.to_string())
    }

    fn found(&self, damage: String) {
        // The first is as good as any other.
        let _ = self.damage.set(damage);
    }

    /// What SQLite finds wrong with its file.
    fn checked(&self, stop: &CancellationToken) -> rusqlite::Result<Option<String>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        let stop = stop.clone();
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || stop.is_cancelled()))?;
        let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((found != "ok").then_some(found))
    }

    fn ask_through(
        &self,
        connection: &Connection,
        statement: &StatementText,
        arguments: &[Argument],
        limits: Limits,
    ) -> Result<Answer, AskError> {
        let failed = |error: rusqlite::Error| self.failed(&error, limits.time);
        let mut positions = connection.prepare(POSITIONS).map_err(failed)?;
        let standings = positions.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let standings = standings.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        let position = position_of(&self.projections, &standings);
        let mut prepared = connection.prepare(&written(statement)).map_err(failed)?;
        check_places(&prepared)?;
        let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
        let names: Vec<String> = arguments.iter().map(|argument| format!(":{}", argument.name)).collect();
        let values: Vec<(&str, &dyn ToSql)> = names
            .iter()
            .zip(arguments)
            .map(|(name, argument)| (name.as_str(), &argument.value as &dyn ToSql))
            .collect();
        let mut found = prepared.query(values.as_slice()).map_err(failed)?;
        let mut answer = Answer { columns, position, ..Answer::default() };
        let mut bytes = 0;
        while let Some(row) = found.next().map_err(failed)? {
            if answer.rows.len() == limits.rows {
                answer.is_cut = true;
                break;
            }
            let mut record = Map::new();
            for (place, name) in answer.columns.iter().enumerate() {
                let value = json_of(row.get_ref(place).map_err(failed)?);
                bytes += name.len() + 4 + size_of(&value);
                record.insert(name.clone(), value);
            }
            if bytes > limits.bytes {
                return Err(AskError::TooLarge(limits.bytes));
            }
            answer.rows.push(record);
        }
        Ok(answer)
    }
}

impl Reader for SqliteReader {
    fn check(&self, statement: &StatementText, _: &[Argument]) -> Result<Vec<String>, AskError> {
        let mut connection = self.connection()?;
        let checked = within(&mut connection, CHECK_TIME, |connection| {
            let prepared = connection.prepare(&written(statement));
            let prepared = prepared.map_err(|error| self.failed(&error, CHECK_TIME))?;
            check_places(&prepared)?;
            Ok(prepared.column_names().map(str::to_owned).collect())
        });
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        checked
    }

    fn ask(
        &self,
        statement: &StatementText,
        arguments: &[Argument],
        limits: Limits,
    ) -> Result<Answer, AskError> {
        let mut connection = self.connection()?;
        // One transaction, so that rows and position belong together. The statement itself may not begin or end a transaction, so the guard is
        // suspended here.
        begin_or_end(&mut connection, "BEGIN")?;
        let answer = within(&mut connection, limits.time, |connection| {
            self.ask_through(connection, statement, arguments, limits)
        });
        // After an error of the file, SQLite has ended the transaction itself.
        if !connection.is_autocommit() {
            begin_or_end(&mut connection, "ROLLBACK")?;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(connection);
        }
        answer
    }

    fn look_for_damage(&self, stop: &CancellationToken) {
        match self.checked(stop) {
            Ok(None) => {}
            Ok(Some(found)) => self.found(found),
            Err(error) if is_damage(&error) => self.found(error.to_string()),
            Err(_) if stop.is_cancelled() => {}
            Err(error) => {
                tracing::warn!(%error, "the file of the tables could not be looked through for damage")
            }
        }
    }

    fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use millstream_contract::exit_code::{ExitCode, Failure as _};

    use super::*;
    use crate::{sqlite::SqliteDatabase, testing::damage::damage_table};

    const LIMITS: Limits = Limits { time: Duration::from_secs(60), rows: 10, bytes: 1_000 };

    fn asked(path: &Path) -> Result<Answer, AskError> {
        let statement = StatementText::read("SELECT 1 AS one", |_| false).unwrap();
        SqliteReader::new(path, Vec::new()).ask(&statement, &[], LIMITS)
    }

    /// Whoever asks can do nothing about it.
    #[test]
    fn a_damaged_file_is_the_stages_fault_and_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.sqlite");
        drop(SqliteDatabase::open(&path).unwrap());
        assert_eq!(asked(&path).unwrap().rows.len(), 1);
        let mut bytes = fs::read(&path).unwrap();
        // The first page names the tables, and the others hold them.
        bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0xff);
        fs::write(&path, &bytes).unwrap();
        let refused = asked(&path).unwrap_err();
        assert!(
            matches!(&refused, AskError::Unavailable(text) if text.contains("damaged_file = \"rebuild\"")),
            "{refused:?}"
        );
        let opened = SqliteDatabase::open(&path).map(drop).unwrap_err();
        assert!(matches!(opened, DatabaseError::Damaged { .. }), "{opened:?}");
        assert_eq!(opened.exit_code(), ExitCode::InputOutput);
        assert!(opened.to_string().contains("damaged_file = \"rebuild\""), "{opened}");
        fs::write(&path, [b'x'; 8192]).unwrap();
        assert!(matches!(asked(&path), Err(AskError::Unavailable(_))));
    }

    /// It passed the check, and every answer was a refusal.
    #[test]
    fn a_table_that_asks_a_pragma_is_refused_when_a_statement_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.sqlite");
        drop(SqliteDatabase::open(&path).unwrap());
        let reader = SqliteReader::new(&path, Vec::new());
        for statement in ["SELECT * FROM pragma_database_list", "SELECT count(*) FROM PRAGMA_table_list"] {
            let statement = StatementText::read(statement, |_| false).unwrap();
            let refused = reader.check(&statement, &[]).unwrap_err();
            assert!(matches!(refused, AskError::Refused(_)), "{refused:?}");
        }
    }

    /// A stage with `rebuild` took it for a fault of the disk, and ended at each start.
    #[test]
    fn a_file_that_was_cut_short_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.sqlite");
        drop(SqliteDatabase::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        // A row that goes on in further pages, which are behind all others.
        let long = "CREATE TABLE long (text TEXT); INSERT INTO long VALUES (replace(hex(zeroblob(50000)), '0', 'x'))";
        connection.execute_batch(&format!("{long}; PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();
        // With its log beside it, SQLite does not compare the size of the file with what its header says.
        connection.execute_batch("INSERT INTO long VALUES ('')").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() - 40 * 1024).unwrap();
        let statement = StatementText::read("SELECT length(text || 'y') AS n FROM long", |_| false).unwrap();
        let reader = SqliteReader::new(&path, Vec::new());
        let refused = reader.ask(&statement, &[], LIMITS).unwrap_err();
        assert!(
            matches!(&refused, AskError::Unavailable(text) if text.contains("is damaged")),
            "{refused:?}"
        );
        assert!(reader.damage().is_some());
    }

    /// No query needs the page that is damaged.
    #[test]
    fn damage_that_no_query_meets_is_found_by_looking_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.sqlite");
        drop(SqliteDatabase::open(&path).unwrap());
        let looked = || {
            let reader = SqliteReader::new(&path, Vec::new());
            reader.look_for_damage(&CancellationToken::new());
            reader.damage()
        };
        assert_eq!(looked(), None);
        damage_table(&path, "millstream_currency");
        assert_eq!(asked(&path).unwrap().rows.len(), 1);
        assert!(looked().is_some());
    }

    #[test]
    fn a_stage_that_ends_does_not_wait_until_a_large_file_is_looked_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.sqlite");
        drop(SqliteDatabase::open(&path).unwrap());
        // More pages than SQLite looks at before it asks whether to go on.
        let rows = "CREATE TABLE long (text TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
             INSERT INTO long SELECT hex(zeroblob(2000)) FROM n";
        Connection::open(&path).unwrap().execute_batch(rows).unwrap();
        let reader = SqliteReader::new(&path, Vec::new());
        let stop = CancellationToken::new();
        assert_eq!(reader.checked(&stop).unwrap(), None);
        stop.cancel();
        let ended = reader.checked(&stop).unwrap_err();
        assert_eq!(ended.sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
        reader.look_for_damage(&stop);
        assert_eq!(reader.damage(), None);
    }
}
