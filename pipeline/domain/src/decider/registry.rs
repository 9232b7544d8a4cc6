//! Deciders of any type behind one interface, and a registry of them by name. Deliberately absent: rules.

use std::{any::Any, collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc};

use jiff::tz::TimeZone;
use millstream_contract::{
    command::CommandEnvelope, commit::EventEnvelope, error_text::panic_text, message_pack, subject::StreamId,
};

use super::{
    CommandBodyError, CommandSet, Decider, DecisionContext, EventError, EventSet, EventsWithPartners,
    Rejection,
    partners::{decide_with_partners, partners_of},
};
use crate::schema::Shape;

/// A state of any aggregate.
pub type AnyState = Box<dyn Any + Send + Sync>;
/// A decoded command of any aggregate.
pub type AnyCommand = Box<dyn Any + Send + Sync>;

/// An encoded event, as a decider produced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The type.
    pub event_type: &'static str,
    /// The version of its shape.
    pub schema: u16,
    /// Its fields in MessagePack.
    pub data: Vec<u8>,
}

/// Why a decision gave neither events nor a rejection.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// A rule said no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The decider panicked: a bug of the model.
    #[error("the rules of {aggregate} panicked: {message}")]
    Panicked {
        /// The aggregate's name.
        aggregate: &'static str,
        /// The panic's words.
        message: String,
    },
}

/// A decider behind one interface for all aggregates.
pub trait AggregateType: Send + Sync {
    /// The context, as in subjects.
    fn context(&self) -> &'static str;
    /// The aggregate, as in subjects.
    fn aggregate(&self) -> &'static str;
    /// The commands it has.
    fn command_names(&self) -> &'static [&'static str];
    /// The events it has, with their schema versions.
    fn event_types(&self) -> &'static [(&'static str, u16)];
    /// [`EventSet::shape`].
    fn event_shape(&self, event_type: &str, body: &serde_json::Value) -> Option<Shape>;
    /// [`EventSet::sample`].
    fn event_sample(&self, event_type: &str) -> Option<serde_json::Value>;
    /// [`CommandSet::shape`].
    fn command_shape(&self, command: &str) -> Option<Shape>;
    /// [`CommandSet::json_schema`].
    fn command_json_schema(&self, command: &str) -> Option<serde_json::Value>;
    /// Reads an event of any version and writes it in its current version.
    ///
    /// # Errors
    /// As [`EventSet::decode`].
    fn rewrite_event(&self, event_type: &str, schema: u16, data: &[u8]) -> Result<NewEvent, EventError>;
    /// [`Decider::rejections`].
    fn rejections(&self) -> Vec<(&'static str, &'static str)>;
    /// [`Decider::internal_commands`].
    fn internal_commands(&self) -> &'static [&'static str];
    /// [`Decider::STATE_VERSION`].
    fn state_version(&self) -> u32;
    /// [`DecisionContext::time_zone`] of its decisions.
    fn time_zone(&self) -> &TimeZone;
    /// The same aggregate type with another time zone, in which its days begin.
    fn in_time_zone(&self, time_zone: TimeZone) -> Arc<dyn AggregateType>;
    /// [`Decider::check_id`].
    ///
    /// # Errors
    /// As there.
    fn check_id(&self, id: &str) -> Result<(), Rejection>;
    /// Reads a command.
    ///
    /// # Errors
    /// As [`CommandSet::decode`].
    fn decode_command(&self, envelope: &CommandEnvelope) -> Result<AnyCommand, CommandBodyError>;
    /// The state before any event.
    fn initial(&self) -> AnyState;
    /// A copy of a state of this aggregate.
    fn clone_state(&self, state: &AnyState) -> AnyState;
    /// Decides, and evolves `state` by the resulting events.
    ///
    /// # Errors
    /// A rejection, or a panic of the model. The state is then unchanged.
    fn decide(
        &self,
        state: &mut AnyState,
        command: &AnyCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<NewEvent>, DecisionError>;
    /// [`Decider::partners`] of a command for the aggregate `id`, after a check that all of them are allowed.
    ///
    /// # Errors
    /// A rejection that names the partner that is not allowed, or a panic of the model.
    fn partners(&self, id: &str, command: &AnyCommand) -> Result<Vec<StreamId>, DecisionError>;
    /// Decides a command with partners, and evolves all states by the resulting events. It returns one list of events for each partner.
    ///
    /// # Errors
    /// A rejection or a panic of the model. It is also an error if a partner has events and the aggregate itself has none. The states are
    /// then unchanged.
    fn decide_with_partners(
        &self,
        own: &mut AnyState,
        partners: &mut [&mut AnyState],
        command: &AnyCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<NewEvent>, DecisionError>;
    /// Evolves `state` by a recorded event.
    ///
    /// # Errors
    /// [`EventError`] when the event cannot be read.
    fn evolve(&self, state: &mut AnyState, envelope: &EventEnvelope<'_>) -> Result<(), EventError>;
    /// A snapshot of a state.
    fn encode_state(&self, state: &AnyState) -> Vec<u8>;
    /// Reads a snapshot; `None` when it has another shape.
    fn decode_state(&self, bytes: &[u8]) -> Option<AnyState>;
    /// A state for people to read.
    ///
    /// # Errors
    /// When the state has no JSON form, because it has a map whose keys are neither texts nor numbers.
    fn state_json(&self, state: &AnyState) -> Result<serde_json::Value, serde_json::Error>;
}

/// Wraps a [`Decider`] as an [`AggregateType`].
///
/// `D` is an aggregate of the application, found by the context and the aggregate in the command's subject: `retail.till` is
/// `Till` in `pipeline/model/src/retail/till.rs`, which the list in `pipeline/model/src/retail.rs` names.
struct Erased<D> {
    time_zone: TimeZone,
    decider: std::marker::PhantomData<fn() -> D>,
}

impl<D: Decider> Erased<D> {
    fn new(time_zone: TimeZone) -> Self {
        Self { time_zone, decider: std::marker::PhantomData }
    }

    fn state<'a>(&self, state: &'a AnyState) -> &'a D::State {
        state.downcast_ref().expect("a state is only handed to the aggregate type that made it")
    }

    fn command<'a>(&self, command: &'a AnyCommand) -> &'a D::Command {
        command.downcast_ref().expect("a command is only handed to the aggregate type that decoded it")
    }

    /// Calls the rules and turns a panic of theirs into an error.
    fn ask<T>(&self, question: impl FnOnce() -> T) -> Result<T, DecisionError> {
        std::panic::catch_unwind(AssertUnwindSafe(question)).map_err(|panic| DecisionError::Panicked {
            aggregate: D::AGGREGATE,
            message: panic_text(panic.as_ref()),
        })
    }

    /// Evolves the state by the decided events.
    fn take(&self, state: &mut AnyState, events: &[D::Event]) -> Vec<NewEvent> {
        let state: &mut D::State =
            state.downcast_mut().expect("a state is only handed to the aggregate type that made it");
        for event in events {
            D::evolve(state, event);
        }
        events.iter().map(written).collect()
    }
}

