//! What a database must do so that its tables can be kept up to date.

use std::{error::Error as _, sync::Arc};

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_store::read_store::{Checkpoint, ProjectionId, StoreError};
use postgres::error::SqlState;
use rusqlite::ErrorCode;

use crate::{
    definition::Dialect,
    postgres_address::TlsError,
    table::{Table, TableRow, Value, ValueError},
};

/// What an operator can do about a file of SQLite that is damaged. Everything in it can be filled again.
const HOW_TO_FILL_ANEW: &str =
    "a start of the stage with damaged_file = \"rebuild\" sets that file aside and fills a new one";

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite refused or failed.
    #[error("SQLite failed at: {statement}")]
    Sqlite {
        /// The operation.
        statement: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite cannot read its own file any more, or could not when it was open before.
    #[error("the file of the tables is damaged: {detail}; {HOW_TO_FILL_ANEW}")]
    Damaged {
        /// What was found.
        detail: String,
    },
    /// PostgreSQL refused or failed.
    #[error("PostgreSQL failed at: {statement}")]
    Postgres {
        /// The operation.
        statement: String,
        /// Why.
        #[source]
        source: postgres::Error,
    },
    /// The settings of a connection cannot be read.
    #[error("the setting `database` does not say how to reach PostgreSQL")]
    Address(#[source] postgres::Error),
    /// TLS cannot be used in the way that the settings demand.
    #[error("TLS cannot be spoken to PostgreSQL")]
    Tls(#[from] TlsError),
    /// Another process uses the file.
    #[error("{path} is kept by another process")]
    Taken {
        /// The file.
        path: String,
    },
    /// A file or folder cannot be made.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file was removed or replaced while it was open.
    #[error("{path} is gone or another file by now; the tables are filled again when the stage is started")]
    Gone {
        /// The file.
        path: String,
    },
    /// The stored positions were changed by somebody else: another process keeps the same tables, or a backup was restored.
    #[error(
        "the tables of {projection} are not where this process left them: another process keeps them too, or a backup was restored"
    )]
    Moved {
        /// The projection.
        projection: String,
    },
    /// A row does not fit its table.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The file of rows cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process is asked to end, and the database cannot be reached.
    #[error("the database could not be reached until the process was asked to end")]
    Stopped,
    /// The thread of the database has ended.
    #[error("the thread of the database has ended")]
    Ended,
}

impl DatabaseError {
    /// Whether a temporary problem occurred, such as a lost connection, so that the same operation may succeed on another connection.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Postgres { source, .. } => passes(source),
            // Another process writes, or holds its lock for some other reason.
            Self::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            _ => false,
        }
    }
}

/// Errors of PostgreSQL that pass without help: the server shuts down or starts (57P), has too many connections or no memory at the moment
/// (53), lost the connection (08), ended an idle one (25P03), or gave way to another transaction (40) or its lock (55P03).
const PASSING: [&str; 6] = ["57P", "53", "08", "40", "25P03", "55P03"];
/// The two sides do not speak the same protocol, so trying again would not help.
const PROTOCOL_VIOLATION: &str = "08P01";

/// Whether an error of PostgreSQL is temporary.
pub(crate) fn passes(error: &postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        Some(code) => code != PROTOCOL_VIOLATION && PASSING.iter().any(|class| code.starts_with(class)),
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()),
    }
}

impl Failure for DatabaseError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Sqlite { .. } | Self::Damaged { .. } | Self::File { .. } | Self::Gone { .. } => {
                ExitCode::InputOutput
            }
            Self::Store(error) => error.exit_code(),
            Self::Address(_) | Self::Tls(_) => ExitCode::Configuration,
            Self::Value(_) | Self::Ended => ExitCode::Software,
            Self::Postgres { .. } | Self::Taken { .. } | Self::Moved { .. } | Self::Stopped => {
                ExitCode::Unavailable
            }
        }
    }
}

/// The position of a projection's tables, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPosition {
    /// The projection.
    pub projection: ProjectionId,
    /// Its position.
    pub checkpoint: Checkpoint,
    /// The text that defines its tables.
    pub definition: String,
}

/// Changed rows of a table.
#[derive(Debug, Clone)]
pub struct TableChange {
    /// The table.
    pub table: Arc<Table>,
    /// Keys of removed rows.
    pub removed: Vec<Vec<Value>>,
    /// Rows that are new or different.
    pub rows: Vec<TableRow>,
}

/// A position that advances.
#[derive(Debug, Clone)]
pub struct Move {
    /// The projection.
    pub projection: ProjectionId,
    /// The old position.
    pub from: Checkpoint,
    /// The new position.
    pub to: Checkpoint,
}

/// Where the complete rows of a projection stand that replace its tables.
#[derive(Debug, Clone)]
pub struct Filling {
    /// The projection, its new position, and the definition of its tables.
    pub position: StoredPosition,
    /// The position of the existing tables, if there are any.
    pub before: Option<StoredPosition>,
    /// Its tables.
    pub tables: Vec<Arc<Table>>,
}

impl Filling {
    /// Whether the existing tables have the same definition, so that it is enough to replace their rows.
    pub fn keeps_tables(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.definition == self.position.definition)
    }
}

/// Hands out rows, some thousand at a time: the index of the table, and its next rows.
pub type Rows<'r> = dyn FnMut(&mut dyn FnMut(usize, Vec<TableRow>) -> Result<(), DatabaseError>) -> Result<(), DatabaseError>
    + 'r;

/// A database whose tables are kept up to date, through a connection of its own.
pub trait Database: Send {
    /// The kind of database.
    fn dialect(&self) -> Dialect;

    /// Connects again after the connection was lost.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn connect_again(&mut self) -> Result<(), DatabaseError>;

    /// The positions of all projections.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn positions(&mut self) -> Result<Vec<StoredPosition>, DatabaseError>;

    /// Creates missing tables without rows, so that they can be queried before they are filled.
    ///
    /// # Errors
    /// [`DatabaseError`].
    fn make_missing(&mut self, tables: &[Arc<Table>]) -> Result<(), DatabaseError>;

    /// Changes rows and advances positions in one transaction. If all positions have already advanced, because the answer to the same call was
    /// lost, it changes nothing.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is changed then. If the connection was lost, it is not known whether something is changed.
    fn write(&mut self, changes: &[TableChange], moves: &[Move]) -> Result<(), DatabaseError>;

    /// Fills the tables of a projection again in one transaction, so that readers see either the old rows or all new ones.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn fill(&mut self, filling: &Filling, rows: &mut Rows<'_>) -> Result<(), DatabaseError>;
}
