//! Tokens (JWT) instead of keys: whose are taken, and what their claims grant.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    live_stream::LiveStream,
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use jiff::Timestamp;
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use serde_json::{Value, json};

use crate::{
    gateway_with_keys,
    issuer::{KeyServer, SigningKey, encoded},
};

const ISSUER: &str = "https://login.example";
const OWN: &str = "/v1/commands/retail/till/2506_2026-01-02/close";

/// Claims that let a till of store 2506 in, for an hour.
fn claims() -> Value {
    let now = Timestamp::now().as_second();
    json!({ "iss": ISSUER, "aud": ["other", "millstream"], "sub": "till|7", "exp": now + 3600, "nbf": now,
            "role": "till", "store": "2506" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn table(keys: &str, algorithms: &[&str]) -> String {
    format!(
        r#"
[[issuer]]
name = "login"
issuer = "{ISSUER}"
audiences = ["millstream"]
algorithms = {}
{keys}

[[issuer.grant]]
when = {{ role = "till" }}
commands = ["retail.till.{{store}}_*.close"]
queries = ["retail.till.{{store}}_*"]
histories = ["retail.till.{{store}}_*"]
"#,
        json!(algorithms)
    )
}

/// A gateway that takes the tokens of an issuer.
async fn started(server: &TestServer, folder: &Path, table: &str) -> (StageProcess, HttpClient) {
    let (process, client, file) = gateway_with_keys(&server.url(), folder);
    fs::write(&file, table).unwrap();
    let mut process = process.set("gateway.issuer_refresh_pause=1s").set("gateway.issuer_refresh=1h");
    process.start_ready().await;
    (process, client)
}

async fn close(client: &HttpClient, token: &str) -> HttpAnswer {
    client.with("Authorization", &format!("Bearer {token}")).post(OWN, "{}").await
}

/// What is wrong with a token, the token, and the code of its refusal.
type Wrong = (&'static str, String, &'static str);

/// Tokens that the issuer has not signed as it signs.
fn forged(rsa: &SigningKey, ec: &SigningKey) -> Vec<Wrong> {
    let good = ec.token("ec", &claims());
    let [head, body, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let more = encoded(with("store", json!("2507")).to_string());
    let unsigned = |header: Value| format!("{}.{body}.", encoded(header.to_string()));
    // The public key of RS256 or ES256 as the secret of HS256: whoever lets the token choose takes it.
    let confused = |id: &str| {
        let header = json!({ "alg": "HS256", "kid": id });
        let message = format!("{}.{body}", encoded(header.to_string()));
        let secret = BASE64_URL_SAFE_NO_PAD.decode(rsa.public("rsa")["n"].as_str().unwrap()).unwrap();
        let key =
            ring::hmac::Key::new(ring::hmac::HMAC_SHA256, if id == "secret" { b"secret" } else { &secret });
        format!("{message}.{}", encoded(ring::hmac::sign(&key, message.as_bytes())))
    };
    let other = SigningKey::ec();
    vec![
        ("a claim changed", format!("{head}.{more}.{signature}"), "token-refused"),
        ("the signature of another key", other.token("ec", &claims()), "token-refused"),
        ("no signature", unsigned(json!({ "alg": "ES256", "kid": "ec" })), "token-refused"),
        ("none", unsigned(json!({ "alg": "none" })), "token-refused"),
        ("None", unsigned(json!({ "alg": "None", "kid": "ec" })), "token-refused"),
        ("HS256 with a public key", confused("rsa"), "token-refused"),
        ("HS256 with a secret that the issuer shows", confused("secret"), "token-refused"),
        ("ES256 with the key of RS256", ec.token("rsa", &claims()), "token-refused"),
        ("RS256 said of a key of ES256", rsa.token("ec", &claims()), "token-refused"),
        ("RS512", rsa.token_with(&json!({ "alg": "RS512", "kid": "rsa" }), &claims()), "token-refused"),
        (
            "a key that it brings along",
            other.token_with(&json!({ "alg": "ES256", "jwk": other.public("x"), "kid": "x" }), &claims()),
            "token-refused",
        ),
        (
            "an address of keys",
            other.token_with(
                &json!({ "alg": "ES256", "kid": "ec", "jku": "http://127.0.0.1:1/keys" }),
                &claims(),
            ),
            "token-refused",
        ),
        (
            "what must be understood",
            ec.token_with(&json!({ "alg": "ES256", "kid": "ec", "crit": ["exp"], "exp": 1 }), &claims()),
            "token-malformed",
        ),
    ]
}

/// Tokens that it has signed, which are of somebody else, for somebody else, or not for now.
fn not_for_here(ec: &SigningKey) -> Vec<Wrong> {
    let now = Timestamp::now().as_second();
    vec![
        ("another issuer", ec.token("ec", &with("iss", json!("https://evil.example"))), "token-refused"),
        ("no issuer", ec.token("ec", &without("iss")), "token-malformed"),
        ("another audience", ec.token("ec", &with("aud", json!("millstreams"))), "token-refused"),
        ("no audience", ec.token("ec", &without("aud")), "token-malformed"),
        ("its time is over", ec.token("ec", &with("exp", json!(now - 60))), "token-expired"),
        ("no end", ec.token("ec", &without("exp")), "token-malformed"),
        ("an end that is none", ec.token("ec", &with("exp", json!("tomorrow"))), "token-malformed"),
        ("its time is to come", ec.token("ec", &with("nbf", json!(now + 300))), "token-early"),
        ("nobody", ec.token("ec", &without("sub")), "token-refused"),
        ("no JSON", "a.b.c".to_owned(), "token-malformed"),
    ]
}

#[tokio::test]
async fn a_token_is_taken_for_its_signature_issuer_audience_and_times_alone() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (rsa, ec, ed) = (SigningKey::rsa(), SigningKey::ec(), SigningKey::ed());
    let secret = json!({ "kty": "oct", "kid": "secret", "k": encoded("secret"), "alg": "HS256" });
    let keys = KeyServer::start(&[rsa.public("rsa"), ec.public("ec"), ed.public("ed"), secret]).await;
    let at = format!("keys_url = \"{}\"", keys.url);
    let (mut process, client) =
        started(&server, folder.path(), &table(&at, &["RS256", "ES256", "EdDSA"])).await;
    for (key, id) in [(&rsa, "rsa"), (&ec, "ec"), (&ed, "ed")] {
        let answer = close(&client, &key.token(id, &claims())).await;
        assert_eq!(answer.status, 202, "{id}: {answer:?}");
    }
    // Without kid there is exactly one key of the algorithm.
    let nameless = ec.token_with(&json!({ "alg": "ES256" }), &claims());
    assert_eq!(close(&client, &nameless).await.status, 202);
    let broker = server.broker().await;
    let command = broker.get("COMMANDS", 1).await.unwrap().unwrap();
    assert_eq!(command.headers.get("Millstream-Actor"), Some("till~7C7@login"));

    for (what, token, code) in forged(&rsa, &ec).into_iter().chain(not_for_here(&ec)) {
        let answer = close(&client, &token).await;
        assert_eq!(answer.problem(), (401, code.to_owned()), "{what}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{what}");
    }
    // Clocks may be apart a little.
    let now = Timestamp::now().as_second();
    for little in [with("exp", json!(now - 5)), with("nbf", json!(now + 5)), with("aud", json!("millstream"))]
    {
        assert_eq!(close(&client, &ec.token("ec", &little)).await.status, 202, "{little}");
    }
    process.stop().await;
    let token = ec.token("ec", &claims());
    let head = token.split('.').next().unwrap();
    assert!(!process.log().contains(head), "no token is told in the log");
}

#[tokio::test]
async fn an_algorithm_that_the_table_does_not_name_is_refused() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (rsa, ec) = (SigningKey::rsa(), SigningKey::ec());
    let file = folder.path().join("issuer.json");
    let show = |keys: &[Value]| fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    show(&[rsa.public("rsa"), ec.public("ec")]);
    let at = format!("keys_file = \"{}\"", file.display());
    let (mut process, client) = started(&server, folder.path(), &table(&at, &["ES256"])).await;
    assert_eq!(
        close(&client, &rsa.token("rsa", &claims())).await.problem(),
        (401, "token-refused".to_owned())
    );
    assert_eq!(close(&client, &ec.token("ec", &claims())).await.status, 202);
    // A key that is taken out of the file lets nobody in any more, also who was let in before.
    show(&[rsa.public("rsa")]);
    until("the key is taken out", async || {
        (close(&client, &ec.token("ec", &claims())).await.status == 401).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test]
async fn claims_grant_what_the_table_says_and_the_file_takes_it_away_at_once() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let ec = SigningKey::ec();
    let keys = KeyServer::start(&[ec.public("ec")]).await;
    let table = table(&format!("keys_url = \"{}\"", keys.url), &["ES256"]);
    let (mut process, client) = started(&server, folder.path(), &table).await;
    let bearer = |claims: &Value| client.with("Authorization", &format!("Bearer {}", ec.token("ec", claims)));
    let till = bearer(&claims());
    for (path, expected) in [
        ("/v1/retail/till/2506_2026-01-02", (503, "view-unavailable")),
        ("/v1/retail/till?prefix=2506_", (503, "view-unavailable")),
        ("/v1/retail/till/2507_2026-01-02", (403, "query-not-granted")),
        ("/v1/retail/till", (403, "query-not-granted")),
        ("/v1/retail/store-daily/2506", (403, "query-not-granted")),
        ("/v1/history/retail/till/2507_2026-01-02", (403, "history-not-granted")),
        ("/v1/history/retail/till/2506_2026-01-02", (404, "history-unknown")),
    ] {
        assert_eq!(till.get(path).await.problem(), (expected.0, expected.1.to_owned()), "{path}");
    }
    for (what, claims) in [
        ("another role", with("role", json!("office"))),
        ("no role", without("role")),
        ("no store", without("store")),
        ("all stores", with("store", json!("*"))),
        ("another store", with("store", json!(["2507", "25"]))),
    ] {
        let answer = bearer(&claims).post(OWN, "{}").await;
        assert_eq!(answer.problem(), (403, "command-not-granted".to_owned()), "{what}");
    }
    assert_eq!(bearer(&with("store", json!(["2507", "2506"]))).post(OWN, "{}").await.status, 202);
    // What was sent with a token is told to who has it, and to nobody else.
    let sent = till.post(OWN, "{}").await;
    let location = sent.header("location").unwrap();
    let asked = till.get(location).await;
    assert_eq!(
        asked.problem(),
        (503, "outcomes-unavailable".to_owned()),
        "nobody answers for the view; {location}"
    );
    let other = bearer(&with("sub", json!("till|8")));
    assert_eq!(other.get(location).await.problem(), (404, "command-id-unknown".to_owned()));
    // A stream of live rows ends with what the table grants.
    let mut stream = LiveStream::open(&till, "watch=retail/till/2506_2026-01-02").await;
    fs::write(folder.path().join("keys.toml"), table.replace("retail.till.{store}_*", "retail.till.0_*"))
        .unwrap();
    let end = loop {
        let event = stream.next().await.expect("the stream says why it ends");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(end.data["code"], "query-not-granted", "{end:?}");
    assert_eq!(till.post(OWN, "{}").await.problem(), (403, "command-not-granted".to_owned()));
    process.stop().await;
}

#[tokio::test]
async fn keys_are_fetched_again_with_care() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (first, second, third) = (SigningKey::ec(), SigningKey::ec(), SigningKey::ec());
    let keys = KeyServer::start(&[]).await;
    keys.say(500, "");
    let at = format!("keys_url = \"{}\"", keys.url);
    let (mut process, client) = started(&server, folder.path(), &table(&at, &["ES256"])).await;
    let token = first.token("first", &claims());
    let answer = close(&client, &token).await;
    assert_eq!(answer.problem(), (503, "issuer-unavailable".to_owned()), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    keys.show(&[first.public("first")]);
    until("the keys are fetched", async || (close(&client, &token).await.status == 202).then_some(())).await;

    // The issuer signs with a new key: the first token with it has the keys fetched.
    keys.show(&[first.public("first"), second.public("second")]);
    let new = second.token("second", &claims());
    until("the new key is known", async || (close(&client, &new).await.status == 202).then_some(())).await;
    // A flood of tokens with keys that nobody has asks the issuer once in a pause.
    let before = keys.asked();
    let began = tokio::time::Instant::now();
    for number in 0..100 {
        let unknown = third.token(&format!("unknown-{number}"), &claims());
        assert_eq!(close(&client, &unknown).await.problem(), (401, "token-refused".to_owned()));
    }
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!(keys.asked() - before <= most, "{} times in {:?}", keys.asked() - before, began.elapsed());

    // What is there now cannot be used: the keys stay, and it is said.
    for (status, body) in
        [(500, String::new()), (302, String::new()), (200, "{}".to_owned()), (200, " ".repeat(300 * 1024))]
    {
        keys.say(status, &body);
        let asked = keys.asked();
        until("it was asked for keys", async || {
            let unknown = third.token("third", &claims());
            assert_eq!(close(&client, &unknown).await.problem(), (401, "token-refused".to_owned()));
            (keys.asked() > asked).then_some(())
        })
        .await;
        assert_eq!(close(&client, &token).await.status, 202, "{status}");
    }
    assert!(process.log().contains("the keys of the issuer cannot be fetched; they stay as they were"));
    // Nobody waits for an issuer that says nothing, but who asks for a key of it.
    keys.say_nothing();
    let asked = keys.asked();
    until("it was asked for keys", async || (keys.asked() > asked).then_some(())).await;
    assert_eq!(close(&client, &token).await.status, 202);
    // A key that is taken out lets nobody in any more.
    keys.show(&[second.public("second")]);
    until("the key is taken out", async || (close(&client, &token).await.status == 401).then_some(())).await;
    assert_eq!(close(&client, &new).await.status, 202);
    assert!(process.log().contains("the keys of the issuer can be fetched again"));
    process.stop().await;
}

#[tokio::test]
async fn a_table_that_would_let_strangers_in_is_refused_at_the_start() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    for (keys, algorithms, said) in [
        ("keys_url = \"http://login.example/keys\"", "ES256", "no https address"),
        (
            "keys_url = \"https://login.example/keys\"",
            "HS256",
            "`HS256`, expected one of `RS256`, `ES256`, `EdDSA`",
        ),
        (
            "keys_url = \"https://login.example/keys\"",
            "none",
            "`none`, expected one of `RS256`, `ES256`, `EdDSA`",
        ),
        ("", "ES256", "either keys_url or keys_file"),
    ] {
        let (mut process, _, file) = gateway_with_keys(&server.url(), folder.path());
        fs::write(&file, table(keys, &[algorithms])).unwrap();
        process.start();
        assert_eq!(process.exit_code().await, 78, "{keys} {algorithms}");
        assert!(process.log().contains(said), "{said}: {}", process.log());
    }
}
