//! Reading from a real server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use millstream_contract::stream_names::EVENTS;

use super::{
    consumer::{PULL_BYTES, SILENCE_MAX},
    *,
};
use crate::testing::{raw_client::RawClient, test_server::TestServer};

type PullConsumer = async_nats::jetstream::consumer::PullConsumer;

fn config(name: &str) -> ReaderConfig {
    ReaderConfig {
        stream: EVENTS.to_owned(),
        name: name.to_owned(),
        description: String::new(),
        after: 0,
        filters: Vec::new(),
        replace_live: false,
    }
}

/// A connection that counts how often the consumer of its one reader is made again.
async fn counting_restarts(server: &TestServer, name: &'static str) -> (NatsBroker, Arc<AtomicU64>) {
    let restarts = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&restarts);
    let broker = server.broker().await.on_restart(move |stream, reader| {
        assert_eq!((stream, reader), (EVENTS, name));
        counter.fetch_add(1, Ordering::Relaxed);
    });
    (broker, restarts)
}

/// A pull that has brought all the bytes that were asked for is answered no more. Whoever then took seconds over what came was told that
/// the server was silent, and made the consumer again for each such part.
#[tokio::test]
async fn a_user_that_takes_its_time_is_no_silent_server() {
    let server = TestServer::start_provisioned().await;
    let (broker, restarts) = counting_restarts(&server, "slow").await;
    let jetstream = async_nats::jetstream::new(server.client().await);
    let body = vec![b'x'; 1_000_000];
    let messages = PULL_BYTES.div_ceil(1_000_000) + 1;
    for _ in 0..messages {
        jetstream.publish("evt.a.b.c", body.clone().into()).await.unwrap().await.unwrap();
    }
    let mut reader = broker.read(config("slow")).await.unwrap();
    let mut read = reader.next_batch(1).await.unwrap().len() as u64;
    // The request has brought its bytes. What the server has sent for it comes before the answer to a later question.
    loop {
        let mut consumer: PullConsumer = jetstream.get_consumer_from_stream("slow", EVENTS).await.unwrap();
        if consumer.info().await.unwrap().num_waiting == 0 {
            break;
        }
    }
    let line = reader.consumer.as_ref().unwrap().line.client().clone();
    let _answer = line.request("$JS.API.INFO", Bytes::new()).await.unwrap();
    read += reader.next_batch(256).await.unwrap().len() as u64;
    assert!(read < messages, "the request had room for all {messages} messages");
    // What came is worked through.
    tokio::time::sleep(SILENCE_MAX * 2).await;
    while read < messages {
        read += reader.next_batch(256).await.unwrap().len() as u64;
    }
    assert_eq!(restarts.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_consumer_made_again_is_counted_and_one_made_first_is_not() {
    let server = TestServer::start_provisioned().await;
    let (broker, restarts) = counting_restarts(&server, "counted").await;
    let mut reader = broker.read(config("counted")).await.unwrap();
    let put = async || {
        broker.client().publish("evt.a.b.c", "".into()).await.unwrap();
        broker.client().flush().await.unwrap();
    };
    put().await;
    assert_eq!(reader.next_batch(1).await.unwrap().len(), 1);
    assert_eq!(restarts.load(Ordering::Relaxed), 0);
    // Somebody removes the consumer under the reader.
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.delete_consumer_from_stream("counted", EVENTS).await.unwrap();
    put().await;
    let next = tokio::time::timeout(Duration::from_secs(60), reader.next_batch(1)).await.unwrap().unwrap();
    assert_eq!(next.first().unwrap().sequence, 2);
    assert_eq!(restarts.load(Ordering::Relaxed), 1);
}

/// After the first of them the lines are sifted: none of the others costs one.
#[tokio::test]
async fn many_messages_that_cannot_be_read_cost_one_line() {
    const EACH: usize = 300;
    let server = TestServer::start_provisioned().await;
    let (broker, restarts) = counting_restarts(&server, "reads").await;
    let mut reader = broker.read(config("reads")).await.unwrap();
    let mut raw = RawClient::connect(&server.url()).await;
    for number in 0..EACH {
        raw.publish("evt.a.b.c", b"NATS/1.0\r\nX: \xff\r\n\r\n", format!("odd {number}")).await;
        raw.publish("evt.a.b.c", "NATS/1.0\r\nX: y\r\n\r\n", format!("even {number}")).await;
    }
    let mut read = Vec::new();
    while read.len() < 2 * EACH {
        read.extend(reader.next_batch(1000).await.unwrap());
    }
    for (number, pair) in read.chunks(2).enumerate() {
        let [odd, even] = pair else { panic!("{pair:?}") };
        assert_eq!(
            (&*odd.payload, &*even.payload),
            (format!("odd {number}").as_bytes(), format!("even {number}").as_bytes())
        );
        assert_eq!((odd.headers.unreadable().is_some(), even.headers.get("X")), (true, Some("y")));
    }
    assert!(read.iter().map(|message| message.sequence).eq(1..=2 * EACH as u64));
    let restarts = restarts.load(Ordering::Relaxed);
    assert!(restarts <= 1, "the consumer was made again {restarts} times");
    reader.close().await;
}
