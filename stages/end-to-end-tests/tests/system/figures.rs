//! Reports as `millstream report` prints them, next to sums made elsewhere.

use std::collections::BTreeMap;

use end_to_end_tests::{
    day::{DATE, Figures, IowaDay, cents},
    system::System,
};

/// A report of the day as CSV, its figures by the values of one column.
pub(crate) async fn report(system: &System, name: &str, key_column: &str) -> BTreeMap<String, Figures> {
    let printed = system
        .report(&[name, "--date", DATE, "--format", "csv"])
        .await
        .expect_success("millstream report")
        .stdout;
    let mut reader = csv::Reader::from_reader(printed.as_bytes());
    let mut rows = BTreeMap::new();
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.unwrap();
        assert_eq!((&*row["business_date"], &*row["currency"]), (DATE, "USD"), "{row:?}");
        assert_eq!((cents(&row["refund_amount"]), &*row["units_returned"]), (0, "0"), "{row:?}");
        assert_eq!(row["net_amount"], row["gross_amount"], "{row:?}");
        let figures = Figures {
            // Only store-daily counts sales.
            sales: row.get("sales").map_or(0, |sales| sales.parse().unwrap()),
            units_sold: row["units_sold"].parse().unwrap(),
            gross_amount: cents(&row["gross_amount"]),
        };
        let before = rows.insert(row[key_column].clone(), figures);
        assert_eq!(before, None, "{} stands twice in {name}", row[key_column]);
    }
    rows
}

/// Both reports say what the file says: every store, every supplier, every figure.
pub(crate) async fn expect_figures_of(day: &IowaDay, system: &System) {
    assert_eq!(report(system, "store-daily", "store").await, day.stores);
    let suppliers: BTreeMap<String, Figures> = day
        .suppliers
        .iter()
        .map(|(name, figures)| (name.clone(), Figures { sales: 0, ..*figures }))
        .collect();
    assert_eq!(report(system, "supplier-daily", "supplier_name").await, suppliers);
}
