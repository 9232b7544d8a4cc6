//! Report `club-daily`, key `<club>`: the visits of a club on a day. Sealed by the close of the day; a visit that comes in after it
//! opens the next revision.

use millstream::{
    prelude::*,
    values::day_close::{BusinessDay, DayEntries},
};

use super::member::{Member, MemberEvent};
use crate::Gym;

static TABLES: ReportTables = report_tables!("club-daily");

/// Keeps the report.
pub struct ClubDaily;

impl Report for ClubDaily {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::new("club", ColumnKind::Text),
            Column::new("business_date", ColumnKind::Text),
            Column::new("revision", ColumnKind::Number),
            Column::new("status", ColumnKind::Text),
            Column::new("visits", ColumnKind::Count),
        ];
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        [Member::AGGREGATE, BusinessDay::<Gym>::AGGREGATE].contains(&aggregate)
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        if envelope.stream_id.aggregate() == BusinessDay::<Gym>::AGGREGATE {
            return Ok(vec![Entry::SealDate { date: envelope.stream_id.id().into() }]);
        }
        let MemberEvent::Visited(visited) = MemberEvent::from_envelope(envelope)? else { return Ok(vec![]) };
        let (key, date) = (SmolStr::from(visited.club), SmolStr::from(visited.date));
        Ok(vec![Entry::Post(Posting {
            texts: vec![("club", Some(key.clone())), ("business_date", Some(date.clone()))],
            figures: vec![("visits", 1)],
            reference: envelope.stream_id.id().into(),
            date,
            key,
        })])
    }
}

/// What makes a day, for the process `club-days`: it closes each day that has visits, at an hour of the gym's time zone.
pub struct Visits;

impl DayEntries for Visits {
    type Context = Gym;

    const PROCESS: &'static str = "club-days";

    fn handles(context: &str, aggregate: &str) -> bool {
        (context, aggregate) == (Member::CONTEXT, Member::AGGREGATE)
    }

    fn day_of(envelope: &EventEnvelope<'_>) -> Result<Option<BusinessDate>, ProcessError> {
        Ok(match MemberEvent::from_envelope(envelope)? {
            MemberEvent::Visited(visited) => Some(visited.date),
            _ => None,
        })
    }
}
