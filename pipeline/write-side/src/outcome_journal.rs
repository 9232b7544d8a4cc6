//! The outcome journal: the chain of records on OUTCOMES. A record is both the cursor in COMMANDS and the outcomes.
//!
//! Each record expects the sequence of the record before it. If two handlers both believe that they are active, only one of them can record. A
//! takeover appends a fence, which makes the previous handler's next record fail.
//!
//! Deliberately absent: a clock. The lease decides whether a handler may try; the chain decides whether it succeeds.

use std::sync::Arc;

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    outcome::{
        CommandOutcome, Generations, OUTCOME_SUBJECT, OutcomeRecord, OutcomeRecordError,
        RETIRED_LAYOUT_SUBJECT, RecordKind,
    },
    stored_message::{Headers, StoredMessage},
    stream_names::OUTCOMES,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, BrokerError, NewMessage},
    id_source::IdSource,
    retry::answered,
};

/// Why the journal cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another handler has written the next record. This handler has lost its turn and changes nothing any more.
    #[error("another command handler has taken over")]
    LostTurn,
    /// The server will never store the record.
    #[error("the outcome record for positions {after}..={through} was refused: {detail}")]
    Refused {
        /// The cursor before the record.
        after: u64,
        /// The cursor with the record.
        through: u64,
        /// The server's message.
        detail: String,
    },
    /// The records are about other incarnations of COMMANDS or EVENTS.
    #[error(
        "OUTCOMES belongs to the generations {recorded}, but there are {found}: COMMANDS or EVENTS was deleted and made again; restore it from a backup. Without one: where COMMANDS is lost, delete COMMANDS and OUTCOMES and run `millstream setup`, which makes COMMANDS begin behind every position that EVENTS names; where EVENTS is lost, delete all three"
    )]
    OtherGeneration {
        /// The incarnations in the records.
        recorded: Box<Generations>,
        /// The incarnations that exist.
        found: Box<Generations>,
    },
    /// There is no record, although there must be one.
    #[error("OUTCOMES holds no record")]
    NothingRecorded,
    /// A record does not decode, or dates from a time when several handlers were active.
    #[error(transparent)]
    Record(#[from] OutcomeRecordError),
    /// The server refused a question for good.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Failure for JournalError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::LostTurn | Self::Refused { .. } => ExitCode::Software,
            Self::OtherGeneration { .. } | Self::NothingRecorded | Self::Record(_) => ExitCode::Data,
        }
    }
}

/// The chain, in the hands of the handler that appended the last fence.
#[derive(Debug)]
pub struct OutcomeJournal<B> {
    broker: B,
    ids: IdSource,
    generations: Generations,
    /// The incarnation of OUTCOMES itself.
    generation: String,
    last_sequence: u64,
    cursor: u64,
    events_through: u64,
}