impl<D: Decider> AggregateType for Erased<D> {
    fn context(&self) -> &'static str {
        D::CONTEXT
    }

    fn aggregate(&self) -> &'static str {
        D::AGGREGATE
    }

    fn command_names(&self) -> &'static [&'static str] {
        D::Command::NAMES
    }

    fn event_types(&self) -> &'static [(&'static str, u16)] {
        D::Event::TYPES
    }

    fn event_shape(&self, event_type: &str, body: &serde_json::Value) -> Option<Shape> {
        D::Event::shape(event_type, body)
    }

    fn event_sample(&self, event_type: &str) -> Option<serde_json::Value> {
        D::Event::sample(event_type)
    }

    fn command_shape(&self, command: &str) -> Option<Shape> {
        D::Command::shape(command)
    }

    fn command_json_schema(&self, command: &str) -> Option<serde_json::Value> {
        D::Command::json_schema(command)
    }

    fn rewrite_event(&self, event_type: &str, schema: u16, data: &[u8]) -> Result<NewEvent, EventError> {
        D::Event::decode(event_type, schema, data).map(|event| written(&event))
    }

    fn rejections(&self) -> Vec<(&'static str, &'static str)> {
        D::rejections()
    }

    fn internal_commands(&self) -> &'static [&'static str] {
        D::internal_commands()
    }

    fn state_version(&self) -> u32 {
        D::STATE_VERSION
    }

    fn time_zone(&self) -> &TimeZone {
        &self.time_zone
    }

    fn in_time_zone(&self, time_zone: TimeZone) -> Arc<dyn AggregateType> {
        Arc::new(Self::new(time_zone))
    }

    fn check_id(&self, id: &str) -> Result<(), Rejection> {
        D::check_id(id)
    }

    fn decode_command(&self, envelope: &CommandEnvelope) -> Result<AnyCommand, CommandBodyError> {
        D::Command::decode(&envelope.address.command, envelope.format, &envelope.body)
            .map(|command| Box::new(command) as AnyCommand)
            .map_err(|error| match error {
                CommandBodyError::UnknownCommand { command, known, .. } => {
                    CommandBodyError::UnknownCommand { aggregate: D::AGGREGATE, command, known }
                }
                other => other,
            })
    }

    fn initial(&self) -> AnyState {
        Box::new(D::State::default())
    }

    fn clone_state(&self, state: &AnyState) -> AnyState {
        Box::new(self.state(state).clone())
    }

    fn decide(
        &self,
        state: &mut AnyState,
        command: &AnyCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<NewEvent>, DecisionError> {
        let events = self.ask(|| D::decide(self.state(state), self.command(command), context))??;
        Ok(self.take(state, &events))
    }

    fn partners(&self, id: &str, command: &AnyCommand) -> Result<Vec<StreamId>, DecisionError> {
        Ok(self.ask(|| partners_of::<D>(id, self.command(command)))??)
    }

    fn decide_with_partners(
        &self,
        own: &mut AnyState,
        partners: &mut [&mut AnyState],
        command: &AnyCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<NewEvent>, DecisionError> {
        let together = self.ask(|| {
            let states: Vec<&D::State> = partners.iter().map(|partner| self.state(partner)).collect();
            decide_with_partners::<D>(self.state(own), &states, self.command(command), context)
        })??;
        let changed = partners.iter_mut().zip(&together.partners);
        Ok(EventsWithPartners {
            partners: changed.map(|(partner, events)| self.take(partner, events)).collect(),
            own: self.take(own, &together.own),
        })
    }

    fn evolve(&self, state: &mut AnyState, envelope: &EventEnvelope<'_>) -> Result<(), EventError> {
        let event = D::Event::from_envelope(envelope)?;
        let state = state.downcast_mut().expect("a state is only handed to the aggregate type that made it");
        D::evolve(state, &event);
        Ok(())
    }

    fn encode_state(&self, state: &AnyState) -> Vec<u8> {
        rmp_serde::to_vec(self.state(state)).expect("states hold only plain data")
    }

    fn decode_state(&self, bytes: &[u8]) -> Option<AnyState> {
        message_pack::from_slice::<D::State>(bytes).ok().map(|state| Box::new(state) as AnyState)
    }

    fn state_json(&self, state: &AnyState) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self.state(state))
    }
}

