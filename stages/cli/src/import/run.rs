//! Sends the commands of all rows and groups of rows, many at once, and ticks the rows off by the recorded outcomes.

use std::collections::{BTreeMap, HashMap};

use indicatif::ProgressBar;
use millstream_contract::{
    exit_code::ExitCode,
    outcome::{CommandOutcome, Outcome},
    subject::StreamId,
};

use super::{
    decided_order::{DecidedOrder, Spot},
    input::RowsFile,
    map_file::Changed,
    mapping::{MappedRow, Mapping, RowCommand},
    progress::{RowUnderWay, Told},
    refusal::{KNOWN_WITH_OTHER_CONTENT, MENDED_SINCE, RowRefusal},
    rejects::{Reject, Rejects},
    shared::{ChangedAt, Shared, Sharing},
    units::Unit,
};
use crate::{
    command_publisher::PublishError,
    dispatcher::{Answered, Dispatcher},
    failure::CommandFailure,
};

/// Most rows in memory that wait for outcomes, or for the rows before them. Rows wait as well if they send nothing, because they share a command or
/// are refused.
const ROWS_MAX: u64 = 32 * 1024;

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// All rows that were read.
    pub(crate) rows: u64,
    /// Rows that changed something now.
    pub(crate) new: u64,
    /// Rows that an earlier import had brought already.
    pub(crate) known: u64,
    /// Rows that were refused as they stand here, and mended since. They are refused again, or known if the map wants that.
    pub(crate) mended: u64,
    /// Accepted rows that changed nothing, or of which a command changed nothing that they do not share with others: what they say held before.
    pub(crate) without_effect: u64,
    /// Rows that are in the rejects file.
    pub(crate) refused: u64,
    /// Rows that the map skips.
    pub(crate) skipped: u64,
    /// Commands sent, without those that were sent once more under another id.
    pub(crate) commands: u64,
    /// Aggregates of which a row was decided behind one that follows it in the file.
    pub(crate) out_of_order: u64,
    /// One such row: its line and aggregate.
    pub(crate) example_out_of_order: Option<(u64, StreamId)>,
}

impl Summary {
    /// Rows that have no outcome yet.
    pub(crate) fn undecided(&self) -> u64 {
        self.rows - self.new - self.known - self.without_effect - self.refused - self.skipped
    }
}

/// Which command of which row, and how often earlier imports had it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    row: u64,
    command: usize,
    refused: u32,
    /// Whether one of these imports refused exactly this command.
    seen: bool,
}

/// Positions in COMMANDS: of the first command of an id, and of the one that changed something, 0 if none did.
#[derive(Debug, Clone, Copy)]
struct At {
    position: u64,
    changed: ChangedAt,
}

impl At {
    fn of(outcome: &CommandOutcome) -> Self {
        let position = match outcome.outcome {
            Outcome::Duplicate { of, .. } => of,
            _ => outcome.position,
        };
        // What was said under the id instead, as in mended rejects, is not what stands here.
        let has_changed = matches!(outcome.outcome.first(), Outcome::Accepted { events: 1.., .. })
            && !is_another(&outcome.outcome);
        Self { position, changed: if has_changed { position } else { 0 } }
    }
}

/// One import.
pub(crate) struct Import {
    dispatcher: Dispatcher<Tag>,
    mapping: Mapping,
    rejects: Rejects,
    bar: ProgressBar,
    rows: BTreeMap<u64, RowUnderWay>,
    shared: Shared,
    /// Whether the rows are rejects, of which each may be sent once more. Those of one aggregate are sent one by one, so that none of them is decided
    /// behind those that follow it.
    are_rejects: bool,
    /// Of the commands of rejects those that have no outcome yet, by their aggregates.
    undecided: HashMap<StreamId, usize>,
    order: DecidedOrder,
    /// `once` commands that are known, as long as a command before them has no outcome yet that may change what they say.
    known_for_now: Vec<(Tag, At)>,
    /// Rows that are refused, until those before them are decided.
    refused: BTreeMap<u64, Reject>,
    summary: Summary,
    /// Rows and groups so far.
    units: u64,
    /// Rows in memory.
    held: u64,
}

