//! Money: integer minor units (cents) in a currency. No rounding and no conversion happens anywhere in this system.
//!
//! How many decimal places a currency has is looked up in the table of ISO 4217, and matters only where people read or
//! write amounts: 1200 is 12.00 in USD, 1200 in JPY and 1.200 in KWD.

use std::fmt;

use millstream_domain::{
    decider::Rejection,
    schemars::{JsonSchema, Schema, SchemaGenerator, json_schema},
};
use serde::{Deserialize, Serialize};

/// The largest quantity of a line.
pub const QUANTITY_MAX: i64 = 1_000_000_000;

/// The largest amount of one price, line or document, in minor units. It is far below the limit of an `i64`, so that sums over thousands of
/// such documents still fit.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;

/// The decimal places of a code that is not in the table, such as that of a former currency.
const PLACES_DEFAULT: u32 = 2;

/// An ISO 4217 code: three upper-case letters. It is not checked whether the code is in use, because old documents may name former currencies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

/// A text that is not a currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("currency {text:?} is not a code of three upper-case letters, as in USD")]
pub struct CurrencyError {
    text: String,
}

impl Currency {
    /// Reads a currency in a command.
    ///
    /// # Errors
    /// The rejection `currency-malformed`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        Self::try_from(text.to_owned())
            .map_err(|error| Rejection::new("currency-malformed", error.to_string()))
    }

    /// The number of decimal places: 2 for cents, 0 for yen, 3 for fils. A currency without a minor unit, such as gold, has 0; a code that ISO
    /// 4217 does not list has 2.
    pub fn places(&self) -> u32 {
        iso_currency::Currency::from_code(self.as_str())
            .map_or(PLACES_DEFAULT, |currency| currency.exponent().map_or(0, u32::from))
    }

    /// Whether ISO 4217 lists the code: where a text may be something else than a currency, three letters alone do not tell.
    pub fn is_listed(&self) -> bool {
        iso_currency::Currency::from_code(self.as_str()).is_some()
    }

    /// An amount in minor units as an exact decimal number: `12.00` for 1200 in USD.
    pub fn decimal(&self, minor_units: i64) -> String {
        decimal(minor_units.into(), self.places())
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a code is three ASCII letters")
    }
}

impl JsonSchema for Currency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Currency".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z]{3}$" })
    }
}

impl TryFrom<String> for Currency {
    type Error = CurrencyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(CurrencyError { text }),
        }
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An amount in minor units as a decimal number in the currency of a row, as [`Currency::decimal`]. If a row has no valid currency, it is shown
/// with two decimal places.
pub fn decimal_in(currency: Option<&str>, minor_units: impl Into<i128>) -> String {
    let currency = currency.and_then(|code| Currency::try_from(code.to_owned()).ok());
    decimal(minor_units.into(), currency.map_or(PLACES_DEFAULT, |currency| currency.places()))
}

