//! The tables in a PostgreSQL database. Many rows are sent in one statement, as arrays, because each statement is a round trip.

use std::{fmt::Write as _, sync::Arc};

use millstream_store::read_store::{Checkpoint, ProjectionId};
use millstream_values::money::places_other_than_hundredths;
use postgres::{Client, Transaction, types::ToSql};

use crate::{
    database::{Database, DatabaseError, Filling, Move, Rows, StoredPosition, TableChange},
    definition::{
        BESIDE, Dialect, SYSTEM, column_list, create_beside, create_in_place, drop_old, quoted, take_place,
    },
    postgres_address::PostgresAddress,
    sqlite::{all_moved, number},
    table::{Column, Kind, LINE_COLUMN, Table, TableRow, Value},
};

/// The most rows in one statement.
const ROWS_A_STATEMENT: usize = 2_000;
/// The connection's name in `pg_stat_activity`.
const APPLICATION_NAME: &str = "millstream sql";
/// The key of an advisory lock that only Millstream takes. Its holder creates the tables.
const SETUP_LOCK: i64 = 0x6d69_6c6c;

/// A connection that fills the tables.
pub struct PostgresDatabase {
    address: PostgresAddress,
    client: Client,
    reader: Option<String>,
}

impl PostgresDatabase {
    /// Connects. `reader` is an existing role that may read all tables.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn connect(address: &str, reader: Option<&str>) -> Result<Self, DatabaseError> {
        let address = PostgresAddress::read(address, APPLICATION_NAME)?;
        let client = Self::client(&address)?;
        let mut database = Self { address, client, reader: reader.map(str::to_owned) };
        database.make_system_tables()?;
        Ok(database)
    }

    fn client(address: &PostgresAddress) -> Result<Client, DatabaseError> {
        let mut client = address.connect().map_err(failed("connect"))?;
        // Times are written with their zone, and dates and numbers as in JSON. The log names a process that holds a lock for long.
        let settings = "SET TIME ZONE 'UTC'; SET DateStyle = 'ISO'; SET standard_conforming_strings = on; SET lock_timeout = '30s'";
        client.batch_execute(settings).map_err(failed(settings))?;
        Ok(client)
    }

    fn make_system_tables(&mut self) -> Result<(), DatabaseError> {
        let mut transaction = begin(&mut self.client)?;
        lock_setup(&mut transaction)?;
        run(&mut transaction, &Dialect::Postgres.system())?;
        let statement = "INSERT INTO millstream.currency VALUES ($1, $2, $3) ON CONFLICT (code) DO UPDATE SET places = $2, units = $3";
        let prepared = transaction.prepare(statement).map_err(failed(statement))?;
        for (code, places) in places_other_than_hundredths() {
            let units = 10_i64.pow(places);
            transaction
                .execute(&prepared, &[&code, &i64::from(places), &units])
                .map_err(failed(statement))?;
        }
        grant(&mut transaction, self.reader.as_deref(), SYSTEM)?;
        transaction.commit().map_err(failed("COMMIT"))
    }
}

/// Otherwise, two processes that start together would create the same tables twice.
fn lock_setup(transaction: &mut Transaction<'_>) -> Result<(), DatabaseError> {
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&SETUP_LOCK]).map(drop).map_err(failed(lock))
}

/// Lets the reading role see everything in a schema.
fn grant(transaction: &mut Transaction<'_>, reader: Option<&str>, schema: &str) -> Result<(), DatabaseError> {
    let Some(reader) = reader.map(quoted) else { return Ok(()) };
    let schema = quoted(schema);
    let statements = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {reader}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};"
    );
    run(transaction, &statements)
}

fn failed(statement: &str) -> impl FnOnce(postgres::Error) -> DatabaseError {
    move |source| DatabaseError::Postgres { statement: statement.to_owned(), source }
}

fn begin(client: &mut Client) -> Result<Transaction<'_>, DatabaseError> {
    client.transaction().map_err(failed("BEGIN"))
}

fn run(transaction: &mut Transaction<'_>, statements: &str) -> Result<(), DatabaseError> {
    transaction.batch_execute(statements).map_err(failed(statements))
}

fn stored_positions(transaction: &mut Transaction<'_>) -> Result<Vec<StoredPosition>, DatabaseError> {
    let statement =
        "SELECT projection, generation, sequence, message_id, version, definition FROM millstream.position";
    let rows = transaction.query(statement, &[]).map_err(failed(statement))?;
    let position = |row: &postgres::Row| -> Result<StoredPosition, postgres::Error> {
        Ok(StoredPosition {
            projection: ProjectionId::from_text(row.try_get(0)?),
            checkpoint: Checkpoint {
                generation: row.try_get(1)?,
                sequence: u64::try_from(row.try_get::<_, i64>(2)?).unwrap_or_default(),
                message_id: row.try_get(3)?,
                version: u32::try_from(row.try_get::<_, i64>(4)?).unwrap_or_default(),
                complete_from: 0,
            },
            definition: row.try_get(5)?,
        })
    };
    rows.iter().map(position).collect::<Result<_, _>>().map_err(failed(statement))
}

