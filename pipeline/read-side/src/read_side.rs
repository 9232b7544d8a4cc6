//! What projector, reporter and the stage `sql` have in common: settings, the file of rows, the projection runner, queries of those
//! rows, readiness and an orderly end.

mod projection_progress;
mod settings;

use std::{path::Path, sync::Arc};

use futures::future::join_all;
use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_domain::projection::{OutcomeProjection, Projection};
use millstream_jetstream::nats_broker::NatsBroker;
use millstream_runtime::{
    file_work::end_of,
    health::Condition,
    memory_limit::{AutoSize, MemoryLimit},
    metrics::Metrics,
    stage::StageRuntime,
};
use millstream_store::read_store::{CACHE_SIZE_DEFAULT, ReadStore, StoreError};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use self::settings::served_contexts;
pub use self::{
    projection_progress::ProjectionProgress,
    settings::{DamagedFile, FileSettings, ReadSideSettings, UnknownContext, check_contexts, contexts},
};
use crate::{
    change_teller::ChangeTeller,
    projection_runner::{
        NameTaken, ProjectionRunner, ProjectionSet, RowFollower, RowRemover, RunnerConfig, RunnerError,
        ViewDirectory,
    },
    query_service::{QueryService, QueryServiceConfig, QueryServiceError},
};

/// The name of the file in the data folder.
const FILE_NAME: &str = "rows.redb";
/// The size of the page cache unless configured otherwise. The process also needs memory for the batches that it applies and for queries.
const CACHE_SIZE: AutoSize = AutoSize { one_in: 4, most: CACHE_SIZE_DEFAULT as u64 };
/// What an operator can do if a damaged file is refused.
const HOW_TO_REBUILD: &str =
    "a start with damaged_file = \"rebuild\" sets the file aside and builds a new one from the streams";
/// What the file is called in the metric of damaged files.
const METRIC_NAME: &str = "rows";

/// Why the file of rows cannot be used any further, and what can be done if it is damaged.
pub fn file_failed(error: &StoreError) -> String {
    match error.is_damage() {
        true => format!("{error}; {HOW_TO_REBUILD}"),
        false => error.to_string(),
    }
}

/// Why the file of rows cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// It is damaged, and [`DamagedFile::Refuse`] leaves it where it is.
    #[error("the rows cannot be used: {HOW_TO_REBUILD}")]
    Refused(#[source] StoreError),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure for OpenStoreError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(error) | Self::Store(error) => error.exit_code(),
        }
    }
}

/// Why the read side ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ReadSideError {
    /// A configured context has no projections.
    #[error("the setting `contexts` {0}")]
    UnknownContext(UnknownContext),
    /// Two projections have the same name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// The file cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// A query found damage, and the file is to be rebuilt.
    #[error(
        "rows were found damaged while they were queried, and `damaged_file` is \"rebuild\": the next start builds them anew"
    )]
    Rebuild(#[source] StoreError),
    /// The runner failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// Queries cannot be answered.
    #[error(transparent)]
    Queries(#[from] QueryServiceError),
}

impl Failure for ReadSideError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::UnknownContext(_) => ExitCode::Configuration,
            Self::NameTaken(_) => ExitCode::Software,
            Self::Store(error) => error.exit_code(),
            Self::Rebuild(error) => error.exit_code(),
            Self::Runner(error) => error.exit_code(),
            Self::Queries(_) => ExitCode::NotPermitted,
        }
    }
}

/// The file, the runner and, if there are any, the queries of a process, ready to run.
pub struct ReadSide {
    store: ReadStore,
    runner: ProjectionRunner<NatsBroker>,
    broker: NatsBroker,
    queries: Option<QueryServiceConfig>,
    views: ViewDirectory,
    damaged_file: DamagedFile,
    condition: Condition,
    runtime: StageRuntime,
}

