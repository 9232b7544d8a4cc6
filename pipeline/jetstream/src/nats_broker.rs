//! [`Broker`] over a real JetStream. Appends, gets and stream states are sent only from here; the reader is in [`crate::stream_reader`],
//! and leases are in `nats_broker/lease.rs`. This module makes no decisions.

pub mod answering_service;
mod append_each;
mod lease;
mod lease_presence;
mod lines;
mod reconnection;
pub mod service;
mod service_request;
pub mod sifted_service;
pub mod sifted_subscription;
mod subject_load;
pub(crate) mod wire;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message, StatusCode, client::RequestErrorKind, header::HeaderValue};
use bytes::Bytes;
use millstream_contract::{
    header,
    stored_message::{Headers, StoredMessage},
    subject::is_reply_subject,
};
use serde_json::json;
use tokio::sync::Mutex;

pub use service_request::{Answer, AskError};
pub use wire::headers_from;

use crate::{
    broker::{
        AppendError, Appended, Broker, BrokerError, NewMessage, Page, ReadError, ReaderConfig, StreamState,
        StreamUsage,
    },
    line::{Dialer, Line},
    nats_broker::{
        lease::Leases,
        lines::Lines,
        reconnection::ask,
        wire::{
            ApiError, ConsumerReply, PublishReply, PurgeReply, RemoveReply, StoredMessageReply,
            StreamInfoReply, header_map,
        },
    },
    stream_reader::NatsReader,
};

/// The size of the headers that an append in a batch has besides the message's own.
const APPEND_BYTES: usize = 256;
/// How long an append may go without an answer before its result counts as unclear.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question to the JetStream API may go without an answer.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// For this wildcard, nats-server 2.15 only looks at a stream's last sequence. If that message was removed, the server finds nothing, even if
/// earlier messages exist.
const EVERY_SUBJECT: &str = ">";
/// Any other wildcard is searched among the subjects, which takes longer. This one matches all: each has two tokens or more.
const EVERY_SUBJECT_SOUGHT: &str = "*.>";

/// Called with the stream and the name of a reader.
type OnRestart = Arc<dyn Fn(&str, &str) + Send + Sync>;
/// Called with a stream, and with the reason why an append to it is not known to be stored.
type OnUnstored = Arc<dyn Fn(&str, &AppendError) + Send + Sync>;

/// Called with a reply subject to which no answer may be sent.
type OnRefusedReply = Arc<dyn Fn(&str) + Send + Sync>;

/// JetStream through one connection. Cheap to clone.
#[derive(Clone)]
pub struct NatsBroker {
    client: Client,
    api_prefix: Arc<str>,
    leases: Arc<Mutex<Leases>>,
    /// The header that each lease carries.
    lease_headers: HeaderMap,
    on_restart: Option<OnRestart>,
    on_unstored: Option<OnUnstored>,
    on_refused_reply: Option<OnRefusedReply>,
    lines: Lines,
}

impl std::fmt::Debug for NatsBroker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NatsBroker").field("api_prefix", &self.api_prefix).finish_non_exhaustive()
    }
}

impl NatsBroker {
    /// JetStream of the connection's account, or of `domain` if one is given. Stored messages come on lines that `dialer` opens, so a
    /// message that the client library cannot read costs only its line.
    pub fn new(client: Client, dialer: Dialer, domain: Option<&str>) -> Self {
        let api_prefix = domain.map_or_else(|| "$JS.API".into(), |domain| format!("$JS.{domain}.API").into());
        let lines = Lines::new(dialer);
        Self {
            client,
            api_prefix,
            leases: Arc::default(),
            lease_headers: HeaderMap::new(),
            on_restart: None,
            on_unstored: None,
            on_refused_reply: None,
            lines,
        }
    }

    /// The same, but `on_restart` is called with stream and reader whenever a reader makes its consumer again.
    #[must_use]
    pub fn on_restart(mut self, on_restart: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        self.on_restart = Some(Arc::new(on_restart));
        self
    }

    /// The same, but each lease that it holds has this header, which others can read.
    #[must_use]
    pub fn telling_with_leases(mut self, name: &str, value: &str) -> Self {
        self.lease_headers.insert(name, value);
        self
    }

    /// The same, but `on_unstored` is called with stream and error whenever an append has to be repeated (full, or no clear answer).
    #[must_use]
    pub fn on_unstored(mut self, on_unstored: impl Fn(&str, &AppendError) + Send + Sync + 'static) -> Self {
        self.on_unstored = Some(Arc::new(on_unstored));
        self
    }

