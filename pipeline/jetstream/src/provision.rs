//! Creates and verifies the JetStream streams and the bucket of leases.
//!
//! Existing streams are left as they are. A stream that differs is reported, field by field, with the command that corrects it. Only two
//! things are changed here: a subject that a later release has added is added, which changes nothing that is stored; and sizes and numbers
//! of copies are changed if that is asked for ([`ProvisionOptions::apply`]). Consumers are not provisioned, because each reader makes its
//! own at its own position (see [`crate::broker`]).

use std::{collections::BTreeMap, num::NonZeroUsize};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::Config,
};

pub use self::{
    definitions::{DUPLICATE_WINDOW, definition, definitions},
    difference::Difference,
};
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stream_names::{GENERATION_METADATA, OWNER_METADATA},
};

mod definitions;
mod difference;

/// The choices of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProvisionOptions {
    /// The number of copies of each stream: 1, or 3 in a cluster. If it is not given, a new stream has one, and an existing stream keeps
    /// what it has.
    pub replicas: Option<NonZeroUsize>,
    /// Sizes in bytes by stream name, for streams that should not have the default.
    pub max_bytes: BTreeMap<String, i64>,
    /// Whether existing streams also get `replicas` and `max_bytes`.
    pub apply: bool,
    /// The installation that asks, such as a release in a namespace. A stream of another installation cannot be used, and nothing in it is
    /// changed. With `apply`, a stream without an installation is given this one.
    pub owner: Option<String>,
    /// Whether streams of another installation are given to `owner`.
    pub take_over: bool,
    /// By stream name, the sequence after which a stream begins if it is created now. Other streams that still exist may name sequences up
    /// to there, as commits and dead letters do.
    pub begin_after: BTreeMap<String, u64>,
}

/// Whether a stream exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPresence {
    /// It was created now.
    Created,
    /// It existed before.
    Present,
    /// It does not exist.
    Missing,
}

/// The report on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFinding {
    /// Its name.
    pub stream: String,
    /// Whether it exists.
    pub presence: StreamPresence,
    /// Its generation.
    pub generation: Option<String>,
    /// Where it differs from the definition.
    pub differences: Vec<Difference>,
    /// Where it differed from what was asked for, before this call changed it.
    pub changed: Vec<Difference>,
}

impl StreamFinding {
    /// Whether a stage can work with it.
    pub fn is_usable(&self) -> bool {
        self.presence != StreamPresence::Missing && !self.differences.iter().any(|each| each.required)
    }

    /// Whether it exists with another size or number of copies than was asked for.
    pub fn lacks_what_was_asked_for(&self) -> bool {
        self.differences.iter().any(Difference::is_asked_for)
    }
}

/// Why the streams could not be created or checked.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The stream could not be read.
    #[error("cannot read stream {stream}")]
    Read {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: jetstream::context::GetStreamError,
    },
    /// The stream could not be made.
    #[error("cannot create stream {stream}")]
    Create {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: jetstream::context::CreateStreamError,
    },
    /// The stream holds more than it should be able to hold.
    #[error(
        "{stream} holds {held} bytes: with at most {asked} it would be full, and nothing would be stored in it any more; ask for more than it holds"
    )]
    Smaller {
        /// The stream.
        stream: String,
        /// Bytes in it.
        held: u64,
        /// Bytes that were asked for.
        asked: i64,
    },
    /// The server did not change the stream.
    #[error(
        "cannot change {what} of stream {stream}; the limits of server and account, and what the user may do, have to allow it"
    )]
    Change {
        /// The stream.
        stream: String,
        /// The change.
        what: String,
        /// Why.
        #[source]
        source: jetstream::context::UpdateStreamError,
    },
}

impl Failure for ProvisionError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Smaller { .. } => ExitCode::Configuration,
            Self::Read { .. } | Self::Create { .. } | Self::Change { .. } => ExitCode::Unavailable,
        }
    }
}

