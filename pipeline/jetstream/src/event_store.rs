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

/// About how many bytes of a history are in memory at a time. Many histories are read together, and a page of each is there.
pub const PAGE_BYTES: usize = 256 * 1024;

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

    /// An aggregate's commits behind sequence `after`; those appended last may be missing.
    pub fn history(&self, stream_id: &StreamId, after: u64) -> History<B> {
        History {
            broker: self.broker.clone(),
            stream_id: stream_id.clone(),
            next: after + 1,
            until: 0,
            complete: false,
        }
    }

    /// An aggregate's commits behind sequence `after`, none missing: what the leader names as the last one is among them.
    ///
    /// # Errors
    /// When the leader does not answer.
    pub async fn current_history(&self, stream_id: &StreamId, after: u64) -> Result<History<B>, BrokerError> {
        let last = self.broker.last(EVENTS, &stream_id.event_subject()).await?;
        let until = last.map(|last| last.sequence).filter(|last| *last > after);
        let history = self.history(stream_id, after);
        Ok(History { until: until.unwrap_or(0), complete: until.is_none(), ..history })
    }
}

/// An aggregate's history, read page by page, so that it may be of any length.
#[derive(Debug)]
pub struct History<B> {
    broker: B,
    stream_id: StreamId,
    next: u64,
    /// The last commit that must not be missing, or 0.
    until: u64,
    complete: bool,
}

impl<B: Broker> History<B> {
    /// The next commits, in order; `None` after the last.
    ///
    /// # Errors
    /// [`LoadError`]; [`BrokerError::Unavailable`] also while the replica that answers lags behind the leader.
    pub async fn next_page(&mut self) -> Result<Option<Vec<StoredCommit>>, LoadError> {
        if self.complete {
            return Ok(None);
        }
        let subject = self.stream_id.event_subject();
        let page = self.broker.load_page(EVENTS, &subject, self.next, PAGE_BYTES).await?;
        let mut commits = Vec::with_capacity(page.messages.len());
        for message in &page.messages {
            match StoredCommit::from_stored(message) {
                Ok(commit) => commits.push(commit),
                Err(_) if is_set_aside(&self.broker, message).await? => {
                    commits.push(StoredCommit::set_aside(self.stream_id.clone(), message));
                }
                Err(source) => return Err(NoCommit { sequence: message.sequence, source }.into()),
            }
        }
        self.next = page.messages.last().map_or(self.next, |last| last.sequence + 1);
        self.complete = !page.more || page.messages.is_empty();
        if self.complete && self.next <= self.until {
            return Err(LoadError::Broker(BrokerError::Unavailable {
                operation: "load",
                detail: format!(
                    "the replica that answered lags behind sequence {} of {}",
                    self.until, self.stream_id
                ),
            }));
        }
        Ok(Some(commits))
    }
}
