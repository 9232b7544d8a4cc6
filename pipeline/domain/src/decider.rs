//! Deciders: the pure rules of an aggregate, and the form in which the engine holds aggregates of any type.
//!
//! A decider is a function of an aggregate's events and one command. It reads no clock and makes no ids. The time of a decision is the time
//! at which COMMANDS stored the command, so that the decision can be repeated anywhere with the same result. A deployment sets only one
//! thing: the time zone in which its days begin. Events record the date that was decided, so changing the time zone does not change what
//! has happened.

mod declaring;
mod errors;
mod internal;
mod partners;
mod plain_states;
mod registry;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Serialize, de::DeserializeOwned};
#[doc(hidden)]
pub use serde_json::Value;

#[doc(hidden)]
pub use self::declaring::derived;
pub use self::errors::{CommandBodyError, EventError};
pub use self::internal::{INTERNAL_COMMAND, check_origin};
pub use self::partners::{PARTNER_REJECTIONS, PARTNERS_MAX};
#[cfg(feature = "testing")]
pub(crate) use self::partners::{decide_with_partners, partners_of};
pub use self::plain_states::PlainStates;
pub use self::registry::{AggregateRegistry, AggregateType, AnyCommand, AnyState, DecisionError, NewEvent};
use millstream_contract::{
    command::BodyFormat, commit::EventEnvelope, error_text::plain_decoder_text, message_pack,
};

use crate::{by_name::ByName, schema::Shape};

/// A rule said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Stable and lower-kebab-case, for programs.
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Rejection {
    /// A rejection with `code` and a sentence.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a decision may use besides the state and the command.
#[derive(Debug, Clone, Copy)]
pub struct DecisionContext<'a> {
    /// The aggregate's id.
    pub aggregate_id: &'a str,
    /// When COMMANDS stored the command.
    pub now: Timestamp,
    /// Who asks, from the header `Millstream-Actor`.
    pub actor: Option<&'a str>,
    /// The command's sequence in COMMANDS.
    pub command_position: u64,
    /// The time zone in which the days of the business begin: [`AggregateRegistry::in_time_zone`].
    pub time_zone: &'a TimeZone,
}

impl DecisionContext<'_> {
    /// The date in the time zone of the business when COMMANDS stored the command.
    pub fn today(&self) -> Date {
        self.now.to_zoned(self.time_zone.clone()).date()
    }
}

/// The events of several aggregates that one command changes together. All of them are recorded, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsWithPartners<E> {
    /// The events of the command's own aggregate. They must not be empty if a partner has events: the aggregate's own history is the guard
    /// against a second effect.
    pub own: Vec<E>,
    /// The events of each partner, in the order of [`Decider::partners`]. Partners left out at the end have none.
    pub partners: Vec<Vec<E>>,
}

impl<E> Default for EventsWithPartners<E> {
    /// Nothing happens.
    fn default() -> Self {
        Self { own: Vec::new(), partners: Vec::new() }
    }
}

/// The events of an aggregate: an enum whose variants each hold one struct of fields. Written with [`crate::events!`].
pub trait EventSet: Sized + Send + Sync + 'static {
    /// Every type with its current schema version.
    const TYPES: &'static [(&'static str, u16)];

    /// Type and schema version of this event.
    fn event_type(&self) -> (&'static str, u16);

    /// Its fields in MessagePack.
    fn encode(&self) -> Vec<u8>;

    /// Reads an event, upcasting old schema versions.
    ///
    /// # Errors
    /// [`EventError`] for a type this release does not know or fields that do not decode.
    fn decode(event_type: &str, schema: u16, data: &[u8]) -> Result<Self, EventError>;

    /// The shape of the current version of a type, derived from a body that fills every field; `None` if there is no such type.
    fn shape(event_type: &str, body: &serde_json::Value) -> Option<Shape>;

    /// A body of the current version of a type that fills every field, made up from the type; `None` if none can be made up.
    fn sample(event_type: &str) -> Option<serde_json::Value>;

    /// Reads the event of an envelope.
    ///
    /// # Errors
    /// As [`EventSet::decode`].
    fn from_envelope(envelope: &EventEnvelope<'_>) -> Result<Self, EventError> {
        Self::decode(envelope.event_type, envelope.schema, envelope.data)
    }
}

