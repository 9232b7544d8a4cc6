//! Asks a database one statement, without any right to change something, and within limits of time, rows and memory.

mod exact_sum;
mod postgres;
mod sqlite;

use std::time::Duration;

use serde_json::{Map, Value as Json};
use tokio_util::sync::CancellationToken;

pub use self::{postgres::PostgresReader, sqlite::SqliteReader};
use super::{header::ParameterKind, text::StatementText};
use crate::table::Value;

/// The limits of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long it may run.
    pub time: Duration,
    /// How many rows it may return. Further rows are cut off.
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
    /// The value.
    pub value: Value,
}

/// The answer of a database.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, as objects by the names of the columns.
    pub rows: Vec<Map<String, Json>>,
    /// Whether there were more.
    pub is_cut: bool,
    /// The generation and sequence of EVENTS up to which the tables show everything: those of the projection that is furthest behind.
    pub position: Option<(String, u64)>,
}

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The statement is wrong, or asks for something that is not allowed.
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

/// A database that can be queried. Each call blocks its thread.
pub trait Reader: Send + Sync {
    /// Whether the database understands the statement with these parameters. Returns the names of its columns.
    ///
    /// # Errors
    /// [`AskError`].
    fn check(&self, statement: &StatementText, arguments: &[Argument]) -> Result<Vec<String>, AskError>;

    /// Runs the statement.
    ///
    /// # Errors
    /// [`AskError`].
    fn ask(
        &self,
        statement: &StatementText,
        arguments: &[Argument],
        limits: Limits,
    ) -> Result<Answer, AskError>;

    /// Reads everything once to find damage, unless `stop` comes first. Does nothing for a database that looks after that itself.
    fn look_for_damage(&self, _stop: &CancellationToken) {}

    /// What was found damaged by anything that this reader did; queries that do not meet it are still answered.
    fn damage(&self) -> Option<String> {
        None
    }
}

/// The position of a projection's tables: the projection's name, the generation and the sequence.
type Standing = (String, String, i64);

/// The position up to which the tables of all these projections show everything. `None` if one of them has not been filled yet, or if they show
/// streams of different generations. Tables of projections that are no longer kept do not count, because their position no longer changes.
fn position_of(projections: &[String], standings: &[Standing]) -> Option<(String, u64)> {
    let of = |projection: &String| standings.iter().find(|(of, ..)| of == projection);
    let found = projections.iter().map(of).collect::<Option<Vec<_>>>()?;
    let (_, generation, sequence) = found.iter().min_by_key(|(.., sequence)| *sequence)?;
    let same = found.iter().all(|(_, of, _)| of == generation);
    same.then(|| (generation.clone(), u64::try_from(*sequence).unwrap_or_default()))
}

/// The approximate number of bytes of a value in an answer.
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
