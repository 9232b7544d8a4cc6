//! Report `stock-valuation`, key `<location>`: what is on hand at a location at the end of a business date, and what it
//! cost.
//!
//! A movement of stock counts for its business date and, because it is still there or still gone, for every later date of
//! the location; one that comes in late thus restates them all. A date begins with what the date before it ended with. It
//! comes about with its first movement, or with the close of the business day, which seals it. A place that is emptied on
//! a date has a row of zeroes for it, and none for later dates on which nothing moves.
//!
//! Units are valued at a moving average, in the order in which movements were recorded: a delivered line brings its cost,
//! what comes from another place brings what it was worth there, and everything else moves at the average of what is
//! there, or at the last known cost where nothing is. A location is kept in the currency of its first delivery; units of
//! which no cost in that currency is known are counted in `units_without_cost` and have no value.
//!
//! Notes: the costs of delivered lines that have not reached the stock, each stock's units and value, each location's
//! dates, and what each of them ended with.

use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{ProjectionError, Rows},
    report::{
        Column,
        ColumnKind::{Amount, Count, Number, Text},
        Entry, Posting, Report, ReportTables, SmolStr,
    },
    values::{business_date::BusinessDate, money::Currency},
};
use serde::{Deserialize, Serialize};

use super::{
    business_day::{BusinessDay, BusinessDayEvent},
    delivery::{Delivery, DeliveryEvent, DeliveryReceived},
    stock::{Stock, StockEvent, StockId, StockTransferredIn},
    stock_keeping::delivery_reference,
};

static TABLES: ReportTables =
    millstream::report_tables!("stock-valuation", "costs", "stocks", "locations", "ends");

/// Cost of a unit of a delivered line, by `<location>:<sku>/<reference>`.
const COSTS: &str = "stock-valuation.costs";
/// [`Holding`] by `<location>:<sku>`.
const STOCKS: &str = "stock-valuation.stocks";
/// [`Location`] by `<location>`.
const LOCATIONS: &str = "stock-valuation.locations";
/// [`Balance`] by `<location>/<date>`.
const ENDS: &str = "stock-valuation.ends";

/// What a posting of a date's beginning is called.
const OPENING: &str = "opening";

/// The report's columns, as people see them.
pub const COLUMNS: &[Column] = &[
    Column::new("location", Text),
    Column::new("business_date", Text),
    Column::new("revision", Number),
    Column::new("status", Text),
    Column::new("units_on_hand", Count),
    Column::new("units_without_cost", Count),
    Column::new("stock_value", Amount),
    Column::new("currency", Text),
];

/// What a stock holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Holding {
    units: i64,
    /// Of the units, when a cost is known.
    value: i64,
    /// The last known one of a unit.
    cost: Option<i64>,
}

/// What is known of a location.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Location {
    currency: Option<Currency>,
    /// In order.
    dates: Vec<BusinessDate>,
}

/// What a date ends with, or what changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Balance {
    units: i64,
    without_cost: i64,
    value: i64,
}

impl Balance {
    fn of(holding: Holding) -> Self {
        let without_cost = if holding.cost.is_none() { holding.units } else { 0 };
        Self { units: holding.units, without_cost, value: holding.value }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            units: self.units.saturating_add(other.units),
            without_cost: self.without_cost.saturating_add(other.without_cost),
            value: self.value.saturating_add(other.value),
        }
    }

    fn less(self, other: Self) -> Self {
        Self {
            units: self.units.saturating_sub(other.units),
            without_cost: self.without_cost.saturating_sub(other.without_cost),
            value: self.value.saturating_sub(other.value),
        }
    }

    fn figures(self) -> Vec<(&'static str, i64)> {
        let all = [
            ("units_on_hand", self.units),
            ("units_without_cost", self.without_cost),
            ("stock_value", self.value),
        ];
        all.into_iter().filter(|(_, figure)| *figure != 0).collect()
    }
}

impl Holding {
    /// What it becomes when `change` units come, or leave when below zero; a delivered line brings its `cost`.
    fn after(self, change: i64, cost: Option<i64>) -> Self {
        let units = self.units.saturating_add(change);
        let known = cost.or(self.cost);
        let value = match (self.cost, known) {
            (_, None) => 0,
            // All units get the first cost that becomes known.
            (None, Some(first)) => units.saturating_mul(first),
            // Where nothing was, or less, the average has no meaning: the last cost holds.
            (Some(_), Some(unit)) if self.units <= 0 => units.saturating_mul(unit),
            (Some(_), Some(unit)) if cost.is_some() => self.value.saturating_add(change.saturating_mul(unit)),
            (Some(last), Some(_)) if units <= 0 => units.saturating_mul(last),
            (Some(_), Some(_)) => self.value.saturating_add(proportion(self.value, change, self.units)),
        };
        Self { units, value, cost: known }
    }

