//! Reports what happens to a connection over its life, each event once: log lines, counters, and the readiness condition.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ClientError, ConnectErrorKind, Event, ServerError};
use tokio::{sync::watch, time::Instant};

use crate::{health::Condition, metrics::ConnectionMetrics};

/// Observes a connection. Clones share one state.
#[derive(Debug, Clone)]
pub struct ConnectionMonitor {
    metrics: ConnectionMetrics,
    condition: Condition,
    told: Arc<Mutex<Told>>,
    /// Since when the servers have refused the credentials, without any other problem in between.
    refused_since: Arc<watch::Sender<Option<Instant>>>,
    listener: Option<Listener>,
}

/// Receives all events of the client library.
#[derive(Clone)]
struct Listener(Arc<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Listener")
    }
}

/// If there are more different problems than this between two connects, they are logged again from the start. This limits memory.
const TROUBLES_MAX: usize = 32;

/// What was logged, so that it is not logged again.
#[derive(Debug, Default)]
struct Told {
    connected_before: bool,
    connected: bool,
    /// Whether this process is about to close the connection.
    closing: bool,
    troubles: BTreeSet<String>,
}

impl ConnectionMonitor {
    /// Counts in `metrics` and updates `condition`.
    #[must_use]
    pub fn new(metrics: ConnectionMetrics, condition: Condition) -> Self {
        condition.fails("not connected to NATS yet");
        let refused_since = Arc::new(watch::Sender::new(None));
        Self { metrics, condition, told: Arc::default(), refused_since, listener: None }
    }

    /// For tools without metrics and readiness.
    #[must_use]
    pub fn unobserved() -> Self {
        Self::new(
            crate::metrics::Metrics::new().connection(),
            crate::health::Readiness::new().condition("nats"),
        )
    }

    /// The same, and `listener` receives all events of the client library.
    pub(crate) fn with_listener(self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Listener(Arc::new(listener))), ..self }
    }

    /// Once the returned value is dropped, a lost connection is the process's own doing and is not reported.
    #[must_use]
    pub(crate) fn closing_on_drop(&self) -> ClosingOnDrop {
        ClosingOnDrop(self.clone())
    }

    pub(super) fn was_connected(&self) -> bool {
        self.told().connected_before
    }

    /// The first attempt to connect failed and will be repeated.
    pub(super) fn waiting(&self, urls: &str, reason: &str) {
        self.condition.fails(format!("not connected to {urls}: {reason}"));
        if self.is_news(reason) {
            tracing::warn!(urls, reason, "no connection to NATS yet, trying again");
        }
    }

    /// The first connect succeeded.
    pub(super) fn connected(&self, urls: &str, client: &Client) {
        let server = client.server_info();
        tracing::info!(urls, server = server.server_name, version = server.version, "connected to NATS");
        self.told().connected_before = true;
        self.set_connected();
    }

    pub(super) fn observe(&self, event: &Event) {
        if let Some(Listener(listener)) = &self.listener {
            listener(event);
        }
        match event {
            Event::Connected => {
                if self.was_connected() && self.set_connected() {
                    self.metrics.reconnects.inc();
                    tracing::info!("reconnected to NATS");
                }
            }
            Event::Disconnected | Event::Closed => self.disconnected(),
            Event::LameDuckMode => tracing::info!("the server is about to stop (lame duck mode)"),
            Event::SlowConsumer(subscription) => {
                self.metrics.slow_consumers.inc();
                if self.is_news("slow consumer") {
                    tracing::warn!(subscription, "messages were dropped: this process reads too slowly");
                }
            }
            Event::ServerError(error) => self.server_error(error),
            Event::ClientError(ClientError::Other(reason)) if self.was_connected() => {
                self.count_refusal(is_refusal(reason));
                self.condition.fails(format!("the connection to NATS is lost: {reason}"));
                if self.is_news(reason) {
                    tracing::warn!(reason, "no connection to NATS, trying again");
                }
            }
            Event::ClientError(_) | Event::Draining => {}
        }
    }

    /// An event on a line. That the line was lost is reported by its user.
    pub(super) fn observe_line(&self, event: &Event) {
        if matches!(event, Event::ServerError(_) | Event::SlowConsumer(_)) {
            self.observe(event);
        }
    }

    /// Returns when the servers have refused the credentials for this long; never if it is zero.
    pub(super) async fn refused(&self, limit: Duration) {
        let mut refused_since = self.refused_since.subscribe();
        loop {
            let since = *refused_since.borrow_and_update();
            let end = async {
                match since {
                    Some(since) if !limit.is_zero() => tokio::time::sleep_until(since + limit).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end => return,
                // The monitor itself holds the sender, so it is not dropped.
                _changed = refused_since.changed() => {}
            }
        }
    }

    fn count_refusal(&self, is_refused: bool) {
        self.refused_since.send_if_modified(|since| {
            let news = since.is_some() != is_refused;
            if news {
                *since = is_refused.then(Instant::now);
            }
            news
        });
    }

    /// Returns whether it was not connected before.
    fn set_connected(&self) -> bool {
        let mut told = self.told();
        let news = !told.connected;
        told.connected = true;
        told.troubles.clear();
        drop(told);
        self.count_refusal(false);
        self.metrics.connected.set(1);
        self.condition.holds();
        news
    }

    fn disconnected(&self) {
        let mut told = self.told();
        let news = told.connected;
        told.connected = false;
        let own_doing = told.closing;
        drop(told);
        if news {
            self.metrics.connected.set(0);
            self.condition.fails("the connection to NATS is lost");
        }
        if news && !own_doing {
            tracing::warn!("lost the connection to NATS, reconnecting");
        }
    }

    fn server_error(&self, error: &ServerError) {
        let words = error.to_string();
        if is_own_operation(&words) {
            self.condition.fails(format!("{words}; see --check-config --connect"));
        }
        if self.is_news(&words) {
            tracing::warn!(error = words, "the server reports an error");
        }
    }

    /// Whether this problem has not been logged since the last connect.
    fn is_news(&self, trouble: &str) -> bool {
        let mut told = self.told();
        if told.troubles.len() >= TROUBLES_MAX && !told.troubles.contains(trouble) {
            told.troubles.clear();
        }
        told.troubles.insert(trouble.to_owned())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        // Nothing panics while the lock is held, and a half-finished change would do no harm.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells its monitor that the connection is about to be closed.
#[derive(Debug)]
pub(crate) struct ClosingOnDrop(ConnectionMonitor);

impl Drop for ClosingOnDrop {
    fn drop(&mut self) {
        self.0.told().closing = true;
    }
}

/// Whether the library's message for a failed attempt says that the credentials were refused or missing.
fn is_refusal(words: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| words.starts_with(&kind.to_string()))
}

/// Whether the server forbids something that the process needs: asking JetStream, holding the lease, subscribing. A reply to a subject that a
/// person chose is not among these.
fn is_own_operation(words: &str) -> bool {
    ["Publish to \"$JS.", "Publish to \"$KV.", "Subscription to "]
        .iter()
        .any(|operation| words.contains(&format!("Permissions Violation for {operation}")))
}
