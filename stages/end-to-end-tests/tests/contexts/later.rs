//! Commands for later: scheduled by anyone with the `nats` CLI, carried out once at their time, whoever ran then.

use std::time::Duration;

use end_to_end_tests::{
    nats_cli::NatsCli,
    system::{System, fresh_folder},
    waiting::until,
};
use jiff::{Timestamp, ToSpan};
use millstream_contract::stream_names::{COMMANDS, TIMERS};
use millstream_jetstream::{broker::Broker, nats_server::free_port};
use serde_json::{Value, json};

const CLOSE: &str = "due.cmd.retail.business-day.2012-01-31.close";

async fn schedule(nats: &NatsCli, name: &str, at: Timestamp) {
    let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let subject = format!("timer.cmd.{name}");
    let arguments = [
        "pub",
        "--schedule-at",
        &at,
        "--schedule-dest",
        CLOSE,
        "-H",
        "Millstream-Actor:anna",
        &subject,
        "{}",
    ];
    nats.output(&arguments).await;
}

/// The events of the business day: one for each command that was carried out.
async fn closings(system: &System) -> Vec<Value> {
    let history = system.millstream(&["history", "retail", "business-day", "2012-01-31", "--json"]).await;
    history.json_lines()
}

async fn until_commands(system: &System, count: u64) {
    let broker = system.broker().await;
    until(format!("{count} commands"), async || {
        (broker.state(COMMANDS).await.ok()?.last_sequence >= count).then_some(())
    })
    .await;
}

async fn until_nothing_is_left_on_timers(system: &System) {
    let context = async_nats::jetstream::new(system.broker().await.client().clone());
    until("TIMERS is empty", async || {
        let mut stream = context.get_stream(TIMERS).await.ok()?;
        (stream.info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_scheduled_command_is_carried_out_once_at_its_time() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    let soon = Timestamp::now() + 3.seconds();
    schedule(&nats, "soon", soon).await;
    schedule(&nats, "cancelled", Timestamp::now() + 3600.seconds()).await;
    nats.output(&["stream", "purge", TIMERS, "--subject", "timer.cmd.cancelled", "--force"]).await;
    until_commands(&system, 1).await;
    until_nothing_is_left_on_timers(&system).await;
    let stored = system.broker().await.get(COMMANDS, 1).await.unwrap().unwrap();
    assert!(stored.stored_at >= soon - 1.seconds(), "{} is before {soon}", stored.stored_at);
    until("it is decided", async || (closings(&system).await.len() == 1).then_some(())).await;
    let closing = closings(&system).await;
    assert!(closing[0].to_string().contains("anna"), "{closing:?}");
    system.stop().await;
}

#[tokio::test]
async fn a_command_that_fell_due_while_everything_was_down_is_carried_out_once() {
    let (folder, port) = (fresh_folder(), free_port().unwrap());
    let system = System::start_on_port(folder.path(), port, &[]).await;
    let Some(nats) = system.nats().await else { return };
    let due = Timestamp::now() + 4.seconds();
    schedule(&nats, "down", due).await;
    system.stop().await;
    let past = due + 1.seconds();
    let wait = past.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;

    for _ in 0..2 {
        let system = System::start_on_port(folder.path(), port, &[]).await;
        until_commands(&system, 1).await;
        until_nothing_is_left_on_timers(&system).await;
        until("it is decided", async || (!closings(&system).await.is_empty()).then_some(())).await;
        assert_eq!(closings(&system).await.len(), 1, "the day was closed once");
        assert_eq!(system.broker().await.state(COMMANDS).await.unwrap().last_sequence, 1);
        system.stop().await;
    }
}

#[tokio::test]
async fn tills_and_days_are_closed_by_timers_and_unpaid_orders_end() {
    let folder = fresh_folder();
    // Two hours ago the day before yesterday ended: what is recorded now is late, and is closed at the next of these hours.
    let hour = (Timestamp::now() + 20.seconds()).strftime("%H:%M:%S").to_string();
    let variables = [
        ("MILLSTREAM_PROCESS_MANAGER__CLOSE_TILLS_AT", &*hour),
        ("MILLSTREAM_PROCESS_MANAGER__CLOSE_BUSINESS_DAYS_AT", &hour),
        ("MILLSTREAM_PROCESS_MANAGER__PAYMENT_DEADLINE", "1s"),
    ];
    let system = System::start_with_settings(folder.path(), free_port().unwrap(), &[], &variables).await;
    let Some(nats) = system.nats().await else { return };
    let sale = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":450}]}"#;
    nats.output(&["pub", "-J", "cmd.retail.till.7_2012-01-31.record-sale", sale]).await;
    nats.output(&["pub", "-J", "cmd.retail.stock.web:tea.receive", r#"{"quantity":5}"#]).await;
    let order = r#"{"customer":"anna","location":"web","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_price":450}]}"#;
    nats.output(&["pub", "-J", "cmd.orders.order.O1.place", order]).await;

    let value = async |view: &str, key: &str| -> Option<Value> {
        Some(system.query(&format!("query.{view}.get"), &json!({ "key": key })).await.ok()?["value"].clone())
    };
    until("the unpaid order is cancelled", async || {
        (value("orders.order", "O1").await?["cancelled_by"] == "payment-expired").then_some(())
    })
    .await;
    until("its reservation is released", async || {
        (value("retail.stock", "web:tea").await?["available"] == 5).then_some(())
    })
    .await;
    until("the report of the store is sealed", async || {
        (value("retail.store-daily", "2012-01-31/7").await?["status"] == "sealed").then_some(())
    })
    .await;
    until("the day is closed", async || (closings(&system).await.len() == 1).then_some(())).await;
    until_nothing_is_left_on_timers(&system).await;
    system.stop().await;
}
