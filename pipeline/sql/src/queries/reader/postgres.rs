//! Queries a PostgreSQL database in read-only transactions, as a role that may only read if one is named.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use millstream_contract::error_text::one_line;
use postgres::{
    Client, Statement, Transaction, error::SqlState, fallible_iterator::FallibleIterator as _, types::ToSql,
};
use serde_json::{Map, Value as Json};

use super::{Answer, Argument, AskError, Limits, Reader, StatementText, position_of};
use crate::{
    database::{DatabaseError, passes},
    definition::{Dialect, quoted},
    postgres_address::PostgresAddress,
    table::Value,
};

/// How many idle connections are kept.
const KEPT: usize = 8;
/// The connections' name in `pg_stat_activity`.
const APPLICATION_NAME: &str = "millstream query";
/// How long preparing a statement may take.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// Resets a connection to the state of a new one.
const AS_NEW: &str = "SELECT pg_advisory_unlock_all(); RESET ALL; SET TIME ZONE 'UTC'";
const POSITIONS: &str = "SELECT projection, generation, sequence FROM millstream.position";

/// Whether the connection's role may change the tables, or may become a role that may.
const MAY_CHANGE: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass('millstream.position') \
     AND (pg_has_role(c.relowner, 'MEMBER') OR has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE')))";

/// A database that is queried.
pub struct PostgresReader {
    address: PostgresAddress,
    /// The role that a more powerful connection takes on for asking.
    role: Option<String>,
    /// Whether the connection's own role may only read.
    is_own: bool,
    projections: Vec<String>,
    idle: Mutex<Vec<Client>>,
}

impl PostgresReader {
    /// A reader for an address, which need not be reachable yet. An answer's position is that of `projections`, those of events.
    ///
    /// # Errors
    /// [`DatabaseError::Address`] and [`DatabaseError::Tls`].
    pub fn new(address: &str, role: Option<&str>, projections: Vec<String>) -> Result<Self, DatabaseError> {
        let address = PostgresAddress::read(address, APPLICATION_NAME)?;
        let role = role.map(str::to_owned);
        Ok(Self { address, role, is_own: false, projections, idle: Mutex::default() })
    }

    /// The same, for the address of the reading role. A role that may change the tables, or may become one that may, is refused.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_readers(address: &str, projections: Vec<String>) -> Result<Self, DatabaseError> {
        let mut reader = Self::new(address, None, projections)?;
        reader.is_own = true;
        Ok(reader)
    }

    /// A new connection.
    fn client(&self) -> Result<Client, AskError> {
        let unavailable = |error: postgres::Error| AskError::Unavailable(words(&error));
        let mut client = self.address.connect().map_err(unavailable)?;
        client.batch_execute(AS_NEW).map_err(unavailable)?;
        if self.is_own {
            let may_change = client.query_one(MAY_CHANGE, &[]).and_then(|row| row.try_get(0));
            if may_change.map_err(unavailable)? {
                let user = self.address.user().unwrap_or_default();
                let why =
                    format!("the role {user} of sql.readers may change the tables, or become one that may");
                return Err(AskError::Unavailable(why));
            }
        }
        Ok(client)
    }

    fn with_transaction<T>(
        &self,
        time: Duration,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, AskError>,
    ) -> Result<T, AskError> {
        let unavailable = |error: postgres::Error| AskError::Unavailable(words(&error));
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .filter(|client| !client.is_closed());
        let mut client = match idle {
            Some(client) => client,
            None => self.client()?,
        };
        let mut transaction = client.build_transaction().read_only(true).start().map_err(unavailable)?;
        let role =
            self.role.as_deref().map(|role| format!("SET LOCAL ROLE {};", quoted(role))).unwrap_or_default();
        let settings = format!("SET LOCAL statement_timeout = {}; {role}", milliseconds(time));
        transaction.batch_execute(&settings).map_err(unavailable)?;
        let done = work(&mut transaction);
        // A statement may have changed something that outlasts its transaction. If that is not certain, the connection is not used again.
        let ended = transaction.rollback().and_then(|()| client.batch_execute(AS_NEW));
        if ended.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < KEPT {
                idle.push(client);
            }
        }
        done
    }
}

/// The client library waits when it closes a connection, which an async thread must not do.
impl Drop for PostgresReader {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        if !idle.is_empty() {
            // It can only panic, and there is nobody left to report that to.
            let _ended = std::thread::spawn(move || drop(idle)).join();
        }
    }
}

/// A time-out as PostgreSQL accepts it. A value of 0 would mean no time-out.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}

