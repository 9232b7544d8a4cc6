//! The event store: EVENTS as one history for each aggregate, read page by page, forwards or backwards. Deliberately absent: the content of
//! a message of EVENTS, which the write side defines, and reading all of EVENTS in order, which [`crate::stream_reader`] does.

use millstream_contract::{
    commit::{CommitError, StoredCommit},
    error_text::one_line,
    header,
    set_aside::way_out,
    stored_message::StoredMessage,
    stream_names::EVENTS,
    subject::StreamId,
};

use crate::{
    broker::{AppendError, Appended, Broker, BrokerError, NewMessage},
    set_aside::is_set_aside,
};

/// The approximate number of bytes of one history that are in memory at a time. Many histories are read at the same time, each with one
/// page in memory.
pub const PAGE_BYTES: usize = 256 * 1024;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no answer now.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message on the aggregate's subject is not a commit, and was not set aside.
    #[error(transparent)]
    NoCommit(#[from] NoCommit),
}

/// A message of EVENTS that is not a commit, and what an operator can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", one_line(source), way_out(*sequence))]
pub struct NoCommit {
    sequence: u64,
    source: CommitError,
}

/// Appends to EVENTS and loads from it.
#[derive(Debug, Clone)]
pub struct EventStore<B> {
    broker: B,
}

impl<B: Broker> EventStore<B> {
    /// The event store of a broker.
    pub fn new(broker: B) -> Self {
        Self { broker }
    }

    /// Appends a message with one commit.
    ///
    /// # Errors
    /// [`AppendError`]. After a conflict or an unclear answer, the aggregate's history tells what was stored.
    pub async fn append(&self, commit: NewMessage) -> Result<Appended, AppendError> {
        self.broker.append(EVENTS, commit).await
    }

    /// Appends the commits of several aggregates, all of them or none, at adjacent sequences. The answer is that of the last one.
    ///
    /// # Errors
    /// As [`EventStore::append`].
    pub async fn append_together(&self, commits: Vec<NewMessage>) -> Result<Appended, AppendError> {
        match <[NewMessage; 1]>::try_from(commits) {
            Ok([commit]) => self.append(commit).await,
            Err(commits) => self.broker.append_atomically(EVENTS, commits).await,
        }
    }

    /// An aggregate's commits after the sequence `after`. The commits that were appended last may be missing.
    pub fn history(&self, stream_id: &StreamId, after: u64) -> History<B> {
        History {
            broker: self.broker.clone(),
            stream_id: stream_id.clone(),
            next: after + 1,
            until: 0,
            complete: false,
        }
    }

    /// An aggregate's commits after the sequence `after`, without missing any: they reach up to the commit that the leader names as the
    /// last one.
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

/// Commits from the newest on, and the sequence of the commit before them, if there is one.
#[derive(Debug)]
pub struct BackPage {
    /// The commits, the newest first.
    pub commits: Vec<StoredCommit>,
    /// Where the next page begins.
    pub before: Option<u64>,
}

impl<B: Broker> EventStore<B> {
    /// Reads an aggregate's commits backwards, from the one at `from` or from the last one, until they hold `events_max` events or
    /// `bytes_max` bytes; the last one is read whole. In a history of a million commits this takes no longer than in one of a hundred,
    /// because each commit names the commit before it by its expected sequence. Returns `None` if the aggregate has no commit at `from`, or none at all.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn page_back(
        &self,
        stream_id: &StreamId,
        from: Option<u64>,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Option<BackPage>, LoadError> {
        let subject = stream_id.event_subject();
        let first = match from {
            // The server treats sequence 0 as if none were given.
            Some(0) => None,
            Some(sequence) => self.broker.get(EVENTS, sequence).await?,
            None => self.broker.last(EVENTS, &subject).await?,
        };
        let Some(first) = first.filter(|message| message.subject == subject) else { return Ok(None) };
        let mut page = BackPage { commits: Vec::new(), before: None };
        let (mut events, mut bytes, mut next) = (0, 0, Some(first));
        while let Some(message) = next {
            page.before = match expected_last(&message) {
                Some(before) => Some(before).filter(|before| (1..message.sequence).contains(before)),
                // Somebody else appended it, or a server that does not keep such headers.
                None => self.sequence_before(stream_id, message.sequence).await?,
            };
            let commit = match StoredCommit::from_stored(&message) {
                Ok(commit) => commit,
                Err(_) if is_set_aside(&self.broker, &message).await? => {
                    StoredCommit::set_aside(stream_id.clone(), &message)
                }
                Err(source) => return Err(NoCommit { sequence: message.sequence, source }.into()),
            };
            events += commit.commit.events.len();
            bytes += message.payload.len();
            page.commits.push(commit);
            next = match page.before {
                Some(before) if events < events_max && bytes < bytes_max => {
                    self.broker.get(EVENTS, before).await?.filter(|message| message.subject == subject)
                }
                _ => None,
            };
        }
        Ok(Some(page))
    }

