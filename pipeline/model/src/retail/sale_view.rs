//! Views `sale` and `return`, key `<store>_<date>/<id>`: each sale and each return of a till, line by line. A sale's row
//! also says what came back of it within its own till.

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
    till::{ReturnRecorded, SaleRecorded, Till, TillEvent, TillId, TillLine},
    till_figures::{amount, till_of, units},
};

const SALES: &str = "sale";
const RETURNS: &str = "return";
/// What came back of sales that have not been recorded yet; same key as the sale's row.
const RETURNED_EARLY: &str = "sale.returned-early";

/// A row of the view `sale`. Amounts are minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct SaleRow {
    /// The store.
    pub store: String,
    /// The business date.
    pub business_date: BusinessDate,
    /// Its id within the till.
    pub sale: String,
    /// Of all amounts.
    pub currency: Currency,
    /// What was sold.
    pub lines: Vec<TillLine>,
    /// Units in all lines.
    pub units_sold: i64,
    /// Amount of all lines.
    pub gross_amount: i64,
    /// What came back of it within this till.
    #[serde(flatten)]
    pub returned: Returned,
    /// When it was sold, by the till's clock.
    pub sold_at: Option<String>,
    /// Whether it came after a close.
    pub late: bool,
    /// Its place among the till's events.
    pub version: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// What came back of a sale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct Returned {
    /// The returns' ids, in the order in which they were recorded.
    pub returns: Vec<String>,
    /// Their units.
    pub units_returned: i64,
    /// Their amount.
    pub refund_amount: i64,
}

/// A row of the view `return`. Amounts are minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct ReturnRow {
    /// The store.
    pub store: String,
    /// The business date.
    pub business_date: BusinessDate,
    /// Its id within the till.
    #[serde(rename = "return")]
    pub return_id: String,
    /// The sale it reverses; null when unknown.
    pub sale: Option<String>,
    /// Of all amounts.
    pub currency: Currency,
    /// What came back.
    pub lines: Vec<TillLine>,
    /// Units in all lines.
    pub units_returned: i64,
    /// Amount of all lines.
    pub refund_amount: i64,
    /// Whether it came after a close.
    pub late: bool,
    /// Its place among the till's events.
    pub version: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the views `sale` and `return`.
#[derive(Debug)]
pub struct SaleView;

impl Projection for SaleView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        SALES
    }

    fn views(&self) -> &'static [&'static str] {
        &[SALES, RETURNS]
    }

    fn tables(&self) -> &'static [&'static str] {
        &[SALES, RETURNS, RETURNED_EARLY]
    }

    fn shapes(&self) -> Vec<RowShape> {
        let sale = RowShape::of::<SaleRow>(SALES, "<store>_<business_date>/<sale>");
        let returned = RowShape::of::<ReturnRow>(RETURNS, "<store>_<business_date>/<return>");
        vec![
            sale.amounts(&["gross_amount", "refund_amount", "lines.unit_price"]),
            returned.amounts(&["refund_amount", "lines.unit_price"]),
        ]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Till::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        match TillEvent::from_envelope(envelope)? {
            TillEvent::SaleRecorded(sale) => apply_sale(envelope, sale, rows),
            TillEvent::ReturnRecorded(entry) => apply_return(envelope, entry, rows),
            TillEvent::Closed(_) => Ok(()),
        }
    }
}

fn key(envelope: &EventEnvelope<'_>, id: &str) -> String {
    format!("{}/{id}", envelope.stream_id.id())
}

