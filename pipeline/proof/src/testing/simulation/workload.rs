//! The sender of commands. It sends what a person or a program might send: with and without ids, repeatedly, well-formed or not. It keeps a
//! ledger of what was acknowledged.

use std::time::Duration;

use bytes::Bytes;
use millstream_contract::{
    commit::StoredCommit,
    header,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS},
    subject::Origin,
    testing::dice::Dice,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, NewMessage},
    testing::memory_broker::MemoryBroker,
};

use super::RunShape;

/// What the client knows about a command that it sent.
#[derive(Debug, Clone)]
pub(super) struct LedgerEntry {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// The position that the server acknowledged.
    pub(super) position: u64,
}

/// Sends commands.
pub(super) struct Client {
    broker: MemoryBroker,
    dice: Dice,
    commands: usize,
    accounts: u64,
    bursts: f64,
    pause: Duration,
    /// Every command with an id that was sent, to be sent again.
    sent: Vec<NewMessage>,
    ledger: Vec<LedgerEntry>,
}

impl Client {
    pub(super) fn new(broker: MemoryBroker, shape: &RunShape, dice: Dice) -> Self {
        Self {
            broker,
            dice,
            commands: shape.commands,
            accounts: shape.accounts,
            bursts: shape.bursts,
            pause: shape.command_pause,
            sent: Vec::new(),
            ledger: Vec::new(),
        }
    }

    /// What was acknowledged so far.
    pub(super) fn ledger(&self) -> &[LedgerEntry] {
        &self.ledger
    }

    /// The server has lost everything after this position.
    pub(super) fn forget_acknowledged_after(&mut self, position: u64) {
        self.ledger.retain(|entry| entry.position <= position);
    }