    /// The sequence of the aggregate's message before the one at `sequence`, found by reading all messages of the aggregate.
    async fn sequence_before(&self, stream_id: &StreamId, sequence: u64) -> Result<Option<u64>, LoadError> {
        let mut history = self.history(stream_id, 0);
        let mut found = None;
        while let Some(page) = history.next_page().await? {
            let before = page.iter().map(|commit| commit.broker_sequence).take_while(|each| *each < sequence);
            let (count, last) = before.fold((0, found), |(count, _), each| (count + 1, Some(each)));
            found = last;
            if count < page.len() {
                break;
            }
        }
        Ok(found)
    }
}

/// The sequence of the previous message on the same subject, as its append expected it; 0 for none.
fn expected_last(message: &StoredMessage) -> Option<u64> {
    message.headers.get(header::EXPECTED_LAST_SUBJECT_SEQUENCE)?.parse().ok()
}

/// An aggregate's history. It is read page by page, so it may have any length.
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
    /// The next commits, in order; `None` after the last one.
    ///
    /// # Errors
    /// [`LoadError`]; it is [`BrokerError::Unavailable`] also as long as the answering replica lags behind the leader.
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

#[cfg(test)]
mod tests {
    use millstream_contract::{
        commit::{Commit, CommittedCommand, RecordedEvent},
        stored_message::Headers,
    };

    use super::*;
    use crate::testing::test_server::TestServer;

    fn commit(version: u64, events: usize) -> Commit {
        let command = CommittedCommand {
            id: format!("c{version}").into(),
            position: version,
            actor: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            partner_of: None,
        };
        let event = RecordedEvent { event_type: "done".into(), schema: 1, data: Vec::new(), command: 0 };
        Commit {
            commit_id: format!("{version}").into(),
            first_version: version,
            recorded_at: 0,
            commands: vec![command],
            events: vec![event; events],
            previous: None,
        }
    }

    fn new(stream_id: &StreamId, expected_last: u64, commit: &Commit) -> NewMessage {
        NewMessage {
            subject: stream_id.event_subject(),
            expected_last: Some(expected_last),
            headers: Headers::new(),
            payload: commit.encode().into(),
        }
    }

    async fn pages(
        store: &EventStore<impl Broker>,
        stream_id: &StreamId,
        events_max: usize,
        bytes_max: usize,
    ) -> Vec<Vec<u64>> {
        let (mut pages, mut from) = (Vec::new(), None);
        loop {
            let page = store.page_back(stream_id, from, events_max, bytes_max).await.unwrap().unwrap();
            pages.push(page.commits.iter().map(|commit| commit.broker_sequence).collect());
            from = page.before;
            if from.is_none() {
                return pages;
            }
        }
    }

    #[tokio::test]
    async fn a_history_is_read_from_its_end_and_of_one_aggregate_alone() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let store = EventStore::new(broker.clone());
        let [own, other] = ["own", "other"].map(|id| StreamId::new("a", "b", id).unwrap());
        // Sequences 1, 3 and 5 are of one aggregate, of two events each; 2 and 4 of another, appended together with its neighbour.
        store.append(new(&own, 0, &commit(1, 2))).await.unwrap();
        let together = [new(&other, 0, &commit(1, 1)), new(&own, 1, &commit(3, 2))];
        store.append_together(together.into()).await.unwrap();
        store.append(new(&other, 2, &commit(2, 1))).await.unwrap();
        store.append(new(&own, 3, &commit(5, 2))).await.unwrap();
        assert_eq!(pages(&store, &own, 3, 10_000).await, [vec![5, 3], vec![1]]);
        assert_eq!(pages(&store, &own, 1, 10_000).await, [vec![5], vec![3], vec![1]]);
        assert_eq!(pages(&store, &own, 100, 10_000).await, [vec![5, 3, 1]]);
        let two_commits = commit(1, 2).encode().len() + 1;
        assert_eq!(pages(&store, &own, 100, two_commits).await, [vec![5, 3], vec![1]]);
        // A place that is another aggregate's tells nothing of it.
        assert!(store.page_back(&own, Some(4), 10, 10_000).await.unwrap().is_none());
        assert!(store.page_back(&own, Some(6), 10, 10_000).await.unwrap().is_none());
        assert!(store.page_back(&own, Some(0), 10, 10_000).await.unwrap().is_none());
        let none = StreamId::new("a", "b", "none").unwrap();
        assert!(store.page_back(&none, None, 10, 10_000).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_names_no_commit_before_it_is_read_back_all_the_same() {
        let server = TestServer::start_provisioned().await;
        let store = EventStore::new(server.broker().await);
        let jetstream = async_nats::jetstream::new(server.client().await);
        let own = StreamId::new("a", "b", "own").unwrap();
        for version in 1..=3 {
            let body = commit(version, 1).encode();
            jetstream.publish(own.event_subject(), body.into()).await.unwrap().await.unwrap();
        }
        assert_eq!(pages(&store, &own, 1, 10_000).await, [vec![3], vec![2], vec![1]]);
    }
}
