//! A server that is away, and one that comes back.

use end_to_end_tests::{
    http_client::HttpAnswer,
    system::{System, fresh_folder},
    waiting::until,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::gateway;

const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const REPRICE: &str = "/v1/commands/retail/product/tea/reprice";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;

/// Another one for each key: a price that is set twice, with another in between, makes an event more.
fn price(number: u32) -> String {
    json!({ "unit_price": 100 + number, "currency": "USD" }).to_string()
}

#[tokio::test]
async fn while_the_server_stands_still_nothing_is_promised_and_afterwards_all_goes_on() {
    let (folder, own) = (fresh_folder(), fresh_folder());
    let system = System::start(folder.path(), &[]).await;
    let (process, client) = gateway(&system.url(), own.path());
    let mut process = process.set("gateway.store_wait=500ms");
    process.start_ready().await;
    // A busy disk may take longer than the gateway waits. Whatever is stored twice takes effect once.
    until("a command is stored", async || (client.post(REGISTER, TEA).await.status == 202).then_some(()))
        .await;
    let form = client.get("/commands/retail/product/reprice?id=tea").await;
    let hidden = |answer: &HttpAnswer, name: &str| {
        let (_, rest) = answer.body.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let cookie = form.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let browser = client.with("Content-Type", "application/x-www-form-urlencoded").with("Cookie", &cookie);
    let filled = |form: &HttpAnswer, token: &str| {
        let once = hidden(form, "once");
        format!("form-token={token}&once={once}&aggregate-id=tea&unit_price=50&currency=USD")
    };
    let token = hidden(&form, "form-token");
    assert!(system.signal("nats-server", Signal::SIGSTOP));
    let unclear = browser.request("POST", "/commands/retail/product/reprice", &filled(&form, &token)).await;
    assert_eq!(unclear.status, 503, "{unclear:?}");
    assert_eq!(hidden(&unclear, "once"), hidden(&form, "once"), "sent again, it is the same command");
    for number in 0..4 {
        let answer = client.with("Idempotency-Key", &number.to_string()).post(REPRICE, &price(number)).await;
        assert_eq!(answer.problem(), (503, "not-stored".to_owned()), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        assert!(answer.json()["command_id"].is_string(), "{answer:?}");
    }
    assert!(system.signal("nats-server", Signal::SIGCONT));
    for number in 0..4 {
        let waiting = client.with("Idempotency-Key", &number.to_string()).with("Prefer", "wait=30");
        let answer = until("commands are stored again", async || {
            let answer = waiting.post(REPRICE, &price(number)).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    until("the form is taken", async || {
        let again = filled(&unclear, &token);
        let answer = browser.request("POST", "/commands/retail/product/reprice", &again).await;
        (answer.status == 303).then_some(())
    })
    .await;
    // Whatever was stored twice was decided once. All of it is before this one, which is the last.
    let last = client.with("Prefer", "wait=30");
    until("the last is decided", async || (last.post(REPRICE, &price(99)).await.status == 200).then_some(()))
        .await;
    let history = system.millstream(&["history", "retail", "product", "tea", "--json"]).await;
    assert_eq!(history.stdout.matches("product-repriced").count(), 6, "{}", history.stdout);
    process.stop().await;
    let _said = system.stop().await;
}

#[tokio::test]
async fn without_a_connection_it_says_so_at_once_and_comes_back_by_itself() {
    let (folder, own) = (fresh_folder(), fresh_folder());
    let system = System::start(folder.path(), &[]).await;
    let (port, url) = (system.port(), system.url());
    let (mut process, client) = gateway(&url, own.path());
    process.start_ready().await;
    let _said = system.stop().await;
    until("the loss is noticed", async || {
        let answer = client.post(REGISTER, TEA).await;
        assert_ne!(answer.status, 202, "no server, no promise: {answer:?}");
        (answer.problem() == (503, "not-connected".to_owned())).then_some(())
    })
    .await;
    assert!(process.readiness().await.contains("503"), "it is not ready");
    let system = System::start_on_port(folder.path(), port, &[]).await;
    until("it takes commands again", async || {
        let answer = client.with("Prefer", "wait=20").post(REGISTER, TEA).await;
        (answer.status == 200).then_some(())
    })
    .await;
    process.ready().await;
    process.stop().await;
    let _said = system.stop().await;
}