/// The commands of an aggregate: an enum whose variants each hold one struct of fields. Written with [`crate::commands!`].
pub trait CommandSet: Sized + Send + Sync + 'static {
    /// Every command's name.
    const NAMES: &'static [&'static str];

    /// Reads a command.
    ///
    /// # Errors
    /// [`CommandBodyError`] that names the command or the field.
    fn decode(command: &str, format: BodyFormat, body: &[u8]) -> Result<Self, CommandBodyError>;

    /// The fields of a command's body, derived from a made-up body; `None` if none can be made up.
    fn shape(command: &str) -> Option<Shape>;

    /// The JSON Schema of a command's body, with an example, derived in the same way: [`crate::schema::json_schema_of`].
    fn json_schema(command: &str) -> Option<serde_json::Value>;
}

/// Stands for every command of an aggregate in [`Decider::rejections`].
pub const ANY_COMMAND: &str = "*";

/// The rules of one aggregate.
pub trait Decider: Send + Sync + 'static {
    /// What can be asked.
    type Command: CommandSet;
    /// What can happen.
    type Event: EventSet;
    /// What the rules need to know about the past. It is serialised only as a snapshot, which is discarded when its shape changes.
    type State: Clone + Default + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The context, as in subjects.
    const CONTEXT: &'static str;
    /// The aggregate, as in subjects.
    const AGGREGATE: &'static str;
    /// Raised whenever the shape or meaning of [`Decider::State`] changes; older snapshots are then ignored.
    const STATE_VERSION: u32 = 1;

    /// Every code with which the rules refuse, as pairs of a command and a code; [`ANY_COMMAND`] stands for every command. The testing kits
    /// enforce it: a test fails if a code occurs that is not declared.
    fn rejections() -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    /// The commands that only processes and timers may give. From anybody else they are rejected as [`INTERNAL_COMMAND`] before any rule is
    /// asked. The subject of a command says where it comes from, because nobody else may publish on the subjects of processes.
    fn internal_commands() -> &'static [&'static str] {
        &[]
    }

    /// Checks the id, for aggregates that demand more than the contract does.
    ///
    /// # Errors
    /// A rejection that says what an id looks like.
    fn check_id(_id: &str) -> Result<(), Rejection> {
        Ok(())
    }

    /// The events that `command` causes; none if there is nothing to change. It is never called for a command that has partners.
    ///
    /// # Errors
    /// A rejection when a rule says no.
    fn decide(
        state: &Self::State,
        command: &Self::Command,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<Self::Event>, Rejection>;

    /// The ids of other aggregates of this type that `command`, sent to `aggregate_id`, changes or reads together with its own: at most
    /// [`PARTNERS_MAX`], each once, and never `aggregate_id`. They depend on the command alone.
    ///
    /// Such a command delays everything behind it until it is settled. Use it for rare changes that must not happen by halves.
    fn partners(_aggregate_id: &str, _command: &Self::Command) -> Vec<String> {
        Vec::new()
    }

    /// The events that a command with [`Decider::partners`] causes, in its own aggregate and in each partner.
    ///
    /// # Errors
    /// A rejection when a rule says no.
    fn decide_with_partners(
        state: &Self::State,
        _partners: &[&Self::State],
        command: &Self::Command,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<Self::Event>, Rejection> {
        Ok(EventsWithPartners { own: Self::decide(state, command, context)?, partners: Vec::new() })
    }

    /// The state after `event`. It accepts every event, because what was recorded has happened.
    fn evolve(state: &mut Self::State, event: &Self::Event);
}

/// The pairs of [`Decider::rejections`], made from a table of commands and their codes.
pub fn rejections_of(
    table: &[(&'static str, &[&'static str])],
) -> impl Iterator<Item = (&'static str, &'static str)> {
    table.iter().flat_map(|(command, codes)| codes.iter().map(|code| (*command, *code)))
}

