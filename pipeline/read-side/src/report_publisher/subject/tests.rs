//! What is published, given the last message of a subject.

use millstream_contract::{stored_message::Headers, stream_names::EVENTS};

use super::*;

fn body(revision: u32, status: &str, units: u32) -> Vec<u8> {
    format!(r#"{{"revision":{revision},"status":"{status}","units":{units}}}"#).into_bytes()
}

fn pending(key: &str, value: &[u8], bytes_max: usize) -> Pending {
    let parsed = key.parse().unwrap();
    Pending::new(&parsed, Summary::of_row(&parsed, value), key, value, bytes_max)
}

fn row(revision: u32, status: &str, units: u32) -> Pending {
    let text = format!("retail/store-daily/2012-01-31/2506#{revision:06}");
    pending(&text, &body(revision, status, units), 1_000)
}

fn at(sequence: u64) -> StreamPosition {
    StreamPosition::new(EVENTS, "g", sequence)
}

fn published(position: &StreamPosition, body: Vec<u8>) -> Published {
    let mut headers = Headers::new();
    headers.push(header::POSITION, position.to_string());
    Published::from_stored(&StoredMessage {
        subject: "report.retail.store-daily.2506.2012-01-31".into(),
        sequence: 9,
        stored_at: jiff::Timestamp::UNIX_EPOCH,
        headers,
        payload: body.into(),
    })
}

#[test]
fn first_revision_is_published_unless_it_was_withdrawn_unseen() {
    assert_eq!(decide(&at(5), &row(1, "open", 1), None), Decision::Publish);
    assert_eq!(decide(&at(5), &row(1, "withdrawn", 0), None), Decision::Done);
}

#[test]
fn newer_state_is_published_and_the_same_one_is_not() {
    let last = published(&at(5), body(1, "open", 1));
    assert_eq!(decide(&at(6), &row(1, "open", 2), Some(&last)), Decision::Publish);
    assert_eq!(decide(&at(6), &row(1, "sealed", 1), Some(&last)), Decision::Publish);
    assert_eq!(decide(&at(6), &row(1, "withdrawn", 0), Some(&last)), Decision::Publish);
    assert_eq!(decide(&at(6), &row(1, "open", 1), Some(&last)), Decision::Done);
}

#[test]
fn report_that_is_behind_waits() {
    let last = published(&at(5), body(1, "open", 2));
    assert_eq!(decide(&at(4), &row(1, "open", 1), Some(&last)), Decision::Later);
    assert_eq!(decide(&at(4), &row(2, "open", 1), Some(&last)), Decision::Later);
}

#[test]
fn several_revisions_of_one_look_follow_each_other() {
    let first = row(1, "sealed", 3).published(&at(7), 1);
    assert_eq!(decide(&at(7), &row(2, "open", 4), Some(&first)), Decision::Publish);
    let second = row(2, "open", 4).published(&at(7), 2);
    assert_eq!(decide(&at(7), &row(1, "sealed", 3), Some(&second)), Decision::Done);
}

#[test]
fn revision_that_no_message_can_hold_is_published_as_a_mark_and_once() {
    let text = "retail/store-daily/2012-01-31/2506#000001";
    let value = body(1, "sealed", 7);
    let row = pending(text, &value, 10);
    assert!(row.body.len() < 100 && row.summary.is_sealed() && row.value == value);
    let last = published(&at(5), row.body.to_vec());
    assert_eq!(decide(&at(6), &row, Some(&last)), Decision::Done);
    assert!(!last.is_passing());
}

#[test]
fn other_generation_does_not_count() {
    let last = published(&StreamPosition::new(EVENTS, "old", 900), body(3, "sealed", 9));
    assert_eq!(decide(&at(5), &row(1, "open", 1), Some(&last)), Decision::Publish);
}
