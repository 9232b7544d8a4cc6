//! Answers `submit.<context>.<aggregate>.<id>.<command>` as a NATS micro service. It puts the command onto COMMANDS and answers with the
//! outcome, in the same JSON that the subject in `Millstream-Reply` gets. docs/commands.md is the contract.
//!
//! Every handler process answers, even one that stands by, because the service only stores the command and waits. NATS gives each request to
//! one of them. Commands that wait to be stored are stored together ([`millstream_jetstream::intake`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use millstream_contract::{
    command::HEADERS,
    header,
    header_check::{HeaderError, check_headers, check_kept},
    stored_message::Headers,
    stream_names::COMMANDS,
    subject::{
        COMMAND_PREFIX, CommandAddress, SUBMIT_PREFIX, SUBMIT_REPLY_PREFIX, SUBMIT_SERVICE, SubjectError,
    },
};
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage},
    id_source::IdSource,
    intake::{Intake, WhenFull},
    nats_broker::{
        NatsBroker,
        answering_service::{Answering, AnsweringError, Asked},
        service::{About, ServiceError},
    },
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::outcome_inbox::{ExpectedOutcome, OutcomeInbox, OutcomeInboxError};

/// How long a request waits for its outcome unless it says otherwise in `Millstream-Wait-Ms`.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a request may wait at most.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many requests may be in progress at once. Further requests are refused, not queued.
pub const IN_FLIGHT_MAX: usize = 4096;

/// The headers of a request that become headers of the command.
const HEADERS_KEPT: [&str; 7] = [
    header::ACTOR,
    header::CAUSATION_ID,
    header::COMMAND_ID,
    header::CONTENT_TYPE,
    header::CORRELATION_ID,
    header::EXPECTED_VERSION,
    header::TRACE_PARENT,
];

/// Why a request has no outcome. Each number is the error code of the micro service.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The subject is not that of a command.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// A header cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The wait is not a number.
    #[error("header Millstream-Wait-Ms is {text:?}; expected milliseconds, at most {}", WAIT_MAX.as_millis())]
    Wait {
        /// What was given.
        text: String,
    },
    /// The command does not fit into one message of this server.
    #[error("the command takes {size} bytes; this server takes messages of up to {max} bytes")]
    TooLarge {
        /// Its size, headers included.
        size: usize,
        /// The server's limit.
        max: usize,
    },
    /// Too many requests are in progress.
    #[error("{IN_FLIGHT_MAX} commands wait for their outcome already; try again")]
    Busy,
    /// The server refuses to store the command.
    #[error(transparent)]
    Refused(AppendError),
    /// The stream of commands is full. This request has stored nothing.
    #[error(
        "not stored: {stream} is full ({detail}); nothing of this request is stored. Send it again when there is space, with the header Millstream-Command-Id: {id}"
    )]
    Full {
        /// The command's id.
        id: String,
        /// The stream.
        stream: String,
        /// The server's message and code.
        detail: String,
    },
    /// It is not known whether the command is stored.
    #[error(
        "the command is not known to be stored yet; send it again with the header Millstream-Command-Id: {id}"
    )]
    NotStored {
        /// The command's id.
        id: String,
    },
    /// The command is stored and will be decided, but the wait is over.
    #[error(
        "stored at position {position} of COMMANDS, and not decided in time; it will be. Ask for it in the view `command`, or send it again with the header Millstream-Command-Id: {id}"
    )]
    NotDecided {
        /// The command's id.
        id: String,
        /// Its position in COMMANDS.
        position: u64,
    },
}

