//! Announces which rows have changed, on `changed.<context>.<view>`, as long as somebody says on `watched.<context>.<view>` that it wants to
//! know. An announcement is only a hint and may be lost; a watcher asks the view itself.

use std::{collections::HashMap, time::Duration};

use millstream_contract::{
    subject::WATCHED_PREFIX,
    view_change::{changed_subject, view_of},
};
use millstream_jetstream::nats_broker::{
    NatsBroker,
    sifted_subscription::{Heard, SiftedSubscription},
};
use millstream_runtime::metrics::{Count, Metrics};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::projection_runner::{ChangedRows, ToTell};

/// How long somebody counts as watching after its last message. It is five times the interval of these messages (`ANNOUNCE_INTERVAL` of the
/// gateway).
const WATCHED_FOR: Duration = Duration::from_secs(10);
/// How often watchers that have fallen silent are removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Announces the changes of a process's views.
pub struct ChangeTeller {
    broker: NatsBroker,
    changed: ChangedRows,
    told: Count,
    /// The watched views, and when the last message about each came.
    heard: HashMap<(String, String), Instant>,
}

impl ChangeTeller {
    /// Announces the changes that `changed` collects.
    pub fn new(broker: NatsBroker, changed: ChangedRows, metrics: &Metrics) -> Self {
        Self { broker, changed, told: metrics.changes_told(), heard: HashMap::new() }
    }

    /// Announces until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut messages = SiftedSubscription::start(self.broker.clone(), format!("{WATCHED_PREFIX}.*.*"));
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                heard = messages.next() => match heard {
                    Heard::Message { subject, .. } => self.watch(&subject),
                    // What was announced while there was no server may be lost.
                    Heard::Listening => self.tell_anew(),
                },
                changes = self.changed.taken() => self.tell(changes).await,
                _ = looks.tick() => self.forget(),
            }
        }
    }

    fn watch(&mut self, subject: &str) {
        let Some((context, view)) = view_of(subject) else { return };
        if self.changed.watch(context, view, true) {
            self.heard.insert((context.to_owned(), view.to_owned()), Instant::now());
        }
    }

    fn tell_anew(&self) {
        for (context, view) in self.heard.keys() {
            self.changed.watch(context, view, false);
            self.changed.watch(context, view, true);
        }
    }

    fn forget(&mut self) {
        let changed = &self.changed;
        self.heard.retain(|(context, view), said| {
            let watches = said.elapsed() < WATCHED_FOR;
            if !watches {
                changed.watch(context, view, false);
            }
            watches
        });
    }

    async fn tell(&self, changes: Vec<ToTell>) {
        for ToTell { context, view, change } in changes {
            self.broker.tell(changed_subject(&context, &view), change.to_json().into()).await;
            self.told.inc();
        }
    }
}
