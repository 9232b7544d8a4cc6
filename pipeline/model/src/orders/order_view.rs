//! View `order`, key `<order>`: an order with its whole history. Views `orders-by-customer`, key `<customer>/<order>`, and
//! `orders-by-state`, key `<state>/<order>`: the same orders in short; a row of the latter moves when the state changes.
//! The warehouse's worklist is the prefix `paid/`.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
    values::money::Currency,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::order::{CancellationCause, Order, OrderEvent, OrderLine, OrderPlaced, status::OrderStatus};

const ORDERS: &str = "order";
const BY_CUSTOMER: &str = "orders-by-customer";
const BY_STATE: &str = "orders-by-state";

/// A row of the views `orders-by-customer` and `orders-by-state`, and the head of one of the view `order`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct OrderSummary {
    /// Its id.
    pub order: String,
    /// Id of the customer.
    pub customer: String,
    /// Where it stands.
    pub state: OrderStatus,
    /// Of all lines, in minor units.
    pub amount: i64,
    /// Of all amounts.
    pub currency: Currency,
    /// When it was placed, or recorded if it did not say when.
    pub placed_at: Timestamp,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// A row of the view `order`. Amounts are minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct OrderRow {
    /// What the other views show too.
    #[serde(flatten)]
    pub summary: OrderSummary,
    /// Whose stock it is taken from.
    pub location: String,
    /// What is ordered.
    pub lines: Vec<OrderLine>,
    /// Id of the payment; null until it is paid.
    pub payment: Option<String>,
    /// What was paid.
    pub paid_amount: i64,
    /// What was given back.
    pub refunded_amount: i64,
    /// Id of the shipment; null until it is shipped.
    pub shipment: Option<String>,
    /// Who carries it.
    pub carrier: Option<String>,
    /// What called it off; null unless it was.
    pub cancelled_by: Option<CancellationCause>,
    /// Why, in words.
    pub cancellation_reason: Option<String>,
    /// Everything that happened to it, in order.
    pub history: Vec<HistoryEntry>,
}

/// One event of an order's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct HistoryEntry {
    /// Its place among the order's events.
    pub version: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Its type.
    pub event: String,
    /// Its fields.
    pub data: Value,
    /// The id of the command that caused it.
    pub command_id: String,
    /// Who asked for it; null when unknown.
    pub actor: Option<String>,
}

/// Fills the views `order`, `orders-by-customer` and `orders-by-state`.
#[derive(Debug)]
pub struct OrderView;

impl Projection for OrderView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        ORDERS
    }

    fn views(&self) -> &'static [&'static str] {
        &[ORDERS, BY_CUSTOMER, BY_STATE]
    }

    fn shapes(&self) -> Vec<RowShape> {
        let summary = |view, key| RowShape::of::<OrderSummary>(view, key).amounts(&["amount"]);
        let amounts = ["amount", "paid_amount", "refunded_amount", "lines.unit_price"];
        vec![
            RowShape::of::<OrderRow>(ORDERS, "<order>").amounts(&amounts),
            summary(BY_CUSTOMER, "<customer>/<order>"),
            summary(BY_STATE, "<state>/<order>"),
        ]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Order::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let order = envelope.stream_id.id();
        let event = OrderEvent::from_envelope(envelope)?;
        let before: Option<OrderRow> = rows.read(ORDERS, order)?;
        let mut row = match (before, &event) {
            (None, OrderEvent::Placed(placed)) => new_row(envelope, placed),
            (Some(row), _) => row,
            (None, _) => {
                let message = format!("{} went on before it was placed", envelope.stream_id);
                return Err(ProjectionError::Inconsistent(message));
            }
        };
        let state_before = row.summary.state;
        row.summary.state = state_before.after(&event);
        row.summary.version = envelope.aggregate_version;
        row.summary.recorded_at = envelope.recorded_at;
        row.history.push(history_entry(envelope, &event));
        update(&mut row, event);

        rows.write(ORDERS, order, &row);
        rows.write(BY_CUSTOMER, &format!("{}/{order}", row.summary.customer), &row.summary);
        rows.delete(BY_STATE, &format!("{state_before}/{order}"));
        rows.write(BY_STATE, &format!("{}/{order}", row.summary.state), &row.summary);
        Ok(())
    }
}

fn new_row(envelope: &EventEnvelope<'_>, placed: &OrderPlaced) -> OrderRow {
    OrderRow {
        summary: OrderSummary {
            order: envelope.stream_id.id().to_owned(),
            customer: placed.customer.clone(),
            state: OrderStatus::Placed,
            amount: placed.amount,
            currency: placed.currency,
            placed_at: placed.happened_at.unwrap_or(envelope.recorded_at),
            version: envelope.aggregate_version,
            recorded_at: envelope.recorded_at,
        },
        location: placed.location.clone(),
        lines: placed.lines.clone(),
        payment: None,
        paid_amount: 0,
        refunded_amount: 0,
        shipment: None,
        carrier: None,
        cancelled_by: None,
        cancellation_reason: None,
        history: Vec::new(),
    }
}

fn update(row: &mut OrderRow, event: OrderEvent) {
    match event {
        OrderEvent::Placed(_) | OrderEvent::Reserved(_) | OrderEvent::Delivered(_) => {}
        OrderEvent::Paid(paid) => {
            row.payment = Some(paid.payment);
            row.paid_amount = paid.amount;
        }
        OrderEvent::Shipped(shipped) => {
            row.shipment = Some(shipped.shipment);
            row.carrier = shipped.carrier;
        }
        OrderEvent::Cancelled(cancelled) => {
            row.cancelled_by = Some(cancelled.cause);
            row.cancellation_reason = cancelled.reason;
        }
        OrderEvent::Refunded(refunded) => {
            row.refunded_amount = row.refunded_amount.saturating_add(refunded.amount);
        }
    }
}

