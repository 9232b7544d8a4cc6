//! View `{{aggregate}}`, key `<{{aggregate}}>`: what each one is now. One that was removed vanishes.

use millstream::prelude::*;

use super::{{aggregate_module}}::{Added, {{Aggregate}}, {{Aggregate}}Event, Renamed};

const VIEW: &str = "{{aggregate}}";

millstream::data! {
    /// A row of the view. Beside these fields it tells the aggregate's version and when that was recorded.
    #[derive(Default)]
    pub struct {{Aggregate}}Row {
        /// Its id.
        pub {{aggregate_module}}: String,
        /// What people call it.
        pub title: String,
    }
}

/// Fills the view.
#[derive(Debug)]
pub struct {{Aggregate}}View;

impl AggregateView for {{Aggregate}}View {
    type Aggregate = {{Aggregate}};
    const VIEWS: &'static [&'static str] = &[VIEW];

    fn fold(
        &self,
        event: {{Aggregate}}Event,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let id = envelope.stream_id.id();
        match event {
            {{Aggregate}}Event::Added(Added { title }) => {
                let row = {{Aggregate}}Row { {{aggregate_module}}: id.to_owned(), title };
                rows.write_with_version(VIEW, id, &row, envelope);
            }
            {{Aggregate}}Event::Renamed(Renamed { title }) => {
                rows.update_with_version(VIEW, id, envelope, |row: &mut {{Aggregate}}Row| row.title = title)?;
            }
            {{Aggregate}}Event::Removed(_) => rows.delete(VIEW, id),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millstream::{
        serde_json::json,
        testing::project::{History, assert_repeatable},
    };

    use super::*;
    use crate::{{context_module}}::{{aggregate_module}}::Removed;

    fn added() -> {{Aggregate}}Event {
        Added { title: "First".into() }.into()
    }

    #[test]
    fn row_shows_the_present_title() {
        let renamed: {{Aggregate}}Event = Renamed { title: "Other".into() }.into();
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
        let mut history = History::new("{{context}}");
        history.add("{{aggregate}}", "A-1", [added(), Removed {}.into()]);
        assert_eq!(assert_repeatable(&{{Aggregate}}View, &history).dump(), "");
    }
}
