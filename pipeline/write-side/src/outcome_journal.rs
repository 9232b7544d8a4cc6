//! The outcome journal: the handler's chain of records on OUTCOMES. A record has the outcomes of a stretch of positions, so the
//! last record is the handler's cursor too.
//!
//! Each record expects the sequence of the record before it. Of two handlers that both believe to be active, only one can
//! record. A takeover appends a fence, which makes the previous handler's next record fail.
//!
//! Deliberately absent: a clock. The lease decides whether a handler may try; the chain decides whether it succeeds.

use std::sync::Arc;

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    outcome::{CommandOutcome, Generations, OutcomeRecord, OutcomeRecordError, RecordKind},
    share::{Share, Starts},
    stored_message::Headers,
    stream_names::OUTCOMES,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, BrokerError, NewMessage},
    retry::RunIds,
};

use crate::share_layout::{Layout, chain_subject, check_generations, last_record};

/// Why the journal cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another handler has written the next record. This one is no longer active and can change nothing any more.
    #[error("another handler has taken over the share {share}")]
    LostTurn {
        /// The share.
        share: String,
    },
    /// The server will never store the record.
    #[error("the outcome record for positions {after}..={through} was refused: {detail}")]
    Refused {
        /// The cursor before the record.
        after: u64,
        /// The cursor with the record.
        through: u64,
        /// The server's words.
        detail: String,
    },
    /// The share's records speak of other incarnations of COMMANDS or EVENTS.
    #[error(
        "the outcomes of share {share} belong to generations {recorded:?}, but the streams are {found:?}: COMMANDS or EVENTS was deleted and made again; restore it from a backup. Without one: where COMMANDS is lost, delete COMMANDS and OUTCOMES and run `millstream setup`, which makes COMMANDS begin behind every position that EVENTS names; where EVENTS is lost, delete all three"
    )]
    OtherGeneration {
        /// The share.
        share: String,
        /// What the records say.
        recorded: Box<Generations>,
        /// What is there.
        found: Box<Generations>,
    },
    /// The share has no record at all, and must have one.
    #[error("the outcomes of share {share} hold no record")]
    NothingRecorded {
        /// The share.
        share: String,
    },
    /// The partitions are shared in another way than this handler is configured for.
    #[error(
        "command_handler.active_handlers is {configured}, but the partitions are shared over {in_force}: a process with {in_force} is active or was the last one; stop those, or set {in_force} here too"
    )]
    OtherLayout {
        /// What this handler was told.
        configured: u32,
        /// What OUTCOMES says.
        in_force: u32,
    },
    /// Somebody has begun to share the partitions in another way, and has not ended it.
    #[error("the chain of share {share} was closed, and no other way to share the partitions has begun yet")]
    Closed {
        /// The share.
        share: String,
    },
    /// The record that says how the partitions are shared says nothing.
    #[error("OUTCOMES holds no layout at sequence {sequence}, on the subject of layouts")]
    LayoutUnreadable {
        /// Where.
        sequence: u64,
    },
    /// The last record does not decode.
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
            Self::LostTurn { .. } | Self::Refused { .. } | Self::Closed { .. } => ExitCode::Software,
            Self::OtherLayout { .. } => ExitCode::Configuration,
            Self::OtherGeneration { .. }
            | Self::NothingRecorded { .. }
            | Self::LayoutUnreadable { .. }
            | Self::Record(_) => ExitCode::Data,
        }
    }
}

/// A share's chain, held by the handler that appended the last fence.
#[derive(Debug)]
pub struct OutcomeJournal<B> {
    broker: B,
    share: Share,
    ids: RunIds,
    generations: Generations,
    epoch: u64,
    starts: Starts,
    last_sequence: u64,
    cursor: u64,
    events_through: u64,
}