fn words(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| one_line(error), |error| error.message().to_owned())
}

fn refused(error: &postgres::Error, time: Duration) -> AskError {
    match error.code() {
        Some(&SqlState::QUERY_CANCELED) => AskError::TooLong(time),
        Some(_) if !passes(error) => {
            let place = error.as_db_error().and_then(|error| error.hint()).map(|hint| format!(" ({hint})"));
            AskError::Refused(format!("{}{}", words(error), place.unwrap_or_default()))
        }
        _ => AskError::Unavailable(words(error)),
    }
}

/// The statement with its parameters as texts, which the server converts to their types.
fn written(statement: &StatementText, arguments: &[Argument]) -> String {
    statement.written(Dialect::Postgres, |name| {
        let place = arguments.iter().position(|argument| argument.name == name);
        let kind =
            place.and_then(|place| arguments.get(place)).map_or("text", |argument| argument.kind.postgres());
        format!("(${}::text::{kind})", place.map_or(0, |place| place + 1))
    })
}

/// # Errors
/// If a statement has a place for a value that is not written as a parameter, such as `$1`.
fn check_places(prepared: &Statement, arguments: &[Argument]) -> Result<(), AskError> {
    let (places, values) = (prepared.params().len(), arguments.len());
    if places <= values {
        return Ok(());
    }
    Err(AskError::Refused(format!("a parameter is written :name, and not ${places}")))
}

/// A statement whose rows the server returns as JSON, whatever their types are. The server withholds a row larger than `bytes`.
fn as_json(text: &str, bytes: usize) -> String {
    format!(
        "SELECT CASE WHEN octet_length(r.t) <= {bytes} THEN r.t END FROM (SELECT row_to_json(q)::text AS t FROM ({text}\n) AS q) AS r"
    )
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Integer(number) => Some(number.to_string()),
        Value::Real(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Text(text) => Some(text.replace('\0', "\u{fffd}")),
    }
}

impl Reader for PostgresReader {
    fn check(&self, statement: &StatementText, arguments: &[Argument]) -> Result<Vec<String>, AskError> {
        let text = written(statement, arguments);
        self.with_transaction(CHECK_TIME, |transaction| {
            let failed = |error: postgres::Error| refused(&error, CHECK_TIME);
            let prepared = transaction.prepare(&text).map_err(failed)?;
            // Preparing succeeds for a statement that writes, too, but not for a SELECT from its rows.
            transaction.prepare(&as_json(&text, 1)).map_err(failed)?;
            check_places(&prepared, arguments)?;
            Ok(prepared.columns().iter().map(|column| column.name().to_owned()).collect())
        })
    }

    fn ask(
        &self,
        statement: &StatementText,
        arguments: &[Argument],
        limits: Limits,
    ) -> Result<Answer, AskError> {
        let text = written(statement, arguments);
        let values: Vec<Option<String>> = arguments.iter().map(|argument| text_of(&argument.value)).collect();
        let values: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.with_transaction(limits.time, |transaction| {
            let failed = |error: postgres::Error| refused(&error, limits.time);
            let standings = transaction.query(POSITIONS, &[]).map_err(failed)?;
            let standings: Vec<_> =
                standings.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
            let position = position_of(&self.projections, &standings);
            let inner = transaction.prepare(&text).map_err(failed)?;
            check_places(&inner, arguments)?;
            let columns = inner.columns().iter().map(|column| column.name().to_owned()).collect();
            let outer = transaction.prepare(&as_json(&text, limits.bytes)).map_err(failed)?;
            let portal = transaction.bind(&outer, &values).map_err(failed)?;
            let most = i32::try_from(limits.rows + 1).unwrap_or(i32::MAX);
            // The rows are read one by one, so that memory never holds more than an answer may have.
            let mut found = transaction.query_portal_raw(&portal, most).map_err(failed)?;
            let mut answer = Answer { columns, position, ..Answer::default() };
            let mut bytes = 0;
            while let Some(row) = found.next().map_err(failed)? {
                if answer.rows.len() == limits.rows {
                    answer.is_cut = true;
                    break;
                }
                let text: Option<&str> = row.get(0);
                let text = text.ok_or(AskError::TooLarge(limits.bytes))?;
                bytes += text.len();
                if bytes > limits.bytes {
                    return Err(AskError::TooLarge(limits.bytes));
                }
                let record: Result<Map<String, Json>, _> = serde_json::from_str(text);
                answer.rows.push(record.map_err(|error| AskError::Unavailable(error.to_string()))?);
            }
            Ok(answer)
        })
    }
}
