//! A dump as it should be passes; the same dump with one thing wrong does not. Every kind of tampering is listed, so that
//! a check that never fires would show.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use millstream_contract::{
    commit::{
        Commit, CommittedCommand, RecordedEvent, commit_hash, content_digest, timestamp_to_nanoseconds,
    },
    header,
    outcome::{CommandOutcome, OutcomeRecord, RecordKind},
    set_aside::{self, MessageSetAside},
    stored_message::Headers,
};
use millstream_domain::{
    decider::{AggregateRegistry, EventSet},
    testing::project::command_at,
};

use super::{journal::said, *};
use crate::testing::account::{Account, AccountEvent, Deposited, Withdrawn};

const SUBJECT: &str = "evt.bank.account.a";

fn stored(subject: &str, sequence: u64, headers: Headers, payload: Vec<u8>) -> StoredMessage {
    let stored_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::try_from(sequence).unwrap());
    StoredMessage { subject: subject.to_owned(), sequence, stored_at, headers, payload: payload.into() }
}

fn command(sequence: u64, id: Option<&str>, command: &str, body: &str) -> StoredMessage {
    let headers = id.map(|id| (header::COMMAND_ID, id)).into_iter().collect();
    stored(&format!("cmdq.3.bank.account.a.{command}"), sequence, headers, body.as_bytes().to_vec())
}

/// The same on another subject.
fn from_process(message: StoredMessage) -> StoredMessage {
    let subject = message.subject.replacen("cmdq.3.", "effect.", 1);
    StoredMessage { subject, ..message }
}

fn recorded(event: &AccountEvent, command: u32) -> RecordedEvent {
    let (event_type, schema) = event.event_type();
    RecordedEvent { event_type: event_type.into(), schema, data: event.encode(), command }
}

fn caused_by(id: &str, position: u64) -> CommittedCommand {
    CommittedCommand { id: id.into(), ..command_at(position) }
}

fn line(position: u64, id: Option<&str>, command: &str, outcome: Outcome) -> CommandOutcome {
    let address = format!("bank.account.a.{command}").into();
    CommandOutcome { position, id: id.map(Arc::from), address, outcome, content: None }
}

fn accepted(sequence: u64, version: u64, events: u32) -> Outcome {
    Outcome::Accepted { sequence, version, events }
}

/// The parts of a dump before they are encoded, so that a test can change one.
#[derive(Clone)]
struct Parts {
    commands: Vec<StoredMessage>,
    commits: Vec<Commit>,
    records: Vec<OutcomeRecord>,
}