fn apply_sale(
    envelope: &EventEnvelope<'_>,
    sale: SaleRecorded,
    rows: &mut (dyn Rows + '_),
) -> Result<(), ProjectionError> {
    let TillId { store, business_date } = till_of(envelope)?;
    let key = key(envelope, &sale.sale);
    let early: Option<Returned> = rows.read(RETURNED_EARLY, &key)?;
    if early.is_some() {
        rows.delete(RETURNED_EARLY, &key);
    }
    let row = SaleRow {
        store,
        business_date,
        units_sold: units(&sale.lines),
        gross_amount: amount(&sale.lines),
        returned: early.unwrap_or_default(),
        sale: sale.sale,
        currency: sale.currency,
        lines: sale.lines,
        sold_at: sale.sold_at,
        late: sale.late,
        version: envelope.aggregate_version,
        recorded_at: envelope.recorded_at,
    };
    rows.write(SALES, &key, &row);
    Ok(())
}

fn apply_return(
    envelope: &EventEnvelope<'_>,
    entry: ReturnRecorded,
    rows: &mut (dyn Rows + '_),
) -> Result<(), ProjectionError> {
    let TillId { store, business_date } = till_of(envelope)?;
    if let Some(sale) = &entry.sale {
        let sale_key = key(envelope, sale);
        match rows.read::<SaleRow>(SALES, &sale_key)? {
            Some(mut row) => {
                add_return(&mut row.returned, &entry);
                rows.write(SALES, &sale_key, &row);
            }
            None => {
                let mut early = rows.read::<Returned>(RETURNED_EARLY, &sale_key)?.unwrap_or_default();
                add_return(&mut early, &entry);
                rows.write(RETURNED_EARLY, &sale_key, &early);
            }
        }
    }
    let key = key(envelope, &entry.return_id);
    let row = ReturnRow {
        store,
        business_date,
        units_returned: units(&entry.lines),
        refund_amount: amount(&entry.lines),
        return_id: entry.return_id,
        sale: entry.sale,
        currency: entry.currency,
        lines: entry.lines,
        late: entry.late,
        version: envelope.aggregate_version,
        recorded_at: envelope.recorded_at,
    };
    rows.write(RETURNS, &key, &row);
    Ok(())
}

fn add_return(returned: &mut Returned, entry: &ReturnRecorded) {
    returned.returns.push(entry.return_id.clone());
    returned.units_returned += units(&entry.lines);
    returned.refund_amount = returned.refund_amount.saturating_add(amount(&entry.lines));
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::retail::till::test_events::{closed, returned, sold};

    const TILL: &str = "2506_2012-01-31";

    #[test]
    fn each_sale_has_a_row_with_what_came_back_of_it() {
        let mut history = History::new("retail");
        history
            .add("till", TILL, [sold("1", &[("a", 2, 500), ("b", 1, 99)]), sold("2", &[("a", 1, 500)])])
            .add("till", TILL, [returned("r", Some("1"), &[("a", 1, 500)]), closed(1)]);
        let rows = assert_repeatable(&SaleView, &history);
        assert_eq!(rows.keys("sale"), ["2506_2012-01-31/1", "2506_2012-01-31/2"]);
        assert_eq!(
            rows.json("sale", "2506_2012-01-31/1"),
            json!({
                "store": "2506", "business_date": "2012-01-31", "sale": "1", "currency": "USD",
                "lines": [
                    { "sku": "a", "quantity": 2, "unit_price": 500 },
                    { "sku": "b", "quantity": 1, "unit_price": 99 },
                ],
                "units_sold": 3, "gross_amount": 1099,
                "returns": ["r"], "units_returned": 1, "refund_amount": 500,
                "sold_at": null, "late": false, "version": 1, "recorded_at": "2012-01-31T12:00:00Z",
            })
        );
        assert_eq!(rows.json("return", "2506_2012-01-31/r")["sale"], json!("1"));
    }

    #[test]
    fn return_that_comes_before_its_sale_is_in_the_sales_row_all_the_same() {
        let mut history = History::new("retail");
        history
            .add("till", TILL, [returned("r", Some("1"), &[("a", 1, 500)])])
            .add("till", TILL, [returned("s", Some("1"), &[("a", 1, 500)])])
            .add("till", TILL, [sold("1", &[("a", 2, 500)])]);
        let rows = assert_repeatable(&SaleView, &history);
        let row = rows.json("sale", "2506_2012-01-31/1");
        assert_eq!((&row["returns"], &row["refund_amount"]), (&json!(["r", "s"]), &json!(1000)));
        assert!(rows.keys("sale.returned-early").is_empty());
    }
}
