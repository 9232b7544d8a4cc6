//! `{{aggregate}}.<{{aggregate}}>`: opened, then settled in time, or expired.

use millstream::prelude::*;

millstream::commands! {
    /// What can be asked.
    pub enum {{Aggregate}}Command {
        /// Opens it. Again changes nothing.
        Open {} = "open",
        /// Settles it. Again changes nothing.
        Settle {} = "settle",
        /// Its time is over; only the process sends it. Changes nothing where it is settled.
        Expire {} = "expire",
    }
}

millstream::events! {
    /// What can happen.
    pub enum {{Aggregate}}Event of "{{aggregate}}" {
        /// It was opened.
        Opened {} = "{{aggregate}}-opened" v 1,
        /// It was settled in time.
        Settled {} = "{{aggregate}}-settled" v 1,
        /// Nobody settled it in time.
        Expired {} = "{{aggregate}}-expired" v 1,
    }
}

millstream::rejections! {
    /// Why a command is refused.
    pub enum {{Aggregate}}Rejection {
        /// Nobody has opened it.
        NotOpened { id: String } = "{{aggregate}}-not-opened" on ["settle"]: "there is no {{aggregate}} {id}; open it first",
        /// Its time is over.
        TooLate { id: String } = "{{aggregate}}-expired" on ["settle"]: "{{aggregate}} {id} has expired; open another one",
    }
}

millstream::data! {
    /// What the rules need to know.
    #[derive(Default)]
    pub enum {{Aggregate}}State {
        /// Nobody has opened it.
        #[default]
        New,
        /// It waits to be settled.
        Open,
        /// It was settled.
        Settled,
        /// It was not.
        Expired,
    }
}

/// The rules of `{{aggregate}}.<{{aggregate}}>`.
#[derive(Debug)]
pub struct {{Aggregate}};

impl Decider for {{Aggregate}} {
    type Command = {{Aggregate}}Command;
    type Event = {{Aggregate}}Event;
    type State = {{Aggregate}}State;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "{{aggregate}}";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        {{Aggregate}}Rejection::declared()
    }

    fn internal_commands() -> &'static [&'static str] {
        &["expire"]
    }

    fn decide(
        state: &{{Aggregate}}State,
        command: &{{Aggregate}}Command,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<{{Aggregate}}Event>, Rejection> {
        let id = context.aggregate_id.to_owned();
        match (command, state) {
            ({{Aggregate}}Command::Open(_), {{Aggregate}}State::New) => Ok(vec![Opened {}.into()]),
            ({{Aggregate}}Command::Settle(_), {{Aggregate}}State::Open) => Ok(vec![Settled {}.into()]),
            ({{Aggregate}}Command::Expire(_), {{Aggregate}}State::Open) => Ok(vec![Expired {}.into()]),
            ({{Aggregate}}Command::Settle(_), {{Aggregate}}State::New) => Err({{Aggregate}}Rejection::NotOpened { id }.into()),
            ({{Aggregate}}Command::Settle(_), {{Aggregate}}State::Expired) => Err({{Aggregate}}Rejection::TooLate { id }.into()),
            _ => Ok(vec![]),
        }
    }

    fn evolve(state: &mut {{Aggregate}}State, event: &{{Aggregate}}Event) {
        *state = match event {
            {{Aggregate}}Event::Opened(_) => {{Aggregate}}State::Open,
            {{Aggregate}}Event::Settled(_) => {{Aggregate}}State::Settled,
            {{Aggregate}}Event::Expired(_) => {{Aggregate}}State::Expired,
        };
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};

    use super::*;

    fn {{aggregate_module}}(events: impl IntoIterator<Item = {{Aggregate}}Event>) -> Given<{{Aggregate}}> {
        given::<{{Aggregate}}>("A-1", events)
    }

    #[test]
    fn what_is_settled_does_not_expire() {
        {{aggregate_module}}([])
            .when_effect("expire", "")
            .then_nothing()
            .when_typed("open", "")
            .then([Opened {}.into()])
            .when_typed("settle", "")
            .then([Settled {}.into()])
            .when_typed("settle", "")
            .then_nothing()
            .when_effect("expire", "")
            .then_nothing();
    }

    #[test]
    fn every_rejection_is_provoked() {
        let expired = {{aggregate_module}}([Opened {}.into(), Expired {}.into()]);
        assert_every_rejection_is_provoked([
            ({{aggregate_module}}([]), "settle", "", "{{aggregate}}-not-opened"),
            (expired, "settle", "", "{{aggregate}}-expired"),
        ]);
    }
}
