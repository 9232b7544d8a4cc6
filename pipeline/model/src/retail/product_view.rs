//! View `product`, key `<sku>`: what a product is now.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
    values::{business_date::BusinessDate, money::Currency},
};
use serde::{Deserialize, Serialize};

use super::product::{Product, ProductEvent};

const VIEW: &str = "product";

/// A row of the view `product`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct ProductRow {
    /// The product.
    pub sku: String,
    /// What people call it.
    pub name: String,
    /// Id of the supplier.
    pub supplier: String,
    /// What people call the supplier.
    pub supplier_name: Option<String>,
    /// First business date of the last registration; null when it holds for all dates.
    pub effective_from: Option<BusinessDate>,
    /// In minor units; null until it is priced.
    pub unit_price: Option<i64>,
    /// Of the price.
    pub currency: Option<Currency>,
    /// Whether it was taken out of the range.
    pub discontinued: bool,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the view `product`.
#[derive(Debug)]
pub struct ProductView;

impl Projection for ProductView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        VIEW
    }

    fn views(&self) -> &'static [&'static str] {
        &[VIEW]
    }

    fn shapes(&self) -> Vec<RowShape> {
        vec![RowShape::of::<ProductRow>(VIEW, "<sku>").amounts(&["unit_price"])]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Product::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let sku = envelope.stream_id.id();
        let before: Option<ProductRow> = rows.read(VIEW, sku)?;
        let mut row = match (ProductEvent::from_envelope(envelope)?, before) {
            (ProductEvent::Registered(registered), before) => ProductRow {
                sku: sku.to_owned(),
                name: registered.name,
                supplier: registered.supplier,
                supplier_name: registered.supplier_name,
                effective_from: registered.effective_from,
                unit_price: before.as_ref().and_then(|row| row.unit_price),
                currency: before.as_ref().and_then(|row| row.currency),
                discontinued: false,
                version: 0,
                recorded_at: envelope.recorded_at,
            },
            (ProductEvent::Repriced(repriced), Some(row)) => {
                ProductRow { unit_price: Some(repriced.unit_price), currency: Some(repriced.currency), ..row }
            }
            (ProductEvent::Discontinued(_), Some(row)) => ProductRow { discontinued: true, ..row },
            (_, None) => {
                let message =
                    format!("{} was priced or discontinued before it was registered", envelope.stream_id);
                return Err(ProjectionError::Inconsistent(message));
            }
        };
        row.version = envelope.aggregate_version;
        row.recorded_at = envelope.recorded_at;
        rows.write(VIEW, sku, &row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::retail::product::{ProductDiscontinued, ProductRegistered, ProductRepriced};

    #[test]
    fn row_shows_the_product_as_it_is_now() {
        let registered = |name: &str| {
            ProductEvent::Registered(ProductRegistered {
                name: name.into(),
                supplier: "luxco".into(),
                supplier_name: None,
                effective_from: None,
            })
        };
        let currency = Currency::parse("USD").unwrap();
        let mut history = History::new("retail");
        history
            .add("product", "75087", [registered("Gin")])
            .add("product", "75087", [ProductEvent::Repriced(ProductRepriced { unit_price: 713, currency })])
            .add("product", "75087", [ProductEvent::Discontinued(ProductDiscontinued {})])
            .add("product", "1", [registered("Rum")])
            .add("product", "75087", [registered("Old Gin")]);
        let rows = assert_repeatable(&ProductView, &history);
        assert_eq!(rows.keys("product"), ["1", "75087"]);
        assert_eq!(
            rows.json("product", "75087"),
            json!({
                "sku": "75087", "name": "Old Gin", "supplier": "luxco", "supplier_name": null,
                "effective_from": null, "unit_price": 713, "currency": "USD", "discontinued": false,
                "version": 4, "recorded_at": "2012-01-31T12:00:04Z",
            })
        );
    }
}
