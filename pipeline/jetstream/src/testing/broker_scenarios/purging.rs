//! Purging by subject and up to a sequence, and what a reader notices of it.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use millstream_contract::stream_names::TIMERS;

use super::{Ground, put, read, reader_config, sequences};
use crate::broker::{Broker, ReaderConfig};

/// A purge removes the messages that match its filter, up to its sequence, and no others. Repeated, it finds nothing.
pub async fn purge_takes_its_subject_up_to_its_position<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    for subject in ["due.cmd.a.b.c.d", "due.cmd.a.b.c.e", "timer.other", "due.cmd.a.b.c.d"] {
        put(&broker, TIMERS, subject, "").await;
    }
    assert_eq!(broker.purge_subject(TIMERS, "due.>", Some(2)).await.unwrap(), 2);
    assert_eq!(broker.purge_subject(TIMERS, "due.>", Some(2)).await.unwrap(), 0);
    assert!(broker.get(TIMERS, 3).await.unwrap().is_some(), "another subject");
    assert!(broker.get(TIMERS, 4).await.unwrap().is_some(), "above the position");
    assert_eq!(broker.purge_subject(TIMERS, "due.>", None).await.unwrap(), 1);
    assert_eq!(broker.state(TIMERS).await.unwrap().last_sequence, 4);
}

/// A reader with a filter continues undisturbed while messages that it has read are purged, and a new reader finds the rest.
pub async fn reader_goes_on_while_what_it_has_read_is_purged<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let config = || ReaderConfig { filters: vec!["due.>".to_owned()], ..reader_config(TIMERS, "purged", 0) };
    let mut reader = broker.read(config()).await.unwrap();
    for round in 0..3 {
        let first = put(&broker, TIMERS, "due.cmd.a.b.c.d", "").await;
        put(&broker, TIMERS, "timer.other", "").await;
        assert_eq!(sequences(&read(&mut reader, 1).await), [first], "round {round}");
        assert_eq!(broker.purge_subject(TIMERS, "due.>", Some(first)).await.unwrap(), 1);
    }
    let left = put(&broker, TIMERS, "due.cmd.a.b.c.e", "").await;
    let mut again = broker.read(config()).await.unwrap();
    assert_eq!(sequences(&read(&mut again, 1).await), [left]);
}

/// A message is removed from between others, which stay. Readers pass it by, and removing it again finds nothing.
pub async fn removed_message_is_passed_by<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    let subject = "due.cmd.a.b.c.d";
    let first = put(&broker, TIMERS, subject, "").await;
    let removed = put(&broker, TIMERS, subject, "").await;
    let third = put(&broker, TIMERS, subject, "").await;
    let last = put(&broker, TIMERS, subject, "").await;
    for _ in 0..2 {
        broker.remove(TIMERS, removed).await.unwrap();
    }
    broker.remove(TIMERS, last + 100).await.unwrap();
    assert!(broker.get(TIMERS, removed).await.unwrap().is_none());
    assert_eq!(broker.last(TIMERS, subject).await.unwrap().unwrap().sequence, last);
    let mut reader = broker.read(reader_config(TIMERS, "passing", 0)).await.unwrap();
    assert_eq!(sequences(&read(&mut reader, 3).await), [first, third, last]);
    broker.remove(TIMERS, last).await.unwrap();
    assert_eq!(broker.last(TIMERS, subject).await.unwrap().unwrap().sequence, third);
}

/// The last message of all subjects is the last one that exists, even if a later one was removed.
pub async fn last_message_is_found_in_front_of_a_removed_one<G: Ground>(ground: &mut G) {
    let broker = ground.connect().await;
    assert!(broker.last(TIMERS, ">").await.unwrap().is_none(), "nothing was stored");
    let stays = put(&broker, TIMERS, "due.cmd.a.b.c.d", "").await;
    put(&broker, TIMERS, "timer.other", "").await;
    assert_eq!(broker.purge_subject(TIMERS, "timer.other", None).await.unwrap(), 1);
    assert_eq!(broker.last(TIMERS, ">").await.unwrap().unwrap().sequence, stays);
    assert_eq!(broker.purge_subject(TIMERS, "due.>", None).await.unwrap(), 1);
    assert!(broker.last(TIMERS, ">").await.unwrap().is_none(), "nothing is left");
}
