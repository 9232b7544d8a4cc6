//! A generated week on a whole system: deliveries, transfers between places, sales with returns, late uploads, price changes,
//! orders that fail at each step, comments with edits and deletes. Afterwards every view and all reports equal a naive model
//! that knows nothing of the engine or the model ([`plan`]), every refusal was foreseen, and no reservation and no timer is
//! left over. Once undisturbed, once with `kill -9` of each process again and again.
//!
//! Small enough for every run; `MILLSTREAM_WEEK_SCALE=100` makes it the size of a company: 50 stores, 5,000 skus, 40
//! suppliers, 100,000 sales, 5,000 orders, 20,000 comments (docs/benchmarks.md).

mod checks;
mod plan;
mod rebuild;
mod tables;

use std::{collections::BTreeMap, time::Duration};

use end_to_end_tests::{
    dumps::{settled, verified},
    system::{System, fresh_folder},
};
use futures::StreamExt;
use millstream_contract::{header, stored_message::Headers, stream_names::COMMANDS, testing::dice::Dice};
use millstream_jetstream::{
    broker::{AppendError, Broker, NewMessage},
    nats_broker::NatsBroker,
    nats_server::free_port,
};
use tokio::sync::watch;

use self::{
    plan::{Command, Plan},
    tables::Tables,
};

/// Aggregates whose commands are on their way together; those of one follow each other.
const LANES_AT_ONCE: usize = 128;
/// Between two kills.
const KILL_PAUSE_MAX: Duration = Duration::from_secs(6);

/// Revisions are published at once, so that REPORTS is at rest when the rest of the system is.
const SETTINGS: [(&str, &str); 1] = [("MILLSTREAM_REPORTER__OPEN_INTERVAL", "0s")];

/// What is killed, in turn.
const STAGES: [&str; 5] = ["process-manager", "command-handler", "projector", "nats-server", "reporter"];

fn scale() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the size of a test is asked for by whoever runs it")]
    let scale = std::env::var("MILLSTREAM_WEEK_SCALE");
    scale.map_or(1, |scale| scale.parse().expect("the scale is a number"))
}

/// Stores every command, those of one aggregate in their order, whatever becomes of the server meanwhile.
async fn send(broker: &NatsBroker, commands: Vec<Command>) {
    let mut lanes: BTreeMap<String, Vec<Command>> = BTreeMap::new();
    for command in commands {
        let aggregate = command.address.rsplit_once('.').unwrap().0.to_owned();
        lanes.entry(aggregate).or_default().push(command);
    }
    futures::stream::iter(lanes.into_values())
        .for_each_concurrent(LANES_AT_ONCE, async |lane| {
            for command in lane {
                send_one(broker, &command).await;
            }
        })
        .await;
}

async fn send_one(broker: &NatsBroker, command: &Command) {
    let mut headers = Headers::new();
    headers.push(header::NATS_MESSAGE_ID, &command.id);
    if let Some(actor) = &command.actor {
        headers.push(header::ACTOR, actor);
    }
    let message = NewMessage {
        subject: format!("{}.{}", command.origin.prefix(), command.address),
        expected_last: None,
        headers,
        payload: command.body.to_string().into(),
    };
    loop {
        match broker.append(COMMANDS, message.clone()).await {
            Ok(_) => return,
            // The server is down, or has just come up: the id keeps a repeat from counting.
            Err(AppendError::Unclear { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{}: {error}", command.address),
        }
    }
}

/// Sends the week, step by step: each begins when nothing follows from the one before any more.
async fn live_through(system: &System, plan: &mut Plan) {
    let broker = system.broker().await;
    for step in plan.steps() {
        send(&broker, step).await;
        settled(&broker).await;
    }
}

#[tokio::test]
async fn a_week_equals_the_naive_model() {
    let folder = fresh_folder();
    let system = System::start_with_settings(folder.path(), free_port().unwrap(), &[], &SETTINGS).await;
    let mut plan = Plan::new(1, scale());
    let mut tables = Tables::start(&system).await;
    live_through(&system, &mut plan).await;
    checks::expect_everything(&system, &plan).await;
    tables.expect_rows(&system).await;
    tables::expect_sums(&system).await;
    tables.stop().await;
    let _said =
        system.millstream(&["report", "verify", "--wait", "30s"]).await.expect_success("report verify");
    verified(&system.broker().await).await;
    let system = rebuild::expect_the_same_from_nothing(system, folder.path()).await;
    checks::expect_everything(&system, &plan).await;
    system.stop().await;
}

#[tokio::test]
async fn a_week_under_kills_equals_the_naive_model() {
    let folder = fresh_folder();
    let system = System::start_with_settings(folder.path(), free_port().unwrap(), &[], &SETTINGS).await;
    let mut plan = Plan::new(2, scale());
    let mut tables = Tables::start(&system).await;
    let (stop, mut stopped) = watch::channel(false);
    let killing = async {
        let mut dice = Dice::new(7);
        for (kills, name) in STAGES.iter().cycle().enumerate() {
            tokio::select! {
                biased;
                // Each at least once, also when the week is over sooner.
                _ = stopped.wait_for(|stopped| *stopped), if kills >= STAGES.len() => break,
                () = tokio::time::sleep(dice.time(KILL_PAUSE_MAX)) => {}
            }
            system.kill(name).await;
            tables.kill(kills).await;
        }
    };
    let living = async {
        live_through(&system, &mut plan).await;
        stop.send(true).unwrap();
    };
    tokio::join!(living, killing);
    settled(&system.broker().await).await;
    checks::expect_everything(&system, &plan).await;
    tables.expect_rows(&system).await;
    tables.stop().await;
    let _said =
        system.millstream(&["report", "verify", "--wait", "30s"]).await.expect_success("report verify");
    verified(&system.broker().await).await;
    system.stop().await;
}