/// Advances positions, each from where this process left it. None if all have already advanced.
fn move_positions(transaction: &mut Transaction<'_>, moves: &[Move]) -> Result<bool, DatabaseError> {
    let statement = "UPDATE millstream.position SET generation = $1, sequence = $2, message_id = $3, version = $4 \
         WHERE projection = $5 AND generation = $6 AND sequence = $7 AND message_id = $8";
    for Move { projection, from, to } in moves {
        let values: [&(dyn ToSql + Sync); 8] = [
            &to.generation,
            &number(to.sequence),
            &to.message_id,
            &i64::from(to.version),
            &projection.as_str(),
            &from.generation,
            &number(from.sequence),
            &from.message_id,
        ];
        if transaction.execute(statement, &values).map_err(failed(statement))? != 1 {
            let stored = stored_positions(transaction)?;
            return match all_moved(moves, &stored) {
                true => Ok(false),
                false => Err(DatabaseError::Moved { projection: projection.to_string() }),
            };
        }
    }
    Ok(true)
}

/// The values of one column for many rows, as one parameter.
fn parameter<'v>(kind: Kind, values: impl Iterator<Item = &'v Value>) -> Box<dyn ToSql + Sync> {
    match kind {
        Kind::Integer => Box::new(
            values
                .map(|value| match value {
                    Value::Integer(number) => Some(*number),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Real => Box::new(
            values
                .map(|value| match value {
                    Value::Real(number) => Some(*number),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Boolean => Box::new(
            values
                .map(|value| match value {
                    Value::Boolean(truth) => Some(*truth),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Text | Kind::Date | Kind::Time | Kind::Json => Box::new(
            values
                .map(|value| match value {
                    Value::Text(text) => Some(text_of(kind, text)),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
    }
}

/// A text as PostgreSQL accepts it. It cannot contain the character NUL, which is changed to the replacement character. It has no year 0 but
/// calls that year 1 BC.
fn text_of(kind: Kind, text: &str) -> String {
    match (kind, text.strip_prefix("0000-")) {
        (Kind::Json, _) => json_without_nul(text),
        (Kind::Date, Some(rest)) => format!("0001-{rest} BC"),
        _ => text.replace('\0', "\u{fffd}"),
    }
}

/// JSON in which no text contains the character NUL. A backslash before another backslash does not begin an escape.
fn json_without_nul(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, behind)) = rest.split_once('\\') {
        written.push_str(before);
        let (escape, behind) = match (behind.strip_prefix("u0000"), behind.chars().next()) {
            (Some(behind), _) => ("\\ufffd".to_owned(), behind),
            (None, Some(escaped)) => {
                (format!("\\{escaped}"), behind.get(escaped.len_utf8()..).unwrap_or_default())
            }
            (None, None) => ("\\".to_owned(), behind),
        };
        written.push_str(&escape);
        rest = behind;
    }
    written + rest
}

/// These columns' arrays as rows: `SELECT v.c1, v.c2::date FROM unnest($1::bigint[], $2::text[]) AS v(c1, c2)`.
fn select_from_arrays(columns: &[&Column]) -> String {
    let (mut selected, mut arrays, mut names) = (String::new(), String::new(), String::new());
    for (place, column) in (1..).zip(columns) {
        let separator = if place == 1 { "" } else { ", " };
        let (array, cast) = match column.kind {
            Kind::Integer => ("bigint", ""),
            Kind::Real => ("double precision", ""),
            Kind::Boolean => ("boolean", ""),
            Kind::Text => ("text", ""),
            Kind::Date => ("text", "::date"),
            Kind::Time => ("text", "::timestamp with time zone"),
            Kind::Json => ("text", "::jsonb"),
        };
        let _ = write!(selected, "{separator}v.c{place}{cast} AS {}", quoted(&column.name));
        let _ = write!(arrays, "{separator}${place}::{array}[]");
        let _ = write!(names, "{separator}c{place}");
    }
    format!("SELECT {selected} FROM unnest({arrays}) AS v({names})")
}

/// The statements that change a table.
struct Statements<'t> {
    table: &'t Table,
    columns: Vec<&'t Column>,
    put: String,
    remove: String,
    lists: Vec<ListStatements>,
}

struct ListStatements {
    kinds: Vec<Kind>,
    remove: String,
    add: String,
}

fn line_column() -> Column {
    Column {
        name: LINE_COLUMN.to_owned(),
        kind: Kind::Integer,
        nullable: false,
        description: String::new(),
        amount: false,
    }
}

impl<'t> Statements<'t> {
    fn of(table: &'t Table, suffix: &str) -> Self {
        let named = |name: &str| Dialect::Postgres.name(&table.context, &format!("{name}{suffix}"));
        let names = |columns: &[&Column]| column_list(columns.iter().map(|column| column.name.as_str()));
        let key: Vec<&Column> = table.key().iter().collect();
        let columns: Vec<&Column> = table.columns.iter().collect();
        let name = named(&table.name);
        let same = key.iter().map(|column| {
            let column = quoted(&column.name);
            format!("t.{column} = k.{column}")
        });
        let same = same.collect::<Vec<_>>().join(" AND ");
        let remove_from = |name: &str| {
            format!("DELETE FROM {name} AS t USING ({}) AS k WHERE {same}", select_from_arrays(&key))
        };
        let replaced = table.columns.iter().skip(table.key_columns).map(|column| {
            let column = quoted(&column.name);
            format!("{column} = excluded.{column}")
        });
        let replaced = replaced.collect::<Vec<_>>().join(", ");
        let conflict = match replaced.is_empty() {
            true => "DO NOTHING".to_owned(),
            false => format!("DO UPDATE SET {replaced}"),
        };
        let put = format!(
            "INSERT INTO {name} ({}) {} ON CONFLICT ({}) {conflict}",
            names(&columns),
            select_from_arrays(&columns),
            names(&key)
        );
        let line = line_column();
        let lists = table.lists.iter().map(|list| {
            let columns: Vec<&Column> = key.iter().copied().chain([&line]).chain(&list.columns).collect();
            let list = named(&list.name);
            ListStatements {
                kinds: columns.iter().map(|column| column.kind).collect(),
                remove: remove_from(&list),
                add: format!("INSERT INTO {list} ({}) {}", names(&columns), select_from_arrays(&columns)),
            }
        });
        let (remove, lists) = (remove_from(&name), lists.collect());
        Self { table, columns, put, remove, lists }
    }

    fn remove(&self, transaction: &mut Transaction<'_>, keys: &[&[Value]]) -> Result<(), DatabaseError> {
        let kinds: Vec<Kind> = self.table.key().iter().map(|column| column.kind).collect();
        for keys in keys.chunks(ROWS_A_STATEMENT) {
            for list in &self.lists {
                execute(transaction, &list.remove, &kinds, keys)?;
            }
            execute(transaction, &self.remove, &kinds, keys)?;
        }
        Ok(())
    }

    fn put(
        &self,
        transaction: &mut Transaction<'_>,
        rows: &[TableRow],
        fresh: bool,
    ) -> Result<(), DatabaseError> {
        let kinds: Vec<Kind> = self.columns.iter().map(|column| column.kind).collect();
        let key_kinds: Vec<Kind> = kinds.iter().take(self.table.key_columns).copied().collect();
        for rows in rows.chunks(ROWS_A_STATEMENT) {
            let values: Vec<&[Value]> = rows.iter().map(|row| row.values.as_slice()).collect();
            execute(transaction, &self.put, &kinds, &values)?;
            let keys: Vec<&[Value]> = values
                .iter()
                .map(|values| values.get(..self.table.key_columns).unwrap_or_default())
                .collect();
            for (place, list) in self.lists.iter().enumerate() {
                if !fresh {
                    execute(transaction, &list.remove, &key_kinds, &keys)?;
                }
                let mut entries = Vec::new();
                for (row, key) in rows.iter().zip(&keys) {
                    for (line, entry) in (1..).zip(row.lists.get(place).into_iter().flatten()) {
                        entries.push([key, [Value::Integer(line)].as_slice(), entry].concat());
                    }
                }
                let entries: Vec<&[Value]> = entries.iter().map(Vec::as_slice).collect();
                for entries in entries.chunks(ROWS_A_STATEMENT) {
                    execute(transaction, &list.add, &list.kinds, entries)?;
                }
            }
        }
        Ok(())
    }
}

fn execute(
    transaction: &mut Transaction<'_>,
    statement: &str,
    kinds: &[Kind],
    rows: &[&[Value]],
) -> Result<(), DatabaseError> {
    let columns = (0..).zip(kinds).map(|(place, kind)| {
        parameter(*kind, rows.iter().map(move |row| row.get(place).unwrap_or(&Value::Null)))
    });
    let columns: Vec<Box<dyn ToSql + Sync>> = columns.collect();
    let values: Vec<&(dyn ToSql + Sync)> = columns.iter().map(AsRef::as_ref).collect();
    transaction.execute(statement, &values).map(drop).map_err(failed(statement))
}

impl Database for PostgresDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn connect_again(&mut self) -> Result<(), DatabaseError> {
        self.client = Self::client(&self.address)?;
        Ok(())
    }

    fn positions(&mut self) -> Result<Vec<StoredPosition>, DatabaseError> {
        stored_positions(&mut begin(&mut self.client)?)
    }

    fn make_missing(&mut self, tables: &[Arc<Table>]) -> Result<(), DatabaseError> {
        let mut transaction = begin(&mut self.client)?;
        lock_setup(&mut transaction)?;
        for table in tables {
            let statement = "SELECT to_regclass($1) IS NOT NULL";
            let name = Dialect::Postgres.name(&table.context, &table.name);
            let found = transaction.query_one(statement, &[&name]);
            let is_there: bool = found.and_then(|row| row.try_get(0)).map_err(failed(statement))?;
            if !is_there {
                run(&mut transaction, &create_in_place(Dialect::Postgres, table).join("\n"))?;
                grant(&mut transaction, self.reader.as_deref(), &table.context)?;
            }
        }
        transaction.commit().map_err(failed("COMMIT"))
    }

    fn write(&mut self, changes: &[TableChange], moves: &[Move]) -> Result<(), DatabaseError> {
        let mut transaction = begin(&mut self.client)?;
        if !move_positions(&mut transaction, moves)? {
            return Ok(());
        }
        for TableChange { table, removed, rows } in changes {
            let statements = Statements::of(table, "");
            let keys: Vec<&[Value]> = removed.iter().map(Vec::as_slice).collect();
            statements.remove(&mut transaction, &keys)?;
            statements.put(&mut transaction, rows, false)?;
        }
        transaction.commit().map_err(failed("COMMIT"))
    }

    fn fill(&mut self, filling: &Filling, rows: &mut Rows<'_>) -> Result<(), DatabaseError> {
        let mut transaction = begin(&mut self.client)?;
        let id = &filling.position.projection;
        let stored = stored_positions(&mut transaction)?.into_iter().find(|each| each.projection == *id);
        if stored.as_ref() == Some(&filling.position) && stored != filling.before {
            // It was already filled; only the answer was lost.
            return Ok(());
        }
        if stored != filling.before {
            return Err(DatabaseError::Moved { projection: id.to_string() });
        }
        let keeps = filling.keeps_tables();
        for table in &filling.tables {
            let statements = if keeps { emptied(table) } else { create_beside(Dialect::Postgres, table) };
            run(&mut transaction, &statements.join("\n"))?;
        }
        let suffix = if keeps { "" } else { BESIDE };
        let statements: Vec<_> = filling.tables.iter().map(|table| Statements::of(table, suffix)).collect();
        rows(&mut |index, rows| {
            statements.get(index).map_or(Ok(()), |statements| statements.put(&mut transaction, &rows, true))
        })?;
        if !keeps {
            for table in &filling.tables {
                let statements =
                    [drop_old(Dialect::Postgres, table), take_place(Dialect::Postgres, table)].concat();
                run(&mut transaction, &statements.join("\n"))?;
                grant(&mut transaction, self.reader.as_deref(), &table.context)?;
            }
        }
        let statement = "INSERT INTO millstream.position VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (projection) DO UPDATE SET \
             generation = $2, sequence = $3, message_id = $4, version = $5, definition = $6";
        let StoredPosition { checkpoint, definition, .. } = &filling.position;
        let values: [&(dyn ToSql + Sync); 6] = [
            &id.as_str(),
            &checkpoint.generation,
            &number(checkpoint.sequence),
            &checkpoint.message_id,
            &i64::from(checkpoint.version),
            definition,
        ];
        transaction.execute(statement, &values).map_err(failed(statement))?;
        transaction.commit().map_err(failed("COMMIT"))
    }
}

fn emptied(table: &Table) -> Vec<String> {
    let lists = table.lists.iter().map(|list| &list.name);
    let names = lists.chain([&table.name]);
    names.map(|name| format!("DELETE FROM {};", Dialect::Postgres.name(&table.context, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nul_of_json_is_replaced() {
        assert_eq!(
            json_without_nul(r#"["a\u0000b","\\u0000","\\\u0000","\"ü"]"#),
            r#"["a\ufffdb","\\u0000","\\\ufffd","\"ü"]"#
        );
    }
}
