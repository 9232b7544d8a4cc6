//! The rules of a transfer: units go from one place to another in one step, so that they are never nowhere and never twice.
//!
//! Unlike an issue a transfer is a decision, not something that has happened: it is refused beyond what is available.

use millstream::{
    decider::{DecisionContext, EventsWithPartners, Rejection},
    values::business_date::BusinessDate,
};

use super::{
    StockEvent, StockId, StockState, StockTransferredIn, StockTransferredOut, TransferStock, check_movement,
    rejections::reference_differs, remembered_movements::Movement,
};

/// The stock that gets the units; none where that is this stock itself, or where there can be no such place.
pub(super) fn partner(stock: &str, transfer: &TransferStock) -> Option<String> {
    let StockId { location, sku } = StockId::parse(stock).ok()?;
    StockId::join(&transfer.to, &sku).filter(|_| transfer.to != location)
}

/// Says why a transfer has nowhere to go.
pub(super) fn refuse(transfer: &TransferStock, context: &DecisionContext<'_>) -> Rejection {
    let (stock, to) = (context.aggregate_id, &transfer.to);
    if StockId::parse(stock).is_ok_and(|own| own.location == *to) {
        return Rejection::new(
            "transfer-to-itself",
            format!("stock {stock} is at {to} already; name another place"),
        );
    }
    let message =
        format!("{to:?} is no place to which {stock} can go: use letters, digits, _ - @, and keep it short");
    Rejection::new("location-not-allowed", message)
}

pub(super) fn decide(
    state: &StockState,
    transfer: &TransferStock,
    context: &DecisionContext<'_>,
) -> Result<EventsWithPartners<StockEvent>, Rejection> {
    let stock = context.aggregate_id;
    let TransferStock { to, quantity, reference, .. } = transfer;
    let (named, given) = check_movement(stock, *quantity, reference, &transfer.business_date)?;
    let business_date = given.unwrap_or_else(|| BusinessDate::today(context));
    match state.memory.repeats(named, Movement::transfer(to, *quantity, business_date), given.is_some()) {
        Some(true) => return Ok(EventsWithPartners::default()),
        Some(false) => return Err(reference_differs(named.unwrap_or_default(), stock)),
        None => {}
    }
    let available = state.available();
    if *quantity > available {
        let message =
            format!("stock {stock} has {available} available, not {quantity}; transfer less or receive more");
        return Err(Rejection::new("stock-not-available", message));
    }
    let out = StockTransferredOut {
        to: to.clone(),
        quantity: *quantity,
        reference: reference.clone(),
        business_date,
    };
    let into = StockTransferredIn {
        from: StockId::parse(stock)?.location,
        quantity: *quantity,
        reference: reference.clone(),
        business_date,
    };
    Ok(EventsWithPartners {
        own: vec![StockEvent::TransferredOut(out)],
        partners: vec![vec![StockEvent::TransferredIn(into)]],
    })
}
