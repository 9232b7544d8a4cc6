//! View `delivery`, key `<delivery>`: what was received, from whom, for which day.

use jiff::Timestamp;
use millstream::{
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
    values::{business_date::BusinessDate, money::Currency},
};
use serde::{Deserialize, Serialize};

use super::delivery::{Delivery, DeliveryEvent, DeliveryLine};

const VIEW: &str = "delivery";

/// A row of the view `delivery`. Amounts are minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct DeliveryRow {
    /// Its id.
    pub delivery: String,
    /// Id of the supplier.
    pub supplier: String,
    /// Id of the store or warehouse.
    pub location: String,
    /// The business date for which it counts.
    pub business_date: BusinessDate,
    /// Of all amounts.
    pub currency: Currency,
    /// What was brought.
    pub lines: Vec<DeliveryLine>,
    /// Units in all lines.
    pub units_delivered: i64,
    /// Cost of all lines.
    pub delivery_cost: i64,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the view `delivery`.
#[derive(Debug)]
pub struct DeliveryView;

impl Projection for DeliveryView {
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
        let amounts = ["delivery_cost", "lines.unit_cost"];
        vec![RowShape::of::<DeliveryRow>(VIEW, "<delivery>").amounts(&amounts)]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Delivery::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(envelope)?;
        let delivery = envelope.stream_id.id();
        let row = DeliveryRow {
            delivery: delivery.to_owned(),
            units_delivered: units(&received.lines),
            delivery_cost: cost(&received.lines),
            supplier: received.supplier,
            location: received.location,
            business_date: received.business_date,
            currency: received.currency,
            lines: received.lines,
            version: envelope.aggregate_version,
            recorded_at: envelope.recorded_at,
        };
        rows.write(VIEW, delivery, &row);
        Ok(())
    }
}

/// The units in `lines`.
pub(super) fn units(lines: &[DeliveryLine]) -> i64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.quantity))
}

/// The cost of `lines`.
pub(super) fn cost(lines: &[DeliveryLine]) -> i64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.quantity.saturating_mul(line.unit_cost)))
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::retail::delivery::DeliveryReceived;

    #[test]
    fn row_shows_what_was_received() {
        let line = |sku: &str, quantity, unit_cost| DeliveryLine { sku: sku.into(), quantity, unit_cost };
        let received = DeliveryEvent::Received(DeliveryReceived {
            supplier: "luxco".into(),
            location: "2506".into(),
            currency: Currency::parse("USD").unwrap(),
            lines: vec![line("a", 60, 475), line("b", 1, 5)],
            business_date: "2012-01-31".parse().unwrap(),
        });
        let mut history = History::new("retail");
        history.add("delivery", "D-1", [received]);
        assert_eq!(
            assert_repeatable(&DeliveryView, &history).json("delivery", "D-1"),
            json!({
                "delivery": "D-1", "supplier": "luxco", "location": "2506", "business_date": "2012-01-31",
                "currency": "USD", "units_delivered": 61, "delivery_cost": 28505,
                "lines": [
                    { "sku": "a", "quantity": 60, "unit_cost": 475 }, { "sku": "b", "quantity": 1, "unit_cost": 5 },
                ],
                "version": 1, "recorded_at": "2012-01-31T12:00:00Z",
            })
        );
    }
}
