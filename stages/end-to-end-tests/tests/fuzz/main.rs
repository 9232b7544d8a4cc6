//! Every decoder of foreign bytes takes whatever comes: it answers or refuses, and never panics. What is begun from are the files in `fuzz/`,
//! one folder for each kind of input, and what our own encoders write; both are cut, doubled, flipped and mixed. Where there is an encoder, what
//! it writes comes back.
//!
//! `PROPTEST_CASES=1000000 cargo test -p end-to-end-tests --test fuzz` goes on for longer. Queries with their cursors and rows of
//! imports are decoded by functions that no other crate sees; their targets are beside them and are called `fuzz_…`, too.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod mutation;

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::{BodyFormat, CommandEnvelope},
    commit::{Commit, CommittedCommand, RecordedEvent, StoredCommit},
    dead_letter::{DeadLetter, further_parts, is_further_part},
    header,
    header_check::check_headers,
    moment::Moment,
    outcome::{CommandOutcome, Generations, Outcome, OutcomeRecord, OutcomeReply, RecordKind},
    position::StreamPosition,
    stored_message::{Headers, StoredMessage},
    subject::{CommandAddress, StreamId, due_command_subject, published_subject},
};
use proptest::prelude::*;

use self::mutation::{mutated, mutated_corpus};

fn stored(subject: &str, block: &[u8], payload: impl Into<Bytes>) -> StoredMessage {
    StoredMessage {
        subject: subject.to_owned(),
        sequence: 7,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::from_block(Bytes::copy_from_slice(block)),
        payload: payload.into(),
    }
}

/// The headers that a letter keeps as they are: JetStream's own are left out, and its message id becomes the command's.
fn senders(headers: &Headers) -> impl Iterator<Item = (&str, &str)> {
    let jetstreams = |name: &str| name.to_ascii_lowercase().starts_with("nats-");
    headers.iter().filter(move |(name, _)| !jetstreams(name) && *name != header::COMMAND_ID)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9:_-]{1,20}", ".{0,40}"]
}

prop_compose! {
    fn committed_command()(
        id in text(), position in any::<u64>(), actor in proptest::option::of(text()), trace in proptest::option::of(text()),
    ) -> CommittedCommand {
        let (id, actor, traceparent) = (id.into(), actor.map(Into::into), trace.map(Into::into));
        CommittedCommand { id, position, actor, correlation_id: None, causation_id: None, traceparent, partner_of: None }
    }
}

