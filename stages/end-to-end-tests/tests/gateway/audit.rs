//! The audit log: what stands in it, that nobody can fill it, and that what is taken out of it or changed in it is found.

use std::{collections::BTreeMap, fs};

use end_to_end_tests::{
    binaries::repository,
    http_client::HttpClient,
    program,
    system::{fresh_folder, millstream},
    waiting::until,
};
use millstream_contract::{
    audit::{AuditDecision, AuditRecord, records},
    stored_message::{Headers, StoredMessage},
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use serde_json::Value;

use crate::{
    gateway, gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

const CLOSE: &str = "/v1/commands/retail/till/2506_2026-01-02/close";

async fn messages(broker: &NatsBroker) -> Vec<StoredMessage> {
    let last = broker.state("AUDIT").await.unwrap().last_sequence;
    let mut messages = Vec::new();
    for sequence in 1..=last {
        messages.push(broker.get("AUDIT", sequence).await.unwrap().expect("nothing is removed"));
    }
    messages
}

async fn all_records(broker: &NatsBroker) -> Vec<AuditRecord> {
    let messages = messages(broker).await;
    messages.iter().flat_map(|message| records(message).unwrap()).map(|(record, _)| record).collect()
}

/// How many requests these records are about.
fn count<'a>(records: impl Iterator<Item = &'a AuditRecord>) -> u64 {
    records.map(|record| record.count.unwrap_or(1)).sum()
}

async fn audit(url: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = millstream();
    command.arg("audit").args(arguments).env("NATS_URL", url);
    let ended = program::run(command, b"").await;
    (ended.code().unwrap(), ended.stdout + &ended.stderr)
}

/// Decision, who, what, position and code.
type Told = (AuditDecision, String, String, Option<u64>, String);

fn told(record: &AuditRecord) -> Told {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (record.decision, text(&record.who), text(&record.what), record.position, text(&record.code))
}

async fn is_shown(url: &str) {
    let (code, said) = audit(url, &["verify"]).await;
    assert!(code == 0 && said.contains("10 records, 1 chains, 0 faults"), "{said}");
    let (code, said) = audit(url, &["list", "--denied", "--who", "till-2506", "--json"]).await;
    assert_eq!((code, said.lines().count()), (0, 4), "{said}");
    let (_, said) = audit(url, &["list"]).await;
    assert!(said.contains("stored  till-2506  cmd.retail.till.2506_2026-01-02.close  till-2506:"), "{said}");
}

#[tokio::test]
async fn each_command_and_each_refusal_has_a_record_in_a_chain() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till-2506", YEARS_AHEAD, &["retail.till.2506_*.close"]);
    fs::write(&file, &entry).unwrap();
    process.start_ready().await;
    let broker = server.broker().await;
    assert_eq!(till.post(CLOSE, "{}").await.status, 202);
    let again = till.with("Idempotency-Key", "one");
    assert_eq!(again.post(CLOSE, "{}").await.status, 202);
    let other = "/v1/commands/retail/till/2507_2026-01-02/close?secret=hidden";
    assert_eq!(till.post(other, "{\"secret\":\"hidden\"}").await.status, 403);
    let lines = [("2506", "close"), ("2507", "close"), ("2506", "record-sale")].map(|(store, command)| {
        format!(r#"{{"context":"retail","aggregate":"till","id":"{store}_2026-01-02","command":"{command}","body":{{}}}}"#)
    });
    let answer = till
        .with("Content-Type", "application/jsonl")
        .request("POST", "/v1/commands", &lines.join("\n"))
        .await;
    let statuses: Vec<u64> = answer
        .body
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [202, 403, 403]);
    assert_eq!(till.get("/v1/retail/till/2506_2026-01-02").await.status, 403);
    assert_eq!(client.with("Authorization", "Bearer millstream_hidden").post(CLOSE, "{}").await.status, 401);
    // What is refused for what it is, not for who sends it, is nobody's attempt at anything.
    assert_eq!(till.post(CLOSE, "[").await.status, 422);
    process.stop().await;

    let found = all_records(&broker).await;
    let stored = |position| {
        let what = "cmd.retail.till.2506_2026-01-02.close".to_owned();
        (AuditDecision::Stored, "till-2506".to_owned(), what, Some(position), String::new())
    };
    let denied = |who: &str, what: &str, code: &str| {
        (AuditDecision::Denied, who.to_owned(), what.to_owned(), None, code.to_owned())
    };
    let nothing = |decision| (decision, String::new(), String::new(), None, String::new());
    let post = format!("POST {CLOSE}");
    let mut expected = vec![
        nothing(AuditDecision::Began),
        stored(1),
        stored(2),
        stored(3),
        denied("till-2506", "POST /v1/commands/retail/till/2507_2026-01-02/close", "command-not-granted"),
        denied("till-2506", "cmd.retail.till.2507_2026-01-02.close", "command-not-granted"),
        denied("till-2506", "cmd.retail.till.2506_2026-01-02.record-sale", "command-not-granted"),
        denied("till-2506", "GET /v1/retail/till/2506_2026-01-02", "query-not-granted"),
        denied("", &post, "key-unknown"),
        nothing(AuditDecision::Ended),
    ];
    for record in &found {
        let one = told(record);
        let place = expected.iter().position(|expected| *expected == one);
        expected.remove(place.unwrap_or_else(|| panic!("{one:?} is not expected of {found:?}")));
    }
    assert!(expected.is_empty(), "missing: {expected:?}");
    let text: String = messages(&broker)
        .await
        .iter()
        .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
        .collect();
    assert!(!text.contains("hidden"), "{text}");
    let stored = found.iter().find(|record| record.position == Some(1)).unwrap();
    assert!(
        stored.command_id.as_ref().unwrap().starts_with("till-2506:")
            && stored.address.as_deref() == Some("127.0.0.1")
    );

    is_shown(&server.url()).await;
    // Nobody takes anything out, whatever they may do elsewhere.
    assert!(broker.remove("AUDIT", 1).await.is_err());
    assert!(broker.purge_subject("AUDIT", ">", None).await.is_err());
}

