//! The view `command`, with the key `<command id>`: what became of each command. A command without an id of its own is found under the id
//! derived from its position, `@<position>`.
//!
//! A command that was sent again is shown with its first outcome, and the row says how often and at which position it was repeated. A
//! dead-lettered command that was retried is shown with its newer outcome.
//!
//! A row stays as long as OUTCOMES holds a record that names its command, even if the record is about a repetition. Repetitions are counted
//! from the records that existed when the row was written, so a rebuilt view counts fewer if some records have been purged.

use millstream_contract::{
    command::derived_id,
    outcome::{CommandOutcome, Outcome, OutcomeReply},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use schemars::JsonSchema;

use crate::projection::{OutcomeProjection, ProjectionError, RowShape, Rows};

pub(crate) const VIEW: &str = "command";

/// Fills the view `command`.
#[derive(Debug)]
pub struct CommandView;

impl OutcomeProjection for CommandView {
    fn name(&self) -> &'static str {
        VIEW
    }

    fn shape(&self) -> Option<RowShape> {
        Some(RowShape::of::<ShownCommand>(VIEW, "<command_id>"))
    }

    fn newest_command(&self, row: &[u8]) -> Option<u64> {
        let named: NamedPositions = serde_json::from_slice(row).ok()?;
        Some(named.command_position.max(named.last_repeat))
    }

    fn apply(&self, outcome: &CommandOutcome, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let id = outcome.id.as_deref().map_or_else(|| derived_id(outcome.position), str::to_owned);
        let Outcome::Duplicate { of, .. } = &outcome.outcome else {
            rows.write(VIEW, &id, &CommandRow::new(&id, outcome.position, outcome));
            return Ok(());
        };
        // OUTCOMES may have been purged up to here. Then only the duplicate still says what became of the first command.
        if rows.get(VIEW, &id)?.is_none() {
            rows.write(VIEW, &id, &CommandRow::new(&id, *of, outcome));
        }
        let mut row = rows.read::<Map<String, Value>>(VIEW, &id)?.unwrap_or_default();
        let repeats = row.get("repeats").and_then(Value::as_u64).unwrap_or(0);
        row.insert("repeats".into(), json!(repeats + 1));
        row.insert("last_repeat".into(), json!(outcome.position));
        rows.write(VIEW, &id, &row);
        Ok(())
    }
}

/// What became of a command.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes the rows, which are written from outcomes")]
struct ShownCommand {
    /// Its id, given or derived.
    command_id: String,
    /// Its position in COMMANDS.
    command_position: u64,
    /// accepted, rejected or dead-lettered.
    outcome: String,
    /// Where it is accepted, the sequence in EVENTS of the aggregate's last commit after it; 0 where there is none.
    position: Option<u64>,
    /// Where it is accepted, the aggregate's version after it.
    version: Option<u64>,
    /// Where it is accepted, how many events it caused.
    events: Option<u32>,
    /// Why it is not accepted, for programs.
    code: Option<String>,
    /// Why it is not accepted, for people.
    message: Option<String>,
    /// The subject on which it was sent.
    subject: String,
    /// How often it came again; null where it did not.
    repeats: Option<u64>,
    /// The position in COMMANDS where it came last; null where it came once.
    last_repeat: Option<u64>,
}

/// The positions in COMMANDS that a row names.
#[derive(Deserialize)]
struct NamedPositions {
    command_position: u64,
    #[serde(default)]
    last_repeat: u64,
}

/// The row of a command that was sent once.
#[derive(Serialize)]
struct CommandRow {
    #[serde(flatten)]
    reply: OutcomeReply,
    subject: String,
}

impl CommandRow {
    /// The row of the command at `position`, which was the first with the id.
    fn new(id: &str, position: u64, outcome: &CommandOutcome) -> Self {
        let first = outcome.outcome.first().clone();
        Self {
            reply: OutcomeReply {
                command_id: id.into(),
                command_position: position,
                outcome: first,
                query_position: None,
            },
            subject: outcome.subject(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory_rows::MemoryRows;

    fn row_after(
        id: Option<&str>,
        outcomes: impl IntoIterator<Item = (u64, Outcome)>,
    ) -> (MemoryRows, Value) {
        let mut rows = MemoryRows::new();
        for (position, outcome) in outcomes {
            let address = "retail.till.1_2012-01-31.close".into();
            let outcome =
                CommandOutcome { position, id: id.map(Into::into), address, outcome, content: None };
            CommandView.apply(&outcome, &mut rows).unwrap();
        }
        let key = rows.keys(VIEW)[0].to_owned();
        let row = rows.json(VIEW, &key);
        (rows, row)
    }

    fn accepted() -> Outcome {
        Outcome::Accepted { sequence: 3, version: 1, events: 1 }
    }

    fn duplicate(of: u64) -> Outcome {
        Outcome::Duplicate { of, first: Box::new(accepted()), other_content: false }
    }

    #[test]
    fn row_is_the_flat_form_of_the_reply_and_the_subject() {
        let (_, row) = row_after(Some("c-1"), [(7, accepted())]);
        assert_eq!(
            row,
            json!({
                "command_id": "c-1", "command_position": 7, "subject": "cmd.retail.till.1_2012-01-31.close",
                "outcome": "accepted", "position": 3, "version": 1, "events": 1,
            })
        );
        let rejected = Outcome::Rejected { code: "lines-empty".into(), message: "no lines".into() };
        let (_, row) = row_after(None, [(8, rejected)]);
        assert_eq!((&row["command_id"], &row["code"]), (&json!("@8"), &json!("lines-empty")));
    }

    #[test]
    fn repeats_keep_the_first_outcome() {
        let (rows, row) = row_after(Some("c-1"), [(7, accepted()), (9, duplicate(7)), (12, duplicate(7))]);
        assert_eq!(rows.keys(VIEW), ["c-1"]);
        assert_eq!((&row["outcome"], &row["command_position"]), (&json!("accepted"), &json!(7)));
        assert_eq!((&row["repeats"], &row["last_repeat"]), (&json!(2), &json!(12)));
    }

    #[test]
    fn row_is_about_the_newest_command_with_its_id() {
        let newest = |row: Value| CommandView.newest_command(row.to_string().as_bytes());
        let (_, once) = row_after(Some("c-1"), [(7, accepted())]);
        let (_, repeated) = row_after(Some("c-1"), [(7, accepted()), (9, duplicate(7)), (12, duplicate(7))]);
        assert_eq!((newest(once), newest(repeated)), (Some(7), Some(12)));
        assert_eq!(newest(json!({ "another": "row" })), None, "what is not understood stays");
    }

    #[test]
    fn repeat_of_a_command_before_the_kept_outcomes_tells_what_it_knows() {
        let (_, row) = row_after(Some("c-1"), [(9, duplicate(7))]);
        assert_eq!((&row["outcome"], &row["command_position"]), (&json!("accepted"), &json!(7)));
    }

    #[test]
    fn retried_dead_letter_shows_its_newer_outcome() {
        let dead = Outcome::DeadLettered { code: "body-malformed".into(), message: "line 1".into() };
        let (_, row) = row_after(Some("c-1"), [(7, dead), (9, accepted())]);
        assert_eq!((&row["outcome"], &row["command_position"]), (&json!("accepted"), &json!(9)));
    }
}
