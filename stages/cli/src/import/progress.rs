//! A row, or a group of rows, whose outcomes are not all in, and what becomes of it.

use super::{input::SourceRow, mapping::RowCommand, refusal::RowRefusal, rejects::Reject};

/// A command of a row: the number of the row within the import, and which of its commands.
pub(super) type Place = (u64, usize);

/// What became of a command, or of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// It changed something now.
    New,
    /// An earlier import had brought it.
    Known,
    /// An earlier import had refused it as it stands here, and it was mended since: what the mended row said stands.
    Mended,
    /// It was accepted and changed nothing; of a row, also if something did that it does not share with others.
    WithoutEffect,
    Refused(RowRefusal),
}

impl Told {
    /// What it means to a row that shares the command of another: nothing that it changed itself.
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
    /// Commands of other rows that were not sent because this one is equal.
    followers: Vec<Place>,
}

impl RowUnderWay {
    pub(super) fn new(rows: Vec<SourceRow>, identity: Option<String>, commands: Vec<RowCommand>) -> Self {
        let under_way = |command| CommandUnderWay { command, told: None, followers: Vec::new() };
        Self { rows, identity, commands: commands.into_iter().map(under_way).collect() }
    }

    pub(super) fn command(&self, index: usize) -> Option<&RowCommand> {
        self.commands.get(index).map(|each| &each.command)
    }

    /// Whether it was refused before and stands in a file of rejects.
    pub(super) fn is_from_rejects(&self) -> bool {
        self.rows.iter().any(|row| row.identity.is_some())
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

    /// On which it begins.
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
    pub(super) fn end(self) -> Result<Told, Box<Reject>> {
        let told = || self.commands.iter().filter_map(|each| Some((each, each.told.as_ref()?)));
        let refusals: Vec<&RowRefusal> = told()
            .filter_map(|(_, told)| match told {
                Told::Refused(refusal) => Some(refusal),
                Told::New | Told::Known | Told::Mended | Told::WithoutEffect => None,
            })
            .collect();
        let Some(first) = refusals.first() else {
            let all_of = |wanted: &[Told]| told().all(|(_, told)| wanted.contains(told));
            // What rows share is mostly there; anything else that changes nothing may be a sale that has the number of another one.
            let is_idle =
                |(each, told): (&CommandUnderWay, &Told)| !each.command.once && *told == Told::WithoutEffect;
            return Ok(match () {
                () if told().any(is_idle) => Told::WithoutEffect,
                () if told().any(|(_, told)| *told == Told::New) => Told::New,
                () if all_of(&[Told::Known]) => Told::Known,
                () if all_of(&[Told::Known, Told::Mended]) => Told::Mended,
                () => Told::WithoutEffect,
            });
        };
        let mut reason = refusals.iter().map(|each| each.reason.as_str()).collect::<Vec<_>>().join("; ");
        let in_effect = told().filter(|(_, told)| !matches!(told, Told::Refused(_)));
        let in_effect: Vec<String> =
            in_effect.map(|(each, _)| each.command.command.address.to_string()).collect();
        if !in_effect.is_empty() {
            reason.push_str(&format!("; in effect all the same: {}", in_effect.join(", ")));
        }
        let refusal = RowRefusal::new(&first.code, reason);
        Err(Box::new(Reject { rows: self.rows, identity: self.identity, refusal }))
    }
}