/// It ended only when its time was over, without a last record.
#[tokio::test]
async fn without_keys_the_chain_ends_in_good_order_too() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    assert_eq!(client.post(CLOSE, "{}").await.status, 202);
    process.stop().await;
    assert!(!process.log().contains("could not be written to its end"), "{}", process.log());
    let found = all_records(&server.broker().await).await;
    let told: Vec<_> = found.iter().map(|record| (record.decision, record.who.as_deref())).collect();
    let stored = (AuditDecision::Stored, Some("local"));
    assert_eq!(told, [(AuditDecision::Began, None), stored, (AuditDecision::Ended, None)]);
}

#[tokio::test]
async fn a_record_that_was_removed_or_changed_in_a_copy_is_found() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till-2506", YEARS_AHEAD, &["*.*.*.*"]);
    fs::write(&file, &entry).unwrap();
    process.start_ready().await;
    let broker = server.broker().await;
    for sent in 1..=4 {
        assert_eq!(till.post(CLOSE, "{}").await.status, 202);
        until("the record is there", async || {
            let records = all_records(&broker).await;
            (records.iter().filter(|record| record.position.is_some()).count() == sent).then_some(())
        })
        .await;
    }
    let whole = messages(&broker).await;
    let (code, said) = audit(&server.url(), &["verify", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let head = serde_json::from_str::<Value>(&said).unwrap()["heads"][0]["head"].as_str().unwrap().to_owned();
    process.stop().await;
    assert!(whole.len() >= 4, "each record was waited for");
    let without = |place: usize| {
        let mut messages = whole.clone();
        messages.remove(place);
        messages
    };
    let mut changed = whole.clone();
    let text = String::from_utf8(whole[2].payload.to_vec()).unwrap();
    changed[2].payload = text.replace("till-2506", "till-2507").into();
    assert_ne!(changed[2], whole[2]);
    let last = whole.len() - 1;
    for (what, messages, head, found) in [
        ("the whole", whole.clone(), Some(&head), 0),
        ("without one in the middle", without(1), None, 65),
        ("without the first", without(0), None, 65),
        ("with one changed", changed, None, 65),
        ("without the last, beside nothing", without(last), None, 0),
        ("without the last, beside its head", without(last), Some(&head), 65),
    ] {
        let copy = TestServer::start_provisioned().await;
        let other = copy.broker().await;
        for StoredMessage { subject, payload, .. } in messages {
            let message = NewMessage { subject, expected_last: None, headers: Headers::new(), payload };
            other.append("AUDIT", message).await.unwrap();
        }
        let mut arguments = vec!["verify"];
        arguments.extend(head.into_iter().flat_map(|head| ["--head", head.as_str()]));
        let (code, said) = audit(&copy.url(), &arguments).await;
        assert_eq!(code, found, "{what}: {said}");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_fills_nothing() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.rate=0").set("gateway.rate_address=0");
    let (entry, till) = key(&client, 1, "till", YEARS_AHEAD, &[]);
    fs::write(&file, &entry).unwrap();
    process.start_ready().await;
    for number in 0..500 {
        let stranger = client.with("Authorization", &format!("Bearer millstream_{number}"));
        assert_eq!(stranger.post(CLOSE, "{}").await.status, 401);
        assert_eq!(till.post(CLOSE, "{}").await.status, 403);
        assert_eq!(till.get("/v1/retail/till/2506_2026-01-02").await.status, 403);
    }
    let broker = server.broker().await;
    until("the first of each kind is there at once", async || {
        let all = all_records(&broker).await;
        (all.iter().filter(|record| record.decision == AuditDecision::Denied).count() == 3).then_some(())
    })
    .await;
    process.stop().await;
    let found = all_records(&server.broker().await).await;
    let of =
        |code: &str| found.iter().filter(|record| record.code.as_deref() == Some(code)).collect::<Vec<_>>();
    for code in ["key-unknown", "command-not-granted", "query-not-granted"] {
        let records = of(code);
        assert_eq!(count(records.iter().copied()), 500, "{code}");
        // Ten minutes may end in the midst of it.
        assert!((2..=3).contains(&records.len()), "{records:?}");
        assert!(records.iter().all(|record| record.address.as_deref() == Some("127.0.0.1")), "{records:?}");
        assert!(
            records.iter().all(|record| record.last.is_none_or(|last| last >= record.time)),
            "{records:?}"
        );
    }
    let (_, said) = audit(&server.url(), &["list", "--denied"]).await;
    assert!(said.contains("key-unknown  from 127.0.0.1  (499 times until 20"), "{said}");
    assert_eq!(audit(&server.url(), &["verify"]).await.0, 0);
}

/// Nothing is stored of which there would be no record.
#[tokio::test]
async fn commands_are_refused_while_no_more_records_can_be_kept() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.rate=0").set("gateway.rate_address=0");
    let (entry, till) = key(&client, 1, "till", YEARS_AHEAD, &["*.*.*.*"]);
    fs::write(&file, &entry).unwrap();
    process.start_ready().await;
    let broker = server.broker().await;
    assert_eq!(till.post(CLOSE, "{}").await.status, 202);
    until("the record is there", async || {
        all_records(&broker).await.iter().any(|record| record.position == Some(1)).then_some(())
    })
    .await;
    let context = async_nats::jetstream::new(server.client().await);
    let mut config = context.get_stream("AUDIT").await.unwrap().cached_info().config.clone();
    let (kept, before) = (i64::try_from(messages(&broker).await.len()).unwrap(), config.max_messages);
    config.max_messages = kept;
    context.update_stream(&config).await.unwrap();
    let line =
        r#"{"context":"retail","aggregate":"till","id":"2506_2026-01-02","command":"close","body":{}}"#;
    let lines = vec![line; 500].join("\n");
    let sender = till.with("Content-Type", "application/jsonl");
    let (mut taken, mut refused) = (1, Vec::new());
    while refused.is_empty() {
        let answer = sender.request("POST", "/v1/commands", &lines).await;
        for line in answer.body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            match line["status"].as_u64().unwrap() {
                202 => taken += 1,
                status => refused.push((status, line["code"].as_str().unwrap().to_owned())),
            }
        }
        assert!(taken < 40_000, "commands without a record");
    }
    assert!(refused.iter().all(|one| *one == (503, "audit-unavailable".to_owned())), "{refused:?}");
    assert_eq!(till.post(CLOSE, "{}").await.problem(), (503, "audit-unavailable".to_owned()));
    until("it is told", async || {
        process.readiness().await.contains("audit log cannot be written").then_some(())
    })
    .await;
    config.max_messages = before;
    context.update_stream(&config).await.unwrap();
    until("the gateway goes on", async || (till.post(CLOSE, "{}").await.status == 202).then_some(())).await;
    process.ready().await;
    process.stop().await;
    let stored = broker.state("COMMANDS").await.unwrap().last_sequence;
    let positions: BTreeMap<u64, u64> =
        all_records(&broker).await.iter().filter_map(|record| Some((record.position?, 1))).collect();
    assert_eq!(
        u64::try_from(positions.len()).unwrap(),
        stored,
        "each stored command has a record; {taken} were taken"
    );
    assert_eq!(audit(&server.url(), &["verify"]).await.0, 0);
}

