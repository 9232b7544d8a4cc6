//! What is known about commands that were sent: their outcomes in the views `command`, and the commands themselves in COMMANDS.
//!
//! An id contains its sender: `<principal>:<the rest>`. Deliberately absent: a memory of its own, so that every replica of the gateway gives
//! the same answers.

use std::time::Duration;

use millstream_contract::{
    command::{derived_id, explicit_id},
    header,
    outcome::OutcomeReply,
    stored_message::{Headers, StoredMessage},
    stream_names::COMMANDS,
    subject::{CommandAddress, QUERY_PREFIX, published_subject},
};
use millstream_jetstream::{
    broker::{Broker as _, BrokerError},
    nats_broker::{Answer, AskError, NatsBroker},
};
use millstream_runtime::file_work::end_of;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::problem::Problem;

/// How long a view may take to answer.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// The view of outcomes, which every context has.
const OUTCOMES_VIEW: &str = "command";
/// The code with which a view answers that it has no such row.
const NO_ROW: &str = "404";

/// Why the outcome of a command is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A view does not answer, or cannot answer now.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A view's answer is not a row.
    #[error("the view of outcomes answers with something that is no row")]
    Form(#[from] serde_json::Error),
    /// COMMANDS cannot be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        Self::unavailable("outcomes-unavailable", error.to_string())
    }
}

/// The outcome of a command, as the view has it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// All fields.
    pub(crate) value: Value,
    /// The position of the view.
    pub(crate) position: Option<String>,
}

impl Row {
    /// The row's outcome; `None` if it is not one that this release can read.
    pub(crate) fn reply(&self) -> Option<OutcomeReply> {
        OutcomeReply::from_json(&self.value)
    }

    /// Whether it is the outcome of the command at a position. A dead-lettered command may be sent again under its id, and is then decided
    /// again; until then, the row shows the earlier outcome.
    fn is_of(&self, position: u64) -> bool {
        self.reply().is_none_or(|reply| reply.outcome.is_final() || reply.command_position >= position)
    }
}

/// Looks commands up by their ids.
#[derive(Debug, Clone)]
pub(crate) struct CommandLog {
    broker: NatsBroker,
    contexts: Vec<&'static str>,
}

impl CommandLog {
    pub(crate) fn new(broker: NatsBroker, contexts: Vec<&'static str>) -> Self {
        Self { broker, contexts }
    }

    /// The outcome of the command with an id, in any context; `None` if no view has it.
    ///
    /// # Errors
    /// [`LogError`] when no view has it, and at least one could not be asked.
    pub(crate) async fn outcome(&self, id: &str) -> Result<Option<Row>, LogError> {
        self.outcome_in(None, id).await
    }

    /// The outcome of a stored command; `None` until it is decided. Only its own context is asked, so the others need not be available.
    ///
    /// # Errors
    /// [`LogError`] when the view could not be asked.
    pub(crate) async fn outcome_of(&self, command: &StoredMessage) -> Result<Option<Row>, LogError> {
        let id = id_of(command).unwrap_or_else(|| derived_id(command.sequence));
        let address = CommandAddress::from_stored_subject(&command.subject).ok();
        let row = self.outcome_in(address.as_ref().map(|address| address.stream_id.context()), &id).await?;
        Ok(row.filter(|row| row.is_of(command.sequence)))
    }

    async fn outcome_in(&self, wanted: Option<&str>, id: &str) -> Result<Option<Row>, LogError> {
        let mut asked = JoinSet::new();
        for context in self.contexts.iter().filter(|context| wanted.is_none_or(|wanted| wanted == **context))
        {
            let (broker, id) = (self.broker.clone(), id.to_owned());
            let subject = format!("{QUERY_PREFIX}.{context}.{OUTCOMES_VIEW}.get");
            asked.spawn(async move { get(&broker, &subject, &id).await });
        }
        let mut trouble = None;
        while let Some(answer) = asked.join_next().await {
            match end_of(std::future::ready(answer)).await {
                Ok(Some(row)) => return Ok(Some(row)),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// The command at a position of COMMANDS, if it is still there.
    ///
    /// # Errors
    /// [`LogError`] when the server does not answer.
    pub(crate) async fn command(&self, position: u64) -> Result<Option<StoredMessage>, LogError> {
        Ok(self.broker.get(COMMANDS, position).await?)
    }
}

async fn get(broker: &NatsBroker, subject: &str, id: &str) -> Result<Option<Row>, LogError> {
    let body = json!({ "key": id }).to_string().into();
    let Answer { headers, payload } = match broker.ask(subject, &Headers::new(), body, ANSWER_WAIT).await {
        Err(AskError::Refused { code, .. }) if code == NO_ROW => return Ok(None),
        answer => answer?,
    };
    let mut row: Value = serde_json::from_slice(&payload)?;
    let value = row.get_mut("value").map(Value::take).unwrap_or_default();
    Ok(Some(Row { value, position: headers.get(header::POSITION).map(str::to_owned) }))
}

/// The id of a stored command, as its sender gave it.
pub(crate) fn id_of(message: &StoredMessage) -> Option<String> {
    explicit_id(message).ok().flatten().map(|id| id.to_string())
}

/// What two requests with the same key must have in common to count as the same: their destination, their expectation, and their body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(blake3::Hash);

impl Fingerprint {
    /// The content of a command that is to be stored.
    pub(crate) fn new(address: &CommandAddress, expected_version: Option<u64>, body: &[u8]) -> Self {
        Self::of(&address.subject(), expected_version.map(|version| version.to_string()).as_deref(), body)
    }

    /// The content of a stored command.
    pub(crate) fn of_stored(message: &StoredMessage) -> Self {
        let expected = message.headers.find(header::EXPECTED_VERSION);
        Self::of(&published_subject(&message.subject), expected, &message.payload)
    }

    fn of(subject: &str, expected_version: Option<&str>, body: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Neither of them can contain a line break.
        hasher.update(subject.as_bytes()).update(b"\n");
        hasher.update(expected_version.unwrap_or_default().as_bytes()).update(b"\n");
        Self(hasher.update(body).finalize())
    }
}
