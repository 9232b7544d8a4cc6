//! Bugs planted between the handlers and their broker, and the list of all bugs that the simulation has to find.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;

use crate::{
    broker::{
        AppendError, Appended, Broker, BrokerError, NewMessage, ReadError, ReaderConfig, StreamReader,
        StreamState,
    },
    contract::{
        header,
        outcome::{OutcomeRecord, RecordKind},
        stored_message::{Headers, StoredMessage},
        stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
    },
    seeded_bug::SeededBug,
    testing::{dice::Dice, memory_broker::MemoryBroker},
};

/// How often a reader with a bug shows it.
const READER_BUG_RATE: f64 = 0.05;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Commits are appended without expectation.
    CommitsWithoutExpectation,
    /// The first commit of an aggregate is appended without expectation.
    FirstCommitWithoutExpectation,
    /// Records are appended without expectation.
    RecordsWithoutExpectation,
    /// No fence is appended at a takeover, and a record that another one preceded is appended behind it. (Without a fence
    /// alone nothing goes wrong but the time that the handler before loses: its next record is refused all the same.)
    NoFence,
    /// A handler that lost its turn appends its record all the same, behind the fence.
    LostTurnIgnored,
    /// An append of a commit counts as stored when it is sent: the outcome is recorded before.
    OutcomeBeforeAppend,
    /// An append without an answer counts as stored.
    UnclearTakenForStored,
    /// A refused append counts as stored: the other handler will have done the same.
    ConflictTakenForStored,
    /// A refused or unanswered append is sent again on the aggregate's new head instead of decided again.
    RetriedOnNewHead,
    /// Commands are refused on what any replica says.
    RefusedOnStaleRead,
    /// The reader of COMMANDS sometimes leaves a message out.
    CommandSkipped,
    /// The reader of COMMANDS sometimes delivers a message again.
    CommandRepeated,
    /// A takeover goes on with the commands that come next.
    CursorAtTheEnd,
    /// A takeover begins with the first command.
    CursorAtTheBeginning,
    /// `Millstream-Expected-Version` is not looked at.
    ExpectedVersionIgnored,
    /// Ids that others recorded are not learnt.
    IdsForgottenAtRestart,
    /// The clock of the handler decides, not that of COMMANDS.
    DecidedByWallClock,
    /// Dead letters carry the message id of their command.
    DeadLettersWithMessageId,
    /// A bug in the engine's own code.
    Engine(SeededBug),
}

impl Bug {
    /// All of them, with what they are called.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("commits-without-expectation", Self::CommitsWithoutExpectation),
        ("first-commit-without-expectation", Self::FirstCommitWithoutExpectation),
        ("records-without-expectation", Self::RecordsWithoutExpectation),
        ("no-fence", Self::NoFence),
        ("lost-turn-ignored", Self::LostTurnIgnored),
        ("outcome-before-append", Self::OutcomeBeforeAppend),
        ("unclear-taken-for-stored", Self::UnclearTakenForStored),
        ("conflict-taken-for-stored", Self::ConflictTakenForStored),
        ("retried-on-new-head", Self::RetriedOnNewHead),
        ("refused-on-stale-read", Self::RefusedOnStaleRead),
        ("command-skipped", Self::CommandSkipped),
        ("command-repeated", Self::CommandRepeated),
        ("cursor-at-the-end", Self::CursorAtTheEnd),
        ("cursor-at-the-beginning", Self::CursorAtTheBeginning),
        ("expected-version-ignored", Self::ExpectedVersionIgnored),
        ("ids-forgotten-at-restart", Self::IdsForgottenAtRestart),
        ("decided-by-wall-clock", Self::DecidedByWallClock),
        ("dead-letters-with-message-id", Self::DeadLettersWithMessageId),
        ("positions-ignored", Self::Engine(SeededBug::PositionsIgnored)),
        ("past-decided-on-present", Self::Engine(SeededBug::PastDecidedOnPresent)),
        ("states-kept-after-turn", Self::Engine(SeededBug::StatesKeptAfterTurn)),
        ("ids-of-window-only", Self::Engine(SeededBug::IdsOfWindowOnly)),
        ("repeats-within-round", Self::Engine(SeededBug::RepeatsWithinRound)),
    ];

    /// The bug in the engine's own code, if it is one.
    pub fn engine(self) -> Option<SeededBug> {
        match self {
            Self::Engine(bug) => Some(bug),
            _ => None,
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            Self::ALL.iter().find(|(_, bug)| bug == self).map_or("lost-tail-unnoticed", |(name, _)| name);
        formatter.write_str(name)
    }
}