/// What is asked for at an address, as patterns have it; none where anybody with a key is answered, or only of what is one's own.
fn what_is_asked(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match parts.as_slice() {
        ["commands", context, aggregate, "{id}", _] | ["history", context, aggregate, "{id}"] => {
            Some(format!("{context}.{aggregate}"))
        }
        ["reports", ..] => Some("retail.report".to_owned()),
        // They are granted by themselves, to none of these keys. Their list shows what is granted.
        ["queries", "{context}", "{name}"] => Some("configured-query".to_owned()),
        // They are granted by themselves, to none of these keys.
        ["deadletters", ..] => Some("dead-letter".to_owned()),
        ["sql"] => Some("statement".to_owned()),
        ["commands" | "docs" | "openapi.json" | "live" | "asyncapi.json" | "queries"] | ["commands", _] => {
            None
        }
        [context, view] | [context, view, "{key}"] => Some(format!("{context}.{view}")),
        other => panic!("{other:?} is a kind of address that this test does not know"),
    }
}

/// A file of keys, and for each of them its name, with what all that it grants begins, and a client that has it.
fn roles(client: &HttpClient) -> (String, Vec<(&'static str, &'static str, HttpClient)>) {
    let roles = [
        ("till-2506", "retail.till.2506_*"),
        ("supplier", "retail.delivery.acme-*"),
        ("nobody", "none.none.none"),
    ];
    let (mut entries, mut clients) = (String::new(), Vec::new());
    for (seed, (name, pattern)) in (1..).zip(roles) {
        let (entry, client) = key(client, seed, name, YEARS_AHEAD, &[&format!("{pattern}.*")]);
        entries.push_str(&format!("{entry}queries = [\"{pattern}\"]\nhistories = [\"{pattern}\"]\n"));
        clients.push((name, pattern.trim_end_matches('*'), client));
    }
    (entries, clients)
}

