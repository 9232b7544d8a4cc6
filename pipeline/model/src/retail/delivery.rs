//! `delivery.<delivery>`: what a supplier brought to a location. It is received once; a correction is a delivery of its
//! own.

use millstream::{
    decider::{Decider, DecisionContext, Rejection, rejections_of},
    schemars::JsonSchema,
    values::{
        business_date::BusinessDate,
        money::{Currency, check_price, check_quantity, total},
        reference::check_reference,
    },
};
use serde::{Deserialize, Serialize};

use super::stock::StockId;
use crate::lines::check_line_count;

/// Some units of one item at one cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
#[serde(deny_unknown_fields)]
pub struct DeliveryLine {
    /// The item.
    pub sku: String,
    /// How many; at least 1.
    pub quantity: i64,
    /// Of one unit, in minor units.
    pub unit_cost: i64,
}

/// Receives the delivery. The same content again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveDelivery {
    /// Id of the supplier.
    pub supplier: String,
    /// Id of the store or warehouse.
    pub location: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What was brought; at least one line.
    pub lines: Vec<DeliveryLine>,
    /// Business date of the delivery; the date (UTC) of the decision when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_on: Option<String>,
}

millstream::commands! {
    /// What can be asked of a delivery.
    pub enum DeliveryCommand { Receive(ReceiveDelivery) = "receive" }
}

/// It was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryReceived {
    /// Id of the supplier.
    pub supplier: String,
    /// Id of the store or warehouse.
    pub location: String,
    /// Of all costs.
    pub currency: Currency,
    /// What was brought.
    pub lines: Vec<DeliveryLine>,
    /// The business date for which it counts.
    pub business_date: BusinessDate,
}

millstream::events! {
    /// What can happen to a delivery.
    pub enum DeliveryEvent of "delivery" { Received(DeliveryReceived) = "delivery-received" v 1 }
}

const REJECTIONS: &[(&str, &[&str])] = &[(
    "receive",
    &[
        "supplier-not-allowed",
        "location-not-allowed",
        "currency-malformed",
        "date-malformed",
        "delivery-differs",
        "lines-empty",
        "lines-too-many",
        "sku-not-allowed",
        "stock-id-malformed",
        "quantity-not-positive",
        "quantity-too-large",
        "price-negative",
        "amount-too-large",
    ],
)];

fn differs(delivery: &str) -> Rejection {
    let message =
        format!("delivery {delivery} was received with other content; receive a correction under another id");
    Rejection::new("delivery-differs", message)
}

/// What the rules need to know of a delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryState {
    received: Option<DeliveryReceived>,
}

/// The rules of `delivery.<delivery>`.
#[derive(Debug)]
pub struct Delivery;

impl Decider for Delivery {
    type Command = DeliveryCommand;
    type Event = DeliveryEvent;
    type State = DeliveryState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "delivery";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

    fn decide(
        state: &DeliveryState,
        command: &DeliveryCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<DeliveryEvent>, Rejection> {
        let DeliveryCommand::Receive(receive) = command;
        check_reference("supplier-not-allowed", "supplier", &receive.supplier)?;
        check_reference("location-not-allowed", "location", &receive.location)?;
        let currency = Currency::parse(&receive.currency)?;
        let given_date = receive.received_on.as_deref().map(BusinessDate::parse).transpose()?;
        if let Some(received) = &state.received {
            return if says_the_same(received, receive, currency, given_date) {
                Ok(vec![])
            } else {
                Err(differs(context.aggregate_id))
            };
        }
        check_lines(&format!("delivery {}", context.aggregate_id), &receive.location, &receive.lines)?;
        Ok(vec![DeliveryEvent::Received(DeliveryReceived {
            supplier: receive.supplier.clone(),
            location: receive.location.clone(),
            currency,
            lines: receive.lines.clone(),
            business_date: given_date.unwrap_or_else(|| BusinessDate::today(context)),
        })])
    }

    fn evolve(state: &mut DeliveryState, event: &DeliveryEvent) {
        let DeliveryEvent::Received(received) = event;
        state.received = Some(received.clone());
    }
}

/// A command without a date repeats a delivery of any date.
fn says_the_same(
    received: &DeliveryReceived,
    receive: &ReceiveDelivery,
    currency: Currency,
    given_date: Option<BusinessDate>,
) -> bool {
    received.supplier == receive.supplier
        && received.location == receive.location
        && received.currency == currency
        && received.lines == receive.lines
        && given_date.is_none_or(|date| date == received.business_date)
}

fn check_lines(what: &str, location: &str, lines: &[DeliveryLine]) -> Result<(), Rejection> {
    check_line_count(what, lines.len())?;
    for line in lines {
        check_reference("sku-not-allowed", "sku", &line.sku)?;
        StockId::check_line(location, &line.sku)?;
        check_quantity(&format!("{} in {what}", line.sku), line.quantity)?;
        check_price(&format!("{} in {what}", line.sku), line.unit_cost)?;
    }
    total(what, lines.iter().map(|line| (line.quantity, line.unit_cost))).map(|_| ())
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, given};