/// The ISO 4217 codes whose minor unit is not a hundredth, each with its number of decimal places.
pub fn places_other_than_hundredths() -> impl Iterator<Item = (String, u32)> {
    let letters = || b'A'..=b'Z';
    let codes = letters().flat_map(move |a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
    let places = codes.map(|code| (Currency(code), Currency(code).places()));
    places.filter(|(_, places)| *places != PLACES_DEFAULT).map(|(code, places)| (code.into(), places))
}

fn decimal(minor_units: i128, places: u32) -> String {
    let sign = if minor_units < 0 { "-" } else { "" };
    let width = places as usize + 1;
    let digits = format!("{:0width$}", minor_units.unsigned_abs());
    match digits.split_at(digits.len() - places as usize) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// Checks a price or cost of one unit.
///
/// # Errors
/// `price-negative` and `amount-too-large`; `what` names the thing that has the price.
pub fn check_price(what: &str, minor_units: i64) -> Result<(), Rejection> {
    if minor_units < 0 {
        return Err(Rejection::new(
            "price-negative",
            format!("the price of {what} is {minor_units}; give 0 or more"),
        ));
    }
    if minor_units > AMOUNT_MAX {
        return Err(amount_too_large(what));
    }
    Ok(())
}

/// Checks a quantity.
///
/// # Errors
/// `quantity-not-positive` and `quantity-too-large`; `what` names the thing that is counted.
pub fn check_quantity(what: &str, quantity: i64) -> Result<(), Rejection> {
    if quantity < 1 {
        let text = format!("the quantity of {what} is {quantity}; give 1 or more");
        return Err(Rejection::new("quantity-not-positive", text));
    }
    if quantity > QUANTITY_MAX {
        let text = format!("the quantity of {what} is {quantity}; at most {QUANTITY_MAX} are allowed");
        return Err(Rejection::new("quantity-too-large", text));
    }
    Ok(())
}

/// The sum of `quantity x price` over checked lines.
///
/// # Errors
/// `amount-too-large` when it is above [`AMOUNT_MAX`]; `what` names the thing that has the amount.
pub fn total(what: &str, lines: impl IntoIterator<Item = (i64, i64)>) -> Result<i64, Rejection> {
    lines
        .into_iter()
        .try_fold(0_i64, |sum, (quantity, price)| sum.checked_add(quantity.checked_mul(price)?))
        .filter(|sum| *sum <= AMOUNT_MAX)
        .ok_or_else(|| amount_too_large(what))
}

fn amount_too_large(what: &str) -> Rejection {
    let text = format!("the amount of {what} is above {AMOUNT_MAX} minor units; split it");
    Rejection::new("amount-too-large", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currency_is_three_upper_case_letters() {
        assert_eq!(Currency::parse("USD").unwrap().as_str(), "USD");
        for text in ["", "usd", "US", "USDT", "U$D", "ÄB"] {
            assert_eq!(Currency::parse(text).unwrap_err().code, "currency-malformed", "{text}");
        }
    }

    #[test]
    fn a_code_is_listed_or_just_three_letters() {
        for (code, is_listed) in
            [("EUR", true), ("JPY", true), ("BOX", false), ("PCS", false), ("ZZZ", false)]
        {
            assert_eq!(Currency::parse(code).unwrap().is_listed(), is_listed, "{code}");
        }
    }

    #[test]
    fn amounts_have_the_places_of_their_currency() {
        let shown = |code, units| Currency::parse(code).unwrap().decimal(units);
        assert_eq!(shown("USD", 1_200), "12.00");
        assert_eq!(shown("USD", -5), "-0.05");
        assert_eq!(shown("JPY", 1_200), "1200");
        assert_eq!(shown("JPY", 0), "0");
        assert_eq!(shown("KWD", 1_500), "1.500");
        assert_eq!(shown("KWD", -7), "-0.007");
        assert_eq!(shown("XAU", 3), "3");
        assert_eq!(shown("USD", i64::MIN), "-92233720368547758.08");
        assert_eq!(decimal_in(Some("JPY"), 1_200), "1200");
        for unknown in [None, Some("ZZZ"), Some("yen")] {
            assert_eq!(decimal_in(unknown, 1_200), "12.00", "{unknown:?}");
        }
    }

    #[test]
    fn currencies_whose_minor_unit_is_no_hundredth_are_listed() {
        let listed: Vec<_> = places_other_than_hundredths().collect();
        for expected in [("JPY", 0), ("KWD", 3), ("XAU", 0)] {
            assert!(listed.contains(&(expected.0.to_owned(), expected.1)), "{expected:?}");
        }
        assert!(
            listed.iter().all(|(code, _)| code != "USD" && code != "ZZZ") && listed.len() < 60,
            "{listed:?}"
        );
    }

    #[test]
    fn totals_that_do_not_fit_are_refused_instead_of_wrapping() {
        assert_eq!(total("sale 1", [(2, 250), (1, 0)]), Ok(500));
        for lines in [[(QUANTITY_MAX, AMOUNT_MAX), (1, 1)], [(1, AMOUNT_MAX), (1, 1)]] {
            assert_eq!(total("sale 1", lines).unwrap_err().code, "amount-too-large");
        }
    }

    #[test]
    fn quantities_start_at_one_and_prices_at_zero() {
        assert_eq!(check_quantity("a", 0).unwrap_err().code, "quantity-not-positive");
        assert_eq!(check_quantity("a", QUANTITY_MAX + 1).unwrap_err().code, "quantity-too-large");
        assert_eq!(check_price("a", -1).unwrap_err().code, "price-negative");
        assert!(check_quantity("a", 1).is_ok() && check_price("a", 0).is_ok());
    }
}
