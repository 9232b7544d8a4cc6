//! Money: integer minor units (cents) in a currency. No rounding and no conversion happens anywhere in this system.

use std::fmt;

use millstream_engine::decider::Rejection;
use serde::{Deserialize, Serialize};

/// Largest quantity of a line.
pub const QUANTITY_MAX: i64 = 1_000_000_000;

/// Largest amount of one price, line or document, in minor units. Far below what an `i64` holds, so that sums over
/// thousands of such documents still fit.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;

/// An ISO 4217 code: three upper-case letters. Whether the code is in use is not checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

/// A text that is no currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("currency {text:?} is not a code of three upper-case letters, as in USD")]
pub struct CurrencyError {
    text: String,
}

impl Currency {
    /// Reads a currency that a command gives.
    ///
    /// # Errors
    /// The rejection `currency-malformed`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        Self::try_from(text.to_owned())
            .map_err(|error| Rejection::new("currency-malformed", error.to_string()))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a code is three ASCII letters")
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

/// Checks a price or cost of one unit.
///
/// # Errors
/// `price-negative` and `amount-too-large`, naming `what` it is the price of.
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
/// `quantity-not-positive` and `quantity-too-large`, naming `what` it is the quantity of.
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
/// `amount-too-large` when it is above [`AMOUNT_MAX`], naming `what` it is the amount of.
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
