//! Everything that is watched by any client. The hub tells the stages that keep the rows, and receives announcements of changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_contract::{
    subject::CHANGED_PREFIX,
    view_change::{ViewChange, view_of, watched_subject},
};
use millstream_jetstream::nats_broker::{
    NatsBroker,
    sifted_subscription::{Heard, SiftedSubscription},
};
use millstream_runtime::metrics::LiveMetrics;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::topic::{Address, Shown, Topic, What};

/// How often it says what is watched: five times before it would count as silent (`WATCHED_FOR` of the stages that keep rows).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// How many queries to views run at a time. If any row may have changed, they wait for each other instead of all coming at once.
const ASKS_MAX: usize = 32;

/// What is watched. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Hub(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) broker: NatsBroker,
    pub(super) asks: Semaphore,
    pub(super) metrics: LiveMetrics,
    /// After how much time without a hint a row is queried again.
    pub(super) recheck: Duration,
    pub(super) stop: CancellationToken,
    topics: Mutex<HashMap<ViewName, HashMap<What, Arc<Topic>>>>,
    /// A view is now watched that was not before.
    announce: Notify,
}

/// The context and name of a view.
type ViewName = (String, String);

/// A row or list, and its latest state.
pub(super) struct Watched {
    pub(super) topic: Arc<Topic>,
    pub(super) shown: watch::Receiver<Shown>,
}

impl Hub {
    /// Receives announcements until `stop`.
    pub(crate) fn start(
        broker: NatsBroker,
        metrics: LiveMetrics,
        recheck: Duration,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            broker,
            asks: Semaphore::new(ASKS_MAX),
            metrics,
            recheck,
            stop,
            topics: Mutex::default(),
            announce: Notify::new(),
        });
        tokio::spawn(Arc::clone(&shared).follow());
        Self(shared)
    }

    /// Watches a row or list, together with everybody else who does.
    pub(super) fn watch(&self, address: Address) -> Watched {
        let mut topics = self.0.topics();
        let name = (address.context.clone(), address.view.clone());
        let of_view = topics.entry(name).or_insert_with(|| {
            self.0.announce.notify_one();
            HashMap::new()
        });
        let topic = of_view.entry(address.what.clone()).or_insert_with(|| {
            let topic = Topic::new(address);
            tokio::spawn(Arc::clone(&topic).run(Arc::clone(&self.0)));
            self.0.metrics.rows.inc();
            topic
        });
        // This happens under the lock, because a topic that nobody watches is removed under it.
        Watched { topic: Arc::clone(topic), shown: topic.watch() }
    }
}

impl Shared {
    fn topics(&self) -> MutexGuard<'_, HashMap<ViewName, HashMap<What, Arc<Topic>>>> {
        // Each change leaves the map complete, so a poisoned lock does no harm.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a topic that nobody watches any more. Returns whether it was removed.
    pub(super) fn forget(&self, topic: &Topic) -> bool {
        let mut topics = self.topics();
        if topic.is_watched() {
            return false;
        }
        let Address { context, view, what } = &topic.address;
        let name = (context.clone(), view.clone());
        if let Some(of_view) = topics.get_mut(&name) {
            of_view.remove(what);
            if of_view.is_empty() {
                topics.remove(&name);
            }
        }
        self.metrics.rows.dec();
        true
    }

    async fn follow(self: Arc<Self>) {
        let mut messages = SiftedSubscription::start(self.broker.clone(), format!("{CHANGED_PREFIX}.*.*"));
        let mut announcements = tokio::time::interval(ANNOUNCE_INTERVAL);
        announcements.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                heard = messages.next() => self.hear(&heard),
                _ = announcements.tick() => self.announce().await,
                () = self.announce.notified() => self.announce().await,
            }
        }
    }

    fn hear(&self, heard: &Heard) {
        let topics = self.topics();
        match heard {
            Heard::Listening => {
                topics.values().flat_map(HashMap::values).for_each(|topic| topic.may_differ())
            }
            Heard::Message { subject, body } => {
                let name = view_of(subject).map(|(context, view)| (context.to_owned(), view.to_owned()));
                let of_view = name.and_then(|name| topics.get(&name));
                let Some((of_view, change)) = of_view.zip(ViewChange::from_json(body)) else { return };
                match &change.keys {
                    // The topic is found by its key, however many rows are watched.
                    Some(keys) => {
                        let rows = keys.iter().filter_map(|key| of_view.get(&What::Row(key.clone())));
                        let lists = of_view.values().filter(|topic| topic.address.lists_any(keys));
                        rows.chain(lists).for_each(|topic| topic.must_reach(&change.position));
                    }
                    None => of_view.values().for_each(|topic| topic.must_reach(&change.position)),
                }
            }
        }
    }

    async fn announce(&self) {
        let names: Vec<ViewName> = self.topics().keys().cloned().collect();
        for (context, view) in names {
            self.broker.tell(watched_subject(&context, &view), "".into()).await;
        }
    }
}
