//! Tests of deciders: given events, when a command, then events or a rejection.
//!
//! Every step works like the engine: events are encoded and decoded before they evolve the state, and the events of a decision evolve it,
//! too, so that steps can follow each other. There is no broker and no clock: [`Given::at`] sets the time of a decision.

use std::{collections::BTreeMap, fmt::Debug};

use jiff::{Timestamp, tz::TimeZone};
use millstream_contract::{
    command::BodyFormat,
    subject::{CommandAddress, Origin, StreamId},
};

use super::declared::assert_declared;
use crate::decider::{
    ANY_COMMAND, CommandSet, Decider, DecisionContext, EventSet, EventsWithPartners, Rejection, check_origin,
    decide_with_partners, partners_of,
};

/// An aggregate with a past.
pub struct Given<D: Decider> {
    id: String,
    state: D::State,
    others: BTreeMap<String, D::State>,
    now: Timestamp,
    time_zone: TimeZone,
    actor: Option<String>,
    position: u64,
}

/// The result of a command.
pub struct Then<D: Decider> {
    given: Given<D>,
    result: Result<Vec<D::Event>, Rejection>,
    partners: Vec<(String, Vec<D::Event>)>,
}

/// An aggregate with the id `id` and the past events `events`.
///
/// # Panics
/// When an event does not survive encoding.
pub fn given<D: Decider>(id: &str, events: impl IntoIterator<Item = D::Event>) -> Given<D> {
    let mut given = Given {
        id: id.to_owned(),
        state: D::State::default(),
        others: BTreeMap::new(),
        now: Timestamp::UNIX_EPOCH,
        time_zone: TimeZone::UTC,
        actor: None,
        position: 1,
    };
    for event in events {
        record::<D>(&mut given.state, &event);
    }
    given
}

impl<D: Decider> Given<D> {
    /// Sets the time of the decisions that follow. The default is in 1970.
    ///
    /// # Panics
    /// When `time` is not RFC 3339.
    #[must_use]
    pub fn at(mut self, time: &str) -> Self {
        self.now = time.parse().expect("the test gives a time in RFC 3339");
        self
    }

    /// Sets the time zone in which days begin from here on. The default is UTC.
    ///
    /// # Panics
    /// When there is no time zone of that name.
    #[must_use]
    pub fn in_time_zone(mut self, name: &str) -> Self {
        self.time_zone = TimeZone::get(name).expect("the test names a time zone that there is");
        self
    }

    /// Sets who asks from here on.
    #[must_use]
    pub fn by(mut self, actor: &str) -> Self {
        self.actor = Some(actor.to_owned());
        self
    }

    /// Adds another aggregate of the same type, with the past events `events`, for commands with [`Decider::partners`]. An aggregate that
    /// is not added has no past.
    ///
    /// # Panics
    /// When an event does not survive encoding.
    #[must_use]
    pub fn beside(mut self, id: &str, events: impl IntoIterator<Item = D::Event>) -> Self {
        let state = self.others.entry(id.to_owned()).or_default();
        for event in events {
            record::<D>(state, &event);
        }
        self
    }

    /// Decides a command by the rules alone, whoever sent it.
    ///
    /// # Panics
    /// When it is refused with a code that [`Decider::rejections`] does not have.
    pub fn when(self, command: &D::Command) -> Then<D> {
        self.decide(None, Origin::Effect, command)
    }

    fn decide(self, name: Option<&str>, origin: Origin, command: &D::Command) -> Then<D> {
        let partners = D::check_id(&self.id)
            .and_then(|()| self.check_origin(name, origin))
            .and_then(|()| partners_of::<D>(&self.id, command));
        let decided = partners.and_then(|partners| Ok((self.ask(&partners, command)?, partners)));
        match decided {
            Ok((together, partners)) => {
                let ids = partners.iter().map(|partner| partner.id().to_owned());
                let partners = ids.zip(together.partners).collect();
                Then { given: self, result: Ok(together.own), partners }
            }
            Err(rejection) => {
                assert_declared(&D::rejections(), D::AGGREGATE, name, &rejection);
                Then { given: self, result: Err(rejection), partners: Vec::new() }
            }
        }
    }

    fn ask(
        &self,
        partners: &[StreamId],
        command: &D::Command,
    ) -> Result<EventsWithPartners<D::Event>, Rejection> {
        let context = DecisionContext {
            aggregate_id: &self.id,
            now: self.now,
            actor: self.actor.as_deref(),
            command_position: self.position,
            time_zone: &self.time_zone,
        };
        if partners.is_empty() {
            let own = D::decide(&self.state, command, &context)?;
            return Ok(EventsWithPartners { own, partners: Vec::new() });
        }
        let new = D::State::default();
        let states: Vec<&D::State> =
            partners.iter().map(|partner| self.others.get(partner.id()).unwrap_or(&new)).collect();
        decide_with_partners::<D>(&self.state, &states, command, &context)
    }

