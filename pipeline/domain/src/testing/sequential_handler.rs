//! A command handler without a broker, reduced to its result: commands are decided one after the other, each in a commit of its own. It is
//! for property tests of models, and is the simple model with which a real handler is compared. It has no ids, no duplicates and no rounds.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::{BodyFormat, CommandEnvelope},
    commit::RecordedEvent,
    subject::{COMMAND_PREFIX, CommandAddress, Origin, StreamId},
};

use super::{declared::assert_declared, project::History};
use crate::decider::{
    AggregateRegistry, AggregateType, DecisionContext, DecisionError, NewEvent, PlainStates, Rejection,
    check_origin,
};

/// Decides commands of any aggregate of a registry.
pub struct SequentialHandler {
    registry: AggregateRegistry,
    states: PlainStates,
    history: History,
    position: u64,
}

impl SequentialHandler {
    /// A handler before any command.
    pub fn new(registry: AggregateRegistry, context: &'static str) -> Self {
        Self { registry, states: PlainStates::default(), history: History::new(context), position: 0 }
    }

    /// Decides a command as a person types it, at `time`: `address` is `<context>.<aggregate>.<id>.<command>`. A command that only
    /// processes may give is refused.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the address or the body is malformed, the model panics, or it refuses with a code that it does not declare.
    pub fn decide(&mut self, address: &str, body: &str, time: Timestamp) -> Result<Vec<NewEvent>, Rejection> {
        self.decide_by(None, address, body, time)
    }

    /// [`Self::decide`] on behalf of someone.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the address or the body is malformed, the model panics, or it refuses with a code that it does not declare.
    pub fn decide_by(
        &mut self,
        actor: Option<&str>,
        address: &str,
        body: &str,
        time: Timestamp,
    ) -> Result<Vec<NewEvent>, Rejection> {
        self.decide_from(Origin::Sender, actor, address, body, time)
    }

    /// The same as [`Self::decide_by`], for whoever may give the command: as a process if nobody else may.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the address or the body is malformed, the model panics, or it refuses with a code that it does not declare.
    pub fn decide_as_allowed(
        &mut self,
        actor: Option<&str>,
        address: &str,
        body: &str,
        time: Timestamp,
    ) -> Result<Vec<NewEvent>, Rejection> {
        let parsed = parse(address);
        let internal = self.aggregate(&parsed.stream_id).internal_commands().contains(&&*parsed.command);
        if internal {
            return self.decide_effect(address, body, time);
        }
        self.decide_by(actor, address, body, time)
    }

    /// [`Self::decide`] as a process or a timer gives it.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the address or the body is malformed, the model panics, or it refuses with a code that it does not declare.
    pub fn decide_effect(
        &mut self,
        address: &str,
        body: &str,
        time: Timestamp,
    ) -> Result<Vec<NewEvent>, Rejection> {
        self.decide_from(Origin::Effect, None, address, body, time)
    }

    fn decide_from(
        &mut self,
        origin: Origin,
        actor: Option<&str>,
        address: &str,
        body: &str,
        time: Timestamp,
    ) -> Result<Vec<NewEvent>, Rejection> {
        let address = parse(address);
        let result = self.decide_undeclared(origin, actor, &address, body, time);
        if let Err(rejection) = &result {
            let aggregate = self.aggregate(&address.stream_id);
            let command = Some(&*address.command);
            assert_declared(&aggregate.rejections(), aggregate.aggregate(), command, rejection);
        }
        result
    }

    fn decide_undeclared(
        &mut self,
        origin: Origin,
        actor: Option<&str>,
        address: &CommandAddress,
        body: &str,
        time: Timestamp,
    ) -> Result<Vec<NewEvent>, Rejection> {
        let stream_id = address.stream_id.clone();
        let aggregate = self.aggregate(&stream_id);
        self.position += 1;
        let envelope = CommandEnvelope {
            id: None,
            position: self.position,
            stored_at: time,
            address: address.clone(),
            origin,
            format: BodyFormat::Json,
            body: Bytes::copy_from_slice(body.as_bytes()),
            actor: actor.map(Into::into),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            expected_version: None,
            reply: None,
        };
        let command = aggregate.decode_command(&envelope).unwrap_or_else(|error| panic!("{body}: {error}"));
        aggregate.check_id(stream_id.id())?;
        check_origin(aggregate.internal_commands(), &envelope.address, origin)?;
        let context = DecisionContext {
            aggregate_id: stream_id.id(),
            now: time,
            actor,
            command_position: self.position,
            time_zone: aggregate.time_zone(),
        };
        let decided = aggregate.partners(stream_id.id(), &command).and_then(|partners| {
            let together = self.states.decide(&aggregate, &stream_id, &partners, &command, &context)?;
            Ok((partners, together))
        });
        let (partners, together) = match decided {
            Ok(decided) => decided,
            Err(DecisionError::Rejected(rejection)) => return Err(rejection),
            Err(error @ DecisionError::Panicked { .. }) => panic!("{error}"),
        };
        for (partner, events) in
            partners.iter().zip(&together.partners).filter(|(_, events)| !events.is_empty())
        {
            self.history.set_now(time).push(partner, events.iter().map(recorded).collect());
        }
        let events = together.own;
        if !events.is_empty() {
            self.history.set_now(time).push(&stream_id, events.iter().map(recorded).collect());
        }
        Ok(events)
    }

    /// Everything that was accepted.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Demands that the state of each aggregate, as deciding left it, equals the state to which its recorded events lead, and that it
    /// survives being stored as a snapshot.
    ///
    /// # Panics
    /// When one does not.
    pub fn assert_replay_equals_incremental(&self) {
        for (stream_id, state) in self.states.iter() {
            let aggregate = self.aggregate(stream_id);
            let mut replayed = aggregate.initial();
            for commit in self.history.commits().iter().filter(|commit| commit.stream_id == *stream_id) {
                for envelope in commit.envelopes() {
                    aggregate
                        .evolve(&mut replayed, &envelope)
                        .unwrap_or_else(|error| panic!("{stream_id}: {error}"));
                }
            }
            let snapshot = aggregate.encode_state(state);
            assert_eq!(aggregate.encode_state(&replayed), snapshot, "{stream_id} replayed");
            let restored = aggregate.decode_state(&snapshot).expect("a snapshot just made decodes");
            assert_eq!(aggregate.encode_state(&restored), snapshot, "{stream_id} from its snapshot");
        }
    }

    fn aggregate(&self, stream_id: &StreamId) -> Arc<dyn AggregateType> {
        let aggregate = self.registry.get(stream_id.context(), stream_id.aggregate());
        Arc::clone(aggregate.unwrap_or_else(|| panic!("{stream_id} is of no known aggregate")))
    }
}

/// `<context>.<aggregate>.<id>.<command>`.
fn parse(address: &str) -> CommandAddress {
    CommandAddress::from_subject(&format!("{COMMAND_PREFIX}.{address}")).expect("the address is allowed")
}

fn recorded(event: &NewEvent) -> RecordedEvent {
    RecordedEvent {
        event_type: event.event_type.into(),
        schema: event.schema,
        data: event.data.clone(),
        command: 0,
    }
}
