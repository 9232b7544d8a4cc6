//! Report `supplier-daily`, key `<supplier>:<currency>`: what a supplier delivered and what was sold of its products on a
//! business date.
//!
//! A delivery counts for the supplier it names. A sale or return counts, line by line, for the supplier of its sku as
//! registered on the business date; an unregistered sku counts under [`UNASSIGNED`]. A registration
//! that changes who that is moves the figures, also of sealed days. Sealed by the close of the business day.
//!
//! Notes: who supplies a sku from when, the figures of each sku and day (which a registration may have to move), the
//! suppliers' names, and the rows that still lack one.

mod registrations;

use std::collections::BTreeMap;

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

use self::registrations::Registrations;
use super::{
    business_day::{BusinessDay, BusinessDayEvent},
    delivery::{Delivery, DeliveryEvent, DeliveryReceived},
    delivery_view,
    product::{Product, ProductEvent, ProductRegistered},
    till::{Till, TillEvent, TillLine},
    till_figures::{reference, till_of},
};

/// The supplier of skus that are not registered on the business date.
pub const UNASSIGNED: &str = "unassigned";

static TABLES: ReportTables =
    millstream::report_tables!("supplier-daily", "registrations", "sku-days", "supplier-names", "nameless");

/// Who supplies a sku from when: [`Registrations`] by `<sku>`.
const REGISTRATIONS: &str = "supplier-daily.registrations";
/// What was sold of a sku: [`SkuFigures`] by `<sku>/<date>/<currency>`.
const SKU_DAYS: &str = "supplier-daily.sku-days";
/// The name of a supplier, by `<supplier>`.
const SUPPLIER_NAMES: &str = "supplier-daily.supplier-names";
/// Rows written before the supplier had a name: nothing, by `<supplier>/<date>/<currency>`.
const NAMELESS: &str = "supplier-daily.nameless";

/// The report's columns, as people see them.
pub const COLUMNS: &[Column] = &[
    Column::new("supplier", Text),
    Column::new("supplier_name", Text),
    Column::new("business_date", Text),
    Column::new("revision", Number),
    Column::new("status", Text),
    Column::new("deliveries", Count),
    Column::new("units_delivered", Count),
    Column::new("delivery_cost", Amount),
    Column::new("units_sold", Count),
    Column::new("units_returned", Count),
    Column::new("gross_amount", Amount),
    Column::new("refund_amount", Amount),
    Column::new("net_amount", Amount),
    Column::new("currency", Text),
];

/// What was sold and taken back of one sku, or of all of a supplier's within one event. Amounts are minor units. Noted
/// once for each line of a sale, so stored without names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[i64; 4]", into = "[i64; 4]")]
struct SkuFigures {
    units_sold: i64,
    units_returned: i64,
    gross_amount: i64,
    refund_amount: i64,
}

impl SkuFigures {
    fn sold(line: &TillLine) -> Self {
        let gross_amount = line.quantity.saturating_mul(line.unit_price);
        Self { units_sold: line.quantity, gross_amount, ..Self::default() }
    }

    fn returned(line: &TillLine) -> Self {
        let refund_amount = line.quantity.saturating_mul(line.unit_price);
        Self { units_returned: line.quantity, refund_amount, ..Self::default() }
    }

    fn add(&mut self, other: Self) {
        self.units_sold = self.units_sold.saturating_add(other.units_sold);
        self.units_returned = self.units_returned.saturating_add(other.units_returned);
        self.gross_amount = self.gross_amount.saturating_add(other.gross_amount);
        self.refund_amount = self.refund_amount.saturating_add(other.refund_amount);
    }

    fn negated(self) -> Self {
        Self {
            units_sold: -self.units_sold,
            units_returned: -self.units_returned,
            gross_amount: -self.gross_amount,
            refund_amount: -self.refund_amount,
        }
    }

