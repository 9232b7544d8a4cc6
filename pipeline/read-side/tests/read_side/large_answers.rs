//! A client that asks for much and takes nothing: what it costs this process and others.

use async_nats::jetstream;
use millstream_jetstream::{
    broker::Broker as _,
    provision::{ProvisionOptions, provision},
    testing::test_server::TestServer,
};
use millstream_read_side::projection_runner::ProjectionSet;
use millstream_runtime::process_memory::{mebibytes, most};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

use crate::{
    queries::{Growing, ask, serve},
    support::{Running, grow},
};

/// Who asks and takes nothing.
const CLIENTS: usize = 15;
/// Lists that each of them asks for at once: 53 MB, and below what the server cuts clients off for.
const LISTS: usize = 66;
/// Rows of a list, of 20 kB each.
const ROWS: usize = 40;
/// What this process may take more than before, in bytes: some answers, and not all of them, which are 800 MB.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

/// They were all in memory at once, and whoever asked for a row waited behind them.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_in_memory_a_few_at_a_time() {
    // A server that has been told nothing: it lets whoever answers wait for who does not read.
    let server =
        TestServer::start_with(|config| "no_fast_producer_stall: false".clone_into(&mut config.extra)).await;
    provision(&jetstream::new(server.client().await), &ProvisionOptions::default()).await.unwrap();
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let set = ProjectionSet::new(vec![Box::new(Growing)], Vec::new(), &[]).unwrap();
    let running = Running::start(&broker, folder.path(), set);
    for row in 0..ROWS {
        grow(&broker, &format!("row-{row}"), 40).await;
    }
    let last = broker.state(millstream_contract::stream_names::EVENTS).await.unwrap().last_sequence;
    running.until_sequence("growing", last).await;
    let service = serve(&server, &running).await;
    let body = json!({ "limit": ROWS }).to_string();
    let answer = ask(&client, "growing.list", &body).await;
    assert!(answer.text.len() > 800_000, "{} bytes", answer.text.len());
    let before = most("self").unwrap();

    let mut silent = Vec::new();
    for number in 0..CLIENTS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let address = server.url().trim_start_matches("nats://").parse().unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let subscribe =
            format!("CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB _INBOX.silent-{number}.* 1\r\n");
        client.write_all(subscribe.as_bytes()).await.unwrap();
        for list in 0..LISTS {
            let bytes = body.len();
            let request =
                format!("PUB query.test.growing.list _INBOX.silent-{number}.{list} {bytes}\r\n{body}\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
        }
        silent.push(client);
    }
    for row in 0..ROWS {
        let reply = ask(&client, "growing.get", &json!({ "key": format!("row-{row}") }).to_string()).await;
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    // Ends when all of them are answered.
    service.stop().await;
    let taken = most("self").unwrap().saturating_sub(before);
    assert!(taken < MEMORY_MAX, "{} MiB for {CLIENTS} times {LISTS} answers", mebibytes(taken));
    running.finish().await.unwrap();
}
