//! Compares what senders know with what the streams hold: nothing that was acknowledged may be missing, and every answer must be the recorded
//! outcome.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_contract::{
    command::explicit_id,
    outcome::{CommandOutcome, Outcome, OutcomeRecord, OutcomeReply},
    subject::published_subject,
};
use millstream_proof::verification::Dump;

/// A command that the server has acknowledged.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// Its position in COMMANDS, according to the acknowledgement.
    pub position: u64,
    /// Its id, if it was given one.
    pub id: Option<String>,
    /// Its subject and body; absent if the id may have been used with other content.
    pub content: Option<(String, Bytes)>,
    /// The answer of `submit`, if it went that way.
    pub outcome: Option<Outcome>,
}

impl Acknowledged {
    /// What a sender knows that repeats an append without a clear answer: where the last append of the command `id` is, and what it was told of
    /// it. The command is stored twice where the first append was carried out and only its acknowledgement lost. Both are decided and answered,
    /// each for itself: one as the command, the other as its duplicate. The answer that comes first may be that of the append of which
    /// the sender knows nothing, so it is compared with the outcome of the position that it names.
    #[must_use]
    pub fn repeatedly(id: &str, position: u64, told: Option<OutcomeReply>) -> Vec<Self> {
        let at = |position, outcome| Self { position, id: Some(id.to_owned()), content: None, outcome };
        match told {
            Some(OutcomeReply { command_position, outcome, .. }) if command_position != position => {
                vec![at(position, None), at(command_position, Some(outcome))]
            }
            told => vec![at(position, told.map(|reply| reply.outcome))],
        }
    }
}

/// All acknowledged commands.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// In no particular order.
    pub acknowledged: Vec<Acknowledged>,
}

impl Ledger {
    /// What the streams lack, or say differently; empty if all is well.
    #[must_use]
    pub fn differences(&self, dump: &Dump) -> Vec<String> {
        let commands: BTreeMap<u64, _> =
            dump.commands.iter().map(|message| (message.sequence, message)).collect();
        let mut lines: BTreeMap<u64, Vec<CommandOutcome>> = BTreeMap::new();
        let mut differences = Vec::new();
        for message in &dump.outcomes {
            match OutcomeRecord::from_stored(message) {
                Ok(record) => {
                    for line in record.outcomes {
                        lines.entry(line.position).or_default().push(line);
                    }
                }
                Err(error) => differences.push(error.to_string()),
            }
        }
        for entry in &self.acknowledged {
            let position = entry.position;
            let Some(stored) = commands.get(&position) else {
                differences.push(format!("{position} ({:?}) was acknowledged and is lost", entry.id));
                continue;
            };
            let id = explicit_id(stored).ok().flatten();
            if entry.id.as_deref() != id.as_deref() {
                differences.push(format!("{position} has the id {id:?}, acknowledged was {:?}", entry.id));
            }
            let found = (published_subject(&stored.subject), stored.payload.clone());
            if let Some(content) = entry.content.as_ref().filter(|content| **content != found) {
                differences.push(format!("{position} holds {found:?}, acknowledged was {content:?}"));
            }
            match lines.get(&position).map(Vec::as_slice) {
                Some([line]) => {
                    if let Some(answer) = entry.outcome.as_ref().filter(|answer| **answer != line.outcome) {
                        let recorded = &line.outcome;
                        differences
                            .push(format!("{position} was answered {answer:?}, recorded is {recorded:?}"));
                    }
                }
                found => {
                    let count = found.map_or(0, <[CommandOutcome]>::len);
                    differences.push(format!("{position} has {count} recorded outcomes"));
                }
            }
        }
        differences
    }