/// Reads a command's body in either format. Objects are read only by the names of their fields, and an error names the field. For
/// [`crate::commands!`].
///
/// # Errors
/// [`CommandBodyError::Body`].
pub fn decode_body<T: DeserializeOwned>(
    command: &str,
    format: BodyFormat,
    body: &[u8],
) -> Result<T, CommandBodyError> {
    let malformed = |path: String, detail: String| CommandBodyError::Body {
        command: command.to_owned(),
        detail: match (&*path, plain_decoder_text(&detail)) {
            (".", detail) => detail.into_owned(),
            (path, detail) => format!("{path}: {detail}"),
        },
    };
    match format {
        BodyFormat::Json => {
            let text = body.trim_ascii();
            let text = if text.is_empty() { b"{}" } else { text };
            let mut decoder = serde_json::Deserializer::from_slice(text);
            let value = serde_path_to_error::deserialize(ByName(&mut decoder))
                .map_err(|error| malformed(error.path().to_string(), error.inner().to_string()))?;
            decoder.end().map_err(|error| malformed(".".into(), error.to_string()))?;
            Ok(value)
        }
        BodyFormat::MessagePack => {
            let mut rest = body;
            let mut decoder = message_pack::decoder(&mut rest, message_pack::BODY_NESTING_MAX);
            let value = serde_path_to_error::deserialize(ByName(&mut decoder))
                .map_err(|error| malformed(error.path().to_string(), error.inner().to_string()))?;
            if !rest.is_empty() {
                return Err(malformed(".".into(), format!("{} bytes follow behind it", rest.len())));
            }
            Ok(value)
        }
    }
}

