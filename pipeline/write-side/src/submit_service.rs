//! Answers `submit.<context>.<aggregate>.<id>.<command>` as a NATS micro service: it puts the command onto COMMANDS and answers
//! with the outcome, in the same JSON as the subject in `Millstream-Reply` gets. docs/commands.md is the contract.
//!
//! Every handler process answers, including those that stand by, because the service only stores the command and waits; NATS hands
//! each request to one of them. Commands that wait are stored together ([`millstream_jetstream::intake`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, Subscriber,
    service::{Request, Service, ServiceExt, endpoint::Endpoint, error::Error as ServiceError},
};
use bytes::Bytes;
use futures::StreamExt;
use millstream_contract::{
    header,
    stored_message::Headers,
    stream_names::COMMANDS,
    subject::{
        COMMAND_PREFIX, CommandAddress, SUBMIT_PREFIX, SUBMIT_REPLY_PREFIX, SUBMIT_SERVICE, SubjectError,
    },
};
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage},
    intake::Intake,
    nats_broker::NatsBroker,
    retry::RunIds,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a request waits for its outcome unless it says otherwise in `Millstream-Wait-Ms`.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a request may wait at most.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many requests may be in progress at once. Further requests are refused, not queued.
pub const IN_FLIGHT_MAX: usize = 4096;

/// Headers of a request that become headers of the command.
const HEADERS_KEPT: [&str; 7] = [
    header::ACTOR,
    header::CAUSATION_ID,
    header::COMMAND_ID,
    header::CONTENT_TYPE,
    header::CORRELATION_ID,
    header::EXPECTED_VERSION,
    header::TRACE_PARENT,
];

/// Why a request has no outcome. The number is the code of the micro service's error.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The subject is not that of a command.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The wait is not a number, or is too long.
    #[error("header Millstream-Wait-Ms is {text:?}; expected milliseconds, at most {}", WAIT_MAX.as_millis())]
    Wait {
        /// What was given.
        text: String,
    },
    /// The command does not fit into one message of this server.
    #[error("the command takes {size} bytes; this server takes messages of up to {max} bytes")]
    TooLarge {
        /// Its size with headers.
        size: usize,
        /// The server's limit.
        max: usize,
    },
    /// Too many requests are in progress.
    #[error("{IN_FLIGHT_MAX} commands wait for their outcome already; try again")]
    Busy,
    /// The server refuses to store the command.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// It is unknown whether the command is stored.
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
        /// Where it is stored.
        position: u64,
    },
}

impl SubmitError {
    /// The code in `Nats-Service-Error-Code`.
    pub fn code(&self) -> usize {
        match self {
            Self::Subject(_) | Self::Wait { .. } => 400,
            Self::TooLarge { .. } => 413,
            Self::Busy => 429,
            Self::Refused(_) => 500,
            Self::NotStored { .. } => 503,
            Self::NotDecided { .. } => 504,
        }
    }
}

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
#[error("the submit service cannot be registered; may this user subscribe to submit.> and $SRV.>?")]
pub struct SubmitServiceError(#[source] async_nats::Error);

/// A running service.
pub struct SubmitService {
    client: Client,
    /// `None` once it takes no more requests.
    service: Option<Service>,
    requests: TaskTracker,
    ending: CancellationToken,
}

/// What all requests share.
struct Submissions {
    client: Client,
    intake: Intake,
    ids: RunIds,
    /// The subject on which outcomes come back is this prefix and a number.
    inbox: String,
    last_number: AtomicU64,
    waiting: Mutex<HashMap<String, oneshot::Sender<Bytes>>>,
    ending: CancellationToken,
}

impl SubmitService {
    /// Registers the service, which answers from then on.
    ///
    /// # Errors
    /// [`SubmitServiceError`] when the connection is closed or the version is not a semantic one.
    pub async fn start(broker: &NatsBroker, ids: RunIds, version: &str) -> Result<Self, SubmitServiceError> {
        let client = broker.client().clone();
        let inbox = format!("{SUBMIT_REPLY_PREFIX}.{}", ids.run());
        let replies =
            client.subscribe(format!("{inbox}.*")).await.map_err(|error| SubmitServiceError(error.into()))?;
        let service = client
            .service_builder()
            .description("Puts a command onto COMMANDS and answers with its outcome")
            .start(SUBMIT_SERVICE, version)
            .await
            .map_err(SubmitServiceError)?;
        let endpoint = service
            .endpoint_builder()
            .name("submit")
            .add(format!("{SUBMIT_PREFIX}.*.*.*.*"))
            .await
            .map_err(SubmitServiceError)?;
        let ending = CancellationToken::new();
        let submissions = Arc::new(Submissions {
            client: client.clone(),
            intake: Intake::start(broker.clone(), ids.clone()),
            ids,
            inbox,
            last_number: AtomicU64::new(0),
            waiting: Mutex::default(),
            ending: ending.clone(),
        });
        let requests = TaskTracker::new();
        tokio::spawn(hand_over(replies, Arc::downgrade(&submissions)));
        requests.spawn(serve(endpoint, submissions, requests.clone()));
        // The server handles the messages of a connection in order. So an answer to any question proves that it has seen the
        // subscriptions before it.
        if let Err(error) = broker.state(COMMANDS).await {
            tracing::warn!(%error, "submissions may meet no responders for a moment");
        }
        Ok(Self { client, service: Some(service), requests, ending })
    }

    /// Takes no more requests; NATS hands them to the other processes. Requests that were taken keep waiting for their outcomes.
    pub async fn take_no_more(&mut self) {
        if let Some(service) = self.service.take()
            && let Err(error) = service.stop().await
        {
            tracing::warn!(error, "the submit service did not stop in order");
        }
    }

    /// Ends the service. Each request that still waits is told whether its command is stored, and under which id to ask again.
    pub async fn stop(mut self) {
        self.take_no_more().await;
        self.ending.cancel();
        self.requests.close();
        self.requests.wait().await;
        if let Err(error) = self.client.flush().await {
            tracing::debug!(%error, "the connection went before the submit service");
        }
    }
}

/// Takes requests one after the other, and answers each in a task of its own.
async fn serve(mut endpoint: Endpoint, submissions: Arc<Submissions>, requests: TaskTracker) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    while let Some(request) = endpoint.next().await {
        match Arc::clone(&in_flight).try_acquire_owned() {
            Ok(permit) => {
                let submissions = Arc::clone(&submissions);
                requests.spawn(async move {
                    let result = submissions.submit(&request).await;
                    respond(&request, result).await;
                    drop(permit);
                });
            }
            Err(_) => respond(&request, Err(SubmitError::Busy)).await,
        }
    }
}

