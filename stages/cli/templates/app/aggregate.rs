//! `{{aggregate}}.<{{aggregate}}>`: what it is, and what can happen to it.
//!
//! What is removed stays removed; its id is not used again.

use millstream::prelude::*;

millstream::commands! {
    /// What can be asked.
    pub enum {{Aggregate}}Command {
        /// Adds it. The same title again changes nothing.
        Add {
            /// What people call it.
            title: String,
        } = "add",
        /// Calls it something else. The same title again changes nothing.
        Rename {
            /// What people call it from now on.
            title: String,
        } = "rename",
        /// Takes it away. Again changes nothing.
        Remove {} = "remove",
    }
}

millstream::events! {
    /// What can happen.
    pub enum {{Aggregate}}Event of "{{aggregate}}" {
        /// It was added.
        Added {
            /// What people call it.
            title: String,
        } = "{{aggregate}}-added" v 1,
        /// It was called something else.
        Renamed {
            /// What people call it from now on.
            title: String,
        } = "{{aggregate}}-renamed" v 1,
        /// It was taken away.
        Removed {} = "{{aggregate}}-removed" v 1,
    }
}

millstream::rejections! {
    /// Why a command is refused.
    pub enum {{Aggregate}}Rejection {
        /// A title says something.
        TitleBlank = "title-blank" on ["add", "rename"]: "the title is blank; give one",
        /// Nobody has added it.
        NotAdded { id: String } = "{{aggregate}}-not-added" on ["rename", "remove"]:
            "there is no {{aggregate}} {id}; add it first",
        /// It was removed.
        WasRemoved { id: String } = "{{aggregate}}-removed" on ["add", "rename"]:
            "{{aggregate}} {id} was removed; add another one",
        /// It was added under another title.
        Differs { id: String, title: String } = "{{aggregate}}-differs" on ["add"]:
            "{{aggregate}} {id} is called {title}; use another id, or rename it",
    }
}

use {{Aggregate}}Rejection::{Differs, NotAdded, TitleBlank, WasRemoved};

millstream::data! {
    /// What the rules need to know.
    #[derive(Default)]
    pub struct {{Aggregate}}State {
        title: Option<String>,
        removed: bool,
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
        let id = context.aggregate_id.to_owned();
        match (command, &state.title) {
            ({{Aggregate}}Command::Add(Add { title }) | {{Aggregate}}Command::Rename(Rename { title }), _)
                if title.trim().is_empty() =>
            {
                Err(TitleBlank.into())
            }
            ({{Aggregate}}Command::Remove(_), Some(_)) if state.removed => Ok(vec![]),
            ({{Aggregate}}Command::Remove(_), Some(_)) => Ok(vec![Removed {}.into()]),
            (_, Some(_)) if state.removed => Err(WasRemoved { id }.into()),
            ({{Aggregate}}Command::Add(Add { title }), None) => Ok(vec![Added { title: title.clone() }.into()]),
            ({{Aggregate}}Command::Add(add), Some(title)) if add.title == *title => Ok(vec![]),
            ({{Aggregate}}Command::Add(_), Some(title)) => Err(Differs { id, title: title.clone() }.into()),
            ({{Aggregate}}Command::Rename(rename), Some(title)) if rename.title == *title => Ok(vec![]),
            ({{Aggregate}}Command::Rename(Rename { title }), Some(_)) => {
                Ok(vec![Renamed { title: title.clone() }.into()])
            }
            ({{Aggregate}}Command::Rename(_) | {{Aggregate}}Command::Remove(_), None) => Err(NotAdded { id }.into()),
        }
    }

    fn evolve(state: &mut {{Aggregate}}State, event: &{{Aggregate}}Event) {
        match event {
            {{Aggregate}}Event::Added(Added { title }) | {{Aggregate}}Event::Renamed(Renamed { title }) => {
                state.title = Some(title.clone());
            }
            {{Aggregate}}Event::Removed(_) => state.removed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};

    use super::*;

    const FIRST: &str = r#"{"title":"First"}"#;
    const OTHER: &str = r#"{"title":"Other"}"#;
    const BLANK: &str = r#"{"title":" "}"#;

    fn added() -> {{Aggregate}}Event {
        Added { title: "First".into() }.into()
    }

    fn {{aggregate_module}}(events: impl IntoIterator<Item = {{Aggregate}}Event>) -> Given<{{Aggregate}}> {
        given::<{{Aggregate}}>("A-1", events)
    }

    #[test]
    fn only_a_change_is_an_event() {
        {{aggregate_module}}([])
            .when_typed("add", FIRST)
            .then([added()])
            .when_typed("add", FIRST)
            .then_nothing()
            .when_typed("rename", OTHER)
            .then([Renamed { title: "Other".into() }.into()])
            .when_typed("rename", OTHER)
            .then_nothing()
            .when_typed("remove", "")
            .then([Removed {}.into()])
            .when_typed("remove", "{}")
            .then_nothing();
    }

    #[test]
    fn every_rejection_is_provoked() {
        let removed = || {{aggregate_module}}([added(), Removed {}.into()]);
        assert_every_rejection_is_provoked([
            ({{aggregate_module}}([]), "add", BLANK, "title-blank"),
            ({{aggregate_module}}([added()]), "add", OTHER, "{{aggregate}}-differs"),
            (removed(), "add", FIRST, "{{aggregate}}-removed"),
            ({{aggregate_module}}([added()]), "rename", BLANK, "title-blank"),
            ({{aggregate_module}}([]), "rename", OTHER, "{{aggregate}}-not-added"),
            (removed(), "rename", OTHER, "{{aggregate}}-removed"),
            ({{aggregate_module}}([]), "remove", "{}", "{{aggregate}}-not-added"),
        ]);
    }
}
