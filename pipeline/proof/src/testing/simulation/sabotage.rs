//! Bugs planted between the programs and their broker: this broker passes on something else than it was asked, or answers something else than
//! is true.

mod reader;
mod tampering;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use millstream_contract::{
    header,
    outcome::{OutcomeRecord, RecordKind},
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{
        AppendError, Appended, Broker, BrokerError, NewMessage, Page, ReadError, ReaderConfig, StreamState,
    },
    testing::memory_broker::MemoryBroker,
};

use self::{
    reader::SabotagedReader,
    tampering::{is_of_partner, without_positions},
};
use super::bugs::Bug;

/// The bug of a run, if any, and what all connections with it share.
#[derive(Clone)]
pub(super) struct Sabotage {
    bug: Option<Bug>,
    /// The first message at each sequence of EVENTS, whatever stands there now.
    stood_there: Arc<Mutex<BTreeMap<u64, StoredMessage>>>,
}

impl Sabotage {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self { bug, stood_there: Arc::default() }
    }

    /// A connection with the bug.
    pub(super) fn of(&self, inner: MemoryBroker) -> SabotagedBroker {
        SabotagedBroker { inner, sabotage: self.clone() }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn stood_there(&self) -> MutexGuard<'_, BTreeMap<u64, StoredMessage>> {
        self.stood_there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, with a bug or without.
#[derive(Clone)]
pub(super) struct SabotagedBroker {
    inner: MemoryBroker,
    sabotage: Sabotage,
}

impl SabotagedBroker {
    fn has(&self, bug: Bug) -> bool {
        self.sabotage.has(bug)
    }

    /// The first message at a sequence of EVENTS. With this answer, nobody can see that the stream has lost its tail and grown again.
    fn stood_there(&self, sequence: u64) -> Option<StoredMessage> {
        self.note_what_stands_there();
        self.sabotage.stood_there().get(&sequence).cloned()
    }

    fn note_what_stands_there(&self) {
        let mut known = self.sabotage.stood_there();
        for message in self.inner.dump(EVENTS) {
            known.entry(message.sequence).or_insert(message);
        }
    }

    /// Appends the commits of a command that changes several aggregates one after the other, the command's own aggregate first.
    async fn append_singly(&self, messages: Vec<NewMessage>) -> Result<Appended, AppendError> {
        let count = messages.len() as u64;
        let mut own = None;
        for message in messages.into_iter().rev() {
            let appended = self.inner.append(EVENTS, message).await?;
            own.get_or_insert(appended);
        }
        let own = own.unwrap_or(Appended { sequence: 0, duplicate: false });
        Ok(Appended { sequence: own.sequence.max(count), ..own })
    }

    /// The last sequence of a stream that the journal names.
    fn named(&self, stream: &str) -> u64 {
        let records = self.inner.dump(OUTCOMES);
        let last = records.last().and_then(|message| OutcomeRecord::from_stored(message).ok());
        last.map_or(0, |last| if stream == COMMANDS { last.through } else { last.events_through })
    }

    /// The sequence that an append will have if nobody else appends. A careless sender relies on it.
    fn next_sequence(&self, stream: &str) -> u64 {
        self.inner.dump(stream).last().map_or(0, |last| last.sequence) + 1
    }

    /// Appends one message or a batch.
    async fn pass_on(inner: &MemoryBroker, mut messages: Vec<NewMessage>) -> Result<Appended, AppendError> {
        match messages.pop() {
            Some(message) if messages.is_empty() => inner.append(EVENTS, message).await,
            last => {
                messages.extend(last);
                inner.append_atomically(EVENTS, messages).await
            }
        }
    }

    async fn append_commits(&self, messages: Vec<NewMessage>) -> Result<Appended, AppendError> {
        let count = messages.len() as u64;
        let pretended = || Appended { sequence: self.next_sequence(EVENTS) + count - 1, duplicate: false };
        let inner = self.inner.clone();
        if self.has(Bug::OutcomeBeforeAppend) {
            // The bug is that nobody looks at the answer.
            let answer = pretended();
            tokio::spawn(async move { Self::pass_on(&inner, messages).await.is_ok() });
            return Ok(answer);
        }
        if self.has(Bug::TogetherSingly) && messages.iter().any(is_of_partner) {
            return self.append_singly(messages).await;
        }
        if self.has(Bug::BatchTornApart) && count > 1 {
            let singles = messages.into_iter().map(|message| inner.append(EVENTS, message));
            let last = join_all(singles).await.pop().unwrap_or(Ok(pretended()))?;
            return Ok(Appended { sequence: last.sequence.max(count), ..last });
        }
        let answer = Self::pass_on(&inner, messages.clone()).await;
        if self.has(Bug::StatesBySequenceAlone) {
            self.note_what_stands_there();
        }
        match &answer {
            Ok(Appended { sequence, duplicate }) if self.has(Bug::BatchCountedFromItsFirst) => {
                Ok(Appended { sequence: (sequence + 1 - count).max(count), duplicate: *duplicate })
            }
            Err(AppendError::Unclear { .. }) if self.has(Bug::UnclearTakenForStored) => Ok(pretended()),
            Err(AppendError::Conflict { .. }) if self.has(Bug::ConflictTakenForStored) => Ok(pretended()),
            Err(AppendError::Conflict { .. } | AppendError::Unclear { .. })
                if self.has(Bug::RetriedOnNewHead) =>
            {
                let mut anew = Vec::with_capacity(messages.len());
                for message in messages {
                    let last = self.inner.last(EVENTS, &message.subject).await.ok().flatten();
                    let expected_last = Some(last.map_or(0, |last| last.sequence));
                    anew.push(NewMessage { expected_last, ..message });
                }
                Self::pass_on(&inner, anew).await
            }
            _ => answer,
        }
    }

    async fn append_record(&self, message: NewMessage) -> Result<Appended, AppendError> {
        let answer = self.inner.append(OUTCOMES, message.clone()).await;
        let careless = self.has(Bug::NoFence) || self.has(Bug::LostTurnIgnored);
        if !(careless && matches!(answer, Err(AppendError::Conflict { .. }))) {
            return answer;
        }
        let last = self.inner.last(OUTCOMES, &message.subject).await.ok().flatten();
        let expected_last = Some(last.map_or(0, |last| last.sequence));
        self.inner.append(OUTCOMES, NewMessage { expected_last, ..message }).await
    }

    fn forget_expectation(&self, stream: &str, message: &mut NewMessage) {
        let first = message.expected_last == Some(0);
        let careless = (self.has(Bug::CommitsWithoutExpectation) && stream == EVENTS)
            || (self.has(Bug::FirstCommitWithoutExpectation) && stream == EVENTS && first)
            || (self.has(Bug::RecordsWithoutExpectation) && stream == OUTCOMES);
        if careless {
            message.expected_last = None;
        }
    }

    /// A fence that is never sent, if that is the bug.
    fn swallowed_fence(&self, stream: &str, message: &NewMessage) -> Option<Appended> {
        if !(self.has(Bug::NoFence) && stream == OUTCOMES) {
            return None;
        }
        let record: OutcomeRecord = rmp_serde::from_slice(&message.payload).ok()?;
        let sequence = message.expected_last.filter(|_| record.kind == RecordKind::Fence)?;
        Some(Appended { sequence, duplicate: false })
    }
}

impl SabotagedBroker {
    fn give_message_id(&self, stream: &str, message: &mut NewMessage) {
        if self.has(Bug::DeadLettersWithMessageId)
            && stream == DEAD_LETTERS
            && let Some(id) = message.headers.get(header::COMMAND_ID).map(str::to_owned)
        {
            message.headers.push(header::NATS_MESSAGE_ID, id);
        }
    }
}

impl Broker for SabotagedBroker {
    type Reader = SabotagedReader;

    async fn append(&self, stream: &str, mut message: NewMessage) -> Result<Appended, AppendError> {
        if let Some(appended) = self.swallowed_fence(stream, &message) {
            return Ok(appended);
        }
        self.forget_expectation(stream, &mut message);
        self.give_message_id(stream, &mut message);
        match stream {
            EVENTS => self.append_commits(vec![message]).await,
            OUTCOMES => self.append_record(message).await,
            _ => self.inner.append(stream, message).await,
        }
    }

    async fn append_atomically(
        &self,
        stream: &str,
        mut messages: Vec<NewMessage>,
    ) -> Result<Appended, AppendError> {
        for message in &mut messages {
            self.forget_expectation(stream, message);
            self.give_message_id(stream, message);
        }
        match stream {
            EVENTS => self.append_commits(messages).await,
            _ => self.inner.append_atomically(stream, messages).await,
        }
    }

    async fn load_page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        bytes: usize,
    ) -> Result<Page, BrokerError> {
        let Page { messages, more } = self.inner.load_page(stream, subject, from, bytes).await?;
        if self.has(Bug::PositionsIgnored) && stream == EVENTS {
            return Ok(Page { messages: messages.into_iter().map(without_positions).collect(), more });
        }
        Ok(Page { messages, more })
    }

    async fn last(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        if self.has(Bug::RefusedOnStaleRead) && stream == EVENTS {
            return Ok(self.inner.load_page(stream, subject, 0, usize::MAX).await?.messages.pop());
        }
        self.inner.last(stream, subject).await
    }

    async fn get(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        match (stream, self.sabotage.bug) {
            // The answer is as if the record had been purged, so there is nothing to compare.
            (OUTCOMES, Some(Bug::IndexBySequenceAlone)) => Ok(None),
            (EVENTS, Some(Bug::StatesBySequenceAlone | Bug::CheckpointBySequenceAlone)) => {
                Ok(self.stood_there(sequence))
            }
            _ => self.inner.get(stream, sequence).await,
        }
    }

    async fn state(&self, stream: &str) -> Result<StreamState, BrokerError> {
        let mut state = self.inner.state(stream).await?;
        if self.has(Bug::LostTailUnnoticed) && (stream == COMMANDS || stream == EVENTS) {
            state.last_sequence = state.last_sequence.max(self.named(stream));
        }
        Ok(state)
    }

    async fn read(&self, mut config: ReaderConfig) -> Result<SabotagedReader, ReadError> {
        if config.stream == COMMANDS {
            match self.sabotage.bug {
                Some(Bug::CursorAtTheEnd) => {
                    config.after = self.inner.dump(COMMANDS).last().map_or(0, |last| last.sequence);
                }
                Some(Bug::CursorAtTheBeginning) => config.after = 0,
                _ => {}
            }
        }
        SabotagedReader::open(&self.inner, config, self.sabotage.bug).await
    }

    async fn remove_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        self.inner.remove_consumer(stream, name).await
    }

    async fn send(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BrokerError> {
        self.inner.send(subject, headers, payload).await
    }

    async fn purge_subject(
        &self,
        stream: &str,
        filter: &str,
        through: Option<u64>,
    ) -> Result<u64, BrokerError> {
        self.inner.purge_subject(stream, filter, through).await
    }

    async fn remove(&self, stream: &str, sequence: u64) -> Result<(), BrokerError> {
        self.inner.remove(stream, sequence).await
    }

    async fn hold_lease(&self, key: &str, owner: &str, time_to_live: Duration) -> Result<bool, BrokerError> {
        self.inner.hold_lease(key, owner, time_to_live).await
    }

    async fn release_lease(&self, key: &str, owner: &str) -> Result<(), BrokerError> {
        self.inner.release_lease(key, owner).await
    }

    async fn lease_owner(&self, key: &str) -> Result<Option<String>, BrokerError> {
        self.inner.lease_owner(key).await
    }

    async fn lease_freed(&self, key: &str, wait: Duration) {
        self.inner.lease_freed(key, wait).await;
    }
}
