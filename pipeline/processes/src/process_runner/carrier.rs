//! Carries effects out. Commands are published in groups, as every other publisher does. Schedules are all in flight together. Each cancelled
//! timer is a purge of its own.
//!
//! Commands to one aggregate are stored in the order in which the process asked for them, whatever fails in between. Several commands to one
//! aggregate are sent in one atomic batch, of which the server stores all or nothing. If the server accepts no batch, they are sent one after
//! the other.
//!
//! An effect that the server will never accept becomes a dead letter, so that nothing waits behind it.

use std::collections::BTreeMap;

use futures::{StreamExt, future::BoxFuture, stream};
use millstream_contract::stream_names::{COMMANDS, TIMERS};
use millstream_jetstream::{
    broker::{ATOMIC_BATCH_MAX, AppendError, Broker, BrokerError, NewMessage},
    dead_letter_store::DeadLetterStore,
    group_append::{AppendStrategy, GroupAppend},
};
use millstream_runtime::metrics::ProcessMetrics;

use super::outbox::{Row, dead_letter, sequence, timer_subject};

/// How many commands are sent together: as many as an atomic batch takes.
const GROUP_MAX: usize = ATOMIC_BATCH_MAX;
/// How many groups are in flight together.
const GROUPS_AT_ONCE: usize = 4;
/// How many timers are set or cancelled at the same time.
const TIMERS_AT_ONCE: usize = 256;

/// A row of the outbox as the file has it, together with its decoded contents.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) row: Row,
}

/// The result for rows of the outbox.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// The keys and values of rows that are done.
    pub(super) done: Vec<(String, Vec<u8>)>,
    /// How many rows are not done.
    pub(super) left: usize,
    /// The sequence of the first event that has effects left. Progress must not be recorded beyond it.
    pub(super) first_left: Option<u64>,
    /// Why the server did not accept an effect at the moment.
    pub(super) held: Option<String>,
    /// The rows that the server will never accept, with the reasons.
    refused: Vec<(Waiting, String)>,
}

impl Carried {
    fn done(&mut self, waiting: Waiting) {
        self.done.push((waiting.key, waiting.value));
    }

    fn leave(&mut self, waiting: &Waiting) {
        self.left += 1;
        let sequence = sequence(&waiting.key).unwrap_or(0);
        self.first_left = Some(self.first_left.map_or(sequence, |first| first.min(sequence)));
    }

    fn hold(&mut self, reason: String) {
        self.held.get_or_insert(reason);
    }

    fn add(&mut self, other: Self) {
        self.done.extend(other.done);
        self.left += other.left;
        self.first_left = self.first_left.into_iter().chain(other.first_left).min();
        self.held = self.held.take().or(other.held);
        self.refused.extend(other.refused);
    }
}

/// The rows of one aggregate or of one timer, in their order.
type Lane = Vec<Waiting>;

/// Rows, sorted by how they are sent.
#[derive(Debug, Default)]
struct Sorted {
    /// Commands, each to a different aggregate.
    flat: Vec<Waiting>,
    /// Several commands to one aggregate, as many as fit into one group.
    deep: Vec<Vec<Lane>>,
    timers: Vec<Lane>,
    /// Commands of an aggregate that no longer fit into its group.
    postponed: Vec<Waiting>,
}

impl Sorted {
    fn new(rows: Vec<Waiting>) -> Self {
        let mut commands: BTreeMap<String, Lane> = BTreeMap::new();
        let mut timers: BTreeMap<String, Lane> = BTreeMap::new();
        for waiting in rows {
            let lanes = if matches!(waiting.row, Row::Send { .. }) { &mut commands } else { &mut timers };
            lanes.entry(waiting.row.lane()).or_default().push(waiting);
        }
        let mut sorted = Self { timers: timers.into_values().collect(), ..Self::default() };
        let mut room = 0;
        for mut lane in commands.into_values() {
            if lane.len() == 1 {
                sorted.flat.append(&mut lane);
                continue;
            }
            sorted.postponed.extend(lane.drain(lane.len().min(GROUP_MAX)..));
            if lane.len() > room {
                sorted.deep.push(Vec::new());
                room = GROUP_MAX;
            }
            room -= lane.len();
            if let Some(group) = sorted.deep.last_mut() {
                group.push(lane);
            }
        }
        sorted
    }
}

/// Publishes effects.
pub(super) struct Carrier<B> {
    broker: B,
    appends: GroupAppend<B>,
    letters: DeadLetterStore<B>,
    /// Whether each command is sent on its own, because the last attempt was not accepted: a message that the server refuses can leave it
    /// unclear what became of its batch.
    singly: bool,
}