impl Import {
    /// Prepares; sends nothing yet.
    pub(crate) fn new(
        dispatcher: Dispatcher<Tag>,
        mapping: Mapping,
        rejects: Rejects,
        bar: ProgressBar,
    ) -> Self {
        let (rows, shared, refused) = (BTreeMap::new(), Shared::default(), BTreeMap::new());
        Self {
            dispatcher,
            mapping,
            rejects,
            bar,
            rows,
            shared,
            are_rejects: false,
            undecided: HashMap::new(),
            order: DecidedOrder::default(),
            known_for_now: Vec::new(),
            refused,
            summary: Summary::default(),
            units: 0,
            held: 0,
        }
    }

    /// Runs to the end: every row is accepted or in the rejects file.
    ///
    /// # Errors
    /// When the server refuses, nothing is recorded any more, or the file has changed since it was checked. What was sent stays sent:
    /// the same import again goes on.
    pub(crate) async fn run(&mut self, file: &RowsFile) -> Result<(), CommandFailure> {
        self.are_rejects = file.is_of_rejects();
        for unit in self.mapping.units(file)? {
            while !self.dispatcher.has_room() || self.held >= ROWS_MAX {
                self.tick_off().await?;
            }
            self.take(unit?).await?;
        }
        while !self.dispatcher.is_settled() {
            self.tick_off().await?;
        }
        let Some((_, first)) = self.rows.first_key_value() else { return Ok(()) };
        let (count, line) = (self.rows.len(), first.line());
        let said = format_args!("{count} rows or groups have no outcome, the first of them on line {line}");
        Err(CommandFailure::new(ExitCode::Software, said))
    }

    /// What has become of the rows so far, and the file of the refused ones.
    ///
    /// # Errors
    /// When that file cannot be written.
    pub(crate) async fn end(mut self) -> Result<(Summary, Rejects), CommandFailure> {
        self.dispatcher.end().await;
        for reject in std::mem::take(&mut self.refused).into_values() {
            write(&mut self.rejects, &reject)?;
        }
        (self.summary.out_of_order, self.summary.example_out_of_order) = self.order.late();
        Ok((self.summary, self.rejects))
    }

