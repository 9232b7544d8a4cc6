//! The process `stock-keeping`: stock follows what is delivered and sold.
//!
//! | event | what follows, line by line |
//! |---|---|
//! | delivery received | the stock at the delivery's location receives, under `delivery <delivery>/<line>` |
//! | sale recorded | the store's stock issues, under `sale <till>/<sale>/<line>` |
//! | return recorded | the store's stock receives, under `return <till>/<return>/<line>` |
//!
//! Each movement counts for the business date of what caused it, late or not. Lines are numbered from 1.
//!
//! A location with a colon in its id, or one that together with a sku is longer than an id may be, has no stock. Deliveries and tills refuse
//! such lines; nothing follows from those that were recorded before they did. No notes are kept.

use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    process::{Effect, Process, ProcessCommand, ProcessError},
    projection::{ProjectionError, Rows},
    values::business_date::BusinessDate,
};

use super::{
    delivery::{Delivery, DeliveryEvent},
    stock::{IssueStock, ReceiveStock, Stock, StockId},
    till::{Till, TillEvent, TillId, TillLine},
};

/// The reference under which a stock receives a line of a delivery; lines are numbered from 1.
pub fn delivery_reference(delivery: &str, line: u64) -> String {
    format!("delivery {delivery}/{line}")
}

/// Keeps stock.
#[derive(Debug)]
pub struct StockKeeping;

impl Process for StockKeeping {
    fn name(&self) -> &'static str {
        "stock-keeping"
    }

    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        context == super::CONTEXT && [Delivery::AGGREGATE, Till::AGGREGATE].contains(&aggregate)
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let id = envelope.stream_id.id();
        if envelope.stream_id.aggregate() == Delivery::AGGREGATE {
            let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(envelope)?;
            let lines = received.lines.iter().map(|line| (&*line.sku, line.quantity));
            let document = format!("delivery {id}");
            return movements(&received.location, received.business_date, &document, lines, Way::In);
        }
        let till =
            TillId::parse(id).map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))?;
        let (document, lines, way) = match TillEvent::from_envelope(envelope)? {
            TillEvent::SaleRecorded(sale) => (format!("sale {id}/{}", sale.sale), sale.lines, Way::Out),
            TillEvent::ReturnRecorded(entry) => {
                (format!("return {id}/{}", entry.return_id), entry.lines, Way::In)
            }
            TillEvent::Closed(_) => return Ok(vec![]),
        };
        let lines = lines.iter().map(|TillLine { sku, quantity, .. }| (&**sku, *quantity));
        movements(&till.store, till.business_date, &document, lines, way)
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    In,
    Out,
}

