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
    /// Whether the statement is one that the database understands, with these parameters; and the names of its columns.
    ///
    /// # Errors
    /// [`AskError`].
    fn check(&self, statement: &StatementText, arguments: &[Argument]) -> Result<Vec<String>, AskError>;

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

/// Where the tables of a projection are: its name, the generation and the sequence.
type Standing = (String, String, i64);

/// Up to where the tables of all these projections show everything. None where one of them was not filled yet, or they show streams
/// of different generations. Tables of projections that are not kept any more do not count: they stay where they are.
fn position_of(projections: &[String], standings: &[Standing]) -> Option<(String, u64)> {
    let of = |projection: &String| standings.iter().find(|(of, ..)| of == projection);
    let found = projections.iter().map(of).collect::<Option<Vec<_>>>()?;
    let (_, generation, sequence) = found.iter().min_by_key(|(.., sequence)| *sequence)?;
    let same = found.iter().all(|(_, of, _)| of == generation);
    same.then(|| (generation.clone(), u64::try_from(*sequence).unwrap_or_default()))
}

/// How many bytes a value has in an answer, about.
fn size_of(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_that_of_the_kept_projection_that_is_behind_most() {
        let standing =
            |of: &str, generation: &str, sequence| (of.to_owned(), generation.to_owned(), sequence);
        let kept = ["a".to_owned(), "b".to_owned()];
        let (a, b) = (standing("a", "g", 7), standing("b", "g", 5));
        let gone = standing("gone", "f", 1);
        assert_eq!(position_of(&kept, &[a.clone(), b, gone]), Some(("g".to_owned(), 5)));
        assert_eq!(position_of(&kept, std::slice::from_ref(&a)), None, "not filled yet");
        assert_eq!(position_of(&kept, &[a, standing("b", "f", 9)]), None, "of another stream");
    }
}