    /// The same, but `on_refused_reply` is called with each reply subject to which no answer may be sent.
    #[must_use]
    pub fn on_refused_reply(mut self, on_refused_reply: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_refused_reply = Some(Arc::new(on_refused_reply));
        self
    }

    /// Whether an answer may be sent to `subject`, which a client chose. The server does not check whether the client itself may publish
    /// there.
    pub(crate) fn may_answer(&self, subject: &str) -> bool {
        let may = is_reply_subject(subject);
        if !may && let Some(on_refused_reply) = &self.on_refused_reply {
            on_refused_reply(subject);
        }
        may
    }

    /// Reports an append that has to be repeated.
    fn tell_unstored(&self, stream: &str, appended: &Result<Appended, AppendError>) {
        let Some(on_unstored) = &self.on_unstored else { return };
        if let Err(error @ (AppendError::Full { .. } | AppendError::Unclear { .. })) = appended {
            on_unstored(stream, error);
        }
    }

    /// Counts that a reader made its consumer again.
    pub(crate) fn count_restart(&self, stream: &str, reader: &str) {
        if let Some(on_restart) = &self.on_restart {
            on_restart(stream, reader);
        }
    }

    /// A new line.
    pub async fn line(&self) -> Result<Line, BrokerError> {
        self.lines.open().await
    }

    /// A new line for messages that anybody may send ([`Dialer::dial_sifted`]).
    pub async fn sifted_line(&self) -> Result<Line, BrokerError> {
        self.lines.open_sifted().await
    }

    /// The first message after `after` on one of the subjects in `filters`, or on any subject if there are none. The leader answers with
    /// JSON, in which headers and body are base64, so any bytes can be read.
    pub(crate) async fn next_after(
        &self,
        stream: &str,
        after: u64,
        filters: &[String],
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let mut first: Option<StoredMessage> = None;
        let any = [">".to_owned()];
        for filter in if filters.is_empty() { &any[..] } else { filters } {
            let asked = json!({ "seq": after + 1, "next_by_subj": filter });
            if let Some(found) = self.message_get(stream, asked).await?
                && first.as_ref().is_none_or(|first| found.sequence < first.sequence)
            {
                first = Some(found);
            }
        }
        Ok(first)
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The subject of an API operation, with the prefix of this account or domain.
    pub(crate) fn api_subject(&self, path: &str) -> String {
        format!("{}.{path}", self.api_prefix)
    }

    /// Asks the JetStream API and returns the answer's body.
    pub(crate) async fn api(
        &self,
        operation: &'static str,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, BrokerError> {
        let subject = self.api_subject(path);
        let request = async_nats::Request::new().payload(body).timeout(Some(API_TIMEOUT));
        let answer = ask(&self.client, subject, request).await;
        answer.map(|message| message.payload).map_err(|error| BrokerError::Unavailable {
            operation,
            detail: match error.kind() {
                RequestErrorKind::NoResponders => {
                    "JetStream does not answer (not enabled, or no leader)".into()
                }
                RequestErrorKind::TimedOut => {
                    format!(
                        "no answer in {} s; the server may be down or forbid {path}",
                        API_TIMEOUT.as_secs()
                    )
                }
                _ => error.to_string(),
            },
        })
    }

    async fn publish(
        &self,
        stream: &str,
        message: NewMessage,
        headers: HeaderMap,
    ) -> Result<Appended, AppendError> {
        let NewMessage { subject, expected_last, payload, .. } = message;
        let request = async_nats::Request::new()
            .headers(append_headers(stream, expected_last, headers))
            .payload(payload)
            .timeout(Some(APPEND_TIMEOUT));
        let answered = ask(&self.client, subject.clone(), request).await;
        let appended = match answered.map_err(|error| (error.kind(), error.to_string())) {
            Ok(answer) => appended(stream, &subject, &answer),
            Err((RequestErrorKind::NoResponders, _)) => Err(nobody_takes(&subject)),
            Err((RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded, detail)) => {
                Err(AppendError::Refused { subject, detail })
            }
            Err((_, detail)) => Err(AppendError::Unclear { subject, detail }),
        };
        self.tell_unstored(stream, &appended);
        appended
    }

    async fn message_get(
        &self,
        stream: &str,
        body: serde_json::Value,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let answer =
            self.api("message get", &format!("STREAM.MSG.GET.{stream}"), body.to_string().into()).await?;
        let reply: StoredMessageReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("message get", &error))?;
        match (reply.message, reply.error) {
            (Some(message), _) => message
                .into_stored()
                .map(Some)
                .map_err(|detail| BrokerError::Unavailable { operation: "message get", detail }),
            (None, Some(error)) if error.err_code == ApiError::NO_MESSAGE_FOUND => Ok(None),
            (None, error) => Err(api_failure("message get", stream, error)),
        }
    }
}

