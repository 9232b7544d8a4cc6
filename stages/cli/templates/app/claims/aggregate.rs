//! `{{aggregate}}.<{{aggregate}}>`: what has a number that no other one has.
//!
//! Whether the number is free is found out after it was asked for, by the process `{{aggregate}}-number`. Who has closed may open again,
//! with this number or another.

use millstream::{prelude::*, values::reference::check_label};

millstream::commands! {
    /// What can be asked.
    pub enum {{Aggregate}}Command {
        /// Asks for it under a number. The same number again changes nothing.
        Open {
            /// Only one has it.
            number: String,
        } = "open",
        /// The number is its own; from the process `{{aggregate}}-number`.
        ConfirmNumber {
            /// Which.
            number: String,
        } = "confirm-number",
        /// Another one has the number; from the process `{{aggregate}}-number`.
        RejectNumber {
            /// Which.
            number: String,
        } = "reject-number",
        /// Closes it and gives the number back. Again changes nothing.
        Close {} = "close",
    }
}

millstream::events! {
    /// What can happen.
    pub enum {{Aggregate}}Event of "{{aggregate}}" {
        /// It was asked for.
        Asked {
            /// The number.
            number: String,
        } = "{{aggregate}}-asked" v 1,
        /// It is open, and has the number.
        Opened {
            /// The number.
            number: String,
        } = "{{aggregate}}-opened" v 1,
        /// Another one has the number.
        Refused {
            /// The number.
            number: String,
        } = "{{aggregate}}-refused" v 1,
        /// It was closed.
        Closed {
            /// The number, which is free again.
            number: String,
        } = "{{aggregate}}-closed" v 1,
    }
}

millstream::rejections! {
    /// Why a command is refused.
    pub enum {{Aggregate}}Rejection {
        /// It has another number.
        NumberDiffers { id: String, number: String } = "number-differs" on ["open"]:
            "{{aggregate}} {id} has the number {number}; close it first",
    }
    also { ["number-not-allowed"] on ["open"] }
}

millstream::data! {
    /// What the rules need to know.
    #[derive(Default)]
    pub struct {{Aggregate}}State {
        /// The number, from when it was asked for.
        number: Option<String>,
        open: bool,
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

    fn decide(
        state: &{{Aggregate}}State,
        command: &{{Aggregate}}Command,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<{{Aggregate}}Event>, Rejection> {
        let has = |number: &String| state.number.as_ref() == Some(number);
        let id = context.aggregate_id.to_owned();
        match (command, &state.number) {
            ({{Aggregate}}Command::Open(Open { number }), None) => {
                check_label("number-not-allowed", "number", number)?;
                Ok(vec![Asked { number: number.clone() }.into()])
            }
            ({{Aggregate}}Command::Open(open), Some(number)) if open.number != *number => {
                Err({{Aggregate}}Rejection::NumberDiffers { id, number: number.clone() }.into())
            }
            ({{Aggregate}}Command::ConfirmNumber(ConfirmNumber { number }), _) if has(number) && !state.open => {
                Ok(vec![Opened { number: number.clone() }.into()])
            }
            ({{Aggregate}}Command::RejectNumber(RejectNumber { number }), _) if has(number) => {
                Ok(vec![Refused { number: number.clone() }.into()])
            }
            ({{Aggregate}}Command::Close(_), Some(number)) => Ok(vec![Closed { number: number.clone() }.into()]),
            _ => Ok(vec![]),
        }
    }

    fn evolve(state: &mut {{Aggregate}}State, event: &{{Aggregate}}Event) {
        match event {
            {{Aggregate}}Event::Asked(Asked { number }) => state.number = Some(number.clone()),
            {{Aggregate}}Event::Opened(_) => state.open = true,
            {{Aggregate}}Event::Refused(_) | {{Aggregate}}Event::Closed(_) => *state = {{Aggregate}}State::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};

    use super::*;

    const NUMBER: &str = r#"{"number":"N-1"}"#;

    fn {{aggregate_module}}(events: impl IntoIterator<Item = {{Aggregate}}Event>) -> Given<{{Aggregate}}> {
        given::<{{Aggregate}}>("A-1", events)
    }

    fn asked() -> {{Aggregate}}Event {
        Asked { number: "N-1".into() }.into()
    }

    #[test]
    fn it_opens_once_the_number_is_confirmed() {
        {{aggregate_module}}([])
            .when_typed("open", NUMBER)
            .then([asked()])
            .when_typed("open", NUMBER)
            .then_nothing()
            .when_typed("confirm-number", NUMBER)
            .then([Opened { number: "N-1".into() }.into()])
            .when_typed("confirm-number", NUMBER)
            .then_nothing()
            .when_typed("close", "")
            .then([Closed { number: "N-1".into() }.into()])
            .when_typed("reject-number", NUMBER)
            .then_nothing();
    }

    #[test]
    fn every_rejection_is_provoked() {
        assert_every_rejection_is_provoked([
            ({{aggregate_module}}([]), "open", r#"{"number":" "}"#, "number-not-allowed"),
            ({{aggregate_module}}([asked()]), "open", r#"{"number":"N-2"}"#, "number-differs"),
        ]);
    }
}
