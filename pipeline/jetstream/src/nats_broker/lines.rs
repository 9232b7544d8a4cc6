//! The lines of a broker: each reader has its own, all loads share one.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::broker::BrokerError;
use crate::line::{Dialer, Line};

/// Opens lines.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    dialer: Dialer,
    of_loads: Arc<Mutex<Option<Line>>>,
}

impl Lines {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, of_loads: Arc::default() }
    }

    /// A new line.
    pub(super) async fn open(&self) -> Result<Line, BrokerError> {
        let failed = |detail| BrokerError::Unavailable { operation: "connect", detail };
        self.dialer.dial().await.map_err(failed)
    }

    /// The line of all loads; a new one when the one before was lost.
    pub(super) async fn of_loads(&self) -> Result<Line, BrokerError> {
        let mut kept = self.of_loads.lock().await;
        if let Some(line) = kept.as_ref().filter(|line| !line.is_lost()) {
            return Ok(line.clone());
        }
        let line = self.open().await?;
        *kept = Some(line.clone());
        Ok(line)
    }
}
