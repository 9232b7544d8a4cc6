//! What all applications together may have of the server, and what one user may.

use async_nats::jetstream;
use end_to_end_tests::waiting::until;
use millstream_contract::stream_names::COMMANDS;
use millstream_jetstream::broker::Broker as _;

use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::{
    production_server::{ProductionServer, password},
    raw_client::RawClient,
};

/// What `limits` of the account APPLICATIONS says.
const APPLICATIONS_CONNECTIONS_MAX: usize = 512;
const APPLICATIONS_PAYLOAD_MAX: usize = 320 * 1024;
/// What `limits` of the account of a user says.
const STORE_CONNECTIONS_MAX: usize = 16;

#[tokio::test]
async fn applications_leave_connections_to_the_stages_and_to_users() {
    let server = ProductionServer::start().await;
    let mut held = Vec::new();
    for _ in 0..APPLICATIONS_CONNECTIONS_MAX {
        held.push(RawClient::connect(server.port, "publisher", &password("publisher")).await.unwrap());
    }
    for _ in 0..STORE_CONNECTIONS_MAX {
        held.push(RawClient::connect(server.port, "store-2506", &password("store-2506")).await.unwrap());
    }
    for user in ["publisher", "store-2506"] {
        let refused = RawClient::connect(server.port, user, &password(user)).await.err().unwrap();
        assert!(refused.to_lowercase().contains("maximum account active connections"), "{user}: {refused}");
    }
    for user in ["command-handler", "gateway", "operator"] {
        let _let_in = RawClient::connect(server.port, user, &password(user)).await.unwrap();
    }
}

#[tokio::test]
async fn applications_send_no_larger_messages_than_they_need() {
    let server = ProductionServer::start().await;
    for (user, bytes, is_taken) in [
        ("publisher", APPLICATIONS_PAYLOAD_MAX, true),
        ("publisher", APPLICATIONS_PAYLOAD_MAX + 1, false),
        ("command-handler", APPLICATIONS_PAYLOAD_MAX + 1, true),
    ] {
        let mut client = RawClient::connect(server.port, user, &password(user)).await.unwrap();
        let body = "x".repeat(bytes);
        let refused = client.ask(&format!("PUB cmd.retail.till.1.close {bytes}\r\n{body}\r\n")).await;
        assert_eq!(refused.is_empty(), is_taken, "{user}, {bytes} bytes: {refused}");
        assert!(is_taken || refused.contains("Maximum Payload"), "{refused}");
    }
}

/// What may wait for a stream, as nats-server.conf says: the server takes so many out of its queue at a time, and lets so many more wait.
const BUFFERED_MAX: u64 = 5000;

/// One connection that publishes without waiting kept what others sent waiting behind all of it: with the server's default and a disk of
/// some 1,000 syncs a second for a minute and a half.
#[tokio::test]
async fn nobody_waits_behind_more_commands_than_the_server_lets_wait_for_a_stream() {
    let server = ProductionServer::start_provisioned().await;
    let broker = server.broker("operator").await;
    let mut flood = RawClient::connect(server.port, "publisher", &password("publisher")).await.unwrap();
    let commands: String =
        (0..50_000).map(|number| format!("PUB cmd.retail.till.{number}.close 2\r\n{{}}\r\n")).collect();
    // The answer to the PING behind them: the server has taken all of them, or refused what was too much.
    assert_eq!(flood.ask(&commands).await, "");
    let stored = broker.state(COMMANDS).await.unwrap().last_sequence;
    let other = jetstream::new(server.client("operator").await);
    let sent = until("the server takes another's command", async || {
        let publish =
            async || other.publish("cmd.retail.till.other.close", "{}".into()).await.ok()?.await.ok();
        publish().await
    })
    .await;
    let before = sent.sequence - stored;
    assert!(before <= 2 * BUFFERED_MAX + 1, "{before} commands were stored first");
}

/// Connections that say nothing: more than the server had places for. Each takes a file of this process, too.
const SILENT: usize = 1100;

/// With 1,024 places a thousand connections that never said who they were kept out everybody.
#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out_and_are_closed() {
    let server = ProductionServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(("127.0.0.1", server.port)).await.unwrap());
    }
    for user in ["command-handler", "operator", "publisher", "store-2506"] {
        let _let_in = RawClient::connect(server.port, user, &password(user)).await.unwrap();
    }
    for mut connection in silent {
        let mut said = String::new();
        let _bytes = connection.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("Authentication Timeout"), "{said}");
    }
}
