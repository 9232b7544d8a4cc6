//! Units go from one place to another: typed as a person types it, two at once over the same stocks, and while the handler is
//! killed again and again. Nothing is lost and nothing is doubled.

use end_to_end_tests::{
    nats_cli::NatsCli,
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::{Value, json};

/// Places between which units go.
const PLACES: [&str; 3] = ["north", "south", "west"];

async fn on_hand(nats: &NatsCli, stock: &str) -> Option<i64> {
    let body = json!({ "key": stock }).to_string();
    let answer = nats.run(&["req", "--raw", "query.retail.stock.get", &body]).await;
    serde_json::from_str::<Value>(&answer.stdout).ok()?["value"]["on_hand"].as_i64()
}

async fn expect_on_hand(nats: &NatsCli, stock: &str, units: i64) {
    until(format!("{stock} has {units}"), async || (on_hand(nats, stock).await == Some(units)).then_some(()))
        .await;
}

/// Sends a command and answers its outcome.
async fn ask(nats: &NatsCli, stock: &str, command: &str, body: &str) -> Value {
    let subject = format!("submit.retail.stock.{stock}.{command}");
    serde_json::from_str(&nats.output(&["req", "--raw", "--timeout", "30s", &subject, body]).await).unwrap()
}

#[tokio::test]
async fn units_go_from_place_to_place_or_stay() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    nats.output(&["pub", "-J", "cmd.retail.stock.north:tea.receive", r#"{"quantity":10}"#]).await;
    let transfer = r#"{"to":"south","quantity":4,"reference":"van 1"}"#;
    nats.output(&["pub", "-J", "cmd.retail.stock.north:tea.transfer", transfer]).await;
    expect_on_hand(&nats, "north:tea", 6).await;
    expect_on_hand(&nats, "south:tea", 4).await;

    let again = ask(&nats, "north:tea", "transfer", transfer).await;
    assert_eq!((&again["outcome"], &again["events"]), (&json!("accepted"), &json!(0)), "{again}");
    for (body, code) in [
        (r#"{"to":"south","quantity":7}"#, "stock-not-available"),
        (r#"{"to":"north","quantity":1}"#, "transfer-to-itself"),
        (r#"{"to":"a:b","quantity":1}"#, "location-not-allowed"),
    ] {
        let refused = ask(&nats, "north:tea", "transfer", body).await;
        assert_eq!((&refused["outcome"], &refused["code"]), (&json!("rejected"), &json!(code)), "{refused}");
    }
    // Six are there: of two that want five each, in opposite order of arrival, one gets them.
    let wanting = r#"{"to":"south","quantity":5}"#;
    let answers = tokio::join!(
        ask(&nats, "north:tea", "transfer", wanting),
        ask(&nats, "north:tea", "transfer", wanting),
        ask(&nats, "south:tea", "transfer", r#"{"to":"north","quantity":1}"#),
    );
    let accepted = [&answers.0, &answers.1].iter().filter(|answer| answer["outcome"] == "accepted").count();
    assert_eq!((accepted, &answers.2["outcome"]), (1, &json!("accepted")), "{answers:?}");
    expect_on_hand(&nats, "north:tea", 2).await;
    expect_on_hand(&nats, "south:tea", 8).await;
    let history = system.millstream(&["history", "retail", "stock", "south:tea", "--json"]).await;
    let first = history.json_lines().into_iter().next().unwrap();
    assert_eq!(first["type"], json!("stock-transferred-in"), "{first}");
    assert_eq!(first["partner_of"], json!("retail.stock.north:tea"), "{first}");
    system.stop().await;
}

#[tokio::test]
async fn killed_handlers_lose_and_double_no_units() {
    const TRANSFERS: usize = 600;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    for place in PLACES {
        let subject = format!("cmd.retail.stock.{place}:tea.receive");
        nats.output(&["pub", "-J", &subject, r#"{"quantity":30}"#]).await;
    }
    let client = async_nats::connect(system.url()).await.unwrap();
    let publishing = async {
        for number in 0..TRANSFERS {
            let (from, to) = (PLACES[number % 3], PLACES[(number + 1 + number % 2) % 3]);
            let body = format!(r#"{{"to":"{to}","quantity":{},"reference":"van {number}"}}"#, 1 + number % 9);
            client.publish(format!("cmd.retail.stock.{from}:tea.transfer"), body.into()).await.unwrap();
        }
        client.flush().await.unwrap();
    };
    let killing = async {
        for _ in 0..3 {
            system.kill("command-handler").await;
        }
    };
    tokio::join!(publishing, killing);
    let verify = until("every command has its outcome", async || {
        let verify = system.millstream(&["verify", "outcomes", "--json"]).await;
        let said: Value = verify.json_lines().into_iter().next()?;
        (verify.status.success() && said["undecided"] == 0 && said["commands"] == TRANSFERS + 3)
            .then_some(said)
    })
    .await;
    let transferred = verify["accepted"].as_u64().unwrap();
    assert!(transferred > 50, "hardly anything was transferred: {verify}");
    let mut sum = 0;
    for place in PLACES {
        let history =
            system.millstream(&["history", "retail", "stock", &format!("{place}:tea"), "--json"]).await;
        for event in history.json_lines() {
            let quantity = event["data"]["quantity"].as_i64().unwrap();
            sum += if event["type"] == "stock-transferred-out" { -quantity } else { quantity };
        }
    }
    assert_eq!(sum, 90, "units were lost or doubled");
    system.stop().await;
}
