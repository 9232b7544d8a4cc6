//! Building rows from the first event, against a bare loop over the same stream: the engine's reader and one row a message,
//! nothing decoded. Each into a fresh file, one after the other on the same server.

use std::{path::Path, time::Duration};

use millstream_contract::stream_names::EVENTS;
use millstream_domain::projection::Projection;
use millstream_jetstream::{
    broker::{Broker as _, StreamReader as _},
    nats_broker::NatsBroker,
};
use millstream_read_side::projection_runner::{
    BATCH_MAX_DEFAULT, DURABLE_INTERVAL_DEFAULT, NameTaken, ProjectionRunner, ProjectionSet, RunnerConfig,
    RunnerError,
};
use millstream_store::read_store::{CACHE_SIZE_DEFAULT, ReadStore, StoreError};
use redb::{Database, Durability, TableDefinition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pipeline::{PipelineError, reader};

const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");

/// What a rebuild took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rebuilt {
    pub(crate) elapsed: Duration,
    /// Rows written or removed; one that changes often within a transaction counts once.
    pub(crate) rows: u64,
}

/// Why a rebuild has no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Names(#[from] NameTaken),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error("the bare loop's rows cannot be written")]
    Rows(#[source] Box<redb::Error>),
    #[error("the rows are not whole: {0}")]
    Troubles(String),
}

fn rows_error(error: impl Into<redb::Error>) -> RebuildError {
    RebuildError::Rows(Box::new(error.into()))
}

/// Reads EVENTS up to `through` and puts every message into a row of its subject, one sync a second.
pub(crate) async fn bare(broker: &NatsBroker, file: &Path, through: u64) -> Result<Duration, RebuildError> {
    let begun = Instant::now();
    let database = Database::builder().set_cache_size(CACHE_SIZE_DEFAULT).create(file).map_err(rows_error)?;
    let mut messages = broker.read(reader(EVENTS, 0)).await.map_err(PipelineError::from)?;
    let (mut reached, mut synced) = (0, Instant::now());
    while reached < through {
        let batch = messages.next_batch(BATCH_MAX_DEFAULT).await.map_err(PipelineError::from)?;
        let mut write = database.begin_write().map_err(rows_error)?;
        reached = batch.last().map_or(reached, |message| message.sequence);
        if reached < through && synced.elapsed() < DURABLE_INTERVAL_DEFAULT {
            write.set_durability(Durability::None).map_err(rows_error)?;
        } else {
            synced = Instant::now();
        }
        {
            let mut rows = write.open_table(ROWS).map_err(rows_error)?;
            for message in &batch {
                rows.insert(message.subject.as_str(), &*message.payload).map_err(rows_error)?;
            }
        }
        write.commit().map_err(rows_error)?;
    }
    let elapsed = begun.elapsed();
    messages.close().await;
    Ok(elapsed)
}

/// Builds the rows of `projections` from EVENTS up to `through`, as a stage does whose file is gone.
pub(crate) async fn rebuild(
    broker: &NatsBroker,
    file: &Path,
    projections: Vec<Box<dyn Projection>>,
    through: u64,
) -> Result<Rebuilt, RebuildError> {
    let begun = Instant::now();
    let store = ReadStore::open(file, CACHE_SIZE_DEFAULT)?;
    let set = ProjectionSet::new(projections, Vec::new(), &[])?;
    let config = RunnerConfig::new("bench");
    let rows = config.metrics.store(&file.file_stem().unwrap_or_default().to_string_lossy()).rows;
    let runner = ProjectionRunner::new(broker.clone(), store, set, config);
    let (statuses, views) = (runner.statuses(), runner.views());
    let stop = CancellationToken::new();
    let running = runner.run(stop.clone());
    let reached = async {
        for (_, mut status) in statuses {
            // It ends early only when the runner has, which says why.
            let _ended = status
                .wait_for(|status| status.sequence >= through || status.halted.is_some())
                .await
                .is_err();
        }
        stop.cancel();
    };
    // The file is synced when the runner ends.
    let (ran, ()) = tokio::join!(running, reached);
    ran?;
    let elapsed = begun.elapsed();
    match views.troubles() {
        troubles if troubles.is_empty() => Ok(Rebuilt { elapsed, rows: rows.get() }),
        troubles => Err(RebuildError::Troubles(troubles.join("; "))),
    }
}