impl SubmitError {
    /// The value of `Nats-Service-Error-Code`.
    pub fn code(&self) -> u16 {
        match self {
            Self::Subject(_) | Self::Header(_) | Self::Wait { .. } => 400,
            Self::TooLarge { .. } => 413,
            Self::Busy => 429,
            Self::Refused(_) | Self::Full { .. } => 500,
            Self::NotStored { .. } => 503,
            Self::NotDecided { .. } => 504,
        }
    }
}

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum SubmitServiceError {
    /// It cannot be registered.
    #[error("the submit service cannot be registered; may this user subscribe to submit.> and $SRV.>?")]
    Register(#[source] AnsweringError),
    /// It could not receive the outcomes of its commands.
    #[error(transparent)]
    Outcomes(#[from] OutcomeInboxError),
}

/// A running service.
pub struct SubmitService {
    answering: Answering,
    ending: CancellationToken,
}

/// What all requests share.
struct Submissions {
    broker: NatsBroker,
    intake: Intake,
    outcomes: OutcomeInbox,
    in_flight: Semaphore,
    ending: CancellationToken,
}

impl SubmitService {
    /// Registers the service, which accepts requests from then on.
    ///
    /// # Errors
    /// [`SubmitServiceError`] when the connection is closed.
    pub async fn start(
        broker: &NatsBroker,
        ids: IdSource,
        version: &str,
    ) -> Result<Self, SubmitServiceError> {
        let outcomes = OutcomeInbox::open(broker, SUBMIT_REPLY_PREFIX, &ids).await?;
        let ending = CancellationToken::new();
        let submissions = Arc::new(Submissions {
            broker: broker.clone(),
            intake: Intake::start(broker.clone(), ids, WhenFull::Tell),
            outcomes,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            ending: ending.clone(),
        });
        let about =
            About::new(SUBMIT_SERVICE, version, "Puts a command onto COMMANDS and answers with its outcome");
        let endpoints = vec![("submit", format!("{SUBMIT_PREFIX}.*.*.*.*"))];
        let answer = move |asked| {
            let submissions = Arc::clone(&submissions);
            async move {
                let outcome = submissions.submit(&asked).await;
                outcome.map(|body| (body, Headers::new())).map_err(|error| service_error(&error))
            }
            .boxed()
        };
        let answering = Answering::start(broker, COMMANDS, about, endpoints, answer).await;
        Ok(Self { answering: answering.map_err(SubmitServiceError::Register)?, ending })
    }

    /// Accepts no more requests, so that NATS gives them to the other processes. Requests that were accepted keep waiting for their outcomes.
    pub async fn take_no_more(&mut self) {
        self.answering.take_no_more().await;
    }

    /// Ends the service. Each request that still waits is told whether its command is stored, and with which id to ask again.
    pub async fn stop(mut self) {
        self.take_no_more().await;
        self.ending.cancel();
        self.answering.stop().await;
    }
}

fn service_error(error: &SubmitError) -> ServiceError {
    ServiceError::new(error.code(), &error.to_string())
}

impl Submissions {
    async fn submit(&self, asked: &Asked) -> Result<Bytes, SubmitError> {
        let _permit = self.in_flight.try_acquire().map_err(|_| SubmitError::Busy)?;
        let deadline = Instant::now() + wait(asked)?;
        let outcome = self.outcomes.expect();
        let (message, id) = self.command(asked, outcome.subject())?;
        self.put_and_wait(message, id, outcome, deadline).await
    }

    async fn put_and_wait(
        &self,
        message: NewMessage,
        id: String,
        mut outcome: ExpectedOutcome,
        deadline: Instant,
    ) -> Result<Bytes, SubmitError> {
        let too_late = async {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = self.ending.cancelled() => {}
            }
        };
        tokio::pin!(too_late);
        let position = tokio::select! {
            put = self.intake.put(message) => match put {
                Ok(position) => position,
                Err(AppendError::Full { stream, detail }) => {
                    return Err(SubmitError::Full { id, stream, detail });
                }
                Err(error) => return Err(SubmitError::Refused(error)),
            },
            () = &mut too_late => return Err(SubmitError::NotStored { id }),
        };
        tokio::select! {
            outcome = outcome.arrived() => Ok(outcome),
            () = &mut too_late => Err(SubmitError::NotDecided { id, position }),
        }
    }

    /// The command to store, and its id.
    fn command(&self, asked: &Asked, reply: &str) -> Result<(NewMessage, String), SubmitError> {
        let Asked { subject, headers: given_headers, body } = asked;
        let path = subject.strip_prefix(SUBMIT_PREFIX).unwrap_or(subject);
        let address = CommandAddress::from_subject(&format!("{COMMAND_PREFIX}{path}"))?;
        check_headers(given_headers, &HEADERS)?;
        check_kept(given_headers)?;
        let mut headers = Headers::new();
        for name in HEADERS_KEPT {
            if let Some(value) = given_headers.find(name) {
                headers.push(name, value);
            }
        }
        let message_id = given_headers.find(header::NATS_MESSAGE_ID);
        let given = headers.get(header::COMMAND_ID).or(message_id);
        // Somebody who could predict the id could use it first, and this command would then be taken for a repeat.
        let id = given.map_or_else(|| format!("submit-{}", Ulid::generate()), str::to_owned);
        if headers.get(header::COMMAND_ID).is_none() {
            headers.push(header::COMMAND_ID, &id);
        }
        headers.push(header::REPLY, reply);
        let max = self.broker.message_bytes_max();
        let lines: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        // 128 bytes are for the headers of the append itself, which are not counted here.
        let size = body.len() + lines + 128;
        if size > max {
            return Err(SubmitError::TooLarge { size, max });
        }
        let payload = body.clone();
        Ok((NewMessage { subject: address.subject(), expected_last: None, headers, payload }, id))
    }
}

fn wait(asked: &Asked) -> Result<Duration, SubmitError> {
    let Some(text) = asked.headers.find(header::WAIT_MS) else { return Ok(WAIT_DEFAULT) };
    let wait = text.trim().parse().ok().map(Duration::from_millis).filter(|wait| *wait <= WAIT_MAX);
    wait.ok_or_else(|| SubmitError::Wait { text: text.to_owned() })
}
