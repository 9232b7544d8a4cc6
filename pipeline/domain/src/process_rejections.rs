//! The view `process-rejection`, with the key `<process>/<position>`, whose position has 20 digits: commands of processes that were
//! rejected.
//!
//! Nobody waits for the answer to such a command, so nobody would see a rejection that no rule of the process expects. Commands that fell
//! due are listed under `timer`, because their ids do not name the process. A row stays as long as OUTCOMES holds a record that names its
//! command.

use millstream_contract::{
    command::issuer,
    outcome::{CommandOutcome, Outcome},
};
use serde::{Deserialize, Serialize};

use crate::{
    command_view,
    projection::{OutcomeProjection, ProjectionError, RowShape, Rows},
};

/// The view's name.
pub const PROCESS_REJECTIONS: &str = "process-rejection";

/// The views of outcomes, which every context has. Their stream positions are positions in OUTCOMES.
pub const OUTCOME_VIEWS: [&str; 2] = [command_view::VIEW, PROCESS_REJECTIONS];

/// Fills the view `process-rejection`.
#[derive(Debug)]
pub struct ProcessRejections;

/// A command of a process that was rejected.
#[derive(Serialize, schemars::JsonSchema)]
struct ProcessRejection<'o> {
    /// The process.
    process: &'o str,
    /// The command's id.
    command_id: &'o str,
    /// The command's position in COMMANDS.
    command_position: u64,
    /// The subject on which it was sent.
    subject: String,
    /// Why it was rejected, for programs.
    code: &'o str,
    /// Why it was rejected, for people.
    message: &'o str,
}

#[derive(Deserialize)]
struct NamedPosition {
    command_position: u64,
}

impl OutcomeProjection for ProcessRejections {
    fn name(&self) -> &'static str {
        PROCESS_REJECTIONS
    }

    fn shape(&self) -> Option<RowShape> {
        Some(RowShape::of::<ProcessRejection<'_>>(PROCESS_REJECTIONS, "<process>/<position>"))
    }

    fn newest_command(&self, row: &[u8]) -> Option<u64> {
        serde_json::from_slice(row).ok().map(|NamedPosition { command_position }| command_position)
    }

    fn apply(&self, outcome: &CommandOutcome, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let CommandOutcome { position, id: Some(id), outcome: Outcome::Rejected { code, message }, .. } =
            outcome
        else {
            return Ok(());
        };
        let Some(process) = issuer(id) else { return Ok(()) };
        let row = ProcessRejection {
            process,
            command_id: id,
            command_position: *position,
            subject: outcome.subject(),
            code,
            message,
        };
        rows.write(PROCESS_REJECTIONS, &format!("{process}/{position:020}"), &row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::memory_rows::MemoryRows;

    #[test]
    fn only_rejected_commands_of_processes_have_a_row() {
        let rejected =
            || Outcome::Rejected { code: "refund-exceeds-payment".into(), message: "too much".into() };
        let accepted = || Outcome::Accepted { sequence: 3, version: 1, events: 1 };
        let mut rows = MemoryRows::new();
        for (position, id, outcome) in [
            (1, Some("fulfilment:7.2.0"), accepted()),
            (2, Some("fulfilment:7.2.1"), rejected()),
            (3, Some("timer:01JD.4"), rejected()),
            (4, Some("anna:1"), rejected()),
            (5, None, rejected()),
        ] {
            let address = "orders.order.O-1.refund".into();
            let outcome =
                CommandOutcome { position, id: id.map(Into::into), address, outcome, content: None };
            ProcessRejections.apply(&outcome, &mut rows).unwrap();
        }
        let keys = ["fulfilment/00000000000000000002", "timer/00000000000000000003"];
        assert_eq!(rows.keys(PROCESS_REJECTIONS), keys);
        assert_eq!(
            rows.json(PROCESS_REJECTIONS, keys[0]),
            json!({
                "process": "fulfilment", "command_id": "fulfilment:7.2.1", "command_position": 2,
                "subject": "cmd.orders.order.O-1.refund", "code": "refund-exceeds-payment", "message": "too much",
            })
        );
        let row = rows.json(PROCESS_REJECTIONS, keys[1]).to_string();
        assert_eq!(ProcessRejections.newest_command(row.as_bytes()), Some(3));
    }
}
