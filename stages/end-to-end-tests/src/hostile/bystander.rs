//! The well-behaved sender beside the hostile one: whatever that one does, each of these commands is decided, each timer falls due,
//! and each question is answered within seconds. It keeps a ledger of what it was told.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
    stored_message::Headers,
    stream_names::{COMMANDS, TIMERS},
    testing::dice::Dice,
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    line::Dialer,
    nats_broker::NatsBroker,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{failures::Failures, strange};
use crate::command_load::{ledger::Acknowledged, patient_client};

/// Stocks of its own.
const STOCKS: u64 = 20;
/// What one try may take before the same is sent again under the same id, as any sender must.
const TRY: Duration = Duration::from_secs(4);
/// How often the view is asked for an outcome.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two of its deeds.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Rows of a page.
const PAGE: usize = 200;

/// What the well-behaved sender has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The commands that were acknowledged.
    pub(super) acknowledged: Vec<Acknowledged>,
    /// Units that its stocks must have in the end.
    pub(super) on_hand: BTreeMap<String, u64>,
    /// How long each deed took, by what it was.
    pub(super) took: BTreeMap<&'static str, Vec<Duration>>,
}

/// Somebody who only does what the documents say.
pub(super) struct Bystander {
    broker: NatsBroker,
    client: Client,
    dice: Dice,
    /// How long it waits for anything.
    limit: Duration,
    failures: Failures,
    name: String,
    made: u64,
    seen: Seen,
}

impl Bystander {
    pub(super) async fn new(url: &str, dice: Dice, limit: Duration, failures: Failures) -> Self {
        let client = patient_client(url).await;
        let broker = NatsBroker::new(client.clone(), Dialer::plain(url), None);
        let name = "bystander".to_owned();
        Self { broker, client, dice, limit, failures, name, made: 0, seen: Seen::default() }
    }

    /// Goes on until something has failed or `until`.
    pub(super) async fn run(mut self, until: Instant) -> Seen {
        while Instant::now() < until && !self.failures.any() {
            let began = Instant::now();
            let (what, done) = match self.dice.below(12) {
                0..4 => ("publish", self.command(false).await),
                4..7 => ("submit", self.command(true).await),
                7 => ("timer", self.timer().await),
                8 => ("get", self.get().await),
                9 => ("configured query", self.configured_query().await),
                10 => ("unknown query", self.unknown_query().await),
                _ => ("list", self.list().await),
            };
            match done {
                Some(()) => self.seen.took.entry(what).or_default().push(began.elapsed()),
                None => {
                    self.failures.add(format!("{what} {} is not done within {:?}", self.made, self.limit))
                }
            }
            tokio::time::sleep(self.dice.time(PAUSE_MAX)).await;
        }
        self.seen
    }

    fn stock(&mut self) -> String {
        format!("{}:{}", self.name, self.dice.below(STOCKS))
    }