    /// How many different commands were acknowledged.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.acknowledged.iter().map(|entry| entry.position).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_contract::{
        header,
        outcome::{Generations, RecordKind},
        stored_message::{Headers, StoredMessage},
    };

    use super::*;

    const SUBJECT: &str = "cmd.retail.stock.a:1.receive";

    fn stored(subject: &str, sequence: u64, headers: Headers, payload: Bytes) -> StoredMessage {
        let stored_at = "2026-01-01T00:00:00Z".parse().expect("it is a time");
        StoredMessage { subject: subject.to_owned(), sequence, stored_at, headers, payload }
    }

    fn accepted(version: u64) -> Outcome {
        Outcome::Accepted { sequence: 1, version, events: 1 }
    }

    /// One command `a` at position 1, recorded as often as there are versions.
    fn dump(versions: &[u64]) -> Dump {
        let headers = Headers::from_iter([(header::COMMAND_ID, "a")]);
        let line = |version: &u64| CommandOutcome {
            position: 1,
            id: Some("a".into()),
            address: "retail.stock.a:1.receive".into(),
            outcome: accepted(*version),
            content: None,
        };
        let record = OutcomeRecord {
            record_id: "r".into(),
            kind: RecordKind::Outcomes,
            handler: "h".into(),
            after: 0,
            through: 1,
            events_through: 1,
            outcomes: versions.iter().map(line).collect(),
            generations: Generations { commands: Arc::from("c"), events: Arc::from("e") },
        };
        Dump {
            commands: vec![stored("cmdq.3.retail.stock.a:1.receive", 1, headers, "{}".into())],
            events: vec![],
            outcomes: vec![stored("out.0of1", 1, Headers::new(), record.encode().into())],
        }
    }

    /// The command `a`, stored at 1 without an acknowledgement, and again at 2.
    fn stored_twice() -> Dump {
        let mut dump = dump(&[1]);
        let headers = Headers::from_iter([(header::COMMAND_ID, "a")]);
        dump.commands.push(stored("cmdq.3.retail.stock.a:1.receive", 2, headers, "{}".into()));
        let mut record =
            OutcomeRecord::from_stored(dump.outcomes.last().expect("there is one")).expect("it is one");
        (record.after, record.through) = (1, 2);
        for line in &mut record.outcomes {
            (line.position, line.outcome) = (2, duplicate());
        }
        dump.outcomes.push(stored("out.0of1", 2, Headers::new(), record.encode().into()));
        dump
    }

    fn duplicate() -> Outcome {
        Outcome::Duplicate { of: 1, first: Box::new(accepted(1)), other_content: false }
    }

    fn told(command_position: u64, outcome: Outcome) -> Option<OutcomeReply> {
        Some(OutcomeReply { command_id: "a".into(), command_position, outcome, query_position: None })
    }

    /// A sender on a busy machine got no acknowledgement in time and sent its command again. The answer to the first was taken for one to the second.
    #[test]
    fn an_append_that_was_repeated_is_no_difference_whichever_of_the_two_was_answered() {
        let dump = stored_twice();
        let found = |position, told| {
            Ledger { acknowledged: Acknowledged::repeatedly("a", position, told) }.differences(&dump)
        };
        // The second append may be acknowledged, or the first, late.
        for position in [1, 2] {
            for answer in [None, told(1, accepted(1)), told(2, duplicate())] {
                assert_eq!(found(position, answer.clone()), Vec::<String>::new(), "{position}: {answer:?}");
            }
        }
        for (answer, words) in [
            (told(1, duplicate()), "1 was answered"),
            (told(1, accepted(2)), "1 was answered"),
            (told(2, accepted(1)), "2 was answered"),
            (told(3, accepted(1)), "3 (Some(\"a\")) was acknowledged and is lost"),
        ] {
            let found = found(2, answer);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        let other = Ledger { acknowledged: Acknowledged::repeatedly("b", 2, told(1, accepted(1))) };
        assert_eq!(other.differences(&dump).len(), 2, "both are another command's");
    }

    fn differences(position: u64, id: &str, body: &'static str, version: u64, dump: &Dump) -> Vec<String> {
        let acknowledged = Acknowledged {
            position,
            id: Some(id.to_owned()),
            content: Some((SUBJECT.to_owned(), body.into())),
            outcome: Some(accepted(version)),
        };
        Ledger { acknowledged: vec![acknowledged] }.differences(dump)
    }

    #[test]
    fn what_was_acknowledged_is_there_with_the_outcome_that_was_told() {
        assert_eq!(differences(1, "a", "{}", 1, &dump(&[1])), Vec::<String>::new());
    }

    #[test]
    fn everything_else_is_a_difference() {
        let found = [
            differences(2, "a", "{}", 1, &dump(&[1])),
            differences(1, "b", "{}", 1, &dump(&[1])),
            differences(1, "a", "{ }", 1, &dump(&[1])),
            differences(1, "a", "{}", 2, &dump(&[1])),
            differences(1, "a", "{}", 1, &dump(&[])),
            differences(1, "a", "{}", 1, &dump(&[1, 1])),
        ];
        let words = ["is lost", "has the id", "acknowledged was", "was answered", "0 recorded", "2 recorded"];
        for (found, words) in found.iter().zip(words) {
            let [only] = found.as_slice() else { panic!("not one difference: {found:?}") };
            assert!(only.contains(words), "{only}");
        }
    }
}
