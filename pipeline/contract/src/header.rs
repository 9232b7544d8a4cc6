//! Names of the headers that Millstream reads and writes. NATS headers are case-sensitive; what people write is read in any
//! case all the same.

/// The command id, the idempotency key. Used instead of [`NATS_MESSAGE_ID`] where commands travel in an atomic batch,
/// because one repeated `Nats-Msg-Id` rejects a whole batch.
pub const COMMAND_ID: &str = "Millstream-Command-Id";
/// JetStream's own message id; the command id when [`COMMAND_ID`] is absent.
pub const NATS_MESSAGE_ID: &str = "Nats-Msg-Id";
/// The aggregate version the sender decided on; the command is rejected when the aggregate has another one.
pub const EXPECTED_VERSION: &str = "Millstream-Expected-Version";
/// A subject that is sent the outcome.
pub const REPLY: &str = "Millstream-Reply";
/// Who asks. NATS permissions decide who may say so.
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
/// The event types of a commit, comma separated: for people, never read by a program.
pub const EVENT_TYPES: &str = "Millstream-Event-Types";
/// A position: in a query what the answer must have reached, in an answer what it has reached.
pub const POSITION: &str = "Millstream-Position";
/// How long a query may wait for [`POSITION`], or `submit` for the outcome, in milliseconds.
pub const WAIT_MS: &str = "Millstream-Wait-Ms";
/// A refusal of a configured query: its code, for programs.
pub const PROBLEM: &str = "Millstream-Problem";
/// The parameter that such a refusal is about.
pub const PARAMETER: &str = "Millstream-Parameter";
/// Leases: the company's time zone, as whoever holds the lease has it configured.
pub const TIME_ZONE: &str = "Millstream-Time-Zone";
/// Optimistic concurrency: the sequence of the subject's last message; 0 when there must be none.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The stream that must store the message.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// Dead letters: the stream the message came from.
pub const DEAD_LETTER_STREAM: &str = "Millstream-Dead-Letter-Stream";
/// Dead letters: the sequence the message had there.
pub const DEAD_LETTER_SEQUENCE: &str = "Millstream-Dead-Letter-Sequence";
/// Dead letters: which effect of the event there it is, when it is not the message itself.
pub const DEAD_LETTER_EFFECT: &str = "Millstream-Dead-Letter-Effect";
/// Dead letters: the subject the message was published on.
pub const DEAD_LETTER_SUBJECT: &str = "Millstream-Dead-Letter-Subject";
/// Dead letters: a short code for the cause.
pub const DEAD_LETTER_CODE: &str = "Millstream-Dead-Letter-Code";
/// Dead letters: the cause chain, outermost first, joined by ": ".
pub const DEAD_LETTER_CAUSE: &str = "Millstream-Dead-Letter-Cause";
/// Dead letters: how the subject is written, when it has characters that a header should not carry: [`PERCENT`].
pub const DEAD_LETTER_SUBJECT_ENCODING: &str = "Millstream-Dead-Letter-Subject-Encoding";
/// Every byte but visible ASCII as `%` and two hexadecimal digits, and `%` itself too.
pub const PERCENT: &str = "percent";
/// Dead letters: how many bytes of the body are the message's own header block, when its headers do not stand beside these.
pub const DEAD_LETTER_HEADER_BYTES: &str = "Millstream-Dead-Letter-Header-Bytes";
/// Dead letters: how many messages hold the letter, when one would be too large: the first has this header, the others
/// [`DEAD_LETTER_PART`] on the same subject with `_2`, `_3`, …
pub const DEAD_LETTER_PARTS: &str = "Millstream-Dead-Letter-Parts";
/// Dead letters: which part of a letter it is.
pub const DEAD_LETTER_PART: &str = "Millstream-Dead-Letter-Part";
/// What all headers of ours begin with.
pub const PREFIX: &str = "Millstream-";
