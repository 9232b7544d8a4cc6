//! A reader with a bug.

use std::collections::HashSet;

use millstream_contract::{
    command::explicit_id,
    header,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    testing::dice::Dice,
};
use millstream_jetstream::{
    broker::{Broker, ReadError, ReaderConfig, StreamReader},
    testing::memory_broker::MemoryBroker,
};

use super::tampering::{forget_ids, strip, without_positions};
use crate::testing::simulation::bugs::Bug;

/// How often a reader with a bug shows it.
const READER_BUG_RATE: f64 = 0.05;

/// A reader, with a bug or without.
pub(in crate::testing::simulation) struct SabotagedReader {
    inner: <MemoryBroker as Broker>::Reader,
    bug: Option<Bug>,
    stream: String,
    dice: Dice,
}

impl SabotagedReader {
    pub(super) async fn open(
        broker: &MemoryBroker,
        config: ReaderConfig,
        bug: Option<Bug>,
    ) -> Result<Self, ReadError> {
        let stream = config.stream.clone();
        // Any dice will do, as long as they give the same results whenever the run is repeated.
        let dice = Dice::new(config.after).fork(u64::try_from(stream.len()).unwrap_or(0));
        Ok(Self { inner: broker.read(config).await?, bug, stream, dice })
    }

    fn tamper(&mut self, bug: Bug, messages: &mut Vec<StoredMessage>) {
        match (self.stream.as_str(), bug) {
            (COMMANDS, Bug::CommandSkipped) | (EVENTS, Bug::EventSkipped)
                if self.dice.chance(READER_BUG_RATE) =>
            {
                messages.pop();
            }
            (COMMANDS, Bug::CommandRepeated) | (EVENTS, Bug::EventRepeated)
                if self.dice.chance(READER_BUG_RATE) =>
            {
                messages.extend(messages.last().cloned());
            }
            (COMMANDS, Bug::ExpectedVersionIgnored) => {
                messages.iter_mut().for_each(|message| strip(message, &[header::EXPECTED_VERSION]));
            }
            (COMMANDS, Bug::IdsOfWindowOnly) => strip_ids(messages.iter_mut()),
            (COMMANDS, Bug::RepeatsWithinRound) => {
                let mut seen = HashSet::new();
                let repeated = |message: &&mut StoredMessage| {
                    explicit_id(message).ok().flatten().is_some_and(|id| !seen.insert(id))
                };
                strip_ids(messages.iter_mut().filter(repeated));
            }
            (OUTCOMES, Bug::IdsForgottenAtRestart) => forget_ids(messages),
            (EVENTS, Bug::PositionsIgnored) => {
                *messages = std::mem::take(messages).into_iter().map(without_positions).collect();
            }
            _ => {}
        }
    }
}

impl StreamReader for SabotagedReader {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        loop {
            let mut messages = self.inner.next_batch(max).await?;
            if let Some(bug) = self.bug {
                self.tamper(bug, &mut messages);
            }
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    fn pending(&self) -> u64 {
        self.inner.pending()
    }

    async fn close(self) {
        self.inner.close().await;
    }
}

/// Commands without the ids of their senders. Unusable ids stay.
fn strip_ids<'m>(messages: impl Iterator<Item = &'m mut StoredMessage>) {
    for message in messages.filter(|message| explicit_id(message).is_ok()) {
        strip(message, &[header::COMMAND_ID, header::NATS_MESSAGE_ID]);
    }
}
