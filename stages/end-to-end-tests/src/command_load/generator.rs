//! Commands made up by dice: to a few busy stocks and many quiet ones, accepted and refused, with and without effect, some
//! that cannot be read, with and without ids, ids that come again.

use bytes::Bytes;
use millstream_engine::{
    broker::NewMessage,
    contract::{header, outcome::Outcome, stored_message::Headers},
    testing::dice::Dice,
};
use serde_json::{Value, json};

use super::{VOLLEY_MAX, ledger::Acknowledged};

/// Stocks that get most of the commands.
const BUSY: u64 = 6;
/// All others.
const QUIET: u64 = 400;
/// Reservations that a stock has at most.
const RESERVATIONS: u64 = 8;

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
    padding: usize,
}

impl Generator {
    pub(super) fn new(seed: u64, sender: u64, padding: usize) -> Self {
        let dice = Dice::new(seed).fork(sender.wrapping_add(1_000));
        Self { dice, prefix: format!("load-{sender}"), made: 0, padding }
    }

    pub(super) fn next(&mut self) -> Draft {
        self.made += 1;
        let stock = match self.dice.chance(0.6) {
            true => format!("busy:{}", self.dice.below(BUSY)),
            false => format!("quiet:{}", self.dice.below(QUIET)),
        };
        let (command, body) = self.command();
        let (id, fresh) = self.id();
        let mut headers = Headers::new();
        if let Some(id) = &id {
            let name = if self.dice.chance(0.5) { header::COMMAND_ID } else { header::NATS_MESSAGE_ID };
            headers.push(name, id);
        }
        if self.dice.chance(0.04) {
            headers.push(header::EXPECTED_VERSION, self.dice.below(20).to_string());
        }
        if self.padding > 0 {
            headers.push(header::CORRELATION_ID, "x".repeat(self.padding));
        }
        Draft { id, fresh, subject: format!("cmd.retail.stock.{stock}.{command}"), headers, body }
    }

    /// What is asked; refused or without effect depending on what came before.
    fn command(&mut self) -> (&'static str, Bytes) {
        let few = self.dice.between(1, 4);
        let reservation = format!("r{}", self.dice.below(RESERVATIONS));
        let (command, body): (&str, Value) = match self.dice.below(100) {
            0..35 => ("receive", json!({ "quantity": few })),
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

    /// An id, and whether it is new; none now and then.
    fn id(&mut self) -> (Option<String>, bool) {
        let (again, none) = (self.dice.chance(0.06), self.dice.chance(0.08));
        // Not one that may still be under way: which of the two is stored first would be anybody's guess.
        let back = self.dice.between(VOLLEY_MAX, 200);
        match self.made.checked_sub(back) {
            _ if none => (None, false),
            Some(earlier) if again && earlier > 0 => (Some(format!("{}-{earlier}", self.prefix)), false),
            _ => (Some(format!("{}-{}", self.prefix, self.made)), true),
        }
    }
}