/// The process whose effects are carried out.
pub(super) struct Issuer<'a> {
    pub(super) process: &'static str,
    pub(super) metrics: &'a ProcessMetrics,
}

impl<B: Broker> Carrier<B> {
    pub(super) fn new(broker: B) -> Self {
        let appends = GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured);
        Self { letters: DeadLetterStore::new(broker.clone()), broker, appends, singly: false }
    }

    /// Carries out what can be carried out at the moment.
    ///
    /// # Errors
    /// [`BrokerError`] when the server refuses a question for good.
    pub(super) async fn carry_out(
        &mut self,
        issuer: &Issuer<'_>,
        rows: Vec<Waiting>,
    ) -> Result<Carried, BrokerError> {
        let Sorted { flat, deep, timers, postponed } = Sorted::new(rows);
        let (broker, metrics) = (&self.broker, issuer.metrics);
        let (flat, mut deep_lanes) = if self.singly {
            (Vec::new(), vec![flat.into_iter().map(|waiting| vec![waiting]).collect()])
        } else {
            (flat, Vec::new())
        };
        deep_lanes.extend(deep);
        let (singly, appends) = (self.singly, &self.appends);
        let deep: Vec<BoxFuture<'_, Carried>> = deep_lanes
            .into_iter()
            .map(|group| Box::pin(send_deep(broker, metrics, group, singly)) as BoxFuture<'_, _>)
            .collect();
        let deep = stream::iter(deep).buffer_unordered(GROUPS_AT_ONCE).collect::<Vec<_>>();
        let timers: Vec<BoxFuture<'_, Result<Carried, BrokerError>>> = timers
            .into_iter()
            .map(|lane| Box::pin(set_timer(broker, metrics, lane)) as BoxFuture<'_, _>)
            .collect();
        let timers = stream::iter(timers).buffer_unordered(TIMERS_AT_ONCE).collect::<Vec<_>>();
        let (mut all, deep, timers) = tokio::join!(send_flat(appends, metrics, flat), deep, timers);
        deep.into_iter().for_each(|group| all.add(group));
        for lane in timers {
            all.add(lane?);
        }
        postponed.iter().for_each(|waiting| all.leave(waiting));
        let refused = std::mem::take(&mut all.refused);
        self.set_aside(issuer, refused, &mut all).await;
        self.singly = all.held.is_some();
        Ok(all)
    }

    /// Makes dead letters of what the server will never accept.
    async fn set_aside(&self, issuer: &Issuer<'_>, refused: Vec<(Waiting, String)>, carried: &mut Carried) {
        let (waiting, letters): (Vec<_>, Vec<_>) = refused
            .into_iter()
            .filter_map(|(waiting, cause)| {
                let letter = dead_letter(issuer.process, &waiting.key, &waiting.row, &cause)?;
                let (name, subject) = (letter.name(), &letter.subject);
                tracing::error!(letter = name, subject, cause, "an effect is set aside");
                Some((waiting, letter))
            })
            .unzip();
        for (waiting, kept) in waiting.into_iter().zip(self.letters.try_keep(&letters).await) {
            match kept {
                Ok(()) => {
                    issuer.metrics.dead_letters.inc();
                    carried.done(waiting);
                }
                Err(error) => {
                    carried.leave(&waiting);
                    carried.hold(error.to_string());
                }
            }
        }
    }
}

fn command_message(waiting: &Waiting) -> Option<NewMessage> {
    let Row::Send { command } = &waiting.row else { return None };
    Some(NewMessage {
        subject: command.subject(),
        expected_last: None,
        headers: command.headers(),
        payload: command.payload(),
    })
}

/// Sends commands to different aggregates. If one fails, the others continue.
async fn send_flat<B: Broker>(
    appends: &GroupAppend<B>,
    metrics: &ProcessMetrics,
    mut rows: Vec<Waiting>,
) -> Carried {
    let mut groups: Vec<BoxFuture<'_, _>> = Vec::new();
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(GROUP_MAX));
        let group = std::mem::replace(&mut rows, rest);
        groups.push(Box::pin(async move {
            let messages = group.iter().filter_map(command_message).collect();
            (appends.append_all(messages).await, group)
        }));
    }
    let mut groups = stream::iter(groups).buffer_unordered(GROUPS_AT_ONCE);
    let mut carried = Carried::default();
    while let Some((answers, group)) = groups.next().await {
        for (waiting, answer) in group.into_iter().zip(answers) {
            settle(metrics, waiting, answer, &mut carried);
        }
    }
    carried
}

