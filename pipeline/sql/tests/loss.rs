//! Which failures of a database pass, so that the same is tried again, and which do not.

use std::sync::mpsc;

use millstream_sql::{
    database::{Database, DatabaseError},
    plan::Plan,
    postgres_database::PostgresDatabase,
    replica::Replica,
    sqlite::SqliteDatabase,
    testing::postgres_server::PostgresServer,
};
use tokio_util::sync::CancellationToken;

#[test]
fn only_what_passes_by_itself_counts_as_a_lost_connection() {
    let Some(mut server) = PostgresServer::start() else { return };
    let is_lost = |address: &str| PostgresDatabase::connect(address, None).err().unwrap().is_lost();
    let address = server.address("postgres");
    assert!(!is_lost(&format!("{address}?sslmode=require")), "no TLS");
    assert!(!is_lost(&server.address("nowhere")), "no such database");
    assert!(!is_lost(&address.replace("postgres@", "nobody@")), "no such user");
    let refused = |code: &str| {
        let statement = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
        let source = server.client("postgres").batch_execute(&statement).unwrap_err();
        DatabaseError::Postgres { statement, source }.is_lost()
    };
    for code in ["57P01", "53300", "08006", "40001", "40P01", "25P03", "55P03"] {
        assert!(refused(code), "{code}");
    }
    for code in ["08P01", "42P01", "23505", "57014"] {
        assert!(!refused(code), "{code}");
    }
    server.kill();
    assert!(is_lost(&address), "nobody listens");
}

/// A stage may come up before its database does.
#[test]
fn a_database_that_is_away_at_the_start_is_waited_for() {
    let Some(mut server) = PostgresServer::start() else { return };
    server.kill();
    let address = server.address("postgres");
    let (tried, tries) = mpsc::channel();
    let start = |stop: CancellationToken| {
        let (address, tried) = (address.clone(), tried.clone());
        let open = move || {
            tried.send(()).unwrap();
            Ok(Box::new(PostgresDatabase::connect(&address, None)?) as Box<dyn Database>)
        };
        let plan = Plan { projections: Vec::new() };
        std::thread::spawn(move || Replica::start(plan, open, stop).map(drop))
    };
    let stop = CancellationToken::new();
    let stopped = start(stop.clone());
    // The second try is behind the first failure.
    (0..2).for_each(|_| tries.recv().unwrap());
    stop.cancel();
    assert!(matches!(stopped.join().unwrap(), Err(DatabaseError::Stopped)));
    while tries.try_recv().is_ok() {}
    let started = start(CancellationToken::new());
    (0..2).for_each(|_| tries.recv().unwrap());
    server.start_again();
    started.join().unwrap().unwrap();
}

/// A backup program, or somebody with a prompt, holds the lock of a file of SQLite for longer than a statement waits: the stage ended.
#[test]
fn a_file_that_somebody_locks_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.sqlite");
    drop(SqliteDatabase::open(&path).unwrap());
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (tried, tries) = mpsc::channel();
    let open = move || {
        tried.send(()).unwrap();
        Ok(Box::new(SqliteDatabase::open(&path)?) as Box<dyn Database>)
    };
    let plan = Plan { projections: Vec::new() };
    let started = std::thread::spawn(move || Replica::start(plan, open, CancellationToken::new()).map(drop));
    (0..2).for_each(|_| tries.recv().unwrap());
    other.execute_batch("COMMIT").unwrap();
    started.join().unwrap().unwrap();
}
