//! Short forms of a till's events for the tests of views and reports. All in dollars, none marked late.

use millstream::values::money::Currency;

use super::{ReturnRecorded, SaleRecorded, TillClosed, TillEvent, TillLine};

fn lines(lines: &[(&str, i64, i64)]) -> Vec<TillLine> {
    let line = |(sku, quantity, unit_price): &(&str, i64, i64)| TillLine {
        sku: (*sku).to_owned(),
        quantity: *quantity,
        unit_price: *unit_price,
    };
    lines.iter().map(line).collect()
}

fn dollars() -> Currency {
    Currency::parse("USD").expect("it is a currency")
}

/// A sale of (sku, quantity, unit price).
pub(crate) fn sold(sale: &str, sold: &[(&str, i64, i64)]) -> TillEvent {
    TillEvent::SaleRecorded(SaleRecorded {
        sale: sale.to_owned(),
        currency: dollars(),
        lines: lines(sold),
        sold_at: None,
        late: false,
    })
}

/// A return of (sku, quantity, unit price).
pub(crate) fn returned(return_id: &str, sale: Option<&str>, returned: &[(&str, i64, i64)]) -> TillEvent {
    TillEvent::ReturnRecorded(ReturnRecorded {
        return_id: return_id.to_owned(),
        sale: sale.map(str::to_owned),
        currency: dollars(),
        lines: lines(returned),
        late: false,
    })
}

/// A close.
pub(crate) fn closed(closing: u32) -> TillEvent {
    TillEvent::Closed(TillClosed { closing })
}
