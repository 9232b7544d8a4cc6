//! Keeps a lease: renews it until it is lost, or may be lost. Leases decide who works, never what is right.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;

/// Renews the lease of `key` three times during its time to live, and more often as long as no answer comes. Returns when somebody else
/// holds it, or when no answer has come for a whole time to live.
pub async fn keep<B: Broker>(broker: &B, key: &str, owner: &str, time_to_live: Duration) {
    let mut held = Instant::now();
    let mut pause = time_to_live / 3;
    loop {
        tokio::time::sleep(pause).await;
        let asked = Instant::now();
        match broker.hold_lease(key, owner, time_to_live).await {
            Ok(true) => (held, pause) = (asked, time_to_live / 3),
            Ok(false) => return,
            Err(error) if held.elapsed() < time_to_live => {
                tracing::warn!(%error, "the lease could not be renewed yet");
                pause = time_to_live / 12;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease has lapsed");
                return;
            }
        }
    }
}
