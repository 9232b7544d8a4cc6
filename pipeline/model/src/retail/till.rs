//! `till.<store>_<date>`: one store's business day, from its first sale to its close, and what comes in late.
//!
//! A sale at the counter has happened: nothing here refuses it for stock, price list or a closed day. A sale after the
//! close is recorded as late, and the till can be closed again. Each sale and return has an id of its own within the
//! till, so that an upload can be repeated.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millstream::{
    content_digest::ContentDigest,
    decider::{ANY_COMMAND, Decider, DecisionContext, Rejection, rejections_of},
    schemars::JsonSchema,
    values::{
        business_date::BusinessDate,
        money::{Currency, check_price, check_quantity, total},
        reference::check_reference,
    },
};
use serde::{Deserialize, Serialize};

use super::stock::StockId;
use crate::lines::check_line_count;

/// The two parts of a till's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TillId {
    /// The store.
    pub store: String,
    /// The business date.
    pub business_date: BusinessDate,
}

impl TillId {
    /// Reads `<store>_<YYYY-MM-DD>`; a store's id may contain underscores itself.
    ///
    /// # Errors
    /// The rejection `till-id-malformed`.
    pub fn parse(id: &str) -> Result<Self, Rejection> {
        let malformed = || {
            let message = format!("till {id} is not <store>_<date>; write it as in 2506_2012-01-31");
            Rejection::new("till-id-malformed", message)
        };
        let (store, date) = id.rsplit_once('_').ok_or_else(malformed)?;
        if store.is_empty() {
            return Err(malformed());
        }
        Ok(Self { store: store.to_owned(), business_date: date.parse().map_err(|_| malformed())? })
    }
}

/// Some units of one item at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
#[serde(deny_unknown_fields)]
pub struct TillLine {
    /// The item.
    pub sku: String,
    /// How many; at least 1.
    pub quantity: i64,
    /// Of one unit, in minor units.
    pub unit_price: i64,
}

/// Records a sale. The same content under the same id again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSale {
    /// Its id within the till.
    pub sale: String,
    /// ISO 4217 code; one a till.
    pub currency: String,
    /// What was sold; at least one line.
    pub lines: Vec<TillLine>,
    /// When, by the till's own clock (RFC 3339). Kept as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sold_at: Option<String>,
}

/// Records a return. The same content under the same id again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordReturn {
    /// Its id within the till.
    #[serde(rename = "return")]
    pub return_id: String,
    /// The sale it reverses, when it is known: no more units and no more money come back than that sale has left. A sale
    /// that this till does not know may be of another day; nothing is then checked, because a till knows its own day only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sale: Option<String>,
    /// ISO 4217 code; one a till.
    pub currency: String,
    /// What came back, at the prices that are paid back; at least one line.
    pub lines: Vec<TillLine>,
}

/// Ends the day, or ends it again after late entries. With nothing new it changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseTill {}

millstream::commands! {
    /// What can be asked of a till.
    pub enum TillCommand {
        RecordSale(RecordSale) = "record-sale",
        RecordReturn(RecordReturn) = "record-return",
        Close(CloseTill) = "close",
    }
}

/// Something was sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaleRecorded {
    /// Its id within the till.
    pub sale: String,
    /// Of all prices.
    pub currency: Currency,
    /// What was sold.
    pub lines: Vec<TillLine>,
    /// When, by the till's own clock, as given.
    pub sold_at: Option<String>,
    /// Whether the till had been closed before.
    pub late: bool,
}

/// Something came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnRecorded {
    /// Its id within the till.
    #[serde(rename = "return")]
    pub return_id: String,
    /// The sale it reverses, when it is known.
    pub sale: Option<String>,
    /// Of all prices.
    pub currency: Currency,
    /// What came back.
    pub lines: Vec<TillLine>,
    /// Whether the till had been closed before.
    pub late: bool,
}

/// The day was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TillClosed {
    /// The number of this close, counted from 1.
    pub closing: u32,
}

millstream::events! {
    /// What can happen to a till.
    pub enum TillEvent of "till" {
        SaleRecorded(SaleRecorded) = "sale-recorded" v 1,
        ReturnRecorded(ReturnRecorded) = "return-recorded" v 1,
        Closed(TillClosed) = "till-closed" v 1,
    }
}

/// Of sales and returns alike.
const LINES_REFUSED: &[&str] = &[
    "sale-not-allowed",
    "currency-malformed",
    "currency-differs",
    "lines-empty",
    "lines-too-many",
    "sku-not-allowed",
    "stock-id-malformed",
    "quantity-not-positive",
    "quantity-too-large",
    "price-negative",
    "amount-too-large",
];

