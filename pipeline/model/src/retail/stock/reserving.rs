//! The rules of reservations: promises of units, asked for by people and by processes.

use millstream::{
    decider::{DecisionContext, Rejection},
    values::{money::check_quantity, reference::check_label},
};

use super::{
    ORDER_RESERVATION_PREFIX, ReleaseReservation, RequestReservation, Reservation, ReservationRefused,
    ReservationReleased, ReserveStock, StockEvent, StockReserved, StockState,
    rejections::{reservation_closed, reservation_differs, reservation_unknown},
    remembered_movements::ReservationEnd,
};

pub(super) fn decide_reserve(
    state: &StockState,
    reserve: &ReserveStock,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    let stock = context.aggregate_id;
    let ReserveStock { reservation, quantity } = reserve;
    check_reservation(stock, reservation, *quantity)?;
    // An order that is placed later would ask for it in vain: what is reserved already is not answered again.
    if reservation.starts_with(ORDER_RESERVATION_PREFIX) {
        let message = format!(
            "reservation {reservation} is an order's: its name begins with {ORDER_RESERVATION_PREFIX}; reserve under another"
        );
        return Err(Rejection::new("reservation-not-allowed", message));
    }
    if let Some(open) = state.reservations.get(reservation) {
        let same = open.quantity == *quantity;
        return if same { Ok(vec![]) } else { Err(reservation_differs(reservation, stock)) };
    }
    if state.memory.ended(reservation).is_some() {
        return Err(reservation_closed(reservation, stock));
    }
    let available = state.available();
    if *quantity > available {
        let message =
            format!("stock {stock} has {available} available, not {quantity}; reserve less or receive more");
        return Err(Rejection::new("stock-not-available", message));
    }
    Ok(vec![reserved(reservation, *quantity, false)])
}

pub(super) fn decide_request(
    state: &StockState,
    request: &RequestReservation,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    let stock = context.aggregate_id;
    let RequestReservation { reservation, quantity } = request;
    check_reservation(stock, reservation, *quantity)?;
    let known = state.reservations.get(reservation).copied();
    if let Some(known) = known.or_else(|| state.memory.ended(reservation).map(|(known, _)| known)) {
        let same = known == Reservation { quantity: *quantity, requested: true };
        return if same { Ok(vec![]) } else { Err(reservation_differs(reservation, stock)) };
    }
    let available = state.available();
    Ok(vec![if *quantity <= available {
        reserved(reservation, *quantity, true)
    } else {
        let refused = ReservationRefused { reservation: reservation.clone(), quantity: *quantity, available };
        StockEvent::ReservationRefused(refused)
    }])
}

pub(super) fn reserved(reservation: &str, quantity: i64, requested: bool) -> StockEvent {
    StockEvent::Reserved(StockReserved { reservation: reservation.to_owned(), quantity, requested })
}

pub(super) fn decide_release(
    state: &StockState,
    release: &ReleaseReservation,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    let (stock, reservation) = (context.aggregate_id, &release.reservation);
    if let Some(open) = state.reservations.get(reservation) {
        let released = ReservationReleased { reservation: reservation.clone(), quantity: open.quantity };
        return Ok(vec![StockEvent::ReservationReleased(released)]);
    }
    match state.memory.ended(reservation) {
        Some((_, ReservationEnd::Released)) => Ok(vec![]),
        Some((_, ReservationEnd::Issued)) => {
            let message =
                format!("reservation {reservation} of stock {stock} was issued; receive what comes back");
            Err(Rejection::new("reservation-issued", message))
        }
        Some((_, ReservationEnd::Refused)) | None => Err(reservation_unknown(reservation, stock, "release")),
    }
}

fn check_reservation(stock: &str, reservation: &str, quantity: i64) -> Result<(), Rejection> {
    check_label("reservation-not-allowed", "reservation", reservation)?;
    check_quantity(&format!("stock {stock}"), quantity)
}
