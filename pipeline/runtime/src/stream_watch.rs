//! Tells a [`ProgressWatch`] how much work there is in a stream. This is done outside the part that reads the stream, because that part may be
//! what no longer learns of work. It also sets the metrics of how full streams are.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use jiff::Timestamp;
use millstream_jetstream::broker::{Broker, BrokerError};

use crate::{
    health::ProgressWatch,
    metrics::{Metrics, ReaderMetrics},
};

/// The pause between two checks. It is short compared with the time after which waiting work counts as stalled.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The pause between two checks of how full streams are. It is no longer than the pause between two requests of a collector of metrics.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);

/// Repeatedly checks for messages that match `filter`, after the position of the part that is furthest behind, and tells all `watches`. Parts
/// that rest are left alone, and if all of them rest, nothing is asked. With `reader`, the lag is measured there, so that the lag of a stuck
/// part grows.
pub async fn watch_stream<B: Broker>(
    broker: &B,
    stream: &str,
    filter: &str,
    watches: &[&ProgressWatch],
    reader: Option<&ReaderMetrics>,
) -> Infallible {
    loop {
        match watches.iter().filter_map(|watch| watch.position()).min() {
            None => reader.iter().for_each(|reader| reader.lags(0, Duration::ZERO)),
            Some(lowest) => {
                let end = look(broker, stream, filter, lowest, reader).await;
                for watch in watches.iter().filter(|watch| watch.position().is_some()) {
                    match &end {
                        Ok(end) => watch.work_through(*end),
                        // It is not known whether there is work, and none could be done.
                        Err(error) => watch.held(error.to_string()),
                    }
                }
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The end of a stream, which is counted.
async fn look<B: Broker>(
    broker: &B,
    stream: &str,
    filter: &str,
    reached: u64,
    reader: Option<&ReaderMetrics>,
) -> Result<u64, BrokerError> {
    let end = end_behind(broker, stream, filter, reached).await?;
    if let Some(reader) = reader {
        let pending = end.saturating_sub(reached);
        let oldest = if pending == 0 { None } else { broker.get(stream, reached + 1).await? };
        let age = oldest.map(|message| Timestamp::now().duration_since(message.stored_at).unsigned_abs());
        reader.lags(pending, age.unwrap_or_default());
    }
    Ok(end)
}

/// The sequence of the last matching message, if the stream ends after `reached`; a lower one if there is none.
async fn end_behind<B: Broker>(
    broker: &B,
    stream: &str,
    filter: &str,
    reached: u64,
) -> Result<u64, BrokerError> {
    let end = broker.state(stream).await?.last_sequence;
    if end <= reached {
        return Ok(end);
    }
    // The message at the end may have been removed, and nobody reads that one.
    Ok(broker.last(stream, filter).await?.map_or(0, |last| last.sequence))
}

/// Repeatedly measures how much the streams hold. A stream that does not exist or may not be asked for is left out.
pub async fn watch_usage<B: Broker>(broker: &B, metrics: &Metrics, streams: &[&str]) -> Infallible {
    let mut known = BTreeMap::new();
    loop {
        let looks = streams.iter().map(async |stream| (*stream, broker.state(stream).await));
        for (stream, state) in futures::future::join_all(looks).await {
            match state {
                Ok(state) => {
                    known.entry(stream).or_insert_with(|| metrics.stream(stream)).observed(&state.usage);
                }
                Err(error) => tracing::debug!(stream, %error, "how full it is is not known"),
            }
        }
        tokio::time::sleep(USAGE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::{stored_message::Headers, stream_names::EVENTS};
    use millstream_jetstream::{
        broker::NewMessage,
        testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, operation::Operation},
    };

    use super::*;
    use crate::health::{Readiness, STALLED_AFTER};

    #[tokio::test(start_paused = true)]
    async fn one_question_tells_all_parts_how_far_there_is_work() {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        for _ in 0..5 {
            let message = NewMessage {
                subject: "evt.test.thing.a".to_owned(),
                expected_last: None,
                headers: Headers::new(),
                payload: "{}".into(),
            };
            broker.append(EVENTS, message).await.expect("the stream takes it");
        }
        let readiness = Readiness::new();
        let watches = ["resting", "behind", "done"].map(|name| readiness.progress(name));
        let [resting, behind, done] = &watches;
        behind.reached(2);
        done.reached(5);
        broker.start_recording();
        let time = STALLED_AFTER + 2 * LOOK_INTERVAL;
        let all = [resting, done, behind];
        let looks = watch_stream(&broker, EVENTS, ">", &all, None);
        assert!(tokio::time::timeout(time, looks).await.is_err());
        let reasons = readiness.reasons();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons.iter().all(|reason| reason.starts_with("behind: no progress")), "{reasons:?}");
        let states = |(asked, _): &&(Operation, String)| matches!(asked, Operation::State { .. });
        let asked = broker.recorded().iter().filter(states).count() as u128;
        assert!(asked <= time.as_millis() / LOOK_INTERVAL.as_millis() + 1, "{asked} times");
    }
}
