//! Appends, expectations, message ids, limits, and reads of single messages.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use std::collections::BTreeSet;

use millstream_contract::{
    header,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    subject::{CommandAddress, published_subject},
};

use super::{Ground, bodies, is_conflict, message, put, sequences};
use crate::{
    broker::{AppendError, Broker, BrokerError, StreamState, StreamUsage},
    testing::operation::load_all,
};

/// Sequences are assigned in the order of appends, and an append is refused if its expectation does not hold.
pub async fn expectation_is_of_the_subject_alone<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let append = async |subject: &str, expected| broker.append(EVENTS, message(subject, expected, "x")).await;
    assert_eq!(append("evt.a.b.1", Some(0)).await.unwrap().sequence, 1);
    assert_eq!(append("evt.a.b.2", Some(0)).await.unwrap().sequence, 2);
    assert!(is_conflict(&append("evt.a.b.1", Some(0)).await), "there is one already");
    assert!(is_conflict(&append("evt.a.b.1", Some(2)).await), "2 is another subject's");
    assert!(is_conflict(&append("evt.a.b.3", Some(2)).await), "there is none");
    assert_eq!(append("evt.a.b.1", Some(1)).await.unwrap().sequence, 3);
    assert_eq!(append("evt.a.b.1", None).await.unwrap().sequence, 4);
    assert!(is_conflict(&append("evt.a.b.1", Some(3)).await), "an append without expectation counts");
    assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 4);
}

/// Of several appends with the same expectation, one is stored.
pub async fn one_of_many_with_the_same_expectation_is_stored<G: Ground>(ground: &mut G) {
    let mut appends = Vec::new();
    for body in ["a", "b", "c", "d", "e", "f"] {
        let broker = ground.connect().await;
        appends.push(async move { broker.append(OUTCOMES, message("out.0", Some(0), body)).await });
    }
    let answers = futures::future::join_all(appends).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| is_conflict(answer)).count(), 5, "{answers:?}");
    assert_eq!(ground.connect().await.state(OUTCOMES).await.unwrap().last_sequence, 1);
}

/// Each of many appends has its own answer, in their order, and none affects the others.
pub async fn each_of_many_appends_has_its_own_answer<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let mut stored = BTreeSet::new();
    for count in [7_u64, 700] {
        let messages = (0..count).map(|number| match number % 7 {
            _ if number == 5 => message("evt.a.b.large", Some(0), &"x".repeat(1024 * 1024 + 1)),
            2 => message(&format!("evt.a.b.{count}-{number}"), Some(1_000_000), "nothing is there"),
            4 => message("other.1", None, "no stream takes it"),
            _ => message(&format!("evt.a.b.{count}-{number}"), Some(0), &number.to_string()),
        });
        let answers = broker.append_each(EVENTS, messages.collect()).await;
        assert_eq!(answers.len() as u64, count);
        for (number, answer) in (0..).zip(&answers) {
            match number % 7 {
                _ if number == 5 => {
                    assert!(matches!(answer, Err(AppendError::Refused { .. })), "{answer:?}");
                }
                2 => assert!(is_conflict(answer), "{number} of {count}: {answer:?}"),
                4 => {
                    assert!(
                        matches!(answer, Err(AppendError::Unclear { subject, .. }) if subject == "other.1")
                    );
                }
                _ => {
                    let sequence = answer.as_ref().unwrap().sequence;
                    let message = broker.get(EVENTS, sequence).await.unwrap().unwrap();
                    assert_eq!(message.subject, format!("evt.a.b.{count}-{number}"));
                    stored.insert(sequence);
                }
            }
        }
    }
    let last = broker.state(EVENTS).await.unwrap().last_sequence;
    assert_eq!(stored, (1..=last).collect(), "nothing else is stored");
}