    fn check_origin(&self, name: Option<&str>, origin: Origin) -> Result<(), Rejection> {
        let Some(command) = name else { return Ok(()) };
        let address = CommandAddress::new(D::CONTEXT, D::AGGREGATE, &self.id, command)
            .unwrap_or_else(|error| panic!("{}: {error}", self.id));
        check_origin(D::internal_commands(), &address, origin)
    }

    /// Decides a command as a person types it: one of [`Decider::internal_commands`] is refused.
    ///
    /// # Panics
    /// When the body does not have the command's fields, or it is refused with a code that [`Decider::rejections`] does
    /// not have for it.
    pub fn when_typed(self, command: &str, body: &str) -> Then<D> {
        self.decide_written(Origin::Sender, command, body)
    }

    /// Decides a command as a process or a timer gives it.
    ///
    /// # Panics
    /// As [`Self::when_typed`].
    pub fn when_effect(self, command: &str, body: &str) -> Then<D> {
        self.decide_written(Origin::Effect, command, body)
    }

    fn decide_written(self, origin: Origin, command: &str, body: &str) -> Then<D> {
        let decoded = D::Command::decode(command, BodyFormat::Json, body.as_bytes())
            .unwrap_or_else(|error| panic!("{command} {body}: {error}"));
        self.decide(Some(command), origin, &decoded)
    }

    /// The current state.
    pub fn state(&self) -> &D::State {
        &self.state
    }
}

fn record<D: Decider>(state: &mut D::State, event: &D::Event) {
    let (event_type, schema) = event.event_type();
    let event = D::Event::decode(event_type, schema, &event.encode())
        .unwrap_or_else(|error| panic!("an encoded event must decode: {error}"));
    D::evolve(state, &event);
}

impl<D: Decider> Then<D>
where
    D::Event: Debug + PartialEq,
{
    /// Demands exactly these events, and continues after them.
    ///
    /// # Panics
    /// When other events or a rejection came, or another aggregate has changed too.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = D::Event>) -> Given<D> {
        self.then_together(expected, [])
    }

    /// Demands exactly these events in the aggregate itself and, by id, in others, and continues after them.
    ///
    /// # Panics
    /// When other events or a rejection came.
    #[track_caller]
    pub fn then_together<'a>(
        self,
        own: impl IntoIterator<Item = D::Event>,
        others: impl IntoIterator<Item = (&'a str, Vec<D::Event>)>,
    ) -> Given<D> {
        let own: Vec<_> = own.into_iter().collect();
        assert_eq!(self.result.as_ref(), Ok(&own));
        let others: Vec<_> = others.into_iter().collect();
        let others: Vec<_> = others.iter().map(|(id, events)| (*id, events)).collect();
        let changed = self.partners.iter().filter(|(_, events)| !events.is_empty());
        assert_eq!(changed.map(|(id, events)| (id.as_str(), events)).collect::<Vec<_>>(), others);
        self.then_accepted()
    }

    /// Demands acceptance without any event.
    ///
    /// # Panics
    /// When there are events, or a rejection came.
    #[track_caller]
    pub fn then_nothing(self) -> Given<D> {
        self.then([])
    }

    /// Demands acceptance, with any events, and continues after them.
    ///
    /// # Panics
    /// When a rejection came.
    #[track_caller]
    pub fn then_accepted(mut self) -> Given<D> {
        match &self.result {
            Ok(events) => {
                for event in events {
                    record::<D>(&mut self.given.state, event);
                }
                for (id, events) in self.partners {
                    self.given = self.given.beside(&id, events);
                }
                self.given.position += 1;
                self.given
            }
            Err(rejection) => panic!("rejected with {}: {rejection}", rejection.code),
        }
    }

    /// Demands a rejection with `code`, and continues as if the command had not been sent.
    ///
    /// # Panics
    /// When events or another rejection came.
    #[track_caller]
    pub fn then_rejected(self, code: &str) -> Given<D> {
        match &self.result {
            Err(rejection) => assert_eq!(rejection.code, code, "{rejection}"),
            Ok(events) => panic!("expected the rejection {code}, got {events:?}"),
        }
        self.given
    }

    /// The events or the rejection, for a test's own assertions.
    pub fn result(&self) -> &Result<Vec<D::Event>, Rejection> {
        &self.result
    }
}

/// Demands that each of `cases` (an aggregate with a past, a command, its body, and a code) is refused with its code. Together the cases
/// must provoke every code that the aggregate declares, for each command that can get it.
///
/// # Panics
/// When one is not, or a code is provoked by none.
pub fn assert_every_rejection_is_provoked<'a, D: Decider>(
    cases: impl IntoIterator<Item = (Given<D>, &'a str, &'a str, &'a str)>,
) where
    D::Event: Debug + PartialEq,
{
    let mut met = Vec::new();
    for (given, command, body, code) in cases {
        given.when_typed(command, body).then_rejected(code);
        met.push((command, code));
    }
    for (command, code) in D::rejections() {
        let commands: &[&str] = if command == ANY_COMMAND { D::Command::NAMES } else { &[command] };
        for command in commands {
            assert!(met.contains(&(command, code)), "nothing provokes {code} of {command}");
        }
    }
}
