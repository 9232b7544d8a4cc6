//! What tests need: a PostgreSQL of their own, and rows compared with tables.

pub mod comparison;
pub mod postgres_server;
