//! Reading in order from a sequence, through restarts and takeovers.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use millstream_contract::{
    stream_names::{COMMANDS, EVENTS},
    subject::StreamId,
};

use super::{Ground, bodies, eventually, is_taken_over, message, put, read, reader_config, sequences};
use crate::broker::{Broker, ReadError, ReaderConfig, StreamReader};

/// A reader starts after its sequence and continues with what is appended later.
pub async fn reader_starts_behind_its_position_and_goes_on<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    for number in 1..=6 {
        put(&broker, EVENTS, &format!("evt.a.b.{number}"), "x").await;
    }
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 2)).await.unwrap();
    assert_eq!(sequences(&read(&mut reader, 4).await), [3, 4, 5, 6]);
    put(&broker, EVENTS, "evt.a.b.7", "later").await;
    assert_eq!(bodies(&read(&mut reader, 1).await), ["later"]);
}

/// A batch has at most the requested number of messages, and a cancelled wait loses none.
pub async fn batches_are_bounded_and_a_cancelled_wait_loses_nothing<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    let mut seen = Vec::new();
    for number in 1..=30 {
        put(&broker, EVENTS, "evt.a.b.c", &number.to_string()).await;
        // This wait is cancelled at once, so what has come so far must come again.
        tokio::select! {
            biased;
            batch = reader.next_batch(3) => seen.extend(batch.unwrap()),
            () = tokio::task::yield_now() => {}
        }
    }
    while seen.len() < 30 {
        let batch = reader.next_batch(3).await.unwrap();
        assert!((1..=3).contains(&batch.len()), "{}", batch.len());
        seen.extend(batch);
    }
    assert_eq!(sequences(&seen), (1..=30).collect::<Vec<_>>());
}

/// The last message of a subject with wildcards is the last one of all matching subjects.
pub async fn last_message_is_found_for_a_subject_with_wildcards<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    for id in ["1", "2", "1", "3"] {
        put(&broker, EVENTS, &format!("evt.a.b.{id}"), id).await;
    }
    put(&broker, EVENTS, "evt.a.other.1", "x").await;
    for (subject, last) in [
        ("evt.a.b.*", Some(4)),
        ("evt.*.*.1", Some(5)),
        ("evt.a.b.1", Some(3)),
        ("evt.b.>", None),
        ("evt.>", Some(5)),
    ] {
        let found = broker.last(EVENTS, subject).await.unwrap();
        assert_eq!(found.map(|message| message.sequence), last, "{subject}");
    }
}

/// A reader makes its consumer again after it was removed, and misses nothing. Removing a consumer that does not exist succeeds, too.
pub async fn reader_goes_on_when_its_consumer_is_removed<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "x").await;
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    assert_eq!(sequences(&read(&mut reader, 1).await), [1]);
    for _ in 0..2 {
        broker.remove_consumer(EVENTS, "scenario").await.unwrap();
    }
    put(&broker, EVENTS, "evt.a.b.2", "x").await;
    assert_eq!(sequences(&read(&mut reader, 1).await), [2]);
}

/// Filters deliver the named subjects only, in order.
pub async fn reader_with_filters_gets_their_messages_alone<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let partition = |id: &str| StreamId::new("a", "b", id).unwrap().partition();
    let ids = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let wanted = [partition("1"), partition("2")];
    let mut expected = Vec::new();
    for id in ids {
        let sequence = put(&broker, COMMANDS, &format!("cmd.a.b.{id}.c"), id).await;
        if wanted.contains(&partition(id)) {
            expected.push(sequence);
        }
    }
    let mut filters: Vec<String> = wanted.iter().map(|number| format!("cmdq.{number}.>")).collect();
    filters.dedup();
    let config = ReaderConfig { filters, ..reader_config(COMMANDS, "scenario", 0) };
    let mut reader = broker.read(config).await.unwrap();
    assert_eq!(sequences(&read(&mut reader, expected.len()).await), expected);
    put(&broker, COMMANDS, "cmd.a.b.1.c", "later").await;
    assert_eq!(bodies(&read(&mut reader, 1).await), ["later"]);
}

/// A second reader with the same name ends the first one, which reports it. The second one continues.
pub async fn second_reader_of_a_name_ends_the_first<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "x").await;
    let mut first = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    read(&mut first, 1).await;
    let mut second = ground.connect().await.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    let ended = tokio::time::timeout(super::PATIENCE, first.next_batch(1)).await.unwrap();
    assert!(is_taken_over(&ended), "{ended:?}");
    put(&broker, EVENTS, "evt.a.b.1", "y").await;
    assert_eq!(sequences(&read(&mut second, 2).await), [1, 2]);
}

