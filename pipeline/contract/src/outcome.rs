//! Outcomes: what became of each command, and the records in which the active handler journals them.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{stored_message::StoredMessage, subject::COMMAND_PREFIX};

/// Prefix of the subjects of OUTCOMES, followed by the share.
pub const OUTCOME_PREFIX: &str = "out";
/// The subject of OUTCOMES that says how the partitions are shared.
pub const LAYOUT_SUBJECT: &str = "out.layout";

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The rules allowed it. `events` is 0 when there was nothing to change.
    Accepted {
        /// Sequence in EVENTS of the aggregate's last commit after the command; 0 when it has none.
        position: u64,
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
    /// The id was used before; nothing was done now.
    Duplicate {
        /// Position in COMMANDS of the command that had the id first.
        of: u64,
        /// What became of that one.
        first: Box<Outcome>,
    },
    /// It could not be decided and was set aside. Not final: it can be retried under its own id.
    DeadLettered {
        /// Stable, for programs.
        code: Arc<str>,
        /// What was wrong, and what to do.
        message: Arc<str>,
    },
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

    /// Whether a command sent again under the same id is answered with this one.
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
}

impl CommandOutcome {
    /// The subject on which the command was published.
    pub fn subject(&self) -> String {
        format!("{COMMAND_PREFIX}.{}", self.address)
    }
}

/// What a record of the outcome journal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// Written at a takeover; stops the handler before from recording any further.
    Fence,
    /// The outcomes of the commands it covers.
    Outcomes,
    /// Ends a chain for good in its epoch: the partitions are about to be shared in another way.
    Closed,
    /// How the partitions are shared from now on; on [`LAYOUT_SUBJECT`] only.
    Layout,
}

/// How the partitions are shared in an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareLayout {
    /// Into how many parts.
    pub shares: u32,
    /// For each partition the COMMANDS position up to which earlier epochs have covered it.
    pub starts: Vec<u64>,
}

/// One message of OUTCOMES: the next link of a share's chain. Cursor and outcomes are one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// ULID; tells after an unclear answer whether the append took place.
    pub record_id: Arc<str>,
    /// Fence or outcomes.
    pub kind: RecordKind,
    /// The handler that wrote it.
    pub handler: Arc<str>,
    /// Every command of the share up to this COMMANDS position was covered before.
    pub after: u64,
    /// Every command of the share up to this COMMANDS position is covered with this record.
    pub through: u64,
    /// Highest EVENTS sequence that this share's outcomes have named so far: a server that has less has lost its tail.
    pub events_through: u64,
    /// One line for each command in `after + 1 ..= through`, in order.
    pub outcomes: Vec<CommandOutcome>,
    /// Which incarnations of COMMANDS and EVENTS the positions belong to.
    pub generations: Generations,
    /// Counts the ways in which the partitions have been shared; 0 as long as one handler has had them all. Not written then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Present in a record of kind [`RecordKind::Layout`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<ShareLayout>,
}

fn is_zero(epoch: &u64) -> bool {
    *epoch == 0
}

/// The incarnations of the streams that a share works on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Generations {
    /// That of COMMANDS.
    pub commands: Arc<str>,
    /// That of EVENTS.
    pub events: Arc<str>,
}

/// A message of OUTCOMES that is not a record.
#[derive(Debug, thiserror::Error)]
#[error("outcome record at sequence {sequence} on {subject} does not decode")]
pub struct OutcomeRecordError {
    /// Where.
    pub sequence: u64,
    /// On which subject.
    pub subject: String,
    /// Why.
    #[source]
    pub source: rmp_serde::decode::Error,
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
    /// [`OutcomeRecordError`] when it is not a record.
    pub fn from_stored(message: &StoredMessage) -> Result<Self, OutcomeRecordError> {
        rmp_serde::from_slice(&message.payload).map_err(|source| OutcomeRecordError {
            sequence: message.sequence,
            subject: message.subject.clone(),
            source,
        })
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
            Self::Accepted { position, version, events } => {
                fields.serialize_entry("position", position)?;
                fields.serialize_entry("version", version)?;
                fields.serialize_entry("events", events)
            }
            Self::Rejected { code, message } | Self::DeadLettered { code, message } => {
                fields.serialize_entry("code", &**code)?;
                fields.serialize_entry("message", &**message)
            }
            Self::Duplicate { of, first } => {
                fields.serialize_entry("of", of)?;
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
                position: number("position")?,
                version: number("version")?,
                events: number("events")?.try_into().ok()?,
            },
            "rejected" => Self::Rejected { code: text("code")?, message: text("message")? },
            "dead-lettered" => Self::DeadLettered { code: text("code")?, message: text("message")? },
            "duplicate" => {
                Self::Duplicate { of: number("of")?, first: Box::new(Self::from_json(value.get("first")?)?) }
            }
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
            Outcome::Accepted { position: 3, version: 1, events: 1 },
            Outcome::Duplicate { of: 2, first: Box::new(rejected.clone()) },
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
        });
        let record = OutcomeRecord {
            record_id: "01JD".into(),
            kind: RecordKind::Outcomes,
            handler: "command-handler".into(),
            after: 0,
            through: 4,
            events_through: 3,
            outcomes: outcomes.collect(),
            generations: Generations { commands: "c".into(), events: "e".into() },
            epoch: 0,
            layout: None,
        };
        let message = StoredMessage {
            subject: "out.0".into(),
            sequence: 1,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: crate::stored_message::Headers::new(),
            payload: record.encode().into(),
        };
        assert_eq!(OutcomeRecord::from_stored(&message).unwrap(), record);
    }

    #[test]
    fn a_record_of_the_first_epoch_is_written_as_releases_without_epochs_wrote_it() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            record_id: Arc<str>,
            kind: RecordKind,
            handler: Arc<str>,
            after: u64,
            through: u64,
            events_through: u64,
            outcomes: Vec<CommandOutcome>,
            generations: Generations,
        }
        let before = Before {
            record_id: "01JD".into(),
            kind: RecordKind::Fence,
            handler: "run".into(),
            after: 4,
            through: 4,
            events_through: 3,
            outcomes: vec![],
            generations: Generations { commands: "c".into(), events: "e".into() },
        };
        let bytes = rmp_serde::to_vec(&before).unwrap();
        let read: OutcomeRecord = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!((read.epoch, &read.layout), (0, &None));
        assert_eq!(read.encode(), bytes);
        let later = OutcomeRecord { epoch: 1, ..read };
        assert!(rmp_serde::from_slice::<Before>(&later.encode()).is_err(), "an older release stops");
        assert_eq!(rmp_serde::from_slice::<OutcomeRecord>(&later.encode()).unwrap(), later);
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
