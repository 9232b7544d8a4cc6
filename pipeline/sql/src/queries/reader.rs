//! Asks a database: one statement, without any right to change something, and within limits of time, rows and memory.

mod postgres;
mod sqlite;

use std::time::Duration;

use serde_json::{Map, Value as Json};

pub use self::{postgres::PostgresReader, sqlite::SqliteReader};
use super::{header::ParameterKind, text::StatementText};
use crate::table::Value;

/// What a statement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long it may run.
    pub time: Duration,
    /// How many rows it may give; what comes behind them is cut off.
    pub rows: usize,
    /// How many bytes its answer may have.
    pub bytes: usize,
}

/// A value for a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    /// The parameter.
    pub name: String,
    /// What it takes.
    pub kind: ParameterKind,
    /// What it is.
    pub value: Value,
}

/// What a database answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, by the names of the columns.
    pub rows: Vec<Map<String, Json>>,
    /// Whether there were more.
    pub is_cut: bool,
    /// Up to where in EVENTS the tables show everything: the generation and the sequence of the projection that is behind most.
    pub position: Option<(String, u64)>,
}

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The statement is wrong, or asks for what is not allowed.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("the query was ended after {} ms", .0.as_millis())]
    TooLong(Duration),
    /// The answer is too large.
    #[error("the answer has more than {0} bytes; ask for less")]
    TooLarge(usize),
    /// The database does not answer.
    #[error("the database cannot be asked: {0}")]
    Unavailable(String),
}

/// A database that can be asked. Each call blocks its thread.
pub trait Reader: Send + Sync {
    /// Whether the statement is one that the database understands, with these parameters.
    ///
    /// # Errors
    /// [`AskError`].
    fn check(&self, statement: &StatementText, arguments: &[Argument]) -> Result<(), AskError>;

    /// Asks.
    ///
    /// # Errors
    /// [`AskError`].
    fn ask(
        &self,
        statement: &StatementText,
        arguments: &[Argument],
        limits: Limits,
    ) -> Result<Answer, AskError>;
}

/// How many bytes a value has in an answer, about.
fn size_of(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len() + 2,
        _ => 8,
    }
}
