//! Runs a replica for a stage: settings, the file of rows over which projections fold, the database, and an orderly end.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};
use millstream_domain::projection::{OutcomeProjection, Projection};
use millstream_read_side::read_side::{
    DamagedFile, FileSettings, ReadSide, ReadSideError, check_contexts, contexts,
};
use millstream_runtime::{config::SectionKeys, file_work::end_of, stage::StageRuntime};

use crate::{
    database::{Database, DatabaseError},
    plan::{Plan, PlanError},
    postgres_address::user_of,
    postgres_database::PostgresDatabase,
    queries::{
        library::Library,
        reader::{PostgresReader, Reader, SqliteReader},
        service::{QueryServiceError, QuerySettings, SqlQueries, check, tell},
    },
    replica::Replica,
    sqlite::SqliteDatabase,
    tables_health::{TABLES, TablesHealth},
};

/// The name of the SQLite file in the data folder, unless another one is configured.
pub const SQLITE_FILE: &str = "replica.sqlite";
/// The possible beginnings of a PostgreSQL address.
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where the tables are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// In a file of SQLite.
    Sqlite(PathBuf),
    /// In a database of PostgreSQL.
    Postgres {
        /// Its address.
        address: String,
        /// The file with the password, if the address has none.
        password_file: Option<PathBuf>,
        /// A role that may read all tables.
        reader: Option<String>,
        /// A separate connection for queries, with a role of its own.
        readers: Option<Readers>,
    },
}

/// How queries reach the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readers {
    /// The address, with a role that may only read.
    pub address: String,
    /// The file with its password, if the address has none.
    pub password_file: Option<PathBuf>,
}

impl Target {
    /// The named database: a PostgreSQL if it looks like an address, otherwise a file of SQLite.
    pub fn named(
        database: String,
        password_file: Option<PathBuf>,
        reader: Option<String>,
        readers: Option<Readers>,
    ) -> Self {
        if is_postgres(&database) {
            Self::Postgres { address: database, password_file, reader, readers }
        } else {
            Self::Sqlite(PathBuf::from(database))
        }
    }

    /// The file of SQLite, if it is one.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Sqlite(path) => Some(path.clone()),
            Self::Postgres { .. } => None,
        }
    }

    /// A reader of the tables. An answer's position is that of `projections`, those of events.
    ///
    /// # Errors
    /// [`ReplicaError`] when the password cannot be read, or the address is invalid.
    pub fn reader(&self, projections: Vec<String>) -> Result<Arc<dyn Reader>, ReplicaError> {
        Ok(match with_password(self.clone())? {
            Self::Sqlite(path) => Arc::new(SqliteReader::new(&path, projections)),
            Self::Postgres { readers: Some(Readers { address, .. }), .. } => {
                Arc::new(PostgresReader::of_readers(&address, projections)?)
            }
            Self::Postgres { address, reader, readers: None, .. } => {
                Arc::new(PostgresReader::new(&address, reader.as_deref(), projections)?)
            }
        })
    }
}

fn is_postgres(database: &str) -> bool {
    POSTGRES.iter().any(|scheme| database.starts_with(scheme))
}

/// The keys of a stage that keeps tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlSettings {
    /// The file of rows.
    pub file: FileSettings,
    /// The contexts to keep; all if empty.
    pub contexts: Vec<String>,
    /// Where the tables are kept.
    pub target: Target,
    /// The folder of configured queries, and their limits.
    pub queries: QuerySettings,
}

impl SqlSettings {
    /// Reads the keys, and notes a problem if the views cannot be kept as tables.
    pub fn read(
        keys: &mut SectionKeys<'_>,
        projections: &[Box<dyn Projection>],
        outcome_projections: &[Box<dyn OutcomeProjection>],
    ) -> Self {
        let file = FileSettings::read(keys, "data/sql");
        let wanted = contexts(keys);
        check_contexts(&wanted, keys, projections);
        let target = target(keys, &file);
        let queries = query_settings(keys);
        if queries.ad_hoc && matches!(&target, Target::Postgres { readers: None, .. }) {
            keys.problem(
                "ad_hoc",
                "needs readers: on the connection that fills the tables, a statement could read more than they hold",
            );
        }
        let settings = Self { file, contexts: wanted, target, queries };
        match settings.plan(projections, outcome_projections) {
            Ok(plan) => settings.check_queries(keys, plan),
            Err(error) => keys.general_problem(one_line(&error)),
        }
        settings
    }

    /// Notes broken queries. Queries for SQLite are checked against a database in memory that has the tables; queries for PostgreSQL are
    /// checked by the server when the stage starts.
    fn check_queries(&self, keys: &mut SectionKeys<'_>, plan: Plan) {
        let mut library = Library::new(&self.queries.folder, plan.contexts());
        let reader = match &self.target {
            Target::Sqlite(_) => SqliteReader::of_empty_tables(&plan).map(Some),
            Target::Postgres { .. } => Ok(None),
        };
        let broken = match reader {
            Ok(Some(reader)) => library.read(|query| check(&reader, query)),
            Ok(None) => library.read(|_| Ok(())),
            Err(error) => return keys.problem("queries", error),
        };
        match broken {
            Ok(broken) => {
                for (path, problem) in broken {
                    keys.problem("queries", format!("has {}: {problem}", path.display()));
                }
            }
            Err(error) => keys.problem("queries", format!("cannot be read: {error}")),
        }
    }

