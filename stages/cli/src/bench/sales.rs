//! The stream that a rebuild reads: sales at many tills, and the movements of stock that follow from their lines, made by
//! the real command handler and the real process manager.

use bytes::Bytes;
use futures::future::try_join_all;
use millstream_engine::{
    broker::{AppendError, Broker as _, NewMessage, StreamReader as _},
    contract::{
        commit::StoredCommit,
        header,
        outcome::OutcomeRecord,
        stored_message::Headers,
        stream_names::{COMMANDS, EVENTS, OUTCOMES},
    },
    group_append::{AppendStrategy, GroupAppend},
    nats_broker::NatsBroker,
};
use serde_json::json;

use super::pipeline::{PipelineError, reader};

/// Stores, each with a till for each day of a week.
const STORES: usize = 50;
const DAYS: usize = 7;
const SKUS: usize = 5_000;
/// Of every sale; each line is a movement of stock.
pub(crate) const LINES: usize = 2;
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

/// Records `sales`, and returns when every movement of stock that follows from them has been decided.
pub(crate) async fn record(broker: &NatsBroker, sales: usize) -> Result<Recorded, PipelineError> {
    let lanes = (0..LANES).map(|lane| publish(broker, sales, lane));
    let published = async { Ok::<_, PipelineError>(try_join_all(lanes).await.map(|_| ())?) };
    let ((), events_through) =
        futures::future::try_join(published, decided(broker, sales * (1 + LINES))).await?;
    Ok(Recorded { commits: events_through, events: events(broker, events_through).await? })
}

async fn publish(broker: &NatsBroker, sales: usize, lane: usize) -> Result<(), AppendError> {
    let mut appends = GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured);
    for first in (0..sales).step_by(GROUP).skip(lane).step_by(LANES) {
        let messages = (first..(first + GROUP).min(sales)).map(sale).collect();
        appends.append_all(messages).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    Ok(())
}

/// All tills and skus equally often, in an order that has nothing to do with their keys (a multiplicative hash).
fn sale(number: usize) -> NewMessage {
    let mixed = usize::try_from((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).unwrap_or(number);
    let (store, day) = (mixed % STORES, mixed / STORES % DAYS);
    let line = |line: usize| {
        let sku = (mixed / 7 + line * 2_503) % SKUS;
        json!({ "sku": format!("sku-{sku}"), "quantity": 1 + mixed % 9, "unit_price": 100 + mixed % 1_900 })
    };
    let lines: Vec<_> = (0..LINES).map(line).collect();
    let body = json!({ "sale": format!("S{number}"), "currency": "USD", "lines": lines });
    let mut headers = Headers::new();
    headers.push(header::COMMAND_ID, format!("bench-sale-{number}"));
    NewMessage {
        subject: format!("cmd.retail.till.store-{store}_2012-01-{:02}.record-sale", 1 + day),
        expected_last: None,
        headers,
        payload: Bytes::from(body.to_string()),
    }
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
        let subjects: BTreeSet<String> = (0..10_000).map(|number| sale(number).subject).collect();
        assert_eq!(subjects.len(), STORES * DAYS);
        let bodies: BTreeSet<Bytes> = (0..10_000).map(|number| sale(number).payload).collect();
        assert_eq!(bodies.len(), 10_000);
    }
}