    /// Sends all commands, waiting for each acknowledgement. It can be run again.
    pub(super) async fn run(&mut self) {
        let mut left = self.commands;
        while left > 0 {
            if self.dice.chance(self.bursts) {
                left -= self.send_together(left).await;
            } else {
                let command = self.command(left);
                self.send(command).await;
                left -= 1;
            }
            let longest = if self.dice.chance(0.03) { Duration::from_secs(180) } else { self.pause };
            let pause = self.dice.time(longest);
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(&mut self, command: NewMessage) {
        let has_id = command.headers.get(header::COMMAND_ID).is_some()
            || command.headers.get(header::NATS_MESSAGE_ID).is_some();
        // A command without an id may not be sent again, because that would be another command.
        let mut tries = if has_id { 1 + self.dice.below(3) } else { 1 };
        while tries > 0 {
            tries -= 1;
            match self.broker.append(COMMANDS, command.clone()).await {
                Ok(appended) if !appended.duplicate => {
                    self.note(&command, appended.sequence);
                    return;
                }
                Ok(_) => return,
                Err(AppendError::Unclear { .. }) => {}
                Err(_) => return,
            }
        }
    }

    /// Sends several commands as one atomic batch, as the intake does. Returns how many.
    async fn send_together(&mut self, left: usize) -> usize {
        let count = usize::try_from(self.dice.between(2, 8)).unwrap_or(2).min(left);
        let batch: Vec<NewMessage> = (0..count)
            .map(|index| {
                let mut command = self.command(left - index);
                // A repeated message id would make the server reject the whole batch, so in a batch the ids are in Millstream's own header.
                let headers = command.headers.iter();
                command.headers = headers
                    .map(|(name, value)| match name {
                        header::NATS_MESSAGE_ID => (header::COMMAND_ID, value),
                        other => (other, value),
                    })
                    .collect();
                command
            })
            .collect();
        if let Ok(appended) = self.broker.append_atomically(COMMANDS, batch.clone()).await {
            let first = appended.sequence + 1 - batch.len() as u64;
            for (position, command) in (first..).zip(&batch) {
                self.note(command, position);
            }
        }
        count
    }

    fn note(&mut self, command: &NewMessage, position: u64) {
        self.ledger.push(LedgerEntry {
            subject: command.subject.clone(),
            payload: command.payload.clone(),
            position,
        });
    }

    /// The next command; `number` is unique among all commands.
    fn command(&mut self, number: usize) -> NewMessage {
        if !self.sent.is_empty() && self.dice.chance(0.15) {
            return self.again();
        }
        let account = self.account();
        let (command, body) = self.request();
        let credit = || ("credit", r#"{"amount":1}"#.to_owned());
        // The number decides, instead of dice, about commands of processes, commands that only processes may give, and ids of processes.
        let (origin, (command, body)) = match number % 11 {
            0 => (Origin::Effect, (command, body)),
            3 => (Origin::Sender, credit()),
            7 => (Origin::Effect, credit()),
            _ => (Origin::Sender, (command, body)),
        };
        let from_process = origin == Origin::Effect || number % 11 == 5;
        let id = if from_process { format!("teller:{number}.1.0") } else { format!("id-{number}") };
        let aggregate = if self.dice.chance(0.01) { "vault" } else { "account" };
        let mut message = NewMessage {
            subject: format!("{}.bank.{aggregate}.{account}.{command}", origin.prefix()),
            expected_last: None,
            headers: Headers::new(),
            payload: Bytes::from(body),
        };
        if self.dice.chance(0.7) {
            let name = if self.dice.chance(0.5) { header::COMMAND_ID } else { header::NATS_MESSAGE_ID };
            message.headers.push(name, id);
        } else if self.dice.chance(0.02) {
            message.headers.push(header::COMMAND_ID, "@1");
        }
        if self.dice.chance(0.05) {
            message.headers.push(header::EXPECTED_VERSION, self.dice.below(8).to_string());
        } else if self.dice.chance(0.3) {
            // Like somebody who has just looked: a handler that knows less refuses it wrongly.
            message.headers.push(header::EXPECTED_VERSION, self.version_of(&account).to_string());
        }
        if self.dice.chance(0.3) {
            message.headers.push(header::REPLY, format!("reply.{number}"));
        }
        if message.headers.get(header::COMMAND_ID).is_some_and(|id| id.starts_with("id-"))
            || message.headers.get(header::NATS_MESSAGE_ID).is_some()
        {
            self.sent.push(message.clone());
        }
        message
    }

    /// A command sent before: the same, or a different one under the same id.
    fn again(&mut self) -> NewMessage {
        let mut message = self.dice.pick(&self.sent).clone();
        if self.dice.chance(0.3) {
            let (command, body) = self.request();
            let other = format!("cmd.bank.account.{}", self.account());
            message.subject = format!("{other}.{command}");
            message.payload = Bytes::from(body);
        }
        message
    }

    fn version_of(&self, account: &str) -> u64 {
        let subject = format!("evt.bank.account.{account}");
        let events = self.broker.dump(EVENTS);
        let last = events.iter().rev().find(|message| message.subject == subject);
        let last = last.and_then(|message| StoredCommit::from_stored(message).ok());
        last.map_or(0, |stored| stored.commit.last_version())
    }

    fn account(&mut self) -> String {
        if self.dice.chance(0.01) {
            return "bad".to_owned();
        }
        format!("account-{}", self.dice.below(self.accounts))
    }

    /// Mostly to one or two others; sometimes to oneself, to the same one twice, or to an id that no account may have.
    fn gift(&mut self) -> String {
        let (amount, count) = (self.dice.below(5), self.dice.between(1, 2));
        let to: Vec<String> = (0..count).map(|_| format!(r#""{}""#, self.account())).collect();
        let to = to.join(",");
        if self.dice.chance(0.3) {
            let limit = self.dice.below(20);
            return format!(r#"{{"amount":{amount},"to":[{to}],"unless_above":{limit}}}"#);
        }
        format!(r#"{{"amount":{amount},"to":[{to}]}}"#)
    }

    fn request(&mut self) -> (&'static str, String) {
        let amount = self.dice.between(1, 9);
        match self.dice.below(100) {
            0..32 => ("deposit", format!(r#"{{"amount":{amount}}}"#)),
            32..64 => ("withdraw", format!(r#"{{"amount":{amount}}}"#)),
            64..66 => ("transfer", format!(r#"{{"amount":{amount}}}"#)),
            66..78 => ("give", self.gift()),
            78..84 => ("rename", format!(r#"{{"name":"name-{}"}}"#, self.dice.below(2))),
            84..94 => ("visit", "{}".to_owned()),
            94..96 => ("explode", String::new()),
            96..98 => ("deposit", r#"{"amount":"much"}"#.to_owned()),
            _ => ("dissolve", "{}".to_owned()),
        }
    }
}