    /// The tables of the configured contexts.
    fn plan(
        &self,
        projections: &[Box<dyn Projection>],
        outcome_projections: &[Box<dyn OutcomeProjection>],
    ) -> Result<Plan, PlanError> {
        let is_kept =
            |context: &str| self.contexts.is_empty() || self.contexts.iter().any(|each| each == context);
        let mut contexts: Vec<&str> =
            projections.iter().map(|each| each.context()).filter(|context| is_kept(context)).collect();
        contexts.sort_unstable();
        contexts.dedup();
        let kept = projections.iter().map(AsRef::as_ref).filter(|each| contexts.contains(&each.context()));
        Plan::new(kept, outcome_projections.iter().map(AsRef::as_ref), &contexts)
    }
}

fn target(keys: &mut SectionKeys<'_>, file: &FileSettings) -> Target {
    let database = keys.text(
        "database",
        "",
        "where the tables are: a file of SQLite, replica.sqlite in the data folder when empty; or postgres://user@host/database, with ?sslmode=verify-full&sslrootcert=<file> for TLS",
    );
    let password_file = keys
        .optional_path("password_file", "file with the password for PostgreSQL, where the address has none");
    let reader = keys.optional_text(
        "reader",
        "a role of PostgreSQL that may read all tables; it has to be there. Without, that of readers",
    );
    let readers = keys.optional_text(
        "readers",
        "where configured queries are asked, postgres://reader@host/database: a role of its own that may only read. Without, they are asked on the connection that fills the tables",
    );
    let of_readers = keys.optional_path(
        "readers_password_file",
        "file with the password for readers, where the address has none",
    );
    let readers = readers.map(|address| Readers { address, password_file: of_readers });
    if let Some(Readers { address, .. }) = &readers {
        if !is_postgres(address) {
            keys.problem("readers", "must begin with postgres://");
        } else if !is_postgres(&database) {
            keys.problem("readers", "is for PostgreSQL, and database is a file of SQLite");
        }
    }
    if database.is_empty() {
        return Target::Sqlite(file.data_directory.join(SQLITE_FILE));
    }
    let target = Target::named(database, password_file, reader, readers);
    if matches!(&target, Target::Sqlite(path) if path.to_string_lossy().contains("://")) {
        keys.problem("database", "must be a file, or begin with postgres://");
    }
    target
}

/// Longer than anybody waits for an answer that is not worth a report.
const QUERY_TIME: Duration = Duration::from_secs(5);
/// Some of the cores are left for filling the tables.
const QUERIES_AT_ONCE: usize = 4;

fn query_settings(keys: &mut SectionKeys<'_>) -> QuerySettings {
    let folder = keys.path(
        "queries",
        "config/queries",
        "folder of the configured queries, <context>/<name>.sql; looked at every two seconds",
    );
    let time = keys.positive_duration("query_time", QUERY_TIME, "how long a configured query may run");
    let at_once = NonZeroUsize::new(QUERIES_AT_ONCE).expect("the default is not 0");
    let at_once = keys
        .count(
            "queries_max",
            at_once,
            "configured queries that run at once; more wait for a second, and are then refused",
        )
        .get();
    let ad_hoc = keys.flag(
        "ad_hoc",
        false,
        "whether statements are answered that no file has (sql.ask, POST /v1/sql); in PostgreSQL, only as the role of readers",
    );
    QuerySettings { folder, time, at_once, ad_hoc }
}

/// Why the replica ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The views cannot be kept as tables.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[from] DatabaseError),
    /// The file of the tables was found damaged while it was used, and a new one is to be filled.
    #[error(
        "the file of the tables is damaged, and `damaged_file` is \"rebuild\": the next start sets it aside and fills a new one: {detail}"
    )]
    FillAnew {
        /// What was found.
        detail: String,
    },
    /// The file with the password cannot be read.
    #[error("the file with the password for PostgreSQL, {path}")]
    Password {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Configured queries cannot be answered.
    #[error(transparent)]
    Queries(#[from] QueryServiceError),
    /// Projections cannot be folded any further.
    #[error(transparent)]
    ReadSide(#[from] ReadSideError),
}

impl Failure for ReplicaError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Plan(_) => ExitCode::Software,
            Self::Database(error) => error.exit_code(),
            Self::FillAnew { .. } => ExitCode::InputOutput,
            Self::Password { .. } => ExitCode::Configuration,
            Self::Queries(_) => ExitCode::NotPermitted,
            Self::ReadSide(error) => error.exit_code(),
        }
    }
}