const REJECTIONS: &[(&str, &[&str])] = &[
    (ANY_COMMAND, &["till-id-malformed"]),
    ("record-sale", LINES_REFUSED),
    ("record-sale", &["time-malformed", "sale-differs"]),
    ("record-return", LINES_REFUSED),
    (
        "record-return",
        &["return-not-allowed", "return-differs", "return-exceeds-sale", "refund-exceeds-sale"],
    ),
];

fn differs(code: &'static str, kind: &str, id: &str, till: &str) -> Rejection {
    let message = format!(
        "{kind} {id} of till {till} is recorded with other content; use another id, or reverse it with record-return"
    );
    Rejection::new(code, message)
}

/// What the rules need to know of a till. Small for each sale: a till may have thousands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TillState {
    currency: Option<Currency>,
    sales: BTreeMap<String, SaleNote>,
    returns: BTreeMap<String, ContentDigest>,
    closings: u32,
    changed_since_close: bool,
}

/// A sale in [`TillState`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SaleNote {
    /// None when only a return has named the sale so far.
    digest: Option<ContentDigest>,
    /// What was sold and has not come back yet, by sku.
    left: BTreeMap<String, SkuLeft>,
}

/// What a sale has left of a sku. Below zero where returns came first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SkuLeft {
    units: i64,
    amount: i64,
    /// The highest price at which it was sold.
    price_max: i64,
}

impl SaleNote {
    fn sold(&mut self, line: &TillLine) {
        let left = self.left.entry(line.sku.clone()).or_default();
        left.units += line.quantity;
        left.amount = left.amount.saturating_add(line.quantity.saturating_mul(line.unit_price));
        left.price_max = left.price_max.max(line.unit_price);
    }

    fn came_back(&mut self, line: &TillLine) {
        let left = self.left.entry(line.sku.clone()).or_default();
        left.units -= line.quantity;
        left.amount = left.amount.saturating_sub(line.quantity.saturating_mul(line.unit_price));
    }
}

/// The rules of `till.<store>_<date>`.
#[derive(Debug)]
pub struct Till;

impl Decider for Till {
    type Command = TillCommand;
    type Event = TillEvent;
    type State = TillState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "till";
    /// 2: what is left of a sale is money too.
    const STATE_VERSION: u32 = 2;

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        TillId::parse(id).map(|_| ())
    }

    fn decide(
        state: &TillState,
        command: &TillCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<TillEvent>, Rejection> {
        match command {
            TillCommand::RecordSale(sale) => decide_sale(state, sale, context.aggregate_id),
            TillCommand::RecordReturn(entry) => decide_return(state, entry, context.aggregate_id),
            TillCommand::Close(_) if state.closings > 0 && !state.changed_since_close => Ok(vec![]),
            TillCommand::Close(_) => Ok(vec![TillEvent::Closed(TillClosed { closing: state.closings + 1 })]),
        }
    }

    fn evolve(state: &mut TillState, event: &TillEvent) {
        match event {
            TillEvent::SaleRecorded(sale) => {
                let note = state.sales.entry(sale.sale.clone()).or_default();
                note.digest = Some(digest(&(sale.currency, &sale.lines, &sale.sold_at)));
                sale.lines.iter().for_each(|line| note.sold(line));
                state.currency = Some(sale.currency);
                state.changed_since_close = true;
            }
            TillEvent::ReturnRecorded(entry) => {
                let content = digest(&(entry.currency, &entry.lines, &entry.sale));
                state.returns.insert(entry.return_id.clone(), content);
                if let Some(sale) = &entry.sale {
                    let note = state.sales.entry(sale.clone()).or_default();
                    entry.lines.iter().for_each(|line| note.came_back(line));
                }
                state.currency = Some(entry.currency);
                state.changed_since_close = true;
            }
            TillEvent::Closed(closed) => {
                state.closings = closed.closing;
                state.changed_since_close = false;
            }
        }
    }
}

