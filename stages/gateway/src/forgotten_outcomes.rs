//! Finds out which commands have no outcome in OUTCOMES any more. Such a command is decided: its record existed and has been purged.
//!
//! Without this, a command whose outcome is purged before anybody asks for it would look like one that still waits, as long as COMMANDS keeps
//! it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use millstream_contract::{
    outcome::OutcomeRecord,
    position::StreamPosition,
    stream_names::{COMMANDS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker as _, BrokerError},
    nats_broker::NatsBroker,
};
use tokio_util::sync::CancellationToken;

/// How often OUTCOMES is checked. Until the next check, the outcomes that were purged last seem to be pending.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What is known about purged outcomes. Clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forgotten {
    through: Arc<RwLock<Option<StreamPosition>>>,
}

/// The first message of OUTCOMES.
#[derive(Debug, Default, PartialEq, Eq)]
struct First {
    generation: String,
    sequence: u64,
}

impl Forgotten {
    /// Checks OUTCOMES now and repeatedly until `stop`.
    pub(crate) async fn follow(broker: NatsBroker, stop: CancellationToken) -> Self {
        let forgotten = Self::default();
        let mut first = First::default();
        forgotten.look(&broker, &mut first).await;
        let followed = forgotten.clone();
        tokio::spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
                followed.look(&broker, &mut first).await;
            }
        });
        forgotten
    }

    /// Whether the command at a position of COMMANDS is decided and its outcome has been purged.
    pub(crate) fn has(&self, position: &StreamPosition) -> bool {
        let through = self.through.read().unwrap_or_else(PoisonError::into_inner);
        through.as_ref().is_some_and(|through| {
            through.generation == position.generation && position.sequence <= through.sequence
        })
    }

    async fn look(&self, broker: &NatsBroker, first: &mut First) {
        match look(broker, first).await {
            Ok(None) => {}
            Ok(Some(through)) => {
                *self.through.write().unwrap_or_else(PoisonError::into_inner) = Some(through);
            }
            Err(error) => tracing::debug!(%error, "what OUTCOMES holds is not known; it is asked again"),
        }
    }
}

/// What the first record says about those before it; `None` if it is already known, or if there is no record.
async fn look(broker: &NatsBroker, first: &mut First) -> Result<Option<StreamPosition>, BrokerError> {
    let state = broker.state(OUTCOMES).await?;
    let found = First { generation: state.generation, sequence: state.first_sequence };
    if found == *first || found.sequence > state.last_sequence {
        return Ok(None);
    }
    let message = broker.get(OUTCOMES, found.sequence).await?;
    let record = message.and_then(|message| OutcomeRecord::from_stored(&message).ok());
    *first = found;
    Ok(record.map(|record| StreamPosition::new(COMMANDS, &*record.generations.commands, record.after)))
}