prop_compose! {
    fn commit()(
        commands in proptest::collection::vec(committed_command(), 1..4),
        events in proptest::collection::vec(("[a-z-]{1,20}", any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..5),
        first_version in 1..u64::MAX / 2, recorded_at in any::<i64>(), previous in proptest::option::of(any::<[u8; 16]>()),
    ) -> Commit {
        let events = events.into_iter().map(|(event_type, schema, data)| {
            RecordedEvent { event_type: event_type.into(), schema, data, command: 0 }
        });
        let previous = previous.map(Vec::from);
        Commit { commit_id: "c".into(), first_version, recorded_at, commands, events: events.collect(), previous }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let rejected =
        |(code, message): (String, String)| Outcome::Rejected { code: code.into(), message: message.into() };
    let accepted = (any::<u64>(), any::<u64>(), any::<u32>());
    let first = prop_oneof![
        accepted.prop_map(|(sequence, version, events)| Outcome::Accepted { sequence, version, events }),
        (text(), text()).prop_map(rejected),
        (text(), text())
            .prop_map(|(code, message)| Outcome::DeadLettered { code: code.into(), message: message.into() }),
    ];
    first.prop_recursive(2, 4, 1, |first| {
        (any::<u64>(), first).prop_map(|(of, first)| Outcome::Duplicate {
            of,
            first: Box::new(first),
            other_content: false,
        })
    })
}

prop_compose! {
    fn record()(outcomes in proptest::collection::vec((any::<u64>(), text(), outcome()), 0..6)) -> OutcomeRecord {
        let line = |(position, id, outcome): (u64, String, Outcome)| {
            CommandOutcome { position, id: Some(id.into()), address: "a.b.c.d".into(), outcome, content: None }
        };
        OutcomeRecord {
            record_id: "r".into(),
            kind: RecordKind::Outcomes,
            handler: "h".into(),
            after: 0,
            through: outcomes.len() as u64,
            events_through: 1,
            outcomes: outcomes.into_iter().map(line).collect(),
            generations: Generations { commands: "c".into(), events: "e".into() },
        }
    }
}

proptest! {
    #[test]
    fn fuzz_bodies_of_commands(body in mutated_corpus("commands"), packed in any::<bool>()) {
        let format = if packed { BodyFormat::MessagePack } else { BodyFormat::Json };
        for aggregate in millstream_model::aggregates().iter() {
            for command in aggregate.command_names() {
                let subject = format!("cmdq.1.{}.{}.a:b.{command}", aggregate.context(), aggregate.aggregate());
                let mut envelope = CommandEnvelope::from_stored(&stored(&subject, b"", body.clone())).unwrap();
                envelope.format = format;
                if let Err(error) = aggregate.decode_command(&envelope) {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn fuzz_headers_and_envelopes(block in mutated_corpus("headers"), subject in mutated_corpus("subjects")) {
        let headers = Headers::from_block(Bytes::from(block.clone()));
        if headers.unreadable().is_none() {
            // What can be read is written so that it reads the same.
            let again = Headers::from_block(headers.block());
            prop_assert!(headers.iter().eq(again.iter()), "{}", block.escape_ascii());
        }
        let _judged = check_headers(&headers, &[header::ACTOR]);
        let message = stored(&String::from_utf8_lossy(&subject), &block, "{}");
        if let Err(error) = CommandEnvelope::from_stored(&message) {
            prop_assert!(!error.code().is_empty());
        }
    }

    #[test]
    fn fuzz_subjects_and_schedules(subject in prop_oneof![mutated_corpus("subjects"), mutated_corpus("schedules")]) {
        let subject = String::from_utf8_lossy(&subject);
        if let Ok(address) = CommandAddress::from_subject(&subject) {
            prop_assert_eq!(address.subject(), &*subject);
        }
        if let Ok(id) = StreamId::from_event_subject(&subject) {
            prop_assert_eq!(id.event_subject(), &*subject);
            prop_assert!(id.partition() < 16);
        }
        let _stored = CommandAddress::from_stored_subject(&subject);
        let published = published_subject(&subject);
        prop_assert!(published.len() <= subject.len());
        if let Some(command) = due_command_subject(&subject) {
            prop_assert!(command.starts_with("effect."));
        }
    }

    #[test]
    fn fuzz_commits(written in commit(), changed in commit().prop_flat_map(|commit| mutated(vec![commit.encode()]))) {
        let read = StoredCommit::from_stored(&stored("evt.a.b.c", b"", written.encode())).unwrap();
        prop_assert_eq!(&read.commit, &written);
        if let Ok(read) = StoredCommit::from_stored(&stored("evt.a.b.c", b"", changed)) {
            let _all: Vec<_> = read.envelopes().map(|envelope| envelope.aggregate_version).collect();
            let _told = (read.commit.recorded_at(), read.commit.last_position(), read.hash());
        }
    }

    #[test]
    fn fuzz_outcome_records(written in record(), changed in record().prop_flat_map(|record| mutated(vec![record.encode()]))) {
        let read = OutcomeRecord::from_stored(&stored("out.0of1", b"", written.encode())).unwrap();
        prop_assert_eq!(read, written);
        let _changed = OutcomeRecord::from_stored(&stored("out.0of1", b"", changed));
    }

    #[test]
    fn fuzz_answers_of_submit(outcome in outcome(), changed in mutated_corpus("outcomes")) {
        let reply = OutcomeReply { command_id: "a".into(), command_position: 7, outcome, query_position: None };
        prop_assert_eq!(OutcomeReply::from_json(&reply.to_json()), Some(reply));
        let _changed = serde_json::from_slice(&changed).ok().and_then(|value| OutcomeReply::from_json(&value));
    }

    #[test]
    fn fuzz_dead_letters(block in mutated_corpus("headers"), payload in proptest::collection::vec(any::<u8>(), 0..200), max in 600..2_000_usize) {
        // As one that is kept, and as a message that is set aside: that one comes back byte for byte.
        let message = stored("due.cmd.a.b%\u{a0}", &block, payload);
        let _parts = (is_further_part(&message), further_parts(&message));
        let _letter = DeadLetter::from_stored(&message, &[]);
        let letter = DeadLetter::new("TIMERS", &message, "code", "cause");
        let mut parts = letter.parts(max).into_iter().map(|part| StoredMessage {
            subject: part.subject,
            sequence: 1,
            stored_at: Timestamp::UNIX_EPOCH,
            headers: part.headers,
            payload: part.payload,
        });
        let first = parts.next().unwrap();
        let further: Vec<_> = parts.collect();
        prop_assert!(further.iter().map(|part| &part.subject).eq(&further_parts(&first)));
        let found = DeadLetter::from_stored(&first, &further).unwrap();
        prop_assert_eq!((&found.subject, &found.code, &found.payload), (&letter.subject, &letter.code, &letter.payload));
        match letter.headers.unreadable() {
            Some((_, block)) => prop_assert_eq!(found.headers.block(), block),
            None => prop_assert!(senders(&found.headers).eq(senders(&letter.headers)), "{:?}", found.headers),
        }
    }

    #[test]
    fn fuzz_positions_and_moments(text in mutated_corpus("positions")) {
        let text = String::from_utf8_lossy(&text);
        if let Ok(position) = text.parse::<StreamPosition>() {
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
        if let Ok(moment) = text.parse::<Moment>() {
            prop_assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }
}
