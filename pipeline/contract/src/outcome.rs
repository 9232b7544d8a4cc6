//! Outcomes: what became of each command, and the records with which the active handler journals them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{
    message_pack, position::StreamPosition, stored_message::StoredMessage, stream_names::EVENTS,
    subject::COMMAND_PREFIX,
};

/// Prefix of the subjects of OUTCOMES.
pub const OUTCOME_PREFIX: &str = "out";
/// The subject of the journal, which is the chain of all records. The name dates from a time when there could be several chains. It is part
/// of stored streams and of permissions, so it stays.
pub const OUTCOME_SUBJECT: &str = "out.0of1";
/// The subject on which several active handlers recorded how they shared the partitions, when several were possible. A reader that finds a
/// message on it refuses the stream ([`OutcomeRecordError::SeveralHandlers`]).
pub const RETIRED_LAYOUT_SUBJECT: &str = "out.layout";

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The rules allowed it. `events` is 0 when there was nothing to change.
    Accepted {
        /// The sequence in EVENTS of the aggregate's last commit after the command; 0 if the aggregate has none.
        #[serde(rename = "position")]
        sequence: u64,
        /// The aggregate's version after the command.
        version: u64,
        /// How many events it caused.
        events: u32,
    },
    /// A rule said no. Final; never retried.
    Rejected {
        /// Stable, for programs.
        code: Arc<str>,
        /// One sentence for people.
        message: Arc<str>,
    },
    /// The id was used before, so nothing was done this time.
    Duplicate {
        /// The position in COMMANDS of the first command with the id.
        of: u64,
        /// The outcome of that first command.
        first: Box<Outcome>,
        /// Whether the first command had another address or body, so that what this command asks for has not been done. False if that is
        /// not known, because an earlier release recorded the first command.
        #[serde(default, skip_serializing_if = "is_false")]
        other_content: bool,
    },
    /// The command could not be decided and was set aside. This is not final: the command can be retried under its own id.
    DeadLettered {
        /// Stable, for programs.
        code: Arc<str>,
        /// What was wrong, and what to do.
        message: Arc<str>,
    },
}

/// In words, for people.
impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { events: 0, version, .. } => {
                write!(formatter, "accepted, nothing to change (version {version})")
            }
            Self::Accepted { sequence, version, events } => {
                write!(formatter, "accepted, {events} event(s), version {version}, sequence {sequence}")
            }
            Self::Rejected { code, message } => write!(formatter, "rejected ({code}): {message}"),
            Self::DeadLettered { code, message } => {
                write!(formatter, "set aside as a dead letter ({code}): {message}")
            }
            Self::Duplicate { of, first, other_content: false } => {
                write!(formatter, "duplicate of the command at position {of}, which was {first}")
            }
            Self::Duplicate { of, first, other_content: true } => write!(
                formatter,
                "not done: its id was used by another command, at position {of}, which was {first}"
            ),
        }
    }
}

impl Outcome {
    /// `accepted`, `rejected`, `duplicate` or `dead-lettered`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Rejected { .. } => "rejected",
            Self::Duplicate { .. } => "duplicate",
            Self::DeadLettered { .. } => "dead-lettered",
        }
    }

    /// Whether a command that is sent again under the same id gets this outcome.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::DeadLettered { .. })
    }

    /// The outcome of the command that was first to use the id.
    pub fn first(&self) -> &Outcome {
        match self {
            Self::Duplicate { first, .. } => first.first(),
            other => other,
        }
    }

    /// The stream position that a query must name to see the effect, given the incarnation of EVENTS; for a duplicate, the effect of the
    /// first command. `None` if nothing was accepted.
    pub fn query_position(&self, events_generation: &str) -> Option<String> {
        match self.first() {
            Self::Accepted { sequence, .. } => {
                Some(StreamPosition::new(EVENTS, events_generation, *sequence).to_string())
            }
            _ => None,
        }
    }
}

/// One command's line in an [`OutcomeRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutcome {
    /// Its sequence in COMMANDS.
    pub position: u64,
    /// The id its sender gave; absent when derived from the position.
    pub id: Option<Arc<str>>,
    /// Where it was published, without the prefix: `<context>.<aggregate>.<id>.<command>`.
    pub address: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
    /// What distinguishes a repeated command from a different one under the same id. Absent for commands without an id, and in records of
    /// an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentMark>,
}

fn is_false(what: &bool) -> bool {
    !what
}

