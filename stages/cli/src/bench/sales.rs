//! The stream that a rebuild reads: deliveries of every sku to every store, sales at many tills, and the movements of stock
//! that follow from their lines, made by the real command handler and the real process manager.

use bytes::Bytes;
use futures::future::try_join_all;
use millstream_contract::{
    commit::StoredCommit,
    header,
    outcome::OutcomeRecord,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage, StreamReader as _},
    group_append::{AppendStrategy, GroupAppend},
    nats_broker::NatsBroker,
};
use serde_json::json;

use super::pipeline::{PipelineError, reader};

/// Stores, each with a till for each day of a week.
const STORES: usize = 50;
const DAYS: usize = 7;
/// Sales for each sku: a week's 100,000 of 5,000 skus.
const SALES_OF_A_SKU: usize = 20;
/// Skus in a delivery.
const DELIVERED_TOGETHER: usize = 125;
/// Units delivered of each: more than are sold, and than count as low afterwards.
const DELIVERED: u32 = 120;
/// One sale in so many belongs to any day so far instead of the last one, as from a till that was offline.
const LATE: usize = 50;
/// Of every sale; each line is a movement of stock.
const LINES: usize = 2;
/// Groups on their way together.
const LANES: usize = 4;
const GROUP: usize = 1_000;

/// What EVENTS holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded {
    /// Messages: commits.
    pub(crate) commits: u64,
    /// Events in them.
    pub(crate) events: u64,
}

/// How much there is to record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    sales: usize,
    skus: usize,
}

impl Plan {
    pub(crate) fn new(sales: usize) -> Self {
        Self { sales, skus: sales.div_ceil(SALES_OF_A_SKU).max(LINES) }
    }

    /// Of one store.
    fn deliveries_of_a_store(self) -> usize {
        self.skus.div_ceil(DELIVERED_TOGETHER)
    }

    pub(crate) fn deliveries(self) -> usize {
        STORES * self.deliveries_of_a_store()
    }

    pub(crate) fn movements(self) -> usize {
        STORES * self.skus + self.sales * LINES
    }

    /// Commands that a delivery, or a sale, becomes together with its movements.
    fn commands_of_deliveries(self) -> usize {
        self.deliveries() + STORES * self.skus
    }

    fn commands(self) -> usize {
        self.commands_of_deliveries() + self.sales * (1 + LINES)
    }
}

/// Records deliveries, then sales, and returns when every movement of stock that follows from them has been decided.
pub(crate) async fn record(broker: &NatsBroker, plan: Plan) -> Result<Recorded, PipelineError> {
    let deliver = |number| delivery(plan, number);
    publish_and_wait(broker, plan.deliveries(), deliver, plan.commands_of_deliveries()).await?;
    let sell = |number| sale(plan, number);
    let events_through = publish_and_wait(broker, plan.sales, sell, plan.commands()).await?;
    Ok(Recorded { commits: events_through, events: events(broker, events_through).await? })
}

/// Publishes so many commands; returns the last sequence of EVENTS when `outcomes` are recorded in all.
async fn publish_and_wait(
    broker: &NatsBroker,
    count: usize,
    command: impl Fn(usize) -> NewMessage,
    outcomes: usize,
) -> Result<u64, PipelineError> {
    let lanes = (0..LANES).map(|lane| publish(broker, count, &command, lane));
    let published = async { Ok::<_, PipelineError>(try_join_all(lanes).await.map(|_| ())?) };
    let ((), events_through) = futures::future::try_join(published, decided(broker, outcomes)).await?;
    Ok(events_through)
}

async fn publish(
    broker: &NatsBroker,
    count: usize,
    command: impl Fn(usize) -> NewMessage,
    lane: usize,
) -> Result<(), AppendError> {
    let appends = GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured);
    for first in (0..count).step_by(GROUP).skip(lane).step_by(LANES) {
        let messages = (first..(first + GROUP).min(count)).map(&command).collect();
        appends.append_all(messages).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    Ok(())
}

