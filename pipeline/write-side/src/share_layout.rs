//! How the partitions are shared, and how that is changed: an epoch for each way, one record for each epoch.
//!
//! The way in force is the last record on [`LAYOUT_SUBJECT`]; without one, a single share has everything (epoch 0). A change
//! first ends every chain of the epoch in force with a record of kind `closed`, then appends the next epoch's record, which
//! names for each partition how far those chains have come. A chain of the new epoch begins there. Every append carries an
//! expectation, so that a change may be cut off anywhere, taken up by anybody, and attempted by several at once: what has
//! been closed stays closed until the next epoch begins, hence whoever reads the closed chains finds the same positions.
//! Leases are not asked here; whether a change is wanted is the business of [`crate::command_handler`].

use std::sync::Arc;

use millstream_contract::{
    outcome::{Generations, LAYOUT_SUBJECT, OUTCOME_PREFIX, OutcomeRecord, RecordKind, ShareLayout},
    seeded_bug::{SeededBug, planted},
    share::{Share, Starts},
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{AppendError, Broker, BrokerError, NewMessage},
    retry::{RunIds, answered},
};

use crate::outcome_journal::JournalError;

/// A way to share the partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its epoch.
    pub epoch: u64,
    /// Into how many parts.
    pub shares: u32,
    /// How far earlier epochs have covered each partition.
    pub starts: Starts,
    /// Highest EVENTS sequence that outcomes of earlier epochs have named.
    pub events_through: u64,
    /// Its record in OUTCOMES; 0 in epoch 0.
    pub sequence: u64,
}

/// Where a chain stands in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The position through which it has covered its partitions.
    pub(crate) cursor: u64,
    /// Highest EVENTS sequence named.
    pub(crate) events_through: u64,
    /// Whether it goes no further.
    pub(crate) closed: bool,
}

/// A share as the streams have it now, for whoever looks at it from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareStanding {
    /// The share.
    pub share: Share,
    /// The position of COMMANDS through which its commands have their outcomes.
    pub through: u64,
    /// Whether its chain goes no further in this epoch: the partitions are about to be shared in another way.
    pub closed: bool,
}

impl Layout {
    /// One share that has everything, from the first position on.
    pub fn first() -> Self {
        Self { epoch: 0, shares: 1, starts: Starts::default(), events_through: 0, sequence: 0 }
    }

    /// What a message on [`LAYOUT_SUBJECT`] says; `None` when it does not speak of a layout.
    pub fn from_record(record: &OutcomeRecord, sequence: u64) -> Option<Self> {
        let layout = record.layout.as_ref()?;
        Some(Self {
            epoch: record.epoch,
            shares: layout.shares,
            starts: Starts::from_list(&layout.starts),
            events_through: record.events_through,
            sequence,
        })
    }

    /// The one in force. Waits for a server that does not answer.
    ///
    /// # Errors
    /// [`JournalError`], also when it belongs to other incarnations of COMMANDS or EVENTS.
    pub async fn in_force<B: Broker>(
        broker: &B,
        generations: &Generations,
        ids: &RunIds,
    ) -> Result<Self, JournalError> {
        let Some((message, record)) = last_record(broker, LAYOUT_SUBJECT, ids).await? else {
            return Ok(Self::first());
        };
        if record.generations != *generations {
            return Err(JournalError::OtherGeneration {
                share: "layout".to_owned(),
                recorded: Box::new(record.generations),
                found: Box::new(generations.clone()),
            });
        }
        Self::from_record(&record, message.sequence)
            .ok_or(JournalError::LayoutUnreadable { sequence: message.sequence })
    }

