//! View `till`, key `<store>_<date>`: a store's day in figures. One row of fixed size, however many sales there are.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
    values::{business_date::BusinessDate, money::Currency},
};
use serde::{Deserialize, Serialize};

use super::{
    till::{Till, TillEvent, TillId},
    till_figures::{amount, till_of, units},
};

const VIEW: &str = "till";

/// A row of the view `till`. Amounts are minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct TillRow {
    /// The store.
    pub store: String,
    /// The business date.
    pub business_date: BusinessDate,
    /// Of all amounts; null until something was sold or returned.
    pub currency: Option<Currency>,
    /// How many sales.
    pub sales: i64,
    /// How many returns.
    pub returns: i64,
    /// Units in the sales.
    pub units_sold: i64,
    /// Units in the returns.
    pub units_returned: i64,
    /// Amount of the sales.
    pub gross_amount: i64,
    /// Amount of the returns.
    pub refund_amount: i64,
    /// Sales less returns.
    pub net_amount: i64,
    /// How many sales and returns came after a close.
    pub late: i64,
    /// How often it was closed.
    pub closings: u32,
    /// Whether it is closed and nothing came since.
    pub closed: bool,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the view `till`.
#[derive(Debug)]
pub struct TillView;

impl Projection for TillView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        VIEW
    }

    fn views(&self) -> &'static [&'static str] {
        &[VIEW]
    }

    fn shapes(&self) -> Vec<RowShape> {
        let amounts = ["gross_amount", "refund_amount", "net_amount"];
        vec![RowShape::of::<TillRow>(VIEW, "<store>_<business_date>").amounts(&amounts)]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Till::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let key = envelope.stream_id.id();
        let mut row = match rows.read_decoded(VIEW, key)? {
            Some(row) => row,
            None => empty_row(till_of(envelope)?, envelope.recorded_at),
        };
        match TillEvent::from_envelope(envelope)? {
            TillEvent::SaleRecorded(sale) => {
                row.currency = Some(sale.currency);
                row.sales += 1;
                row.units_sold += units(&sale.lines);
                row.gross_amount = row.gross_amount.saturating_add(amount(&sale.lines));
                row.late += i64::from(sale.late);
                row.closed = false;
            }
            TillEvent::ReturnRecorded(entry) => {
                row.currency = Some(entry.currency);
                row.returns += 1;
                row.units_returned += units(&entry.lines);
                row.refund_amount = row.refund_amount.saturating_add(amount(&entry.lines));
                row.late += i64::from(entry.late);
                row.closed = false;
            }
            TillEvent::Closed(closed) => {
                row.closings = closed.closing;
                row.closed = true;
            }
        }
        row.net_amount = row.gross_amount.saturating_sub(row.refund_amount);
        row.version = envelope.aggregate_version;
        row.recorded_at = envelope.recorded_at;
        rows.write_decoded(VIEW, key, row);
        Ok(())
    }
}

fn empty_row(till: TillId, recorded_at: Timestamp) -> TillRow {
    TillRow {
        store: till.store,
        business_date: till.business_date,
        currency: None,
        sales: 0,
        returns: 0,
        units_sold: 0,
        units_returned: 0,
        gross_amount: 0,
        refund_amount: 0,
        net_amount: 0,
        late: 0,
        closings: 0,
        closed: false,
        version: 0,
        recorded_at,
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::retail::till::test_events::{closed, returned, sold};

    #[test]
    fn row_adds_up_the_day_and_says_what_was_late() {
        let mut history = History::new("retail");
        history
            .add(
                "till",
                "2506_2012-01-31",
                [sold("1", &[("a", 2, 500), ("b", 1, 99)]), sold("2", &[("a", 1, 500)])],
            )
            .add("till", "2506_2012-01-31", [closed(1)])
            .add("till", "2506_2012-01-31", [returned("r", Some("1"), &[("a", 1, 500)])])
            .add("till", "7_2012-01-31", [closed(1)]);
        let rows = assert_repeatable(&TillView, &history);
        assert_eq!(
            rows.json("till", "2506_2012-01-31"),
            json!({
                "store": "2506", "business_date": "2012-01-31", "currency": "USD", "sales": 2, "returns": 1,
                "units_sold": 4, "units_returned": 1, "gross_amount": 1599, "refund_amount": 500, "net_amount": 1099,
                "late": 0, "closings": 1, "closed": false, "version": 4, "recorded_at": "2012-01-31T12:00:02Z",
            })
        );
        assert_eq!(rows.json("till", "7_2012-01-31")["closed"], json!(true));
    }
}