/// A load returns one subject's messages from a sequence on, in order, however many there are.
pub async fn load_is_one_subject_from_a_position<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let numbers: Vec<String> = (0..1_300).map(|number| number.to_string()).collect();
    let appends = numbers.iter().map(|body| put(&broker, EVENTS, "evt.a.b.long", body));
    let mut stored = futures::future::join_all(appends).await;
    put(&broker, EVENTS, "evt.a.b.other", "other").await;
    stored.push(put(&broker, EVENTS, "evt.a.b.long", "last").await);
    stored.sort_unstable();

    let all = load_all(&broker, EVENTS, "evt.a.b.long", 0).await.unwrap();
    assert_eq!(sequences(&all), stored);
    assert_eq!(load_all(&broker, EVENTS, "evt.a.b.long", 1).await.unwrap(), all);
    let from = load_all(&broker, EVENTS, "evt.a.b.long", 1_301).await.unwrap();
    assert_eq!((sequences(&from), bodies(&from)), (vec![1_302], vec!["last"]));
    assert_eq!(load_all(&broker, EVENTS, "evt.a.b.long", 1_303).await.unwrap(), []);
    assert_eq!(load_all(&broker, EVENTS, "evt.a.b.none", 0).await.unwrap(), []);

    // A page has at least one message, and not many more than its limit.
    for (bytes, most) in [(1, 1), (400, 400)] {
        let page = broker.load_page(EVENTS, "evt.a.b.long", 0, bytes).await.unwrap();
        assert!(page.more && (1..=most).contains(&page.messages.len()), "{} messages", page.messages.len());
        assert!(all.starts_with(&page.messages));
    }
    let last = broker.load_page(EVENTS, "evt.a.b.long", 1_301, 1 << 20).await.unwrap();
    assert!(!last.more && last.messages.len() == 1);
}

/// The leader answers with the current state.
pub async fn last_and_get_are_current<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    assert_eq!(broker.last(EVENTS, "evt.a.b.1").await.unwrap(), None);
    assert_eq!(broker.get(EVENTS, 1).await.unwrap(), None);
    put(&broker, EVENTS, "evt.a.b.1", "first").await;
    put(&broker, EVENTS, "evt.a.b.2", "other").await;
    put(&broker, EVENTS, "evt.a.b.1", "second").await;
    let last = broker.last(EVENTS, "evt.a.b.1").await.unwrap().unwrap();
    assert_eq!((last.sequence, last.payload.as_ref()), (3, b"second".as_slice()));
    assert_eq!(broker.get(EVENTS, 3).await.unwrap(), Some(last));
    assert_eq!(broker.get(EVENTS, 2).await.unwrap().unwrap().subject, "evt.a.b.2");
    assert_eq!(broker.get(EVENTS, 4).await.unwrap(), None);
}

/// A message comes back as it was sent, at the same place and time, whichever way it is read.
pub async fn message_comes_back_as_it_was_sent<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let mut sent = message("evt.a.b.1", Some(0), "");
    sent.payload = bytes::Bytes::from_static(b"\x00\xff\r\n\r\nNATS/1.0");
    sent.headers.push(header::ACTOR, "Ada: of Lovelace");
    sent.headers.push(header::CORRELATION_ID, "ünïcode");
    broker.append(EVENTS, sent.clone()).await.unwrap();
    broker.append(EVENTS, message("evt.a.b.1", Some(1), "")).await.unwrap();

    let loaded = load_all(&broker, EVENTS, "evt.a.b.1", 0).await.unwrap();
    let first = loaded.first().unwrap();
    assert_eq!((first.payload.clone(), loaded.last().unwrap().payload.len()), (sent.payload, 0));
    for (name, value) in sent.headers.iter() {
        assert_eq!(first.headers.get(name), Some(value));
    }
    let sorted = |headers: &Headers| {
        let mut all: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        all.sort();
        all
    };
    let got = broker.get(EVENTS, 1).await.unwrap().unwrap();
    assert_eq!((got.stored_at, &got.payload), (first.stored_at, &first.payload));
    assert_eq!(sorted(&got.headers), sorted(&first.headers));
    let mut reader = broker.read(super::reader_config(EVENTS, "scenario", 0)).await.unwrap();
    let read = super::read(&mut reader, 2).await;
    assert_eq!(read.first().map(|message| message.stored_at), Some(first.stored_at));
    assert_eq!(read.first().map(|message| sorted(&message.headers)), Some(sorted(&first.headers)));
}

/// A stream's state has its generation, its first and its last sequence.
pub async fn state_names_generation_and_ends<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let StreamState { generation, last_sequence, .. } = broker.state(EVENTS).await.unwrap();
    assert_eq!(last_sequence, 0);
    assert!(!generation.is_empty());
    for _ in 0..3 {
        put(&broker, EVENTS, "evt.a.b.1", "x").await;
    }
    let after = broker.state(EVENTS).await.unwrap();
    let usage = StreamUsage { messages: 3, ..after.usage };
    assert_eq!(after, StreamState { generation, first_sequence: 1, last_sequence: 3, usage });
    let missing = broker.state("NOTHERE").await;
    assert!(matches!(missing, Err(BrokerError::StreamMissing { .. })), "{missing:?}");
}

