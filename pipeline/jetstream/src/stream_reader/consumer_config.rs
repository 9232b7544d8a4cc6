//! The consumer that the server is asked to create for a reader.

use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::ReaderConfig;

/// Metadata of a consumer: the reader that made it.
const READER_METADATA: &str = "io.millstream.reader";

/// The request for a consumer that begins at a sequence.
pub(super) fn request(
    config: &ReaderConfig,
    reader_id: &str,
    first: u64,
    forgotten_after: Option<Duration>,
) -> Value {
    let mut consumer = json!({
        "durable_name": config.name,
        "name": config.name,
        "description": config.description,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": true,
        "num_replicas": 1,
        "metadata": { READER_METADATA: reader_id },
    });
    let filters = (!config.filters.is_empty()).then(|| ("filter_subjects", json!(config.filters)));
    let nanoseconds = |after: Duration| json!(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
    let threshold = forgotten_after.map(|after| ("inactive_threshold", nanoseconds(after)));
    if let Some(fields) = consumer.as_object_mut() {
        fields.extend(filters.into_iter().chain(threshold).map(|(name, value)| (name.to_owned(), value)));
    }
    json!({ "stream_name": config.stream, "config": consumer, "action": "create" })
}
