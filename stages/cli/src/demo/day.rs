//! A made-up day of a small chain of shops: products, deliveries, sales, returns. The same seed gives the same day.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

/// The seed, so that the demo is the same each time.
const SEED: u64 = 20_120_131;
pub(crate) const DATE: &str = "2012-01-31";
pub(crate) const CURRENCY: &str = "EUR";
const STORES: [&str; 6] = ["north", "south", "east", "west", "harbour", "station"];
const SUPPLIERS: [(&str, &str); 5] = [
    ("mill-and-sons", "Mill & Sons"),
    ("green-valley", "Green Valley Farms"),
    ("blue-dairy", "Blue Dairy"),
    ("hearth-bakery", "Hearth Bakery, Ltd."),
    ("far-spices", "Far Spices \"Direct\""),
];
const PRODUCTS_OF_EACH: u32 = 6;
/// A product that is sold but registered by nobody, so it counts under no supplier.
const UNREGISTERED: &str = "mystery-box";
const DELIVERIES: u32 = 24;
/// One in this many sales is returned in part.
const SALES_TO_A_RETURN: u32 = 40;

/// A thing that is sold or delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) sku: String,
    pub(crate) quantity: i64,
    /// Its price or cost, in minor units.
    pub(crate) unit: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) sku: String,
    pub(crate) supplier: &'static str,
    pub(crate) supplier_name: &'static str,
    pub(crate) price: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) supplier: &'static str,
    pub(crate) store: &'static str,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sale {
    pub(crate) id: String,
    pub(crate) store: &'static str,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Return {
    pub(crate) id: String,
    pub(crate) sale: String,
    pub(crate) store: &'static str,
    pub(crate) line: Line,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) products: Vec<Product>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) sales: Vec<Sale>,
    pub(crate) returns: Vec<Return>,
}

/// A command as a person would type it: aggregate, id, command, body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TypedCommand {
    pub(crate) aggregate: &'static str,
    pub(crate) id: String,
    pub(crate) command: &'static str,
    pub(crate) body: Value,
}

impl Day {
    /// Makes up a day with this many sales.
    pub(crate) fn generate(sales: u32) -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        let products: Vec<Product> = SUPPLIERS
            .iter()
            .flat_map(|(supplier, supplier_name)| {
                (1..=PRODUCTS_OF_EACH).map(move |number| (supplier, supplier_name, number))
            })
            .map(|(supplier, supplier_name, number)| Product {
                sku: format!("{supplier}-{number}"),
                supplier,
                supplier_name,
                price: random.random_range(50..5000),
            })
            .collect();
        let mut prices: Vec<(String, i64)> =
            products.iter().map(|product| (product.sku.clone(), product.price)).collect();
        let deliveries = (1..=DELIVERIES).map(|number| delivery(number, &products, &mut random)).collect();
        prices.push((UNREGISTERED.to_owned(), 999));
        let sales: Vec<Sale> = (1..=sales).map(|number| sale(number, &prices, &mut random)).collect();
        let returns = sales.iter().step_by(SALES_TO_A_RETURN as usize).filter_map(returned).collect();
        Self { products, deliveries, sales, returns }
    }

    /// The stores that sold something.
    pub(crate) fn stores(&self) -> Vec<&'static str> {
        let by_name: BTreeMap<&'static str, ()> = self.sales.iter().map(|sale| (sale.store, ())).collect();
        by_name.into_keys().collect()
    }

    /// What happens before the shops open.
    pub(crate) fn morning(&self) -> Vec<TypedCommand> {
        let register = |product: &Product| TypedCommand {
            aggregate: "product",
            id: product.sku.clone(),
            command: "register",
            body: json!({
                "name": product.sku.replace('-', " "),
                "supplier": product.supplier,
                "supplier_name": product.supplier_name,
            }),
        };
        let receive = |delivery: &Delivery| TypedCommand {
            aggregate: "delivery",
            id: delivery.id.clone(),
            command: "receive",
            body: json!({
                "supplier": delivery.supplier,
                "location": delivery.store,
                "currency": CURRENCY,
                "received_on": DATE,
                "lines": lines(&delivery.lines, "unit_cost"),
            }),
        };
        self.products.iter().map(register).chain(self.deliveries.iter().map(receive)).collect()
    }

    /// What happens at the tills.
    pub(crate) fn counters(&self) -> Vec<TypedCommand> {
        let give_back = |entry: &Return| TypedCommand {
            aggregate: "till",
            id: till(entry.store),
            command: "record-return",
            body: json!({
                "return": entry.id,
                "sale": entry.sale,
                "currency": CURRENCY,
                "lines": lines(std::slice::from_ref(&entry.line), "unit_price"),
            }),
        };
        self.sales.iter().map(Sale::command).chain(self.returns.iter().map(give_back)).collect()
    }

    /// What ends the day, for the stores and for the whole business.
    pub(crate) fn evening(&self) -> Vec<TypedCommand> {
        let close = |aggregate, id| TypedCommand { aggregate, id, command: "close", body: json!({}) };
        let tills = self.stores().into_iter().map(|store| close("till", till(store)));
        tills.chain([close("business-day", DATE.to_owned())]).collect()
    }
}

