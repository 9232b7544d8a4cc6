//! Queries that are configured and not programmed: SQL in a file with a header, for whoever may ask.
//!
//! [`text`] reads a statement as far as it has to: its parameters, its tables, and that it is one. [`header`] reads what a file says of
//! its query. [`library`] holds the queries of a folder, and reads them again when a file changes. [`reader`] asks a database, within limits,
//! without any right to change it. [`service`] answers requests on NATS.

mod answer_cache;
pub mod header;
pub mod library;
pub mod reader;
mod refusal;
pub mod service;
pub mod text;
