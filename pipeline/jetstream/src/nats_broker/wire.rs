//! The JSON and the headers of the JetStream API, as far as the engine reads them (nats-server 2.15).

use async_nats::{HeaderMap, HeaderName, Message};
use bytes::Bytes;
use millstream_contract::{
    stored_message::{Headers, StoredMessage},
    stream_names::COMMANDS,
};
use serde::Deserialize;

use crate::broker::{AppendError, Appended};

/// The headers with which a micro service answers an error: a code for programs and a text for people.
pub(crate) const ERROR_CODE: &str = "Nats-Service-Error-Code";
pub(crate) const ERROR_TEXT: &str = "Nats-Service-Error";

/// An error of the JetStream API.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u32,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    pub(crate) const STREAM_NOT_FOUND: u32 = 10059;
    pub(crate) const CONSUMER_NOT_FOUND: u32 = 10014;
    pub(crate) const CONSUMER_EXISTS: u32 = 10148;
    pub(crate) const CONSUMER_NAME_IN_USE: u32 = 10013;
    pub(crate) const NO_MESSAGE_FOUND: u32 = 10037;
    const WRONG_LAST_SEQUENCE: u32 = 10071;
    const WRONG_LAST_SEQUENCE_UNKNOWN: u32 = 10164;
    /// With the words of the store, which are those of [`Self::LIMIT_REACHED`] where a limit of the stream refuses the message.
    const STORE_FAILED: u32 = 10077;
    const LIMIT_REACHED: &'static str = "maximum ";
    const INSUFFICIENT_RESOURCES: [u32; 3] = [10002, 10023, 10047];
    const MESSAGE_TOO_LARGE: u32 = 10054;
    const ATOMIC_DISABLED: u32 = 10174;
    const OTHER_STREAM: u32 = 10060;
    const HEADERS_TOO_LARGE: u32 = 10097;
    /// The server did not store the batch, because it is incomplete or because too many batches are open.
    const BATCH_NOT_KEPT: [u32; 2] = [10176, 10210];
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.description, self.err_code)
    }
}

/// The answer to a publish.
#[derive(Debug, Deserialize)]
pub(crate) struct PublishReply {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

impl PublishReply {
    pub(crate) fn into_appended(self, stream: &str, subject: &str) -> Result<Appended, AppendError> {
        let Some(error) = self.error else {
            return Ok(Appended { sequence: self.seq, duplicate: self.duplicate });
        };
        let detail = error.to_string();
        let subject = subject.to_owned();
        Err(match error.err_code {
            ApiError::WRONG_LAST_SEQUENCE | ApiError::WRONG_LAST_SEQUENCE_UNKNOWN => {
                AppendError::Conflict { detail }
            }
            // Any other failure of the store may have come after a part of the work, and nobody may be told that nothing is stored.
            ApiError::STORE_FAILED if error.description.starts_with(ApiError::LIMIT_REACHED) => {
                AppendError::Full { stream: stream.to_owned(), detail }
            }
            code if ApiError::INSUFFICIENT_RESOURCES.contains(&code) => {
                AppendError::Full { stream: stream.to_owned(), detail }
            }
            ApiError::MESSAGE_TOO_LARGE
            | ApiError::OTHER_STREAM
            | ApiError::HEADERS_TOO_LARGE
            | ApiError::ATOMIC_DISABLED => AppendError::Refused { subject, detail },
            // Anybody may hold open all the batches that COMMANDS allows; its messages can be sent one by one instead. A batch of EVENTS is
            // one decision: if the server lost it in a restart, only the history can tell.
            code if stream == COMMANDS && ApiError::BATCH_NOT_KEPT.contains(&code) => {
                AppendError::Refused { subject, detail }
            }
            _ => AppendError::Unclear { subject, detail },
        })
    }
}

/// The answer to STREAM.PURGE.
#[derive(Debug, Deserialize)]
pub(crate) struct PurgeReply {
    #[serde(default)]
    pub(crate) purged: u64,
    pub(crate) error: Option<ApiError>,
}

/// The answer to STREAM.MSG.DELETE.
#[derive(Debug, Deserialize)]
pub(crate) struct RemoveReply {
    pub(crate) error: Option<ApiError>,
}

/// The answer to STREAM.INFO.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfoReply {
    pub(crate) config: Option<StreamInfoConfig>,
    pub(crate) state: Option<StreamInfoState>,
    pub(crate) error: Option<ApiError>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfoConfig {
    #[serde(default)]
    pub(crate) metadata: StreamInfoMetadata,
    /// Less than 1 without a limit.
    #[serde(default)]
    pub(crate) max_bytes: i64,
    /// Less than 1 without a limit.
    #[serde(default)]
    pub(crate) max_msgs: i64,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamInfoMetadata {
    #[serde(rename = "io.millstream.generation")]
    pub(crate) generation: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamInfoState {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    #[serde(default)]
    pub(crate) messages: u64,
    #[serde(default)]
    pub(crate) bytes: u64,
}

/// The answer to CONSUMER.INFO, CONSUMER.CREATE and CONSUMER.DELETE.
#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerReply {
    pub(crate) config: Option<ConsumerReplyConfig>,
    #[serde(default)]
    pub(crate) num_waiting: u64,
    pub(crate) error: Option<ApiError>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerReplyConfig {
    #[serde(default)]
    pub(crate) metadata: ConsumerReplyMetadata,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ConsumerReplyMetadata {
    #[serde(rename = "io.millstream.reader")]
    pub(crate) reader: Option<String>,
}

/// The answer to STREAM.MSG.GET.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredMessageReply {
    pub(crate) message: Option<EncodedMessage>,
    pub(crate) error: Option<ApiError>,
}

/// A stored message in the API's JSON: headers and data in base64.
#[derive(Debug, Deserialize)]
pub(crate) struct EncodedMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl EncodedMessage {
    pub(crate) fn into_stored(self) -> Result<StoredMessage, String> {
        let decode = |text: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())
        };
        Ok(StoredMessage {
            subject: self.subject,
            sequence: self.seq,
            stored_at: self.time.parse().map_err(|error: jiff::Error| error.to_string())?,
            headers: Headers::from_block(decode(&self.hdrs)?.into()),
            payload: Bytes::from(decode(&self.data)?),
        })
    }
}

/// Converts headers to those of the client library.
pub(crate) fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        // Anything else would make the library panic in the task that calls it. Foreign headers were checked when they were read, so nothing
        // else occurs.
        let Ok(name) = name.parse::<HeaderName>() else {
            tracing::error!(name, "a header of this name cannot be sent and is left out");
            continue;
        };
        map.append(name, value.replace(['\r', '\n'], " "));
    }
    map
}

