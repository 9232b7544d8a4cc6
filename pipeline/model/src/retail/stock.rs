//! `stock.<location>:<sku>`: how many units of an item there are at a place, and how many of them are spoken for.
//!
//! Goods that have left have left: an issue is never refused for lack of stock; it takes the stock below zero and says
//! so. A reservation is a promise and is refused beyond what is available. An issue whose reference names an open
//! reservation turns that reservation into the issue: units beyond the issued ones are free again. A transfer takes units
//! to the stock of the same item at another place; both change together or neither does.
//!
//! A receipt, an issue, a transfer or a reservation is repeated under its reference or reservation id without effect. Each stock
//! remembers the last [`REMEMBERED_MAX`] of each, besides every open reservation: a stock, unlike a till, never ends.

mod counting;
mod rejections;
mod remembered_movements;
mod reserving;
mod stock_id;
mod transferring;

use std::collections::BTreeMap;

use millstream::decider::{Decider, DecisionContext, EventsWithPartners, Rejection, rejections_of};
use millstream::values::reference::check_label;
use millstream::values::{business_date::BusinessDate, money::check_quantity};
use serde::{Deserialize, Serialize};

use self::{
    rejections::{REJECTIONS, reference_differs, reservation_unknown},
    remembered_movements::{Memory, Movement, ReservationEnd},
};
pub use self::{remembered_movements::REMEMBERED_MAX, stock_id::StockId};

/// Where the available units stand low unless a stock says otherwise: below this many. Two handfuls, so that a new
/// stock shows up before it is empty.
pub const MINIMUM_DEFAULT: i64 = 10;

/// What the reservations of orders are called: this, and the order's id. The process that sees orders through asks for them, and nobody else.
pub const ORDER_RESERVATION_PREFIX: &str = "order:";

/// Adds units. The same content under the same reference again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveStock {
    /// How many; at least 1.
    pub quantity: i64,
    /// What they came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// For which day it counts; the date (UTC) of the decision when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_date: Option<String>,
}

/// Takes units away. The same content under the same reference again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueStock {
    /// How many; at least 1.
    pub quantity: i64,
    /// What they left with. One that names an open reservation turns it into this issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// For which day it counts; the date (UTC) of the decision when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_date: Option<String>,
}

/// Takes available units to the stock of the same item at another place. The same content under the same reference again
/// changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferStock {
    /// To which store or warehouse.
    pub to: String,
    /// How many; at least 1.
    pub quantity: i64,
    /// What they go with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// For which day it counts; the date (UTC) of the decision when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_date: Option<String>,
}

/// Promises units to someone. The same content again changes nothing while the reservation is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveStock {
    /// Its id within the stock.
    pub reservation: String,
    /// How many; at least 1.
    pub quantity: i64,
}

/// Promises units to someone, or records that it could not be done: for processes, which learn of events only. The same
/// content again changes nothing, whatever has become of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestReservation {
    /// Its id within the stock.
    pub reservation: String,
    /// How many; at least 1.
    pub quantity: i64,
}

/// Takes a promise back. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseReservation {
    /// Its id within the stock.
    pub reservation: String,
}

/// Sets the stock to what was counted. With nothing to correct it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdjustStock {
    /// How many there are; 0 or more.
    pub counted: i64,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For which day it counts; the date (UTC) of the decision when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_date: Option<String>,
}

/// Sets below how many available units the stock counts as low; 0 for never. The same number again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMinimum {
    /// How many.
    pub minimum: i64,
}

millstream::commands! {
    /// What can be asked of a stock.
    pub enum StockCommand {
        Receive(ReceiveStock) = "receive",
        Issue(IssueStock) = "issue",
        Transfer(TransferStock) = "transfer",
        Reserve(ReserveStock) = "reserve",
        RequestReservation(RequestReservation) = "request-reservation",
        Release(ReleaseReservation) = "release",
        Adjust(AdjustStock) = "adjust",
        SetMinimum(SetMinimum) = "set-minimum",
    }
}

/// Units came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReceived {
    /// How many.
    pub quantity: i64,
    /// What they came with.
    pub reference: Option<String>,
    /// For which day it counts.
    pub business_date: BusinessDate,
}

/// Units left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockIssued {
    /// How many.
    pub quantity: i64,
    /// What they left with: the id of the reservation, when they were reserved.
    pub reference: Option<String>,
    /// How many units the reservation held that ended with this; 0 when there was none.
    pub reserved: i64,
    /// Whether there are fewer than none now.
    pub below_zero: bool,
    /// For which day it counts.
    pub business_date: BusinessDate,
}

