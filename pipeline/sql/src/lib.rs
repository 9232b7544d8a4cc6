//! Views and reports as tables of a relational database.
//!
//! In reading order: [`table`] derives the columns of a table from the shape of a view's rows ([`key_pattern`] splits keys), and turns
//! rows into values. [`plan`] has all tables of an application. [`definition`] writes the statements that create them, in the dialect of
//! each database. [`database`] is what a database has to do; [`sqlite`] and [`postgres_database`] do it, and [`postgres_address`] reads the
//! address of the latter. [`replica`] follows the projection runner and keeps the tables up to date, and [`replica_runner`] runs all of it
//! for a stage; `tables_health` watches over the file. [`queries`] answers configured queries, which need no code.
//!
//! Deliberately absent: folding, which the read side does; and any SQL engine of its own.

pub mod database;
pub mod definition;
pub mod key_pattern;
pub mod plan;
pub mod postgres_address;
pub mod postgres_database;
pub mod queries;
pub mod replica;
pub mod replica_runner;
pub mod sqlite;
pub mod table;
mod tables_health;
#[cfg(feature = "testing")]
pub mod testing;
