//! Units go from one place to another: typed as a person types it, two at once over the same stocks, and while the handler is
//! killed again and again. Nothing is lost and nothing is doubled.

use std::fs;

use async_nats::Client;
use end_to_end_tests::{
    binaries::repository,
    dumps::verified,
    nats_cli::NatsCli,
    system::{System, fresh_folder},
    waiting::until,
};
use jiff::Timestamp;
use millstream_contract::stream_names::EVENTS;
use millstream_domain::testing::sequential_handler::SequentialHandler;
use millstream_jetstream::broker::Broker as _;
use serde_json::{Value, json};

/// Places between which units go.
const PLACES: [&str; 3] = ["north", "south", "west"];
/// What each of them has at first.
const RECEIVED: &str = r#"{"quantity":30}"#;
/// Transfers that are published together.
const PORTION: usize = 200;

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
    // The first is the second command there was, sent to another aggregate than the row's.
    let explained = system.millstream(&["explain", "stock", "south:tea", "--json"]).await.json_lines();
    let types: Vec<&str> = explained.iter().filter_map(|line| line["type"].as_str()).collect();
    let came = types.iter().filter(|name| **name == "stock-transferred-in").count();
    assert_eq!((types.len(), came), (3, 2), "{explained:?}");
    assert_eq!(explained[0]["command_position"], json!(2), "{explained:?}");
    system.stop().await;
}

#[tokio::test]
async fn page_shows_a_transfer() {
    let page = fs::read_to_string(repository().join("docs/contexts.md")).unwrap();
    let (_, shown) = page.split_once("Units that go from the warehouse to a store").unwrap();
    let lines = shown.lines().skip_while(|line| *line != "```sh").skip(1).take_while(|line| *line != "```");
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    for line in lines {
        nats.type_line(line).await;
    }
    system.stop().await;
}

/// Transfers, one after the other round the places, and what a handler that is never disturbed makes of them.
struct Transfers {
    fold: SequentialHandler,
    sent: usize,
    accepted: usize,
}

impl Transfers {
    fn new() -> Self {
        let mut fold = SequentialHandler::new(millstream_model::aggregates(), "retail");
        for place in PLACES {
            fold.decide(&format!("retail.stock.{place}:tea.receive"), RECEIVED, Timestamp::UNIX_EPOCH)
                .unwrap();
        }
        Self { fold, sent: 0, accepted: 0 }
    }

    async fn publish(&mut self, client: &Client, count: usize) {
        for number in self.sent..self.sent + count {
            let (from, to) = (PLACES[number % 3], PLACES[(number + 1 + number % 2) % 3]);
            let address = format!("retail.stock.{from}:tea.transfer");
            let body = format!(r#"{{"to":"{to}","quantity":{},"reference":"van {number}"}}"#, 1 + number % 9);
            let decided = self.fold.decide(&address, &body, Timestamp::UNIX_EPOCH);
            self.accepted += usize::from(decided.is_ok());
            client.publish(format!("cmd.{address}"), body.into()).await.unwrap();
        }
        client.flush().await.unwrap();
        self.sent += count;
    }

    /// How many messages EVENTS has when all of them are settled.
    fn commits(&self) -> u64 {
        self.fold.history().commits().len() as u64
    }
}

#[tokio::test]
async fn killed_handlers_lose_and_double_no_units() {
    const KILLS: usize = 3;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let (broker, client) = (system.broker().await, async_nats::connect(system.url()).await.unwrap());
    let events = async || broker.state(EVENTS).await.unwrap().last_sequence;
    for place in PLACES {
        client.publish(format!("cmd.retail.stock.{place}:tea.receive"), RECEIVED.into()).await.unwrap();
    }
    let mut transfers = Transfers::new();
    let (mut portions, mut killed) = (0, 0);
    while killed < KILLS {
        let before = transfers.commits();
        until("all before is settled", async || (events().await == before).then_some(())).await;
        transfers.publish(&client, PORTION).await;
        let after = transfers.commits();
        until("transfers are under way", async || (events().await > before + 10).then_some(())).await;
        system.kill("command-handler").await;
        // One that had done all of it already was not killed in the midst.
        killed += usize::from(events().await < after);
        portions += 1;
        assert!(portions < 10 * KILLS, "the handler is always faster than its killer");
    }
    verified(&broker).await;
    let refused = transfers.sent - transfers.accepted;
    assert!(transfers.accepted > PORTION && refused > PORTION / 10, "{} and {refused}", transfers.accepted);
    assert_eq!(events().await, transfers.commits(), "a half transfer, or one too many");
    let mut sum = 0;
    for place in PLACES {
        let stock = format!("{place}:tea");
        let history = system.millstream(&["history", "retail", "stock", &stock, "--json"]).await;
        let units = history.json_lines().iter().fold(0, |units, event| {
            let quantity = event["data"]["quantity"].as_i64().unwrap();
            if event["type"] == "stock-transferred-out" { units - quantity } else { units + quantity }
        });
        until(format!("the view says that {stock} has {units}"), async || {
            let row = system.query("query.retail.stock.get", &json!({ "key": stock })).await.ok()?;
            (row["value"]["on_hand"] == units).then_some(())
        })
        .await;
        assert!(units >= 0, "{stock} has {units}");
        sum += units;
    }
    assert_eq!(sum, 90, "units were lost or doubled");
    system.stop().await;
}
