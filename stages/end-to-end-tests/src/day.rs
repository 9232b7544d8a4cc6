//! One real day of Iowa's liquor orders, and what its reports must say, summed up directly from the file without any code of Millstream.
//!
//! The file is not part of the repository. A machine that has it keeps it in `../shared/data` beside the repository; otherwise a day of the
//! same form is made up.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::binaries::repository;

/// The business date of all its rows.
pub const DATE: &str = "2012-01-31";

const MADE_UP_SEED: u64 = 20_120_131;
const MADE_UP_ROWS: u32 = 9_000;
const MADE_UP_STORES: u32 = 200;
const MADE_UP_ITEMS: u32 = 600;
const MADE_UP_VENDORS: u32 = 40;
/// The columns that the mapping names.
const MADE_UP_HEADER: &str = "date,store_number,vendor_name,item_number,item_description,state_bottle_retail,bottles_sold,sale_dollars";

/// What was sold under one key of a report. Amounts are in cents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rows.
    pub sales: i64,
    /// Bottles.
    pub units_sold: i64,
    /// Dollars, in cents.
    pub gross_amount: i64,
}

/// The file and its sums.
#[derive(Debug)]
pub struct IowaDay {
    /// Its path.
    pub file: PathBuf,
    /// By number of the store.
    pub stores: BTreeMap<String, Figures>,
    /// By name of the vendor.
    pub suppliers: BTreeMap<String, Figures>,
    /// The numbers of the rows without price and amount; the first row is 1.
    pub rows_without_price: Vec<u64>,
    /// All rows.
    pub rows: u64,
}

impl IowaDay {
    /// The real day or, if it is absent, a day that is made up in `folder`.
    ///
    /// # Panics
    /// When the file exists but has the wrong content, or `folder` cannot be written.
    #[must_use]
    pub fn find_or_make_up(folder: &Path) -> Self {
        let file = repository().join("../shared/data/iowa-liquor-2012-01-31.csv");
        if !file.is_file() {
            return Self::make_up(folder);
        }
        let day = Self::read(file);
        let found = (day.rows, day.rows_without_price.len(), day.stores.len(), day.suppliers.len());
        assert_eq!(found, (9_510, 7, 224, 54), "the file is another one");
        day
    }

    /// How many rows a mapping must accept, and how many it must refuse.
    #[must_use]
    pub fn accepted_and_refused(&self) -> (u64, u64) {
        let refused = self.rows_without_price.len() as u64;
        (self.rows - refused, refused)
    }

    /// A day of the same form. It is the same each time.
    fn make_up(folder: &Path) -> Self {
        let mut random = StdRng::seed_from_u64(MADE_UP_SEED);
        let mut lines = vec![MADE_UP_HEADER.to_owned()];
        for _ in 0..MADE_UP_ROWS {
            let store = random.random_range(0..MADE_UP_STORES);
            let item = random.random_range(0..MADE_UP_ITEMS);
            let vendor = item % MADE_UP_VENDORS;
            let bottles: u32 = random.random_range(1..50);
            // Each item has a fixed price of at least 0.50, and no two items of a vendor have the same price.
            let price = 50 + item * 7;
            let (retail, dollars) = if random.random_range(0..MADE_UP_ROWS) < 20 {
                (String::new(), String::new())
            } else {
                (decimal(price), decimal(price * bottles))
            };
            lines.push(format!(
                "{DATE},{store},Vendor {vendor},{item},\"Item, {item}\",{retail},{bottles},{dollars}"
            ));
        }
        let file = folder.join("made-up-day.csv");
        std::fs::write(&file, lines.join("\n")).expect("the folder can be written");
        Self::read(file)
    }

    fn read(file: PathBuf) -> Self {
        let mut day = Self {
            stores: BTreeMap::new(),
            suppliers: BTreeMap::new(),
            rows_without_price: vec![],
            rows: 0,
            file,
        };
        let mut reader = csv::Reader::from_path(&day.file).expect("the file can be read");
        for row in reader.deserialize::<BTreeMap<String, String>>() {
            let row = row.expect("each line has all columns");
            let column = |name: &str| row.get(name).unwrap_or_else(|| panic!("no column {name}")).as_str();
            day.rows += 1;
            if column("sale_dollars").is_empty() {
                day.rows_without_price.push(day.rows);
                continue;
            }
            let bottles: i64 = column("bottles_sold").parse().expect("bottles are a number");
            for (sums, key) in
                [(&mut day.stores, column("store_number")), (&mut day.suppliers, column("vendor_name"))]
            {
                let sum = sums.entry(key.to_owned()).or_default();
                sum.sales += 1;
                sum.units_sold += bottles;
                sum.gross_amount += cents(column("sale_dollars"));
            }
        }
        day
    }
}

/// Cents as dollars.
fn decimal(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// `427.8` is 42780.
///
/// # Panics
/// When it is no amount of whole cents.
#[must_use]
pub fn cents(amount: &str) -> i64 {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let digits = format!("{whole}{fraction:0<2}");
    assert!(fraction.len() <= 2, "{amount} has parts of cents");
    digits.parse().unwrap_or_else(|_| panic!("{amount} is no amount"))
}

#[cfg(test)]
mod tests {
    use super::cents;

    #[test]
    fn amounts_become_cents_without_rounding() {
        for (text, expected) in [("427.8", 42780), ("0.05", 5), ("12", 1200), ("-1.5", -150)] {
            assert_eq!(cents(text), expected, "{text}");
        }
    }
}
