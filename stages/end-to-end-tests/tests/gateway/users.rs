//! Users of NATS beside each other, over a server that any of them could ask in another's name: what is proved of them, `deploy/users.rs` tries.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_nats::Client;
use bytes::Bytes;
use end_to_end_tests::{
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::gateway_with_keys;

const USERS: &str = "[[user]]\nname = \"good\"\nqueries = [\"retail.till.*\"]\n\n[[user]]\nname = \"bad\"\ncommands = [\"*.*.*.*\"]\n";
/// Requests that must be answered while somebody else sends what nobody can read.
const REQUESTS: usize = 100;

async fn till(client: &Client) -> Option<Value> {
    let answer = client.request("as.good.query.retail.till.list", "{}".into()).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// Sends requests with headers that are none until `ended`, and counts them. The server takes them: it does not look into headers.
async fn send_unreadable(address: String, ended: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let (read, mut line) = TcpStream::connect(address).await.unwrap().into_split();
    let mut said = BufReader::new(read).lines();
    let headers = "NATS/1.0\r\nA : b\r\n\r\n";
    let connect = "CONNECT {\"verbose\":false,\"headers\":true}\r\n";
    let request =
        format!("HPUB as.bad.submit.retail.till.1_x.close {0} {0}\r\n{headers}\r\nPING\r\n", headers.len());
    line.write_all(connect.as_bytes()).await.unwrap();
    while !ended.load(Ordering::Relaxed) {
        line.write_all(request.as_bytes()).await.unwrap();
        // The server has it when it answers. It asks, too, at any time.
        while let word = said.next_line().await.unwrap().expect("the server keeps the connection")
            && word != "PONG"
        {
            if word == "PING" {
                line.write_all(b"PONG\r\n").await.unwrap();
            }
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// It ended the line on which all users were heard: ten a second kept everybody out.
#[tokio::test]
async fn what_one_user_sends_costs_no_other_a_request() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let own = fresh_folder();
    let (mut process, _client, file) = gateway_with_keys(&system.url(), own.path());
    fs::write(&file, USERS).unwrap();
    process.start_ready().await;
    let client = async_nats::connect(system.url()).await.unwrap();
    let _first = until("the view answers", async || till(&client).await).await;

    let (ended, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = system.url().strip_prefix("nats://").unwrap().to_owned();
    let sending = tokio::spawn(send_unreadable(address, Arc::clone(&ended), Arc::clone(&count)));
    until("some are sent", async || (count.load(Ordering::Relaxed) > 10).then_some(())).await;
    for number in 0..REQUESTS {
        let before = count.load(Ordering::Relaxed);
        assert!(till(&client).await.is_some(), "request {number} has no answer");
        until("more are sent", async || (count.load(Ordering::Relaxed) > before).then_some(())).await;
    }
    ended.store(true, Ordering::Relaxed);
    sending.await.unwrap();

    // A user that comes later is heard, and one that goes is heard no more.
    fs::write(&file, USERS.replace("bad", "late").replace("good", "gone")).unwrap();
    until("the later one is heard", async || {
        let answer = client.request("as.late.query.retail.till.list", Bytes::new()).await.ok()?;
        answer
            .headers?
            .get("Nats-Service-Error")
            .filter(|text| text.as_str().starts_with("query-not-granted"))
            .map(drop)
    })
    .await;
    until("the earlier one is not", async || till(&client).await.is_none().then_some(())).await;
    process.stop().await;
    let _said = system.stop().await;
}
