//! Configured queries on real databases: those that are shipped, the same answers from both, and statements that want to do harm.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something unexpected happens"
)]

mod board;
mod desk;
mod postgres;
mod service;

use std::{path::Path, time::Duration};

use millstream_domain::projection::RowShape;
use millstream_sql::{
    database::Database,
    definition::{Dialect, create_in_place},
    postgres_database::PostgresDatabase,
    queries::{
        header::Header,
        library::Library,
        reader::{Answer, Argument, AskError, Limits, PostgresReader, Reader, SqliteReader},
        text::StatementText,
    },
    replica::Replica,
    sqlite::SqliteDatabase,
    table::{Table, Value},
    testing::postgres_server::PostgresServer,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::desk::{CONTEXTS, Desk, plan};

const LIMITS: Limits = Limits { time: Duration::from_millis(500), rows: 1_000, bytes: 1024 * 1024 };
fn ask(reader: &dyn Reader, statement: &str) -> Result<Answer, AskError> {
    let statement = StatementText::read(statement, |word| CONTEXTS.contains(&word) || word == "millstream");
    let statement = statement.map_err(|error| AskError::Refused(error.to_string()))?;
    reader.ask(&statement, &[], LIMITS)
}

/// A cell without what the databases write differently: 12.00 and 12, truth as a number.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Number(number) => format!("{:.6}", number.as_f64().unwrap()),
        serde_json::Value::Bool(truth) => format!("{:.6}", f64::from(u8::from(*truth))),
        serde_json::Value::String(text) => text.replace("+00:00", "Z").replace(".500000Z", ".5Z"),
        other => other.to_string(),
    }
}

fn cells(answer: &Answer) -> Vec<Vec<String>> {
    let row = |row: &serde_json::Map<String, serde_json::Value>| {
        answer.columns.iter().map(|name| plain(row.get(name).unwrap())).collect()
    };
    answer.rows.iter().map(row).collect()
}

#[test]
fn shipped_queries_are_understood_by_both_databases_and_answered_alike() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/queries");
    let mut library = Library::new(&folder, CONTEXTS.map(str::to_owned).to_vec());
    let empty = SqliteReader::of_empty_tables(&plan()).unwrap();
    let broken = library.read(|query| {
        let refused = |error: AskError| error.to_string();
        empty.check(&query.statement, &[]).map(drop).map_err(refused)
    });
    assert!(broken.as_ref().unwrap().is_empty(), "{broken:?}");
    let queries = library.queries();
    assert_eq!(queries.len(), 12);
    for ((context, name), query) in queries {
        let Header { parameters, .. } = &query.header;
        let given = |name: &str| match name {
            "since" | "from" => Some("2012-01-01"),
            "before" => Some("2013-01-01T00:00:00Z"),
            "days" => Some("30"),
            _ => None,
        };
        let arguments: Vec<Argument> = parameters
            .iter()
            .map(|parameter| {
                let value = match (&parameter.default, given(&parameter.name)) {
                    (Some(default), _) => default.clone(),
                    (None, Some(text)) => parameter.kind.value(text).unwrap(),
                    (None, None) => panic!("{name}: no value for {}", parameter.name),
                };
                Argument { name: parameter.name.clone(), kind: parameter.kind, value }
            })
            .collect();
        let answers: Vec<Answer> = desk
            .readers
            .iter()
            .map(|reader| {
                reader
                    .check(&query.statement, &arguments)
                    .unwrap_or_else(|error| panic!("{context}.{name}: {error}"));
                reader
                    .ask(&query.statement, &arguments, LIMITS)
                    .unwrap_or_else(|error| panic!("{context}.{name}: {error}"))
            })
            .collect();
        for answer in &answers {
            assert_eq!(cells(answer), cells(&answers[0]), "{context}.{name}");
            assert_eq!(answer.position, Some(("g".to_owned(), 7)));
        }
        if name == "top-sellers" {
            let top = json!({ "sku": "b", "name": null, "units": 5, "amount": 500, "currency": "USD" });
            assert_eq!(serde_json::Value::Object(answers[0].rows[0].clone()), top);
        }
    }
}

#[test]
fn amounts_are_shown_with_the_places_of_their_currency() {
    let desk = Desk::new();
    for reader in &desk.readers {
        let answer =
            ask(reader.as_ref(), "SELECT CAST(unit_price AS text) AS price FROM retail.product_decimal")
                .unwrap();
        assert_eq!(answer.rows[0]["price"], "0.100", "of 100 fils");
        let lines = "SELECT CAST(unit_price AS text) AS price, currency FROM retail.sale_lines_decimal WHERE sale = 'S-2'";
        let answer = ask(reader.as_ref(), lines).unwrap();
        assert_eq!((&answer.rows[0]["price"], &answer.rows[0]["currency"]), (&json!("1.00"), &json!("USD")));
    }
}

