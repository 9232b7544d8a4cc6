//! For tests: a PostgreSQL server, and the comparison of rows with tables.

pub mod comparison;
pub mod postgres_server;
