//! The keys of stages that keep rows.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use millstream_domain::projection::Projection;
use millstream_runtime::config::SectionKeys;

use crate::{
    projection_runner::{BATCH_MAX_DEFAULT, DURABLE_INTERVAL_DEFAULT},
    query_service::{
        IN_FLIGHT_MAX_DEFAULT, WAIT_DEFAULT, WAIT_MAX_DEFAULT, WAITING_CLIENT_MAX_DEFAULT,
        WAITING_MAX_DEFAULT,
    },
};

/// What to do with a file that is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamagedFile {
    /// End with exit code 74 and name the file.
    Refuse,
    /// Set the file aside under another name and build a new one from the streams.
    Rebuild,
}

/// The keys of a stage that keeps rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSideSettings {
    /// Where the file is.
    pub data_directory: PathBuf,
    /// What to do when it is damaged.
    pub damaged_file: DamagedFile,
    /// The contexts to serve; all when empty.
    pub contexts: Vec<String>,
    /// Memory for the file's pages, in bytes; `None` follows from the container's limit.
    pub cache_size: Option<u64>,
    /// Messages a transaction applies at most.
    pub batch_max: NonZeroUsize,
    /// How often the file is synced while it changes.
    pub durable_interval: Duration,
    /// How long a query waits for its position unless it says otherwise.
    pub query_wait: Duration,
    /// How long a query may wait at most.
    pub query_wait_max: Duration,
    /// Queries answered at once.
    pub queries_max: NonZeroUsize,
    /// Queries that may wait for their position.
    pub queries_waiting_max: NonZeroUsize,
    /// Queries of one client that may wait.
    pub queries_waiting_client_max: NonZeroUsize,
}

impl ReadSideSettings {
    /// Reads the keys, of which only the folder's default differs between stages.
    pub fn read(keys: &mut SectionKeys<'_>, default_directory: &str) -> Self {
        let count = |number: usize| NonZeroUsize::new(number).expect("the defaults are not 0");
        Self {
            data_directory: data_directory(keys, default_directory),
            damaged_file: damaged_file(keys),
            contexts: contexts(keys),
            cache_size: cache_size(keys),
            batch_max: batch_max(keys),
            durable_interval: durable_interval(keys),
            query_wait: keys.duration(
                "query_wait",
                WAIT_DEFAULT,
                "how long a query waits for its position unless it says otherwise",
            ),
            query_wait_max: keys.duration("query_wait_max", WAIT_MAX_DEFAULT, "how long a query may wait"),
            queries_max: keys.count(
                "queries_max",
                count(IN_FLIGHT_MAX_DEFAULT),
                "queries answered at once, of which one connection, or one importing account, has three in four; more are refused",
            ),
            queries_waiting_max: keys.count(
                "queries_waiting_max",
                count(WAITING_MAX_DEFAULT),
                "queries that may wait for their position; more are refused",
            ),
            queries_waiting_client_max: keys.count(
                "queries_waiting_client_max",
                count(WAITING_CLIENT_MAX_DEFAULT),
                "queries of one connection, or of one importing account, that may wait",
            ),
        }
    }

    /// The keys that concern the file.
    pub fn file(&self) -> FileSettings {
        FileSettings {
            data_directory: self.data_directory.clone(),
            damaged_file: self.damaged_file,
            cache_size: self.cache_size,
            batch_max: self.batch_max,
            durable_interval: self.durable_interval,
        }
    }

    /// Notes a problem if the contexts to serve are not among those of `projections`. Projections may have keys of their own, and are therefore
    /// made after these settings are read.
    pub fn check_contexts(&self, keys: &mut SectionKeys<'_>, projections: &[Box<dyn Projection>]) {
        check_contexts(&self.contexts, keys, projections);
    }
}

/// The contexts to serve.
pub fn contexts(keys: &mut SectionKeys<'_>) -> Vec<String> {
    keys.list("contexts", &[], "the contexts to serve; all when empty")
}

/// Notes a problem if one of `contexts` has no projections among `projections`.
pub fn check_contexts(contexts: &[String], keys: &mut SectionKeys<'_>, projections: &[Box<dyn Projection>]) {
    if let Err(unknown) = served_contexts(projections, contexts) {
        keys.problem("contexts", unknown);
    }
}

/// A configured context has no projections.
#[derive(Debug, thiserror::Error)]
#[error("names the context {context}, of which there is nothing to serve; there are {known}")]
pub struct UnknownContext {
    context: String,
    known: String,
}

/// The keys of a stage that keeps rows but answers no queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// Where the file is.
    pub data_directory: PathBuf,
    /// What to do when it is damaged.
    pub damaged_file: DamagedFile,
    /// Memory for the file's pages, in bytes; `None` follows from the container's limit.
    pub cache_size: Option<u64>,
    /// Messages a transaction applies at most.
    pub batch_max: NonZeroUsize,
    /// How often the file is synced while it changes.
    pub durable_interval: Duration,
}

impl FileSettings {
    /// Reads the keys, of which only the folder's default differs between stages.
    pub fn read(keys: &mut SectionKeys<'_>, default_directory: &str) -> Self {
        Self {
            data_directory: data_directory(keys, default_directory),
            damaged_file: damaged_file(keys),
            cache_size: cache_size(keys),
            batch_max: batch_max(keys),
            durable_interval: durable_interval(keys),
        }
    }
}

fn data_directory(keys: &mut SectionKeys<'_>, default: &str) -> PathBuf {
    let help = "folder of the rows; one a process. They may be lost: they are built again from the streams";
    keys.path("data_directory", default, help)
}

fn damaged_file(keys: &mut SectionKeys<'_>) -> DamagedFile {
    keys.choice(
        "damaged_file",
        &[("refuse", DamagedFile::Refuse), ("rebuild", DamagedFile::Rebuild)],
        "refuse",
        "what to do with a damaged file: end with exit code 74, or set it aside and build a new one",
    )
}

fn cache_size(keys: &mut SectionKeys<'_>) -> Option<u64> {
    let help = "memory for the file's pages; \"auto\" is a quarter of the container's limit, at most 256MiB";
    keys.memory("cache_size", help)
}

fn batch_max(keys: &mut SectionKeys<'_>) -> NonZeroUsize {
    let default = NonZeroUsize::new(BATCH_MAX_DEFAULT).expect("the default is not 0");
    keys.count("batch_max", default, "messages a transaction applies at most")
}

fn durable_interval(keys: &mut SectionKeys<'_>) -> Duration {
    let help = "how long a change waits at most until the file is synced, less while little waits; a crash reads again what came since";
    keys.positive_duration("durable_interval", DURABLE_INTERVAL_DEFAULT, help)
}

/// The contexts to serve: those that are wanted, or all that have projections.
pub(super) fn served_contexts(
    projections: &[Box<dyn Projection>],
    wanted: &[String],
) -> Result<Vec<&'static str>, UnknownContext> {
    let mut contexts: Vec<&'static str> = projections.iter().map(|each| each.context()).collect();
    contexts.sort_unstable();
    contexts.dedup();
    if let Some(context) = wanted.iter().find(|wanted| !contexts.contains(&wanted.as_str())) {
        return Err(UnknownContext { context: context.clone(), known: contexts.join(", ") });
    }
    contexts.retain(|context| wanted.is_empty() || wanted.iter().any(|wanted| wanted == context));
    Ok(contexts)
}