fn command(address: &str, id: String, body: &serde_json::Value) -> NewMessage {
    let mut headers = Headers::new();
    headers.push(header::COMMAND_ID, id);
    NewMessage {
        subject: format!("cmd.retail.{address}"),
        expected_last: None,
        headers,
        payload: Bytes::from(body.to_string()),
    }
}

fn delivery(plan: Plan, number: usize) -> NewMessage {
    let (store, part) = (number % STORES, number / STORES);
    let skus = part * DELIVERED_TOGETHER..((part + 1) * DELIVERED_TOGETHER).min(plan.skus);
    let line = |sku: usize| json!({ "sku": format!("sku-{sku}"), "quantity": DELIVERED, "unit_cost": 50 + sku % 900 });
    let lines: Vec<_> = skus.map(line).collect();
    let body = json!({ "supplier": format!("supplier-{}", part % 40), "location": format!("store-{store}"),
        "currency": "USD", "received_on": "2012-01-01", "lines": lines });
    command(&format!("delivery.D-{number}.receive"), format!("bench-delivery-{number}"), &body)
}

/// Day after day, but for the late ones; stores and skus equally often, in an order that has nothing to do with their keys (a
/// multiplicative hash).
fn sale(plan: Plan, number: usize) -> NewMessage {
    let mixed = usize::try_from((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).unwrap_or(number);
    let (store, mixed_day) = (mixed % STORES, mixed / STORES);
    let today = number * DAYS / plan.sales;
    let day = if mixed_day % LATE == 0 { mixed_day / LATE % (today + 1) } else { today };
    let line = |line: usize| {
        let sku = (mixed / 7 + line * (plan.skus / 2)) % plan.skus;
        json!({ "sku": format!("sku-{sku}"), "quantity": 1 + mixed % 9, "unit_price": 100 + mixed % 1_900 })
    };
    let lines: Vec<_> = (0..LINES).map(line).collect();
    let body = json!({ "sale": format!("S{number}"), "currency": "USD", "lines": lines });
    let till = format!("till.store-{store}_2012-01-{:02}.record-sale", 1 + day);
    command(&till, format!("bench-sale-{number}"), &body)
}

/// Waits for that many outcomes; answers the last EVENTS sequence they name.
async fn decided(broker: &NatsBroker, mut outcomes: usize) -> Result<u64, PipelineError> {
    let mut records = broker.read(reader(OUTCOMES, 0)).await?;
    loop {
        for message in records.next_batch(64).await? {
            let record = OutcomeRecord::from_stored(&message)?;
            outcomes = outcomes.saturating_sub(record.outcomes.len());
            if outcomes == 0 {
                records.close().await;
                return Ok(record.events_through);
            }
        }
    }
}

async fn events(broker: &NatsBroker, through: u64) -> Result<u64, PipelineError> {
    let mut commits = broker.read(reader(EVENTS, 0)).await?;
    let (mut events, mut reached) = (0, 0);
    while reached < through {
        for message in commits.next_batch(4096).await? {
            reached = message.sequence;
            let stored = StoredCommit::from_stored(&message)?;
            events += stored.commit.events.len() as u64;
        }
    }
    commits.close().await;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sales_reach_every_till_and_many_stocks() {
        let plan = Plan::new(10_000);
        let subjects: BTreeSet<String> = (0..10_000).map(|number| sale(plan, number).subject).collect();
        assert_eq!(subjects.len(), STORES * DAYS);
        let bodies: BTreeSet<Bytes> = (0..10_000).map(|number| sale(plan, number).payload).collect();
        assert_eq!(bodies.len(), 10_000);
    }

    #[test]
    fn every_sku_is_delivered_to_every_store_once() {
        let plan = Plan::new(6_000);
        assert_eq!((plan.skus, plan.deliveries(), plan.movements()), (300, 150, 15_000 + 12_000));
        let mut delivered = BTreeSet::new();
        for number in 0..plan.deliveries() {
            let body: serde_json::Value =
                serde_json::from_slice(&delivery(plan, number).payload).expect("it is JSON");
            for line in body["lines"].as_array().expect("it has lines") {
                assert!(delivered.insert(format!("{}:{}", body["location"], line["sku"])), "{line}");
            }
        }
        assert_eq!(delivered.len(), STORES * plan.skus);
    }
}
