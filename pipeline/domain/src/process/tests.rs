//! What the engine adds to the effects of a process.

use serde::Deserialize;

use super::*;
use crate::{
    decider::{DecisionContext, EventSet, Rejection},
    testing::{memory_rows::MemoryRows, project::History},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Knock {
    times: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Knocked {
    times: u32,
}

crate::commands! {
    enum DoorCommand { Knock(Knock) = "knock" }
}

crate::events! {
    enum DoorEvent of "door" { Knocked(Knocked) = "knocked" v 1 }
}

struct Door;

impl Decider for Door {
    type Command = DoorCommand;
    type Event = DoorEvent;
    type State = ();

    const CONTEXT: &'static str = "house";
    const AGGREGATE: &'static str = "door";

    fn decide(
        _state: &(),
        command: &DoorCommand,
        _context: &DecisionContext<'_>,
    ) -> Result<Vec<DoorEvent>, Rejection> {
        let DoorCommand::Knock(knock) = command;
        Ok(vec![DoorEvent::Knocked(Knocked { times: knock.times })])
    }

    fn evolve(_state: &mut (), _event: &DoorEvent) {}
}

/// Answers a knock with one knock less, now and later.
struct Echo {
    timer: &'static str,
}

impl Process for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        (context, aggregate) == ("house", "door")
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let DoorEvent::Knocked(knocked) = DoorEvent::from_envelope(envelope)?;
        let command = ProcessCommand::to::<Door>(
            envelope.stream_id.id(),
            "knock",
            &Knock { times: knocked.times - 1 },
        )?;
        Ok(vec![
            Effect::CancelTimer(self.timer.into()),
            Effect::Send(command.clone()),
            Effect::SetTimer(Timer { name: self.timer.into(), at: envelope.recorded_at, command }),
        ])
    }
}

fn answers(timer: &'static str) -> Result<Vec<IssuedEffect>, ProcessError> {
    let mut history = History::new("house");
    history.add("door", "front", [3, 2].map(|times| DoorEvent::Knocked(Knocked { times })));
    let mut effects = Vec::new();
    for envelope in history.commits().iter().flat_map(|commit| commit.envelopes()) {
        effects.extend(react(&Echo { timer }, &envelope, &mut MemoryRows::new())?);
    }
    Ok(effects)
}

#[test]
fn commands_carry_an_id_of_their_place_and_what_caused_them() {
    let effects = answers("later").unwrap();
    assert_eq!(effects.len(), 6);
    let IssuedEffect::Send(sent) = &effects[4] else { panic!("{:?}", effects[4]) };
    assert_eq!(
        (sent.id.as_str(), sent.actor.as_str(), sent.correlation_id.as_str(), sent.causation_id.as_str()),
        ("echo:1.2.1", "process:echo", "command-1", "house.door.front/2")
    );
    assert_eq!(sent.command.address.to_string(), "house.door.front.knock");
    assert_eq!(sent.command.body, br#"{"times":1}"#);
    let IssuedEffect::SetTimer { name, command, .. } = &effects[5] else { panic!("{:?}", effects[5]) };
    assert_eq!((name.as_str(), command.id.as_str()), ("echo:later", "echo:1.2.2"));
    assert_eq!(effects[3], IssuedEffect::CancelTimer { name: "echo:later".into() });
}

#[test]
fn same_events_give_the_same_effects() {
    assert_eq!(answers("later").unwrap(), answers("later").unwrap());
}

#[test]
fn timer_names_must_fit_a_subject() {
    assert!(matches!(answers("not allowed"), Err(ProcessError::TimerName { .. })));
}

/// Answers each knock of one aggregate; the short form.
struct Counter;

impl AggregateProcess for Counter {
    type Aggregate = Door;
    const NAME: &'static str = "counter";

    fn answer(
        &self,
        DoorEvent::Knocked(knocked): DoorEvent,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        Ok(vec![Effect::CancelTimer(format!("{}:{}", envelope.stream_id.id(), knocked.times))])
    }
}

#[test]
fn short_form_handles_its_aggregate_alone_and_gets_decoded_events() {
    let process: &dyn Process = &Counter;
    assert_eq!((process.name(), process.version(), process.tables().len()), ("counter", 1, 0));
    assert!(process.handles("house", "door") && !process.handles("house", "window"));
    assert!(!process.handles("street", "door"));
    let mut history = History::new("house");
    history.add("door", "front", [DoorEvent::Knocked(Knocked { times: 3 })]);
    let commit = &history.commits()[0];
    let envelope = commit.envelopes().next().unwrap();
    let effects = process.react(&envelope, &mut MemoryRows::new()).unwrap();
    assert_eq!(effects, [Effect::CancelTimer("front:3".into())]);
}
