//! The tables of a database against the rows of the file, whatever happens in between: a crash on either side of the database's
//! commit, a file that went back or was lost, a database restored from a backup, a stream made anew, a view with other columns.
//!
//! The file and the databases are real; the runner's part is played by the test, so that it can crash at each step.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod desk;

use std::sync::mpsc;

use millstream_contract::testing::dice::Dice;
use millstream_sql::testing::postgres_server::PostgresServer;

use self::desk::{Desk, Where};

/// How many things happen in a test.
const STEPS: usize = 60;

/// Lives through some days with everything that can go wrong, and compares whenever the database should have caught up.
fn live_through(place: Where, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut desk = Desk::new(place);
    desk.begin();
    for step in 0..STEPS {
        match dice.below(12) {
            0 => desk.crash_before_the_file(&mut dice),
            1 => desk.crash_and_lose_the_end_of_the_file(&mut dice),
            2 => desk.lose_the_file(),
            3 => desk.keep_a_backup(),
            4 => desk.restore_the_backup(),
            5 if step % 5 == 0 => desk.make_the_stream_anew(),
            6 => desk.restart(),
            _ => desk.live(&mut dice),
        }
        desk.compare_when_caught_up();
    }
    desk.catch_up();
    desk.compare();
}

#[test]
fn tables_of_sqlite_equal_the_rows_whatever_happens() {
    for seed in 1..=2 {
        live_through(Where::Sqlite, seed);
    }
}

#[test]
fn tables_of_postgres_equal_the_rows_whatever_happens() {
    let Some(server) = PostgresServer::start() else { return };
    for seed in 1..=2 {
        live_through(Where::postgres(&server, seed), seed);
    }
}

#[test]
fn a_view_with_other_columns_takes_the_place_of_the_one_before() {
    let Some(server) = PostgresServer::start() else { return };
    for place in [Where::Sqlite, Where::postgres(&server, 99)] {
        let mut desk = Desk::new(place);
        desk.begin();
        let mut dice = Dice::new(5);
        (0..5).for_each(|_| desk.live(&mut dice));
        desk.catch_up();
        desk.compare();
        desk.change_a_view();
        // Until the file is complete, whoever asks sees the rows as they were.
        assert_eq!(desk.columns("retail", "till_total"), ["store", "sales"]);
        assert!(desk.count("retail", "till_total") > 0);
        desk.catch_up();
        assert_eq!(desk.columns("retail", "till_total"), ["store", "closings", "sales"]);
        desk.compare();
    }
}

#[test]
fn a_second_process_on_the_same_tables_is_noticed() {
    let Some(server) = PostgresServer::start() else { return };
    let place = Where::postgres(&server, 100);
    let (mut one, mut dice) = (Desk::new(place.clone()), Dice::new(1));
    one.begin();
    one.live(&mut dice);
    one.catch_up();
    let mut other = Desk::new(place);
    other.take_history_of(&one);
    other.begin();
    other.catch_up();
    other.live(&mut dice);
    other.catch_up();
    let error = one.try_to_live(&mut dice).unwrap_err();
    assert!(error.contains("another process keeps them too"), "{error}");
}

/// A stage wrote on into a file that had no name any more, and was ready; whoever opened the file found no table.
#[test]
fn a_file_that_is_removed_while_it_is_filled_is_noticed_and_filled_again() {
    let (mut desk, mut dice) = (Desk::new(Where::Sqlite), Dice::new(4));
    desk.begin();
    desk.live(&mut dice);
    desk.catch_up();
    desk.remove_the_tables();
    let error = desk.try_to_live(&mut dice).unwrap_err();
    assert!(error.contains("is gone or another file"), "{error}");
    desk.restart();
    desk.catch_up();
    desk.compare();
}

/// A server that is killed in the middle of batches takes nothing away, and its replica goes on by itself.
#[test]
fn a_database_that_is_killed_again_and_again_has_everything_afterwards() {
    let Some(mut server) = PostgresServer::start() else { return };
    let mut desk = Desk::new(Where::postgres(&server, 101));
    desk.begin();
    std::thread::scope(|threads| {
        let (lived, parts) = mpsc::channel();
        let living = threads.spawn(move || {
            let mut dice = Dice::new(3);
            for life in 0..150 {
                // The server is killed while the next ones are written.
                if life % 15 == 0 {
                    lived.send(()).unwrap();
                }
                desk.live(&mut dice);
            }
            drop(lived);
            desk.catch_up();
            desk
        });
        let mut kills = 0;
        for () in parts {
            server.kill();
            server.start_again();
            kills += 1;
        }
        let desk = living.join().unwrap();
        assert_eq!(kills, 10);
        desk.compare();
    });
}

/// Tables are made again in the place of those on which people have built, with the same columns: what they have built stays.
#[test]
fn what_people_build_on_tables_stays_when_rows_are_filled_anew() {
    let Some(server) = PostgresServer::start() else { return };
    let place = Where::postgres(&server, 102);
    let mut desk = Desk::new(place.clone());
    let mut dice = Dice::new(9);
    desk.begin();
    desk.live(&mut dice);
    desk.catch_up();
    desk.keep_a_backup();
    desk.live(&mut dice);
    let Where::Postgres { database, .. } = &place else { unreachable!() };
    desk.restart();
    server.run(database, "CREATE VIEW public.mine AS SELECT store, net_amount FROM retail.till");
    // As a backup restored under a stopped stage: the positions are older than the file.
    desk.stop();
    server.run(database, "UPDATE millstream.position SET sequence = 1, message_id = 'commit-1'");
    desk.begin();
    desk.catch_up();
    desk.compare();
    assert!(desk.count("public", "mine") > 0);
}