impl ReadSide {
    /// Opens the file for rows that are queried. This may take a while if the file has to be repaired. Nothing is read from the streams yet.
    ///
    /// # Errors
    /// [`ReadSideError`] when the file cannot be opened or the settings do not fit the projections.
    pub async fn open(
        settings: &ReadSideSettings,
        runtime: StageRuntime,
        projections: Vec<Box<dyn Projection>>,
        outcome_projections: Vec<Box<dyn OutcomeProjection>>,
    ) -> Result<Self, ReadSideError> {
        let mut queries = QueryServiceConfig::new(runtime.identity.name, runtime.identity.version);
        queries.wait_default = settings.query_wait;
        queries.wait_max = settings.query_wait_max;
        queries.in_flight_max = settings.queries_max.get();
        queries.waiting_max = settings.queries_waiting_max.get();
        queries.waiting_client_max = settings.queries_waiting_client_max.get();
        let contexts = &settings.contexts;
        let side = Self::keep(&settings.file(), contexts, runtime, projections, outcome_projections).await?;
        Ok(Self { queries: Some(queries), ..side })
    }

    /// As [`Self::open`], for rows that this process does not answer queries about.
    ///
    /// # Errors
    /// As there.
    pub async fn keep(
        settings: &FileSettings,
        contexts: &[String],
        runtime: StageRuntime,
        projections: Vec<Box<dyn Projection>>,
        outcome_projections: Vec<Box<dyn OutcomeProjection>>,
    ) -> Result<Self, ReadSideError> {
        let condition = runtime.readiness.condition("views");
        let contexts = served_contexts(&projections, contexts).map_err(ReadSideError::UnknownContext)?;
        let served = projections.into_iter().filter(|each| contexts.contains(&each.context()));
        let projections: Vec<_> = served.collect();
        let set = ProjectionSet::new(projections, outcome_projections, &contexts)?;
        let store = open_store(
            &settings.data_directory,
            settings.damaged_file,
            settings.cache_size,
            &runtime.metrics,
        )
        .await?;
        let mut config = RunnerConfig::new(&runtime.process);
        config.batch_max = settings.batch_max.get();
        config.durable_interval = settings.durable_interval;
        config.metrics = runtime.metrics.clone();
        let broker = runtime.broker.clone();
        let runner = ProjectionRunner::new(broker.clone(), store.clone(), set, config);
        let views = runner.views();
        let damaged_file = settings.damaged_file;
        Ok(Self { store, runner, broker, queries: None, views, damaged_file, condition, runtime })
    }

    /// The same, with a follower that keeps the rows elsewhere as well.
    #[must_use]
    pub fn followed_by(self, follower: Arc<dyn RowFollower>) -> Self {
        Self { runner: self.runner.followed_by(follower), ..self }
    }

    /// The file.
    pub fn store(&self) -> &ReadStore {
        &self.store
    }

    /// The views.
    pub fn views(&self) -> &ViewDirectory {
        &self.views
    }

    /// A handle that removes rows, such as those of an outbox that have been published.
    pub fn row_remover(&self) -> RowRemover {
        self.runner.row_remover()
    }

    /// Runs the projections and answers queries until the process is asked to end. Then it applies what was read, answers what was
    /// asked, syncs the file and closes it.
    ///
    /// # Errors
    /// [`ReadSideError`].
    pub async fn run(self) -> Result<(), ReadSideError> {
        let Self { store, runner, broker, queries, views, damaged_file, condition, runtime } = self;
        let service = match queries {
            Some(queries) => {
                Some(QueryService::start(&broker, store.clone(), &views, &runtime.metrics, queries).await?)
            }
            None => None,
        };
        let stop = runtime.shutdown.token().child_token();
        let statuses: Vec<_> = runner.statuses().into_iter().map(|(_, status)| status).collect();
        let folding = ProjectionProgress::of(&statuses, &[EVENTS, OUTCOMES], &runtime.readiness);
        let watch =
            ReadinessWatch { views, store, damaged_file, metrics: runtime.metrics.clone(), condition };
        let readiness = tokio::spawn(watch.run(stop.clone()));
        // Only a process that answers queries announces changes.
        let teller = ChangeTeller::new(broker.clone(), runner.changed_rows(), &runtime.metrics);
        let telling = service.is_some().then(|| tokio::spawn(teller.run(stop.clone())));
        let watched = stop.clone();
        let progress = tokio::spawn(async move {
            let watches = join_all(folding.iter().map(|each| each.watch(&broker)));
            tokio::select! {
                _never = watches => {}
                () = watched.cancelled() => {}
            }
        });
        let ended = runner.run(stop.clone()).await;
        stop.cancel();
        if let Some(service) = service {
            service.stop().await;
        }
        let failed = |error: JoinError| tracing::error!(%error, "a watch over readiness failed");
        progress.await.unwrap_or_else(failed);
        if let Some(telling) = telling {
            telling.await.unwrap_or_else(failed);
        }
        let to_rebuild = readiness.await.unwrap_or_else(|error| {
            failed(error);
            None
        });
        ended?;
        to_rebuild.map_or(Ok(()), |damage| Err(ReadSideError::Rebuild(damage)))
    }
}