impl Sale {
    /// The command as the till sends it.
    pub(crate) fn command(&self) -> TypedCommand {
        TypedCommand {
            aggregate: "till",
            id: till(self.store),
            command: "record-sale",
            body: json!({
                "sale": self.id,
                "currency": CURRENCY,
                "lines": lines(&self.lines, "unit_price"),
            }),
        }
    }
}

fn till(store: &str) -> String {
    format!("{store}_{DATE}")
}

fn lines(lines: &[Line], unit: &str) -> Vec<Value> {
    let line = |line: &Line| json!({ "sku": line.sku, "quantity": line.quantity, unit: line.unit });
    lines.iter().map(line).collect()
}

fn pick<T: Clone>(items: &[T], random: &mut StdRng) -> T {
    items.get(random.random_range(0..items.len())).cloned().expect("the index is below the length")
}

fn delivery(number: u32, products: &[Product], random: &mut StdRng) -> Delivery {
    let (supplier, _) = pick(&SUPPLIERS, random);
    let lines = products
        .iter()
        .filter(|product| product.supplier == supplier)
        .map(|product| Line {
            sku: product.sku.clone(),
            quantity: random.random_range(10..500),
            unit: product.price * 6 / 10,
        })
        .collect();
    Delivery { id: format!("{DATE}-{number}"), supplier, store: pick(&STORES, random), lines }
}

fn sale(number: u32, prices: &[(String, i64)], random: &mut StdRng) -> Sale {
    let count = random.random_range(1..=4);
    let lines = (0..count)
        .map(|_| {
            let (sku, price) = pick(prices, random);
            Line { sku, quantity: random.random_range(1..=6), unit: price }
        })
        .collect();
    Sale { id: number.to_string(), store: pick(&STORES, random), lines }
}

/// One piece of the first line.
fn returned(sale: &Sale) -> Option<Return> {
    let line = sale.lines.first()?;
    Some(Return {
        id: format!("r-{}", sale.id),
        sale: sale.id.clone(),
        store: sale.store,
        line: Line { quantity: 1, ..line.clone() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_is_the_same_each_time() {
        assert_eq!(Day::generate(200), Day::generate(200));
    }

    #[test]
    fn day_has_everything_that_the_reports_tell_apart() {
        let day = Day::generate(1000);
        assert_eq!(day.stores().len(), STORES.len());
        assert!(day.sales.iter().any(|sale| sale.lines.iter().any(|line| line.sku == UNREGISTERED)));
        assert!(!day.returns.is_empty() && !day.deliveries.is_empty());
    }
}
