//! Views of stock, all with key `<location>:<sku>`: `stock` has every stock, `low-stock` those with fewer available
//! units than their minimum ([`MINIMUM_DEFAULT`] where none was set), `negative-stock` those with fewer than none on
//! hand. View `reservation`, key `<location>:<sku>/<reservation>`: the open reservations, one row each, so that no row
//! grows with them.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{DecodedRow, Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
};
use serde::{Deserialize, Serialize};

use super::stock::{MINIMUM_DEFAULT, Stock, StockEvent, StockId, StockReserved};

const STOCK: &str = "stock";
const LOW: &str = "low-stock";
const NEGATIVE: &str = "negative-stock";
const RESERVATIONS: &str = "reservation";

/// A row of the views `stock`, `low-stock` and `negative-stock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct StockRow {
    /// The store or warehouse.
    pub location: String,
    /// The item.
    pub sku: String,
    /// Units that are there; below zero when more has left than is known to have come.
    pub on_hand: i64,
    /// Units in open reservations.
    pub reserved: i64,
    /// On hand less reserved.
    pub available: i64,
    /// Below how many available units it counts as low.
    pub minimum: i64,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// In which further views a stock is.
struct Shown {
    low: bool,
    negative: bool,
}

impl StockRow {
    /// None of them before its first event.
    fn shown(&self) -> Shown {
        let exists = self.version > 0;
        Shown { low: exists && self.available < self.minimum, negative: exists && self.on_hand < 0 }
    }
}

/// A row of the view `reservation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct ReservationRow {
    /// The store or warehouse.
    pub location: String,
    /// The item.
    pub sku: String,
    /// Its id within the stock.
    pub reservation: String,
    /// How many units.
    pub quantity: i64,
    /// When they were reserved.
    pub recorded_at: Timestamp,
}

/// Fills the views of stock.
#[derive(Debug)]
pub struct StockView;

impl Projection for StockView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        STOCK
    }

    fn views(&self) -> &'static [&'static str] {
        &[STOCK, LOW, NEGATIVE, RESERVATIONS]
    }

    fn shapes(&self) -> Vec<RowShape> {
        let stocks = [STOCK, LOW, NEGATIVE].map(|view| RowShape::of::<StockRow>(view, "<location>:<sku…>"));
        let reservation = RowShape::of::<ReservationRow>(RESERVATIONS, "<location>:<sku>/<reservation…>");
        stocks.into_iter().chain([reservation]).collect()
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Stock::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let key = envelope.stream_id.id();
        let mut row: StockRow = match rows.read_decoded(STOCK, key)? {
            Some(row) => row,
            None => empty_row(stock_of(envelope)?, envelope.recorded_at),
        };
        let before = row.shown();
        match StockEvent::from_envelope(envelope)? {
            StockEvent::Received(received) => row.on_hand = row.on_hand.saturating_add(received.quantity),
            StockEvent::Issued(issued) => {
                row.on_hand = row.on_hand.saturating_sub(issued.quantity);
                row.reserved = row.reserved.saturating_sub(issued.reserved);
                if let Some(reservation) = issued.reference.filter(|_| issued.reserved > 0) {
                    rows.delete(RESERVATIONS, &reservation_key(key, &reservation));
                }
            }
            StockEvent::TransferredOut(out) => row.on_hand = row.on_hand.saturating_sub(out.quantity),
            StockEvent::TransferredIn(came) => row.on_hand = row.on_hand.saturating_add(came.quantity),
            StockEvent::Reserved(reserved) => {
                row.reserved = row.reserved.saturating_add(reserved.quantity);
                write_reservation(envelope, stock_of(envelope)?, reserved, rows);
            }
            StockEvent::ReservationReleased(released) => {
                row.reserved = row.reserved.saturating_sub(released.quantity);
                rows.delete(RESERVATIONS, &reservation_key(key, &released.reservation));
            }
            StockEvent::Adjusted(adjusted) => row.on_hand = adjusted.counted,
            StockEvent::MinimumSet(set) => row.minimum = set.minimum,
            StockEvent::ReservationRefused(_) => {}
        }
        row.available = row.on_hand.saturating_sub(row.reserved);
        row.version = envelope.aggregate_version;
        row.recorded_at = envelope.recorded_at;
        let after = row.shown();
        let row = DecodedRow::new(row);
        show(LOW, key, (before.low, after.low), &row, rows);
        show(NEGATIVE, key, (before.negative, after.negative), &row, rows);
        rows.put_decoded(STOCK, key, row);
        Ok(())
    }
}

fn empty_row(stock: StockId, recorded_at: Timestamp) -> StockRow {
    StockRow {
        location: stock.location,
        sku: stock.sku,
        on_hand: 0,
        reserved: 0,
        available: 0,
        minimum: MINIMUM_DEFAULT,
        version: 0,
        recorded_at,
    }
}

/// Location and sku of the stock that an event belongs to.
///
/// # Errors
/// [`ProjectionError::Inconsistent`] when the id is none of a stock, which the decider never lets pass.
pub(super) fn stock_of(envelope: &EventEnvelope<'_>) -> Result<StockId, ProjectionError> {
    StockId::parse(envelope.stream_id.id())
        .map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))
}

fn reservation_key(stock: &str, reservation: &str) -> String {
    format!("{stock}/{reservation}")
}