fn decide_sale(state: &TillState, command: &RecordSale, till: &str) -> Result<Vec<TillEvent>, Rejection> {
    check_reference("sale-not-allowed", "sale", &command.sale)?;
    let currency = Currency::parse(&command.currency)?;
    if let Some(sold_at) = &command.sold_at {
        check_time(sold_at)?;
    }
    if let Some(known) = state.sales.get(&command.sale).and_then(|note| note.digest) {
        return if known == digest(&(currency, &command.lines, &command.sold_at)) {
            Ok(vec![])
        } else {
            Err(differs("sale-differs", "sale", &command.sale, till))
        };
    }
    check_currency(state, currency, till)?;
    check_lines(&format!("sale {}", command.sale), till, &command.lines)?;
    Ok(vec![TillEvent::SaleRecorded(SaleRecorded {
        sale: command.sale.clone(),
        currency,
        lines: command.lines.clone(),
        sold_at: command.sold_at.clone(),
        late: state.closings > 0,
    })])
}

fn decide_return(state: &TillState, command: &RecordReturn, till: &str) -> Result<Vec<TillEvent>, Rejection> {
    check_reference("return-not-allowed", "return", &command.return_id)?;
    if let Some(sale) = &command.sale {
        check_reference("sale-not-allowed", "sale", sale)?;
    }
    let currency = Currency::parse(&command.currency)?;
    if let Some(known) = state.returns.get(&command.return_id) {
        return if *known == digest(&(currency, &command.lines, &command.sale)) {
            Ok(vec![])
        } else {
            Err(differs("return-differs", "return", &command.return_id, till))
        };
    }
    check_currency(state, currency, till)?;
    check_lines(&format!("return {}", command.return_id), till, &command.lines)?;
    if let Some(sale) = &command.sale {
        check_left(state, sale, &command.lines)?;
    }
    Ok(vec![TillEvent::ReturnRecorded(ReturnRecorded {
        return_id: command.return_id.clone(),
        sale: command.sale.clone(),
        currency,
        lines: command.lines.clone(),
        late: state.closings > 0,
    })])
}

fn check_time(text: &str) -> Result<(), Rejection> {
    text.parse::<Timestamp>().map(|_| ()).map_err(|_| {
        let message = format!("sold_at {text:?} is not a time; write it as in 2012-01-31T16:05:00-06:00");
        Rejection::new("time-malformed", message)
    })
}

fn check_currency(state: &TillState, currency: Currency, till: &str) -> Result<(), Rejection> {
    match state.currency {
        Some(known) if known != currency => {
            let message = format!("till {till} is kept in {known}, not in {currency}");
            Err(Rejection::new("currency-differs", message))
        }
        _ => Ok(()),
    }
}

fn check_lines(what: &str, till: &str, lines: &[TillLine]) -> Result<(), Rejection> {
    let store = TillId::parse(till)?.store;
    check_line_count(what, lines.len())?;
    for line in lines {
        check_reference("sku-not-allowed", "sku", &line.sku)?;
        StockId::check_line(&store, &line.sku)?;
        check_quantity(&format!("{} in {what}", line.sku), line.quantity)?;
        check_price(&format!("{} in {what}", line.sku), line.unit_price)?;
    }
    total(what, lines.iter().map(|line| (line.quantity, line.unit_price))).map(|_| ())
}

/// Refuses to take back more of a sale than it still has, or to pay back more than was paid. Less may be paid back. A sale
/// that this till does not know passes.
fn check_left(state: &TillState, sale: &str, lines: &[TillLine]) -> Result<(), Rejection> {
    let Some(note) = state.sales.get(sale).filter(|note| note.digest.is_some()) else { return Ok(()) };
    let mut wanted = SaleNote::default();
    for line in lines {
        wanted.sold(line);
    }
    for (sku, wanted) in wanted.left {
        let left = note.left.get(&sku).copied().unwrap_or_default();
        if wanted.units > left.units.max(0) {
            let message = format!(
                "sale {sale} has {} of {sku} left to return, not {}; correct the quantity",
                left.units.max(0),
                wanted.units
            );
            return Err(Rejection::new("return-exceeds-sale", message));
        }
        if wanted.price_max > left.price_max {
            let message = format!(
                "{sku} was sold for at most {} in sale {sale}, not for {}; correct the price",
                left.price_max, wanted.price_max
            );
            return Err(Rejection::new("refund-exceeds-sale", message));
        }
        if wanted.amount > left.amount {
            let message = format!(
                "sale {sale} has {} left to pay back for {sku}, not {}; correct the prices",
                left.amount.max(0),
                wanted.amount
            );
            return Err(Rejection::new("refund-exceeds-sale", message));
        }
    }
    Ok(())
}

fn digest<T: Serialize>(content: &T) -> ContentDigest {
    let bytes = serde_json::to_vec(content).expect("contents hold only plain data");
    ContentDigest::of_bytes(&bytes)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod test_events;
