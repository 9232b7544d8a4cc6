//! Damage to a file of SQLite, as a bad disk or somebody's copy causes it.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, path::Path};

use rusqlite::Connection;

/// Overwrites the page at which a table begins. What every connection reads first stays whole, so that only those notice who need that table.
/// Nobody may have the file open.
///
/// # Panics
/// When there is no such file or table.
pub fn damage_table(path: &Path, table: &str) {
    let connection = Connection::open(path).expect("the file can be opened");
    let number = |statement: &str| {
        let found = connection.query_row(statement, [], |row| row.get::<_, i64>(0));
        found.expect("the file has the table").unsigned_abs()
    };
    let page_size = number("PRAGMA page_size");
    let page = number(&format!("SELECT rootpage FROM sqlite_master WHERE name = '{table}'"));
    drop(connection);
    let file = OpenOptions::new().write(true).open(path).expect("the file can be opened");
    let rubbish = vec![0xff; usize::try_from(page_size).expect("pages have at most 64 KiB")];
    file.write_all_at(&rubbish, (page - 1) * page_size).expect("the file can be written");
}