    /// Only the figures that are not 0: they are what a difference shows.
    fn figures(self) -> Vec<(&'static str, i64)> {
        let all = [
            ("units_sold", self.units_sold),
            ("units_returned", self.units_returned),
            ("gross_amount", self.gross_amount),
            ("refund_amount", self.refund_amount),
            ("net_amount", self.gross_amount.saturating_sub(self.refund_amount)),
        ];
        all.into_iter().filter(|(_, figure)| *figure != 0).collect()
    }
}

impl From<[i64; 4]> for SkuFigures {
    fn from([units_sold, units_returned, gross_amount, refund_amount]: [i64; 4]) -> Self {
        Self { units_sold, units_returned, gross_amount, refund_amount }
    }
}

impl From<SkuFigures> for [i64; 4] {
    fn from(figures: SkuFigures) -> Self {
        [figures.units_sold, figures.units_returned, figures.gross_amount, figures.refund_amount]
    }
}

/// Posts to `supplier-daily`.
#[derive(Debug)]
pub struct SupplierDaily;

impl Report for SupplierDaily {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn key(&self) -> &'static str {
        "<business_date>/<supplier>:<currency>"
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        [Product::AGGREGATE, Delivery::AGGREGATE, Till::AGGREGATE, BusinessDay::AGGREGATE]
            .contains(&aggregate)
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        match envelope.stream_id.aggregate() {
            Product::AGGREGATE => match ProductEvent::from_envelope(envelope)? {
                ProductEvent::Registered(registered) => register(envelope.stream_id.id(), &registered, rows),
                ProductEvent::Repriced(_) | ProductEvent::Discontinued(_) => Ok(vec![]),
            },
            Delivery::AGGREGATE => {
                let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(envelope)?;
                deliver(envelope.stream_id.id(), &received, rows)
            }
            Till::AGGREGATE => match TillEvent::from_envelope(envelope)? {
                TillEvent::SaleRecorded(sale) => {
                    let lines = sale.lines.iter().map(|line| (line.sku.as_str(), SkuFigures::sold(line)));
                    sell(envelope, sale.currency, lines, &sale.sale, rows)
                }
                TillEvent::ReturnRecorded(entry) => {
                    let lines =
                        entry.lines.iter().map(|line| (line.sku.as_str(), SkuFigures::returned(line)));
                    sell(envelope, entry.currency, lines, &entry.return_id, rows)
                }
                TillEvent::Closed(_) => Ok(vec![]),
            },
            BusinessDay::AGGREGATE => {
                let BusinessDayEvent::Closed(_) = BusinessDayEvent::from_envelope(envelope)?;
                Ok(vec![Entry::SealDate { date: envelope.stream_id.id().into() }])
            }
            _ => Ok(vec![]),
        }
    }
}

/// One posting a supplier, however many of its skus a sale or return holds.
fn sell<'a>(
    envelope: &EventEnvelope<'_>,
    currency: Currency,
    lines: impl Iterator<Item = (&'a str, SkuFigures)>,
    id: &str,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let date = till_of(envelope)?.business_date;
    let mut by_sku: BTreeMap<&str, SkuFigures> = BTreeMap::new();
    for (sku, figures) in lines {
        by_sku.entry(sku).or_default().add(figures);
    }
    let mut by_supplier: BTreeMap<String, SkuFigures> = BTreeMap::new();
    for (sku, figures) in by_sku {
        let key = format!("{sku}/{date}/{currency}");
        let mut day = rows.read::<SkuFigures>(SKU_DAYS, &key)?.unwrap_or_default();
        day.add(figures);
        rows.write(SKU_DAYS, &key, &day);
        let registrations = rows.read::<Registrations>(REGISTRATIONS, sku)?.unwrap_or_default();
        let supplier = registrations.supplier_on(date).unwrap_or(UNASSIGNED).to_owned();
        by_supplier.entry(supplier).or_default().add(figures);
    }
    let reference = reference(envelope, id);
    by_supplier
        .into_iter()
        .map(|(supplier, figures)| {
            post(&supplier, date, currency.as_str(), figures.figures(), reference.clone(), rows)
        })
        .collect()
}

