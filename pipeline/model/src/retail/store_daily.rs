//! Report `store-daily`, key `<store>`: what a store sold and took back on a business date.
//!
//! Posted by the till's sales and returns, sealed by the till's close.

use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{ProjectionError, Rows},
    report::{
        Column,
        ColumnKind::{Amount, Count, Number, Text},
        Entry, Posting, Report, ReportTables, SmolStr,
    },
    values::money::Currency,
};

use super::{
    till::{Till, TillEvent, TillId},
    till_figures::{amount, reference, till_of, units},
};

static TABLES: ReportTables = millstream::report_tables!("store-daily");

/// The report's columns, as people see them.
pub const COLUMNS: &[Column] = &[
    Column::new("store", Text),
    Column::new("business_date", Text),
    Column::new("revision", Number),
    Column::new("status", Text),
    Column::new("sales", Count),
    Column::new("returns", Count),
    Column::new("units_sold", Count),
    Column::new("units_returned", Count),
    Column::new("gross_amount", Amount),
    Column::new("refund_amount", Amount),
    Column::new("net_amount", Amount),
    Column::new("currency", Text),
];

/// Posts to `store-daily`.
#[derive(Debug)]
pub struct StoreDaily;

impl Report for StoreDaily {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn key(&self) -> &'static str {
        "<business_date>/<store>"
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Till::AGGREGATE
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        let till = till_of(envelope)?;
        let entry = match TillEvent::from_envelope(envelope)? {
            TillEvent::SaleRecorded(sale) => {
                let gross = amount(&sale.lines);
                let figures = vec![
                    ("sales", 1),
                    ("units_sold", units(&sale.lines)),
                    ("gross_amount", gross),
                    ("net_amount", gross),
                ];
                post(envelope, &till, sale.currency, figures, &sale.sale)
            }
            TillEvent::ReturnRecorded(returned) => {
                let refund = amount(&returned.lines);
                let figures = vec![
                    ("returns", 1),
                    ("units_returned", units(&returned.lines)),
                    ("refund_amount", refund),
                    ("net_amount", -refund),
                ];
                post(envelope, &till, returned.currency, figures, &returned.return_id)
            }
            TillEvent::Closed(_) => Entry::Seal { date: till.business_date.into(), key: till.store.into() },
        };
        Ok(vec![entry])
    }
}

fn post(
    envelope: &EventEnvelope<'_>,
    till: &TillId,
    currency: Currency,
    figures: Vec<(&'static str, i64)>,
    id: &str,
) -> Entry {
    let date = SmolStr::from(till.business_date);
    let store = SmolStr::from(&till.store);
    Entry::Post(Posting {
        texts: vec![
            ("store", Some(store.clone())),
            ("business_date", Some(date.clone())),
            ("currency", Some(currency.as_str().into())),
        ],
        key: store,
        date,
        figures,
        reference: reference(envelope, id).into(),
    })
}

#[cfg(test)]
mod tests {
    use millstream::{
        report::Ledger,
        testing::project::{History, assert_repeatable},
    };
    use serde_json::json;

    use super::*;
    use crate::retail::till::test_events::{closed, returned, sold};

    const TILL: &str = "2506_2012-01-31";

    #[test]
    fn rows_have_the_reports_columns() {
        let mut history = History::new("retail");
        history
            .add("till", TILL, [sold("1", &[("a", 2, 500), ("b", 1, 99)]), sold("2", &[("a", 1, 500)])])
            .add("till", TILL, [returned("r", Some("1"), &[("a", 1, 500)])]);
        let row = assert_repeatable(&Ledger(StoreDaily), &history).json("store-daily", "2012-01-31/2506");
        let expected = json!({
            "store": "2506", "business_date": "2012-01-31", "revision": 1, "status": "open", "sales": 2, "returns": 1,
            "units_sold": 4, "units_returned": 1, "gross_amount": 1599, "refund_amount": 500, "net_amount": 1099,
            "currency": "USD",
        });
        for column in COLUMNS {
            assert_eq!(row[column.name], expected[column.name], "{}", column.name);
        }
        assert_eq!(expected.as_object().unwrap().len(), COLUMNS.len());
    }

    #[test]
    fn late_sale_restates_the_closed_day() {
        let mut history = History::new("retail");
        history
            .add("till", TILL, [sold("1", &[("a", 2, 500)]), closed(1)])
            .add("till", TILL, [sold("2", &[("a", 1, 500)])])
            .add("till", TILL, [closed(2)]);
        let rows = assert_repeatable(&Ledger(StoreDaily), &history);
        let first = rows.json("store-daily.revisions", "2012-01-31/2506#000001");
        let second = rows.json("store-daily", "2012-01-31/2506");
        assert_eq!((&first["sales"], &first["status"]), (&json!(1), &json!("sealed")));
        assert_eq!((&second["sales"], &second["status"]), (&json!(2), &json!("sealed")));
        assert_eq!(second["differences"][0]["reference"], json!("2506_2012-01-31/2"));
        assert_eq!(second["difference"]["net_amount"], json!(500));
    }

    #[test]
    fn closed_till_without_sales_has_no_row() {
        let mut history = History::new("retail");
        history.add("till", TILL, [closed(1)]);
        assert!(assert_repeatable(&Ledger(StoreDaily), &history).keys("store-daily").is_empty());
    }
}
