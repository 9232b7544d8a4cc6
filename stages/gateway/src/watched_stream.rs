//! A stream as the gateway sees it: its generation, and whether it answers.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};
use millstream_jetstream::{
    broker::{Broker as _, BrokerError},
    id_source::IdSource,
    nats_broker::NatsBroker,
    retry::answered,
};
use millstream_runtime::health::Condition;
use tokio_util::sync::CancellationToken;

/// How often it is checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The stream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WatchedStreamError(#[from] BrokerError);

impl Failure for WatchedStreamError {
    fn exit_code(&self) -> ExitCode {
        self.0.exit_code()
    }
}

/// What is known about it. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct WatchedStream {
    generation: Arc<RwLock<String>>,
}

impl WatchedStream {
    /// Waits for the stream `name`, and checks it repeatedly until `stop`. `condition` holds as long as the stream answers.
    ///
    /// # Errors
    /// [`WatchedStreamError`] when the stream does not exist or may not be read.
    pub(crate) async fn open(
        broker: NatsBroker,
        name: &'static str,
        ids: &IdSource,
        condition: Condition,
        stop: CancellationToken,
    ) -> Result<Self, WatchedStreamError> {
        let state = answered(ids, || broker.state(name)).await?;
        condition.holds();
        let stream = Self { generation: Arc::new(RwLock::new(state.generation)) };
        tokio::spawn(stream.clone().follow(broker, name, condition, stop));
        Ok(stream)
    }

    /// Its generation.
    pub(crate) fn generation(&self) -> String {
        self.generation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn follow(
        self,
        broker: NatsBroker,
        name: &'static str,
        condition: Condition,
        stop: CancellationToken,
    ) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            match broker.state(name).await {
                Ok(state) => {
                    *self.generation.write().unwrap_or_else(PoisonError::into_inner) = state.generation;
                    condition.holds();
                }
                Err(error) => condition.fails(one_line(&error)),
            }
        }
    }
}