/// Keeps the tables up to date until the process is asked to end.
///
/// # Errors
/// [`ReplicaError`].
pub async fn run(
    settings: &SqlSettings,
    runtime: StageRuntime,
    projections: Vec<Box<dyn Projection>>,
    outcome_projections: Vec<Box<dyn OutcomeProjection>>,
) -> Result<(), ReplicaError> {
    let plan = settings.plan(&projections, &outcome_projections)?;
    let target = with_password(settings.target.clone())?;
    if matches!(&target, Target::Postgres { readers: None, .. }) {
        tracing::warn!(
            "configured queries are asked on the connection that fills the tables; sql.readers names another"
        );
    }
    // The tables end together with the process, or earlier when they are damaged.
    let shutdown = runtime.shutdown.child();
    let stop = shutdown.token().child_token();
    let health = TablesHealth {
        condition: runtime.readiness.condition(TABLES),
        metrics: runtime.metrics.clone(),
        damaged_file: settings.file.damaged_file,
        path: target.file(),
    };
    let runtime = StageRuntime { shutdown: shutdown.clone(), ..runtime };
    let (broker, version) = (runtime.broker.clone(), runtime.identity.version);
    let (reader, queries) = (target.reader(plan.of_events())?, settings.queries.clone());
    let contexts = plan.contexts();
    // The file comes first, because it belongs to one process: a second process on the same folder ends before it touches the tables.
    let side =
        ReadSide::keep(&settings.file, &settings.contexts, runtime, projections, outcome_projections).await?;
    let (rebuilds, metrics) = (settings.file.damaged_file == DamagedFile::Rebuild, health.metrics.clone());
    let open = move || -> Result<Box<dyn Database>, DatabaseError> {
        Ok(match &target {
            Target::Sqlite(path) if rebuilds => {
                let (database, aside) = SqliteDatabase::open_or_begin_anew(path)?;
                metrics.damaged_files(TABLES).inc_by(u64::from(aside.is_some()));
                Box::new(database)
            }
            Target::Sqlite(path) => Box::new(SqliteDatabase::open(path)?),
            Target::Postgres { address, reader, .. } => {
                Box::new(PostgresDatabase::connect(address, reader.as_deref())?)
            }
        })
    };
    let started = stop.clone();
    let looked_at = Arc::clone(&reader);
    let watched = side.views().iter().map(|view| view.status.clone()).collect();
    let hurry = side.views().iter().next().map(|view| view.hurry.clone()).unwrap_or_default();
    let replica = end_of(tokio::task::spawn_blocking(move || Replica::start(plan, open, started))).await?;
    let read = move || {
        let mut library = Library::new(&queries.folder, contexts);
        tell(&library.read(|query| check(reader.as_ref(), query)));
        (library, reader, queries)
    };
    let (library, reader, queries) = end_of(tokio::task::spawn_blocking(read)).await;
    let service = SqlQueries::start(&broker, version, library, reader, queries, watched, hurry).await?;
    let health = tokio::spawn(health.watch(looked_at, shutdown.clone()));
    let kept = side.followed_by(Arc::new(replica)).run().await;
    shutdown.request();
    service.stop().await;
    let to_fill_anew = end_of(health).await;
    kept?;
    to_fill_anew.map_or(Ok(()), |detail| Err(ReplicaError::FillAnew { detail }))
}

/// The addresses with the passwords from the files, and the reading role.
fn with_password(target: Target) -> Result<Target, ReplicaError> {
    let Target::Postgres { address, password_file, reader, readers } = target else { return Ok(target) };
    let address = address_with(address, password_file)?;
    let readers = readers.map(|Readers { address, password_file }| {
        Ok::<_, ReplicaError>(Readers { address: address_with(address, password_file)?, password_file: None })
    });
    let readers = readers.transpose()?;
    let reader = match (reader, &readers) {
        (None, Some(Readers { address, .. })) => user_of(address)?,
        (reader, _) => reader,
    };
    Ok(Target::Postgres { address, password_file: None, reader, readers })
}

fn address_with(address: String, password_file: Option<PathBuf>) -> Result<String, ReplicaError> {
    let Some(path) = password_file else { return Ok(address) };
    let password = read_password(&path)?;
    let separator = if address.contains('?') { '&' } else { '?' };
    Ok(format!("{address}{separator}password={}", percent_encoded(&password)))
}

fn read_password(path: &Path) -> Result<String, ReplicaError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| ReplicaError::Password { path: path.display().to_string(), source })?;
    Ok(text.trim().to_owned())
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_are_let_read_and_have_a_password_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let readers = Readers {
            address: "postgres://asking@db/shop?sslmode=require".to_owned(),
            password_file: file("readers", "a&b\n"),
        };
        let named = |reader: Option<&str>| {
            let (database, password) = ("postgres://filling@db/shop".to_owned(), file("filling", "c d\n"));
            let target = Target::named(database, password, reader.map(str::to_owned), Some(readers.clone()));
            with_password(target).unwrap()
        };
        let expected = |reader: &str| Target::Postgres {
            address: "postgres://filling@db/shop?password=c%20d".to_owned(),
            password_file: None,
            reader: Some(reader.to_owned()),
            readers: Some(Readers {
                address: "postgres://asking@db/shop?sslmode=require&password=a%26b".to_owned(),
                password_file: None,
            }),
        };
        assert_eq!(named(None), expected("asking"));
        assert_eq!(named(Some("all")), expected("all"), "a group of those who read");
    }
}
