//! Sends the commands of all rows, many at once, and ticks the rows off by the recorded outcomes.
//!
//! What is under way is bounded; no clock decides anything but the patience with a pipeline that records nothing.

use std::{collections::HashMap, io::Read, time::Duration};

use super::{
    mapping::{Mapping, RowRefusal},
    rejects::Rejects,
};
use crate::{
    command_publisher::{self, OutgoingCommand, PublishError},
    failure::CommandFailure,
    outcome_follower::OutcomeFollower,
    session::Connected,
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use indicatif::ProgressBar;
use millstream_engine::{
    broker::Broker as _,
    contract::{
        outcome::{CommandOutcome, Outcome},
        stream_names,
    },
    exit_code::ExitCode,
};

/// Publishes under way: enough to keep the server busy over a network.
const PUBLISHES_MAX: usize = 1024;
/// Rows under way: bounds the memory, and what a handler that stands still has to catch up with.
const ROWS_MAX: usize = 16 * 1024;

/// What became of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// All rows of the file.
    pub(crate) rows: u64,
    /// Rows all of whose commands were accepted, now or before.
    pub(crate) accepted: u64,
    /// Rows that are in the rejects file.
    pub(crate) refused: u64,
    /// Accepted rows that an earlier import had brought already.
    pub(crate) duplicates: u64,
    /// Commands sent.
    pub(crate) commands: u64,
}

/// A row whose outcomes are not all in.
#[derive(Debug)]
struct RowUnderWay {
    record: csv::StringRecord,
    outstanding: usize,
    all_known_before: bool,
    refusal: Option<RowRefusal>,
}

type Publish = BoxFuture<'static, Result<(), PublishError>>;

/// One import.
pub(crate) struct Import {
    connected: Connected,
    mapping: Mapping,
    rejects: Rejects,
    bar: ProgressBar,
    /// What was on COMMANDS before: a duplicate of something later is a publish of our own, repeated.
    commands_before: u64,
    rows: HashMap<u64, RowUnderWay>,
    waiting: HashMap<String, u64>,
    publishes: FuturesUnordered<Publish>,
    summary: Summary,
}

impl Import {
    /// Prepares; sends nothing yet.
    pub(crate) fn new(connected: Connected, mapping: Mapping, rejects: Rejects, bar: ProgressBar) -> Self {
        Self {
            connected,
            mapping,
            rejects,
            bar,
            commands_before: 0,
            rows: HashMap::new(),
            waiting: HashMap::new(),
            publishes: FuturesUnordered::new(),
            summary: Summary::default(),
        }
    }

    /// Runs to the end: every row is accepted or in the rejects file.
    ///
    /// # Errors
    /// When the file cannot be read, the server refuses, or no outcome is recorded for `patience`. What was sent stays
    /// sent: the same import again goes on.
    pub(crate) async fn run(
        mut self,
        mut reader: csv::Reader<impl Read>,
        patience: Duration,
    ) -> Result<(Summary, Rejects), CommandFailure> {
        self.commands_before = self.connected.broker.state(stream_names::COMMANDS).await?.last_sequence;
        let mut follower = OutcomeFollower::begin(&self.connected.broker, "import").await?;
        let mut records = reader.records();
        let mut more = true;
        while more || !self.waiting.is_empty() || !self.publishes.is_empty() {
            while more && self.has_room() {
                match records.next() {
                    Some(record) => self.take(record.map_err(|error| CommandFailure::data(&error))?)?,
                    None => more = false,
                }
            }
            tokio::select! {
                Some(published) = self.publishes.next(), if !self.publishes.is_empty() => published?,
                outcomes = tokio::time::timeout(patience, follower.next()), if !self.waiting.is_empty() => {
                    let outcomes = outcomes.map_err(|_| self.nothing_recorded(patience))??;
                    for outcome in &outcomes {
                        self.tick_off(outcome)?;
                    }
                }
                else => {}
            }
        }
        Ok((self.summary, self.rejects))
    }

    fn has_room(&self) -> bool {
        self.publishes.len() < PUBLISHES_MAX && self.rows.len() < ROWS_MAX
    }

    fn nothing_recorded(&self, patience: Duration) -> CommandFailure {
        CommandFailure::new(
            ExitCode::Unavailable,
            format_args!(
                "no outcome was recorded for {} s and {} commands wait; is the command handler running? \
                 (`millstream doctor`) The same import again goes on",
                patience.as_secs(),
                self.waiting.len()
            ),
        )
    }

    /// Sends a row's commands, or refuses the row.
    fn take(&mut self, record: csv::StringRecord) -> Result<(), CommandFailure> {
        self.summary.rows += 1;
        let number = self.summary.rows;
        let commands = self.mapping.commands(number, &record).and_then(|commands| {
            let too_large = |error: PublishError| RowRefusal {
                code: "body-too-large".to_owned(),
                reason: error.to_string(),
            };
            let client = &self.connected.client;
            commands
                .iter()
                .try_for_each(|each| command_publisher::check_size(client, each))
                .map_err(too_large)?;
            Ok(commands)
        });
        match commands {
            Ok(commands) => {
                let row = RowUnderWay {
                    record,
                    outstanding: commands.len(),
                    all_known_before: true,
                    refusal: None,
                };
                self.rows.insert(number, row);
                for command in commands {
                    self.send(number, command);
                }
                Ok(())
            }
            Err(refusal) => self.refuse(number, &refusal, &record),
        }
    }

    fn send(&mut self, row: u64, command: OutgoingCommand) {
        self.summary.commands += 1;
        self.waiting.insert(command.id.clone(), row);
        let broker = self.connected.broker.clone();
        self.publishes.push(Box::pin(async move {
            command_publisher::publish(&broker, &command).await.map(|_position| ())
        }));
    }

    /// Takes the first outcome of each of our ids; outcomes of others pass by.
    fn tick_off(&mut self, outcome: &CommandOutcome) -> Result<(), CommandFailure> {
        let Some(number) = outcome.id.as_deref().and_then(|id| self.waiting.remove(id)) else {
            return Ok(());
        };
        let Some(row) = self.rows.get_mut(&number) else { return Ok(()) };
        row.outstanding -= 1;
        row.all_known_before &=
            matches!(outcome.outcome, Outcome::Duplicate { of, .. } if of <= self.commands_before);
        if let Outcome::Rejected { code, message } | Outcome::DeadLettered { code, message } =
            outcome.outcome.first()
        {
            row.refusal = Some(RowRefusal {
                code: code.to_string(),
                reason: format!("{}: {message}", outcome.address),
            });
        }
        if row.outstanding > 0 {
            return Ok(());
        }
        let Some(row) = self.rows.remove(&number) else { return Ok(()) };
        match &row.refusal {
            Some(refusal) => self.refuse(number, refusal, &row.record),
            None => {
                self.summary.accepted += 1;
                self.summary.duplicates += u64::from(row.all_known_before);
                self.bar.inc(1);
                Ok(())
            }
        }
    }

    fn refuse(
        &mut self,
        number: u64,
        refusal: &RowRefusal,
        record: &csv::StringRecord,
    ) -> Result<(), CommandFailure> {
        self.summary.refused += 1;
        self.bar.inc(1);
        self.rejects.add(number, &refusal.code, &refusal.reason, record).map_err(|error| {
            CommandFailure::new(ExitCode::of_file_error(&error), format_args!("rejects file: {error}"))
        })
    }
}
