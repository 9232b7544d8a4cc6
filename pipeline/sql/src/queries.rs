//! Queries that are configured instead of programmed: SQL in a file with a header.
//!
//! [`text`] parses a statement as far as necessary: its parameters, its tables, and that there is only one statement. [`header`] reads what a
//! file says about its query. [`library`] holds the queries of a folder, and reads them again when a file changes. [`reader`] asks a database,
//! within limits and without any right to change it. [`service`] answers requests on NATS.

mod answer_cache;
pub mod header;
pub mod library;
pub mod reader;
mod refusal;
pub mod service;
pub mod text;
