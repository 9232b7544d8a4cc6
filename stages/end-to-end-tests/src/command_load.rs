//! Commands that keep coming while something breaks, and a ledger of what was acknowledged. The ledger complements the engine's verification,
//! which only sees what the streams hold.
//!
//! Most commands are published, and some go through `submit`. A sender repeats a command without a clear answer under the same id, as any
//! sender must. A command without an id is then stored twice, as two commands.

mod generator;
pub mod ledger;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, HeaderMap};
use futures::{FutureExt as _, future::join_all};
use millstream_contract::{header, outcome::OutcomeReply, stream_names::COMMANDS, testing::dice::Dice};
use millstream_jetstream::line::Dialer;
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage},
    nats_broker::NatsBroker,
};
use tokio::{sync::watch, task::JoinSet};

use self::{
    generator::{Draft, Generator},
    ledger::{Acknowledged, Ledger},
};

/// How many commands are under way together.
const VOLLEY_MAX: u64 = 12;
/// The default share of volleys that go through `submit`.
const SUBMITTED: f64 = 0.15;
/// The pause before something without a clear answer is sent again.
const REPEAT_PAUSE: Duration = Duration::from_millis(40);
/// How long a submission may wait for its outcome.
const SUBMIT_WAIT: Duration = Duration::from_secs(5);

/// The settings of a load.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// The seed of all random choices.
    pub seed: u64,
    /// The number of connections that send at the same time.
    pub senders: u64,
    /// The longest pause of a sender between two volleys.
    pub pause_max: Duration,
    /// The bytes of padding in each command. They go into headers that are kept with the command.
    pub padding: usize,
    /// Whether half of the ids are also given to the server (`Nats-Msg-Id`), which stores such a command only once within its window.
    pub server_tells_repetitions: bool,
    /// The share of volleys that go through `submit`. They wait for outcomes, some of them of a process that stands still.
    pub submitted: f64,
}

impl LoadSettings {
    /// A load that two cores can handle together with all stages.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            senders: 2,
            pause_max: Duration::from_millis(60),
            padding: 0,
            server_tells_repetitions: true,
            submitted: SUBMITTED,
        }
    }
}

/// A running load.
#[derive(Debug)]
pub struct CommandLoad {
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<u64>,
    senders: JoinSet<Vec<Acknowledged>>,
}

impl CommandLoad {
    /// Starts to send to the server at `url`.
    #[must_use]
    pub fn start(url: &str, settings: &LoadSettings) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, acknowledged) = watch::channel(0);
        let count = Arc::new(count);
        let mut senders = JoinSet::new();
        for number in 0..settings.senders {
            let sender = Sender {
                dice: Dice::new(settings.seed).fork(number),
                generator: Generator::new(settings, number),
                pause_max: settings.pause_max,
                submitted: settings.submitted,
                stopped: stopped.clone(),
                count: Arc::clone(&count),
            };
            senders.spawn(sender.run(url.to_owned()));
        }
        Self { stop, acknowledged, senders }
    }

    /// The number of commands acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until `more` commands have been acknowledged from now on.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn goes_on(&self, more: u64) {
        let mut acknowledged = self.acknowledged.clone();
        let wanted = self.acknowledged() + more;
        let waited =
            tokio::time::timeout(crate::waiting::PATIENCE, acknowledged.wait_for(|count| *count >= wanted));
        let reached = matches!(waited.await, Ok(Ok(_)));
        assert!(reached, "{} of {wanted} commands are acknowledged", self.acknowledged());
    }

    /// Stops sending new commands, and waits until everything that was begun is acknowledged.
    ///
    /// # Panics
    /// When a sender met an error after which it cannot send again.
    pub async fn finish(mut self) -> Ledger {
        self.stop.send_replace(true);
        let mut ledger = Ledger::default();
        while let Some(sent) = self.senders.join_next().await {
            match sent {
                Ok(sent) => ledger.acknowledged.extend(sent),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        ledger
    }
}

/// A connection that survives restarts of its server.
///
/// # Panics
/// When the options are wrong.
pub async fn patient_client(url: &str) -> Client {
    ConnectOptions::new()
        .max_reconnects(None)
        .retry_on_initial_connect()
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .connect(url)
        .await
        .expect("the first connect is repeated")
}

struct Sender {
    dice: Dice,
    generator: Generator,
    pause_max: Duration,
    submitted: f64,
    stopped: watch::Receiver<bool>,
    count: Arc<watch::Sender<u64>>,
}

impl Sender {
    async fn run(mut self, url: String) -> Vec<Acknowledged> {
        let client = patient_client(&url).await;
        let broker = NatsBroker::new(client.clone(), Dialer::plain(&url), None);
        let mut all = Vec::new();
        while !*self.stopped.borrow() {
            let size = self.dice.between(1, VOLLEY_MAX);
            let submitted = self.dice.chance(self.submitted);
            let volley: Vec<_> = (0..size)
                .map(|_| {
                    let draft = self.generator.next();
                    if submitted && draft.id.is_some() {
                        submit(&client, draft).boxed()
                    } else {
                        publish(&broker, draft).boxed()
                    }
                })
                .collect();
            all.extend(join_all(volley).await);
            self.count.send_modify(|count| *count += size);
            tokio::time::sleep(self.dice.time(self.pause_max)).await;
        }
        all
    }
}

async fn publish(broker: &NatsBroker, draft: Draft) -> Acknowledged {
    let position = stored(broker, draft.message()).await;
    draft.acknowledged(position, None)
}

/// Publishes a command repeatedly until it is stored, and returns its position. A publish without a clear answer is repeated under the same id.
pub async fn stored(broker: &NatsBroker, message: NewMessage) -> u64 {
    loop {
        match broker.append(COMMANDS, message.clone()).await {
            Ok(appended) => return appended.sequence,
            Err(AppendError::Unclear { .. } | AppendError::Full { .. }) => {
                tokio::time::sleep(REPEAT_PAUSE).await;
            }
            Err(error) => panic!("{}: {error}", message.subject),
        }
    }
}

/// Any answer except an outcome means that the command may be sent again.
async fn submit(client: &Client, draft: Draft) -> Acknowledged {
    let message = draft.message();
    let subject = message.subject.replacen("cmd.", "submit.", 1);
    let mut headers = HeaderMap::new();
    for (name, value) in message.headers.iter() {
        headers.append(name, value);
    }
    headers.insert(header::WAIT_MS, SUBMIT_WAIT.as_millis().to_string().as_str());
    loop {
        let request = async_nats::Request::new()
            .headers(headers.clone())
            .payload(message.payload.clone())
            .timeout(Some(SUBMIT_WAIT * 2));
        let outcome = client
            .send_request(subject.clone(), request)
            .await
            .ok()
            .and_then(|answer| OutcomeReply::from_json(&serde_json::from_slice(&answer.payload).ok()?));
        if let Some(outcome) = outcome {
            return draft.acknowledged(outcome.command_position, Some(outcome.outcome));
        }
        tokio::time::sleep(REPEAT_PAUSE).await;
    }
}
