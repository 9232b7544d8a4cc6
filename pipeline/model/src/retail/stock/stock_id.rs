//! Ids of stocks: the place and the item, and what can have no stock.

use millstream::{
    contract::subject::AGGREGATE_ID_LENGTH_MAX, decider::Rejection, values::reference::check_reference,
};

/// The two parts of a stock's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StockId {
    /// The store or warehouse. Without a colon.
    pub location: String,
    /// The item.
    pub sku: String,
}

impl StockId {
    /// Reads `<location>:<sku>`; a sku may contain colons itself.
    ///
    /// # Errors
    /// The rejection `stock-id-malformed`.
    pub fn parse(id: &str) -> Result<Self, Rejection> {
        let (location, sku) = Self::parts(id)?;
        Ok(Self { location: location.to_owned(), sku: sku.to_owned() })
    }

    /// Location and sku as they stand in the id.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parts(id: &str) -> Result<(&str, &str), Rejection> {
        match id.split_once(':') {
            Some((location, sku)) if !location.is_empty() && !sku.is_empty() => Ok((location, sku)),
            _ => {
                let message = format!("stock {id} is not <location>:<sku>; write it as in 2506:75087");
                Err(Rejection::new("stock-id-malformed", message))
            }
        }
    }

    /// The id of the stock of `sku` at `location`; none where the two make no id, because the location has a colon or
    /// they are too long together.
    pub fn join(location: &str, sku: &str) -> Option<String> {
        let id = format!("{location}:{sku}");
        let reads_back = Self::parse(&id).is_ok_and(|parsed| parsed.location == location);
        (reads_back && check_reference("", "", &id).is_ok()).then_some(id)
    }

    /// Refuses a sku of a document of which there could be no stock at `location`, so that no line is left out of stock in silence.
    ///
    /// # Errors
    /// The rejection `stock-id-malformed`.
    pub fn check_line(location: &str, sku: &str) -> Result<(), Rejection> {
        if Self::join(location, sku).is_some() {
            return Ok(());
        }
        let message = format!(
            "there can be no stock of {sku} at {location}: a location has no colon, and both together, with the colon between them, have at most {AGGREGATE_ID_LENGTH_MAX} characters"
        );
        Err(Rejection::new("stock-id-malformed", message))
    }
}
