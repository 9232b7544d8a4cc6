//! The process manager on a bad network: what it asks for happens once, timers that were cancelled are gone. Deliveries fill
//! stocks, orders are placed, half of them paid and shipped, half cancelled; then stocks are what a sum says.

use std::collections::BTreeMap;

use end_to_end_tests::{
    dumps::{decided, messages, settled, verified_dump},
    nats_proxy::{Kind, NatsProxy, SeededFaults},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use futures::{StreamExt as _, stream};
use millstream_contract::{
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, TIMERS},
    testing::dice::Dice,
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use serde_json::{Value, json};

use crate::verdict::seed;

const SKUS: u64 = 8;
/// Of a round.
const ORDERS: u64 = 60;
/// Each is played to its end before it is looked whether everything has happened.
const ROUNDS_MAX: u64 = 6;
const LOCATION: &str = "web";

/// What is asked for in a round.
struct Plan {
    deliveries: Vec<(String, Value)>,
    placed: Vec<(String, Value)>,
    /// Paid, or cancelled without being paid.
    ended: Vec<(String, Value)>,
    shipped: Vec<(String, Value)>,
}

/// What must be there in the end, by sku.
type OnHand = BTreeMap<String, i64>;

impl Plan {
    fn new(mut dice: Dice, round: u64, on_hand: &mut OnHand) -> Self {
        let mut plan = Self { deliveries: vec![], placed: vec![], ended: vec![], shipped: vec![] };
        for number in 0..SKUS * 4 {
            let sku = format!("sku-{}", number % SKUS);
            let quantity = i64::try_from(dice.between(100, 200)).unwrap();
            *on_hand.entry(sku.clone()).or_default() += quantity;
            let body = json!({ "supplier": "acme", "location": LOCATION, "currency": "USD", "received_on": "2026-01-05",
                "lines": [{ "sku": sku, "quantity": quantity, "unit_cost": 70 }] });
            plan.deliveries.push((format!("retail.delivery.D{round}-{number}.receive"), body));
        }
        for number in 0..ORDERS {
            let sku = format!("sku-{}", dice.below(SKUS));
            let quantity = i64::try_from(dice.between(1, 5)).unwrap();
            let order = format!("orders.order.O{round}-{number}");
            let body = json!({ "customer": "c", "location": LOCATION, "currency": "USD",
                "lines": [{ "sku": sku, "quantity": quantity, "unit_price": 100 }] });
            plan.placed.push((format!("{order}.place"), body));
            if number % 2 == 0 {
                let payment =
                    json!({ "payment": format!("P{number}"), "amount": quantity * 100, "currency": "USD" });
                plan.ended.push((format!("{order}.pay"), payment));
                plan.shipped.push((format!("{order}.ship"), json!({ "shipment": format!("S{number}") })));
                *on_hand.get_mut(&sku).unwrap() -= quantity;
            } else {
                plan.ended.push((format!("{order}.cancel"), json!({ "reason": "changed my mind" })));
            }
        }
        plan
    }
}

/// Stores commands over a good network.
async fn send(broker: &NatsBroker, commands: &[(String, Value)]) {
    let messages: Vec<NewMessage> = commands
        .iter()
        .map(|(address, body)| NewMessage {
            subject: format!("cmd.{address}"),
            expected_last: None,
            headers: Headers::new(),
            payload: body.to_string().into(),
        })
        .collect();
    stream::iter(messages)
        .for_each_concurrent(16, async |message| {
            broker.append(COMMANDS, message).await.unwrap();
        })
        .await;
}

/// The row of a stock.
async fn stock(broker: &NatsBroker, sku: &str) -> Option<Value> {
    let body = json!({ "key": format!("{LOCATION}:{sku}") }).to_string();
    let answer = broker.client().request("query.retail.stock.get", body.into()).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    answer.get("value").cloned()
}

#[tokio::test]
async fn effects_happen_once_on_a_bad_network() {
    let seed = seed("process manager on a bad network");
    let server = TestServer::start_provisioned().await;
    let faults = [
        (Kind::Append(COMMANDS), 70),
        (Kind::Acknowledgement(COMMANDS), 15),
        (Kind::Append(TIMERS), 25),
        (Kind::Acknowledgement(TIMERS), 15),
        (Kind::Delivery(EVENTS), 150),
        (Kind::Question, 100),
        (Kind::Answer, 120),
    ];
    let proxy = NatsProxy::start(server.process().config().port, SeededFaults::new(seed, &faults)).await;
    let folder = fresh_folder();
    let direct = ["command-handler", "projector"];
    let mut stages = direct.map(|stage| StageProcess::new(stage, "", &server.url(), folder.path()));
    for stage in &mut stages {
        stage.start_ready().await;
    }
    let mut manager = StageProcess::new("process-manager", "", &proxy.url(), folder.path());
    manager.start();
    let broker = server.broker().await;
    let wanted = [
        (Kind::Append(COMMANDS), "doubled"),
        (Kind::Append(COMMANDS), "cut, delivered late"),
        (Kind::Acknowledgement(COMMANDS), "lost"),
        (Kind::Append(TIMERS), "doubled"),
        (Kind::Acknowledgement(TIMERS), "lost"),
    ];
    let mut on_hand = OnHand::new();
    let all_happened = || wanted.iter().all(|each| proxy.injected().contains_key(each));
    // How many messages a round takes depends on how many effects go together.
    for round in 0..ROUNDS_MAX {
        let plan = Plan::new(Dice::new(seed).fork(round), round, &mut on_hand);
        for step in [&plan.deliveries, &plan.placed, &plan.ended, &plan.shipped] {
            send(&broker, step).await;
            settled(&broker).await;
        }
        if all_happened() {
            break;
        }
    }
    proxy.heal().await;
    settled(&broker).await;
    assert!(all_happened(), "not all of {wanted:?} were done: {:#?}", proxy.injected());
    decided(&broker).await;
    verified_dump(&end_to_end_tests::dumps::dump(&broker).await);
    for (sku, on_hand) in &on_hand {
        until(format!("{on_hand} of {sku}"), async || {
            let row = stock(&broker, sku).await?;
            (row["on_hand"] == *on_hand && row["reserved"] == 0).then_some(())
        })
        .await;
    }
    let timers = messages(&broker, TIMERS).await;
    assert!(timers.is_empty(), "{} timers are left over", timers.len());
    manager.expect_running();
}