impl Broker for NatsBroker {
    type Reader = NatsReader;

    fn message_bytes_max(&self) -> usize {
        self.client.server_info().max_payload
    }

    async fn append(&self, stream: &str, message: NewMessage) -> Result<Appended, AppendError> {
        let headers = header_map(&message.headers);
        self.publish(stream, message, headers).await
    }

    async fn append_each(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> Vec<Result<Appended, AppendError>> {
        append_each::append_each(self, stream, messages).await
    }

    async fn append_atomically(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, AppendError> {
        let max = self.message_bytes_max();
        if let Some(large) = messages.iter().find(|message| message.size() + APPEND_BYTES > max) {
            // This check comes before anything of the batch is sent. After half a batch, it would be unclear what became of it.
            let detail = format!("{} bytes are more than the {max} that the server takes", large.size());
            return Err(AppendError::Refused { subject: large.subject.clone(), detail });
        }
        let count = messages.len();
        let batch_id = ulid::Ulid::generate().to_string();
        let mut last = None;
        for (index, message) in (1_u64..).zip(messages) {
            let mut headers = header_map(&message.headers);
            headers.insert("Nats-Batch-Id", batch_id.as_str());
            headers.insert("Nats-Batch-Sequence", HeaderValue::from(index));
            if index == count as u64 {
                headers.insert("Nats-Batch-Commit", "1");
                last = Some((message, headers));
                break;
            }
            if let Some(expected) = message.expected_last {
                headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(expected));
            }
            let subject = message.subject;
            self.client
                .publish_with_headers(subject.clone(), headers, message.payload)
                .await
                .map_err(|error| AppendError::Refused { subject, detail: error.to_string() })?;
        }
        let Some((message, headers)) = last else {
            return Err(AppendError::Refused { subject: String::new(), detail: "an empty batch".into() });
        };
        self.publish(stream, message, headers).await
    }

    async fn load_page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        bytes: usize,
    ) -> Result<Page, BrokerError> {
        subject_load::load_page(self, stream, subject, from, bytes).await
    }

    async fn last(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        let found = self.message_get(stream, json!({ "last_by_subj": subject })).await?;
        if found.is_some() || subject != EVERY_SUBJECT {
            return Ok(found);
        }
        self.message_get(stream, json!({ "last_by_subj": EVERY_SUBJECT_SOUGHT })).await
    }

    async fn get(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.message_get(stream, json!({ "seq": sequence })).await
    }