/// Everything that the gateway describes, asked by everybody for everything.
#[tokio::test]
async fn whatever_is_not_granted_is_refused_and_recorded() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.rate=0").set("gateway.rate_address=0");
    let (entries, clients) = roles(&client);
    fs::write(&file, &entries).unwrap();
    process.start_ready().await;
    let document = clients[0].2.get("/v1/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    let mut refusals: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut asked, mut let_in) = (0, 0);
    for (name, granted, client) in &clients {
        for (path, methods) in paths {
            let Some(what) = what_is_asked(path) else { continue };
            let is_list = path.split('/').count() == 4 && !path.contains('{');
            for object in ["2506_2026-01-02", "2507_2026-01-02", "acme-1", "acme", "other"] {
                for method in methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .filter(|method| ["get", "post"].contains(&method.as_str()))
                {
                    let mut address = path
                        .replace("{id}", object)
                        .replace("{key}", object)
                        .replace("{date}", "2026-01-02")
                        .replace("{context}/{name}", "retail/top-sellers");
                    if is_list {
                        address = format!("{address}?prefix={object}");
                    }
                    let answer = match method.as_str() {
                        "post" => client.post(&address, "{}").await,
                        _ => client.get(&address).await,
                    };
                    let is_granted = format!("{what}.{object}").starts_with(granted);
                    asked += 1;
                    let_in += u64::from(is_granted);
                    assert_eq!(answer.status != 403, is_granted, "{name}: {method} {address}: {answer:?}");
                    *refusals.entry(name).or_default() += u64::from(!is_granted);
                }
            }
        }
        for (watched, is_granted) in [
            ("retail/till/2506_1", "retail.till.2506_1"),
            ("retail/delivery/acme-1", "retail.delivery.acme-1"),
            ("retail/till/2507_1", "none"),
        ]
        .map(|(watched, named)| (watched, named.starts_with(granted)))
        {
            if !is_granted {
                assert_eq!(
                    client.get(&format!("/v1/live?watch={watched}")).await.status,
                    403,
                    "{name}: {watched}"
                );
                *refusals.entry(name).or_default() += 1;
            }
        }
    }
    assert!(asked > 500 && let_in >= 8, "{asked} asked, {let_in} let in: was the document read?");
    process.stop().await;
    let found = all_records(&server.broker().await).await;
    for (name, expected) in refusals {
        let denied = found
            .iter()
            .filter(|record| record.who.as_deref() == Some(name) && record.decision == AuditDecision::Denied);
        assert_eq!(count(denied), expected, "{name}");
    }
}

#[tokio::test]
async fn the_guide_is_typed_as_it_stands() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till-2506", YEARS_AHEAD, &["retail.till.2506_*.close"]);
    fs::write(&file, &entry).unwrap();
    process.start_ready().await;
    assert_eq!(till.post(CLOSE, "{}").await.status, 202);
    process.stop().await;
    let guide = fs::read_to_string(repository().join("docs/guides/audit.md")).unwrap();
    let mut typed = 0;
    for line in guide.lines().filter_map(|line| line.strip_prefix("    $ millstream audit ")) {
        let (code, said) = audit(&server.url(), &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(code, 0, "{line}: {said}");
        let shown = if line == "verify" { "3 records, 1 chains, 0 faults" } else { "  stored  till-2506  " };
        assert!(said.contains(shown) && guide.contains(shown), "{line}: {said}");
        typed += 1;
    }
    assert_eq!(typed, 2);
    assert!(guide.contains("`--who till-2506`") && guide.contains("`--since 2026-11-30T00:00:00Z`"));
    let more = ["list", "--who", "till-2506", "--since", "2026-11-30T00:00:00Z", "--denied", "--json"];
    assert_eq!(audit(&server.url(), &more).await.0, 0);
}
