//! What the reports of a made-up day must say: simple sums over the day, computed without the pipeline.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::day::{CURRENCY, DATE, Day, Line};

/// The supplier for skus that nobody registered.
const UNASSIGNED: &str = "unassigned";

#[derive(Debug, Default)]
struct StoreSum {
    sales: i64,
    returns: i64,
    units_sold: i64,
    units_returned: i64,
    gross: i64,
    refund: i64,
}

#[derive(Debug, Default)]
struct SupplierSum {
    name: Option<&'static str>,
    deliveries: i64,
    units_delivered: i64,
    cost: i64,
    units_sold: i64,
    units_returned: i64,
    gross: i64,
    refund: i64,
}

fn units(lines: &[Line]) -> i64 {
    lines.iter().map(|line| line.quantity).sum()
}

fn amount(lines: &[Line]) -> i64 {
    lines.iter().map(|line| line.quantity * line.unit).sum()
}

/// The rows of `store-daily` after the close, by store.
pub(crate) fn store_daily(day: &Day) -> Vec<Value> {
    let mut sums: BTreeMap<&str, StoreSum> = BTreeMap::new();
    for sale in &day.sales {
        let sum = sums.entry(sale.store).or_default();
        sum.sales += 1;
        sum.units_sold += units(&sale.lines);
        sum.gross += amount(&sale.lines);
    }
    for entry in &day.returns {
        let sum = sums.entry(entry.store).or_default();
        sum.returns += 1;
        sum.units_returned += entry.line.quantity;
        sum.refund += entry.line.quantity * entry.line.unit;
    }
    let row = |(store, sum): (&str, StoreSum)| {
        json!({
            "store": store, "business_date": DATE, "revision": 1, "status": "sealed",
            "sales": sum.sales, "returns": sum.returns,
            "units_sold": sum.units_sold, "units_returned": sum.units_returned,
            "gross_amount": sum.gross, "refund_amount": sum.refund, "net_amount": sum.gross - sum.refund,
            "currency": CURRENCY,
        })
    };
    sums.into_iter().map(row).collect()
}

/// The rows of `supplier-daily` after the close, by supplier.
pub(crate) fn supplier_daily(day: &Day) -> Vec<Value> {
    let mut sums: BTreeMap<&str, SupplierSum> = BTreeMap::new();
    let suppliers: HashMap<&str, (&str, &'static str)> = day
        .products
        .iter()
        .map(|product| (product.sku.as_str(), (product.supplier, product.supplier_name)))
        .collect();
    let supplier_of = |sku: &str| suppliers.get(sku).map_or(UNASSIGNED, |(supplier, _)| *supplier);
    for delivery in &day.deliveries {
        let sum = sums.entry(delivery.supplier).or_default();
        sum.deliveries += 1;
        sum.units_delivered += units(&delivery.lines);
        sum.cost += amount(&delivery.lines);
    }
    for line in day.sales.iter().flat_map(|sale| &sale.lines) {
        let sum = sums.entry(supplier_of(&line.sku)).or_default();
        sum.units_sold += line.quantity;
        sum.gross += line.quantity * line.unit;
    }
    for line in day.returns.iter().map(|entry| &entry.line) {
        let sum = sums.entry(supplier_of(&line.sku)).or_default();
        sum.units_returned += line.quantity;
        sum.refund += line.quantity * line.unit;
    }
    for (supplier, name) in suppliers.into_values() {
        sums.entry(supplier).and_modify(|sum| sum.name = Some(name));
    }
    let row = |(supplier, sum): (&str, SupplierSum)| {
        json!({
            "supplier": supplier, "supplier_name": sum.name, "business_date": DATE,
            "revision": 1, "status": "sealed",
            "deliveries": sum.deliveries, "units_delivered": sum.units_delivered, "delivery_cost": sum.cost,
            "units_sold": sum.units_sold, "units_returned": sum.units_returned,
            "gross_amount": sum.gross, "refund_amount": sum.refund, "net_amount": sum.gross - sum.refund,
            "currency": CURRENCY,
        })
    };
    sums.into_iter().map(row).collect()
}

/// Where the rows of a report are wrong, a sentence each. `who` is the column that names the row.
pub(crate) fn differences(report: &str, who: &str, expected: &[Value], found: &[Value]) -> Vec<String> {
    let by_name = |rows: &[Value]| -> BTreeMap<String, Value> {
        let name = |row: &Value| row.get(who).and_then(Value::as_str).unwrap_or("?").to_owned();
        rows.iter().map(|row| (name(row), row.clone())).collect()
    };
    let (expected_rows, mut found_rows) = (by_name(expected), by_name(found));
    let mut sentences = Vec::new();
    if found.len() != found_rows.len() {
        sentences.push(format!("{report}: a {who} stands in more than one row"));
    }
    for (name, expected_row) in expected_rows {
        let Some(found_row) = found_rows.remove(&name) else {
            sentences.push(format!("{report}: there is no row of {name}"));
            continue;
        };
        for (column, value) in expected_row.as_object().into_iter().flatten() {
            let there = found_row.get(column).unwrap_or(&Value::Null);
            if there != value {
                sentences.push(format!("{report}: {column} of {name} is {there}, not {value}"));
            }
        }
    }
    sentences.extend(found_rows.into_keys().map(|name| format!("{report}: there is a row of {name}")));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_is_found() {
        let day = Day::generate(300);
        let rows = store_daily(&day);
        assert_eq!(differences("store-daily", "store", &rows, &rows), Vec::<String>::new());
        let mut changed = rows.clone();
        changed[2]["net_amount"] = json!(1);
        assert_eq!(differences("store-daily", "store", &rows, &changed).len(), 1);
        assert_eq!(differences("store-daily", "store", &rows, &rows[1..]).len(), 1);
        assert_eq!(differences("store-daily", "store", &rows[1..], &rows).len(), 1);
        let doubled = [rows.clone(), vec![rows[0].clone()]].concat();
        assert_eq!(differences("store-daily", "store", &rows, &doubled).len(), 1);
    }

    #[test]
    fn suppliers_share_what_the_stores_took() {
        let day = Day::generate(300);
        let net = |rows: Vec<Value>| rows.iter().map(|row| row["net_amount"].as_i64().unwrap()).sum::<i64>();
        assert_eq!(net(store_daily(&day)), net(supplier_daily(&day)));
    }
}
