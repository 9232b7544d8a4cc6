//! Answers `query.<context>._queries`: the queries of a context, and what each takes. A request with a position is answered when the tables
//! show it.

use async_nats::HeaderMap;
use bytes::Bytes;
use millstream_contract::configured_query::{Descriptions, DescriptionsQuestion};
use millstream_jetstream::{broker::Broker as _, nats_broker::service::Request};

use super::{
    super::{reader::AskError, refusal::Refusal},
    AROUND_BYTES, Shared,
};

impl Shared {
    /// Describes one query of a context, or all of them.
    pub(super) async fn tell(&self, context: &str, request: &Request) {
        let told = match self.awaited(&request.message).await {
            Ok(_) => self.descriptions(context, &request.message.payload),
            Err(refusal) => Err(refusal),
        };
        self.send(request, told.map(|body| (body, HeaderMap::new()))).await;
    }

    fn descriptions(&self, context: &str, body: &[u8]) -> Result<Bytes, Refusal> {
        let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
        let question: DescriptionsQuestion = serde_json::from_slice(body)
            .map_err(|error| Refusal::malformed(format!("body: {error}; it is {{}} or {{\"name\":…}}")))?;
        let queries = self.queries();
        let wanted = queries.values().filter(|query| {
            query.context == context && question.name.as_ref().is_none_or(|name| query.name == *name)
        });
        let told: Vec<_> = wanted.map(|query| query.description(self.settings.time)).collect();
        if let (Some(name), true) = (&question.name, told.is_empty()) {
            return Err(Refusal::no_such_query(context, name));
        }
        let time_ms = u64::try_from(self.settings.time.as_millis()).unwrap_or(u64::MAX);
        let body =
            serde_json::to_vec(&Descriptions { queries: told, time_ms }).expect("texts and numbers are JSON");
        let most = self.broker.message_bytes_max().saturating_sub(AROUND_BYTES);
        if body.len() > most {
            return Err(Refusal::from(AskError::TooLarge(most)));
        }
        Ok(Bytes::from(body))
    }
}
