//! Answers `deadletters.retry` and `deadletters.drop` as a NATS micro service: puts a dead letter back onto COMMANDS, or removes it.
//!
//! The gateway asks here on behalf of its clients, so that it may neither send commands as a process does nor purge DEADLETTERS. Every handler
//! process answers, even one that stands by, because it only moves the letter. Deliberately absent: who may ask, which the gateway's keys say.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use millstream_contract::{
    dead_letter::DeadLetter,
    header,
    letter_service::{DROP_SUBJECT, LETTER_SERVICE, LetterRequest, LetterRetried, RETRY_SUBJECT},
    set_aside,
    stored_message::Headers,
    stream_names::COMMANDS,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, BrokerError},
    dead_letters::{
        LetterError,
        kept_letter::{KeptLetter, NotRetriable},
        letter_name::{LetterName, LetterNameError},
        put_back::{PutBackError, put_back},
        read_letter, remove_letter,
    },
    nats_broker::{
        NatsBroker,
        answering_service::{Answering, AnsweringError, Asked},
        service::{About, ServiceError},
    },
};
use tokio::sync::Semaphore;

/// How many requests may be in progress at once. Each holds a whole letter. Further requests are refused, not queued.
const IN_FLIGHT_MAX: usize = 16;

/// Why a letter is neither retried nor dropped. Each number is the error code of the micro service.
#[derive(Debug, thiserror::Error)]
enum LetterServiceError {
    #[error("the request is not one for a letter: {0}")]
    Request(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] LetterNameError),
    #[error("there is no dead letter {letter} any more; somebody has retried or dropped it")]
    Unknown { letter: String },
    #[error("{letter} cannot be retried: {why}")]
    NotRetriable { letter: String, why: NotRetriable },
    #[error(
        "{letter} is of what Millstream records itself; an operator moves it, with `millstream deadletters`"
    )]
    Own { letter: String },
    #[error("{IN_FLIGHT_MAX} letters are being moved already; try again")]
    Busy,
    #[error(transparent)]
    Read(#[from] LetterError),
    #[error("the letter is still there: {0}")]
    NotPutBack(#[from] PutBackError),
    #[error(
        "the letter is back on COMMANDS at position {position}, and could not be removed yet: {source}. Retry it again: it takes effect once"
    )]
    NotRemoved { position: u64, source: BrokerError },
    #[error(transparent)]
    NotDropped(BrokerError),
}

impl LetterServiceError {
    /// The value of `Nats-Service-Error-Code`.
    fn code(&self) -> u16 {
        match self {
            Self::Request(_) | Self::Name(_) => 400,
            Self::Unknown { .. } => 404,
            Self::NotRetriable { .. } | Self::Own { .. } => 422,
            Self::Busy => 429,
            Self::Read(LetterError::NoLetter { .. })
            | Self::NotPutBack(PutBackError::Append(
                AppendError::Refused { .. } | AppendError::Conflict { .. },
            )) => 500,
            Self::Read(LetterError::Broker(_))
            | Self::NotPutBack(PutBackError::Append(AppendError::Unclear { .. }) | PutBackError::Broker(_))
            | Self::NotRemoved { .. }
            | Self::NotDropped(_) => 503,
            Self::NotPutBack(PutBackError::NoRoom) => 409,
            Self::NotPutBack(PutBackError::Append(AppendError::Full { .. })) => 507,
        }
    }
}

impl From<LetterServiceError> for ServiceError {
    fn from(error: LetterServiceError) -> Self {
        Self::new(error.code(), &error.to_string())
    }
}

/// The service cannot be registered.
#[derive(Debug, thiserror::Error)]
#[error(
    "the service for dead letters cannot be registered; may this user subscribe to deadletters.* and $SRV.>?"
)]
pub struct RegisterError(#[source] AnsweringError);

/// A running service.
#[derive(Debug)]
pub struct LetterService(Answering);

impl LetterService {
    /// Registers the service, which accepts requests from then on.
    ///
    /// # Errors
    /// [`RegisterError`] when the connection is closed, or this user may not listen there.
    pub async fn start(broker: &NatsBroker, version: &str) -> Result<Self, RegisterError> {
        let about = About::new(LETTER_SERVICE, version, "Retries and drops dead letters for the gateway");
        let endpoints = vec![("retry", RETRY_SUBJECT.to_owned()), ("drop", DROP_SUBJECT.to_owned())];
        let (broker_of_requests, in_flight) = (broker.clone(), Arc::new(Semaphore::new(IN_FLIGHT_MAX)));
        let answer = move |asked| {
            let (broker, in_flight) = (broker_of_requests.clone(), Arc::clone(&in_flight));
            async move {
                let _permit = in_flight.try_acquire().map_err(|_| LetterServiceError::Busy)?;
                Ok((answered(&broker, &asked).await?, Headers::new()))
            }
            .boxed()
        };
        let answering = Answering::start(broker, COMMANDS, about, endpoints, answer).await;
        answering.map(Self).map_err(RegisterError)
    }

    /// Accepts no more requests, so that NATS gives them to the other processes.
    pub async fn take_no_more(&mut self) {
        self.0.take_no_more().await;
    }

    /// Ends the service. Each accepted request is answered first.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn answered(broker: &NatsBroker, asked: &Asked) -> Result<Bytes, LetterServiceError> {
    let request: LetterRequest = serde_json::from_slice(&asked.body)?;
    if asked.subject == RETRY_SUBJECT {
        let retried = retry(broker, &request).await?;
        return Ok(serde_json::to_vec(&retried)?.into());
    }
    remove_letter(broker, &letter(broker, &request).await?).await.map_err(LetterServiceError::NotDropped)?;
    tracing::info!(letter = request.letter, "a dead letter is dropped");
    Ok(Bytes::from_static(b"{}"))
}

async fn retry<B: Broker>(broker: &B, request: &LetterRequest) -> Result<LetterRetried, LetterServiceError> {
    let kept = letter(broker, request).await?;
    let command = kept.command(broker.message_bytes_max());
    let command = command.map_err(|why| LetterServiceError::NotRetriable { letter: kept.name(), why })?;
    let command_id = command.headers.find(header::COMMAND_ID).unwrap_or_default().to_owned();
    // If this is interrupted before the letter is removed, the next retry publishes it again under the same id, which gives a duplicate.
    let position = put_back(broker, &kept, &command).await?;
    remove_letter(broker, &kept)
        .await
        .map_err(|source| LetterServiceError::NotRemoved { position, source })?;
    tracing::info!(letter = request.letter, position, "a dead letter is retried");
    Ok(LetterRetried { command_id, command_position: position })
}

/// The letter of a request, if it is still there, and is not one of what Millstream records itself.
async fn letter<B: Broker>(broker: &B, request: &LetterRequest) -> Result<KeptLetter, LetterServiceError> {
    let name: LetterName = request.letter.parse()?;
    let kept = read_letter(broker, &name).await?.filter(|kept| kept.sequence == request.sequence);
    let kept = kept.ok_or_else(|| LetterServiceError::Unknown { letter: name.to_string() })?;
    if is_own(&kept.letter) { Err(LetterServiceError::Own { letter: kept.name() }) } else { Ok(kept) }
}

/// Whether it is addressed to what Millstream records itself, for which no key is ever good.
fn is_own(letter: &DeadLetter) -> bool {
    letter.addressed().is_some_and(|[context, ..]| context == set_aside::CONTEXT)
}
