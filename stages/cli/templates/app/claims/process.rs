//! The process `{{aggregate}}-number`: one {{aggregate}} for each number.

use millstream::{
    prelude::*,
    values::claims::{Claimant, Namespace, Need},
};

use super::{
    Here,
    {{aggregate_module}}::{ConfirmNumber, {{Aggregate}}, {{Aggregate}}Event, RejectNumber},
};

/// Who claims numbers.
#[derive(Debug)]
pub struct {{Aggregate}}Number;

impl Claimant for {{Aggregate}}Number {
    type Context = Here;
    type Aggregate = {{Aggregate}};

    const PROCESS: &'static str = "{{aggregate}}-number";
    const NAMESPACE: Namespace = Namespace::new("number");

    fn needs(event: &{{Aggregate}}Event) -> Vec<Need> {
        match event {
            {{Aggregate}}Event::Asked(asked) => vec![Need::Claim(asked.number.clone())],
            {{Aggregate}}Event::Opened(opened) => vec![Need::Keep(opened.number.clone())],
            {{Aggregate}}Event::Closed(closed) => vec![Need::Release(closed.number.clone())],
            {{Aggregate}}Event::Refused(_) => vec![],
        }
    }

    fn granted(id: &str, number: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<{{Aggregate}}>(id, "confirm-number", &ConfirmNumber { number: number.to_owned() })
    }

    fn refused(id: &str, number: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<{{Aggregate}}>(id, "reject-number", &RejectNumber { number: number.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use millstream::{
        decider::AggregateRegistry,
        testing::in_memory_system::InMemorySystem,
        values::claims::{Claim, ClaimProcess},
    };

    use super::*;

    fn opened(system: &InMemorySystem) -> Vec<String> {
        let envelopes = system.history().commits().iter().flat_map(|commit| commit.envelopes());
        envelopes
            .filter(|envelope| envelope.event_type == "{{aggregate}}-opened")
            .map(|envelope| envelope.stream_id.id().to_owned())
            .collect()
    }

    #[test]
    fn a_number_is_given_once_until_it_comes_back() {
        let registry = AggregateRegistry::new().with::<{{Aggregate}}>().with::<Claim<Here>>();
        let process = ClaimProcess::<{{Aggregate}}Number>::default();
        let mut system = InMemorySystem::new(registry, vec![Box::new(process)]);
        for id in ["A-1", "A-2"] {
            system.send(&format!("{{context}}.{{aggregate}}.{id}.open"), r#"{"number":"N-1"}"#).unwrap();
        }
        assert_eq!(opened(&system), ["A-1"]);
        system.send("{{context}}.{{aggregate}}.A-1.close", "").unwrap();
        system.send("{{context}}.{{aggregate}}.A-2.open", r#"{"number":"N-1"}"#).unwrap();
        assert_eq!(opened(&system), ["A-1", "A-2"]);
        system.assert_processes_repeatable();
    }
}