    async fn state(&self, stream: &str) -> Result<StreamState, BrokerError> {
        let answer = self.api("stream info", &format!("STREAM.INFO.{stream}"), Bytes::new()).await?;
        let reply: StreamInfoReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("stream info", &error))?;
        let StreamInfoReply { config: Some(config), state: Some(state), .. } = reply else {
            return Err(api_failure("stream info", stream, reply.error));
        };
        let generation = config.metadata.generation.ok_or_else(|| BrokerError::StreamForeign {
            stream: stream.to_owned(),
            detail: format!("has no metadata {}", millstream_contract::stream_names::GENERATION_METADATA),
        })?;
        // A stream that never held anything reports 0; one that was emptied reports the next sequence.
        let first_sequence = state.first_seq.max(1);
        let limit = |max: i64| u64::try_from(max).ok().filter(|max| *max > 0);
        let usage = StreamUsage {
            messages: state.messages,
            bytes: state.bytes,
            messages_max: limit(config.max_msgs),
            bytes_max: limit(config.max_bytes),
        };
        Ok(StreamState { generation, first_sequence, last_sequence: state.last_seq, usage })
    }

    async fn read(&self, config: ReaderConfig) -> Result<NatsReader, ReadError> {
        NatsReader::open(self.clone(), config).await
    }

    async fn remove_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        let path = format!("CONSUMER.DELETE.{stream}.{name}");
        let answer = self.api("consumer delete", &path, Bytes::new()).await?;
        let reply: ConsumerReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("consumer delete", &error))?;
        match reply.error {
            Some(error) if error.err_code != ApiError::CONSUMER_NOT_FOUND => {
                Err(api_failure("consumer delete", stream, Some(error)))
            }
            _ => Ok(()),
        }
    }

    async fn send(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BrokerError> {
        if !self.may_answer(subject) {
            return Ok(());
        }
        let sent = self.client.publish_with_headers(subject.to_owned(), header_map(&headers), payload).await;
        sent.map_err(|error| BrokerError::Unavailable { operation: "send", detail: error.to_string() })
    }

    async fn purge_subject(
        &self,
        stream: &str,
        filter: &str,
        through: Option<u64>,
    ) -> Result<u64, BrokerError> {
        let mut request = json!({ "filter": filter });
        if let (Some(through), Some(fields)) = (through, request.as_object_mut()) {
            // The server keeps the message at the given sequence.
            fields.insert("seq".into(), through.saturating_add(1).into());
        }
        let answer = self.api("purge", &format!("STREAM.PURGE.{stream}"), request.to_string().into()).await?;
        let reply: PurgeReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("purge", &error))?;
        match reply.error {
            None => Ok(reply.purged),
            error => Err(api_failure("purge", stream, error)),
        }
    }

    async fn remove(&self, stream: &str, sequence: u64) -> Result<(), BrokerError> {
        let request = json!({ "seq": sequence, "no_erase": true }).to_string();
        let answer = self.api("remove", &format!("STREAM.MSG.DELETE.{stream}"), request.into()).await?;
        let reply: RemoveReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("remove", &error))?;
        match reply.error {
            None => Ok(()),
            // The server reports an error if nothing is there, and does so in several ways.
            Some(_) if self.get(stream, sequence).await?.is_none() => Ok(()),
            error => Err(api_failure("remove", stream, error)),
        }
    }

    async fn hold_lease(&self, key: &str, owner: &str, time_to_live: Duration) -> Result<bool, BrokerError> {
        // An answer that comes after the next renewal is due would be useless.
        lease::on_own_line(self, time_to_live / 3, async |broker| {
            lease::hold(&broker, &self.leases, key, owner, time_to_live).await
        })
        .await
    }

    async fn release_lease(&self, key: &str, owner: &str) -> Result<(), BrokerError> {
        lease::on_own_line(self, API_TIMEOUT, async |broker| {
            lease::release(&broker, &self.leases, key, owner).await
        })
        .await
    }

    async fn lease_owner(&self, key: &str) -> Result<Option<String>, BrokerError> {
        lease::owner(self, key).await
    }

    async fn lease_freed(&self, key: &str, wait: Duration) {
        lease::freed(self, key, wait).await;
    }
}

/// The headers that every append has besides the message's own.
fn append_headers(stream: &str, expected_last: Option<u64>, mut headers: HeaderMap) -> HeaderMap {
    if let Some(expected) = expected_last {
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(expected));
    }
    headers.insert(header::EXPECTED_STREAM, stream);
    headers
}

/// The result that the answer to an append reports.
fn appended(stream: &str, subject: &str, answer: &Message) -> Result<Appended, AppendError> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(nobody_takes(subject));
    }
    match serde_json::from_slice::<PublishReply>(&answer.payload) {
        Ok(reply) => reply.into_appended(stream, subject),
        Err(error) => Err(AppendError::Unclear {
            subject: subject.to_owned(),
            detail: format!("the acknowledgement does not decode: {error}"),
        }),
    }
}

fn nobody_takes(subject: &str) -> AppendError {
    let detail = format!("no stream takes {subject}, or it has no leader (no responders)");
    AppendError::Unclear { subject: subject.to_owned(), detail }
}

pub(crate) fn unreadable(operation: &'static str, error: &serde_json::Error) -> BrokerError {
    BrokerError::Unavailable { operation, detail: format!("the answer does not decode: {error}") }
}

/// What an error of the JetStream API means to the caller.
pub(crate) fn api_failure(operation: &'static str, stream: &str, error: Option<ApiError>) -> BrokerError {
    match error {
        Some(error) if error.err_code == ApiError::STREAM_NOT_FOUND => {
            BrokerError::StreamMissing { stream: stream.to_owned() }
        }
        Some(error) => BrokerError::Unavailable { operation, detail: error.to_string() },
        None => BrokerError::Unavailable { operation, detail: "the answer is empty".into() },
    }
}