fn deliver(
    delivery: &str,
    received: &DeliveryReceived,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let figures = vec![
        ("deliveries", 1),
        ("units_delivered", delivery_view::units(&received.lines)),
        ("delivery_cost", delivery_view::cost(&received.lines)),
    ];
    let currency = received.currency.as_str();
    let supplier = &received.supplier;
    Ok(vec![post(supplier, received.business_date, currency, figures, delivery.to_owned(), rows)?])
}

/// Notes who supplies the sku from when, and moves the figures of the days on which that is somebody else now.
fn register(
    sku: &str,
    registered: &ProductRegistered,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let mut entries = name_supplier(registered, rows)?;
    let before = rows.read::<Registrations>(REGISTRATIONS, sku)?.unwrap_or_default();
    let mut after = before.clone();
    after.add(registered.effective_from, &registered.supplier);
    if after == before {
        return Ok(entries);
    }
    rows.write(REGISTRATIONS, sku, &after);
    for (key, figures) in rows.read_all::<SkuFigures>(SKU_DAYS, &format!("{sku}/"))? {
        let (date, currency) = parse_sku_day(&key)?;
        let from = before.supplier_on(date).unwrap_or(UNASSIGNED);
        let to = after.supplier_on(date).unwrap_or(UNASSIGNED);
        if from != to {
            let reference = || format!("product {sku}");
            entries.push(post(from, date, currency, figures.negated().figures(), reference(), rows)?);
            entries.push(post(to, date, currency, figures.figures(), reference(), rows)?);
        }
    }
    Ok(entries)
}

/// Notes the supplier's name, and gives it to the rows that were written without one.
fn name_supplier(
    registered: &ProductRegistered,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Entry>, ProjectionError> {
    let Some(name) = &registered.supplier_name else { return Ok(vec![]) };
    let supplier = &registered.supplier;
    if rows.read::<String>(SUPPLIER_NAMES, supplier)?.as_ref() == Some(name) {
        return Ok(vec![]);
    }
    rows.write(SUPPLIER_NAMES, supplier, name);
    let mut entries = Vec::new();
    for (key, _) in rows.scan(NAMELESS, &format!("{supplier}/"))? {
        rows.delete(NAMELESS, &key);
        let (date, currency) = parse_sku_day(&key)?;
        entries.push(Entry::Describe {
            date: date.into(),
            key: row_key(supplier, currency),
            texts: texts(supplier, Some(name.into()), date, currency),
        });
    }
    Ok(entries)
}

fn post(
    supplier: &str,
    date: BusinessDate,
    currency: &str,
    figures: Vec<(&'static str, i64)>,
    reference: String,
    rows: &mut (dyn Rows + '_),
) -> Result<Entry, ProjectionError> {
    let name = rows.read_decoded::<String>(SUPPLIER_NAMES, supplier)?;
    if name.is_none() && supplier != UNASSIGNED {
        rows.write(NAMELESS, &format!("{supplier}/{date}/{currency}"), &());
    }
    Ok(Entry::Post(Posting {
        date: date.into(),
        key: row_key(supplier, currency),
        texts: texts(supplier, name.map(SmolStr::from), date, currency),
        figures,
        reference: reference.into(),
    }))
}

fn texts(
    supplier: &str,
    name: Option<SmolStr>,
    date: BusinessDate,
    currency: &str,
) -> Vec<(&'static str, Option<SmolStr>)> {
    vec![
        ("supplier", Some(supplier.into())),
        ("supplier_name", name),
        ("business_date", Some(date.into())),
        ("currency", Some(currency.into())),
    ]
}

fn row_key(supplier: &str, currency: &str) -> SmolStr {
    SmolStr::from_iter([supplier, ":", currency])
}

/// Date and currency of `<sku or supplier>/<date>/<currency>`.
fn parse_sku_day(key: &str) -> Result<(BusinessDate, &str), ProjectionError> {
    let mut parts = key.rsplit('/');
    match (parts.next(), parts.next().map(str::parse)) {
        (Some(currency), Some(Ok(date))) => Ok((date, currency)),
        _ => Err(ProjectionError::Inconsistent(format!("note {key:?} of supplier-daily is malformed"))),
    }
}

#[cfg(test)]
mod tests;
