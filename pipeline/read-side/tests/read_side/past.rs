//! The past: which position a moment is, and views folded up to one.

use millstream_contract::{
    commit::{Commit, timestamp_to_nanoseconds},
    moment::Moment,
    position::StreamPosition,
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::Broker,
    nats_broker::NatsBroker,
    position_at_moment::{PastError, position_at},
    testing::test_server::TestServer,
};
use millstream_read_side::{
    projection_runner::{FoldError, PastViews, ProjectionSet},
    query_service::{LocalQueries, Operation},
};
use millstream_store::read_store::ReadStore;

use crate::support::{Counts, Latest, Running, commit, grow, message, projections_with};

/// Appends a commit that was recorded at `time`.
async fn append_recorded(broker: &NatsBroker, time: &str) {
    let template = commit("thing.a", "grown", time);
    let mut commit: Commit = rmp_serde::from_slice(&template.payload).unwrap();
    commit.recorded_at = timestamp_to_nanoseconds(time.parse().unwrap());
    broker.append(EVENTS, message("evt.test.thing.a", commit.encode())).await.unwrap();
}

async fn sequence_at(broker: &NatsBroker, moment: &str) -> u64 {
    position_at(broker, &moment.parse().unwrap()).await.unwrap().sequence
}

#[tokio::test]
async fn a_time_is_the_position_behind_which_everything_was_recorded_later() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    assert_eq!(sequence_at(&broker, "2012-01-31").await, 0);
    // A handler that catches up stores late what was recorded long ago; two of a round may change places.
    for time in
        ["2012-01-31T10:00:00Z", "2012-01-31T12:00:00Z", "2012-01-31T11:00:00Z", "2012-02-01T09:00:00Z"]
    {
        append_recorded(&broker, time).await;
    }
    for (moment, expected) in [
        ("2012-01-31T09:59:59Z", 0),
        ("2012-01-31T10:00:00Z", 1),
        ("2012-01-31T11:30:00Z", 1),
        ("2012-01-31T12:00:00Z", 3),
        ("2012-01-31", 3),
        ("2012-02-01", 4),
        ("2999-01-01", 4),
    ] {
        assert_eq!(sequence_at(&broker, moment).await, expected, "{moment}");
    }
    // What EVENTS had stored by then counts whenever it was recorded.
    append_recorded(&broker, "2999-12-31T00:00:00Z").await;
    let stored = broker.get(EVENTS, 5).await.unwrap().unwrap().stored_at;
    let after = stored + jiff::SignedDuration::from_nanos(1);
    assert_eq!(sequence_at(&broker, &after.to_string()).await, 5);
}

#[tokio::test]
async fn positions_that_are_not_there_are_refused() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    grow(&broker, "a", 3).await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let at = |stream: &str, generation: &str, sequence| {
        Moment::Position(StreamPosition::new(stream, generation, sequence))
    };
    let found = position_at(&broker, &at(EVENTS, &generation, 2)).await.unwrap();
    assert_eq!(found, StreamPosition::new(EVENTS, &*generation, 2));
    for beyond in [at(EVENTS, &generation, 4), Moment::Sequence(4)] {
        let error = position_at(&broker, &beyond).await.unwrap_err();
        assert!(matches!(error, PastError::NotReached { asked: 4, last: 3 }), "{error}");
    }
    let error = position_at(&broker, &at(EVENTS, "01JD", 2)).await.unwrap_err();
    assert!(matches!(error, PastError::OtherGeneration { .. }), "{error}");
    let error = position_at(&broker, &at(OUTCOMES, &generation, 2)).await.unwrap_err();
    assert!(matches!(error, PastError::OtherStream { .. }), "{error}");
}

pub(crate) fn past_of<B: Broker>(
    broker: &B,
    folder: &tempfile::TempDir,
    generation: &str,
    knows_shrunk: bool,
) -> PastViews<B> {
    let counts = Counts { version: 1, knows_shrunk };
    let set = ProjectionSet::new(vec![Box::new(counts), Box::new(Latest)], Vec::new(), &[]).unwrap();
    let store = ReadStore::open(&folder.path().join("past.redb"), 4 * 1024 * 1024).unwrap();
    PastViews::begin(broker, store, set, generation, "past").unwrap()
}

async fn answer(past: &PastViews<NatsBroker>, view: &str) -> (String, u64) {
    let queries = LocalQueries::new(past.store().clone(), past.views().clone());
    let (body, position) = queries.ask(("test", view), Operation::List, b"{}", usize::MAX).await.unwrap();
    (String::from_utf8(body).unwrap(), position.sequence)
}

#[tokio::test(flavor = "multi_thread")]
async fn views_folded_in_steps_are_what_the_live_ones_were_at_each_position() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let live = Running::start(
        &broker,
        folders[0].path(),
        projections_with(Counts { version: 1, knows_shrunk: false }),
    );
    let mut seen = Vec::new();
    for id in ["a", "b", "a"] {
        let last = grow(&broker, id, 700).await;
        for view in ["counts", "latest"] {
            live.until_sequence(view, last).await;
        }
        let rows = ["a", "b"].map(|key| (live.row("counts", key), live.row("latest", key)));
        seen.push((last, rows));
    }
    let mut past = past_of(&broker, &folders[1], &generation, false);
    for (sequence, rows) in seen {
        let mut told = Vec::new();
        let position = StreamPosition::new(EVENTS, &*generation, sequence);
        past.advance(&position, |reached| told.push(reached)).await.unwrap();
        assert_eq!(told.last(), Some(&sequence));
        for (key, (count, latest)) in ["a", "b"].iter().zip(rows) {
            for (view, expected) in [("counts", count), ("latest", latest)] {
                let (body, position) = answer(&past, view).await;
                assert_eq!(position, sequence);
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                let found = body["rows"].as_array().unwrap().iter().find(|row| row["key"] == *key);
                assert_eq!(found.map(|row| row["value"].clone()), expected, "{view} {key} at {sequence}");
            }
        }
    }
    live.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fold_that_meets_an_unknown_event_says_where() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    grow(&broker, "a", 2).await;
    broker.append(EVENTS, commit("thing.a", "shrunk", "s")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut past = past_of(&broker, &folder, &generation, false);
    let before = StreamPosition::new(EVENTS, &*generation, 2);
    past.advance(&before, |_| {}).await.unwrap();
    let error = past.advance(&StreamPosition { sequence: 3, ..before }, |_| {}).await.unwrap_err();
    let FoldError::Halted { projection, halt } = error else { panic!("{error}") };
    assert_eq!((projection.as_str(), halt.sequence), ("test.counts", 3));
    assert!(halt.reason.contains("shrunk"), "{}", halt.reason);
}
