//! Who supplies a sku on which business date.

use millstream::values::business_date::BusinessDate;
use serde::{Deserialize, Serialize};

/// The suppliers of one sku, in the order of the dates from which on they supply it. Each does until the date of the
/// next; of two registrations with the same date the later recorded one stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registrations(Vec<(Option<BusinessDate>, String)>);

impl Registrations {
    /// Adds a registration; one without a date holds before all dates.
    pub(super) fn add(&mut self, effective_from: Option<BusinessDate>, supplier: &str) {
        let entry = (effective_from, supplier.to_owned());
        match self.0.binary_search_by(|(from, _)| from.cmp(&effective_from)) {
            Ok(index) => {
                if let Some(known) = self.0.get_mut(index) {
                    *known = entry;
                }
            }
            Err(index) => self.0.insert(index, entry),
        }
    }

    /// The supplier on a date; none before the first registration.
    pub(super) fn supplier_on(&self, date: BusinessDate) -> Option<&str> {
        let after = self.0.partition_point(|(from, _)| from.is_none_or(|from| from <= date));
        self.0.get(..after)?.last().map(|(_, supplier)| supplier.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> BusinessDate {
        text.parse().unwrap()
    }

    #[test]
    fn supplier_is_the_one_with_the_last_date_that_has_come() {
        let mut registrations = Registrations::default();
        assert_eq!(registrations.supplier_on(date("2012-01-01")), None);
        registrations.add(Some(date("2012-03-01")), "c");
        registrations.add(None, "a");
        registrations.add(Some(date("2012-02-01")), "b");
        for (day, supplier) in [
            ("1999-01-01", "a"),
            ("2012-01-31", "a"),
            ("2012-02-01", "b"),
            ("2012-02-29", "b"),
            ("2012-03-01", "c"),
            ("2026-01-01", "c"),
        ] {
            assert_eq!(registrations.supplier_on(date(day)), Some(supplier), "{day}");
        }
    }

    #[test]
    fn same_date_is_replaced() {
        let mut registrations = Registrations::default();
        registrations.add(Some(date("2012-02-01")), "a");
        registrations.add(Some(date("2012-02-01")), "b");
        assert_eq!(registrations.supplier_on(date("2012-02-01")), Some("b"));
        assert_eq!(registrations.supplier_on(date("2012-01-31")), None);
    }
}
