//! The stream COMMANDS as the gateway sees it: which incarnation it is, and whether it answers.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    stream_names::COMMANDS,
};
use millstream_jetstream::{
    broker::{Broker as _, BrokerError},
    nats_broker::NatsBroker,
    retry::{RunIds, answered},
};
use millstream_runtime::health::Condition;
use tokio_util::sync::CancellationToken;

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The stream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CommandsStreamError(#[from] BrokerError);

impl Failure for CommandsStreamError {
    fn exit_code(&self) -> ExitCode {
        self.0.exit_code()
    }
}

/// What is known of it. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct CommandsStream {
    generation: Arc<RwLock<String>>,
}

impl CommandsStream {
    /// Waits for the stream, and looks at it again and again until `stop`; `condition` holds while it answers.
    ///
    /// # Errors
    /// [`CommandsStreamError`] when it does not exist or may not be looked at.
    pub(crate) async fn open(
        broker: NatsBroker,
        ids: &RunIds,
        condition: Condition,
        stop: CancellationToken,
    ) -> Result<Self, CommandsStreamError> {
        let state = answered(ids, || broker.state(COMMANDS)).await?;
        condition.holds();
        let stream = Self { generation: Arc::new(RwLock::new(state.generation)) };
        tokio::spawn(stream.clone().follow(broker, condition, stop));
        Ok(stream)
    }

    /// Its incarnation.
    pub(crate) fn generation(&self) -> String {
        self.generation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn follow(self, broker: NatsBroker, condition: Condition, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            match broker.state(COMMANDS).await {
                Ok(state) => {
                    *self.generation.write().unwrap_or_else(PoisonError::into_inner) = state.generation;
                    condition.holds();
                }
                Err(error) => condition.fails(one_line(&error)),
            }
        }
    }
}
