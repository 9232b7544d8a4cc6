//! A row, or a group of rows, whose outcomes are not all in, and what becomes of it.

use super::{
    input::SourceRow,
    mapping::RowCommand,
    refusal::{KNOWN_WITH_OTHER_CONTENT, MENDED_SINCE, RowRefusal},
    reject_columns::Tried,
    rejects::Reject,
};

/// A command of a row: the number of the row within the import, and which of its commands.
pub(super) type Place = (u64, usize);

/// What became of a command, or of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It changed something now.
    New,
    /// An earlier import had brought it.
    Known,
    /// An earlier import had refused it as it stands here, and it was mended since: what the mended row said stands, as the map wants it.
    Mended,
    /// It was accepted and changed nothing. A row is without effect if this became of one of its commands that it does not share with others.
    WithoutEffect,
    Refused(RowRefusal),
}

impl Told {
    /// What it means to a row that shares the command of another row: the other one changed something, and this one did not.
    pub(super) fn of_a_follower(&self) -> Self {
        match self {
            Self::New => Self::WithoutEffect,
            other => other.clone(),
        }
    }
}

/// A row whose outcomes are not all in.
#[derive(Debug)]
pub(super) struct RowUnderWay {
    rows: Vec<SourceRow>,
    identity: Option<String>,
    commands: Vec<CommandUnderWay>,
}

#[derive(Debug)]
struct CommandUnderWay {
    command: RowCommand,
    told: Option<Told>,
    /// How often it was given, by this import and those before it. So many of its ids are taken.
    tried: u32,
    /// Commands of other rows that were not sent because this one is equal.
    followers: Vec<Place>,
}

impl RowUnderWay {
    pub(super) fn new(rows: Vec<SourceRow>, identity: Option<String>, commands: Vec<RowCommand>) -> Self {
        let under_way = |command| CommandUnderWay { command, told: None, tried: 0, followers: Vec::new() };
        Self { rows, identity, commands: commands.into_iter().map(under_way).collect() }
    }

    pub(super) fn command(&self, index: usize) -> Option<&RowCommand> {
        self.commands.get(index).map(|each| &each.command)
    }

    /// Whether it was refused before and stands in a file of rejects.
    pub(super) fn is_from_rejects(&self) -> bool {
        self.rows.iter().any(|row| row.identity.is_some())
    }

    /// How often a command had been given when its row was refused.
    pub(super) fn tried_before(&self, index: usize) -> u32 {
        let Some(command) = self.command(index) else { return 0 };
        let all = self.rows.iter().map(|row| Tried::of(&row.tried, &command.command.id));
        all.max().unwrap_or(0)
    }

    /// Notes that a command is given for this row, and how often it has been.
    pub(super) fn tries(&mut self, index: usize, times: u32) {
        if let Some(command) = self.commands.get_mut(index) {
            command.tried = times;
        }
    }

    /// Notes that a command was set aside as it was given last. Its id is free: mended, it is decided under that.
    pub(super) fn set_aside(&mut self, index: usize) {
        if let Some(command) = self.commands.get_mut(index) {
            command.tried = command.tried.saturating_sub(1);
        }
    }

    /// A command of another row waits for one of this row's.
    pub(super) fn follow(&mut self, index: usize, follower: Place) {
        if let Some(command) = self.commands.get_mut(index) {
            command.followers.push(follower);
        }
    }

    /// Notes what became of a command; returns those that wait for it.
    pub(super) fn told(&mut self, index: usize, told: Told) -> Vec<Place> {
        let Some(command) = self.commands.get_mut(index) else { return Vec::new() };
        command.told = Some(told);
        std::mem::take(&mut command.followers)
    }

