//! Questions that are asked until there is an answer that can be believed.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    broker::{Broker, BrokerError, StreamState},
    id_source::IdSource,
};

/// For how long a server must say that a stream has lost its tail before that is believed.
const LOSS_BELIEVED_AFTER: Duration = Duration::from_secs(5);
/// And how often, in case this process stood still meanwhile.
const LOSS_TOLD_MIN: u32 = 8;

/// Asks until the server answers.
///
/// # Errors
/// Every answer but that there is none.
pub async fn answered<T, F: Future<Output = Result<T, BrokerError>>>(
    ids: &IdSource,
    ask: impl Fn() -> F,
) -> Result<T, BrokerError> {
    let mut backoff = ids.backoff();
    loop {
        match ask().await {
            Err(BrokerError::Unavailable { operation, detail }) => {
                tracing::warn!(operation, detail, "waiting for the server");
                backoff.pause().await;
            }
            answer => return answer,
        }
    }
}

/// Whether to believe that a stream holds less than it did. A leader that was just elected may not yet have applied all that its log
/// holds, so it is asked again.
#[derive(Debug, Default)]
pub struct LossDoubt {
    since: Option<Instant>,
    told: u32,
}

impl LossDoubt {
    /// The server says so. Answers whether it has done so for long enough.
    pub fn believes(&mut self) -> bool {
        self.told += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.told >= LOSS_TOLD_MIN && since.elapsed() >= LOSS_BELIEVED_AFTER
    }

    /// The server says that nothing is missing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The state of a stream that reached up to `known` once. Where the server says that it ends before, it is asked again until that
/// is to be believed ([`LossDoubt`]).
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