/// Commands are stored under the partition that [`millstream_contract::subject`] computes, and commands of processes under their own subject.
/// Expectations are about the stored subject. Messages on other subjects are not stored.
pub async fn commands_are_stored_by_partition<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    for id in ["1", "2506_2012-01-31", "a:b@c", "X"] {
        let subject = format!("cmd.retail.till.{id}.record-sale");
        let sequence = put(&broker, COMMANDS, &subject, "{}").await;
        let stored = broker.get(COMMANDS, sequence).await.unwrap().unwrap();
        let partition = CommandAddress::from_subject(&subject).unwrap().stream_id.partition();
        assert_eq!(stored.subject, format!("cmdq.{partition}.retail.till.{id}.record-sale"));
        assert_eq!(published_subject(&stored.subject), subject);
    }
    let effect = "effect.retail.till.1.close";
    let sequence = put(&broker, COMMANDS, effect, "{}").await;
    assert_eq!(broker.get(COMMANDS, sequence).await.unwrap().unwrap().subject, effect);
    for subject in [
        "effect.retail.till.close",
        "cmd.retail.till.close",
        "cmd.retail.till.1.close.now",
        "other.retail.till.1.close",
    ] {
        let answer = broker.append(COMMANDS, message(subject, None, "{}")).await;
        assert!(matches!(answer, Err(AppendError::Unclear { .. })), "{subject}: {answer:?}");
    }
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 5);
}

/// A repeated message id is answered with the sequence of the first message and stores nothing. The expectation is checked first.
pub async fn repeated_message_id_is_a_duplicate<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let append = async |subject: &str, expected, id: &str| {
        let mut command = message(subject, expected, "{}");
        command.headers.push(header::NATS_MESSAGE_ID, id);
        let answer = broker.append(COMMANDS, command).await;
        answer.map(|appended| (appended.sequence, appended.duplicate))
    };
    assert_eq!(append("cmd.a.b.c.d", None, "one").await.unwrap(), (1, false));
    assert_eq!(append("cmd.a.b.c.d", None, "one").await.unwrap(), (1, true));
    assert_eq!(append("cmd.a.b.other.d", None, "one").await.unwrap(), (1, true));
    assert_eq!(append("cmd.a.b.c.d", None, "two").await.unwrap(), (2, false));
    assert!(is_conflict(&append("cmd.a.b.c.d", Some(1), "two").await));
    assert_eq!(append("cmd.a.b.c.d", Some(2), "two").await.unwrap(), (2, true));
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 2);
}

/// A full stream refuses messages, keeps what it has, and accepts more when there is space.
pub async fn full_stream_refuses_until_there_is_space<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    ground.limit(EVENTS, Some(2)).await;
    put(&broker, EVENTS, "evt.a.b.1", "x").await;
    put(&broker, EVENTS, "evt.a.b.2", "x").await;
    let refused = broker.append(EVENTS, message("evt.a.b.1", Some(1), "x")).await;
    assert!(matches!(refused, Err(AppendError::Full { .. })), "{refused:?}");
    assert!(is_conflict(&broker.append(EVENTS, message("evt.a.b.1", Some(0), "x")).await));
    assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 2);
    ground.limit(EVENTS, None).await;
    assert_eq!(broker.append(EVENTS, message("evt.a.b.1", Some(1), "x")).await.unwrap().sequence, 3);
}

/// A message larger than the server accepts is refused for good, and the connection stays open.
pub async fn too_large_a_message_is_refused<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let mut large = message("evt.a.b.1", Some(0), "");
    large.payload = vec![b'x'; 1024 * 1024 + 1].into();
    let refused = broker.append(EVENTS, large).await;
    assert!(matches!(refused, Err(AppendError::Refused { .. })), "{refused:?}");
    let mut fits = message("evt.a.b.1", Some(0), "");
    fits.payload = vec![b'x'; 1024 * 1024 - 4096].into();
    assert_eq!(broker.append(EVENTS, fits).await.unwrap().sequence, 1);
}