impl Parts {
    /// Five commands: two deposits in one commit, a refused and an accepted withdrawal, the first deposit again.
    fn good() -> Self {
        let commands = vec![
            command(1, Some("one"), "deposit", r#"{"amount":5}"#),
            command(2, None, "deposit", r#"{"amount":2}"#),
            command(3, Some("three"), "withdraw", r#"{"amount":9}"#),
            command(4, None, "withdraw", r#"{"amount":4}"#),
            command(5, Some("one"), "deposit", r#"{"amount":5}"#),
        ];
        let time = |index: usize| timestamp_to_nanoseconds(commands[index].stored_at);
        let deposited = |amount| AccountEvent::Deposited(Deposited { amount });
        let first = Commit {
            commit_id: "c1".into(),
            first_version: 1,
            recorded_at: time(1),
            commands: vec![caused_by("one", 1), caused_by("@2", 2)],
            events: vec![recorded(&deposited(5), 0), recorded(&deposited(2), 1)],
            previous: None,
        };
        let second = Commit {
            commit_id: "c2".into(),
            first_version: 3,
            recorded_at: time(3),
            commands: vec![caused_by("@4", 4)],
            events: vec![recorded(&AccountEvent::Withdrawn(Withdrawn { amount: 4, left: 3 }), 0)],
            previous: Some(commit_hash(&first.encode()).to_vec()),
        };
        let duplicate =
            Outcome::Duplicate { of: 1, first: Box::new(accepted(1, 1, 1)), other_content: false };
        let rejected = Outcome::Rejected { code: "not-enough".into(), message: "no".into() };
        let records = vec![
            record("r1", RecordKind::Fence, 0, 0, 0, vec![]),
            record(
                "r2",
                RecordKind::Outcomes,
                0,
                2,
                1,
                vec![
                    line(1, Some("one"), "deposit", accepted(1, 1, 1)),
                    line(2, None, "deposit", accepted(1, 2, 1)),
                ],
            ),
            record(
                "r3",
                RecordKind::Outcomes,
                2,
                5,
                2,
                vec![
                    line(3, Some("three"), "withdraw", rejected),
                    line(4, None, "withdraw", accepted(2, 3, 1)),
                    line(5, Some("one"), "deposit", duplicate),
                ],
            ),
        ];
        Self { commands, commits: vec![first, second], records }
    }

    fn dump(&self) -> Dump {
        let events = (1..).zip(&self.commits);
        let outcomes = (1..).zip(&self.records);
        Dump {
            commands: self.commands.clone(),
            events: events.map(|(at, commit)| stored(SUBJECT, at, Headers::new(), commit.encode())).collect(),
            outcomes: outcomes
                .map(|(at, record)| stored("out.0", at, Headers::new(), record.encode()))
                .collect(),
        }
    }

    fn outcome(&mut self, record: usize, index: usize) -> &mut Outcome {
        &mut self.records[record].outcomes[index].outcome
    }
}

fn record(
    record_id: &str,
    kind: RecordKind,
    after: u64,
    through: u64,
    events_through: u64,
    outcomes: Vec<CommandOutcome>,
) -> OutcomeRecord {
    OutcomeRecord {
        record_id: record_id.into(),
        kind,
        handler: "test".into(),
        after,
        through,
        events_through,
        outcomes,
        generations: millstream_contract::outcome::Generations::default(),
    }
}

fn registry() -> AggregateRegistry {
    AggregateRegistry::new().with::<Account>()
}

fn checks(dump: &Dump) -> Vec<Check> {
    let mut violations = verify(dump, true).violations;
    violations.extend(replay(dump, &registry()));
    violations.iter().map(|violation| violation.check).collect()
}

#[test]
fn dump_as_it_should_be_passes_and_is_counted() {
    let dump = Parts::good().dump();
    let verification = verify(&dump, true);
    assert_eq!(
        verification,
        Verification {
            commands: 5,
            undecided: 0,
            accepted: 3,
            rejected: 1,
            duplicates: 1,
            dead_lettered: 0,
            commits: 2,
            events: 3,
            violations: vec![],
        }
    );
    assert_eq!(replay(&dump, &registry()), []);
}

/// The marks of what was said, added to good outcomes, change nothing.
#[test]
fn outcomes_that_know_what_was_said_pass() {
    let mut parts = Parts::good();
    for (record, index, command) in [(1, 0, 0), (2, 0, 2), (2, 2, 4)] {
        parts.records[record].outcomes[index].content = Some(said(&parts.commands[command]));
    }
    assert_eq!(checks(&parts.dump()), []);
}

/// A tampering, and the check that has to find it.
type Tampering = (&'static str, Check, fn(&mut Parts));

const TAMPERINGS: &[Tampering] = &[
    ("a command without an outcome", Check::OneOutcome, |parts| drop(parts.records[2].outcomes.remove(0))),
    ("an outcome told twice", Check::OneOutcome, |parts| {
        let again = parts.records[1].outcomes[1].clone();
        parts.records[2].outcomes.insert(0, again);
    }),
    ("an outcome of a command that does not exist", Check::OneOutcome, |parts| {
        parts.records[2].through = 6;
        parts.records[2].outcomes.push(line(6, None, "deposit", accepted(2, 3, 0)));
    }),
    ("an outcome under another id", Check::OneOutcome, |parts| {
        parts.records[1].outcomes[0].id = Some("other".into());
    }),
    ("an outcome under another address", Check::OneOutcome, |parts| {
        parts.records[1].outcomes[0].address = "bank.account.b.deposit".into();
    }),
    ("an outcome of another content", Check::OneOutcome, |parts| {
        parts.records[1].outcomes[0].content = Some(said(&parts.commands[1]));
    }),
    ("a repeat that is told to be another command", Check::OneOutcome, |parts| {
        for (record, index, command) in [(1, 0, 0), (2, 2, 4)] {
            parts.records[record].outcomes[index].content = Some(said(&parts.commands[command]));
        }
        *parts.outcome(2, 2) =
            Outcome::Duplicate { of: 1, first: Box::new(accepted(1, 1, 1)), other_content: true };
    }),
    ("a gap in the chain", Check::OneOutcome, |parts| parts.records[2].after = 3),
    ("a record twice", Check::OneOutcome, |parts| parts.records.push(parts.records[2].clone())),
    ("a fence that covers commands", Check::OneOutcome, |parts| parts.records[0].through = 1),
    ("events_through that falls", Check::Whole, |parts| parts.records[2].events_through = 0),
    ("a duplicate of another command", Check::OneOutcome, |parts| {
        *parts.outcome(2, 2) =
            Outcome::Duplicate { of: 3, first: Box::new(accepted(1, 1, 1)), other_content: false };
    }),
    ("a duplicate told another outcome", Check::OneOutcome, |parts| {
        *parts.outcome(2, 2) =
            Outcome::Duplicate { of: 1, first: Box::new(accepted(9, 9, 1)), other_content: false };
    }),
    ("an id decided twice", Check::OneEffect, |parts| *parts.outcome(2, 2) = accepted(2, 3, 0)),
    ("an accepted command without its events", Check::OneEffect, |parts| drop(parts.commits.pop())),
    ("a rejected command with events", Check::OneEffect, |parts| {
        *parts.outcome(1, 1) = Outcome::Rejected { code: "not-enough".into(), message: "no".into() };
    }),
    ("a command that takes effect twice", Check::OneEffect, |parts| {
        let mut again = parts.commits[1].clone();
        (again.commit_id, again.first_version) = ("c3".into(), 4);
        again.previous = Some(commit_hash(&parts.commits[1].encode()).to_vec());
        parts.commits.push(again);
    }),
    ("an effect of a command that does not exist", Check::OneEffect, |parts| {
        parts.commits[1].commands[0].position = 77;
    }),
    ("an effect that names another id", Check::OneEffect, |parts| {
        parts.commits[1].commands[0].id = "somebody".into();
    }),
    ("a commit twice", Check::OneEffect, |parts| parts.commits.push(parts.commits[1].clone())),
    ("a gap in the versions", Check::Versions, |parts| parts.commits[1].first_version = 4),
    ("an outcome with another version", Check::Order, |parts| *parts.outcome(1, 1) = accepted(1, 3, 1)),
    ("an outcome with another position", Check::Order, |parts| *parts.outcome(1, 1) = accepted(2, 2, 1)),
    ("commands of a commit out of order", Check::Order, |parts| parts.commits[0].commands.swap(0, 1)),
    ("a commit with a time of its own", Check::Order, |parts| parts.commits[1].recorded_at += 1),
    ("a commit that does not name the one before", Check::Whole, |parts| parts.commits[1].previous = None),
    ("a changed commit before", Check::Whole, |parts| parts.commits[0].events[0].data[0] ^= 1),
    ("a commit of two commands without events", Check::Whole, |parts| parts.commits[0].events.clear()),
    ("an accepted command that was to have no effect", Check::OneEffect, |parts| {
        parts.commits[1].events.clear();
    }),
    ("a decision on another state", Check::Order, |parts| {
        let event = AccountEvent::Withdrawn(Withdrawn { amount: 4, left: 99 });
        parts.commits[1].events[0].data = event.encode();
    }),
    ("a refusal that the rules do not know", Check::Order, |parts| {
        *parts.outcome(2, 0) = Outcome::Rejected { code: "too-late".into(), message: "no".into() };
    }),
];

#[test]
fn every_tampering_is_found_by_its_check() {
    for (name, check, tamper) in TAMPERINGS {
        let mut parts = Parts::good();
        tamper(&mut parts);
        let found = checks(&parts.dump());
        assert!(found.contains(check), "{name}: expected {check}, found {found:?}");
    }
}

/// What processes gave, before their commands had a subject of their own and since, and what was refused since.
fn of_processes() -> Parts {
    let credit = |sequence, id| command(sequence, id, "credit", r#"{"amount":5}"#);
    let commands = vec![
        credit(1, Some("teller:1.1.0")),
        from_process(credit(2, Some("teller:1.1.1"))),
        command(3, Some("teller:1.1.2"), "deposit", r#"{"amount":5}"#),
        credit(4, Some("mine")),
        from_process(command(5, Some("teller:1.1.2"), "deposit", r#"{"amount":5}"#)),
    ];
    let deposited = |command| recorded(&AccountEvent::Deposited(Deposited { amount: 5 }), command);
    let commit = Commit {
        commit_id: "c1".into(),
        first_version: 1,
        recorded_at: timestamp_to_nanoseconds(commands[4].stored_at),
        commands: vec![
            caused_by("teller:1.1.0", 1),
            caused_by("teller:1.1.1", 2),
            caused_by("teller:1.1.2", 5),
        ],
        events: vec![deposited(0), deposited(1), deposited(2)],
        previous: None,
    };
    let reserved = Outcome::DeadLettered { code: "command-id-reserved".into(), message: "no".into() };
    let internal = Outcome::Rejected { code: "internal-command".into(), message: "no".into() };
    let lines = vec![
        line(1, Some("teller:1.1.0"), "credit", accepted(1, 1, 1)),
        line(2, Some("teller:1.1.1"), "credit", accepted(1, 2, 1)),
        line(3, None, "deposit", reserved),
        line(4, Some("mine"), "credit", internal),
        line(5, Some("teller:1.1.2"), "deposit", accepted(1, 3, 1)),
    ];
    let records = vec![record("r1", RecordKind::Outcomes, 0, 5, 1, lines)];
    Parts { commands, commits: vec![commit], records }
}

#[test]
fn commands_of_processes_pass_under_either_subject_and_refusals_for_their_origin_pass_too() {
    let dump = of_processes().dump();
    assert_eq!(checks(&dump), []);
    let stretch = by_stretch(&dump, 1, u64::MAX);
    assert_eq!((stretch.violations, stretch.accepted), (vec![], 3));
}

/// What a refusal for the origin must not be about.
const WRONG_REFUSALS: &[Tampering] = &[
    ("a command of a process", Check::OneOutcome, |parts| {
        parts.commands[3] = from_process(parts.commands[3].clone())
    }),
    ("an id of a process's own command", Check::OneOutcome, |parts| {
        parts.commands[2] = from_process(parts.commands[2].clone());
    }),
    ("an id that anybody may use", Check::OneOutcome, |parts| {
        parts.commands[2] = command(3, Some("mine too"), "deposit", r#"{"amount":5}"#);
    }),
    ("no id at all", Check::OneOutcome, |parts| {
        parts.commands[2] = command(3, None, "deposit", r#"{"amount":5}"#)
    }),
    ("an id that was used although it is refused", Check::OneOutcome, |parts| {
        parts.records[0].outcomes[2].id = Some("teller:1.1.2".into());
    }),
];

#[test]
fn wrong_refusals_for_the_origin_are_found() {
    for (name, check, tamper) in WRONG_REFUSALS {
        let mut parts = of_processes();
        tamper(&mut parts);
        let dump = parts.dump();
        let found = verify(&dump, true).violations;
        assert!(found.iter().any(|each| each.check == *check), "{name}: {found:?}");
        assert!(by_stretch(&dump, 1, u64::MAX).violation_count > 0, "{name}");
    }
    let mut parts = of_processes();
    parts.commands[3] = command(4, Some("mine"), "deposit", r#"{"amount":5}"#);
    parts.records[0].outcomes[3].address = "bank.account.a.deposit".into();
    assert!(!replay(&parts.dump(), &registry()).is_empty(), "a command that anybody may send is refused");
}

#[test]
fn unreadable_messages_are_reported() {
    let mut dump = Parts::good().dump();
    dump.events[0].payload = "not a commit".into();
    dump.outcomes[0].payload = "not a record".into();
    let whole = checks(&dump).iter().filter(|check| **check == Check::Whole).count();
    assert!(whole >= 2, "{whole}");
}

#[test]
fn commands_beyond_the_journal_are_undecided_unless_all_should_be_decided() {
    let mut dump = Parts::good().dump();
    dump.commands.push(command(6, None, "deposit", r#"{"amount":5}"#));
    let verification = verify(&dump, false);
    assert_eq!((verification.undecided, verification.violations.as_slice()), (1, [].as_slice()));
    assert_eq!(checks(&dump), [Check::OneOutcome]);
}

#[test]
fn purged_beginnings_are_not_held_against_the_rest() {
    let mut dump = Parts::good().dump();
    dump.commands.drain(..2);
    dump.outcomes.drain(..2);
    assert_eq!(verify(&dump, true).violations, []);
}

/// Feeds a dump as whoever reads the streams does.
fn by_stretch(dump: &Dump, from: u64, to: u64) -> StretchVerification {
    let mut verifier = StretchVerifier::new(from, to, true);
    let mut commands = dump.commands.iter().peekable();
    let mut events = dump.events.iter().peekable();
    for message in &dump.outcomes {
        let Some(record) = verifier.record(message) else { continue };
        while let Some(command) = commands.next_if(|next| next.sequence <= record.through) {
            verifier.command(command);
        }
        while let Some(commit) = events.next_if(|next| next.sequence <= record.events_through) {
            verifier.commit(commit);
        }
        verifier.judge(message, record);
    }
    commands.for_each(|command| verifier.command(command));
    events.for_each(|commit| verifier.commit(commit));
    verifier.finish()
}

#[test]
fn stretch_as_it_should_be_passes_and_is_counted() {
    let dump = Parts::good().dump();
    let whole = StretchVerification {
        commands: 5,
        accepted: 3,
        rejected: 1,
        duplicates: 1,
        events: 3,
        ..StretchVerification::default()
    };
    assert_eq!(by_stretch(&dump, 1, u64::MAX), whole);
    for from in 1..=5 {
        for to in from..=5 {
            let part = by_stretch(&dump, from, to);
            assert_eq!((part.commands, part.violations.as_slice()), (to + 1 - from, [].as_slice()));
        }
    }
}

#[test]
fn every_tampering_that_streams_alone_can_tell_is_found_in_a_stretch() {
    for (name, check, tamper) in TAMPERINGS {
        let mut parts = Parts::good();
        tamper(&mut parts);
        let dump = parts.dump();
        let told_by_replay = !verify(&dump, true).violations.iter().any(|found| found.check == *check);
        // What a duplicate is told is not kept; see `every_tampering_is_found_by_its_check`.
        if told_by_replay || *name == "a duplicate told another outcome" {
            continue;
        }
        let found = by_stretch(&dump, 1, u64::MAX);
        let checks: Vec<_> = found.violations.iter().map(|violation| violation.check).collect();
        assert!(checks.contains(check), "{name}: {checks:?}");
    }
}

#[test]
fn purged_beginning_of_outcomes_is_counted_and_not_judged() {
    let mut dump = Parts::good().dump();
    dump.outcomes.drain(..2);
    let found = by_stretch(&dump, 1, u64::MAX);
    assert_eq!((found.unjudged, found.violation_count), (2, 0), "{:?}", found.violations);
}

#[test]
fn commands_beyond_the_journal_are_undecided_in_a_stretch() {
    let mut dump = Parts::good().dump();
    dump.commands.push(command(6, None, "deposit", r#"{"amount":5}"#));
    let found = by_stretch(&dump, 1, u64::MAX);
    assert_eq!((found.undecided, found.violation_count), (1, 0));
}

#[test]
fn second_effect_far_behind_the_stretch_is_found() {
    let mut parts = Parts::good();
    let mut again = parts.commits[0].clone();
    (again.commit_id, again.first_version) = ("c3".into(), 4);
    again.previous = Some(commit_hash(&parts.commits[1].encode()).to_vec());
    parts.commits.push(again);
    let found = by_stretch(&parts.dump(), 1, 1);
    assert!(found.violations.iter().any(|found| found.check == Check::OneEffect), "{:?}", found.violations);
}

/// A command that changed account b and its own, account a.
fn changed_together() -> [StoredMessage; 2] {
    let commit = |id: &str, partner_of: Option<&str>| Commit {
        commit_id: id.into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![CommittedCommand { partner_of: partner_of.map(Arc::from), ..caused_by("one", 1) }],
        events: vec![recorded(&AccountEvent::Deposited(Deposited { amount: 1 }), 0)],
        previous: None,
    };
    let partner = commit("c1", Some("bank.account.a")).encode();
    [
        stored("evt.bank.account.b", 1, Headers::new(), partner),
        stored("evt.bank.account.a", 2, Headers::new(), commit("c2", None).encode()),
    ]
}

fn found_in(events: &[StoredMessage]) -> (Vec<Check>, Vec<Check>) {
    let mut violations = Vec::new();
    Commits::read(events, &mut violations);
    let mut stretch = StretchVerifier::new(1, 1, true);
    events.iter().for_each(|message| stretch.commit(message));
    let checks = |violations: Vec<Violation>| violations.iter().map(|violation| violation.check).collect();
    (checks(violations), checks(stretch.finish().violations))
}

#[test]
fn command_that_changed_one_aggregate_and_not_the_other_is_found() {
    let [partner, own] = changed_together();
    assert_eq!(found_in(&[partner.clone(), own.clone()]), (vec![], vec![]));
    let torn = (vec![Check::OneEffect], vec![Check::OneEffect]);
    assert_eq!(found_in(std::slice::from_ref(&partner)), torn);
    let apart = StoredMessage { sequence: 3, ..own.clone() };
    assert_eq!(found_in(&[partner.clone(), apart]), torn, "not in one batch");
    let of_another = StoredMessage { subject: "evt.bank.account.c".into(), ..own };
    assert_eq!(found_in(&[partner, of_another]), torn);
}

#[test]
fn commit_without_events_is_found() {
    let empty = Commit {
        commit_id: "c1".into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![caused_by("one", 1)],
        events: vec![],
        previous: None,
    };
    let message = stored(SUBJECT, 1, Headers::new(), empty.encode());
    assert_eq!(found_in(&[message]).0, [Check::Whole]);
}

/// The act at `sequence` for the message 2, when that has the digest `digest`; the act `before` is the one before it.
fn act(sequence: u64, digest: String, before: Option<&StoredMessage>) -> StoredMessage {
    let act = MessageSetAside { subject: SUBJECT.to_owned(), digest, reason: "a slip".into() };
    let event = RecordedEvent {
        event_type: set_aside::EVENT_TYPE.into(),
        schema: 1,
        data: rmp_serde::to_vec_named(&act).unwrap(),
        command: 0,
    };
    let commit_id = format!("act-{sequence}");
    let act = Commit {
        first_version: if before.is_some() { 2 } else { 1 },
        previous: before.map(|before| commit_hash(&before.payload).to_vec()),
        commands: vec![caused_by(&commit_id, sequence)],
        events: vec![event],
        commit_id: commit_id.into(),
        ..Parts::good().commits.remove(0)
    };
    stored(&set_aside::act_subject(2), sequence, Headers::new(), act.encode())
}

/// A history whose message 2 is no commit, and the act that sets it aside; the aggregate goes on behind it.
#[test]
fn message_that_is_no_commit_is_found_unless_the_last_act_sets_it_aside() {
    let parts = Parts::good();
    let [mut first, second] = <[Commit; 2]>::try_from(parts.commits).unwrap();
    first.commands.truncate(1);
    first.events.truncate(1);
    let stranger = stored(SUBJECT, 2, Headers::new(), b"{}".to_vec());
    let digest = content_digest(&stranger.payload);
    let right = act(3, digest.clone(), None);
    let behind =
        Commit { first_version: 2, previous: Some(commit_hash(&stranger.payload).to_vec()), ..second };
    let first = stored(SUBJECT, 1, Headers::new(), first.encode());
    let behind = stored(SUBJECT, 4, Headers::new(), behind.encode());

    let events = [first.clone(), stranger.clone(), right.clone(), behind.clone()];
    assert_eq!(found_in(&events), (vec![], vec![]), "it was set aside");
    let wrong = act(3, "blake3:of something else".to_owned(), None);
    let right_behind = act(5, digest, Some(&wrong));
    let events = [first.clone(), stranger.clone(), wrong, behind.clone(), right_behind];
    assert_eq!(found_in(&events), (vec![], vec![]), "the last act sets it aside");

    let wrong_behind = act(5, "blake3:of something else".to_owned(), Some(&right));
    let no_act = stored(&right.subject, 5, Headers::new(), b"{}".to_vec());
    let other = StoredMessage { payload: b"[]".to_vec().into(), ..stranger.clone() };
    for events in [
        vec![first.clone(), stranger.clone()],
        vec![first.clone(), other, right.clone()],
        vec![first.clone(), stranger.clone(), right.clone(), behind, wrong_behind],
        vec![first, stranger, right, no_act],
    ] {
        let (whole, stretch) = found_in(&events);
        assert!(whole.contains(&Check::Whole) && stretch.contains(&Check::Whole), "{events:?}");
    }
}

/// As the first release wrote them: `closed` ends a chain before the partitions are shared in another way.
#[test]
fn records_of_several_active_handlers_are_not_read_and_named() {
    let mut parts = Parts::good();
    parts.records.truncate(1);
    let dump = parts.dump();
    let fence = &dump.outcomes[0].payload;
    let kind = fence.windows(5).position(|bytes| bytes == b"fence").unwrap();
    let body = [&fence[..kind - 1], b"\xa6closed", &fence[kind + 5..]].concat();
    let outcomes = vec![stored("out.0of1", 1, Headers::new(), body)];
    let found = verify(&Dump { outcomes, ..dump }, false).violations;
    assert!(
        found.iter().any(|violation| violation.detail.contains("several active command handlers")),
        "{found:?}"
    );
}
