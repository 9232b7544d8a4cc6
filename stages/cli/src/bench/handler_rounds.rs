//! How many commands a round of the command handler has, as it counts them itself.

use std::time::Duration;

use futures::StreamExt as _;
use millstream_jetstream::nats_broker::NatsBroker;
use millstream_runtime::status_service::{SERVICE_NAME, status_subject};
use serde_json::Value;
use tokio::time::timeout;

use super::closed_loop_error::ClosedLoopError;

/// The process that is asked.
const HANDLER: &str = "command-handler";
/// How long its answer may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// What the handler has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandlerRounds {
    commands: u64,
    rounds: u64,
}

impl HandlerRounds {
    /// Asks the handler; none where it does not answer, or does not tell.
    pub(crate) async fn ask(broker: &NatsBroker) -> Result<Option<Self>, ClosedLoopError> {
        let client = broker.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await?;
        client.publish_with_reply(format!("$SRV.STATS.{SERVICE_NAME}"), inbox, "".into()).await?;
        // One answer comes from each process of each stage.
        while let Ok(Some(answer)) = timeout(ANSWER_WAIT_MAX, answers.next()).await {
            let statistics: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
            if let Some(rounds) = Self::read(&statistics) {
                return Ok(Some(rounds));
            }
        }
        Ok(None)
    }

    fn read(statistics: &Value) -> Option<Self> {
        let endpoints = statistics.get("endpoints")?.as_array()?;
        let subject = status_subject(HANDLER);
        let own =
            endpoints.iter().find(|endpoint| endpoint.get("subject").is_some_and(|own| *own == subject))?;
        let figures = own.pointer("/data/figures")?;
        // The sum is written as a fraction.
        let figure = |name| Some(figures.get(name)?.as_f64()?.round() as u64);
        Some(Self {
            commands: figure("millstream_round_commands_sum")?,
            rounds: figure("millstream_round_commands_count")?,
        })
    }

    /// Commands of a round since `before`; none where there was no round.
    pub(crate) fn commands_a_round_since(self, before: Self) -> Option<f64> {
        let rounds = self.rounds.checked_sub(before.rounds).filter(|rounds| *rounds > 0)?;
        let commands = self.commands.saturating_sub(before.commands);
        Some((commands as f64 / rounds as f64 * 10.0).round() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_handler_among_all_processes_tells_its_rounds() {
        let of = |process: &str, commands: f64, rounds: u64| {
            let figures = json!({
                "millstream_round_commands_sum": commands,
                "millstream_round_commands_count": rounds
            });
            let subject = status_subject(process);
            HandlerRounds::read(
                &json!({ "endpoints": [{ "subject": subject, "data": { "figures": figures } }] }),
            )
        };
        assert_eq!(of("projector", 1.0, 1), None);
        let (before, after) = (of(HANDLER, 10.0, 10).unwrap(), of(HANDLER, 85.0, 20).unwrap());
        assert_eq!(after.commands_a_round_since(before), Some(7.5));
        assert_eq!(after.commands_a_round_since(after), None);
    }
}
