//! Commands that were sent and have no outcome yet. An outcome is matched by its position, not by its id: others may send commands under the
//! same id at the same time, and if a sender may not use the id of its command, the command is set aside, and its outcome has no id.

use std::collections::{BTreeMap, HashMap};

use millstream_contract::outcome::{CommandOutcome, Outcome};
use millstream_jetstream::intake::Stored;

use super::Answered;

/// The most outcomes that are kept because they may belong to commands whose position is not known yet. Any number of other senders' commands
/// without an id are among them.
const EARLY_MAX: usize = 32 * 1024;

/// The commands under way, each with a tag of its sender.
#[derive(Debug)]
pub(super) struct UnderWay<T> {
    /// The end of COMMANDS at the beginning. A duplicate of something later may be a duplicate of this sender's own repeated publish.
    commands_before: u64,
    /// By id: commands whose position the server has not told yet.
    unstored: HashMap<String, T>,
    /// By position, and whether it was sent more than once.
    stored: HashMap<u64, (T, bool)>,
    /// By position.
    early: BTreeMap<u64, CommandOutcome>,
}

impl<T> UnderWay<T> {
    pub(super) fn new(commands_before: u64) -> Self {
        Self { commands_before, unstored: HashMap::new(), stored: HashMap::new(), early: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.unstored.len() + self.stored.len()
    }

    /// Notes that a command is sent. Ids that are under way at the same time must differ.
    pub(super) fn sent(&mut self, id: String, tag: T) {
        self.unstored.insert(id, tag);
    }

    /// The server has stored the command with this id. Its outcome may already have come.
    pub(super) fn stored(&mut self, id: &str, at: Stored) -> Option<Answered<T>> {
        let tag = self.unstored.remove(id)?;
        let early = self.early.remove(&at.position);
        if self.unstored.is_empty() {
            self.early.clear();
        }
        match early {
            Some(outcome) => Some(self.answered(tag, at.again, outcome)),
            None => {
                self.stored.insert(at.position, (tag, at.again));
                None
            }
        }
    }

    /// An outcome was recorded, possibly for another sender's command.
    pub(super) fn decided(&mut self, outcome: CommandOutcome) -> Option<Answered<T>> {
        if let Some((tag, again)) = self.stored.remove(&outcome.position) {
            return Some(self.answered(tag, again, outcome));
        }
        let may_be_ours = match &outcome.id {
            Some(id) => self.unstored.contains_key(&**id),
            None => !self.unstored.is_empty(),
        };
        if may_be_ours {
            self.early.insert(outcome.position, outcome);
            if self.early.len() > EARLY_MAX {
                self.early.pop_first();
            }
        }
        None
    }

    fn answered(&self, tag: T, again: bool, outcome: CommandOutcome) -> Answered<T> {
        // A command that was sent once cannot be a duplicate of itself.
        let of_others = |of: u64| of <= self.commands_before || !again;
        let known_before = matches!(outcome.outcome, Outcome::Duplicate { of, .. } if of_others(of));
        Answered { tag, outcome, known_before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: Outcome = Outcome::Accepted { sequence: 1, version: 1, events: 1 };

    fn outcome(position: u64, id: Option<&str>, outcome: Outcome) -> CommandOutcome {
        CommandOutcome { position, id: id.map(Into::into), address: "a.b.c.d".into(), outcome, content: None }
    }

    fn duplicate(position: u64, of: u64) -> CommandOutcome {
        outcome(
            position,
            Some("one"),
            Outcome::Duplicate { of, first: Box::new(ACCEPTED), other_content: false },
        )
    }

    fn at(position: u64) -> Stored {
        Stored { position, again: false }
    }

    /// Two imports of one file at once both told that no row was known before: each took the outcomes of the other for its own.
    #[test]
    fn what_another_sends_under_the_same_id_at_the_same_time_was_known_before() {
        for early in [false, true] {
            let mut ours = UnderWay::new(10);
            ours.sent("one".to_owned(), 7);
            let others = ours.decided(outcome(11, Some("one"), ACCEPTED));
            assert!(others.is_none(), "{others:?}");
            let (stored, decided) = if early {
                let decided = ours.decided(duplicate(12, 11));
                (ours.stored("one", at(12)), decided)
            } else {
                (ours.stored("one", at(12)), ours.decided(duplicate(12, 11)))
            };
            let answered = stored.or(decided).unwrap();
            assert!(answered.known_before && answered.tag == 7, "{answered:?}");
            assert_eq!(ours.len(), 0);
        }
    }

    #[test]
    fn a_repeat_of_our_own_was_not_known_before_and_one_of_an_earlier_run_was() {
        for (of, known) in [(11, false), (10, true)] {
            let mut ours = UnderWay::new(10);
            ours.sent("one".to_owned(), ());
            assert!(ours.stored("one", Stored { position: 12, again: true }).is_none());
            assert_eq!(ours.decided(duplicate(12, of)).unwrap().known_before, known, "{of}");
        }
    }

    /// The outcome of a command under a reserved id has none, and was waited for until the patience ended.
    #[test]
    fn what_is_set_aside_without_an_id_is_told_by_its_position() {
        let letter = |position| {
            let set_aside = Outcome::DeadLettered { code: "code".into(), message: "message".into() };
            outcome(position, None, set_aside)
        };
        let mut ours = UnderWay::new(0);
        ours.sent("@one".to_owned(), 1);
        ours.sent("@two".to_owned(), 2);
        assert!(ours.stored("@one", at(4)).is_none());
        assert!(ours.decided(letter(3)).is_none(), "somebody else's");
        assert_eq!(ours.decided(letter(4)).unwrap().tag, 1);
        assert!(ours.decided(letter(5)).is_none(), "nobody knows yet whose it is");
        assert_eq!(ours.stored("@two", at(5)).unwrap().tag, 2);
        assert!(ours.decided(letter(6)).is_none());
        assert!(ours.early.is_empty(), "nothing is kept when nothing is on its way");
    }

    #[test]
    fn what_is_kept_of_others_is_bounded() {
        let mut ours = UnderWay::new(0);
        ours.sent("one".to_owned(), ());
        for position in 1..=EARLY_MAX as u64 + 10 {
            assert!(ours.decided(outcome(position, None, ACCEPTED)).is_none());
        }
        assert_eq!(ours.early.len(), EARLY_MAX);
    }
}
