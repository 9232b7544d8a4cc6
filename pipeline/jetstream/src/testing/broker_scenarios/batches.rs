//! Atomic batches: all or nothing.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use millstream_contract::{
    header,
    stream_names::{COMMANDS, EVENTS},
};

use super::{Ground, bodies, is_conflict, message, put};
use crate::{broker::Broker, testing::operation::load_all};

/// A batch whose expectations hold is stored at adjacent sequences.
pub async fn batch_is_stored_whole<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "before").await;
    let batch = vec![
        message("evt.a.b.1", Some(1), "one"),
        message("evt.a.b.2", Some(0), "two"),
        message("evt.a.b.3", None, "three"),
    ];
    assert_eq!(broker.append_atomically(EVENTS, batch).await.unwrap().sequence, 4);
    assert_eq!(bodies(&load_all(&broker, EVENTS, "evt.a.b.1", 2).await.unwrap()), ["one"]);
    assert_eq!(broker.last(EVENTS, "evt.a.b.2").await.unwrap().unwrap().sequence, 3);
    let single = broker.append_atomically(EVENTS, vec![message("evt.a.b.2", Some(3), "four")]).await;
    assert_eq!(single.unwrap().sequence, 5);
}

/// If one expectation anywhere in the batch does not hold, nothing is stored.
pub async fn batch_with_a_conflict_stores_nothing<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "before").await;
    for wrong in 0..3 {
        let batch = (0..3).map(|index| {
            let expected = if index == wrong { 7 } else { 0 };
            message(&format!("evt.a.b.new{index}"), Some(expected), "x")
        });
        let answer = broker.append_atomically(EVENTS, batch.collect()).await;
        assert!(is_conflict(&answer), "{wrong}: {answer:?}");
    }
    assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 1);
}

/// One repeated `Nats-Msg-Id` rejects a batch; a repeated `Millstream-Command-Id` does not.
pub async fn batch_with_a_repeated_message_id_stores_nothing<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let command = |id: &str, name: &'static str| {
        let mut command = message(&format!("cmd.a.b.{id}.c"), None, "{}");
        command.headers.push(name, id);
        command
    };
    broker.append(COMMANDS, command("one", header::NATS_MESSAGE_ID)).await.unwrap();
    let spoilt = vec![command("two", header::NATS_MESSAGE_ID), command("one", header::NATS_MESSAGE_ID)];
    let answer = broker.append_atomically(COMMANDS, spoilt).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 1);
    let own = vec![command("two", header::COMMAND_ID), command("one", header::COMMAND_ID)];
    assert_eq!(broker.append_atomically(COMMANDS, own).await.unwrap().sequence, 3);
    assert!(broker.get(COMMANDS, 2).await.unwrap().unwrap().subject.starts_with("cmdq."));
}

/// Several batches at the same time do not mix.
pub async fn batches_side_by_side_do_not_mix<G: Ground>(ground: &mut G) {
    let mut batches = Vec::new();
    for writer in 0..6 {
        let broker = ground.connect().await;
        let batch = (0..20).map(|_| message(&format!("evt.a.b.w{writer}"), None, "x")).collect();
        batches.push(async move { broker.append_atomically(EVENTS, batch).await });
    }
    for answer in futures::future::join_all(batches).await {
        answer.unwrap();
    }
    let broker = ground.connect().await;
    for writer in 0..6 {
        let stored = load_all(&broker, EVENTS, &format!("evt.a.b.w{writer}"), 0).await.unwrap();
        let first = stored.first().unwrap().sequence;
        assert_eq!(super::sequences(&stored), (first..first + 20).collect::<Vec<_>>());
    }
}
