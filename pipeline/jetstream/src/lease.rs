//! Keeping a turn: a lease is renewed until it is lost, or may be. Leases decide who works, never what is right.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;

/// Renews the lease of `key` three times in its time to live. Ends when another one has it, or when it went without an
/// answer for as long as it lives.
pub async fn keep<B: Broker>(broker: &B, key: &str, owner: &str, time_to_live: Duration) {
    let mut held = Instant::now();
    loop {
        tokio::time::sleep(time_to_live / 3).await;
        let asked = Instant::now();
        match broker.hold_lease(key, owner, time_to_live).await {
            Ok(true) => held = asked,
            Ok(false) => return,
            Err(error) if held.elapsed() < time_to_live => {
                tracing::warn!(%error, "the lease could not be renewed yet");
            }
            Err(error) => {
                tracing::warn!(%error, "the lease has lapsed");
                return;
            }
        }
    }
}