/// Units went to another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockTransferredOut {
    /// To which store or warehouse.
    pub to: String,
    /// How many.
    pub quantity: i64,
    /// What they went with.
    pub reference: Option<String>,
    /// For which day it counts.
    pub business_date: BusinessDate,
}

/// Units came from another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockTransferredIn {
    /// From which store or warehouse.
    pub from: String,
    /// How many.
    pub quantity: i64,
    /// What they came with.
    pub reference: Option<String>,
    /// For which day it counts.
    pub business_date: BusinessDate,
}

/// Units were promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReserved {
    /// The reservation's id.
    pub reservation: String,
    /// How many.
    pub quantity: i64,
    /// Whether a process had asked.
    pub requested: bool,
}

/// Units that a process had asked for were not there to be promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRefused {
    /// The reservation's id.
    pub reservation: String,
    /// How many were asked for.
    pub quantity: i64,
    /// How many there were.
    pub available: i64,
}

/// A promise was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationReleased {
    /// The reservation's id.
    pub reservation: String,
    /// How many units are free again.
    pub quantity: i64,
}

/// There were more or fewer units than recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockAdjusted {
    /// How many there are.
    pub counted: i64,
    /// How many more that is than recorded; below zero for fewer.
    pub change: i64,
    /// Why.
    pub reason: Option<String>,
    /// For which day it counts.
    pub business_date: BusinessDate,
}

/// It was said when the stock counts as low.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockMinimumSet {
    /// Below how many available units.
    pub minimum: i64,
}

millstream::events! {
    /// What can happen to a stock.
    pub enum StockEvent of "stock" {
        Received(StockReceived) = "stock-received" v 1,
        Issued(StockIssued) = "stock-issued" v 1,
        TransferredOut(StockTransferredOut) = "stock-transferred-out" v 1,
        TransferredIn(StockTransferredIn) = "stock-transferred-in" v 1,
        Reserved(StockReserved) = "stock-reserved" v 1,
        ReservationRefused(ReservationRefused) = "reservation-refused" v 1,
        ReservationReleased(ReservationReleased) = "reservation-released" v 1,
        Adjusted(StockAdjusted) = "stock-adjusted" v 1,
        MinimumSet(StockMinimumSet) = "stock-minimum-set" v 1,
    }
}

/// An open reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Reservation {
    quantity: i64,
    requested: bool,
}

/// What the rules need to know of a stock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockState {
    on_hand: i64,
    minimum: Option<i64>,
    reservations: BTreeMap<String, Reservation>,
    memory: Memory,
}

impl StockState {
    /// Units that are not spoken for. Below zero where more is promised than there is.
    pub fn available(&self) -> i64 {
        let reserved = self.reservations.values().map(|reservation| reservation.quantity);
        reserved.fold(self.on_hand, i64::saturating_sub)
    }
}

/// The rules of `stock.<location>:<sku>`.
#[derive(Debug)]
pub struct Stock;

impl Decider for Stock {
    type Command = StockCommand;
    type Event = StockEvent;
    type State = StockState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "stock";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

