//! When to believe the server that a stream has lost its tail.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    broker::{Broker, BrokerError, StreamState},
    id_source::IdSource,
};

/// A server must say for at least this long that a stream has lost its tail before anybody believes it.
const LOSS_BELIEVED_AFTER: Duration = Duration::from_secs(5);
/// It must also say so at least this often, because this process may have stood still in the meantime.
const LOSS_TOLD_MIN: u32 = 8;

/// Decides whether to believe that a stream holds less than it did. A leader that was just elected may not yet have applied all that
/// its log holds, so it is asked several times.
#[derive(Debug, Default)]
pub struct LossDoubt {
    since: Option<Instant>,
    told: u32,
}

impl LossDoubt {
    /// Notes that the server reports a loss. Returns whether it has reported it for long enough to be believed.
    pub fn believes(&mut self) -> bool {
        self.told += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.told >= LOSS_TOLD_MIN && since.elapsed() >= LOSS_BELIEVED_AFTER
    }

    /// Notes that the server reports no loss, so that the doubt begins anew with the next report.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The state of a stream that once reached the sequence `known`. If the server says that the stream ends before it, the server is
/// asked again until the loss has to be believed ([`LossDoubt`]).
///
/// # Errors
/// As [`Broker::state`].
pub async fn state_reaching<B: Broker>(
    broker: &B,
    ids: &IdSource,
    stream: &str,
    known: u64,
) -> Result<StreamState, BrokerError> {
    let (mut doubt, mut backoff) = (LossDoubt::default(), ids.backoff());
    loop {
        let state = broker.state(stream).await?;
        if state.last_sequence >= known || doubt.believes() {
            return Ok(state);
        }
        tracing::warn!(
            stream,
            ends = state.last_sequence,
            known,
            "the stream seems to have lost its tail; asking again"
        );
        backoff.pause().await;
    }
}
