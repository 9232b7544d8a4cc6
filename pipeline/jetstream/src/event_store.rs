//! The event store: EVENTS as one history an aggregate. Append with expectation; load. Reading in order is
//! [`crate::stream_reader`]'s.

use bytes::Bytes;
use millstream_contract::{
    commit::{Commit, CommitError, StoredCommit},
    error_text::one_line,
    header,
    set_aside::way_out,
    stored_message::Headers,
    stream_names::EVENTS,
    subject::StreamId,
};

use crate::{
    broker::{AppendError, Appended, Broker, BrokerError, NewMessage},
    set_aside::is_set_aside,
};

/// Why a history cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No answer now.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message of the aggregate's subject is not a commit, and was not set aside.
    #[error(transparent)]
    NoCommit(#[from] NoCommit),
}

/// A message of EVENTS that is no commit, with the way out.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", one_line(source), way_out(*sequence))]
pub struct NoCommit {
    sequence: u64,
    source: CommitError,
}

/// A commit ready to append.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// The aggregate.
    pub stream_id: StreamId,
    /// Sequence of the aggregate's last commit; 0 for none.
    pub expected_last: u64,
    /// What to append.
    pub commit: Commit,
    /// [`Commit::encode`] of it.
    pub body: Bytes,
}

impl NewCommit {
    /// Encodes `commit`.
    pub fn new(stream_id: StreamId, expected_last: u64, commit: Commit) -> Self {
        let body = commit.encode().into();
        Self { stream_id, expected_last, commit, body }
    }

    /// The message to store.
    pub fn message(&self) -> NewMessage {
        let mut headers = Headers::new();
        if !self.commit.events.is_empty() {
            headers.push(header::EVENT_TYPES, event_types(&self.commit));
        }
        NewMessage {
            subject: self.stream_id.event_subject(),
            expected_last: Some(self.expected_last),
            headers,
            payload: self.body.clone(),
        }
    }
}

/// Distinct event types of a commit, in order of appearance; the list is for people and stays short.
fn event_types(commit: &Commit) -> String {
    let mut types: Vec<&str> = Vec::new();
    for event in &commit.events {
        if !types.contains(&&*event.event_type) {
            types.push(&event.event_type);
        }
    }
    types.join(",")
}

/// Appends to and loads from EVENTS.
#[derive(Debug, Clone)]
pub struct EventStore<B> {
    broker: B,
}

impl<B: Broker> EventStore<B> {
    /// The event store of a broker.
    pub fn new(broker: B) -> Self {
        Self { broker }
    }

    /// Appends one commit.
    ///
    /// # Errors
    /// [`AppendError`]; after a conflict or an unclear answer the aggregate's history tells what is true.
    pub async fn append(&self, commit: &NewCommit) -> Result<Appended, AppendError> {
        self.broker.append(EVENTS, commit.message()).await
    }

    /// Appends the commits of several aggregates, all of them or none, at adjacent sequences; the answer is the last one's.
    ///
    /// # Errors
    /// As [`EventStore::append`].
    pub async fn append_together(&self, commits: &[NewCommit]) -> Result<Appended, AppendError> {
        match commits {
            [commit] => self.append(commit).await,
            commits => {
                let messages = commits.iter().map(NewCommit::message).collect();
                self.broker.append_atomically(EVENTS, messages).await
            }
        }
    }

    /// An aggregate's commits behind sequence `after`, in order; those appended last may be missing.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, stream_id: &StreamId, after: u64) -> Result<Vec<StoredCommit>, LoadError> {
        let messages = self.broker.load(EVENTS, &stream_id.event_subject(), after + 1).await?;
        let mut commits = Vec::with_capacity(messages.len());
        for message in &messages {
            match StoredCommit::from_stored(message) {
                Ok(commit) => commits.push(commit),
                Err(_) if is_set_aside(&self.broker, message).await? => {
                    commits.push(StoredCommit::set_aside(stream_id.clone(), message));
                }
                Err(source) => return Err(NoCommit { sequence: message.sequence, source }.into()),
            }
        }
        Ok(commits)
    }

    /// All of an aggregate's commits behind sequence `after`, none missing: what the leader names as the last one is among
    /// them.
    ///
    /// # Errors
    /// [`LoadError`]; [`BrokerError::Unavailable`] also while the replica that answers lags behind the leader.
    pub async fn load_current(
        &self,
        stream_id: &StreamId,
        after: u64,
    ) -> Result<Vec<StoredCommit>, LoadError> {
        let last = self.broker.last(EVENTS, &stream_id.event_subject()).await?;
        let Some(last) = last.filter(|last| last.sequence > after) else { return Ok(Vec::new()) };
        let commits = self.load(stream_id, after).await?;
        if commits.last().is_some_and(|commit| commit.broker_sequence >= last.sequence) {
            Ok(commits)
        } else {
            Err(LoadError::Broker(BrokerError::Unavailable {
                operation: "load",
                detail: format!(
                    "the replica that answered lags behind sequence {} of {stream_id}",
                    last.sequence
                ),
            }))
        }
    }
}
