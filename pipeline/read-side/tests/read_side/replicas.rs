//! Several replicas answer together, and only those that can.

use std::path::Path;

use async_nats::{Client, RequestErrorKind};
use futures::{FutureExt, StreamExt};
use millstream_contract::header;
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::NatsBroker,
    testing::{restricted_server::RestrictedServer, test_server::TestServer},
};
use millstream_runtime::stage_needs::stage_needs;
use millstream_store::read_store::{ProjectionId, ReadStore};

use crate::{
    queries::{ask, serve, serve_as},
    support::{PATIENCE, Running, as_stage, commit, grow, projections},
};

/// How often a query is asked to see that no replica refuses it. If two replicas shared the queries evenly, the chance that all of
/// these reach the same one would be one in a billion.
const ASKED: usize = 30;

/// A replica with a name of its own.
fn replica(broker: &NatsBroker, folder: &Path, name: &str) -> Running {
    Running::start_with(broker, folder, projections(), |config| {
        config.events_consumer = name.to_owned();
        config.outcomes_consumer = format!("{name}-outcomes");
    })
}

/// A folder whose projection of counts is being built: it stands at the end of the stream, and is complete from `complete_from`.
async fn half_built(broker: &NatsBroker, complete_from: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let running = replica(broker, folder.path(), "preparing");
    let last = broker.state("EVENTS").await.unwrap().last_sequence;
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();
    let store = ReadStore::open(&folder.path().join("rows.redb"), 1024 * 1024).unwrap();
    let counts = ProjectionId::of_context("test", "counts");
    let mut checkpoint = store.snapshot().unwrap().checkpoint(&counts).unwrap().unwrap();
    checkpoint.complete_from = complete_from;
    store.reset(&counts, &checkpoint).unwrap();
    folder
}

