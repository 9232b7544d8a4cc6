//! Commands at a steady rate, whatever becomes of them: each is sent when it is due, and waits from then on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::Subscriber;
use futures::StreamExt as _;
use millstream_contract::{header, outcome::OutcomeReply, stored_message::Headers, testing::dice::Dice};
use millstream_jetstream::{broker::NewMessage, line::Dialer, nats_broker::NatsBroker};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::SoakSettings;
use crate::command_load::{ledger::Acknowledged, patient_client, stored};

/// Of a hundred commands, so many are sales; each makes a process send one for the stock.
const SALES: u64 = 88;
const STORES: u64 = 200;
const SKUS: u64 = 500;
/// The senders are woken so often.
const TICK: Duration = Duration::from_millis(10);
/// An answer that has not come so long after the last command never comes.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// All that was sent and told.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) acknowledged: Vec<Acknowledged>,
    pub(super) answers: Answers,
}

/// When commands were due, and when their answers came.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) answered: Vec<(Instant, Instant)>,
    pub(super) untold: u64,
}

/// Sends until `until`, and waits for the answers.
pub(super) async fn send(url: &str, settings: &SoakSettings, until: Instant) -> Sent {
    let client = patient_client(url).await;
    let broker = Arc::new(NatsBroker::new(client.clone(), Dialer::plain(url), None));
    let inbox = client.new_inbox();
    let replies = client.subscribe(format!("{inbox}.*")).await.expect("it is connected");
    let told = Told::default();
    let listening = tokio::spawn(listen(replies, Arc::clone(&told)));
    let mut dice = Dice::new(settings.seed).fork(2);
    let mut under_way = JoinSet::new();
    let mut due_at = Vec::new();
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while Instant::now() < until {
        let tick = ticks.tick().await;
        let due = tick.duration_since(began).as_millis() as usize * settings.rate as usize / 1_000;
        while due_at.len() < due {
            let message = command(&mut dice, due_at.len(), &inbox);
            let (broker, number) = (Arc::clone(&broker), due_at.len());
            under_way.spawn(async move { (number, stored(&broker, message).await) });
            due_at.push(tick);
        }
    }
    let positions = under_way.join_all().await;
    let last_answer = Instant::now() + LAST_ANSWER;
    while lock(&told).len() < due_at.len() && Instant::now() < last_answer {
        tokio::time::sleep(TICK).await;
    }
    listening.abort();
    if let Err(ended) = listening.await
        && ended.is_panic()
    {
        std::panic::resume_unwind(ended.into_panic());
    }
    let mut told = std::mem::take(&mut *lock(&told));
    let answered: Vec<(Instant, Instant)> =
        due_at.iter().enumerate().filter_map(|(number, due)| Some((*due, told.get(&number)?.0))).collect();
    let untold = (due_at.len() - answered.len()) as u64;
    let acknowledged = |(number, position)| {
        let told = told.remove(&number).map(|(_, reply)| reply);
        Acknowledged::repeatedly(&id_of(number), position, told)
    };
    Sent {
        acknowledged: positions.into_iter().flat_map(acknowledged).collect(),
        answers: Answers { answered, untold },
    }
}

/// When each answer came, by the number of its command.
type Told = Arc<Mutex<HashMap<usize, (Instant, OutcomeReply)>>>;

fn lock(told: &Told) -> MutexGuard<'_, HashMap<usize, (Instant, OutcomeReply)>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes the answers until it is aborted.
async fn listen(mut replies: Subscriber, told: Told) {
    while let Some(reply) = replies.next().await {
        let number = reply.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let outcome =
            serde_json::from_slice(&reply.payload).ok().and_then(|json| OutcomeReply::from_json(&json));
        let (Some(number), Some(outcome)) = (number, outcome) else { panic!("no answer: {reply:?}") };
        lock(&told).entry(number).or_insert((Instant::now(), outcome));
    }
}

fn command(dice: &mut Dice, number: usize, inbox: &str) -> NewMessage {
    let (store, sku) = (dice.below(STORES), dice.below(SKUS));
    let (subject, body) = if dice.below(100) < SALES {
        let line = json!({ "sku": format!("sku{sku}"), "quantity": 1, "unit_price": 713 });
        let sale = json!({ "sale": format!("S{number}"), "currency": "USD", "lines": [line] });
        (format!("cmd.retail.till.{store}_2012-01-31.record-sale"), sale)
    } else {
        (format!("cmd.retail.stock.{store}:sku{sku}.receive"), json!({ "quantity": 10 }))
    };
    let mut headers = Headers::new();
    headers.push(header::COMMAND_ID, id_of(number));
    headers.push(header::REPLY, format!("{inbox}.{number}"));
    NewMessage { subject, expected_last: None, headers, payload: body.to_string().into() }
}

fn id_of(number: usize) -> String {
    format!("soak-{number}")
}