    /// The one in force and where its shares stand, for whoever looks at them from outside. Does not wait for a server that
    /// does not answer.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn with_shares<B: Broker>(broker: &B) -> Result<(Self, Vec<ShareStanding>), JournalError> {
        'look: loop {
            let layout = match broker.last(OUTCOMES, LAYOUT_SUBJECT).await? {
                None => Self::first(),
                Some(message) => Self::from_record(&OutcomeRecord::from_stored(&message)?, message.sequence)
                    .ok_or(JournalError::LayoutUnreadable { sequence: message.sequence })?,
            };
            let mut shares = Vec::new();
            for share in Share::each(layout.shares) {
                let last = broker.last(OUTCOMES, &chain_subject(share)).await?;
                let last = last.as_ref().map(OutcomeRecord::from_stored).transpose()?;
                // The next epoch has begun meanwhile.
                let Some(standing) = layout.standing(share, last.as_ref()) else { continue 'look };
                let Standing { cursor: through, closed, .. } = standing;
                shares.push(ShareStanding { share, through, closed });
            }
            return Ok((layout, shares));
        }
    }

    /// Where a chain of this epoch stands whose last record is `last`; `None` when that one is of a later epoch.
    pub(crate) fn standing(&self, share: Share, last: Option<&OutcomeRecord>) -> Option<Standing> {
        match last {
            Some(record) if record.epoch > self.epoch => None,
            Some(record) if record.epoch == self.epoch => Some(Standing {
                cursor: record.through,
                events_through: record.events_through,
                closed: record.kind == RecordKind::Closed,
            }),
            // Not begun in this epoch.
            _ => Some(Standing {
                cursor: self.starts.lowest(share),
                events_through: self.events_through,
                closed: false,
            }),
        }
    }
}

/// Ends the epoch in force and begins the next, with `shares` parts. Afterwards another epoch may be in force, begun by this
/// one or by somebody else, or the same one, its chains closed: whoever still wants something else asks again. `may_begin`
/// says whether a closing record may be the first record of all.
///
/// # Errors
/// [`JournalError`].
pub(crate) async fn change<B: Broker>(
    broker: &B,
    ids: &RunIds,
    generations: &Generations,
    shares: u32,
    may_begin: bool,
) -> Result<(), JournalError> {
    let layout = Layout::in_force(broker, generations, ids).await?;
    let (mut starts, mut events_through) = (layout.starts, layout.events_through);
    for share in Share::each(layout.shares) {
        let Some(closed) = close(broker, ids, generations, &layout, share, may_begin).await? else {
            return Ok(()); // Somebody else has begun the next epoch.
        };
        starts.cover(share, closed.cursor);
        events_through = events_through.max(closed.events_through);
    }
    if planted(SeededBug::EpochBegunAtTheHighest) {
        starts.cover(Share::ALL, starts.highest(Share::ALL));
    }
    let next = Layout { epoch: layout.epoch + 1, shares, starts, events_through, sequence: layout.sequence };
    match append(broker, ids, generations, &next).await {
        Ok(sequence) => {
            tracing::info!(epoch = next.epoch, shares, sequence, "the partitions are shared anew");
            Ok(())
        }
        Err(AppendError::Refused { detail, .. }) => {
            let (after, through) = (layout.starts.lowest(Share::ALL), starts.highest(Share::ALL));
            Err(JournalError::Refused { after, through, detail })
        }
        Err(error) => {
            tracing::warn!(%error, "the next epoch has not begun by this attempt");
            ids.backoff().pause().await;
            Ok(())
        }
    }
}

/// Appends the record of `layout` anew, so that the one there may be purged. An interruption changes nothing.
///
/// # Errors
/// [`AppendError`].
pub(crate) async fn renew<B: Broker>(
    broker: &B,
    ids: &RunIds,
    generations: &Generations,
    layout: &Layout,
) -> Result<u64, AppendError> {
    append(broker, ids, generations, layout).await
}

/// Appends a layout's record behind the one at its `sequence`.
async fn append<B: Broker>(
    broker: &B,
    ids: &RunIds,
    generations: &Generations,
    layout: &Layout,
) -> Result<u64, AppendError> {
    let Layout { epoch, shares, starts, events_through, sequence } = layout;
    // Commands up to the highest start are there: whoever reads in step has read them before this record.
    let highest = starts.highest(Share::ALL);
    let record = OutcomeRecord {
        record_id: ids.next_id(),
        kind: RecordKind::Layout,
        handler: ids.run().into(),
        after: highest,
        through: highest,
        events_through: *events_through,
        outcomes: Vec::new(),
        generations: generations.clone(),
        epoch: *epoch,
        layout: Some(ShareLayout { shares: *shares, starts: starts.list().to_vec() }),
    };
    let message = NewMessage {
        subject: LAYOUT_SUBJECT.to_owned(),
        expected_last: Some(*sequence),
        headers: Headers::new(),
        payload: record.encode().into(),
    };
    Ok(broker.append(OUTCOMES, message).await?.sequence)
}

