//! Two process managers, one of which carries effects out. Killed, whichever is there first goes on where it stopped;
//! frozen, the other one does, and what the frozen one still does when it wakes up changes nothing.

use end_to_end_tests::{
    dumps::{figure, settled, verified},
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::{header, stored_message::Headers, stream_names::COMMANDS};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    nats_broker::NatsBroker,
    nats_server::free_port,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const REPLICAS: [&str; 2] = ["process-manager-1", "process-manager-2"];
/// The figure of who carries effects out.
const ACTIVE: &str = "millstream_process_active";
/// How the active one is taken out, in turn.
const ENDS: [End; 4] = [End::Kill, End::Freeze, End::Kill, End::Freeze];
const SALES: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// `kill -9`; it is started again at once.
    Kill,
    /// It stands still until the other one has its turn, wakes up, and is killed.
    Freeze,
}

/// The one that carries effects out now, and the other one.
async fn active_and_other(broker: &NatsBroker) -> (&'static str, &'static str) {
    until("one of them is active", async || {
        let mut active = Vec::new();
        for replica in REPLICAS {
            active.push(figure(broker, replica, ACTIVE).await == Some(1));
        }
        match active[..] {
            [true, false] => Some((REPLICAS[0], REPLICAS[1])),
            [false, true] => Some((REPLICAS[1], REPLICAS[0])),
            _ => None,
        }
    })
    .await
}

async fn sell(broker: &NatsBroker, number: usize) {
    let body = json!({ "sale": format!("S{number}"), "currency": "USD",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_price": 450 }] });
    let message = NewMessage {
        subject: format!("cmd.retail.till.7_2012-01-{:02}.record-sale", 1 + number % 9),
        expected_last: None,
        headers: [(header::COMMAND_ID, format!("sale-{number}"))].into_iter().collect::<Headers>(),
        payload: body.to_string().into(),
    };
    broker.append(COMMANDS, message).await.unwrap();
}

#[tokio::test]
async fn one_goes_on_where_the_active_replica_was_cut_off_and_repeats_nothing() {
    let folder = fresh_folder();
    let arguments = ["--replicas", "process-manager=2"];
    let system = System::start_on_port(folder.path(), free_port().unwrap(), &arguments).await;
    let broker = system.broker().await;
    for (round, end) in ENDS.into_iter().enumerate() {
        let (active, other) = active_and_other(&broker).await;
        for number in 0..SALES {
            sell(&broker, round * SALES + number).await;
            // Somewhere between the sales' events and what follows from them.
            match end {
                End::Kill if number == SALES / 2 => system.kill(active).await,
                End::Freeze if number == SALES / 2 => assert!(system.signal(active, Signal::SIGSTOP)),
                _ => {}
            }
        }
        if end == End::Freeze {
            until("the other one takes over", async || {
                (figure(&broker, other, ACTIVE).await == Some(1)).then_some(())
            })
            .await;
            assert!(system.signal(active, Signal::SIGCONT));
            system.kill(active).await;
        }
    }
    settled(&broker).await;
    let stock: Value = until("the stock of all sales", async || {
        let answer = system.query("query.retail.stock.get", &json!({ "key": "7:tea" })).await.ok()?;
        (answer["value"]["on_hand"] == -(i64::try_from(ENDS.len() * SALES).unwrap())).then_some(answer)
    })
    .await;
    assert_eq!(stock["value"]["version"], ENDS.len() * SALES, "one movement a sale");
    verified(&broker).await;
    system.stop().await;
}