fn write_reservation(
    envelope: &EventEnvelope<'_>,
    stock: StockId,
    reserved: StockReserved,
    rows: &mut (dyn Rows + '_),
) {
    let key = reservation_key(envelope.stream_id.id(), &reserved.reservation);
    let row = ReservationRow {
        location: stock.location,
        sku: stock.sku,
        reservation: reserved.reservation,
        quantity: reserved.quantity,
        recorded_at: envelope.recorded_at,
    };
    rows.write(RESERVATIONS, &key, &row);
}

/// Keeps the row in a view in which it was shown before, or is after the event; rows of others are not even looked for.
fn show(view: &str, key: &str, (before, after): (bool, bool), row: &DecodedRow, rows: &mut (dyn Rows + '_)) {
    if after {
        rows.put_decoded(view, key, row.clone());
    } else if before {
        rows.delete(view, key);
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::{
        memory_rows::MemoryRows,
        project::{History, assert_repeatable},
    };
    use serde_json::json;

    use super::*;
    use crate::retail::stock::{
        ReservationRefused, ReservationReleased, StockAdjusted, StockIssued, StockMinimumSet, StockReceived,
        StockTransferredIn, StockTransferredOut,
    };

    fn received(quantity: i64) -> StockEvent {
        let business_date = "2012-01-31".parse().unwrap();
        StockEvent::Received(StockReceived { quantity, reference: None, business_date })
    }

    fn issued(quantity: i64, reservation: Option<(&str, i64)>) -> StockEvent {
        StockEvent::Issued(StockIssued {
            quantity,
            reference: reservation.map(|(id, _)| id.into()),
            reserved: reservation.map_or(0, |(_, reserved)| reserved),
            below_zero: false,
            business_date: "2012-01-31".parse().unwrap(),
        })
    }

    fn reserved(reservation: &str, quantity: i64) -> StockEvent {
        let reservation = reservation.into();
        StockEvent::Reserved(StockReserved { reservation, quantity, requested: true })
    }

    fn rows(events: impl IntoIterator<Item = StockEvent>) -> MemoryRows {
        let mut history = History::new("retail");
        for event in events {
            history.add("stock", "2506:75087", [event]);
        }
        assert_repeatable(&StockView, &history)
    }

    #[test]
    fn row_shows_what_is_there_and_what_is_spoken_for() {
        let refused = ReservationRefused { reservation: "order:3".into(), quantity: 99, available: 30 };
        let rows = rows([
            received(60),
            reserved("order:1", 10),
            reserved("order:2", 20),
            StockEvent::ReservationRefused(refused),
            issued(8, Some(("order:1", 10))),
            issued(2, Some(("counter sale", 0))),
        ]);
        let row = json!({
            "location": "2506", "sku": "75087", "on_hand": 50, "reserved": 20, "available": 30, "minimum": 10,
            "version": 6, "recorded_at": "2012-01-31T12:00:05Z",
        });
        assert_eq!(rows.json("stock", "2506:75087"), row);
        assert!(rows.keys("low-stock").is_empty() && rows.keys("negative-stock").is_empty());
        assert_eq!(rows.keys("reservation"), ["2506:75087/order:2"]);
        assert_eq!(
            rows.json("reservation", "2506:75087/order:2"),
            json!({
                "location": "2506", "sku": "75087", "reservation": "order:2", "quantity": 20,
                "recorded_at": "2012-01-31T12:00:02Z",
            })
        );
    }

    #[test]
    fn transferred_units_are_in_one_place() {
        let business_date = "2012-01-31".parse().unwrap();
        let (quantity, reference) = (8, None);
        let came = StockTransferredIn { from: "2506".into(), quantity, reference: None, business_date };
        let out = StockTransferredOut { to: "2507".into(), quantity, reference, business_date };
        let mut history = History::new("retail");
        history.add("stock", "2506:75087", [received(12)]);
        history.add("stock", "2507:75087", [StockEvent::TransferredIn(came)]);
        history.add("stock", "2506:75087", [StockEvent::TransferredOut(out)]);
        let rows = assert_repeatable(&StockView, &history);
        assert_eq!(rows.json("stock", "2506:75087")["available"], json!(4));
        assert_eq!(rows.json("stock", "2507:75087")["available"], json!(8));
        assert_eq!(rows.keys("low-stock"), ["2506:75087", "2507:75087"]);
    }

    #[test]
    fn released_units_are_available_again() {
        let released = ReservationReleased { reservation: "order:1".into(), quantity: 10 };
        let rows = rows([received(60), reserved("order:1", 10), StockEvent::ReservationReleased(released)]);
        let row = rows.json("stock", "2506:75087");
        assert_eq!((&row["reserved"], &row["available"]), (&json!(0), &json!(60)));
        assert!(rows.keys("reservation").is_empty());
    }

    #[test]
    fn low_and_negative_stock_come_and_go() {
        let mut events = vec![received(12), issued(3, None)];
        assert_eq!(rows(events.clone()).keys("low-stock"), ["2506:75087"]);
        assert!(rows(events.clone()).keys("negative-stock").is_empty());
        events.push(issued(10, None));
        assert_eq!(rows(events.clone()).json("negative-stock", "2506:75087")["on_hand"], json!(-1));
        events.push(StockEvent::Adjusted(StockAdjusted {
            counted: 9,
            change: 10,
            reason: None,
            business_date: "2012-01-31".parse().unwrap(),
        }));
        assert!(rows(events.clone()).keys("negative-stock").is_empty());
        assert_eq!(rows(events.clone()).json("low-stock", "2506:75087")["on_hand"], json!(9));
        events.push(StockEvent::MinimumSet(StockMinimumSet { minimum: 9 }));
        assert!(rows(events).keys("low-stock").is_empty());
    }
}