/// Opens the file of rows in a folder. This happens away from the async threads, because the file may have to be repaired.
///
/// # Errors
/// [`OpenStoreError`].
pub async fn open_store(
    folder: &Path,
    damaged_file: DamagedFile,
    cache_size: Option<u64>,
    metrics: &Metrics,
) -> Result<ReadStore, OpenStoreError> {
    let path = folder.join(FILE_NAME);
    let limit = MemoryLimit::of_this_process();
    let cache_size = limit.size_of(cache_size, CACHE_SIZE);
    limit.log(&[("pages of rows.redb", cache_size)]);
    let cache_size = usize::try_from(cache_size).unwrap_or(usize::MAX);
    let damaged = metrics.damaged_files(METRIC_NAME);
    let open = move || {
        if damaged_file == DamagedFile::Refuse {
            return ReadStore::open(&path, cache_size).map_err(|error| match error.is_damage() {
                true => OpenStoreError::Refused(error),
                false => error.into(),
            });
        }
        let (store, aside) = ReadStore::open_or_begin_anew(&path, cache_size)?;
        damaged.inc_by(u64::from(aside.is_some()));
        Ok(store)
    };
    end_of(tokio::task::spawn_blocking(open)).await
}

/// Watches the views and the file, and sets whether the stage is ready.
struct ReadinessWatch {
    views: ViewDirectory,
    store: ReadStore,
    damaged_file: DamagedFile,
    metrics: Metrics,
    condition: Condition,
}

impl ReadinessWatch {
    /// Runs until `stop`, or until damage is found that a new start will repair: then it asks the process to end, and returns the damage. If a
    /// damaged file is to be refused, the other rows are still served, but the stage is no longer ready.
    async fn run(self, stop: CancellationToken) -> Option<StoreError> {
        let Self { views, store, damaged_file, metrics, condition } = self;
        let (mut known, mut to_rebuild) = (None, None);
        let troubles = || {
            if known.is_none()
                && let Some(damage) = store.damage()
            {
                metrics.damaged_files(METRIC_NAME).inc();
                let error = one_line(&damage);
                tracing::error!(error, "the file of rows is damaged; what is whole is still served");
                known = Some(format!("{error}; {HOW_TO_REBUILD}"));
                if damaged_file == DamagedFile::Rebuild {
                    to_rebuild = Some(damage);
                    stop.cancel();
                }
            }
            known.iter().cloned().chain(views.troubles()).collect()
        };
        condition.follow(&stop, troubles).await;
        to_rebuild
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::error_text::one_line;

    use super::*;

    #[tokio::test]
    async fn damaged_rows_are_refused_with_what_to_do_or_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "a letter, no database").unwrap();
        let metrics = Metrics::new();
        let open = |what| open_store(folder.path(), what, Some(1 << 20), &metrics);
        let refused = open(DamagedFile::Refuse).await.unwrap_err();
        assert_eq!(refused.exit_code(), ExitCode::InputOutput);
        let words = one_line(&refused);
        assert!(
            words.contains("damaged_file = \"rebuild\"") && words.contains("rows.redb is damaged"),
            "{words}"
        );
        open(DamagedFile::Rebuild).await.unwrap();
        assert_eq!(metrics.damaged_files("rows").get(), 1);
    }
}
