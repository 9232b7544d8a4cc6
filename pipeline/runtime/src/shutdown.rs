//! Ending on request: SIGTERM and SIGINT cancel a token that every loop watches, and a limit says how long ending may take.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Section, SectionKeys};

/// Shorter than the 30 seconds that Kubernetes allows by default.
const LIMIT_DEFAULT: Duration = Duration::from_secs(20);

/// The `[shutdown]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// How long ending may take.
    pub limit: Duration,
}

impl Section for ShutdownSettings {
    const NAME: &'static str = "shutdown";
    const ABOUT: &'static str = "How the process ends.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let limit = keys.positive_duration(
            "limit",
            LIMIT_DEFAULT,
            "how long finishing may take after SIGTERM; then the process ends with exit code 70",
        );
        Self { limit }
    }
}

/// Signals when to end. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown for a part of the work. It is requested together with this one, or separately.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// Requests the end; may be repeated.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether the end was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the end is requested.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The token, for code that takes one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// From now on, SIGTERM and SIGINT request the end.
    ///
    /// # Errors
    /// When the operating system accepts no signal handler.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            shutdown.request();
        });
        Ok(())
    }
}

/// Waits for `work`. Once the end has been requested, it waits at most `limit`; `None` if the work took longer.
pub async fn within_limit<T>(
    shutdown: &Shutdown,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let too_slow = async {
        shutdown.requested().await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        result = work => Some(result),
        () = too_slow => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_ignores_the_request_is_given_up_after_the_limit() {
        let shutdown = Shutdown::new();
        shutdown.request();
        let never = std::future::pending::<()>();
        assert_eq!(within_limit(&shutdown, Duration::from_secs(20), never).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn work_without_a_request_may_take_for_ever() {
        let shutdown = Shutdown::new();
        let long = tokio::time::sleep(Duration::from_secs(3600));
        assert_eq!(within_limit(&shutdown, Duration::from_secs(20), long).await, Some(()));
    }
}