impl<B: Broker> OutcomeJournal<B> {
    /// Takes the chain over by appending a fence after its last record. Waits for a server that does not answer. `may_begin` says whether the
    /// fence may be the very first record.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn take_over(
        broker: B,
        generations: Generations,
        ids: IdSource,
        may_begin: bool,
    ) -> Result<Self, JournalError> {
        refuse_several_handlers(&broker, &ids).await?;
        let generation = answered(&ids, || broker.state(OUTCOMES)).await?.generation;
        let mut backoff = ids.backoff();
        let record_id = ids.next_id();
        loop {
            let last = answered(&ids, || broker.last(OUTCOMES, OUTCOME_SUBJECT)).await?;
            let before = last.as_ref().map(OutcomeRecord::from_stored).transpose()?;
            if before.is_none() && !may_begin {
                return Err(JournalError::NothingRecorded);
            }
            check_generations(before.as_ref(), &generations)?;
            let mut journal = Self {
                broker: broker.clone(),
                ids: ids.clone(),
                generations: generations.clone(),
                generation: generation.clone(),
                last_sequence: last.map_or(0, |message| message.sequence),
                cursor: before.as_ref().map_or(0, |record| record.through),
                events_through: before.as_ref().map_or(0, |record| record.events_through),
            };
            if before.is_some_and(|record| record.record_id == record_id) {
                return Ok(journal); // The fence of an attempt of which no answer came.
            }
            let (cursor, events_through) = (journal.cursor, journal.events_through);
            let fence =
                journal.next_record(record_id.clone(), RecordKind::Fence, cursor, events_through, vec![]);
            match broker.append(OUTCOMES, journal.message(&fence)).await {
                Ok(appended) => {
                    journal.last_sequence = appended.sequence;
                    return Ok(journal);
                }
                Err(AppendError::Refused { detail, .. }) => {
                    return Err(JournalError::Refused { after: cursor, through: cursor, detail });
                }
                // The previous handler continues to record. The next attempt follows its newest record.
                Err(AppendError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "the fence is not recorded yet");
                    backoff.pause().await;
                }
            }
        }
    }

    /// Every command up to this COMMANDS position is covered.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The highest sequence in EVENTS that outcomes have named.
    pub fn events_through(&self) -> u64 {
        self.events_through
    }

    /// The sequence of the chain's last record in OUTCOMES.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The incarnations of the streams that the handler works on.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Records the outcomes of the commands after the cursor, up to and including `through`. Retries until the record is stored or another
    /// handler has taken over. Returns the record and its sequence.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn record(
        &mut self,
        through: u64,
        events_through: u64,
        outcomes: &mut Vec<CommandOutcome>,
    ) -> Result<(OutcomeRecord, u64), JournalError> {
        let events_through = self.events_through.max(events_through);
        let taken = std::mem::take(outcomes);
        let mut record =
            self.next_record(self.ids.next_id(), RecordKind::Outcomes, through, events_through, taken);
        let mut backoff = self.ids.backoff();
        let sequence = loop {
            match self.broker.append(OUTCOMES, self.message(&record)).await {
                Ok(appended) => break appended.sequence,
                Err(AppendError::Refused { detail, .. }) => {
                    *outcomes = std::mem::take(&mut record.outcomes);
                    return Err(JournalError::Refused { after: self.cursor, through, detail });
                }
                Err(error) => {
                    if let Some(sequence) = self.find(&record).await? {
                        break sequence;
                    }
                    tracing::warn!(%error, "the outcome record is not stored yet");
                    backoff.pause().await;
                }
            }
        };
        self.last_sequence = sequence;
        self.cursor = through;
        self.events_through = events_through;
        Ok((record, sequence))
    }

    /// After an unclear answer: the sequence of `record`, or `None` if the chain still ends with the record before it. In that case the append
    /// may still arrive; the retry then conflicts and finds the record here.
    async fn find(&mut self, record: &OutcomeRecord) -> Result<Option<u64>, JournalError> {
        let last = match self.broker.last(OUTCOMES, OUTCOME_SUBJECT).await {
            Ok(last) => last,
            Err(BrokerError::Unavailable { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(last) = last else {
            self.look_for_the_chain().await?;
            return Ok(None);
        };
        if last.sequence == self.last_sequence {
            return Ok(None);
        }
        if OutcomeRecord::from_stored(&last)?.record_id == record.record_id {
            return Ok(Some(last.sequence));
        }
        Err(JournalError::LostTurn)
    }

    /// OUTCOMES holds no record. If it was purged, there is no record that the next one could expect, and only this handler knows how far the
    /// chain has come, so it continues from there. If the stream was made anew or is an older copy, it has another history. Then the turn is
    /// lost, and the next turn begins with what is there.
    async fn look_for_the_chain(&mut self) -> Result<(), JournalError> {
        let state = match self.broker.state(OUTCOMES).await {
            Ok(state) => state,
            Err(BrokerError::Unavailable { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if state.generation != self.generation || state.last_sequence < self.last_sequence {
            tracing::error!(
                known = self.last_sequence,
                last = state.last_sequence,
                "OUTCOMES was made anew or has lost its tail under this handler, which takes over again"
            );
            return Err(JournalError::LostTurn);
        }
        if state.first_sequence > self.last_sequence && self.last_sequence > 0 {
            tracing::error!(
                through = self.cursor,
                "OUTCOMES was purged under this handler: the outcomes of the commands up to here are gone, and the journal goes on behind them"
            );
            self.last_sequence = 0;
        }
        Ok(())
    }

    fn next_record(
        &self,
        record_id: Arc<str>,
        kind: RecordKind,
        through: u64,
        events_through: u64,
        outcomes: Vec<CommandOutcome>,
    ) -> OutcomeRecord {
        OutcomeRecord {
            record_id,
            kind,
            handler: self.ids.run().into(),
            after: self.cursor,
            through,
            events_through,
            outcomes,
            generations: self.generations.clone(),
        }
    }

    fn message(&self, record: &OutcomeRecord) -> NewMessage {
        NewMessage {
            subject: OUTCOME_SUBJECT.to_owned(),
            expected_last: Some(self.last_sequence),
            headers: Headers::new(),
            payload: record.encode().into(),
        }
    }
}

/// How far COMMANDS is decided, for programs other than the handler: the position up to which every command has its outcome. Does not wait for
/// a server that does not answer.
///
/// # Errors
/// [`JournalError`], also if several handlers were active once.
pub async fn decided_through<B: Broker>(broker: &B) -> Result<u64, JournalError> {
    if let Some(message) = broker.last(OUTCOMES, RETIRED_LAYOUT_SUBJECT).await? {
        return Err(several_handlers(&message));
    }
    let last = broker.last(OUTCOMES, OUTCOME_SUBJECT).await?;
    let last = last.as_ref().map(OutcomeRecord::from_stored).transpose()?;
    Ok(last.map_or(0, |record| record.through))
}

/// When several handlers were active, their chains began and ended on subjects that this release does not read. Their last records may have
/// been purged from the one chain that it reads, but the messages about them on the retired subject are never purged.
async fn refuse_several_handlers<B: Broker>(broker: &B, ids: &IdSource) -> Result<(), JournalError> {
    let told = answered(ids, || broker.last(OUTCOMES, RETIRED_LAYOUT_SUBJECT)).await?;
    told.map_or(Ok(()), |message| Err(several_handlers(&message)))
}

fn several_handlers(message: &StoredMessage) -> JournalError {
    let StoredMessage { sequence, subject, .. } = message;
    OutcomeRecordError::SeveralHandlers { sequence: *sequence, subject: subject.clone() }.into()
}

/// The chain must be about the current streams.
fn check_generations(last: Option<&OutcomeRecord>, generations: &Generations) -> Result<(), JournalError> {
    match last.filter(|record| record.generations != *generations) {
        None => Ok(()),
        Some(record) => Err(JournalError::OtherGeneration {
            recorded: Box::new(record.generations.clone()),
            found: Box::new(generations.clone()),
        }),
    }
}