fn written<E: EventSet>(event: &E) -> NewEvent {
    let (event_type, schema) = event.event_type();
    NewEvent { event_type, schema, data: event.encode() }
}

/// All aggregates that a process of the operating system knows.
#[derive(Clone)]
pub struct AggregateRegistry {
    time_zone: TimeZone,
    types: BTreeMap<&'static str, BTreeMap<&'static str, Arc<dyn AggregateType>>>,
}

impl Default for AggregateRegistry {
    fn default() -> Self {
        Self { time_zone: TimeZone::UTC, types: BTreeMap::new() }
    }
}

impl AggregateRegistry {
    /// A registry without aggregates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a decider; a second one for the same aggregate replaces the first.
    #[must_use]
    pub fn with<D: Decider>(mut self) -> Self {
        let aggregate = Arc::new(Erased::<D>::new(self.time_zone.clone()));
        self.types.entry(D::CONTEXT).or_default().insert(D::AGGREGATE, aggregate);
        self
    }

    /// Sets the time zone in which the days of all aggregates begin, including those that are added later. The default is UTC.
    #[must_use]
    pub fn in_time_zone(mut self, time_zone: TimeZone) -> Self {
        for aggregate in self.types.values_mut().flat_map(BTreeMap::values_mut) {
            *aggregate = aggregate.in_time_zone(time_zone.clone());
        }
        self.time_zone = time_zone;
        self
    }

    /// The aggregate type, if known.
    pub fn get(&self, context: &str, aggregate: &str) -> Option<&Arc<dyn AggregateType>> {
        self.types.get(context)?.get(aggregate)
    }

    /// All of them, by context and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn AggregateType>> {
        self.types.values().flat_map(BTreeMap::values)
    }
}

impl fmt::Debug for AggregateRegistry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter().map(|each| (each.context(), each.aggregate()))).finish()
    }
}
