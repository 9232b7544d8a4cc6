//! Waiting for a condition, bounded. The bound is no measurement: it only turns a hang into a failure that says what was
//! awaited.

use std::{fmt::Display, time::Duration};

/// A busy machine of two cores gets there well before.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition that cannot be awaited is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `probe` answers with a value.
///
/// # Panics
/// When it has not within [`PATIENCE`].
pub async fn until<T>(what: impl Display, probe: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, probe).await
}

/// Looks until `probe` answers with a value, for at most `limit`.
///
/// # Panics
/// When it has not within `limit`.
pub async fn until_within<T>(
    limit: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let looking = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    match tokio::time::timeout(limit, looking).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