fn movements<'l>(
    location: &str,
    date: BusinessDate,
    document: &str,
    lines: impl Iterator<Item = (&'l str, i64)>,
    way: Way,
) -> Result<Vec<Effect>, ProcessError> {
    let mut effects = Vec::new();
    for (number, (sku, quantity)) in (1_u64..).zip(lines) {
        let Some(stock) = StockId::join(location, sku) else { continue };
        let reference = Some(format!("{document}/{number}"));
        let business_date = Some(date.to_string());
        let command = match way {
            Way::In => {
                let receive = ReceiveStock { quantity, reference, business_date };
                ProcessCommand::to::<Stock>(&stock, "receive", &receive)?
            }
            Way::Out => {
                let issue = IssueStock { quantity, reference, business_date };
                ProcessCommand::to::<Stock>(&stock, "issue", &issue)?
            }
        };
        effects.push(Effect::Send(command));
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use millstream::{
        contract::subject::AGGREGATE_ID_LENGTH_MAX,
        decider::AggregateRegistry,
        testing::{in_memory_system::InMemorySystem, memory_rows::MemoryRows, project::rows_of},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::retail::{stock_view::StockView, till::Till};

    fn system() -> InMemorySystem {
        let registry = AggregateRegistry::new().with::<Delivery>().with::<Till>().with::<Stock>();
        InMemorySystem::new(registry, vec![Box::new(StockKeeping)])
    }

    /// A sku as long as an id may be was sold, and no stock went down, without a word.
    #[test]
    fn line_of_which_there_can_be_no_stock_is_refused() {
        let longest = "s".repeat(AGGREGATE_ID_LENGTH_MAX - "store:".len());
        let longer = format!("{longest}s");
        for (store, sku, refused) in
            [("store", &longest, false), ("store", &longer, true), ("st:re", &longest, true)]
        {
            let mut system = system();
            let line = |price: &str| json!([{ "sku": sku, "quantity": 2, price: 1 }]);
            let delivery = json!({ "supplier": "acme", "location": store, "currency": "USD", "lines": line("unit_cost") });
            let sale = json!({ "sale": "S1", "currency": "USD", "lines": line("unit_price") });
            let back = json!({ "return": "R1", "currency": "USD", "lines": line("unit_price") });
            let till = format!("retail.till.{store}_2012-01-31");
            for (address, body) in [
                ("retail.delivery.D1.receive".to_owned(), delivery),
                (format!("{till}.record-sale"), sale),
                (format!("{till}.record-return"), back),
            ] {
                let code = system.send(&address, &body.to_string()).err().map(|rejection| rejection.code);
                assert_eq!(code, refused.then_some("stock-id-malformed"), "{address} {sku}");
            }
            let stock = format!("{store}:{sku}");
            assert_eq!(on_hand(&system, &stock), (!refused).then_some(2));
        }
    }

    fn on_hand(system: &InMemorySystem, stock: &str) -> Option<i64> {
        let rows: MemoryRows = rows_of(&StockView, system.history());
        let rows: &dyn Rows = &rows;
        rows.read::<Value>("stock", stock).unwrap().map(|row| row["on_hand"].as_i64().unwrap())
    }

    #[test]
    fn stock_follows_deliveries_sales_and_returns() {
        let mut system = system();
        let delivery = r#"{"supplier":"acme","location":"7","currency":"USD","received_on":"2012-01-30",
            "lines":[{"sku":"a","quantity":10,"unit_cost":1},{"sku":"b","quantity":2,"unit_cost":1},{"sku":"a","quantity":5,"unit_cost":2}]}"#;
        system.send("retail.delivery.d-1.receive", delivery).unwrap();
        let sale = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"a","quantity":3,"unit_price":9},{"sku":"b","quantity":4,"unit_price":9}]}"#;
        system.send("retail.till.7_2012-01-31.record-sale", sale).unwrap();
        let back = r#"{"return":"R1","sale":"S1","currency":"USD","lines":[{"sku":"a","quantity":1,"unit_price":9}]}"#;
        system.send("retail.till.7_2012-01-31.record-return", back).unwrap();
        assert_eq!((on_hand(&system, "7:a"), on_hand(&system, "7:b")), (Some(13), Some(-2)));
        assert!(system.refused().is_empty(), "{:?}", system.refused());
        system.repeat_all_effects();
        assert_eq!((on_hand(&system, "7:a"), on_hand(&system, "7:b")), (Some(13), Some(-2)));
        system.assert_processes_repeatable();
    }

    #[test]
    fn movements_name_the_line_and_count_for_its_day() {
        let mut system = system();
        let sale = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"a","quantity":3,"unit_price":9}]}"#;
        system.send("retail.till.7_2011-12-24.record-sale", sale).unwrap();
        let commits = system.history().commits();
        let envelope = commits.last().unwrap().envelopes().next().unwrap();
        let crate::retail::stock::StockEvent::Issued(issued) =
            crate::retail::stock::StockEvent::from_envelope(&envelope).unwrap()
        else {
            panic!("{envelope:?}")
        };
        assert_eq!(issued.reference.as_deref(), Some("sale 7_2011-12-24/S1/1"));
        assert_eq!(issued.business_date.to_string(), "2011-12-24");
        assert!(issued.below_zero);
    }

    /// Tills refuse it; a history may hold it.
    #[test]
    fn location_that_can_have_no_stock_is_passed_over() {
        let date = BusinessDate::parse("2012-01-31").unwrap();
        let effects =
            movements("a:b", date, "sale a:b_2012-01-31/S1", [("a", 3)].into_iter(), Way::Out).unwrap();
        assert_eq!(effects, []);
    }
}
