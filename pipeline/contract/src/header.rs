//! Names of the headers that Millstream reads and writes. NATS headers are case-sensitive, but Millstream reads headers that people write
//! in any case.

/// The command id, which is the idempotency key. Commands in an atomic batch use it instead of [`NATS_MESSAGE_ID`], because a single
/// repeated `Nats-Msg-Id` rejects a whole batch.
pub const COMMAND_ID: &str = "Millstream-Command-Id";
/// JetStream's own message id; the command id when [`COMMAND_ID`] is absent.
pub const NATS_MESSAGE_ID: &str = "Nats-Msg-Id";
/// The aggregate version on which the sender's decision is based. If the aggregate has another version, the command is rejected.
pub const EXPECTED_VERSION: &str = "Millstream-Expected-Version";
/// A subject to which the outcome is sent.
pub const REPLY: &str = "Millstream-Reply";
/// Who asks. NATS permissions decide who may set it.
pub const ACTOR: &str = "Millstream-Actor";
/// Ties together everything that one request caused.
pub const CORRELATION_ID: &str = "Millstream-Correlation-Id";
/// The id of the event or command that caused this one.
pub const CAUSATION_ID: &str = "Millstream-Causation-Id";
/// W3C trace context.
pub const TRACE_PARENT: &str = "traceparent";
/// Media type of a body: [`JSON`] (also when absent) or [`MESSAGE_PACK`].
pub const CONTENT_TYPE: &str = "Content-Type";
/// Media type of JSON bodies.
pub const JSON: &str = "application/json";
/// Media type of MessagePack bodies.
pub const MESSAGE_PACK: &str = "application/msgpack";
/// The event types of a commit, separated by commas. They are for people; no program reads them.
pub const EVENT_TYPES: &str = "Millstream-Event-Types";
/// A stream position: in a query, what the answer must have reached; in an answer, what it has reached.
pub const POSITION: &str = "Millstream-Position";
/// How long a query may wait for [`POSITION`], or `submit` for the outcome, in milliseconds.
pub const WAIT_MS: &str = "Millstream-Wait-Ms";
/// A refusal of a configured query: its code, for programs.
pub const PROBLEM: &str = "Millstream-Problem";
/// The parameter that is the cause of such a refusal.
pub const PARAMETER: &str = "Millstream-Parameter";
/// Leases: the time zone of the business, as the holder of the lease has it configured.
pub const TIME_ZONE: &str = "Millstream-Time-Zone";
/// Optimistic concurrency: the sequence of the subject's last message; 0 if there must be none.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The stream that must store the message.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// Dead letters: the stream the message came from.
pub const DEAD_LETTER_STREAM: &str = "Millstream-Dead-Letter-Stream";
/// Dead letters: the sequence the message had there.
pub const DEAD_LETTER_SEQUENCE: &str = "Millstream-Dead-Letter-Sequence";
/// Dead letters: which effect of the event is set aside, if it is not the message itself.
pub const DEAD_LETTER_EFFECT: &str = "Millstream-Dead-Letter-Effect";
/// Dead letters: the subject the message was published on.
pub const DEAD_LETTER_SUBJECT: &str = "Millstream-Dead-Letter-Subject";
/// Dead letters: a short code for the cause.
pub const DEAD_LETTER_CODE: &str = "Millstream-Dead-Letter-Code";
/// Dead letters: the cause chain, outermost first, joined by ": ".
pub const DEAD_LETTER_CAUSE: &str = "Millstream-Dead-Letter-Cause";
/// Dead letters: how the subject is encoded, if it has characters that a header should not hold: [`PERCENT`].
pub const DEAD_LETTER_SUBJECT_ENCODING: &str = "Millstream-Dead-Letter-Subject-Encoding";
/// Percent encoding: every byte except visible ASCII, and `%` itself, becomes `%` and two hexadecimal digits.
pub const PERCENT: &str = "percent";
/// Dead letters: how many bytes of the body are the message's own header block, if its headers are not headers of the letter.
pub const DEAD_LETTER_HEADER_BYTES: &str = "Millstream-Dead-Letter-Header-Bytes";
/// Dead letters: the number of messages that hold the letter, if one would be too large. The first message has this header; the others have
/// [`DEAD_LETTER_PART`] and the same subject with `_2`, `_3`, …
pub const DEAD_LETTER_PARTS: &str = "Millstream-Dead-Letter-Parts";
/// Dead letters: which part of a letter it is.
pub const DEAD_LETTER_PART: &str = "Millstream-Dead-Letter-Part";
/// The prefix of all headers of Millstream.
pub const PREFIX: &str = "Millstream-";