/// Ends a chain of `layout`, whoever writes it. Answers where it ends; `None` when a later epoch has begun.
async fn close<B: Broker>(
    broker: &B,
    ids: &RunIds,
    generations: &Generations,
    layout: &Layout,
    share: Share,
    may_begin: bool,
) -> Result<Option<Standing>, JournalError> {
    let subject = chain_subject(share);
    let record_id: Arc<str> = ids.next_id();
    let mut backoff = ids.backoff();
    loop {
        let last = last_record(broker, &subject, ids).await?;
        if last.is_none() && layout.epoch == 0 && !may_begin {
            return Err(JournalError::NothingRecorded { share: share.name() });
        }
        let record = last.as_ref().map(|(_, record)| record);
        check_generations(share, record, generations)?;
        let Some(standing) = layout.standing(share, record) else { return Ok(None) };
        if standing.closed || planted(SeededBug::EpochNotEnded) {
            return Ok(Some(standing));
        }
        let closing = OutcomeRecord {
            record_id: record_id.clone(),
            kind: RecordKind::Closed,
            handler: ids.run().into(),
            after: standing.cursor,
            through: standing.cursor,
            events_through: standing.events_through,
            outcomes: Vec::new(),
            generations: generations.clone(),
            epoch: layout.epoch,
            layout: None,
        };
        let message = NewMessage {
            subject: subject.clone(),
            expected_last: Some(last.map_or(0, |(message, _)| message.sequence)),
            headers: Headers::new(),
            payload: closing.encode().into(),
        };
        match broker.append(OUTCOMES, message).await {
            Ok(_) => return Ok(Some(Standing { closed: true, ..standing })),
            Err(AppendError::Refused { detail, .. }) => {
                let (after, through) = (standing.cursor, standing.cursor);
                return Err(JournalError::Refused { after, through, detail });
            }
            // Its handler goes on recording: the next attempt is behind that.
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(share = share.name(), %error, "the chain is not closed yet");
                backoff.pause().await;
            }
        }
    }
}

/// The position of a share's last command, as the leader has it; 0 without one.
///
/// # Errors
/// [`BrokerError`].
pub async fn newest_command<B: Broker>(broker: &B, share: Share) -> Result<u64, BrokerError> {
    if share == Share::ALL {
        return Ok(broker.state(COMMANDS).await?.last_sequence);
    }
    let mut newest = 0;
    for filter in share.filters() {
        let last = broker.last(COMMANDS, &filter).await?;
        newest = newest.max(last.map_or(0, |message| message.sequence));
    }
    Ok(newest)
}

/// The subject of a share's chain.
pub(crate) fn chain_subject(share: Share) -> String {
    format!("{OUTCOME_PREFIX}.{}", share.name())
}

/// A chain must speak of the streams as they are.
pub(crate) fn check_generations(
    share: Share,
    last: Option<&OutcomeRecord>,
    generations: &Generations,
) -> Result<(), JournalError> {
    match last.filter(|record| record.generations != *generations) {
        None => Ok(()),
        Some(record) => Err(JournalError::OtherGeneration {
            share: share.name(),
            recorded: Box::new(record.generations.clone()),
            found: Box::new(generations.clone()),
        }),
    }
}

/// The last record on a subject of OUTCOMES, from the leader. Waits for a server that does not answer.
pub(crate) async fn last_record<B: Broker>(
    broker: &B,
    subject: &str,
    ids: &RunIds,
) -> Result<Option<(StoredMessage, OutcomeRecord)>, JournalError> {
    let Some(message) = answered(ids, || broker.last(OUTCOMES, subject)).await? else { return Ok(None) };
    let record = OutcomeRecord::from_stored(&message)?;
    Ok(Some((message, record)))
}