    use super::*;

    const BODY: &str = r#"{"supplier":"luxco","location":"2506","currency":"USD",
        "lines":[{"sku":"75087","quantity":60,"unit_cost":475}]}"#;

    fn received(date: &str) -> DeliveryEvent {
        DeliveryEvent::Received(DeliveryReceived {
            supplier: "luxco".into(),
            location: "2506".into(),
            currency: Currency::parse("USD").unwrap(),
            lines: vec![DeliveryLine { sku: "75087".into(), quantity: 60, unit_cost: 475 }],
            business_date: date.parse().unwrap(),
        })
    }

    fn delivery(events: impl IntoIterator<Item = DeliveryEvent>) -> Given<Delivery> {
        given::<Delivery>("D-1", events).at("2026-03-01T23:00:00Z")
    }

    fn dated(date: &str) -> String {
        BODY.replace(r#""supplier""#, &format!(r#""received_on":"{date}","supplier""#))
    }

    #[test]
    fn delivery_counts_for_the_day_of_the_decision_or_the_one_it_names() {
        delivery([]).when_typed("receive", BODY).then([received("2026-03-01")]);
        delivery([]).when_typed("receive", &dated("2012-01-31")).then([received("2012-01-31")]);
    }

    #[test]
    fn the_day_of_a_delivery_begins_in_the_time_zone_of_the_company() {
        // Noon of the second in Auckland is late in the evening of the first in UTC.
        for (zone, date) in [("Pacific/Auckland", "2026-03-02"), ("America/New_York", "2026-03-01")] {
            delivery([]).in_time_zone(zone).when_typed("receive", BODY).then([received(date)]);
        }
    }

    #[test]
    fn same_delivery_again_changes_nothing() {
        let given = delivery([received("2012-01-31")]);
        given
            .when_typed("receive", BODY)
            .then_nothing()
            .when_typed("receive", &dated("2012-01-31"))
            .then_nothing();
    }

    #[test]
    fn same_delivery_with_other_content_is_refused() {
        for body in [dated("2012-01-30"), BODY.replace("60", "61"), BODY.replace("USD", "EUR")] {
            delivery([received("2012-01-31")]).when_typed("receive", &body).then_rejected("delivery-differs");
        }
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        for (from, to, code) in [
            ("luxco", "Luxco Inc.", "supplier-not-allowed"),
            ("2506", "", "location-not-allowed"),
            ("USD", "$", "currency-malformed"),
            ("75087", "7 5", "sku-not-allowed"),
            ("60", "0", "quantity-not-positive"),
            ("475", "-475", "price-negative"),
            ("475", "1000000000000000", "amount-too-large"),
        ] {
            delivery([]).when_typed("receive", &BODY.replace(from, to)).then_rejected(code);
        }
        let body = r#"{"supplier":"a","location":"b","currency":"USD","lines":[]}"#;
        delivery([]).when_typed("receive", body).then_rejected("lines-empty");
        delivery([]).when_typed("receive", &dated("today")).then_rejected("date-malformed");
    }
}
