//! The process `fulfilment`: from a placed order to reserved, paid and shipped goods, or back to where it began.
//!
//! | event | what follows |
//! |---|---|
//! | order placed | a reservation is requested for each sku, and the time to pay begins |
//! | all granted | the order is told that it is reserved |
//! | one refused | the order is told, and cancels itself |
//! | order paid | the time to ship begins; the order waits in `orders-by-state` under `paid/` for the warehouse |
//! | order shipped | the reservations turn into issues |
//! | order cancelled, by whatever | timers end, granted reservations are released, what is left of the payment is refunded |
//! | granted after that | released at once |
//!
//! An order that says when it was placed (`happened_at`) is history: nothing follows from it, nor from what is recorded of it later.
//!
//! The time to pay begins with the order, not with its reservation: should a request for a reservation never be
//! answered, the order still ends.
//!
//! Notes: `fulfilment.orders`, key `<order>`, for as long as something is to be done about an order.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use millstream::{
    application::SettingKeys,
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    process::{Effect, Process, ProcessCommand, ProcessError, Timer},
    projection::{ProjectionError, Rows},
};
use serde::{Deserialize, Serialize};

use super::order::{
    ConfirmReservation, ExpirePayment, ExpireShipment, Order, OrderCancelled, OrderEvent, OrderPlaced,
    RefundRemainder, RejectReservation, units_by_sku,
};
use crate::retail::stock::{
    IssueStock, ORDER_RESERVATION_PREFIX, ReleaseReservation, RequestReservation, ReservationRefused, Stock,
    StockEvent, StockId,
};

const NAME: &str = "fulfilment";
const ORDERS: &str = "fulfilment.orders";

/// The refund's id, for the one refund that this process asks for.
const REFUND: &str = "cancellation";

/// How long customers and the warehouse have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From placing an order to its payment.
    pub payment: SignedDuration,
    /// From the payment to the shipment.
    pub shipment: SignedDuration,
}

impl Default for Deadlines {
    /// A day to pay, long enough for whoever orders in the evening; a week to ship, for one with a holiday in it.
    fn default() -> Self {
        Self { payment: SignedDuration::from_hours(24), shipment: SignedDuration::from_hours(7 * 24) }
    }
}

/// Sees orders through.
#[derive(Debug, Default)]
pub struct Fulfilment {
    deadlines: Deadlines,
}

impl Fulfilment {
    /// A process that grants `deadlines`.
    pub fn new(deadlines: Deadlines) -> Self {
        Self { deadlines }
    }

    /// A process that grants the deadlines of the configuration.
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let defaults = Deadlines::default();
        Self::new(Deadlines {
            payment: keys.duration(
                "payment_deadline",
                defaults.payment,
                "how long a customer has to pay an order before it is cancelled",
            ),
            shipment: keys.duration(
                "shipment_deadline",
                defaults.shipment,
                "how long the warehouse has to ship a paid order before it is cancelled and refunded",
            ),
        })
    }
}

/// What the process knows of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OrderNote {
    location: String,
    /// How many units are wanted, by sku.
    units: BTreeMap<String, i64>,
    /// The skus whose requests have not been answered.
    waiting: BTreeSet<String>,
    /// The skus that are reserved.
    granted: BTreeSet<String>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Open,
    /// A reservation was refused; the order has been told.
    Refused,
    Cancelled,
}

/// An order and its note.
struct Case<'a> {
    order: &'a str,
    note: OrderNote,
}

impl Process for Fulfilment {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> &'static [&'static str] {
        &[ORDERS]
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        [(Order::CONTEXT, Order::AGGREGATE), (Stock::CONTEXT, Stock::AGGREGATE)]
            .contains(&(context, aggregate))
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        if envelope.stream_id.aggregate() == Stock::AGGREGATE {
            return answer_stock(envelope, rows);
        }
        let event = OrderEvent::from_envelope(envelope)?;
        let order = envelope.stream_id.id();
        if let OrderEvent::Placed(placed) = event {
            // History: whatever became of it has happened, and is recorded by whoever knows it.
            if placed.happened_at.is_some() {
                return Ok(vec![]);
            }
            return self.begin(envelope.recorded_at, order, &placed, rows);
        }
        let Some(note) = rows.read::<OrderNote>(ORDERS, order)? else { return Ok(vec![]) };
        let case = Case { order, note };
        match event {
            OrderEvent::Paid(_) => {
                let timer = case.shipment_timer(later(envelope.recorded_at, self.deadlines.shipment))?;
                Ok(vec![Effect::CancelTimer(payment_timer(order)), Effect::SetTimer(timer)])
            }
            OrderEvent::Shipped(_) => {
                rows.delete(ORDERS, order);
                case.issue()
            }
            OrderEvent::Cancelled(cancelled) => case.undo(&cancelled, rows),
            OrderEvent::Placed(_)
            | OrderEvent::Reserved(_)
            | OrderEvent::Delivered(_)
            | OrderEvent::Refunded(_) => Ok(vec![]),
        }
    }
}

