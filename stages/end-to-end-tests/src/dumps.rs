//! Everything that COMMANDS, EVENTS and OUTCOMES hold on a server, for the engine's verification.

use std::time::Duration;

use futures::StreamExt as _;
use millstream_contract::{
    leases::{leases_stream, progress_subject},
    stream_names::{COMMANDS, EVENTS, TIMERS},
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker};
pub use millstream_proof::testing::stream_dump::{dump, messages};
use millstream_proof::verification::{Dump, Verification, replay, verify};
use millstream_runtime::status_service::{SERVICE_NAME, status_subject};
use millstream_write_side::outcome_journal::decided_through;
use serde_json::Value;

use crate::waiting::{PATIENCE, until, until_within};

/// Commands on TIMERS that the process manager has not put onto COMMANDS yet.
const FALLEN_DUE: &str = "due.>";
/// Processes answer requests for their statistics at once, or they are gone.
const STATISTICS_WAIT: Duration = Duration::from_secs(1);

/// The progress of a system: the last due command that is not on COMMANDS yet, the ends of COMMANDS and EVENTS, the number of undecided
/// commands, and how far events have been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    due: Option<u64>,
    commands: u64,
    events: u64,
    undecided: u64,
    answered: Vec<u64>,
}

impl Standing {
    async fn of(broker: &NatsBroker) -> Option<Self> {
        // This comes first, because what has left TIMERS is then on COMMANDS.
        let due = broker.last(TIMERS, FALLEN_DUE).await.ok()?.map(|message| message.sequence);
        let events = broker.state(EVENTS).await.ok()?.last_sequence;
        let commands = broker.state(COMMANDS).await.ok()?.last_sequence;
        let mut answered = Vec::new();
        for process in millstream_model::processes() {
            let subject = progress_subject(process.name());
            let progress = broker.last(&leases_stream(), &subject).await.ok()??;
            let progress: Value = serde_json::from_slice(&progress.payload).ok()?;
            answered.push(progress.get("sequence")?.as_u64()?);
        }
        let undecided = undecided(broker).await?;
        Some(Self { due, commands, events, undecided, answered })
    }

    /// Whether nothing more will follow, provided that nothing has come in since the first look.
    fn is_quiet(&self) -> bool {
        self.due.is_none()
            && self.undecided == 0
            && self.answered.iter().all(|answered| *answered >= self.events)
    }
}

/// Waits until nothing more will follow: due commands are on COMMANDS, every command is decided, and every process has answered every event.
///
/// # Panics
/// When progress stops before that.
pub async fn settled(broker: &NatsBroker) {
    let mut before = None;
    loop {
        let standing = until_within(PATIENCE, format!("something moves on from {before:?}"), async || {
            let standing = Standing::of(broker).await?;
            (standing.is_quiet() || before.as_ref() != Some(&standing)).then_some(standing)
        })
        .await;
        // The result holds if nothing has come in in the meantime.
        if standing.is_quiet() && Standing::of(broker).await.as_ref() == Some(&standing) {
            return;
        }
        before = Some(standing);
    }
}

/// The position of a process's own reader of a stream, as the process reports it.
pub async fn reader_position(broker: &NatsBroker, stream: &str, process: &str) -> Option<u64> {
    let name = format!("millstream_reader_position{{stream=\"{stream}\",reader=\"{process}\"}}");
    figure(broker, process, &name).await
}

/// A metric of a process; `None` if the process does not report it now.
pub async fn figure(broker: &NatsBroker, process: &str, name: &str) -> Option<u64> {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.ok()?;
    client.publish_with_reply(format!("$SRV.STATS.{SERVICE_NAME}"), inbox, "".into()).await.ok()?;
    // Each process sends one answer. If this process's answer is not among them, it does not answer now.
    while let Ok(Some(answer)) = tokio::time::timeout(STATISTICS_WAIT, answers.next()).await {
        let statistics: Value = serde_json::from_slice(&answer.payload).ok()?;
        let endpoints = statistics.get("endpoints")?.as_array()?;
        if let Some(own) = endpoints.iter().find(|endpoint| endpoint["subject"] == status_subject(process)) {
            return own.pointer("/data/figures")?.get(name)?.as_u64();
        }
    }
    None
}

/// Proves from the streams alone that every command has one outcome and at most one effect, and that a fold of each
/// aggregate's commands gives the recorded outcomes.
///
/// # Panics
/// When a guarantee is broken, or a command is not decided.
pub async fn verified(broker: &NatsBroker) -> Verification {
    settled(broker).await;
    verified_dump(&dump(broker).await)
}

/// As [`verified`], for streams in which everything is decided.
///
/// # Panics
/// When a guarantee is broken, or a command is not decided.
pub fn verified_dump(dump: &Dump) -> Verification {
    let verification = verify(dump, true);
    let mut violations = verification.violations.clone();
    violations.extend(replay(dump, &millstream_model::aggregates()));
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} violations:\n{}", lines.len(), lines.join("\n"));
    verification
}

/// Waits until every command is decided, whatever processes do with the events.
///
/// # Panics
/// When that does not happen.
pub async fn decided(broker: &NatsBroker) {
    until("everything is decided", async || (undecided(broker).await? == 0).then_some(())).await;
}

/// How many commands are not decided; `None` if the server does not answer.
pub(crate) async fn undecided(broker: &NatsBroker) -> Option<u64> {
    let through = decided_through(broker).await.ok()?;
    Some(broker.state(COMMANDS).await.ok()?.last_sequence.saturating_sub(through))
}
