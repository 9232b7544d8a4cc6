//! View `{{aggregate}}`, key `<{{aggregate}}>`: what each one is now. One that was removed vanishes.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, Rows},
};
use serde::{Deserialize, Serialize};

use super::{{aggregate_module}}::{{{Aggregate}}, {{Aggregate}}Event};

const VIEW: &str = "{{aggregate}}";

/// A row of the view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct {{Aggregate}}Row {
    /// Its id.
    pub {{aggregate_module}}: String,
    /// What people call it.
    pub title: String,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the view.
#[derive(Debug)]
pub struct {{Aggregate}}View;

impl Projection for {{Aggregate}}View {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        VIEW
    }

    fn views(&self) -> &'static [&'static str] {
        &[VIEW]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == {{Aggregate}}::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let id = envelope.stream_id.id();
        let before: Option<{{Aggregate}}Row> = rows.read(VIEW, id)?;
        let mut row = match ({{Aggregate}}Event::from_envelope(envelope)?, before) {
            ({{Aggregate}}Event::Added(added), _) => {{Aggregate}}Row {
                {{aggregate_module}}: id.to_owned(),
                title: added.title,
                version: envelope.aggregate_version,
                recorded_at: envelope.recorded_at,
            },
            ({{Aggregate}}Event::Renamed(renamed), Some(row)) => {{Aggregate}}Row { title: renamed.title, ..row },
            ({{Aggregate}}Event::Removed(_), _) => {
                rows.delete(VIEW, id);
                return Ok(());
            }
            (_, None) => {
                let message = format!("{} was changed before it was added", envelope.stream_id);
                return Err(ProjectionError::Inconsistent(message));
            }
        };
        row.version = envelope.aggregate_version;
        row.recorded_at = envelope.recorded_at;
        rows.write(VIEW, id, &row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::{{context_module}}::{{aggregate_module}}::{{{Aggregate}}Added, {{Aggregate}}Removed, {{Aggregate}}Renamed};

    fn added() -> {{Aggregate}}Event {
        {{Aggregate}}Event::Added({{Aggregate}}Added { title: "First".into() })
    }

    #[test]
    fn row_shows_the_present_title() {
        let renamed = {{Aggregate}}Event::Renamed({{Aggregate}}Renamed { title: "Other".into() });
        let mut history = History::new("{{context}}");
        history.add("{{aggregate}}", "A-1", [added()]).add("{{aggregate}}", "A-1", [renamed]);
        let rows = assert_repeatable(&{{Aggregate}}View, &history);
        assert_eq!(
            rows.json("{{aggregate}}", "A-1"),
            json!({
                "{{aggregate_module}}": "A-1", "title": "Other", "version": 2, "recorded_at": "2012-01-31T12:00:01Z",
            })
        );
    }

    #[test]
    fn row_of_what_was_removed_vanishes() {
        let removed = {{Aggregate}}Event::Removed({{Aggregate}}Removed {});
        let mut history = History::new("{{context}}");
        history.add("{{aggregate}}", "A-1", [added(), removed]);
        assert_eq!(assert_repeatable(&{{Aggregate}}View, &history).dump(), "");
    }
}
