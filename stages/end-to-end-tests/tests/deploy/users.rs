//! docs/guides/users.md: a user of NATS whose name the server proves, and what the file of keys grants to it. On a server with the production
//! configuration, its stages and a gateway.

use std::{fs, path::Path, time::Duration};

use async_nats::{Client, HeaderMap, client::RequestErrorKind};
use end_to_end_tests::{
    binaries::{binary, repository},
    nats_cli::NatsCli,
    program::{self, Ended},
    waiting::until,
};
use millstream_contract::{header, stored_message::StoredMessage, stream_names::COMMANDS, subject::Origin};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, nats_server::free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    forgeries::start_stages,
    process::Process,
    production_server::{ProductionServer, password},
    raw_client::RawClient,
    stages_with_least_privilege::{GATEWAY, stage},
};

const TILL: &str = "retail.till.2506_2012-01-31";
const SALE: &str = r#"{"sale":"S-1","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":100}]}"#;

/// An answer: its body and its position, or an error's code and words.
type Answer = Result<(Value, Option<String>), (u16, String)>;

/// A server, its stages, and a gateway with a file of keys.
struct Shop {
    server: ProductionServer,
    folder: TempDir,
    processes: Vec<Process>,
}

impl Shop {
    /// The user `store-2506` may use its own tills.
    async fn open() -> Self {
        let (server, folder) = (ProductionServer::start_provisioned().await, TempDir::new().unwrap());
        let user = [
            "keys",
            "user",
            "store-2506",
            "--command",
            "retail.till.2506_*.*",
            "--query",
            "retail.till.2506_*",
        ];
        let told = keys(folder.path(), &user).await.expect_success("keys user").stdout;
        assert!(told.contains(r#"allow: ["as.store-2506.>"]"#), "{told}");
        let mut processes: Vec<Process> =
            start_stages(&server, &folder).await.into_iter().map(|(_, process)| process).collect();
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut gateway = stage(GATEWAY, &server, folder.path());
        gateway
            .env("MILLSTREAM_TELEMETRY__ADDRESS", &health)
            .env("MILLSTREAM_GATEWAY__KEYS_FILE", folder.path().join("keys.toml"));
        let mut gateway = Process::start(gateway);
        gateway.healthy(&health, "/readyz").await;
        processes.push(gateway);
        Self { server, folder, processes }
    }

    /// Starts the stage that answers the queries of this repository, and statements.
    async fn open_tables(&mut self) {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut sql = stage("sql", &self.server, self.folder.path());
        sql.env("MILLSTREAM_TELEMETRY__ADDRESS", &health)
            .env("MILLSTREAM_SQL__QUERIES", repository().join("config/queries"))
            .env("MILLSTREAM_SQL__AD_HOC", "true");
        let mut sql = Process::start(sql);
        sql.healthy(&health, "/readyz").await;
        self.processes.push(sql);
    }
}

async fn keys(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = program::command(binary("millstream"));
    command.args(arguments).args(["--file", "keys.toml"]).current_dir(folder);
    program::run(command, b"").await
}

/// What `client` is answered on a subject.
async fn ask(client: &Client, subject: &str, headers: &[(&'static str, &str)], body: &str) -> Answer {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let answer = client.request_with_headers(subject.to_owned(), map, body.to_owned().into()).await.unwrap();
    let text = |name: &str| {
        answer.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned())
    };
    match text("Nats-Service-Error-Code") {
        Some(code) => Err((code.parse().unwrap(), text("Nats-Service-Error").unwrap())),
        None => Ok((serde_json::from_slice(&answer.payload).unwrap(), text(header::POSITION))),
    }
}

/// Asks as `user`, again and again until `others` have their answers, to be answered where a wildcard says.
async fn ask_by_wildcard<T>(
    server: &ProductionServer,
    user: &str,
    subject: &str,
    others: impl Future<Output = T>,
) -> T {
    let mut raw = RawClient::connect(server.port, user, &password(user)).await.unwrap();
    let asking = async {
        // No flood: that would be another attack.
        let mut pace = tokio::time::interval(Duration::from_millis(3));
        loop {
            pace.tick().await;
            for reply in ["_INBOX.>", ">"] {
                let refused = raw.ask(&format!("PUB {subject} {reply} 11\r\n{{\"key\":\"x\"}}\r\n")).await;
                assert_eq!(refused, "");
            }
        }
    };
    tokio::select! {
        others = others => others,
        () = asking => unreachable!("it has no end"),
    }
}

/// The server forgot where the answers of everybody in the same account were to go.
#[tokio::test]
async fn reply_subjects_with_wildcards_take_nobody_elses_answers_away() {
    const REQUESTS: usize = 300;
    let store = ("store-2506", "as.store-2506.query.retail.till.get");
    let publisher = ("publisher", "query.retail.till.get");
    let body = json!({ "key": "2506_2012-01-31" }).to_string();
    for ((attacker, attacked), (user, subject)) in [(store, publisher), (publisher, store)] {
        // A system for each: when the connection of an attacker ends, the server takes away answers in its own account, which is the other's
        // account the next time.
        let shop = Shop::open().await;
        let client = shop.server.client(user).await;
        let answered = async {
            for _ in 0..REQUESTS {
                // There is no such till yet, and a user may ask for so many a second. `ask` panics when nothing comes.
                let (code, words) = ask(&client, subject, &[], &body).await.unwrap_err();
                assert!([404, 429].contains(&code), "{code} {words}");
            }
        };
        ask_by_wildcard(&shop.server, attacker, attacked, answered).await;
    }
}

/// What COMMANDS holds of senders; what comes of it is a process's.
async fn sent(broker: &NatsBroker) -> Vec<StoredMessage> {
    let mut sent = Vec::new();
    for position in 1..=broker.state(COMMANDS).await.unwrap().last_sequence {
        let message = broker.get(COMMANDS, position).await.unwrap().unwrap();
        if Origin::of_stored_subject(&message.subject) == Origin::Sender {
            sent.push(message);
        }
    }
    sent
}

fn expect_refused(answer: Answer, code: u16, name: &str) {
    let (found, words) = answer.unwrap_err();
    assert!(found == code && words.starts_with(&format!("{name}: ")), "{found} {words}");
}

#[tokio::test]
async fn a_store_sends_for_its_own_tills_and_is_the_actor() {
    let shop = Shop::open().await;
    let store = shop.server.client("store-2506").await;
    let submit = |address: &str| format!("as.store-2506.submit.{address}");
    let id = (header::COMMAND_ID, "sale-1");
    let (first, _) = ask(&store, &submit(&format!("{TILL}.record-sale")), &[id], SALE).await.unwrap();
    assert_eq!(first["outcome"], "accepted", "{first}");
    let given = first["command_id"].as_str().unwrap();
    assert!(given.starts_with("store-2506:"), "{first}");
    // Sent again it is the same command; another body under the same id is not.
    let (again, _) = ask(&store, &submit(&format!("{TILL}.record-sale")), &[id], SALE).await.unwrap();
    for field in ["command_id", "command_position", "outcome", "version", "query_position"] {
        assert_eq!(again[field], first[field], "{again}");
    }
    let other = SALE.replace("S-1", "S-2");
    let reused = ask(&store, &submit(&format!("{TILL}.record-sale")), &[id], &other).await;
    expect_refused(reused, 422, "idempotency-key-reused");

    let operator = shop.server.broker("operator").await;
    let before = sent(&operator).await.len();
    let elsewhere = "retail.till.2507_2012-01-31.close";
    for (address, headers, body, code, name) in [
        (elsewhere, vec![], "{}", 403, "command-not-granted"),
        ("retail.product.tea.discontinue", vec![], "{}", 403, "command-not-granted"),
        ("millstream.set-aside.1.set-aside", vec![], "{}", 403, "command-not-granted"),
        ("retail.till.2506_2012-01-31.close", vec![(header::ACTOR, "anna")], "{}", 400, "actor-not-taken"),
        (
            "retail.till.2506_2012-01-31.close",
            vec![(header::REPLY, "reply.x.1")],
            "{}",
            400,
            "header-unknown",
        ),
        ("retail.till.2506_2012-01-31.explode", vec![], "{}", 404, "command-unknown"),
        ("retail.till.2506_2012-01-31.record-sale", vec![], "{\"sale\":1}", 422, "body-malformed"),
        (
            "retail.till.2506_2012-01-31.close",
            vec![(header::EXPECTED_VERSION, "-1")],
            "{}",
            400,
            "header-malformed",
        ),
    ] {
        expect_refused(ask(&store, &submit(address), &headers, body).await, code, name);
    }
    assert_eq!(sent(&operator).await.len(), before, "nothing that was refused is stored");
    // What a decision says is an outcome, not an error, as with `submit`.
    let late = [(header::EXPECTED_VERSION, "7")];
    let (late, _) = ask(&store, &submit(&format!("{TILL}.close")), &late, "{}").await.unwrap();
    assert_eq!((&late["outcome"], &late["code"]), (&json!("rejected"), &json!("version-conflict")), "{late}");

    // A reply subject cannot be a weapon: the server makes another of it on its way to the gateway's account.
    let weapon = "$JS.API.STREAM.PURGE.COMMANDS";
    store.publish_with_reply(submit(&format!("{TILL}.close")), weapon, "{}".into()).await.unwrap();
    store.flush().await.unwrap();
    let sent = until("the last command is stored", async || {
        Some(sent(&operator).await).filter(|sent| sent.len() == before + 2)
    })
    .await;
    for command in sent {
        assert_eq!(command.headers.get(header::ACTOR), Some("store-2506"), "{command:?}");
    }
}

#[tokio::test]
async fn a_store_reads_its_own_rows_and_is_revoked_at_once() {
    let shop = Shop::open().await;
    let store = shop.server.client("store-2506").await;
    let sent = ask(&store, &format!("as.store-2506.submit.{TILL}.record-sale"), &[], SALE).await.unwrap();
    let position = sent.0["query_position"].as_str().unwrap();
    let seen = [(header::POSITION, position)];
    let query = |operation: &str| format!("as.store-2506.query.retail.till.{operation}");
    let own = r#"{"key":"2506_2012-01-31"}"#;
    let (row, at) = ask(&store, &query("get"), &seen, own).await.unwrap();
    assert_eq!(row["value"]["sales"], 1, "{row}");
    assert!(at.is_some_and(|at| at.starts_with("EVENTS:")), "{row}");
    let (rows, _) = ask(&store, &query("list"), &seen, r#"{"prefix":"2506_","limit":5}"#).await.unwrap();
    assert_eq!(rows["rows"].as_array().unwrap().len(), 1, "{rows}");
    for (operation, body, code, name) in [
        ("get", r#"{"key":"2507_2012-01-31"}"#, 403, "query-not-granted"),
        ("list", "{}", 403, "query-not-granted"),
        ("list", r#"{"prefix":"250"}"#, 403, "query-not-granted"),
        ("get", r#"{"key":"2506_x","prefix":"2507_"}"#, 400, "query-malformed"),
        ("list", r#"{"prefix":"2506_","prefix":"2507_"}"#, 400, "query-malformed"),
        ("get", r#"{"key":["2506_2012-01-31"]}"#, 400, "query-malformed"),
        ("get", "[]", 400, "query-malformed"),
        ("whole", "{}", 400, "subject-malformed"),
    ] {
        expect_refused(ask(&store, &query(operation), &[], body).await, code, name);
    }
    let sellers = ask(&store, "as.store-2506.query.retail.top-sellers", &[], "{}").await;
    expect_refused(sellers, 403, "query-not-granted");
    let statement = r#"{"statement":"SELECT 1 AS one"}"#;
    let stated = ask(&store, "as.store-2506.sql.ask", &[], statement).await;
    expect_refused(stated, 403, "statements-not-granted");

    let _revoked =
        keys(shop.folder.path(), &["keys", "revoke", "store-2506"]).await.expect_success("keys revoke");
    until("the user is revoked", async || {
        // The gateway listens to it no more; a request on its way to that is told that there is no such user.
        match store.request(query("get"), own.into()).await {
            Err(error) => (error.kind() == RequestErrorKind::NoResponders).then_some(()),
            Ok(_) => None,
        }
    })
    .await;
}

/// The lines of the guide that are typed, in their order.
fn lines_to_type() -> Vec<String> {
    let guide = fs::read_to_string(repository().join("docs/guides/users.md")).unwrap();
    let joined = guide.replace("\\\n     ", "");
    let typed = joined.lines().filter_map(|line| line.strip_prefix("    "));
    typed
        .filter(|line| line.starts_with("millstream ") || line.starts_with("nats "))
        .map(str::to_owned)
        .collect()
}

/// What lists of the server and the file of keys grant to one, and to no other: both have to.
#[tokio::test]
async fn statements_are_answered_to_whoever_has_the_right() {
    let mut shop = Shop::open().await;
    shop.open_tables().await;
    let statement = r#"{"statement":"SELECT COUNT(*) AS tills FROM retail.till"}"#;
    let operator = shop.server.client("operator").await;
    let (answer, at) = ask(&operator, "sql.ask", &[], statement).await.unwrap();
    assert_eq!(answer["rows"], json!([{ "tills": 0 }]), "{answer} {at:?}");
    let mut publisher =
        RawClient::connect(shop.server.port, "publisher", &password("publisher")).await.unwrap();
    let request = format!("PUB sql.ask _INBOX.publisher.1 {}\r\n{statement}\r\n", statement.len());
    let refused = publisher.ask(&request).await;
    assert!(refused.contains("Permissions Violation for Publish to \"sql.ask\""), "{refused}");
    let user = ["keys", "user", "store-2506", "--ad-hoc-sql"];
    let _granted = keys(shop.folder.path(), &user).await.expect_success("keys user");
    let store = shop.server.client("store-2506").await;
    let answer = until("the gateway has read the file again", async || {
        ask(&store, "as.store-2506.sql.ask", &[], statement).await.ok()
    });
    assert_eq!(answer.await.0["rows"], json!([{ "tills": 0 }]));
}

#[tokio::test]
async fn every_line_of_the_guide_does_what_it_says() {
    let mut shop = Shop::open().await;
    shop.open_tables().await;
    let Some(nats) = NatsCli::for_server(&shop.server.url()).await else { return };
    let programs =
        [nats.program().clone(), binary("millstream")].map(|path| path.parent().unwrap().to_owned());
    let present = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&present))).unwrap();
    let lines = lines_to_type();
    assert_eq!(
        lines.len(),
        8,
        "the guide has other lines now: does this test still type them all? {lines:?}"
    );
    let type_in = async |line: &str| {
        let mut shell = program::command("sh");
        shell
            .args(["-c", line])
            .current_dir(shop.folder.path())
            .env("PATH", &path)
            .env("NATS_URL", shop.server.url())
            .env("NATS_USER", "store-2506")
            .env("NATS_PASSWORD", password("store-2506"));
        let said = program::run(shell, b"").await.expect_success(line);
        [said.stdout, said.stderr].concat()
    };
    for line in lines {
        // The gateway reads the file of keys again within a second. With --raw, a refusal has no words here.
        let said = until(format!("{line} is granted"), async || {
            let is_refused = |said: &String| line.contains("--raw") && said.contains("nil body");
            Some(type_in(&line).await).filter(|said| !is_refused(said))
        })
        .await;
        let expected = match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["millstream", "keys", "user", ..] => "as.store-2506.>",
            ["millstream", "keys", "list", ..] => "retail.till.2506_*",
            ["millstream", "keys", "revoke", ..] => "revoked",
            _ if line.contains("2507") => "command-not-granted",
            _ if line.contains("top-sellers") => "\"query\":\"retail.top-sellers\"",
            _ if line.contains("submit") => "\"outcome\":\"accepted\"",
            _ => "\"sales\":1",
        };
        assert!(said.contains(expected), "{line}: {said}");
    }
}