/// Distinguishes commands with the same id: eight bytes of a BLAKE3 hash of address and body. It is small because every record has it, and
/// large enough to tell apart two commands that share an id by mistake. It is no protection against attackers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentMark(u64);

impl ContentMark {
    /// The mark of a command to `address` (`<context>.<aggregate>.<id>.<command>`).
    pub fn new(address: &str, body: &[u8]) -> Self {
        let hash = blake3::Hasher::new().update(address.as_bytes()).update(b"\n").update(body).finalize();
        Self(hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    /// Whether two commands with the same id say different things; `None` if the content of one of them is unknown.
    pub fn differ(first: Option<Self>, other: Option<Self>) -> Option<bool> {
        first.zip(other).map(|(first, other)| first != other)
    }
}

impl CommandOutcome {
    /// The subject on which anybody sends such a command. A process uses another subject, which is not recorded.
    pub fn subject(&self) -> String {
        format!("{COMMAND_PREFIX}.{}", self.address)
    }
}

/// What a record of the outcome journal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// Written at a takeover. It prevents the previous handler from recording anything more.
    Fence,
    /// The outcomes of the commands it covers.
    Outcomes,
}

/// One message of OUTCOMES: the next link of the journal's chain. It is the cursor in COMMANDS and the outcomes in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenRecord")]
pub struct OutcomeRecord {
    /// A ULID. After an append without a clear answer, it tells whether the append took place.
    pub record_id: Arc<str>,
    /// Fence or outcomes.
    pub kind: RecordKind,
    /// The handler that wrote it.
    pub handler: Arc<str>,
    /// Earlier records cover every command up to this position in COMMANDS.
    pub after: u64,
    /// With this record, every command up to this position in COMMANDS is covered.
    pub through: u64,
    /// The highest sequence in EVENTS that outcomes have named so far. If EVENTS ends before it, it has lost its tail.
    pub events_through: u64,
    /// One line for each command in `after + 1 ..= through`, in order.
    pub outcomes: Vec<CommandOutcome>,
    /// The incarnations of COMMANDS and EVENTS to which the positions and sequences belong.
    pub generations: Generations,
}

/// A record as any release may have written it. Releases with several active handlers wrote two more kinds and two more fields.
#[derive(Deserialize)]
struct WrittenRecord {
    record_id: Arc<str>,
    kind: WrittenKind,
    handler: Arc<str>,
    after: u64,
    through: u64,
    events_through: u64,
    outcomes: Vec<CommandOutcome>,
    generations: Generations,
    /// 0 and absent in all records of this release, and in those from before several handlers could be active.
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    _layout: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenKind {
    Fence,
    Outcomes,
    Closed,
    Layout,
}

/// Why this release does not read a record.
#[derive(Debug, thiserror::Error)]
#[error("an outcome record of several active command handlers")]
struct OfSeveralHandlers;

impl TryFrom<WrittenRecord> for OutcomeRecord {
    type Error = OfSeveralHandlers;

    fn try_from(written: WrittenRecord) -> Result<Self, OfSeveralHandlers> {
        let kind = match written.kind {
            WrittenKind::Fence if written.epoch == 0 => RecordKind::Fence,
            WrittenKind::Outcomes if written.epoch == 0 => RecordKind::Outcomes,
            _ => return Err(OfSeveralHandlers),
        };
        let WrittenRecord {
            record_id, handler, after, through, events_through, outcomes, generations, ..
        } = written;
        Ok(Self { record_id, kind, handler, after, through, events_through, outcomes, generations })
    }
}

/// The incarnations of the streams that a handler works on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Generations {
    /// The incarnation of COMMANDS.
    pub commands: Arc<str>,
    /// The incarnation of EVENTS.
    pub events: Arc<str>,
}

impl fmt::Display for Generations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of COMMANDS and {} of EVENTS", self.commands, self.events)
    }
}

/// Why a message of OUTCOMES cannot be read as a record.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeRecordError {
    /// It is not a record.
    #[error("outcome record at sequence {sequence} on {subject} does not decode")]
    Malformed {
        /// Where.
        sequence: u64,
        /// On which subject.
        subject: String,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// It dates from a time when several command handlers were active.
    #[error(
        "OUTCOMES holds a record of several active command handlers at sequence {sequence} on {subject}; this release reads only what one active handler has written: go on with the release that wrote it, restore COMMANDS, EVENTS and OUTCOMES from a backup made before `command_handler.active_handlers` was raised, or start with empty streams"
    )]
    SeveralHandlers {
        /// Where.
        sequence: u64,
        /// On which subject.
        subject: String,
    },
}