#[test]
fn postgres_shows_amounts_without_a_currency_as_hundredths() {
    let desk = Desk::new();
    let Some(server) = &desk.server else { return };
    let day = json!({ "type": "object", "properties": { "day": { "type": "string" }, "amount": { "type": "integer" } } });
    let shape = RowShape::of_schema("day", "<day>", day).amounts(&["amount"]);
    let table = Table::of_shape("retail", &shape).unwrap();
    server.run("queries", &create_in_place(Dialect::Postgres, &table).join("\n"));
    let shown = "INSERT INTO retail.day VALUES ('x', 512); \
         DO $$ BEGIN ASSERT (SELECT amount FROM retail.day_decimal) = 5.12; END $$";
    server.run("queries", shown);
}

#[test]
fn parameters_are_values_and_never_a_part_of_the_statement() {
    let desk = Desk::new();
    let statement =
        StatementText::read("SELECT COUNT(*) AS n FROM retail.sale WHERE store = :store", |word| {
            CONTEXTS.contains(&word)
        });
    let statement = statement.unwrap();
    for reader in &desk.readers {
        for (store, expected) in [("2506", 2), ("' OR 1=1 --", 0), ("2506'; DROP TABLE retail_sale; --", 0)] {
            let value = Value::Text(store.to_owned());
            let kind = millstream_sql::queries::header::ParameterKind::Text;
            let arguments = [Argument { name: "store".to_owned(), kind, value }];
            let answer = reader.ask(&statement, &arguments, LIMITS).unwrap();
            assert_eq!(answer.rows[0]["n"], json!(expected), "{store}");
        }
    }
}

#[test]
fn answers_are_cut_at_their_limits() {
    let desk = Desk::new();
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n";
    for reader in &desk.readers {
        let answer = ask(reader.as_ref(), endless).unwrap();
        assert_eq!((answer.rows.len(), answer.is_cut), (LIMITS.rows, true));
        let wide = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) \
             SELECT replace(replace('0000000000', '0', 'aaaaaaaaaaaaaaaaaaaa'), 'a', 'bbbbbbbbbb') AS t FROM n";
        assert!(matches!(ask(reader.as_ref(), wide), Err(AskError::TooLarge(_))));
    }
}

const OF_BOTH: [&str; 16] = [
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n), m AS (SELECT i, i * 7 AS j FROM n LIMIT 100000000) SELECT j FROM m ORDER BY j DESC",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT COUNT(*) FROM n a, n b, n c WHERE a.i + b.i + c.i = 1",
    "INSERT INTO retail.sale SELECT * FROM retail.sale",
    "UPDATE retail.product SET name = 'x'",
    "DELETE FROM retail.sale",
    "DROP TABLE retail.sale",
    "CREATE TABLE mine (a text)",
    "CREATE TEMPORARY TABLE mine AS SELECT 1 AS a",
    "SELECT 1; DELETE FROM retail.sale",
    "SELECT 1 /* ; */ ; DELETE FROM retail.sale -- SELECT 2",
    "BEGIN",
    "COMMIT",
    "WITH gone AS (DELETE FROM retail.sale RETURNING *) SELECT * FROM gone",
    "SELECT * FROM retail.nowhere",
    "SELECT 1) AS q; DELETE FROM retail.sale; SELECT * FROM (SELECT 2",
];

const OF_SQLITE: [&str; 13] = [
    "SELECT instr(replace(hex(zeroblob(4000000)), '0', 'a'), replace(hex(zeroblob(2000000)), '0', 'a') || 'b')",
    "ATTACH DATABASE '/etc/passwd' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA query_only = 0",
    "PRAGMA writable_schema = 1",
    "SELECT load_extension('/lib/libc.so.6')",
    "SELECT * FROM pragma_journal_mode('DELETE')",
    "VACUUM INTO 'copy.sqlite'",
    "REINDEX",
    "SELECT zeroblob(2000000000)",
    "SELECT printf('%.*c', 2000000000, 'x')",
];

const OF_POSTGRES: [&str; 9] = [
    "SELECT repeat('x', 500000000) AS t",
    "COPY retail.sale TO PROGRAM 'id'",
    "SET statement_timeout = 0",
    "SELECT pg_sleep(60)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "DO $$ BEGIN DELETE FROM retail.sale; END $$",
    "TRUNCATE retail.sale",
    "SELECT nextval('nothing')",
];

/// Each is refused or cut off (else this would not end), and a question beside it is answered meanwhile.
#[test]
fn statements_that_want_to_do_harm_are_refused_or_cut_off() {
    let desk = Desk::new();
    let before = std::fs::read(desk.sqlite()).unwrap();
    let megabyte = format!("SELECT '{}' AS t", "x".repeat(1024 * 1024));
    for (place, reader) in desk.readers.iter().enumerate() {
        let own: &[&str] = if place == 0 { &OF_SQLITE } else { &OF_POSTGRES };
        for bomb in OF_BOTH.iter().chain(own).copied().chain([megabyte.as_str()]) {
            let shown = &bomb[..bomb.len().min(80)];
            std::thread::scope(|threads| {
                let harm = threads.spawn(|| ask(reader.as_ref(), bomb));
                let answer = ask(reader.as_ref(), "SELECT COUNT(*) AS n FROM retail.sale").unwrap();
                assert_eq!(answer.rows[0]["n"], 3, "beside {shown}");
                let refused = harm.join().unwrap().map(|answer| answer.rows.len()).expect_err(shown);
                assert!(
                    matches!(refused, AskError::Refused(_) | AskError::TooLong(_) | AskError::TooLarge(_)),
                    "{shown}: {refused:?}"
                );
            });
        }
        let answer = ask(reader.as_ref(), "SELECT COUNT(*) AS n FROM retail.sale").unwrap();
        assert_eq!(answer.rows[0]["n"], 3);
    }
    assert!(std::fs::read(desk.sqlite()).unwrap() == before, "the file has changed");
    drop(desk.server);
}