impl<B: Broker> OutcomeJournal<B> {
    /// Takes the share over: appends a fence behind whatever is there. Waits for a server that does not answer. `may_begin`
    /// says whether the fence may be the first record of all.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn take_over(
        broker: B,
        share: Share,
        generations: Generations,
        ids: RunIds,
        may_begin: bool,
    ) -> Result<Self, JournalError> {
        let subject = chain_subject(share);
        let mut backoff = ids.backoff();
        let record_id = ids.next_id();
        loop {
            // The chain first: were it closed after this look, the fence would be refused.
            let last = last_record(&broker, &subject, &ids).await?;
            let layout = Layout::in_force(&broker, &generations, &ids).await?;
            if layout.shares != share.of {
                return Err(JournalError::OtherLayout { configured: share.of, in_force: layout.shares });
            }
            if last.is_none() && layout.epoch == 0 && !may_begin {
                return Err(JournalError::NothingRecorded { share: share.name() });
            }
            let before = last.as_ref().map(|(_, record)| record);
            check_generations(share, before, &generations)?;
            let Some(standing) = layout.standing(share, before) else {
                backoff.pause().await; // The layout was answered by a leader that is none any more.
                continue;
            };
            if standing.closed {
                return Err(JournalError::Closed { share: share.name() });
            }
            let mut journal = Self {
                broker: broker.clone(),
                share,
                ids: ids.clone(),
                generations: generations.clone(),
                epoch: layout.epoch,
                starts: layout.starts,
                last_sequence: last.as_ref().map_or(0, |(message, _)| message.sequence),
                cursor: standing.cursor,
                events_through: standing.events_through,
            };
            if before.is_some_and(|record| record.record_id == record_id && record.epoch == layout.epoch) {
                return Ok(journal); // The fence of an attempt of which no answer came.
            }
            let (cursor, events_through) = (standing.cursor, standing.events_through);
            let fence =
                journal.next_record(record_id.clone(), RecordKind::Fence, cursor, events_through, vec![]);
            match broker.append(OUTCOMES, journal.message(&fence)).await {
                Ok(appended) => {
                    journal.last_sequence = appended.sequence;
                    return journal.in_its_epoch().await;
                }
                Err(AppendError::Refused { detail, .. }) => {
                    return Err(JournalError::Refused { after: cursor, through: cursor, detail });
                }
                Err(AppendError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(share = share.name(), %error, "the fence is not recorded yet");
                    backoff.pause().await;
                }
            }
        }
    }

    /// A fence may have been on its way for so long that the chain was closed, and all of its records purged meanwhile: an
    /// empty chain takes any first record.
    async fn in_its_epoch(self) -> Result<Self, JournalError> {
        let layout = Layout::in_force(&self.broker, &self.generations, &self.ids).await?;
        if layout.epoch == self.epoch { Ok(self) } else { Err(self.lost()) }
    }

    fn lost(&self) -> JournalError {
        JournalError::LostTurn { share: self.share.name() }
    }

    /// How far other shares have covered the partitions; `None` once that is of no consequence any more.
    pub fn covered_before(&self) -> Option<Starts> {
        (self.starts.highest(self.share) > self.cursor).then_some(self.starts)
    }

    /// Every position named: COMMANDS must reach up to here.
    pub fn commands_through(&self) -> u64 {
        self.cursor.max(self.starts.highest(self.share))
    }

    /// Every command of the share up to this COMMANDS position is covered.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The highest sequence of EVENTS that the outcomes have named. EVENTS must reach this far, or the server has lost its tail.
    pub fn events_through(&self) -> u64 {
        self.events_through
    }

    /// Sequence of the chain's last record in OUTCOMES.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The incarnations of the streams that the share works on.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Records what became of the commands behind the cursor, `through` inclusive. Tries until it is stored or the turn is
    /// lost. Answers the record and its sequence. Takes the outcomes, unless the server refuses the record.
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
                    tracing::warn!(share = self.share.name(), %error, "the outcome record is not stored yet");
                    backoff.pause().await;
                }
            }
        };
        self.last_sequence = sequence;
        self.cursor = through;
        self.events_through = events_through;
        Ok((record, sequence))
    }

    /// After an unclear answer: the sequence of `record`, or `None` when the chain still ends with the record before it. In that
    /// case the append may still arrive; then the retry conflicts and finds it here.
    async fn find(&self, record: &OutcomeRecord) -> Result<Option<u64>, JournalError> {
        let last = match self.broker.last(OUTCOMES, &chain_subject(self.share)).await {
            Ok(last) => last,
            Err(BrokerError::Unavailable { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(last) = last else { return Ok(None) };
        if last.sequence == self.last_sequence {
            return Ok(None);
        }
        if OutcomeRecord::from_stored(&last)?.record_id == record.record_id {
            return Ok(Some(last.sequence));
        }
        Err(self.lost())
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
            epoch: self.epoch,
            layout: None,
        }
    }

    fn message(&self, record: &OutcomeRecord) -> NewMessage {
        NewMessage {
            subject: chain_subject(self.share),
            expected_last: Some(self.last_sequence),
            headers: Headers::new(),
            payload: record.encode().into(),
        }
    }
}
