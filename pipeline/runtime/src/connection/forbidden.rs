//! What the server forbids on a connection. The server reports it separately, and the request then gets no answer. Without this report, a
//! forbidden request looks like a slow one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Event;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ConnectionMonitor;

/// Subjects to which publishing or subscribing was refused. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Forbidden {
    seen: Arc<Mutex<Seen>>,
    news: Arc<Notify>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Seen {
    /// Subjects, each with the kind of operation before it.
    operations: BTreeSet<String>,
    /// How often publishing was refused, and the subject of the last refusal.
    publishes: u64,
    last_publish: String,
}

impl Forbidden {
    /// A monitor for a tool without metrics and readiness, which notes here what the server forbids.
    #[must_use]
    pub fn noted_by_monitor(&self) -> ConnectionMonitor {
        let forbidden = self.clone();
        ConnectionMonitor::unobserved().with_listener(move |event| forbidden.observe(event))
    }

    fn observe(&self, event: &Event) {
        match event {
            Event::ServerError(error) => self.add(&error.to_string()),
            Event::Closed => self.closed.cancel(),
            _ => {}
        }
    }

    /// Takes the server's message: `Permissions Violation for Publish to "subject"`.
    pub(crate) fn add(&self, words: &str) {
        let mut parts = words.split('"');
        if let (Some(head), Some(subject)) = (parts.next(), parts.next())
            && let Some((_, kind)) = head.split_once("Permissions Violation for ")
        {
            let kind = kind.split(' ').next().unwrap_or_default();
            let mut seen = self.seen();
            seen.operations.insert(format!("{kind} {subject}"));
            if kind == "Publish" {
                seen.publishes += 1;
                subject.clone_into(&mut seen.last_publish);
            }
            drop(seen);
            self.news.notify_waiters();
        }
    }

    /// Whether subscribing to the subject was refused.
    #[must_use]
    pub fn subscription(&self, subject: &str) -> bool {
        self.seen().operations.contains(&format!("Subscription {subject}"))
    }

    /// Whether publishing to the subject was refused.
    #[must_use]
    pub fn publish(&self, subject: &str) -> bool {
        self.seen().operations.contains(&format!("Publish {subject}"))
    }

    /// Returns when publishing to the subject has been refused.
    pub async fn publish_to(&self, subject: &str) {
        let operation = format!("Publish {subject}");
        self.until(|seen| seen.operations.contains(&operation).then_some(())).await;
    }

    /// How often publishing to any subject was refused so far.
    #[must_use]
    pub fn publishes(&self) -> u64 {
        self.seen().publishes
    }

    /// Returns the last subject when publishing has been refused more than `before` times.
    pub async fn publish_after(&self, before: u64) -> String {
        self.until(|seen| (seen.publishes > before).then(|| seen.last_publish.clone())).await
    }

    /// Returns when this side has closed the connection, after which nothing more is reported.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    async fn until<T>(&self, found: impl Fn(&Seen) -> Option<T>) -> T {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no report is missed, even one that comes between the check and the wait.
            news.as_mut().enable();
            if let Some(found) = found(&self.seen()) {
                return found;
            }
            news.await;
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Nothing panics while the lock is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn publishing_that_is_refused_is_told_by_its_subject_and_only_once() {
        let forbidden = Forbidden::default();
        let before = forbidden.publishes();
        assert!(forbidden.publish_after(before).now_or_never().is_none());
        forbidden.add(r#"nats: Permissions Violation for Publish to "$JS.API.STREAM.INFO.EVENTS""#);
        assert_eq!(forbidden.publish_after(before).await, "$JS.API.STREAM.INFO.EVENTS");
        forbidden.publish_to("$JS.API.STREAM.INFO.EVENTS").await;
        assert!(forbidden.publish_after(forbidden.publishes()).now_or_never().is_none());
    }

    #[test]
    fn a_refused_subscription_is_no_refused_publish() {
        let forbidden = Forbidden::default();
        forbidden.add(r#"Permissions Violation for Subscription to "query.>""#);
        assert!(forbidden.subscription("query.>"));
        assert_eq!(forbidden.publishes(), 0);
    }
}