    /// What `change` units of it are worth, if a cost is known.
    fn worth(self, change: i64) -> Option<i64> {
        let cost = self.cost?;
        Some(if self.units > 0 {
            proportion(self.value, change, self.units)
        } else {
            change.saturating_mul(cost)
        })
    }

    /// What it becomes when `change` units come that are worth `value` together.
    fn after_worth(self, change: i64, value: i64) -> Self {
        let cost = Some(value / change.max(1));
        let has_average = self.units == 0 || (self.units > 0 && self.cost.is_some());
        if has_average {
            Self { units: self.units.saturating_add(change), value: self.value.saturating_add(value), cost }
        } else {
            self.after(change, cost)
        }
    }
}

/// `value * change / units`, rounded towards zero; the product of two 64-bit numbers needs 128.
fn proportion(value: i64, change: i64, units: i64) -> i64 {
    let share = i128::from(value) * i128::from(change) / i128::from(units.max(1));
    i64::try_from(share).unwrap_or(if share < 0 { i64::MIN } else { i64::MAX })
}

/// Posts to `stock-valuation`.
#[derive(Debug)]
pub struct StockValuation;

impl Report for StockValuation {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn key(&self) -> &'static str {
        "<business_date>/<location>"
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn version(&self) -> u32 {
        2
    }

    /// A place that has been emptied has nothing, which is not the same as not being there.
    fn zero_is_a_result(&self) -> bool {
        true
    }

    fn handles(&self, aggregate: &str) -> bool {
        [Delivery::AGGREGATE, Stock::AGGREGATE, BusinessDay::AGGREGATE].contains(&aggregate)
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        let id = envelope.stream_id.id();
        match envelope.stream_id.aggregate() {
            Delivery::AGGREGATE => {
                let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(envelope)?;
                note_costs(id, &received, rows)?;
                Ok(vec![])
            }
            Stock::AGGREGATE => match StockEvent::from_envelope(envelope)? {
                StockEvent::Received(received) => {
                    let reference = received.reference.unwrap_or_default();
                    receive(id, received.quantity, received.business_date, &reference, rows)
                }
                StockEvent::Issued(issued) => {
                    let reference = issued.reference.unwrap_or_default();
                    move_units(id, -issued.quantity, issued.business_date, &reference, rows)
                }
                StockEvent::TransferredOut(out) => {
                    let reference = out.reference.unwrap_or_default();
                    move_units(id, -out.quantity, out.business_date, &reference, rows)
                }
                StockEvent::TransferredIn(came) => move_in(id, &came, rows),
                StockEvent::Adjusted(adjusted) => {
                    move_units(id, adjusted.change, adjusted.business_date, "stocktake", rows)
                }
                StockEvent::Reserved(_)
                | StockEvent::ReservationRefused(_)
                | StockEvent::ReservationReleased(_)
                | StockEvent::MinimumSet(_) => Ok(vec![]),
            },
            _ => {
                let BusinessDayEvent::Closed(_) = BusinessDayEvent::from_envelope(envelope)?;
                close(id, rows)
            }
        }
    }
}

/// Notes what the lines of a delivery cost, until the stocks have received them. The first delivery of a location says in
/// which currency it is kept.
fn note_costs(
    delivery: &str,
    received: &DeliveryReceived,
    rows: &mut (dyn Rows + '_),
) -> Result<(), ProjectionError> {
    let mut location: Location = rows.read_decoded(LOCATIONS, &received.location)?.unwrap_or_default();
    if location.currency.is_none() {
        location.currency = Some(received.currency);
        rows.write_decoded(LOCATIONS, &received.location, location.clone());
    }
    if location.currency != Some(received.currency) {
        return Ok(());
    }
    for (number, line) in (1..).zip(&received.lines) {
        if let Some(stock) = StockId::join(&received.location, &line.sku) {
            let key = format!("{stock}/{}", delivery_reference(delivery, number));
            rows.write(COSTS, &key, &line.unit_cost);
        }
    }
    Ok(())
}

/// Units come; a delivered line brings its cost.
fn receive(
    stock: &str,
    quantity: i64,
    date: BusinessDate,
    reference: &str,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let noted = [stock, "/", reference].concat();
    let cost: Option<i64> = rows.read(COSTS, &noted)?;
    if cost.is_some() {
        rows.delete(COSTS, &noted);
    }
    change_holding(stock, date, reference, |before| before.after(quantity, cost), rows)
}

/// Units leave, or turn out to be there or not.
fn move_units(
    stock: &str,
    change: i64,
    date: BusinessDate,
    reference: &str,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    change_holding(stock, date, reference, |before| before.after(change, None), rows)
}

/// Units come from another place, with what they are worth there. That place has not lost them yet: its own event stands
/// right behind this one.
fn move_in(
    stock: &str,
    came: &StockTransferredIn,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let (location, sku) = parts(stock)?;
    let from: Location = rows.read(LOCATIONS, &came.from)?.unwrap_or_default();
    let mut to: Location = rows.read(LOCATIONS, location)?.unwrap_or_default();
    if to.currency.is_none() && from.currency.is_some() {
        to.currency = from.currency;
        rows.write(LOCATIONS, location, &to);
    }
    let known = StockId::join(&came.from, sku).filter(|_| from.currency == to.currency);
    let holding: Holding = match known {
        Some(source) => rows.read(STOCKS, &source)?.unwrap_or_default(),
        None => Holding::default(),
    };
    let change = |before: Holding| match holding.worth(came.quantity) {
        Some(value) => before.after_worth(came.quantity, value),
        None => before.after(came.quantity, None),
    };
    change_holding(stock, came.business_date, came.reference.as_deref().unwrap_or_default(), change, rows)
}

fn parts(stock: &str) -> Result<(&str, &str), ProjectionError> {
    StockId::parts(stock).map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))
}

