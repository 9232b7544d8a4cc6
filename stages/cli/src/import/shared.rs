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
    before: Before,
}

/// What commands with other content to the same address did before, in this import.
#[derive(Debug, Clone, Default)]
struct Before {
    /// Whether one of them changed something.
    changed: bool,
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
                Some(told) => before.changed |= *told == Told::New,
                None => before.open.push(last.sent_for),
            }
            *last = Last::new(body, place, before);
            return Sharing::No;
        }
        let told = last.told.as_ref().map(Told::of_a_follower);
        told.map_or(Sharing::With(last.sent_for), Sharing::Told)
    }

    /// Notes what became of a command, for rows that come later.
    pub(super) fn told(&mut self, address: &CommandAddress, sent_for: Place, told: &Told) {
        let Some(last) = self.last.get_mut(&of(address)) else { return };
        if last.sent_for == sent_for {
            last.told = Some(told.clone());
        } else if let Some(place) = last.before.open.iter().position(|open| *open == sent_for) {
            last.before.open.swap_remove(place);
            last.before.changed |= *told == Told::New;
        }
    }

    /// Whether others with other content changed something before a command, if that is the last one to its address. None as long as some of them
    /// have no outcome.
    pub(super) fn is_overtaken(&self, address: &CommandAddress, sent_for: Place) -> Option<bool> {
        match self.last.get(&of(address)).filter(|last| last.sent_for == sent_for) {
            Some(last) if last.before.changed => Some(true),
            Some(last) if !last.before.open.is_empty() => None,
            Some(_) | None => Some(false),
        }
    }
}

impl Last {
    fn new(body: Digest, sent_for: Place, before: Before) -> Self {
        Self { body, sent_for, told: None, before }
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
        shared.told(&command("7", "A").address, (1, 0), &Told::Known);
        assert_eq!(shared.share(&command("7", "B"), (5, 0)), Sharing::With((4, 0)));
        shared.told(&command("7", "B").address, (4, 0), &Told::New);
        assert_eq!(shared.share(&command("7", "B"), (6, 0)), Sharing::Told(Told::WithoutEffect));
        assert_eq!(shared.share(&command("7", "A"), (7, 0)), Sharing::No);
    }

    /// An export that overlaps with the one before took a change back: its first rows said again what was before, and the change was known.
    #[test]
    fn what_others_said_since_is_known_until_something_else_is_said() {
        let address = command("7", "A").address;
        for (first, overtaken) in [(Told::New, true), (Told::Known, false), (Told::WithoutEffect, false)] {
            let mut shared = Shared::default();
            assert_eq!(shared.share(&command("7", "A"), (1, 0)), Sharing::No);
            assert_eq!(shared.is_overtaken(&address, (1, 0)), Some(false), "nothing came before it");
            assert_eq!(shared.share(&command("7", "B"), (2, 0)), Sharing::No);
            assert_eq!(
                shared.is_overtaken(&address, (2, 0)),
                None,
                "nobody knows yet what the one before did"
            );
            shared.told(&address, (1, 0), &first);
            assert_eq!(shared.is_overtaken(&address, (2, 0)), Some(overtaken), "{first:?}");
            // Of several, the last is what has to hold.
            assert_eq!(shared.share(&command("7", "C"), (3, 0)), Sharing::No);
            assert_eq!(shared.is_overtaken(&address, (2, 0)), Some(false));
            shared.told(&address, (2, 0), &Told::Known);
            assert_eq!(shared.is_overtaken(&address, (3, 0)), Some(overtaken), "{first:?}");
        }
    }
}