    /// Tries until there is a result, within the limit.
    async fn tried<T>(&self, mut once: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let tries = async {
            loop {
                if let Ok(Some(done)) = tokio::time::timeout(TRY, once()).await {
                    return done;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(self.limit, tries).await.ok()
    }

    /// A command that must be accepted, once.
    async fn command(&mut self, submitted: bool) -> Option<()> {
        self.made += 1;
        let (stock, id) = (self.stock(), format!("{}-{}", self.name, self.made));
        let (broker, client, view) = (self.broker.clone(), self.client.clone(), self.client.clone());
        let mut acknowledged = Vec::new();
        let inbox = client.new_inbox();
        let mut outcomes = client.subscribe(inbox.clone()).await.ok()?;
        let sent = self.tried(async || match submitted {
            true => submit(&client, &stock, &id).await,
            false => publish(&broker, &mut outcomes, (&stock, &id, &inbox), &mut acknowledged).await,
        });
        // An outcome is told once. Behind a long backlog, or when a handler is killed just then, the view has it first.
        let told = self.tried(async || recorded(&view, &id).await);
        let reply = tokio::select! {
            Some(reply) = sent => Some(reply),
            Some(reply) = told => Some(reply),
            else => None,
        };
        self.seen.acknowledged.extend(acknowledged.into_iter().map(|position| Acknowledged {
            position,
            id: Some(id.clone()),
            content: None,
            outcome: None,
        }));
        self.take(&stock, &id, reply?);
        Some(())
    }

    fn take(&mut self, stock: &str, id: &str, reply: OutcomeReply) {
        if !matches!(reply.outcome.first(), Outcome::Accepted { events: 1, .. }) {
            self.failures.add(format!("a fine command {id} to {stock} is {:?}", reply.outcome));
        }
        *self.seen.on_hand.entry(stock.to_owned()).or_default() += 1;
        self.seen.acknowledged.push(Acknowledged {
            position: reply.command_position,
            id: Some(id.to_owned()),
            content: None,
            outcome: Some(reply.outcome),
        });
    }

    /// A command that falls due at once.
    async fn timer(&mut self) -> Option<()> {
        self.made += 1;
        let (stock, id) = (self.stock(), format!("{}-{}", self.name, self.made));
        let inbox = self.client.new_inbox();
        let mut outcomes = self.client.subscribe(inbox.clone()).await.ok()?;
        let headers = [
            (header::COMMAND_ID, id.as_str()),
            (header::REPLY, &inbox),
            ("Nats-Schedule", "@at 2026-01-01T00:00:00Z"),
            ("Nats-Schedule-Target", &format!("due.cmd.retail.stock.{stock}.receive")),
        ];
        let schedule = NewMessage {
            subject: format!("timer.cmd.{id}"),
            expected_last: None,
            headers: headers.into_iter().collect(),
            payload: r#"{"quantity":1}"#.into(),
        };
        let broker = self.broker.clone();
        let view = self.client.clone();
        let mut stored = false;
        let reply = self
            .tried(async || {
                if !stored {
                    broker.append(TIMERS, schedule.clone()).await.ok()?;
                    stored = true;
                }
                match tokio::time::timeout(LOOK, outcomes.next()).await {
                    Ok(Some(message)) => read(&message.payload),
                    _ => recorded(&view, &id).await,
                }
            })
            .await?;
        self.take(&stock, &id, reply);
        Some(())
    }

    /// Its own row, as it has to be by now.
    async fn get(&mut self) -> Option<()> {
        let Some((stock, on_hand)) = self.seen.on_hand.iter().next() else { return Some(()) };
        let (stock, on_hand, client) = (stock.clone(), *on_hand, self.client.clone());
        self.tried(async || units_of(&client, &stock).await.filter(|units| *units >= on_hand).map(drop)).await
    }

    /// A query of the stage `sql` with its rows.
    async fn configured_query(&mut self) -> Option<()> {
        let client = self.client.clone();
        self.tried(async || {
            let answer = client.request("query.comments.authors", "{}".into()).await.ok()?;
            let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
            answer.get("rows")?.as_array().map(drop)
        })
        .await
    }

    /// The description of a query that does not exist, whatever its name is: the refusal repeats the name.
    async fn unknown_query(&mut self) -> Option<()> {
        let (name, client) = (strange::text(&mut self.dice, 100), self.client.clone());
        let body = Bytes::from(json!({ "name": name }).to_string());
        self.tried(async || {
            let answer = client.request("query.retail._queries", body.clone()).await.ok()?;
            let code = answer.headers.as_ref()?.get("Nats-Service-Error-Code")?;
            (code.as_str() == "404").then_some(())
        })
        .await
    }

    /// All pages of a view into which the hostile client writes, too.
    async fn list(&mut self) -> Option<()> {
        let view = *self.dice.pick(&["sale", "stock", "return", "product"]);
        let client = self.client.clone();
        let mut cursor = Value::Null;
        loop {
            let mut body = json!({ "limit": PAGE });
            if let (Value::String(_), Some(fields)) = (&cursor, body.as_object_mut()) {
                fields.insert("cursor".to_owned(), cursor.clone());
            }
            let subject = format!("query.retail.{view}.list");
            let mut refusal = None;
            let page = self
                .tried(async || {
                    let answer = client.request(subject.clone(), body.to_string().into()).await.ok()?;
                    if let Some(code) = answer.headers.as_ref()?.get("Nats-Service-Error-Code") {
                        refusal = Some(code.to_string());
                        return None;
                    }
                    serde_json::from_slice::<Value>(&answer.payload).ok()
                })
                .await;
            let Some(page) = page else {
                self.failures.add(format!("{subject} {body} is refused with {refusal:?}"));
                return None;
            };
            cursor = page.get("cursor").cloned().unwrap_or_default();
            // Rows are many in the end; a walk through all of them would be most of the time.
            if cursor.is_null() || self.dice.chance(0.02) {
                return Some(());
            }
        }
    }
}

/// The units that the row of a stock has.
pub(super) async fn units_of(client: &Client, stock: &str) -> Option<u64> {
    let body = json!({ "key": stock }).to_string();
    let answer = client.request("query.retail.stock.get", body.into()).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    answer.pointer("/value/on_hand")?.as_u64()
}

fn read(payload: &[u8]) -> Option<OutcomeReply> {
    OutcomeReply::from_json(&serde_json::from_slice(payload).ok()?)
}

async fn submit(client: &Client, stock: &str, id: &str) -> Option<OutcomeReply> {
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, id);
    headers.insert(header::WAIT_MS, "3500");
    let subject = format!("submit.retail.stock.{stock}.receive");
    let answer = client.request_with_headers(subject, headers, r#"{"quantity":1}"#.into()).await.ok()?;
    read(&answer.payload)
}

/// Publishes a command for a stock, with its id and the inbox of its outcome, and waits; notes where it was stored.
async fn publish(
    broker: &NatsBroker,
    outcomes: &mut Subscriber,
    (stock, id, inbox): (&str, &str, &str),
    acknowledged: &mut Vec<u64>,
) -> Option<OutcomeReply> {
    let headers: Headers = [(header::COMMAND_ID, id), (header::REPLY, inbox)].into_iter().collect();
    let command = NewMessage {
        subject: format!("cmd.retail.stock.{stock}.receive"),
        expected_last: None,
        headers,
        payload: r#"{"quantity":1}"#.into(),
    };
    acknowledged.push(broker.append(COMMANDS, command).await.ok()?.sequence);
    read(&outcomes.next().await?.payload)
}

/// The outcome of a command as the view has it.
async fn recorded(client: &Client, id: &str) -> Option<OutcomeReply> {
    tokio::time::sleep(LOOK).await;
    let body = json!({ "key": id }).to_string();
    let answer = client.request("query.retail.command.get", body.into()).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    let row = answer.get("value")?;
    Some(OutcomeReply {
        command_id: id.into(),
        command_position: row.get("command_position")?.as_u64()?,
        outcome: Outcome::from_json(row)?,
        query_position: None,
    })
}