async fn all_answer(client: &Client) {
    for number in 0..ASKED {
        let reply = ask(client, "counts.get", r#"{"key":"a"}"#).await;
        assert_eq!(reply.json()["value"]["count"], 5, "query {number}");
    }
}

/// Waits until a whole replica has listened so long that one apart leaves queries to it.
async fn until_settled(client: &Client) {
    let settled = async {
        loop {
            let told = client.request("query.test.counts.whole", "".into()).await.unwrap();
            assert!(told.headers.unwrap().get(header::POSITION).is_some());
            let listened: u64 = std::str::from_utf8(&told.payload).unwrap().parse().unwrap();
            if listened > 5_000 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("it says for how long it has listened");
}

#[tokio::test]
async fn replica_that_is_being_built_leaves_queries_to_the_others() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let last = grow(&broker, "a", 5).await;
    let whole_folder = tempfile::tempdir().unwrap();
    let whole = replica(&broker, whole_folder.path(), "whole");
    whole.until_sequence("counts", last).await;
    let half_folder = half_built(&broker, last + 4).await;
    let half = replica(&broker, half_folder.path(), "half");
    half.until_sequence("counts", last).await;

    // Alone it says what it waits for.
    let of_half = serve(&server, &half).await;
    let reply = ask(&client, "counts.get", r#"{"key":"a"}"#).await;
    assert!(reply.code == 503 && reply.text.contains("at 5 of 9"), "{reply:?}");
    let nobody = client.request("query.test.counts.whole", "".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), RequestErrorKind::NoResponders);

    // Beside one that is whole, and has been for a second, it keeps silent.
    let of_whole = serve(&server, &whole).await;
    until_settled(&client).await;
    all_answer(&client).await;

    // When the other one goes, it says again what it waits for, and answers once it is whole.
    of_whole.stop().await;
    let reply = ask(&client, "counts.get", r#"{"key":"a"}"#).await;
    assert!(reply.code == 503 && reply.text.contains("at 5 of 9"), "{reply:?}");
    grow(&broker, "b", 4).await;
    half.until("counts", |status| status.is_complete()).await;
    let answered = async {
        while ask(&client, "counts.get", r#"{"key":"b"}"#).await.code != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it answers when it is whole");
    of_half.stop().await;
    broker.state("EVENTS").await.unwrap();
    let gone = client.request("query.test.counts.get", "{}".into()).await.unwrap_err();
    assert_eq!(gone.kind(), RequestErrorKind::NoResponders);
    whole.finish().await.unwrap();
    half.finish().await.unwrap();
}

#[tokio::test]
async fn replica_that_halts_leaves_queries_to_those_that_know_the_event() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let last = grow(&broker, "a", 5).await;
    let (old_folder, new_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = replica(&broker, old_folder.path(), "old");
    let newer = crate::support::projections_with(crate::support::Counts { version: 1, knows_shrunk: true });
    let new = Running::start_with(&broker, new_folder.path(), newer, |config| {
        config.events_consumer = "new".to_owned();
        config.outcomes_consumer = "new-outcomes".to_owned();
    });
    for each in [&old, &new] {
        each.until_sequence("counts", last).await;
    }
    let (of_old, of_new) = (serve(&server, &old).await, serve(&server, &new).await);
    all_answer(&client).await;
    let strange = broker.append("EVENTS", commit("thing.b", "shrunk", "s")).await.unwrap().sequence;
    old.until("counts", |status| status.halted.is_some()).await;
    new.until_sequence("counts", strange).await;
    let mut answered = 0;
    let left = async {
        while answered < ASKED {
            let reply = ask(&client, "counts.get", r#"{"key":"a"}"#).await;
            answered = if reply.code == 200 { answered + 1 } else { 0 };
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("the halted one leaves the others");
    for service in [of_old, of_new] {
        service.stop().await;
    }
    old.finish().await.unwrap();
    new.finish().await.unwrap();
}

/// A stage gets its replies in an inbox of its own. Neither the stage nor the permissions of its user let a whole replica answer there,
/// so the replica apart asked in vain, and a second later it answered the query as well.
#[tokio::test]
async fn replicas_hear_of_each_other_with_the_inbox_and_the_permissions_of_their_stage() {
    let (mut publish, mut subscribe) = (vec!["_INBOX.>".to_owned()], Vec::new());
    for instance in ["0", "1"] {
        let needs = stage_needs("projector", instance).unwrap();
        publish.extend(needs.publish_subjects("$JS.API", "_INBOX_projector"));
        subscribe.extend(needs.subscribe_subjects("_INBOX_projector"));
    }
    let server = RestrictedServer::start(&[("projector".to_owned(), publish, subscribe)]).await;
    let (all, client) = (server.server().broker().await, server.server().client().await);
    let broker = as_stage(&server, "projector").await;
    let last = grow(&all, "a", 5).await;
    let whole_folder = tempfile::tempdir().unwrap();
    let whole = replica(&broker, whole_folder.path(), "projector-0");
    whole.until_sequence("counts", last).await;
    let half_folder = half_built(&all, last + 4).await;
    let half = replica(&broker, half_folder.path(), "projector-1");
    half.until_sequence("counts", last).await;
    let of_whole = serve_as(&broker, &whole).await;
    until_settled(&client).await;
    let of_half = serve_as(&broker, &half).await;

    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..ASKED {
        let query = r#"{"key":"a"}"#.into();
        client.publish_with_reply("query.test.counts.get", inbox.clone(), query).await.unwrap();
    }
    for number in 0..ASKED {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
        assert!(!answer.payload.is_empty(), "query {number}: {:?}", answer.headers);
    }
    // It has answered all that it would answer.
    of_half.stop().await;
    client.request("query.test.counts.whole", "".into()).await.unwrap();
    let second = answers.next().now_or_never().flatten();
    assert!(second.is_none(), "the one apart has answered too: {:?}", second.unwrap().headers);
    of_whole.stop().await;
    whole.finish().await.unwrap();
    half.finish().await.unwrap();
}