/// Sends commands of aggregates that have several: all together or none. If the server accepts no batch of them, they are sent in order.
async fn send_deep<B: Broker>(
    broker: &B,
    metrics: &ProcessMetrics,
    group: Vec<Lane>,
    singly: bool,
) -> Carried {
    if singly {
        return send_in_order(broker, metrics, group).await;
    }
    let messages = group.iter().flatten().filter_map(command_message).collect();
    let mut carried = Carried::default();
    match broker.append_atomically(COMMANDS, messages).await {
        Ok(_) => {
            let rows = group.into_iter().flatten();
            rows.for_each(|waiting| {
                settle(metrics, waiting, Ok(()), &mut carried);
            });
            carried
        }
        Err(error @ AppendError::Unclear { .. }) => {
            group.iter().flatten().for_each(|waiting| carried.leave(waiting));
            carried.hold(error.to_string());
            carried
        }
        Err(error) => {
            tracing::debug!(%error, "a batch of commands is sent one after the other");
            send_in_order(broker, metrics, group).await
        }
    }
}

/// Sends the first command of each aggregate, then the second of each, and so on. If a command of an aggregate is not stored, the
/// rest of that aggregate's commands wait.
async fn send_in_order<B: Broker>(broker: &B, metrics: &ProcessMetrics, group: Vec<Lane>) -> Carried {
    let appends = GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Single);
    let mut lanes: Vec<_> = group.into_iter().map(Vec::into_iter).collect();
    let mut carried = Carried::default();
    while !lanes.is_empty() {
        let mut heads = Vec::new();
        lanes.retain_mut(|lane| lane.next().map(|waiting| heads.push(waiting)).is_some());
        let messages = heads.iter().filter_map(command_message).collect();
        let answers = appends.append_all(messages).await;
        let mut stored = Vec::new();
        for (waiting, answer) in heads.into_iter().zip(answers) {
            stored.push(settle(metrics, waiting, answer, &mut carried));
        }
        let mut stored = stored.into_iter();
        lanes.retain(|lane| {
            let goes_on = stored.next().unwrap_or(false);
            if !goes_on {
                lane.as_slice().iter().for_each(|waiting| carried.leave(waiting));
            }
            goes_on
        });
    }
    carried
}

/// Notes what became of a command. Returns whether the commands after it may follow.
fn settle<T>(
    metrics: &ProcessMetrics,
    waiting: Waiting,
    answer: Result<T, AppendError>,
    carried: &mut Carried,
) -> bool {
    match answer {
        Ok(_) => {
            metrics.commands.inc();
            carried.done(waiting);
            true
        }
        Err(error @ AppendError::Refused { .. }) => {
            carried.refused.push((waiting, error.to_string()));
            true
        }
        Err(error) => {
            carried.leave(&waiting);
            carried.hold(error.to_string());
            false
        }
    }
}

/// Sets or cancels a timer. If it has several rows, only the last one counts.
async fn set_timer<B: Broker>(
    broker: &B,
    metrics: &ProcessMetrics,
    mut lane: Lane,
) -> Result<Carried, BrokerError> {
    let mut carried = Carried::default();
    let Some(last) = lane.last() else { return Ok(carried) };
    let held = match &last.row {
        Row::SetTimer { name, at, command } => {
            let message = NewMessage {
                subject: timer_subject(name),
                expected_last: None,
                headers: command.schedule_headers(*at),
                payload: command.payload(),
            };
            match broker.append(TIMERS, message).await {
                Ok(_) => {
                    metrics.timers_set.inc();
                    None
                }
                Err(error @ AppendError::Refused { .. }) => {
                    let last = lane.pop().expect("it was looked at");
                    carried.refused.push((last, error.to_string()));
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        }
        Row::CancelTimer { name } => match broker.purge_subject(TIMERS, &timer_subject(name), None).await {
            Ok(_) => {
                metrics.timers_cancelled.inc();
                None
            }
            Err(error @ BrokerError::Unavailable { .. }) => Some(error.to_string()),
            Err(error) => return Err(error),
        },
        Row::Send { .. } => None,
    };
    match held {
        None => lane.drain(..).for_each(|waiting| carried.done(waiting)),
        Some(reason) => {
            lane.iter().for_each(|waiting| carried.leave(waiting));
            carried.hold(reason);
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests;