/// Creates missing streams, adds missing subjects, and reports on all streams. It can be repeated, also by several processes at once: the
/// first one creates a stream, and the others find it. If a stream belongs to another installation and is not to be taken over, nothing is
/// created or changed.
///
/// # Errors
/// [`ProvisionError`] when the server does not answer or refuses. Streams that were created before stay. [`ProvisionError::Smaller`] is
/// returned before anything is created or changed.
pub async fn provision(
    jetstream: &jetstream::Context,
    options: &ProvisionOptions,
) -> Result<Vec<StreamFinding>, ProvisionError> {
    if options.owner.is_some() && !options.take_over {
        let before = verify(jetstream, options, &[]).await?;
        if before.iter().any(|finding| finding.differences.iter().any(Difference::is_of_another_owner)) {
            return Ok(before);
        }
    }
    if options.apply {
        verify_sizes(jetstream, options).await?;
    }
    let mut findings = Vec::new();
    for config in definitions(options) {
        let mut finding = inspect(jetstream, &config, options).await?;
        if finding.presence == StreamPresence::Missing {
            finding = create(jetstream, config.clone(), options).await?;
        } else if add_subjects(jetstream, &config).await? {
            finding = inspect(jetstream, &config, options).await?;
        }
        if options.apply {
            finding = apply(jetstream, &config, options, finding).await?;
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// Refuses sizes with which existing streams would be full at once.
async fn verify_sizes(
    jetstream: &jetstream::Context,
    options: &ProvisionOptions,
) -> Result<(), ProvisionError> {
    for Config { name: stream, max_bytes: asked, .. } in definitions(options) {
        if !options.max_bytes.contains_key(&stream) {
            continue;
        }
        let held = match jetstream.get_stream(&stream).await {
            Ok(found) => found.cached_info().state.bytes,
            Err(error) if is_missing(&error) => continue,
            Err(source) => return Err(ProvisionError::Read { stream, source }),
        };
        if u64::try_from(asked).is_ok_and(|bytes| bytes < held) {
            return Err(ProvisionError::Smaller { stream, held, asked });
        }
    }
    Ok(())
}

/// Gives a stream the requested size and number of copies. Nothing else in it is changed.
async fn apply(
    jetstream: &jetstream::Context,
    expected: &Config,
    options: &ProvisionOptions,
    finding: StreamFinding,
) -> Result<StreamFinding, ProvisionError> {
    let asked: Vec<Difference> =
        finding.differences.iter().filter(|difference| difference.is_asked_for()).cloned().collect();
    let is_anothers = asked.iter().any(Difference::is_of_another_owner) && !options.take_over;
    if asked.is_empty() || is_anothers {
        return Ok(finding);
    }
    let stream = &expected.name;
    let read = |source| ProvisionError::Read { stream: stream.clone(), source };
    let mut config = jetstream.get_stream(stream).await.map_err(read)?.cached_info().config.clone();
    if options.max_bytes.contains_key(stream) {
        config.max_bytes = expected.max_bytes;
    }
    if let Some(replicas) = options.replicas {
        config.num_replicas = replicas.get();
    }
    if let Some(owner) = &options.owner {
        config.metadata.insert(OWNER_METADATA.to_owned(), owner.clone());
    }
    jetstream.update_stream(config).await.map_err(|source| ProvisionError::Change {
        stream: stream.clone(),
        what: asked.iter().map(|difference| difference.field.as_str()).collect::<Vec<_>>().join(" and "),
        source,
    })?;
    let found = inspect(jetstream, expected, options).await?;
    Ok(StreamFinding { changed: asked, ..found })
}

/// Reports on the named streams, or on all of Millstream's if none is named. Changes nothing.
///
/// # Errors
/// [`ProvisionError::Read`] when the server does not answer or forbids it.
pub async fn verify(
    jetstream: &jetstream::Context,
    options: &ProvisionOptions,
    streams: &[&str],
) -> Result<Vec<StreamFinding>, ProvisionError> {
    let mut findings = Vec::new();
    for config in definitions(options) {
        if streams.is_empty() || streams.contains(&config.name.as_str()) {
            findings.push(inspect(jetstream, &config, options).await?);
        }
    }
    Ok(findings)
}

async fn inspect(
    jetstream: &jetstream::Context,
    expected: &Config,
    options: &ProvisionOptions,
) -> Result<StreamFinding, ProvisionError> {
    let stream = expected.name.clone();
    match jetstream.get_stream(&stream).await {
        Ok(found) => {
            let config = &found.cached_info().config;
            Ok(StreamFinding {
                presence: StreamPresence::Present,
                generation: config.metadata.get(GENERATION_METADATA).cloned(),
                differences: difference::differences(expected, config, options),
                changed: Vec::new(),
                stream,
            })
        }
        Err(error) if is_missing(&error) => Ok(StreamFinding {
            stream,
            presence: StreamPresence::Missing,
            generation: None,
            differences: Vec::new(),
            changed: Vec::new(),
        }),
        Err(source) => Err(ProvisionError::Read { stream, source }),
    }
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Adds the missing subjects to a stream that has some of its subjects and no others. Returns whether it did. If the server does not permit
/// it, the difference is reported.
async fn add_subjects(jetstream: &jetstream::Context, expected: &Config) -> Result<bool, ProvisionError> {
    let stream = &expected.name;
    let read = |source| ProvisionError::Read { stream: stream.clone(), source };
    let mut config = jetstream.get_stream(stream).await.map_err(read)?.cached_info().config.clone();
    let is_ours = |subject: &String| expected.subjects.contains(subject);
    if config.subjects.len() >= expected.subjects.len() || !config.subjects.iter().all(is_ours) {
        return Ok(false);
    }
    config.subjects.clone_from(&expected.subjects);
    match jetstream.update_stream(config).await {
        Ok(_) => {
            tracing::info!(stream, subjects = ?expected.subjects, "added the subjects that the stream lacked");
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(stream, %error, "cannot add the subjects that the stream lacks");
            Ok(false)
        }
    }
}

async fn create(
    jetstream: &jetstream::Context,
    mut config: Config,
    options: &ProvisionOptions,
) -> Result<StreamFinding, ProvisionError> {
    let stream = config.name.clone();
    let generation = ulid::Ulid::generate().to_string();
    config.metadata.insert(GENERATION_METADATA.to_owned(), generation.clone());
    if let Some(owner) = &options.owner {
        config.metadata.insert(OWNER_METADATA.to_owned(), owner.clone());
    }
    match jetstream.create_stream(config.clone()).await {
        Ok(created) => {
            tracing::info!(stream, generation, "created the stream");
            Ok(StreamFinding {
                presence: StreamPresence::Created,
                generation: Some(generation),
                differences: difference::differences(&config, &created.cached_info().config, options),
                changed: Vec::new(),
                stream,
            })
        }
        // Another process created it first, with another generation.
        Err(error)
            if matches!(error.kind(), CreateStreamErrorKind::JetStream(inner)
                if inner.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
        {
            inspect(jetstream, &config, options).await
        }
        Err(source) => Err(ProvisionError::Create { stream, source }),
    }
}
