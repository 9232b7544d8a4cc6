//! Asks the server again and again until it answers.

use crate::{broker::BrokerError, id_source::IdSource};

/// Asks until the server answers, and pauses longer after each attempt ([`crate::backoff`]).
///
/// # Errors
/// Every error that the server answers. A server that does not answer is asked again.
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
