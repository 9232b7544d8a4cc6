//! Commands that rows have in common, such as the registration of a product before each of its sales: one is sent as long as the
//! next is equal, and all of its rows share what becomes of it.

use std::collections::HashMap;

use millstream_contract::subject::CommandAddress;

use super::{
    identity::{Digest, digest},
    progress::{Place, Told},
};
use crate::command_publisher::OutgoingCommand;

/// Aggregates that are remembered. Where there are more, all are forgotten and their commands sent once more, which changes nothing.
const ADDRESSES_MAX: usize = 256 * 1024;

/// The last command of each kind to each aggregate.
#[derive(Debug, Default)]
pub(super) struct Shared {
    last: HashMap<Digest, Last>,
}

#[derive(Debug)]
struct Last {
    body: Digest,
    sent_for: Place,
    told: Option<Told>,
    /// Where it changed something.
    changed_at: ChangedAt,
    before: Before,
}

/// The position in COMMANDS of a command that changed something, in this import or one before; 0 if it changed nothing.
pub(super) type ChangedAt = u64;

/// What became of the commands that stand before in the file, have the same address and say something else.
#[derive(Debug, Clone, Default)]
struct Before {
    /// Where the last of them is that changed something.
    changed_at: ChangedAt,
    /// Those without an outcome yet.
    open: Vec<Place>,
}

/// Whether a command is one that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It is not, and is to be sent.
    No,
    /// It is one without an outcome yet.
    With(Place),
    /// It is, and this became of it.
    Told(Told),
}

impl Shared {
    /// Looks whether the last command to the same address was equal. If not, this one is the last from now on.
    pub(super) fn share(&mut self, command: &OutgoingCommand, place: Place) -> Sharing {
        if self.last.len() >= ADDRESSES_MAX {
            self.last.clear();
        }
        let body = digest("body", [String::from_utf8_lossy(&command.body).as_ref()]);
        let last = self
            .last
            .entry(of(&command.address))
            .or_insert_with(|| Last::new(body, place, Before::default()));
        if last.sent_for == place {
            return Sharing::No;
        }
        if last.body != body {
            let mut before = std::mem::take(&mut last.before);
            match &last.told {
                Some(_) => before.changed_at = before.changed_at.max(last.changed_at),
                None => before.open.push(last.sent_for),
            }
            *last = Last::new(body, place, before);
            return Sharing::No;
        }
        let told = last.told.as_ref().map(Told::of_a_follower);
        told.map_or(Sharing::With(last.sent_for), Sharing::Told)
    }

    /// Notes what became of a command, for rows that come later.
    pub(super) fn told(
        &mut self,
        address: &CommandAddress,
        sent_for: Place,
        told: &Told,
        changed_at: ChangedAt,
    ) {
        let Some(last) = self.last.get_mut(&of(address)) else { return };
        if last.sent_for == sent_for {
            (last.told, last.changed_at) = (Some(told.clone()), changed_at);
        } else if let Some(place) = last.before.open.iter().position(|open| *open == sent_for) {
            last.before.open.swap_remove(place);
            last.before.changed_at = last.before.changed_at.max(changed_at);
        }
    }

    /// Whether what a known command says holds no longer: it is the last one to its address, and others before it in the file said something else
    /// and changed something after it, in this import or in one that ended between them. None as long as some of them have no outcome.
    pub(super) fn is_overtaken(
        &self,
        address: &CommandAddress,
        sent_for: Place,
        known_at: u64,
    ) -> Option<bool> {
        match self.last.get(&of(address)).filter(|last| last.sent_for == sent_for) {
            Some(last) if last.before.changed_at > known_at => Some(true),
            Some(last) if !last.before.open.is_empty() => None,
            Some(_) | None => Some(false),
        }
    }
}

impl Last {
    fn new(body: Digest, sent_for: Place, before: Before) -> Self {
        Self { body, sent_for, told: None, changed_at: 0, before }
    }
}

fn of(address: &CommandAddress) -> Digest {
    digest("address", [address.to_string().as_str()])
}

#[cfg(test)]
mod tests {
    use millstream_contract::{stored_message::Headers, subject::Origin};

    use super::*;

    fn command(product: &str, body: &'static str) -> OutgoingCommand {
        OutgoingCommand {
            address: CommandAddress::new("retail", "product", product, "register").unwrap(),
            origin: Origin::Sender,
            id: String::new(),
            body: body.into(),
            headers: Headers::new(),
        }
    }

    /// A name that was changed and changed back kept the change: the third command was taken for the first.
    #[test]
    fn only_a_command_equal_to_the_one_before_it_is_left_out() {
        let mut shared = Shared::default();
        assert_eq!(shared.share(&command("7", "A"), (1, 0)), Sharing::No);
        assert_eq!(shared.share(&command("8", "A"), (2, 0)), Sharing::No);
        assert_eq!(shared.share(&command("7", "A"), (3, 0)), Sharing::With((1, 0)));
        assert_eq!(shared.share(&command("7", "B"), (4, 0)), Sharing::No);
        shared.told(&command("7", "A").address, (1, 0), &Told::Known, 0);
        assert_eq!(shared.share(&command("7", "B"), (5, 0)), Sharing::With((4, 0)));
        shared.told(&command("7", "B").address, (4, 0), &Told::New, 7);
        assert_eq!(shared.share(&command("7", "B"), (6, 0)), Sharing::Told(Told::WithoutEffect));
        assert_eq!(shared.share(&command("7", "A"), (7, 0)), Sharing::No);
    }

    /// An export that overlaps with the one before took a change back: its first rows said again what was before, and the change was known. So it
    /// did where the import ended in between, and was started again.
    #[test]
    fn what_others_said_since_is_known_until_something_else_is_said() {
        let address = command("7", "A").address;
        // B is known, and is at 10.
        for (first, changed_at, overtaken) in [
            (Told::New, 20, true),
            (Told::Known, 20, true),
            (Told::Known, 5, false),
            (Told::Known, 0, false),
            (Told::WithoutEffect, 0, false),
        ] {
            let mut shared = Shared::default();
            assert_eq!(shared.share(&command("7", "A"), (1, 0)), Sharing::No);
            assert_eq!(shared.is_overtaken(&address, (1, 0), 10), Some(false), "nothing came before it");
            assert_eq!(shared.share(&command("7", "B"), (2, 0)), Sharing::No);
            assert_eq!(
                shared.is_overtaken(&address, (2, 0), 10),
                None,
                "nobody knows yet what the one before did"
            );
            shared.told(&address, (1, 0), &first, changed_at);
            assert_eq!(shared.is_overtaken(&address, (2, 0), 10), Some(overtaken), "{first:?} {changed_at}");
            assert_eq!(shared.is_overtaken(&address, (2, 0), 30), Some(false), "it was said once more since");
            // Of several, the last is what has to hold.
            assert_eq!(shared.share(&command("7", "C"), (3, 0)), Sharing::No);
            assert_eq!(shared.is_overtaken(&address, (2, 0), 10), Some(false));
            shared.told(&address, (2, 0), &Told::Known, 0);
            assert_eq!(shared.is_overtaken(&address, (3, 0), 10), Some(overtaken), "{first:?} {changed_at}");
        }
    }
}