    fn internal_commands() -> &'static [&'static str] {
        &["request-reservation"]
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        StockId::parse(id).map(|_| ())
    }

    fn decide(
        state: &StockState,
        command: &StockCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<StockEvent>, Rejection> {
        match command {
            StockCommand::Receive(receive) => decide_receive(state, receive, context),
            StockCommand::Issue(issue) => decide_issue(state, issue, context),
            StockCommand::Transfer(transfer) => Err(transferring::refuse(transfer, context)),
            StockCommand::Reserve(reserve) => reserving::decide_reserve(state, reserve, context),
            StockCommand::RequestReservation(request) => reserving::decide_request(state, request, context),
            StockCommand::Release(release) => reserving::decide_release(state, release, context),
            StockCommand::Adjust(adjust) => counting::decide_adjust(state, adjust, context),
            StockCommand::SetMinimum(set) => counting::decide_minimum(state, set, context),
        }
    }

    fn partners(stock: &str, command: &StockCommand) -> Vec<String> {
        match command {
            StockCommand::Transfer(transfer) => transferring::partner(stock, transfer).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn decide_with_partners(
        state: &StockState,
        _partners: &[&StockState],
        command: &StockCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<StockEvent>, Rejection> {
        match command {
            StockCommand::Transfer(transfer) => transferring::decide(state, transfer, context),
            alone => {
                Ok(EventsWithPartners { own: Self::decide(state, alone, context)?, partners: Vec::new() })
            }
        }
    }

    fn evolve(state: &mut StockState, event: &StockEvent) {
        match event {
            StockEvent::Received(received) => {
                state.on_hand = state.on_hand.saturating_add(received.quantity);
                let movement = Movement::receipt(received.quantity, received.business_date);
                state.memory.movement(received.reference.as_deref(), movement);
            }
            StockEvent::Issued(issued) => {
                state.on_hand = state.on_hand.saturating_sub(issued.quantity);
                let movement = Movement::issue(issued.quantity, issued.business_date);
                state.memory.movement(issued.reference.as_deref(), movement);
                if let Some(reservation) = &issued.reference {
                    state.end(reservation, ReservationEnd::Issued);
                }
            }
            StockEvent::TransferredOut(out) => {
                state.on_hand = state.on_hand.saturating_sub(out.quantity);
                let movement = Movement::transfer(&out.to, out.quantity, out.business_date);
                state.memory.movement(out.reference.as_deref(), movement);
            }
            StockEvent::TransferredIn(came) => state.on_hand = state.on_hand.saturating_add(came.quantity),
            StockEvent::Reserved(reserved) => {
                let StockReserved { quantity, requested, .. } = *reserved;
                state.reservations.insert(reserved.reservation.clone(), Reservation { quantity, requested });
            }
            StockEvent::ReservationRefused(refused) => {
                let request = Reservation { quantity: refused.quantity, requested: true };
                state.memory.reservation(&refused.reservation, request, ReservationEnd::Refused);
            }
            StockEvent::ReservationReleased(released) => {
                state.end(&released.reservation, ReservationEnd::Released);
            }
            StockEvent::Adjusted(adjusted) => state.on_hand = adjusted.counted,
            StockEvent::MinimumSet(set) => state.minimum = Some(set.minimum),
        }
    }
}

impl StockState {
    fn end(&mut self, reservation: &str, end: ReservationEnd) {
        if let Some(open) = self.reservations.remove(reservation) {
            self.memory.reservation(reservation, open, end);
        }
    }
}

fn decide_receive(
    state: &StockState,
    receive: &ReceiveStock,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    let stock = context.aggregate_id;
    let (reference, given) =
        check_movement(stock, receive.quantity, &receive.reference, &receive.business_date)?;
    let business_date = given.unwrap_or_else(|| BusinessDate::today(context));
    match state.memory.repeats(reference, Movement::receipt(receive.quantity, business_date), given.is_some())
    {
        Some(true) => Ok(vec![]),
        Some(false) => Err(reference_differs(reference.unwrap_or_default(), stock)),
        None => Ok(vec![StockEvent::Received(StockReceived {
            quantity: receive.quantity,
            reference: receive.reference.clone(),
            business_date,
        })]),
    }
}

fn decide_issue(
    state: &StockState,
    issue: &IssueStock,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    let stock = context.aggregate_id;
    let (reference, given) = check_movement(stock, issue.quantity, &issue.reference, &issue.business_date)?;
    let business_date = given.unwrap_or_else(|| BusinessDate::today(context));
    match state.memory.repeats(reference, Movement::issue(issue.quantity, business_date), given.is_some()) {
        Some(true) => return Ok(vec![]),
        Some(false) => return Err(reference_differs(reference.unwrap_or_default(), stock)),
        None => {}
    }
    let reserved =
        reference.and_then(|reference| state.reservations.get(reference)).map(|open| open.quantity);
    // Issued in the name of an order before that is reserved, its own issue would be taken for a repeat.
    if let Some(reference) = reference.filter(|reference| reference.starts_with(ORDER_RESERVATION_PREFIX))
        && reserved.is_none()
        && state.memory.ended(reference).is_none()
    {
        return Err(reservation_unknown(reference, stock, "issue"));
    }
    if let Some(reserved) = reserved.filter(|reserved| issue.quantity > *reserved) {
        let message = format!(
            "reservation {} of stock {stock} holds {reserved}, not {}; issue the rest under another reference",
            reference.unwrap_or_default(),
            issue.quantity
        );
        return Err(Rejection::new("issue-exceeds-reservation", message));
    }
    Ok(vec![StockEvent::Issued(StockIssued {
        quantity: issue.quantity,
        reference: issue.reference.clone(),
        reserved: reserved.unwrap_or(0),
        below_zero: issue.quantity > state.on_hand,
        business_date,
    })])
}

/// Reference and business date of a receipt or an issue.
fn check_movement<'a>(
    stock: &str,
    quantity: i64,
    reference: &'a Option<String>,
    business_date: &Option<String>,
) -> Result<(Option<&'a str>, Option<BusinessDate>), Rejection> {
    check_quantity(&format!("stock {stock}"), quantity)?;
    if let Some(reference) = reference {
        check_label("reference-not-allowed", "reference", reference)?;
    }
    let given = business_date.as_deref().map(BusinessDate::parse).transpose()?;
    Ok((reference.as_deref(), given))
}

#[cfg(test)]
mod tests;
