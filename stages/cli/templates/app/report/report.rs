//! Report `{{aggregate}}-daily`, key `<place>`: entries and amounts of a place on a business date. Sealed by the close of the day;
//! an entry after it opens the next revision.

use millstream::prelude::*;

use super::{{aggregate_module}}::{{{Aggregate}}, {{Aggregate}}Event, place_and_date};

static TABLES: ReportTables = millstream::report_tables!("{{aggregate}}-daily");

/// Keeps the report.
#[derive(Debug)]
pub struct {{Aggregate}}Daily;

impl Report for {{Aggregate}}Daily {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::new("place", ColumnKind::Text),
            Column::new("business_date", ColumnKind::Text),
            Column::new("revision", ColumnKind::Number),
            Column::new("status", ColumnKind::Text),
            Column::new("entries", ColumnKind::Count),
            Column::new("amount", ColumnKind::Amount),
        ];
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == {{Aggregate}}::AGGREGATE
    }

    fn entries(&self, envelope: &EventEnvelope<'_>, _rows: &mut (dyn Rows + '_)) -> Result<Vec<Entry>, ProjectionError> {
        let id = envelope.stream_id.id();
        let (place, date) = place_and_date(id)
            .ok_or_else(|| ProjectionError::Inconsistent(format!("{id} names no place and date")))?;
        let (key, date) = (SmolStr::from(place), SmolStr::from(date.to_string()));
        let entry = match {{Aggregate}}Event::from_envelope(envelope)? {
            {{Aggregate}}Event::Recorded(recorded) => Entry::Post(Posting {
                texts: vec![("place", Some(key.clone())), ("business_date", Some(date.clone()))],
                figures: vec![("entries", 1), ("amount", recorded.amount)],
                reference: recorded.entry.into(),
                date,
                key,
            }),
            {{Aggregate}}Event::Closed(_) => Entry::Seal { date, key },
        };
        Ok(vec![entry])
    }
}

#[cfg(test)]
mod tests {
    use millstream::{
        report::Ledger,
        testing::project::{History, assert_repeatable},
    };

    use super::*;
    use crate::{{context_module}}::{{aggregate_module}}::{Closed, Recorded};

    fn recorded(entry: &str, amount: i64) -> {{Aggregate}}Event {
        Recorded { entry: entry.to_owned(), amount }.into()
    }

    #[test]
    fn late_entry_restates_the_closed_day() {
        let mut history = History::new("{{context}}");
        let day = [recorded("E-1", 500), Closed { entries: 1 }.into(), recorded("E-2", -100)];
        history.add("{{aggregate}}", "north_2012-01-31", day);
        let rows = assert_repeatable(&Ledger({{Aggregate}}Daily), &history);
        let first = rows.json("{{aggregate}}-daily.revisions", "2012-01-31/north#000001");
        assert_eq!((&first["status"], &first["entries"], &first["amount"]), (&"sealed".into(), &1.into(), &500.into()));
        let second = rows.json("{{aggregate}}-daily", "2012-01-31/north");
        assert_eq!((&second["status"], &second["entries"], &second["amount"]), (&"open".into(), &2.into(), &400.into()));
    }
}