/// Hands outcomes to the requests that wait for them. Ends with the service.
async fn hand_over(mut replies: Subscriber, submissions: std::sync::Weak<Submissions>) {
    while let Some(reply) = replies.next().await {
        let Some(submissions) = submissions.upgrade() else { return };
        if let Some(waiting) = submissions.waiting().remove(reply.subject.as_str()) {
            // The request may have given up at this very moment.
            drop(waiting.send(reply.payload));
        }
    }
}

async fn respond(request: &Request, result: Result<Bytes, SubmitError>) {
    let response =
        result.map_err(|error| ServiceError { status: one_header_line(&error), code: error.code() });
    if let Err(error) = request.respond(response).await {
        tracing::debug!(subject = %request.message.subject, %error, "a submission has nobody to answer");
    }
}

fn one_header_line(error: &SubmitError) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

impl Submissions {
    async fn submit(&self, request: &Request) -> Result<Bytes, SubmitError> {
        let deadline = Instant::now() + wait(request)?;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed);
        let reply = format!("{}.{number}", self.inbox);
        let (message, id) = self.command(request, &reply)?;
        let (sender, outcome) = oneshot::channel();
        self.waiting().insert(reply.clone(), sender);
        let result = self.put_and_wait(message, id, outcome, deadline).await;
        self.waiting().remove(&reply);
        result
    }

    async fn put_and_wait(
        &self,
        message: NewMessage,
        id: String,
        outcome: oneshot::Receiver<Bytes>,
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
            put = self.intake.put(message) => put?,
            () = &mut too_late => return Err(SubmitError::NotStored { id }),
        };
        tokio::select! {
            Ok(outcome) = outcome => Ok(outcome),
            () = &mut too_late => Err(SubmitError::NotDecided { id, position }),
        }
    }

    /// The command to store, and its id.
    fn command(&self, request: &Request, reply: &str) -> Result<(NewMessage, String), SubmitError> {
        let subject = request.message.subject.as_str();
        let path = subject.strip_prefix(SUBMIT_PREFIX).unwrap_or(subject);
        let address = CommandAddress::from_subject(&format!("{COMMAND_PREFIX}{path}"))?;
        let mut headers = Headers::new();
        for name in HEADERS_KEPT {
            if let Some(value) = text(request, name).filter(|value| !value.is_empty()) {
                headers.push(name, value);
            }
        }
        let message_id = text(request, header::NATS_MESSAGE_ID).filter(|id| !id.is_empty());
        let given = headers.get(header::COMMAND_ID).or(message_id);
        let id = given.map_or_else(|| self.ids.next_id().to_string(), str::to_owned);
        if headers.get(header::COMMAND_ID).is_none() {
            headers.push(header::COMMAND_ID, &id);
        }
        headers.push(header::REPLY, reply);
        let max = self.client.server_info().max_payload;
        let lines: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        // 128 bytes for the headers of the append itself, which are not counted here.
        let size = request.message.payload.len() + lines + 128;
        if size > max {
            return Err(SubmitError::TooLarge { size, max });
        }
        let payload = request.message.payload.clone();
        Ok((NewMessage { subject: address.subject(), expected_last: None, headers, payload }, id))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Bytes>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait(request: &Request) -> Result<Duration, SubmitError> {
    let Some(text) = text(request, header::WAIT_MS) else { return Ok(WAIT_DEFAULT) };
    let wait = text.trim().parse().ok().map(Duration::from_millis).filter(|wait| *wait <= WAIT_MAX);
    wait.ok_or_else(|| SubmitError::Wait { text: text.to_owned() })
}

fn text<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.message.headers.as_ref()?.get(name).map(|value| value.as_str())
}