/// A reader that may not replace a living one is refused, and the living one is not disturbed.
pub async fn live_reader_is_not_replaced_by_mistake<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let config = ReaderConfig { replace_live: false, ..reader_config(EVENTS, "scenario", 0) };
    let mut live = broker.read(config.clone()).await.unwrap();
    put(&broker, EVENTS, "evt.a.b.1", "x").await;
    read(&mut live, 1).await;
    let other = ground.connect().await;
    let waiting = tokio::spawn(async move { live.next_batch(1).await });
    // Before the living reader's next request has reached the server, nothing shows that it is alive.
    eventually("the refusal", || async { is_taken_over(&other.read(config.clone()).await) }).await;
    // An earlier attempt may rightly take the name; the reader then reports that and does not continue.
    put(&broker, EVENTS, "evt.a.b.1", "y").await;
    match waiting.await.unwrap() {
        Ok(messages) => assert_eq!(sequences(&messages), [2]),
        Err(error) => assert!(is_taken_over::<()>(&Err(error))),
    }
}

/// Killing the server in the middle of reading loses no message and repeats none.
pub async fn reader_goes_on_after_a_restart<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    put(&broker, EVENTS, "evt.a.b.1", "1").await;
    assert_eq!(sequences(&read(&mut reader, 1).await), [1]);
    for round in 1..=2_u64 {
        ground.restart().await;
        eventually("an append after the restart", || async {
            // This append is made once. A repetition would be a conflict, after which the first one is found.
            let answer = broker.append(EVENTS, message("evt.a.b.1", Some(round), "again")).await;
            answer.is_ok()
                || matches!(broker.last(EVENTS, "evt.a.b.1").await, Ok(Some(last)) if last.sequence > round)
        })
        .await;
        assert_eq!(sequences(&read(&mut reader, 1).await), [round + 1]);
    }
}

/// A server that comes back without its tail is noticed, even if the stream has grown beyond the reader's sequence since.
pub async fn reader_notices_a_lost_tail_that_has_grown_again<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    for body in ["1", "2"] {
        put(&broker, EVENTS, "evt.a.b.1", body).await;
    }
    ground.remember().await;
    put(&broker, EVENTS, "evt.a.b.1", "3").await;
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    assert_eq!(bodies(&read(&mut reader, 3).await), ["1", "2", "3"]);
    let mut idle = broker.read(reader_config(EVENTS, "idle", 3)).await.unwrap();
    ground.go_back().await;
    let broker = ground.connect().await;
    for body in ["other 3", "4", "5"] {
        eventually("an append after the loss", || async {
            broker.append(EVENTS, message("evt.a.b.1", None, body)).await.is_ok()
        })
        .await;
    }
    let ended = tokio::time::timeout(super::PATIENCE, reader.next_batch(10)).await.unwrap();
    assert!(matches!(ended, Err(ReadError::OtherMessage { sequence: 3, .. })), "{ended:?}");
    // A reader that has not read anything yet remembers which message was there when it began.
    let ended = tokio::time::timeout(super::PATIENCE, idle.next_batch(10)).await.unwrap();
    assert!(matches!(ended, Err(ReadError::OtherMessage { sequence: 3, .. })), "{ended:?}");
}

/// A server that comes back without its tail and stays so is noticed.
pub async fn reader_notices_a_lost_tail<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "1").await;
    ground.remember().await;
    put(&broker, EVENTS, "evt.a.b.1", "2").await;
    let mut reader = broker.read(reader_config(EVENTS, "scenario", 0)).await.unwrap();
    read(&mut reader, 2).await;
    ground.go_back().await;
    let ended = tokio::time::timeout(super::PATIENCE, reader.next_batch(10)).await.unwrap();
    assert!(matches!(ended, Err(ReadError::LostTail { last: 1, after: 2, .. })), "{ended:?}");
}

/// A start beyond the end of a stream is reported as a lost tail, instead of waiting for it.
pub async fn position_beyond_the_end_is_a_lost_tail<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    put(&broker, EVENTS, "evt.a.b.1", "x").await;
    let answer = broker.read(reader_config(EVENTS, "scenario", 5)).await;
    assert!(matches!(answer.err(), Some(ReadError::LostTail { last: 1, after: 5, .. })));
    assert!(broker.read(reader_config(EVENTS, "scenario", 1)).await.is_ok());
}