/// Changes what a stock holds, and posts the difference to its date and every later one.
fn change_holding(
    stock: &str,
    date: BusinessDate,
    reference: &str,
    change: impl FnOnce(Holding) -> Holding,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let (location, _) = parts(stock)?;
    let before: Holding = rows.read(STOCKS, stock)?.unwrap_or_default();
    let after = change(before);
    rows.write(STOCKS, stock, &after);
    let known: Location = rows.read_decoded(LOCATIONS, location)?.unwrap_or_default();
    let (known, mut entries) = begin(location, known, date, rows)?;
    let difference = Balance::of(after).less(Balance::of(before));
    let reference = SmolStr::from([stock, " ", reference].concat().trim_end());
    for later in known.dates.iter().filter(|later| **later >= date) {
        entries.push(post(location, &known, *later, difference, &reference, rows)?);
    }
    Ok(entries)
}

/// Begins a date of a location with what the date before it ended with, unless it has begun. Returns what is known of the
/// location afterwards.
fn begin(
    location: &str,
    mut known: Location,
    date: BusinessDate,
    rows: &mut (dyn Rows + '_),
) -> Result<(Location, Vec<Entry>), ProjectionError> {
    let Err(place) = known.dates.binary_search(&date) else { return Ok((known, vec![])) };
    let before = place.checked_sub(1).and_then(|before| known.dates.get(before)).copied();
    known.dates.insert(place, date);
    rows.write_decoded(LOCATIONS, location, known.clone());
    let opening = match before {
        Some(before) => {
            rows.read_decoded::<Balance>(ENDS, &format!("{location}/{before}"))?.unwrap_or_default()
        }
        None => Balance::default(),
    };
    let mut entries = Vec::new();
    if opening != Balance::default() {
        entries.push(post(location, &known, date, opening, &SmolStr::new_static(OPENING), rows)?);
    }
    Ok((known, entries))
}

/// Begins the date everywhere, and seals it.
fn close(date: &str, rows: &mut (dyn Rows + '_)) -> Result<Vec<Entry>, ProjectionError> {
    let parsed = BusinessDate::parse(date)
        .map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))?;
    let mut entries = Vec::new();
    for (location, known) in rows.read_all::<Location>(LOCATIONS, "")? {
        // What was delivered may not have reached its stock yet.
        if !known.dates.is_empty() {
            entries.extend(begin(&location, known, parsed, rows)?.1);
        }
    }
    entries.push(Entry::SealDate { date: date.into() });
    Ok(entries)
}

fn post(
    location: &str,
    known: &Location,
    date: BusinessDate,
    difference: Balance,
    reference: &SmolStr,
    rows: &mut (dyn Rows + '_),
) -> Result<Entry, ProjectionError> {
    let (date, place) = (SmolStr::from(date), SmolStr::from(location));
    rows.update(ENDS, &[location, "/", &date].concat(), |end: &mut Balance| *end = end.plus(difference))?;
    Ok(Entry::Post(Posting {
        texts: vec![
            ("location", Some(place.clone())),
            ("business_date", Some(date.clone())),
            ("currency", known.currency.map(|currency| currency.as_str().into())),
        ],
        key: place,
        date,
        figures: difference.figures(),
        reference: reference.clone(),
    }))
}

#[cfg(test)]
mod tests;
