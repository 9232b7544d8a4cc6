//! Keeping a turn: a lease is renewed until it is lost, or may be. Leases decide who works, never what is right.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;

/// Renews the lease of `key` three times in its time to live, and more often while no answer comes. Ends when another one has it, or
/// when it went without an answer for as long as it lives.
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