impl OutcomeRecord {
    /// The body to store: MessagePack without field names, since a record repeats the same few fields a thousand times.
    /// New fields are added at the end.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("a record holds only strings and numbers")
    }

    /// Reads a message of OUTCOMES.
    ///
    /// # Errors
    /// [`OutcomeRecordError`] when it is not a record, or one of several active handlers.
    pub fn from_stored(message: &StoredMessage) -> Result<Self, OutcomeRecordError> {
        let (sequence, subject) = (message.sequence, || message.subject.clone());
        let written: WrittenRecord = message_pack::from_slice(&message.payload)
            .map_err(|source| OutcomeRecordError::Malformed { sequence, subject: subject(), source })?;
        Self::try_from(written)
            .map_err(|OfSeveralHandlers| OutcomeRecordError::SeveralHandlers { sequence, subject: subject() })
    }
}

/// What a sender gets on its reply subject and what the `command` view shows, as flat JSON:
/// `{"command_id":"…","command_position":7,"outcome":"accepted","position":3,"version":1,"events":1}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeReply {
    /// The command id, given or derived.
    pub command_id: Arc<str>,
    /// Position in COMMANDS.
    pub command_position: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// The text form of the EVENTS position to hand to a query (`Millstream-Position`); absent unless accepted.
    pub query_position: Option<String>,
}

impl OutcomeReply {
    /// The JSON form.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a reply holds only numbers and text")
    }

    /// Reads the JSON form.
    pub fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            command_id: value.get("command_id")?.as_str()?.into(),
            command_position: value.get("command_position")?.as_u64()?,
            outcome: Outcome::from_json(value)?,
            query_position: value.get("query_position").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

/// The flat form.
impl Serialize for OutcomeReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("command_id", &*self.command_id)?;
        fields.serialize_entry("command_position", &self.command_position)?;
        self.outcome.put_fields(&mut fields)?;
        if let Some(position) = &self.query_position {
            fields.serialize_entry("query_position", position)?;
        }
        fields.end()
    }
}

/// The flat form of an outcome on its own.
struct FlatOutcome<'a>(&'a Outcome);

impl Serialize for FlatOutcome<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        self.0.put_fields(&mut fields)?;
        fields.end()
    }
}

impl Outcome {
    fn put_fields<M: SerializeMap>(&self, fields: &mut M) -> Result<(), M::Error> {
        fields.serialize_entry("outcome", self.kind())?;
        match self {
            Self::Accepted { sequence, version, events } => {
                fields.serialize_entry("position", sequence)?;
                fields.serialize_entry("version", version)?;
                fields.serialize_entry("events", events)
            }
            Self::Rejected { code, message } | Self::DeadLettered { code, message } => {
                fields.serialize_entry("code", &**code)?;
                fields.serialize_entry("message", &**message)
            }
            Self::Duplicate { of, first, other_content } => {
                fields.serialize_entry("of", of)?;
                if *other_content {
                    fields.serialize_entry("other_content", other_content)?;
                }
                fields.serialize_entry("first", &FlatOutcome(first))
            }
        }
    }

    /// Adds the flat JSON form to `fields`.
    pub fn put_json(&self, fields: &mut Map<String, Value>) {
        let own = serde_json::to_value(FlatOutcome(self)).expect("an outcome holds only numbers and text");
        if let Value::Object(own) = own {
            fields.extend(own);
        }
    }

