//! Tests of deciders: given events, when a command, then events or a rejection.
//!
//! Every step goes the way of the engine: what was recorded is encoded and decoded before it evolves the state, and the
//! events of a decision evolve it too, so that steps can follow each other. No broker and no clock: the time of a
//! decision is [`Given::at`].

use std::fmt::Debug;

use jiff::Timestamp;

use super::declared::assert_declared;
use crate::{
    contract::command::BodyFormat,
    decider::{ANY_COMMAND, CommandSet, Decider, DecisionContext, EventSet, Rejection},
};

/// An aggregate with a past.
pub struct Given<D: Decider> {
    id: String,
    state: D::State,
    now: Timestamp,
    actor: Option<String>,
    position: u64,
}

/// What came of a command.
pub struct Then<D: Decider> {
    given: Given<D>,
    result: Result<Vec<D::Event>, Rejection>,
}

/// An aggregate of `id` in whose past `events` happened.
///
/// # Panics
/// When an event does not survive encoding.
pub fn given<D: Decider>(id: &str, events: impl IntoIterator<Item = D::Event>) -> Given<D> {
    let mut given = Given {
        id: id.to_owned(),
        state: D::State::default(),
        now: Timestamp::UNIX_EPOCH,
        actor: None,
        position: 1,
    };
    for event in events {
        given.record(&event);
    }
    given
}

impl<D: Decider> Given<D> {
    /// Sets the time of the decisions that follow; 1970 at first.
    ///
    /// # Panics
    /// When `time` is not RFC 3339.
    #[must_use]
    pub fn at(mut self, time: &str) -> Self {
        self.now = time.parse().expect("the test gives a time in RFC 3339");
        self
    }

    /// Sets who asks from here on.
    #[must_use]
    pub fn by(mut self, actor: &str) -> Self {
        self.actor = Some(actor.to_owned());
        self
    }

    /// Decides a command.
    ///
    /// # Panics
    /// When it is refused with a code that [`Decider::rejections`] does not have.
    pub fn when(self, command: &D::Command) -> Then<D> {
        self.decide(None, command)
    }

    fn decide(self, name: Option<&str>, command: &D::Command) -> Then<D> {
        let result = D::check_id(&self.id).and_then(|()| {
            let context = DecisionContext {
                aggregate_id: &self.id,
                now: self.now,
                actor: self.actor.as_deref(),
                command_position: self.position,
            };
            D::decide(&self.state, command, &context)
        });
        if let Err(rejection) = &result {
            assert_declared(&D::rejections(), D::AGGREGATE, name, rejection);
        }
        Then { given: self, result }
    }

    /// Decides a command as a person types it.
    ///
    /// # Panics
    /// When the body does not have the command's fields, or it is refused with a code that [`Decider::rejections`] does
    /// not have for it.
    pub fn when_typed(self, command: &str, body: &str) -> Then<D> {
        let decoded = D::Command::decode(command, BodyFormat::Json, body.as_bytes())
            .unwrap_or_else(|error| panic!("{command} {body}: {error}"));
        self.decide(Some(command), &decoded)
    }

    /// What the rules know now.
    pub fn state(&self) -> &D::State {
        &self.state
    }

    fn record(&mut self, event: &D::Event) {
        let (event_type, schema) = event.event_type();
        let event = D::Event::decode(event_type, schema, &event.encode())
            .unwrap_or_else(|error| panic!("an encoded event must decode: {error}"));
        D::evolve(&mut self.state, &event);
    }
}

impl<D: Decider> Then<D>
where
    D::Event: Debug + PartialEq,
{
    /// Demands exactly these events, and goes on after them.
    ///
    /// # Panics
    /// When other events or a rejection came.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = D::Event>) -> Given<D> {
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(self.result, Ok(expected));
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

    /// Demands acceptance, whatever the events, and goes on after them.
    ///
    /// # Panics
    /// When a rejection came.
    #[track_caller]
    pub fn then_accepted(mut self) -> Given<D> {
        match &self.result {
            Ok(events) => {
                for event in events {
                    self.given.record(event);
                }
                self.given.position += 1;
                self.given
            }
            Err(rejection) => panic!("rejected with {}: {rejection}", rejection.code),
        }
    }

    /// Demands a rejection with `code`, and goes on as if the command had not been.
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

    /// The events or the rejection, for assertions of a test's own.
    pub fn result(&self) -> &Result<Vec<D::Event>, Rejection> {
        &self.result
    }
}

/// Demands that each of `cases` (an aggregate with a past, a command and its body, a code) is refused with its code, and
/// that together they provoke every code that the aggregate declares, for each command that can get it.
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