/// No bug has that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no bug {name:?}; there are {known}")]
pub struct UnknownBug {
    name: String,
    known: String,
}

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        let known = || Self::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        Self::ALL
            .iter()
            .find_map(|(each, bug)| (*each == name).then_some(*bug))
            .ok_or_else(|| UnknownBug { name: name.to_owned(), known: known() })
    }
}

/// A connection with a bug, or none.
#[derive(Clone)]
pub(super) struct SabotagedBroker {
    inner: MemoryBroker,
    bug: Option<Bug>,
}

impl SabotagedBroker {
    pub(super) fn new(inner: MemoryBroker, bug: Option<Bug>) -> Self {
        Self { inner, bug }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The sequence that an append will have if nobody else appends: what a careless sender takes for granted.
    async fn next_sequence(&self, stream: &str) -> u64 {
        self.inner.state(stream).await.map_or(0, |state| state.last_sequence) + 1
    }

    async fn append_commit(&self, message: NewMessage) -> Result<Appended, AppendError> {
        if self.has(Bug::OutcomeBeforeAppend) {
            let sequence = self.next_sequence(EVENTS).await;
            let inner = self.inner.clone();
            // Nobody looks at the answer: that is the bug.
            tokio::spawn(async move { inner.append(EVENTS, message).await.is_ok() });
            return Ok(Appended { sequence, duplicate: false });
        }
        let answer = self.inner.append(EVENTS, message.clone()).await;
        let subject = message.subject.clone();
        match &answer {
            Err(AppendError::Unclear { .. }) if self.has(Bug::UnclearTakenForStored) => {
                let sequence = self.next_sequence(EVENTS).await;
                Ok(Appended { sequence, duplicate: false })
            }
            Err(AppendError::Conflict { .. }) if self.has(Bug::ConflictTakenForStored) => {
                let last = self.inner.last(EVENTS, &subject).await.ok().flatten();
                Ok(Appended { sequence: last.map_or(0, |last| last.sequence), duplicate: false })
            }
            Err(AppendError::Conflict { .. } | AppendError::Unclear { .. })
                if self.has(Bug::RetriedOnNewHead) =>
            {
                let last = self.inner.last(EVENTS, &subject).await.ok().flatten();
                let expected_last = Some(last.map_or(0, |last| last.sequence));
                self.inner.append(EVENTS, NewMessage { expected_last, ..message }).await
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

impl Broker for SabotagedBroker {
    type Reader = SabotagedReader;

    async fn append(&self, stream: &str, mut message: NewMessage) -> Result<Appended, AppendError> {
        if let Some(appended) = self.swallowed_fence(stream, &message) {
            return Ok(appended);
        }
        let first = message.expected_last == Some(0);
        let careless = (self.has(Bug::CommitsWithoutExpectation) && stream == EVENTS)
            || (self.has(Bug::FirstCommitWithoutExpectation) && stream == EVENTS && first)
            || (self.has(Bug::RecordsWithoutExpectation) && stream == OUTCOMES);
        if careless {
            message.expected_last = None;
        }
        if self.has(Bug::DeadLettersWithMessageId)
            && stream == DEAD_LETTERS
            && let Some(id) = message.headers.get(header::COMMAND_ID).map(str::to_owned)
        {
            message.headers.push(header::NATS_MESSAGE_ID, id);
        }
        match stream {
            EVENTS => self.append_commit(message).await,
            OUTCOMES => self.append_record(message).await,
            _ => self.inner.append(stream, message).await,
        }
    }

    async fn append_atomically(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, AppendError> {
        self.inner.append_atomically(stream, messages).await
    }

    async fn load(&self, stream: &str, subject: &str, from: u64) -> Result<Vec<StoredMessage>, BrokerError> {
        self.inner.load(stream, subject, from).await
    }

    async fn last(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        if self.has(Bug::RefusedOnStaleRead) && stream == EVENTS {
            return Ok(self.inner.load(stream, subject, 0).await?.pop());
        }
        self.inner.last(stream, subject).await
    }

    async fn get(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.inner.get(stream, sequence).await
    }

    async fn state(&self, stream: &str) -> Result<StreamState, BrokerError> {
        self.inner.state(stream).await
    }

    async fn read(&self, mut config: ReaderConfig) -> Result<SabotagedReader, ReadError> {
        if config.stream == COMMANDS {
            match self.bug {
                Some(Bug::CursorAtTheEnd) => config.after = self.inner.state(COMMANDS).await?.last_sequence,
                Some(Bug::CursorAtTheBeginning) => config.after = 0,
                _ => {}
            }
        }
        let stream = config.stream.clone();
        // Any dice will do, as long as they fall alike whenever the run is repeated.
        let dice = Dice::new(config.after).fork(u64::try_from(stream.len()).unwrap_or(0));
        Ok(SabotagedReader { inner: self.inner.read(config).await?, bug: self.bug, stream, dice })
    }

    async fn send(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BrokerError> {
        self.inner.send(subject, headers, payload).await
    }

    async fn hold_lease(&self, key: &str, owner: &str, time_to_live: Duration) -> Result<bool, BrokerError> {
        self.inner.hold_lease(key, owner, time_to_live).await
    }

    async fn release_lease(&self, key: &str, owner: &str) -> Result<(), BrokerError> {
        self.inner.release_lease(key, owner).await
    }

    async fn lease_freed(&self, key: &str, wait: Duration) {
        self.inner.lease_freed(key, wait).await;
    }
}

/// A reader with a bug, or none.
pub(super) struct SabotagedReader {
    inner: <MemoryBroker as Broker>::Reader,
    bug: Option<Bug>,
    stream: String,
    dice: Dice,
}

impl StreamReader for SabotagedReader {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        loop {
            let mut messages = self.inner.next_batch(max).await?;
            match (self.stream.as_str(), self.bug) {
                (COMMANDS, Some(Bug::CommandSkipped)) if self.dice.chance(READER_BUG_RATE) => {
                    messages.pop();
                }
                (COMMANDS, Some(Bug::CommandRepeated)) if self.dice.chance(READER_BUG_RATE) => {
                    messages.extend(messages.last().cloned());
                }
                (COMMANDS, Some(Bug::ExpectedVersionIgnored)) => {
                    for message in &mut messages {
                        let headers = message.headers.iter();
                        message.headers =
                            headers.filter(|(name, _)| *name != header::EXPECTED_VERSION).collect();
                    }
                }
                (OUTCOMES, Some(Bug::IdsForgottenAtRestart)) => forget_ids(&mut messages),
                _ => {}
            }
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    fn pending(&self) -> u64 {
        self.inner.pending()
    }

    async fn close(self) {
        self.inner.close().await;
    }
}

fn forget_ids(messages: &mut [StoredMessage]) {
    for message in messages {
        if let Ok(mut record) = OutcomeRecord::from_stored(message) {
            for line in &mut record.outcomes {
                line.id = None;
            }
            message.payload = record.encode().into();
        }
    }
}
