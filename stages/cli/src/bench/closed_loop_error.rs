//! Why a closed loop has no figures.

use std::{io, path::PathBuf};

use millstream_jetstream::broker::{AppendError, BrokerError, ReadError};

use super::{
    bare_rows::BareRowsError, bare_streams::BareStreamsError, client_place::PATIENCE, pipeline::PipelineError,
};

/// Why a closed loop has no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClosedLoopError {
    #[error("answers cannot be received")]
    Subscribe(#[from] async_nats::SubscribeError),
    #[error("a message cannot be published")]
    Publish(#[from] async_nats::PublishError),
    #[error("the view cannot be asked")]
    Query(#[source] async_nats::RequestError),
    #[error("a command had no answer after {} s", PATIENCE.as_secs())]
    NoAnswer,
    #[error("no command was sent and answered while measuring; measure for longer")]
    NothingMeasured,
    #[error("a command was refused: {text}")]
    Refused { text: String },
    #[error("a command was not accepted with one event: {answer}")]
    NotAccepted { answer: String },
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Streams(#[from] BareStreamsError),
    #[error(transparent)]
    Rows(#[from] BareRowsError),
    #[error(transparent)]
    Proof(#[from] PipelineError),
    #[error("the bare loop has {found} {what} where there should be {expected}")]
    BareEffects { what: &'static str, found: u64, expected: u64 },
    #[error("{name} ended while it was measured")]
    Ended { name: String },
    #[error("cannot look through {folder}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("a task of the benchmark ended early")]
    Task(#[from] tokio::task::JoinError),
}