    /// Sends the commands of a row or group, or refuses it.
    async fn take(&mut self, unit: Unit) -> Result<(), CommandFailure> {
        let count = unit.rows.len() as u64;
        self.summary.rows += count;
        if unit.is_skipped() {
            self.summary.skipped += count;
            self.bar.inc(count);
            return Ok(());
        }
        self.units += 1;
        let number = self.units;
        let MappedRow { identity, commands } = self.mapping.map(&unit);
        let too_large = |error: PublishError| RowRefusal::new("body-too-large", error.to_string());
        let commands = commands.and_then(|commands| {
            let check = |each: &RowCommand| self.dispatcher.check_size(&each.again(u32::MAX));
            commands.iter().try_for_each(check).map_err(too_large)?;
            Ok(commands)
        });
        let rows = unit.rows;
        self.held += count;
        let commands = match commands {
            Ok(commands) => commands,
            Err(refusal) => return self.refuse(number, Reject { rows, identity, refusal }),
        };
        self.rows.insert(number, RowUnderWay::new(rows, identity, commands.clone()));
        for (index, command) in (0..).zip(commands) {
            let sharing =
                if command.once { self.shared.share(&command.command, (number, index)) } else { Sharing::No };
            match sharing {
                Sharing::Told(told) => self.told(number, index, told, 0)?,
                Sharing::With((row, command)) => {
                    if let Some(row) = self.rows.get_mut(&row) {
                        row.follow(command, (number, index));
                    }
                }
                Sharing::No => {
                    if self.are_rejects {
                        self.hold_back(&command.command.address.stream_id).await?;
                    }
                    self.summary.commands += 1;
                    if let Some(row) = self.rows.get_mut(&number) {
                        row.tries(index, 1);
                    }
                    let tag = Tag { row: number, command: index, refused: 0, seen: false };
                    self.dispatcher.send(tag, command.again(0)).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until everything before it that is for its aggregate is decided. A command that was refused is sent under its first id, which is known,
    /// and then under another one: behind whatever has been sent meanwhile.
    async fn hold_back(&mut self, aggregate: &StreamId) -> Result<(), CommandFailure> {
        while self.undecided.contains_key(aggregate) && !self.dispatcher.is_settled() {
            self.tick_off().await?;
        }
        *self.undecided.entry(aggregate.clone()).or_default() += 1;
        Ok(())
    }

    /// Lets what was held back for a command go on, as that is decided.
    fn let_go(&mut self, Tag { row, command: index, .. }: Tag) {
        if !self.are_rejects {
            return;
        }
        let Some(command) = self.rows.get(&row).and_then(|row| row.command(index)) else { return };
        let aggregate = &command.command.address.stream_id;
        if let Some(waiting) = self.undecided.get_mut(aggregate) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.undecided.remove(aggregate);
            }
        }
    }

    async fn tick_off(&mut self) -> Result<(), CommandFailure> {
        for answered in self.dispatcher.progress().await? {
            self.settle(answered).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, answered: Answered<Tag>) -> Result<(), CommandFailure> {
        let Answered { tag, outcome, known_before } = answered;
        let at = At::of(&outcome);
        let told = match (outcome.outcome.first(), known_before) {
            // An earlier import had it refused. It may be mended since, or allowed.
            (Outcome::Rejected { .. }, true) => {
                let seen = tag.seen || !is_another(&outcome.outcome);
                return self.send_again(Tag { seen, ..tag }).await;
            }
            (first @ (Outcome::Rejected { code, message } | Outcome::DeadLettered { code, message }), _) => {
                if let (Outcome::DeadLettered { .. }, Some(row)) = (first, self.rows.get_mut(&tag.row)) {
                    row.set_aside(tag.command);
                }
                let reason = format!("{}: {message}", outcome.address);
                Told::Refused(RowRefusal::new(code, reason))
            }
            (Outcome::Accepted { .. }, true) if is_another(&outcome.outcome) => match self.said_before(tag) {
                Some(told) => told,
                None => return self.send_again(tag).await,
            },
            (Outcome::Accepted { .. } | Outcome::Duplicate { .. }, true) => {
                match self.is_overtaken(tag, at) {
                    Some(true) => return self.send_again(tag).await,
                    Some(false) => Told::Known,
                    None => {
                        self.known_for_now.push((tag, at));
                        return Ok(());
                    }
                }
            }
            (Outcome::Accepted { events: 0, .. }, false) => Told::WithoutEffect,
            (Outcome::Accepted { .. } | Outcome::Duplicate { .. }, false) => Told::New,
        };
        self.decided(tag, told, at)?;
        // Answers come in any order.
        for (tag, at) in std::mem::take(&mut self.known_for_now) {
            match self.is_overtaken(tag, at) {
                Some(true) => self.send_again(tag).await?,
                Some(false) => self.decided(tag, Told::Known, at)?,
                None => self.known_for_now.push((tag, at)),
            }
        }
        Ok(())
    }

    /// Notes what became of a command that was sent.
    fn decided(&mut self, tag: Tag, told: Told, at: At) -> Result<(), CommandFailure> {
        self.let_go(tag);
        let row = self.rows.get(&tag.row);
        let of_row = row.and_then(|row| Some((row.line(), row.command(tag.command)?)));
        if let Some((line, command)) = of_row.filter(|(_, command)| !command.once) {
            let aggregate = &command.command.address.stream_id;
            let spot = Spot { row: tag.row, line };
            match told {
                Told::New => self.order.changed(aggregate, spot, at.position),
                // What it says holds since then, whether or not it changed anything.
                Told::Known | Told::Mended | Told::WithoutEffect => {
                    self.order.stands(aggregate, spot, at.position)
                }
                Told::Refused(_) => {}
            }
        }
        self.told(tag.row, tag.command, told, at.changed)
    }

    /// Has a command decided once more, under the next of its ids.
    async fn send_again(&mut self, tag: Tag) -> Result<(), CommandFailure> {
        let refused = tag.refused + 1;
        let Some(row) = self.rows.get_mut(&tag.row) else { return Ok(()) };
        row.tries(tag.command, refused.saturating_add(1));
        let Some(again) = row.command(tag.command).map(|command| command.again(refused)) else {
            return Ok(());
        };
        self.dispatcher.send(Tag { refused, ..tag }, again).await
    }

    /// Whether a command that rows share is known, and a row before it in the file has said something else of the same aggregate since, now or in
    /// an import that ended in between: what the file says last has to hold. None until that is known.
    fn is_overtaken(&self, Tag { row, command: index, .. }: Tag, at: At) -> Option<bool> {
        match self.rows.get(&row).and_then(|row| row.command(index)).filter(|command| command.once) {
            Some(each) => self.shared.is_overtaken(&each.command.address, (row, index), at.position),
            None => Some(false),
        }
    }

    /// What is told of a command whose id was accepted before with other content; none if it is given again.
    fn said_before(&self, Tag { row, command: index, refused, seen }: Tag) -> Option<Told> {
        let row = self.rows.get(&row)?;
        let command = row.command(index)?;
        let is_kept = self.mapping.changed() == Changed::Keep;
        let address = &command.command.address;
        // The row of rejects said it before it was mended. What it shares with others says how something is, and is said anew, once.
        if command.once && row.is_from_rejects() && refused < row.tried_before(index) {
            return None;
        }
        // What was refused as it stands here was mended since, and what the mended row said stands.
        if seen {
            let reason = format!(
                "{address}: an earlier import refused this command of the row as it stands here, and the row was mended since: what the mended row \
                 said stands. Correct the row in its file or take it out there, or write changed = \"keep\" into the map"
            );
            let refusal = RowRefusal::new(MENDED_SINCE, reason);
            return Some(if is_kept { Told::Mended } else { Told::Refused(refusal) });
        }
        if is_kept {
            return Some(Told::Known);
        }
        let reason = format!(
            "{address}: an earlier import gave this command of the row with other content, which stands. If the file was corrected, correct what \
             stands with commands of your own; if this is another row, import these rejects, with import_identity empty, by a map of another \
             name whose identity tells such rows apart"
        );
        Some(Told::Refused(RowRefusal::new(KNOWN_WITH_OTHER_CONTENT, reason)))
    }

    /// Notes what became of a command, and where it changed something, also for the rows that share it.
    fn told(
        &mut self,
        row: u64,
        command: usize,
        told: Told,
        changed_at: ChangedAt,
    ) -> Result<(), CommandFailure> {
        let mut all = vec![((row, command), told)];
        while let Some(((number, command), told)) = all.pop() {
            let Some(row) = self.rows.get_mut(&number) else { continue };
            let followers = row.told(command, told.clone());
            let of_followers = told.of_a_follower();
            if let Some(address) =
                row.command(command).filter(|each| each.once).map(|each| &each.command.address)
            {
                self.shared.told(address, (number, command), &told, changed_at);
            }
            all.extend(followers.into_iter().map(|follower| (follower, of_followers.clone())));
            if row.is_settled() {
                self.settle_row(number)?;
            }
        }
        Ok(())
    }

    fn settle_row(&mut self, number: u64) -> Result<(), CommandFailure> {
        let Some(row) = self.rows.remove(&number) else { return Ok(()) };
        let count = row.count();
        let is_mended = row.is_refused_for(MENDED_SINCE);
        match row.end() {
            Ok(Told::New) => self.summary.new += count,
            Ok(Told::Known) => self.summary.known += count,
            Ok(Told::Mended) => {
                self.summary.known += count;
                self.summary.mended += count;
            }
            Ok(Told::WithoutEffect | Told::Refused(_)) => self.summary.without_effect += count,
            Err(reject) => {
                self.summary.mended += if is_mended { count } else { 0 };
                return self.refuse(number, *reject);
            }
        }
        self.held -= count;
        self.bar.inc(count);
        self.write_rejects()
    }

    fn refuse(&mut self, number: u64, mut reject: Reject) -> Result<(), CommandFailure> {
        self.mapping.note_keys(&mut reject.rows);
        let count = reject.rows.len() as u64;
        self.summary.refused += count;
        self.bar.inc(count);
        self.refused.insert(number, reject);
        self.write_rejects()
    }

    /// Writes the refused rows before which every row is decided, and compares the order of the others.
    fn write_rejects(&mut self) -> Result<(), CommandFailure> {
        let decided_before = self.rows.keys().next().copied().unwrap_or(u64::MAX);
        self.order.compare_before(decided_before);
        while let Some(first) = self.refused.first_entry().filter(|first| *first.key() < decided_before) {
            let reject = first.remove();
            self.held -= reject.rows.len() as u64;
            write(&mut self.rejects, &reject)?;
        }
        Ok(())
    }
}

/// Whether a command of the same id said something else.
fn is_another(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Duplicate { other_content: true, .. })
}

fn write(rejects: &mut Rejects, reject: &Reject) -> Result<(), CommandFailure> {
    rejects.add(reject).map_err(|error| {
        let path = rejects.path().display();
        CommandFailure::new(ExitCode::of_file_error(&error), format_args!("rejects file {path}: {error}"))
    })
}
