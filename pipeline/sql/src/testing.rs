//! For tests: a PostgreSQL server, damage to a file of SQLite, and the comparison of rows with tables.

pub mod comparison;
pub mod damage;
pub mod postgres_server;