    /// Reads the flat JSON form.
    pub fn from_json(value: &Value) -> Option<Self> {
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(Arc::<str>::from);
        Some(match value.get("outcome")?.as_str()? {
            "accepted" => Self::Accepted {
                sequence: number("position")?,
                version: number("version")?,
                events: number("events")?.try_into().ok()?,
            },
            "rejected" => Self::Rejected { code: text("code")?, message: text("message")? },
            "dead-lettered" => Self::DeadLettered { code: text("code")?, message: text("message")? },
            "duplicate" => Self::Duplicate {
                of: number("of")?,
                first: Box::new(Self::from_json(value.get("first")?)?),
                other_content: value.get("other_content").and_then(Value::as_bool).unwrap_or_default(),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Outcome> {
        let rejected = Outcome::Rejected { code: "sale-differs".into(), message: "no".into() };
        vec![
            Outcome::Accepted { sequence: 3, version: 1, events: 1 },
            Outcome::Duplicate { of: 2, first: Box::new(rejected.clone()), other_content: false },
            Outcome::Duplicate { of: 2, first: Box::new(rejected.clone()), other_content: true },
            rejected,
            Outcome::DeadLettered { code: "body-malformed".into(), message: "line 1".into() },
        ]
    }

    #[test]
    fn record_round_trips() {
        let outcomes = (1..).zip(every_kind()).map(|(position, outcome)| CommandOutcome {
            position,
            id: (position % 2 == 0).then(|| "an-id".into()),
            address: "retail.till.1_2012-01-31.close".into(),
            outcome,
            content: (position % 4 == 0).then(|| ContentMark::new("retail.till.1_2012-01-31.close", b"{}")),
        });
        let record = OutcomeRecord {
            record_id: "01JD".into(),
            kind: RecordKind::Outcomes,
            handler: "command-handler".into(),
            after: 0,
            through: 5,
            events_through: 3,
            outcomes: outcomes.collect(),
            generations: Generations { commands: "c".into(), events: "e".into() },
        };
        assert_eq!(OutcomeRecord::from_stored(&stored(record.encode())).unwrap(), record);
    }

    fn stored(body: Vec<u8>) -> StoredMessage {
        StoredMessage {
            subject: OUTCOME_SUBJECT.into(),
            sequence: 1,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: crate::stored_message::Headers::new(),
            payload: body.into(),
        }
    }

    /// As release 0.1.0 writes records: `kind` is a text, and `epoch` and `layout` are left out while they say nothing.
    #[derive(Serialize)]
    struct OfRelease010 {
        record_id: &'static str,
        kind: &'static str,
        handler: &'static str,
        after: u64,
        through: u64,
        events_through: u64,
        outcomes: Vec<CommandOutcome>,
        generations: Generations,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        layout: Option<(u32, Vec<u64>)>,
    }

    fn of_release_0_1_0(
        kind: &'static str,
        epoch: Option<u64>,
        layout: Option<(u32, Vec<u64>)>,
    ) -> OfRelease010 {
        OfRelease010 {
            record_id: "01JD",
            kind,
            handler: "run",
            after: 4,
            through: 4,
            events_through: 3,
            outcomes: vec![],
            generations: Generations { commands: "c".into(), events: "e".into() },
            epoch,
            layout,
        }
    }

    #[test]
    fn records_of_one_handler_are_the_same_bytes_as_ever() {
        for kind in ["fence", "outcomes"] {
            let bytes = rmp_serde::to_vec(&of_release_0_1_0(kind, None, None)).unwrap();
            let read = OutcomeRecord::from_stored(&stored(bytes.clone())).unwrap();
            assert_eq!(read.encode(), bytes, "{kind}");
        }
    }

    #[test]
    fn records_of_several_handlers_are_refused_with_what_to_do() {
        for record in [
            of_release_0_1_0("closed", None, None),
            of_release_0_1_0("layout", Some(1), Some((2, vec![4; 16]))),
            of_release_0_1_0("fence", Some(1), None),
            of_release_0_1_0("outcomes", Some(2), None),
        ] {
            let refused = OutcomeRecord::from_stored(&stored(rmp_serde::to_vec(&record).unwrap()));
            let refused = refused.unwrap_err();
            assert!(matches!(refused, OutcomeRecordError::SeveralHandlers { sequence: 1, .. }), "{refused}");
            assert!(refused.to_string().contains("active_handlers"), "{refused}");
        }
    }

    #[test]
    fn an_accepted_reply_names_its_fields_as_ever() {
        let reply = OutcomeReply {
            command_id: "c".into(),
            command_position: 7,
            outcome: Outcome::Accepted { sequence: 3, version: 1, events: 1 },
            query_position: None,
        };
        let expected = r#"{"command_id":"c","command_position":7,"outcome":"accepted","position":3,"version":1,"events":1}"#;
        assert_eq!(reply.to_json(), serde_json::from_str::<Value>(expected).unwrap());
        let derived = serde_json::to_value(&reply.outcome).unwrap();
        assert_eq!(derived, serde_json::json!({ "accepted": { "position": 3, "version": 1, "events": 1 } }));
    }

    #[test]
    fn reply_round_trips_as_flat_json() {
        for outcome in every_kind() {
            let reply = OutcomeReply {
                command_id: "c".into(),
                command_position: 9,
                outcome,
                query_position: Some("EVENTS:g:3".into()),
            };
            assert_eq!(OutcomeReply::from_json(&reply.to_json()), Some(reply));
        }
    }
}
