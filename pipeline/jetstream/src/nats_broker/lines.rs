//! The lines of a broker. Each reader has its own; all loads share one, and all leases share another, so that a load never delays a
//! renewal.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::broker::BrokerError;
use crate::line::{Dialer, Line};

/// Opens lines.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    dialer: Dialer,
    of_loads: Kept,
    of_leases: Kept,
}

/// A line that is kept until it is lost.
type Kept = Arc<Mutex<Option<Line>>>;

impl Lines {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, of_loads: Kept::default(), of_leases: Kept::default() }
    }

    /// A new line.
    pub(super) async fn open(&self) -> Result<Line, BrokerError> {
        let failed = |detail| BrokerError::Unavailable { operation: "connect", detail };
        self.dialer.dial().await.map_err(failed)
    }

    /// A new line on which every message can be read by the client library.
    pub(super) async fn open_sifted(&self) -> Result<Line, BrokerError> {
        let failed = |detail| BrokerError::Unavailable { operation: "connect", detail };
        self.dialer.dial_sifted().await.map_err(failed)
    }

    /// The line for all loads.
    pub(super) async fn of_loads(&self) -> Result<Line, BrokerError> {
        self.kept(&self.of_loads).await
    }

    /// The line for all leases.
    pub(super) async fn of_leases(&self) -> Result<Line, BrokerError> {
        self.kept(&self.of_leases).await
    }

    /// The kept line, or a new one if it was lost.
    async fn kept(&self, kept: &Kept) -> Result<Line, BrokerError> {
        let mut kept = kept.lock().await;
        if let Some(line) = kept.as_ref().filter(|line| !line.is_lost()) {
            return Ok(line.clone());
        }
        let line = self.open().await?;
        *kept = Some(line.clone());
        Ok(line)
    }
}