/// Converts headers from those of the client library.
pub fn headers_from(map: Option<&HeaderMap>) -> Headers {
    map.into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| {
            values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
        })
        .collect()
}

/// A stored message from the answer to a direct get, whose headers say where the message stands.
pub(crate) fn stored_from_direct(message: Message) -> Result<StoredMessage, String> {
    let map = message.headers.as_ref();
    let text = |name: &str| {
        // The last header counts, because the server adds its own after those of the message.
        map.and_then(|map| map.get_last(name))
            .map(|value| value.as_str())
            .ok_or_else(|| format!("a direct get answer lacks the header {name}"))
    };
    Ok(StoredMessage {
        subject: text("Nats-Subject")?.to_owned(),
        sequence: text("Nats-Sequence")?.parse().map_err(|_| "Nats-Sequence is not a number")?,
        stored_at: text("Nats-Time-Stamp")?.parse().map_err(|error: jiff::Error| error.to_string())?,
        headers: headers_from(map).iter().filter(|(name, _)| !DIRECT_GET_HEADERS.contains(name)).collect(),
        payload: message.payload,
    })
}

/// The headers that a direct get adds to those of the message.
const DIRECT_GET_HEADERS: [&str; 6] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_errors_are_told_apart() {
        let reply = |code: u32, words: &str| PublishReply {
            seq: 0,
            duplicate: false,
            error: Some(ApiError { err_code: code, description: words.into() }),
        };
        let kind = |code| reply(code, "words").into_appended("EVENTS", "evt.a.b.c").unwrap_err();
        let failed = |words: &str| reply(10077, words).into_appended("EVENTS", "evt.a.b.c").unwrap_err();
        assert!(matches!(kind(10071), AppendError::Conflict { .. }));
        assert!(matches!(kind(10164), AppendError::Conflict { .. }));
        assert!(matches!(kind(10163), AppendError::Unclear { .. }));
        for limit in ["bytes", "messages", "messages per subject"] {
            assert!(
                matches!(failed(&format!("maximum {limit} exceeded")), AppendError::Full { .. }),
                "{limit}"
            );
        }
        assert!(matches!(failed("store is closed"), AppendError::Unclear { .. }));
        assert!(matches!(kind(10047), AppendError::Full { .. }));
        assert!(matches!(kind(10054), AppendError::Refused { .. }));
        assert!(failed("maximum bytes exceeded").to_string().contains("10077"));
        assert!(matches!(kind(10176), AppendError::Unclear { .. }));
        let of_commands = reply(10176, "words").into_appended(COMMANDS, "cmd.a.b.c.d").unwrap_err();
        assert!(matches!(of_commands, AppendError::Refused { .. }));
    }
}