impl Fulfilment {
    fn begin(
        &self,
        placed_at: Timestamp,
        order: &str,
        placed: &OrderPlaced,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let units: BTreeMap<String, i64> = units_by_sku(&placed.lines)
            .into_iter()
            .map(|(sku, quantity)| (sku.to_owned(), quantity))
            .collect();
        let note = OrderNote {
            location: placed.location.clone(),
            waiting: units.keys().cloned().collect(),
            units,
            granted: BTreeSet::new(),
            stage: Stage::Open,
        };
        rows.write(ORDERS, order, &note);
        let case = Case { order, note };
        let mut effects = vec![Effect::SetTimer(Timer {
            name: payment_timer(order),
            at: later(placed_at, self.deadlines.payment),
            command: case.tell("expire-payment", &ExpirePayment {})?,
        })];
        for (sku, quantity) in &case.note.units {
            let request = RequestReservation { reservation: reservation(order), quantity: *quantity };
            effects.push(case.ask_stock(sku, "request-reservation", &request)?);
        }
        Ok(effects)
    }
}

/// A stock has answered, or someone else's business with it was recorded.
fn answer_stock(
    envelope: &EventEnvelope<'_>,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Effect>, ProcessError> {
    let event = StockEvent::from_envelope(envelope)?;
    let (reservation, refused) = match &event {
        StockEvent::Reserved(reserved) => (&reserved.reservation, None),
        StockEvent::ReservationRefused(refused) => (&refused.reservation, Some(refused)),
        _ => return Ok(vec![]),
    };
    let Some(order) = reservation.strip_prefix(ORDER_RESERVATION_PREFIX) else { return Ok(vec![]) };
    let Some(note) = rows.read::<OrderNote>(ORDERS, order)? else { return Ok(vec![]) };
    let stock = StockId::parse(envelope.stream_id.id())
        .map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))?;
    let mut case = Case { order, note };
    if stock.location != case.note.location || !case.note.waiting.remove(&stock.sku) {
        return Ok(vec![]);
    }
    let effects = match refused {
        None => case.granted(&stock.sku)?,
        Some(refused) => case.refused(&stock.sku, refused)?,
    };
    case.keep(rows);
    Ok(effects)
}

impl Case<'_> {
    fn granted(&mut self, sku: &str) -> Result<Vec<Effect>, ProcessError> {
        if self.note.stage == Stage::Cancelled {
            return Ok(vec![self.release(sku)?]);
        }
        self.note.granted.insert(sku.to_owned());
        if self.note.stage == Stage::Open && self.note.waiting.is_empty() {
            return Ok(vec![Effect::Send(self.tell("confirm-reservation", &ConfirmReservation {})?)]);
        }
        Ok(vec![])
    }

    fn refused(&mut self, sku: &str, refused: &ReservationRefused) -> Result<Vec<Effect>, ProcessError> {
        if self.note.stage != Stage::Open {
            return Ok(vec![]);
        }
        self.note.stage = Stage::Refused;
        let ReservationRefused { quantity, available, .. } = *refused;
        let reject = RejectReservation { sku: sku.to_owned(), quantity, available };
        Ok(vec![Effect::Send(self.tell("reject-reservation", &reject)?)])
    }

    /// Takes everything back. Requests that are still unanswered are taken back when their answer comes.
    fn undo(
        mut self,
        cancelled: &OrderCancelled,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let mut effects = vec![
            Effect::CancelTimer(payment_timer(self.order)),
            Effect::CancelTimer(shipment_timer(self.order)),
        ];
        for sku in std::mem::take(&mut self.note.granted) {
            effects.push(self.release(&sku)?);
        }
        if cancelled.refundable > 0 {
            // Whatever is left then: by hand, some of it may have been refunded since.
            let refund = RefundRemainder { refund: REFUND.into(), reason: None };
            effects.push(Effect::Send(self.tell("refund-remainder", &refund)?));
        }
        self.note.stage = Stage::Cancelled;
        self.keep(rows);
        Ok(effects)
    }

    fn issue(&self) -> Result<Vec<Effect>, ProcessError> {
        let mut effects = vec![Effect::CancelTimer(shipment_timer(self.order))];
        for (sku, quantity) in &self.note.units {
            let reference = Some(reservation(self.order));
            let issue = IssueStock { quantity: *quantity, reference, business_date: None };
            effects.push(self.ask_stock(sku, "issue", &issue)?);
        }
        Ok(effects)
    }

    fn release(&self, sku: &str) -> Result<Effect, ProcessError> {
        self.ask_stock(sku, "release", &ReleaseReservation { reservation: reservation(self.order) })
    }

    fn shipment_timer(&self, at: Timestamp) -> Result<Timer, ProcessError> {
        let command = self.tell("expire-shipment", &ExpireShipment {})?;
        Ok(Timer { name: shipment_timer(self.order), at, command })
    }

    fn tell(&self, command: &str, body: &impl Serialize) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<Order>(self.order, command, body)
    }

    fn ask_stock(&self, sku: &str, command: &str, body: &impl Serialize) -> Result<Effect, ProcessError> {
        // The order's rules let only such lines pass for which there is a stock.
        let stock = format!("{}:{sku}", self.note.location);
        Ok(Effect::Send(ProcessCommand::to::<Stock>(&stock, command, body)?))
    }

    /// Keeps the note while anything can still happen that has to be answered.
    fn keep(self, rows: &mut (dyn Rows + '_)) {
        if self.note.stage == Stage::Cancelled && self.note.waiting.is_empty() {
            rows.delete(ORDERS, self.order);
        } else {
            rows.write(ORDERS, self.order, &self.note);
        }
    }
}

fn reservation(order: &str) -> String {
    format!("{ORDER_RESERVATION_PREFIX}{order}")
}

fn payment_timer(order: &str) -> String {
    format!("payment:{order}")
}

fn shipment_timer(order: &str) -> String {
    format!("shipment:{order}")
}

/// A deadline beyond what a timestamp holds is the last moment of time.
fn later(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