    /// The line on which it begins.
    pub(super) fn line(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.line)
    }

    /// How many rows of the file it is.
    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(super) fn is_settled(&self) -> bool {
        self.commands.iter().all(|command| command.told.is_some())
    }

    /// What became of the row.
    ///
    /// # Errors
    /// The row with all that refused it, and with what of it took effect all the same.
    pub(super) fn end(mut self) -> Result<Told, Box<Reject>> {
        let Some(refusal) = self.refusal() else { return Ok(self.accepted()) };
        // A row of which something that was mended stands is not to be mended once more.
        if !self.is_refused_for(KNOWN_WITH_OTHER_CONTENT) && !self.is_refused_for(MENDED_SINCE) {
            self.note_tried();
        }
        Err(Box::new(Reject { rows: self.rows, identity: self.identity, refusal }))
    }

    fn told_of_each(&self) -> impl Iterator<Item = (&CommandUnderWay, &Told)> {
        self.commands.iter().filter_map(|each| Some((each, each.told.as_ref()?)))
    }

    fn refusals(&self) -> impl Iterator<Item = &RowRefusal> {
        self.told_of_each().filter_map(|(_, told)| match told {
            Told::Refused(refusal) => Some(refusal),
            Told::New | Told::Known | Told::Mended | Told::WithoutEffect => None,
        })
    }

    /// Whether a refusal of the row has this code.
    pub(super) fn is_refused_for(&self, code: &str) -> bool {
        self.refusals().any(|refusal| refusal.code == code)
    }

    /// What became of a row that is not refused.
    fn accepted(&self) -> Told {
        let told = || self.told_of_each();
        // What rows share is mostly there; anything else that changes nothing may be a sale that has the number of another one.
        let is_idle =
            |(each, told): (&CommandUnderWay, &Told)| !each.command.once && *told == Told::WithoutEffect;
        // What a row shares may be given for another row than before, if the rows before it are others. A row that was in is known all the same. A
        // mended row may give it for the first time now.
        let was_in = !self.is_from_rejects() && told().any(|(each, _)| !each.command.once);
        let all_of = |wanted: &[Told]| {
            told().all(|(each, told)| {
                wanted.contains(told) || (was_in && each.command.once && *told == Told::WithoutEffect)
            })
        };
        match () {
            () if told().any(is_idle) => Told::WithoutEffect,
            () if told().any(|(_, told)| *told == Told::New) => Told::New,
            () if all_of(&[Told::Known]) => Told::Known,
            () if all_of(&[Told::Known, Told::Mended]) => Told::Mended,
            () => Told::WithoutEffect,
        }
    }

    /// All that refused the row, if something did, and what of it is in effect all the same.
    fn refusal(&self) -> Option<RowRefusal> {
        let first = self.refusals().next()?;
        let mut reason = self.refusals().map(|each| each.reason.as_str()).collect::<Vec<_>>().join("; ");
        let in_effect = self.told_of_each().filter(|(_, told)| !matches!(told, Told::Refused(_)));
        let in_effect: Vec<String> =
            in_effect.map(|(each, _)| each.command.command.address.to_string()).collect();
        if !in_effect.is_empty() {
            reason.push_str(&format!("; in effect all the same: {}", in_effect.join(", ")));
        }
        Some(RowRefusal::new(&first.code, reason))
    }

    /// Notes in the rows how often the commands that they share with others have been given.
    fn note_tried(&mut self) {
        for each in self.commands.iter().filter(|each| each.command.once && each.tried > 0) {
            let tried = Tried::new(&each.command.command.id, each.tried);
            let of_row = each.command.of_row;
            let rows = (0..).zip(&mut self.rows).filter(|(index, _)| of_row.is_none_or(|row| row == *index));
            rows.for_each(|(_, row)| tried.note(&mut row.tried));
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::{
        stored_message::Headers,
        subject::{CommandAddress, Origin},
    };

    use super::{super::text::tests::source_row, *};
    use crate::command_publisher::OutgoingCommand;

    /// What was set aside counted as given, so that each time that its row was mended in another way it took effect.
    #[test]
    fn the_id_of_a_command_that_was_set_aside_is_not_taken() {
        let id = "map:0123:retail.product.register";
        let command = OutgoingCommand {
            address: CommandAddress::new("retail", "product", "7", "register").unwrap(),
            origin: Origin::Sender,
            id: id.to_owned(),
            body: "{}".into(),
            headers: Headers::new(),
        };
        for (given, is_set_aside, taken) in [(1, false, 1), (1, true, 0), (2, true, 1)] {
            let command = RowCommand { once: true, of_row: None, command: command.clone() };
            let mut row = RowUnderWay::new(vec![source_row(2, &["7"])], None, vec![command]);
            row.tries(0, given);
            if is_set_aside {
                row.set_aside(0);
            }
            row.told(0, Told::Refused(RowRefusal::new("body-malformed", "no")));
            let reject = row.end().unwrap_err();
            assert_eq!(Tried::of(&reject.rows[0].tried, id), taken, "{given} {is_set_aside}");
        }
    }
}
