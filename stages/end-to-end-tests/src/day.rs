//! One real day of Iowa's liquor orders, and what its reports must say: summed up here from the file itself, with nothing
//! of Millstream's own.
//!
//! The file is not part of the repository. A machine that has it keeps it in `../shared/data` beside the repository; where
//! it is absent, tests that need it say so and end.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{binaries::repository, program::announce_skip};

/// The business date of all its rows.
pub const DATE: &str = "2012-01-31";

/// What was sold under one key of a report. Amounts are cents.
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
    /// Where it is.
    pub file: PathBuf,
    /// By number of the store.
    pub stores: BTreeMap<String, Figures>,
    /// By name of the vendor.
    pub suppliers: BTreeMap<String, Figures>,
    /// Numbers of the rows without price and amount, the first row being 1.
    pub rows_without_price: Vec<u64>,
    /// All rows.
    pub rows: u64,
}

impl IowaDay {
    /// Reads the file; none, with a line that says so, where it is absent.
    ///
    /// # Panics
    /// When the file is there and is not what it should be.
    #[must_use]
    pub fn find() -> Option<Self> {
        let file = repository().join("../shared/data/iowa-liquor-2012-01-31.csv");
        if !file.is_file() {
            announce_skip(&format!("there is no {}", file.display()));
            return None;
        }
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
        Some(day)
    }
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
