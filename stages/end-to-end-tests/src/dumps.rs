//! All that COMMANDS, EVENTS and OUTCOMES hold, as the server has it, for the engine's verification.

use millstream_engine::{
    broker::{Broker as _, ReaderConfig, StreamReader as _},
    command_handler::Share,
    contract::{
        outcome::{OUTCOME_PREFIX, OutcomeRecord},
        stored_message::StoredMessage,
        stream_names::{COMMANDS, EVENTS, OUTCOMES},
    },
    nats_broker::NatsBroker,
    process_runner::progress_subject,
    provision::leases_stream,
    verification::{Dump, Verification, replay, verify},
};
use millstream_model::ProcessSettings;
use serde_json::Value;

use crate::waiting::until;

/// Every message of a stream, in order.
///
/// # Panics
/// When it cannot be read.
pub async fn messages(broker: &NatsBroker, stream: &str) -> Vec<StoredMessage> {
    let state = broker.state(stream).await.unwrap_or_else(|error| panic!("{stream}: {error}"));
    let mut messages: Vec<StoredMessage> = Vec::new();
    if state.first_sequence > state.last_sequence {
        return messages;
    }
    let config = ReaderConfig {
        stream: stream.to_owned(),
        name: format!("end-to-end-tests-{}", stream.to_lowercase()),
        description: "dump for a test".to_owned(),
        after: state.first_sequence - 1,
        filters: vec![],
        replace_live: true,
    };
    let mut reader = broker.read(config).await.unwrap_or_else(|error| panic!("{stream}: {error}"));
    while messages.last().is_none_or(|last| last.sequence < state.last_sequence) {
        messages.extend(reader.next_batch(10_000).await.unwrap_or_else(|error| panic!("{stream}: {error}")));
    }
    reader.close().await;
    messages
}

/// Waits until nothing follows any more: every command is decided, every event answered by every process.
///
/// # Panics
/// When that does not come about.
pub async fn settled(broker: &NatsBroker) {
    until("everything is decided and answered", async || {
        let events = broker.state(EVENTS).await.ok()?.last_sequence;
        let commands = broker.state(COMMANDS).await.ok()?.last_sequence;
        for process in millstream_model::processes(ProcessSettings::default()) {
            let subject = progress_subject(process.name());
            let progress = broker.last(&leases_stream(), &subject).await.ok()??;
            let progress: Value = serde_json::from_slice(&progress.payload).ok()?;
            if progress.get("sequence")?.as_u64()? < events {
                return None;
            }
        }
        let record =
            broker.last(OUTCOMES, &format!("{OUTCOME_PREFIX}.{}", Share::ALL.name())).await.ok()??;
        let decided = OutcomeRecord::from_stored(&record).ok()?.through;
        // What was found holds if nothing has come in meanwhile.
        let (events_now, commands_now) =
            (broker.state(EVENTS).await.ok()?, broker.state(COMMANDS).await.ok()?);
        let quiet = decided >= commands
            && events_now.last_sequence == events
            && commands_now.last_sequence == commands;
        quiet.then_some(())
    })
    .await;
}

/// All that the three streams hold.
///
/// # Panics
/// When they cannot be read.
pub async fn dump(broker: &NatsBroker) -> Dump {
    Dump {
        commands: messages(broker, COMMANDS).await,
        events: messages(broker, EVENTS).await,
        outcomes: messages(broker, OUTCOMES).await,
    }
}

/// Proves from the streams alone that every command has one outcome and at most one effect, and that a fold of each
/// aggregate's commands gives the recorded outcomes.
///
/// # Panics
/// When a promise is broken, or a command is not decided.
pub async fn verified(broker: &NatsBroker) -> Verification {
    settled(broker).await;
    verified_dump(&dump(broker).await)
}

/// As [`verified`], of streams in which everything is decided.
///
/// # Panics
/// When a promise is broken, or a command is not decided.
pub fn verified_dump(dump: &Dump) -> Verification {
    let verification = verify(dump, true);
    let mut violations = verification.violations.clone();
    violations.extend(replay(dump, &millstream_model::aggregates()));
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} violations:\n{}", lines.len(), lines.join("\n"));
    verification
}

/// Waits until every command is decided, whatever processes make of the events.
///
/// # Panics
/// When that does not come about.
pub async fn decided(broker: &NatsBroker) {
    until("everything is decided", async || {
        let commands = broker.state(COMMANDS).await.ok()?.last_sequence;
        let record =
            broker.last(OUTCOMES, &format!("{OUTCOME_PREFIX}.{}", Share::ALL.name())).await.ok()??;
        (OutcomeRecord::from_stored(&record).ok()?.through >= commands).then_some(())
    })
    .await;
}
