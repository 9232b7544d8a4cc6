//! `{{aggregate}}.<{{aggregate}}>`: what it is, and what can happen to it.
//!
//! What is removed stays removed; its id is not used again.

use millstream::decider::{Decider, DecisionContext, Rejection, rejections_of};
use millstream::values::reference::check_name;
use serde::{Deserialize, Serialize};

/// Adds it. The same title again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add{{Aggregate}} {
    /// What people call it.
    pub title: String,
}

/// Calls it something else. The same title again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename{{Aggregate}} {
    /// What people call it from now on.
    pub title: String,
}

/// Takes it away. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove{{Aggregate}} {}

millstream::commands! {
    /// What can be asked.
    pub enum {{Aggregate}}Command {
        Add(Add{{Aggregate}}) = "add",
        Rename(Rename{{Aggregate}}) = "rename",
        Remove(Remove{{Aggregate}}) = "remove",
    }
}

/// It was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct {{Aggregate}}Added {
    /// What people call it.
    pub title: String,
}

/// It was called something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct {{Aggregate}}Renamed {
    /// What people call it from now on.
    pub title: String,
}

/// It was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct {{Aggregate}}Removed {}

millstream::events! {
    /// What can happen.
    pub enum {{Aggregate}}Event of "{{aggregate}}" {
        Added({{Aggregate}}Added) = "{{aggregate}}-added" v 1,
        Renamed({{Aggregate}}Renamed) = "{{aggregate}}-renamed" v 1,
        Removed({{Aggregate}}Removed) = "{{aggregate}}-removed" v 1,
    }
}

const REJECTIONS: &[(&str, &[&str])] = &[
    ("add", &["name-blank", "name-too-long", "{{aggregate}}-differs", "{{aggregate}}-removed"]),
    ("rename", &["name-blank", "name-too-long", "{{aggregate}}-not-added", "{{aggregate}}-removed"]),
    ("remove", &["{{aggregate}}-not-added"]),
];

fn not_added(id: &str) -> Rejection {
    Rejection::new("{{aggregate}}-not-added", format!("there is no {{aggregate}} {id}; add it first"))
}

fn is_removed(id: &str) -> Rejection {
    Rejection::new("{{aggregate}}-removed", format!("{{aggregate}} {id} was removed; add another one"))
}

/// What the rules need to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct {{Aggregate}}State {
    title: Option<String>,
    removed: bool,
}

impl {{Aggregate}}State {
    /// The title of one that is there.
    fn title(&self, id: &str) -> Result<&str, Rejection> {
        match &self.title {
            None => Err(not_added(id)),
            Some(_) if self.removed => Err(is_removed(id)),
            Some(title) => Ok(title),
        }
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
        rejections_of(REJECTIONS).collect()
    }

    fn decide(
        state: &{{Aggregate}}State,
        command: &{{Aggregate}}Command,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<{{Aggregate}}Event>, Rejection> {
        let id = context.aggregate_id;
        match command {
            {{Aggregate}}Command::Add(add) => decide_add(state, add, id),
            {{Aggregate}}Command::Rename(rename) => {
                check_name("title", &rename.title)?;
                let unchanged = state.title(id)? == rename.title;
                let renamed = {{Aggregate}}Renamed { title: rename.title.clone() };
                Ok(if unchanged { vec![] } else { vec![{{Aggregate}}Event::Renamed(renamed)] })
            }
            {{Aggregate}}Command::Remove(_) if state.removed => Ok(vec![]),
            {{Aggregate}}Command::Remove(_) => {
                state.title(id)?;
                Ok(vec![{{Aggregate}}Event::Removed({{Aggregate}}Removed {})])
            }
        }
    }

    fn evolve(state: &mut {{Aggregate}}State, event: &{{Aggregate}}Event) {
        match event {
            {{Aggregate}}Event::Added(added) => state.title = Some(added.title.clone()),
            {{Aggregate}}Event::Renamed(renamed) => state.title = Some(renamed.title.clone()),
            {{Aggregate}}Event::Removed(_) => state.removed = true,
        }
    }
}

fn decide_add(state: &{{Aggregate}}State, add: &Add{{Aggregate}}, id: &str) -> Result<Vec<{{Aggregate}}Event>, Rejection> {
    check_name("title", &add.title)?;
    match &state.title {
        None => Ok(vec![{{Aggregate}}Event::Added({{Aggregate}}Added { title: add.title.clone() })]),
        Some(_) if state.removed => Err(is_removed(id)),
        Some(title) if *title == add.title => Ok(vec![]),
        Some(title) => {
            let message = format!("{{aggregate}} {id} is called {title}; use another id, or rename it");
            Err(Rejection::new("{{aggregate}}-differs", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};
    use millstream::values::reference::NAME_LENGTH_MAX;

    use super::*;

    const FIRST: &str = r#"{"title":"First"}"#;
    const OTHER: &str = r#"{"title":"Other"}"#;

    fn added() -> {{Aggregate}}Event {
        {{Aggregate}}Event::Added({{Aggregate}}Added { title: "First".into() })
    }

    fn renamed(title: &str) -> {{Aggregate}}Event {
        {{Aggregate}}Event::Renamed({{Aggregate}}Renamed { title: title.into() })
    }

    fn removed() -> {{Aggregate}}Event {
        {{Aggregate}}Event::Removed({{Aggregate}}Removed {})
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
            .then([renamed("Other")])
            .when_typed("rename", OTHER)
            .then_nothing()
            .when_typed("remove", "")
            .then([removed()])
            .when_typed("remove", "{}")
            .then_nothing();
    }

    #[test]
    fn every_rejection_is_provoked() {
        let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(NAME_LENGTH_MAX + 1));
        assert_every_rejection_is_provoked([
            ({{aggregate_module}}([]), "add", r#"{"title":" "}"#, "name-blank"),
            ({{aggregate_module}}([]), "add", &long, "name-too-long"),
            ({{aggregate_module}}([added()]), "add", OTHER, "{{aggregate}}-differs"),
            ({{aggregate_module}}([added(), removed()]), "add", FIRST, "{{aggregate}}-removed"),
            ({{aggregate_module}}([added()]), "rename", r#"{"title":""}"#, "name-blank"),
            ({{aggregate_module}}([added()]), "rename", &long, "name-too-long"),
            ({{aggregate_module}}([]), "rename", OTHER, "{{aggregate}}-not-added"),
            ({{aggregate_module}}([added(), removed()]), "rename", OTHER, "{{aggregate}}-removed"),
            ({{aggregate_module}}([]), "remove", "{}", "{{aggregate}}-not-added"),
        ]);
    }
}
