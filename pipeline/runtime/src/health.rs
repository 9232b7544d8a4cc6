//! Health over HTTP: `/livez` (this process, never NATS), `/readyz` (everything it needs, with reasons) and `/metrics`.
//!
//! Deliberately absent: authentication and TLS. The address is for the cluster's own network.

mod progress;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use millstream_contract::exit_code::{ExitCode, Failure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
pub use self::progress::{ProgressWatch, STALLED_AFTER};
use crate::metrics::Metrics;

/// How often a followed condition is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether a process can do its work: all its conditions hold. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<Standings>>,
    /// The condition that stands for a part which has not added its conditions yet.
    joining: Option<String>,
}

#[derive(Debug, Default)]
struct Standings {
    /// By name.
    conditions: BTreeMap<String, Standing>,
    /// The last refusal by the server, by stream, with its time.
    refusals: BTreeMap<String, (Instant, String)>,
}

/// The state of one condition.
#[derive(Debug)]
enum Standing {
    Holds,
    Fails(String),
    Watched(Progress),
}

impl Readiness {
    /// Ready, because there are no conditions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, which does not hold yet.
    #[must_use]
    pub fn condition(&self, name: &str) -> Condition {
        let condition = Condition { readiness: self.clone(), name: name.to_owned() };
        condition.fails("starting");
        self.joined();
        condition
    }

    /// Adds a condition that holds unless work waits without progress. It rests at first.
    #[must_use]
    pub fn progress(&self, name: &str) -> ProgressWatch {
        let watch = ProgressWatch::new(self.clone(), name);
        self.joined();
        watch
    }

    /// Notes that an append to `stream` has to be repeated, because the stream is full or no clear answer came. As long as this continues, it
    /// is given as the cause if progress stalls.
    pub fn unstored(&self, stream: &str, sentence: impl Into<String>) {
        self.state().refusals.insert(stream.to_owned(), (Instant::now(), sentence.into()));
    }

    fn joined(&self) {
        if let Some(joining) = &self.joining {
            self.set(joining, Standing::Holds);
        }
    }

    /// The same, for a part of the process that adds its conditions later: until it adds the first one, the condition `name` does not hold.
    #[must_use]
    pub fn until_joined(&self, name: &str) -> Self {
        let _starting = self.condition(name);
        Self { state: Arc::clone(&self.state), joining: Some(name.to_owned()) }
    }

    /// Why the process is not ready, with one line for each condition; empty if it is ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state();
        let stalled = |progress: &Progress| {
            let refusals = state.refusals.values().filter(|(at, _)| at.elapsed() < STALLED_AFTER);
            let trouble = progress.trouble()?;
            // The part itself may have reported the same.
            let refusals =
                refusals.map(|(_, sentence)| sentence.as_str()).filter(|words| !trouble.contains(words));
            Some(std::iter::once(&*trouble).chain(refusals).collect::<Vec<_>>().join("; "))
        };
        let reason = |standing: &Standing| match standing {
            Standing::Holds => None,
            Standing::Fails(reason) => Some(reason.clone()),
            Standing::Watched(progress) => stalled(progress),
        };
        let conditions = state.conditions.iter();
        conditions
            .filter_map(|(name, standing)| reason(standing).map(|reason| format!("{name}: {reason}")))
            .collect()
    }

    fn set(&self, name: &str, standing: Standing) {
        self.state().conditions.insert(name.to_owned(), standing);
    }

    fn state(&self) -> MutexGuard<'_, Standings> {
        // Each change is one insertion, or assignments that do not depend on each other, so a poisoned lock leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One condition of a [`Readiness`]. Clones are the same condition.
#[derive(Debug, Clone)]
pub struct Condition {
    readiness: Readiness,
    name: String,
}

impl Condition {
    /// Sets that it holds.
    pub fn holds(&self) {
        self.readiness.set(&self.name, Standing::Holds);
    }

    /// Sets that it does not hold, and why.
    pub fn fails(&self, reason: impl Into<String>) {
        self.readiness.set(&self.name, Standing::Fails(reason.into()));
    }

    /// Checks for problems repeatedly until `stop`. As long as there are none, the condition holds.
    pub async fn follow(self, stop: &CancellationToken, mut troubles: impl FnMut() -> Vec<String>) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            match troubles().as_slice() {
                [] => self.holds(),
                found => self.fails(found.join("; ")),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
        }
    }
}

/// Why the health address is not served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is taken, or does not belong to this machine.
    #[error("telemetry.address {address} cannot be used; choose another one, or \"\" for none")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Failure for HealthError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Bind { .. } => ExitCode::Configuration,
        }
    }
}

/// Serves health and metrics on `address` until the process ends, even while it finishes its work. Returns the address in use, because port 0
/// stands for any port.
///
/// # Errors
/// [`HealthError`] when the address cannot be used.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
) -> Result<SocketAddr, HealthError> {
    let bind = |source| HealthError::Bind { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(bind)?;
    let actual = listener.local_addr().map_err(bind)?;
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz).with_state(readiness.clone()))
        .route("/metrics", get(metrics_text).with_state((readiness, metrics)));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    tracing::info!(address = %actual, "serving /livez, /readyz and /metrics");
    Ok(actual)
}

#[cfg(test)]
mod tests;

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.iter().map(|reason| format!("{reason}\n")).collect())
}

async fn metrics_text(State((readiness, metrics)): State<(Readiness, Metrics)>) -> impl IntoResponse {
    metrics.observe_readiness(&readiness);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.prometheus_text())
}
