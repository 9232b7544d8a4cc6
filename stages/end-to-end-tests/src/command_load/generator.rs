//! Random commands: to a few busy stocks and many quiet ones, and from one stock to another; accepted and refused, with and without effect,
//! some unreadable, with and without ids, and with repeated ids.

use bytes::Bytes;
use millstream_contract::{header, outcome::Outcome, stored_message::Headers, testing::dice::Dice};
use millstream_jetstream::broker::NewMessage;
use serde_json::{Value, json};

use super::{LoadSettings, VOLLEY_MAX, ledger::Acknowledged};

/// The number of stocks that get most of the commands.
const BUSY: u64 = 6;
/// The number of all other stocks.
const QUIET: u64 = 400;
/// The most reservations of a stock.
const RESERVATIONS: u64 = 8;
/// In each group of this many commands from a sender, some are fixed in advance ([`Lot`]), so that even a short load has every kind of outcome.
const LOTS: u64 = 20;

/// What is random, and what is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lot {
    /// Certainly accepted, under a new id.
    Accepted,
    /// Certainly refused, because it reserves more than there ever is.
    Refused,
    /// It cannot be read.
    Unreadable,
    /// It has the id of the last certainly accepted command, which is no longer under way by then.
    Repeated,
    /// Anything.
    Any,
}

impl Lot {
    /// How many commands after the accepted one its repetition comes.
    const BEHIND: u64 = VOLLEY_MAX + 1;

    /// The number of the command among those of its sender, from 1.
    const fn of(number: u64) -> Self {
        const REPEATED: u64 = 1 + Lot::BEHIND;
        match number % LOTS {
            1 => Self::Accepted,
            5 => Self::Refused,
            9 => Self::Unreadable,
            REPEATED => Self::Repeated,
            _ => Self::Any,
        }
    }
}

/// A command before it is sent.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: Option<String>,
    /// Whether nobody used the id before.
    fresh: bool,
    subject: String,
    headers: Headers,
    body: Bytes,
}

impl Draft {
    pub(super) fn message(&self) -> NewMessage {
        NewMessage {
            subject: self.subject.clone(),
            expected_last: None,
            headers: self.headers.clone(),
            payload: self.body.clone(),
        }
    }

    pub(super) fn acknowledged(self, position: u64, outcome: Option<Outcome>) -> Acknowledged {
        let content = self.fresh.then_some((self.subject, self.body));
        Acknowledged { position, id: self.id, content, outcome }
    }
}

/// Makes one command after the other.
#[derive(Debug)]
pub(super) struct Generator {
    dice: Dice,
    prefix: String,
    made: u64,
    settings: LoadSettings,
}

impl Generator {
    pub(super) fn new(settings: &LoadSettings, sender: u64) -> Self {
        let dice = Dice::new(settings.seed).fork(sender.wrapping_add(1_000));
        Self { dice, prefix: format!("load-{sender}"), made: 0, settings: settings.clone() }
    }

    pub(super) fn next(&mut self) -> Draft {
        self.made += 1;
        let stock = match self.dice.chance(0.6) {
            true => format!("busy:{}", self.dice.below(BUSY)),
            false => format!("quiet:{}", self.dice.below(QUIET)),
        };
        let lot = Lot::of(self.made);
        let (command, body) = self.command(lot);
        let (id, earlier) = self.id(lot);
        let fresh = id.is_some() && earlier.is_none();
        let mut headers = Headers::new();
        if let Some(id) = &id {
            let ours_only = self.dice.chance(0.5) || !self.settings.server_tells_repetitions;
            headers.push(if ours_only { header::COMMAND_ID } else { header::NATS_MESSAGE_ID }, id);
        }
        if self.dice.chance(0.04) && lot == Lot::Any {
            headers.push(header::EXPECTED_VERSION, self.dice.below(20).to_string());
        }
        if self.settings.padding > 0 {
            headers.push(header::CORRELATION_ID, "x".repeat(self.settings.padding));
        }
        Draft { id, fresh, subject: format!("cmd.retail.stock.{stock}.{command}"), headers, body }
    }

    /// The request. Whether it is refused or has an effect depends on what came before.
    fn command(&mut self, lot: Lot) -> (&'static str, Bytes) {
        let few = self.dice.between(1, 4);
        let reservation = format!("r{}", self.dice.below(RESERVATIONS));
        let kind = match lot {
            Lot::Accepted => 0,
            Lot::Refused => {
                return ("reserve", Bytes::from_static(b"{\"reservation\":\"all\",\"quantity\":1000000}"));
            }
            Lot::Unreadable => 95,
            Lot::Repeated | Lot::Any => self.dice.below(100),
        };
        let (command, body): (&str, Value) = match kind {
            0..32 => ("receive", json!({ "quantity": few })),
            // The destination is the stock with the same number at the other place or, half of the time, the stock itself, which is refused.
            32..35 => {
                let to = if self.dice.chance(0.5) { "busy" } else { "quiet" };
                ("transfer", json!({ "to": to, "quantity": few }))
            }
            35..55 => ("issue", json!({ "quantity": few })),
            55..75 => ("reserve", json!({ "reservation": reservation, "quantity": few })),
            75..85 => ("release", json!({ "reservation": reservation })),
            85..90 => ("adjust", json!({ "counted": few })),
            90..95 => ("set-minimum", json!({ "minimum": few })),
            95..98 => return ("receive", Bytes::from_static(b"{\"quantity\":")),
            _ => ("receive", json!({ "quantity": few, "colour": "red" })),
        };
        (command, body.to_string().into())
    }

    /// An id, and the number of the command that had it before, if there was one; sometimes there is no id.
    fn id(&mut self, lot: Lot) -> (Option<String>, Option<u64>) {
        let (again, none) = (self.dice.chance(0.06), self.dice.chance(0.08));
        // An id that may still be under way is not used, because nobody could tell which of the two is stored first.
        let back = self.dice.between(VOLLEY_MAX, 200);
        let earlier = match lot {
            Lot::Repeated => Some(self.made - Lot::BEHIND),
            Lot::Any if again => self.made.checked_sub(back).filter(|earlier| *earlier > 0),
            _ => None,
        };
        match earlier {
            Some(number) => (Some(format!("{}-{number}", self.prefix)), earlier),
            None if none && lot == Lot::Any => (None, None),
            None => (Some(format!("{}-{}", self.prefix, self.made)), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_s_first_commands_hold_every_kind_and_a_repetition_is_of_one_that_was_accepted() {
        let mut generator = Generator::new(&LoadSettings::new(1), 0);
        let drafts: Vec<Draft> = (0..=VOLLEY_MAX + 1).map(|_| generator.next()).collect();
        let of = |lot| (1..).zip(&drafts).find(|(number, _)| Lot::of(*number) == lot).map(|(_, draft)| draft);
        let (accepted, repeated) = (of(Lot::Accepted), of(Lot::Repeated));
        assert_eq!(accepted.map(|draft| draft.fresh), Some(true));
        assert_eq!(repeated.map(|draft| draft.fresh), Some(false));
        assert_eq!(accepted.map(|draft| &draft.id), repeated.map(|draft| &draft.id));
        assert!(of(Lot::Refused).is_some() && of(Lot::Unreadable).is_some());
    }
}
