//! Sends the commands of all rows, many at once, and ticks the rows off by the recorded outcomes.

use std::collections::HashMap;

use indicatif::ProgressBar;
use millstream_contract::{exit_code::ExitCode, outcome::Outcome};

use super::{
    input::RowsFile,
    mapping::{Mapping, RowRefusal},
    rejects::Rejects,
};
use crate::{
    command_publisher::PublishError,
    dispatcher::{Answered, Dispatcher},
    failure::CommandFailure,
};

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
    /// Those of them whose id an earlier import had used: they were not decided anew, whatever they say now.
    pub(crate) commands_sent_before: u64,
}

/// A row whose outcomes are not all in.
#[derive(Debug)]
struct RowUnderWay {
    record: csv::StringRecord,
    outstanding: usize,
    known_before: bool,
    refusal: Option<RowRefusal>,
}

/// One import.
pub(crate) struct Import {
    dispatcher: Dispatcher<u64>,
    mapping: Mapping,
    rejects: Rejects,
    bar: ProgressBar,
    rows: HashMap<u64, RowUnderWay>,
    summary: Summary,
}

impl Import {
    /// Prepares; sends nothing yet.
    pub(crate) fn new(
        dispatcher: Dispatcher<u64>,
        mapping: Mapping,
        rejects: Rejects,
        bar: ProgressBar,
    ) -> Self {
        Self { dispatcher, mapping, rejects, bar, rows: HashMap::new(), summary: Summary::default() }
    }

    /// Runs to the end: every row is accepted or in the rejects file.
    ///
    /// # Errors
    /// When the server refuses, nothing is recorded any more, or the file has changed since it was checked. What was sent stays sent:
    /// the same import again goes on.
    pub(crate) async fn run(&mut self, file: &RowsFile) -> Result<(), CommandFailure> {
        for record in file.reader()?.records() {
            while !self.dispatcher.has_room() {
                self.tick_off().await?;
            }
            self.take(record.map_err(|error| file.changed(error))?).await?;
        }
        while !self.dispatcher.is_settled() {
            self.tick_off().await?;
        }
        Ok(())
    }

    /// What has become of the rows so far, and the file of the refused ones.
    pub(crate) async fn end(self) -> (Summary, Rejects) {
        self.dispatcher.end().await;
        (self.summary, self.rejects)
    }

    /// Sends a row's commands, or refuses the row.
    async fn take(&mut self, record: csv::StringRecord) -> Result<(), CommandFailure> {
        self.summary.rows += 1;
        let number = self.summary.rows;
        let commands = self.mapping.commands(number, &record).and_then(|commands| {
            let too_large = |error: PublishError| RowRefusal {
                code: "body-too-large".to_owned(),
                reason: error.to_string(),
            };
            commands.iter().try_for_each(|each| self.dispatcher.check_size(each)).map_err(too_large)?;
            Ok(commands)
        });
        match commands {
            // All of it was sent for an earlier row.
            Ok(commands) if commands.is_empty() => {
                self.summary.accepted += 1;
                self.bar.inc(1);
                Ok(())
            }
            Ok(commands) => {
                let row =
                    RowUnderWay { record, outstanding: commands.len(), known_before: true, refusal: None };
                self.rows.insert(number, row);
                for command in commands {
                    self.summary.commands += 1;
                    self.dispatcher.send(number, command).await?;
                }
                Ok(())
            }
            Err(refusal) => self.refuse(number, &refusal, &record),
        }
    }

    async fn tick_off(&mut self) -> Result<(), CommandFailure> {
        for settled in self.dispatcher.progress().await? {
            self.settle(&settled)?;
        }
        Ok(())
    }

    fn settle(&mut self, settled: &Answered<u64>) -> Result<(), CommandFailure> {
        let Some(row) = self.rows.get_mut(&settled.tag) else { return Ok(()) };
        row.outstanding -= 1;
        row.known_before &= settled.known_before;
        self.summary.commands_sent_before += u64::from(settled.known_before);
        let outcome = &settled.outcome;
        if let Outcome::Rejected { code, message } | Outcome::DeadLettered { code, message } =
            outcome.outcome.first()
        {
            let reason = format!("{}: {message}", outcome.address);
            row.refusal = Some(RowRefusal { code: code.to_string(), reason });
        }
        if row.outstanding > 0 {
            return Ok(());
        }
        let Some(row) = self.rows.remove(&settled.tag) else { return Ok(()) };
        match &row.refusal {
            Some(refusal) => self.refuse(settled.tag, refusal, &row.record),
            None => {
                self.summary.accepted += 1;
                self.summary.duplicates += u64::from(row.known_before);
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