fn history_entry(envelope: &EventEnvelope<'_>, event: &OrderEvent) -> HistoryEntry {
    let data = match event {
        OrderEvent::Placed(fields) => serde_json::to_value(fields),
        OrderEvent::Reserved(fields) => serde_json::to_value(fields),
        OrderEvent::Paid(fields) => serde_json::to_value(fields),
        OrderEvent::Shipped(fields) => serde_json::to_value(fields),
        OrderEvent::Delivered(fields) => serde_json::to_value(fields),
        OrderEvent::Cancelled(fields) => serde_json::to_value(fields),
        OrderEvent::Refunded(fields) => serde_json::to_value(fields),
    };
    HistoryEntry {
        version: envelope.aggregate_version,
        recorded_at: envelope.recorded_at,
        event: envelope.event_type.to_owned(),
        data: data.expect("events hold only plain data with text keys"),
        command_id: envelope.command.id.to_string(),
        actor: envelope.command.actor.as_deref().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::orders::order::{OrderCancelled, OrderPaid, OrderRefunded, OrderReserved, OrderShipped};

    fn placed(customer: &str) -> OrderEvent {
        OrderEvent::Placed(OrderPlaced {
            customer: customer.into(),
            location: "2506".into(),
            currency: Currency::parse("USD").unwrap(),
            lines: vec![OrderLine { sku: "a".into(), quantity: 2, unit_price: 500 }],
            amount: 1000,
            happened_at: None,
        })
    }

    fn paid() -> OrderEvent {
        let currency = Currency::parse("USD").unwrap();
        OrderEvent::Paid(OrderPaid { payment: "P-1".into(), amount: 1000, currency, happened_at: None })
    }

    #[test]
    fn row_shows_the_order_with_its_whole_history() {
        let mut history = History::new("orders");
        history
            .add("order", "O-1", [placed("anna")])
            .add("order", "O-1", [OrderEvent::Reserved(OrderReserved {}), paid()])
            .add(
                "order",
                "O-1",
                [OrderEvent::Shipped(OrderShipped {
                    shipment: "S-1".into(),
                    carrier: Some("post".into()),
                    happened_at: None,
                })],
            );
        let row = assert_repeatable(&OrderView, &history).json("order", "O-1");
        let entry = |version: u64, second: u64, command: u64, event: &str, data: Value| {
            json!({
                "version": version, "recorded_at": format!("2012-01-31T12:00:0{second}Z"), "event": event,
                "data": data, "command_id": format!("command-{command}"), "actor": null,
            })
        };
        let lines = json!([{ "sku": "a", "quantity": 2, "unit_price": 500 }]);
        let data = json!({
            "customer": "anna", "location": "2506", "currency": "USD", "lines": lines, "amount": 1000,
        });
        let payment = json!({ "payment": "P-1", "amount": 1000, "currency": "USD" });
        assert_eq!(
            row,
            json!({
                "order": "O-1", "customer": "anna", "state": "shipped", "amount": 1000, "currency": "USD",
                "placed_at": "2012-01-31T12:00:00Z", "version": 4, "recorded_at": "2012-01-31T12:00:02Z",
                "location": "2506", "lines": lines, "payment": "P-1", "paid_amount": 1000, "refunded_amount": 0,
                "shipment": "S-1", "carrier": "post", "cancelled_by": null, "cancellation_reason": null,
                "history": [
                    entry(1, 0, 1, "order-placed", data),
                    entry(2, 1, 2, "order-reserved", json!({})),
                    entry(3, 1, 2, "order-paid", payment),
                    entry(4, 2, 3, "order-shipped", json!({ "shipment": "S-1", "carrier": "post" })),
                ],
            })
        );
    }

    #[test]
    fn orders_are_listed_by_customer_and_move_between_states() {
        let cancelled = OrderEvent::Cancelled(OrderCancelled {
            cause: CancellationCause::ShipmentExpired,
            reason: None,
            refundable: 1000,
            happened_at: None,
        });
        let refunded = |amount, full| {
            OrderEvent::Refunded(OrderRefunded {
                refund: "R".into(),
                amount,
                reason: None,
                full,
                happened_at: None,
            })
        };
        let mut history = History::new("orders");
        history
            .add("order", "O-1", [placed("anna")])
            .add("order", "O-2", [placed("anna")])
            .add("order", "O-3", [placed("berta")])
            .add("order", "O-2", [OrderEvent::Reserved(OrderReserved {})])
            .add("order", "O-3", [OrderEvent::Reserved(OrderReserved {}), paid(), cancelled]);
        let rows = assert_repeatable(&OrderView, &history);
        assert_eq!(rows.keys("orders-by-customer"), ["anna/O-1", "anna/O-2", "berta/O-3"]);
        assert_eq!(rows.keys("orders-by-state"), ["cancelled/O-3", "placed/O-1", "reserved/O-2"]);
        assert_eq!(
            rows.json("orders-by-state", "cancelled/O-3"),
            rows.json("orders-by-customer", "berta/O-3")
        );
        assert_eq!(rows.json("order", "O-3")["cancelled_by"], json!("shipment-expired"));

        history.add("order", "O-3", [refunded(400, false)]);
        assert_eq!(assert_repeatable(&OrderView, &history).json("order", "O-3")["state"], json!("cancelled"));
        history.add("order", "O-3", [refunded(600, true)]);
        let rows = assert_repeatable(&OrderView, &history);
        assert_eq!(rows.keys("orders-by-state"), ["placed/O-1", "refunded/O-3", "reserved/O-2"]);
        assert_eq!(rows.json("order", "O-3")["refunded_amount"], json!(1000));
    }
}