/// Writes an aggregate's command enum. A variant lists its fields, which become a struct with the variant's name that refuses unknown
/// fields; or it holds a struct that is written elsewhere (with `#[serde(deny_unknown_fields)]`). A variant that lists its fields may carry
/// documentation, but no other attributes.
///
/// ```
/// millstream_domain::commands! {
///     /// What can be asked of a thing.
///     pub enum ThingCommand {
///         /// Calls it something else.
///         Rename { name: String } = "rename",
///     }
/// }
/// let command = ThingCommand::Rename(Rename { name: "lamp".to_owned() });
/// ```
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// #[derive(Debug, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// pub struct Rename { pub name: String }
/// millstream_domain::commands! {
///     /// What can be asked of a thing.
///     pub enum ThingCommand { Rename(Rename) = "rename" }
/// }
/// ```
#[macro_export]
macro_rules! commands {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident $(($body:ty))? $({ $($fields:tt)* })? = $text:literal),* $(,)?
    }) => {
        $crate::__derived_imports!();

        $($crate::__body_struct! {
            $name, [$visibility], [$(#[$variant_meta])*], $variant $(($body))? $({ $($fields)* })?
        })*

        $(#[$meta])*
        #[derive(Debug)]
        $visibility enum $name {
            $(
                $(#[$variant_meta])* #[doc = concat!("`", $text, "`")]
                $variant($crate::__body_type!($variant $(($body))? $({ $($fields)* })?))
            ),*
        }

        impl $crate::decider::CommandSet for $name {
            const NAMES: &'static [&'static str] = &[$($text),*];

            fn decode(
                command: &str,
                format: $crate::contract::command::BodyFormat,
                body: &[u8],
            ) -> Result<Self, $crate::decider::CommandBodyError> {
                match command {
                    $($text => $crate::decider::decode_body(command, format, body).map(Self::$variant),)*
                    _ => Err($crate::decider::CommandBodyError::UnknownCommand {
                        aggregate: "",
                        command: command.to_owned(),
                        known: Self::NAMES.join(", "),
                    }),
                }
            }

            fn shape(command: &str) -> Option<$crate::schema::Shape> {
                match command {
                    $($text => $crate::schema::sampled_shape_of::<
                        $crate::__body_type!($variant $(($body))? $({ $($fields)* })?)
                    >(),)*
                    _ => None,
                }
            }

            fn json_schema(command: &str) -> Option<$crate::decider::Value> {
                match command {
                    $($text => $crate::schema::json_schema_of::<
                        $crate::__body_type!($variant $(($body))? $({ $($fields)* })?)
                    >(),)*
                    _ => None,
                }
            }
        }
    };
}

/// Writes an aggregate's event enum. Each variant has a type name and a schema version. It lists its fields, which become a struct with the
/// variant's name, or holds a struct that is written elsewhere. For each older version, it names the function that turns the old bytes into
/// today's struct.
///
/// ```
/// millstream_domain::events! {
///     /// What can happen to a thing.
///     pub enum ThingEvent of "thing" {
///         /// It was called something else.
///         Renamed { name: String } = "renamed" v 1,
///     }
/// }
/// let event = ThingEvent::from(Renamed { name: "lamp".to_owned() });
/// ```
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// pub struct Renamed { pub name: String }
/// millstream_domain::events! {
///     /// What can happen to a thing.
///     pub enum ThingEvent of "thing" { Renamed(Renamed) = "renamed" v 1 }
/// }
/// ```
///
/// A newer version names, for each older one, the function that turns the old body into the new one:
///
/// ```
/// # use millstream_domain::decider::decode_event;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// pub struct Renamed { pub name: String, pub language: String }
///
/// /// Version 1 knew no languages; all names were English.
/// fn with_language(data: &[u8]) -> Result<Renamed, rmp_serde::decode::Error> {
///     #[derive(Deserialize)]
///     struct Old { name: String }
///     let Old { name } = decode_event(data)?;
///     Ok(Renamed { name, language: "en".to_owned() })
/// }
///
/// millstream_domain::events! {
///     /// What can happen to a thing.
///     pub enum ThingEvent of "thing" { Renamed(Renamed) = "renamed" v 2 upcasts { 1 => with_language } }
/// }
/// ```
#[macro_export]
macro_rules! events {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident of $aggregate:literal {
        $($(#[$variant_meta:meta])* $variant:ident $(($body:ty))? $({ $($fields:tt)* })? = $text:literal v $version:literal
            $(upcasts { $($old:literal => $upcast:path),* $(,)? })?),* $(,)?
    }) => {
        $crate::__derived_imports!();

        $($crate::__body_struct! {
            $name, [$visibility], [$(#[$variant_meta])*], $variant $(($body))? $({ $($fields)* })?
        })*

        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $visibility enum $name {
            $(
                $(#[$variant_meta])* #[doc = concat!("`", $text, "`")]
                $variant($crate::__body_type!($variant $(($body))? $({ $($fields)* })?))
            ),*
        }

        impl $crate::decider::EventSet for $name {
            const TYPES: &'static [(&'static str, u16)] = &[$(($text, $version)),*];

            fn event_type(&self) -> (&'static str, u16) {
                match self { $(Self::$variant(_) => ($text, $version)),* }
            }

            fn encode(&self) -> Vec<u8> {
                match self { $(Self::$variant(fields) => $crate::decider::encode_event(fields)),* }
            }

            fn shape(
                event_type: &str,
                body: &$crate::decider::Value,
            ) -> Option<$crate::schema::Shape> {
                match event_type {
                    $($text => Some($crate::schema::shape_of::<
                        $crate::__body_type!($variant $(($body))? $({ $($fields)* })?)
                    >(body)),)*
                    _ => None,
                }
            }

            fn sample(event_type: &str) -> Option<$crate::decider::Value> {
                match event_type {
                    $($text => $crate::schema::sample_of::<
                        $crate::__body_type!($variant $(($body))? $({ $($fields)* })?)
                    >(),)*
                    _ => None,
                }
            }

            fn decode(
                event_type: &str,
                schema: u16,
                data: &[u8],
            ) -> Result<Self, $crate::decider::EventError> {
                let malformed = |source| $crate::decider::EventError::Data {
                    aggregate: $aggregate,
                    event_type: event_type.to_owned(),
                    schema,
                    source,
                };
                match (event_type, schema) {
                    $(($text, $version) => $crate::decider::decode_event(data).map(Self::$variant).map_err(malformed),)*
                    $($($(($text, $old) => $upcast(data).map(Self::$variant).map_err(malformed),)*)?)*
                    _ => Err($crate::decider::EventError::UnknownType {
                        aggregate: $aggregate,
                        event_type: event_type.to_owned(),
                        schema,
                    }),
                }
            }
        }
    };
}

/// The size of a buffer that holds the fields of most events.
const EVENT_BYTES: usize = 128;

/// Writes an event's fields. For [`crate::events!`].
pub fn encode_event<T: Serialize>(fields: &T) -> Vec<u8> {
    let mut data = Vec::with_capacity(EVENT_BYTES);
    rmp_serde::encode::write_named(&mut data, fields).expect("events hold only plain data");
    data
}

/// Reads an event's fields. For [`crate::events!`] and upcasters.
///
/// # Errors
/// When the bytes do not have the fields of `T`.
pub fn decode_event<T: DeserializeOwned>(data: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    message_pack::from_slice(data)
}
