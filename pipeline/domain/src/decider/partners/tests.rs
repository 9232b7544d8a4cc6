//! Which partners are refused, and which answers of rules are a bug of the model.

use std::collections::BTreeSet;

use jiff::Timestamp;
use millstream_contract::command::BodyFormat;
use serde::{Deserialize, Serialize};

use super::*;
use crate::decider::{AggregateRegistry, AnyState, CommandSet, DecisionError};

/// Names the others, and how many events they and the aggregate itself are to have.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    to: Vec<String>,
    #[serde(default)]
    own: usize,
    #[serde(default)]
    others: Vec<usize>,
}

crate::commands! {
    /// What can be asked.
    enum NodeCommand { Link(Link) = "link" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Linked {}

crate::events! {
    /// What can happen.
    enum NodeEvent of "node" { Linked(Linked) = "linked" v 1 }
}

#[derive(Debug)]
struct Node;

impl Decider for Node {
    type Command = NodeCommand;
    type Event = NodeEvent;
    type State = u64;

    const CONTEXT: &'static str = "graph";
    const AGGREGATE: &'static str = "node";

    fn check_id(id: &str) -> Result<(), Rejection> {
        if id.starts_with('n') { Ok(()) } else { Err(Rejection::new("node-id-malformed", id)) }
    }

    fn decide(_: &u64, _: &NodeCommand, _: &DecisionContext<'_>) -> Result<Vec<NodeEvent>, Rejection> {
        Ok(vec![])
    }

    fn partners(_: &str, NodeCommand::Link(link): &NodeCommand) -> Vec<String> {
        link.to.clone()
    }

    fn decide_with_partners(
        _: &u64,
        _: &[&u64],
        NodeCommand::Link(link): &NodeCommand,
        _: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<NodeEvent>, Rejection> {
        let events = |count: &usize| vec![NodeEvent::Linked(Linked {}); *count];
        Ok(EventsWithPartners { own: events(&link.own), partners: link.others.iter().map(events).collect() })
    }

    fn evolve(state: &mut u64, _: &NodeEvent) {
        *state += 1;
    }
}

fn link(body: &str) -> NodeCommand {
    NodeCommand::decode("link", BodyFormat::Json, body.as_bytes()).unwrap()
}

fn named(partners: &[String]) -> Result<Vec<StreamId>, Rejection> {
    partners_of::<Node>("n0", &link(&serde_json::json!({ "to": partners }).to_string()))
}

#[test]
fn partners_that_cannot_be_are_refused_by_name() {
    let nodes = |count: usize| (1..=count).map(|number| format!("n{number}")).collect::<Vec<_>>();
    assert_eq!(named(&nodes(PARTNERS_MAX)).unwrap().len(), PARTNERS_MAX);
    let refused = [
        (vec!["n1".to_owned(), "n 2".to_owned()], "partner-malformed"),
        (vec![String::new()], "partner-malformed"),
        (vec!["m1".to_owned()], "node-id-malformed"),
        (vec!["n1".to_owned(), "n0".to_owned()], "partner-itself"),
        (vec!["n1".to_owned(), "n2".to_owned(), "n1".to_owned()], "partner-twice"),
        (nodes(PARTNERS_MAX + 1), "partners-too-many"),
    ];
    for (partners, code) in &refused {
        assert_eq!(named(partners).unwrap_err().code, *code, "{partners:?}");
    }
    let provoked: BTreeSet<&str> = refused.iter().map(|(_, code)| *code).collect();
    assert!(PARTNER_REJECTIONS.iter().all(|code| provoked.contains(code)), "{provoked:?}");
}

#[test]
fn page_of_commands_has_every_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
    let page = std::fs::read_to_string(path).unwrap();
    for code in PARTNER_REJECTIONS.into_iter().chain([crate::decider::INTERNAL_COMMAND]) {
        assert!(page.contains(&format!("`{code}`")), "docs/commands.md lacks {code}");
    }
}

/// Decides the way of the engine, on two partners; answers the states then.
fn decided(body: &str) -> (Result<Vec<usize>, DecisionError>, Vec<u64>) {
    let registry = AggregateRegistry::new().with::<Node>();
    let aggregate = registry.get("graph", "node").unwrap();
    let command = Box::new(link(body)) as crate::decider::AnyCommand;
    let context = DecisionContext {
        aggregate_id: "n0",
        now: Timestamp::UNIX_EPOCH,
        actor: None,
        command_position: 1,
        time_zone: aggregate.time_zone(),
    };
    let mut states: Vec<AnyState> = (0..3).map(|_| aggregate.initial()).collect();
    let (own, partners) = states.split_first_mut().unwrap();
    let mut partners: Vec<&mut AnyState> = partners.iter_mut().collect();
    let together = aggregate.decide_with_partners(own, &mut partners, &command, &context);
    let counts = together.map(|it| [it.own].iter().chain(&it.partners).map(Vec::len).collect());
    (counts, states.iter().map(|state| *state.downcast_ref::<u64>().unwrap()).collect())
}

#[test]
fn every_partner_has_a_list_of_events() {
    let (counts, states) = decided(r#"{"to":["n1","n2"],"own":1,"others":[2]}"#);
    assert_eq!((counts.unwrap(), states), (vec![1, 2, 0], vec![1, 2, 0]));
}

#[test]
fn rules_that_break_the_guard_are_taken_for_rules_that_panic() {
    for (body, message) in [
        (r#"{"to":["n1","n2"],"others":[0,1]}"#, "events for a partner and none for the aggregate itself"),
        (r#"{"to":["n1","n2"],"own":1,"others":[1,1,0]}"#, "events for more partners than were named"),
    ] {
        let (counts, states) = decided(body);
        let said = counts.unwrap_err().to_string();
        assert!(said.contains(message), "{said}");
        assert_eq!(states, [0, 0, 0], "nothing has happened");
    }
}