/// A lock of a session would stay with a connection that others use next.
#[test]
fn what_a_statement_takes_does_not_outlast_it() {
    let desk = Desk::new();
    let Some((reader, server)) = desk.readers.get(1).zip(desk.server.as_ref()) else { return };
    ask(reader.as_ref(), "SELECT pg_advisory_lock(42)::text AS taken").unwrap();
    let free = server.client("queries").query_one("SELECT pg_try_advisory_lock(42)", &[]).unwrap();
    assert!(free.get::<_, bool>(0));
}

#[test]
fn what_is_wrong_with_a_statement_is_told_with_its_place() {
    let desk = Desk::new();
    let refused =
        ask(desk.readers[0].as_ref(), "SELECT store,\n  nett_amount\nFROM retail.till").unwrap_err();
    assert!(refused.to_string().contains("line 2, column 3: no such column: nett_amount"), "{refused}");
}

#[test]
fn parts_of_keys_are_the_fields_of_their_rows() {
    let desk = Desk::new();
    let statement = "SELECT r.location, r.sku, r.reservation, s.available FROM retail.reservation AS r \
         JOIN retail.stock AS s ON s.location = r.location AND s.sku = r.sku";
    for reader in &desk.readers {
        let answer = ask(reader.as_ref(), statement).unwrap();
        let row = json!({ "location": "2506", "sku": "75087:a", "reservation": "sale 1/2", "available": 2 });
        assert_eq!(answer.rows.into_iter().map(serde_json::Value::Object).collect::<Vec<_>>(), [row]);
    }
}

/// A year before the first is one that PostgreSQL writes in its own way.
#[test]
fn dates_of_the_year_0_are_kept() {
    let desk = Desk::new();
    let dates = desk.readers.iter().map(|reader| {
        let answer = ask(reader.as_ref(), "SELECT effective_from AS at FROM retail.product").unwrap();
        answer.rows[0]["at"].clone()
    });
    let dates: Vec<_> = dates.collect();
    assert!(
        dates.iter().zip([json!("0000-02-29"), json!("0001-02-29 BC")]).all(|(a, b)| *a == b),
        "{dates:?}"
    );
}

#[test]
fn a_time_that_is_no_number_of_milliseconds_is_a_limit_too() {
    let desk = Desk::new();
    let Some(reader) = desk.readers.get(1) else { return };
    let asked = |text: &str, time| {
        let statement = StatementText::read(text, |_| false).unwrap();
        reader.ask(&statement, &[], Limits { time, ..LIMITS })
    };
    assert!(asked("SELECT 1 AS a", Duration::from_secs(u64::MAX)).is_ok());
    let sleeps = asked("SELECT pg_sleep(5)", Duration::from_micros(100));
    assert!(matches!(sleeps, Err(AskError::TooLong(_))), "{sleeps:?}");
}

/// The queries of a stage that has never filled its tables are there from the start.
#[test]
fn queries_are_understood_by_a_database_that_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.sqlite");
    let understood = |reader: &dyn Reader| {
        let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/queries");
        let mut library = Library::new(&queries, CONTEXTS.map(str::to_owned).to_vec());
        let check = |query: &millstream_sql::queries::library::Query| {
            let parameters = query.header.parameters.iter();
            let arguments: Vec<Argument> = parameters
                .map(|each| Argument { name: each.name.clone(), kind: each.kind, value: Value::Null })
                .collect();
            reader.check(&query.statement, &arguments).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(library.read(check).unwrap(), []);
        assert_eq!(library.queries().len(), 12);
    };
    let sqlite = path.clone();
    let open = move || Ok(Box::new(SqliteDatabase::open(&sqlite)?) as Box<dyn Database>);
    let _kept = Replica::start(plan(), open, CancellationToken::new()).unwrap();
    understood(&SqliteReader::new(&path, plan().of_events()));
    let Some(server) = PostgresServer::start() else { return };
    server.make_database("fresh");
    server.run("fresh", "CREATE ROLE asking");
    let address = server.address("fresh");
    for _ in 0..2 {
        let own = address.clone();
        let open =
            move || Ok(Box::new(PostgresDatabase::connect(&own, Some("asking"))?) as Box<dyn Database>);
        let _kept = Replica::start(plan(), open, CancellationToken::new()).unwrap();
        understood(&PostgresReader::new(&address, Some("asking"), plan().of_events()).unwrap());
    }
}
