//! Up to which command OUTCOMES no longer tells what became of it. Such a command is decided: its record was there and is purged.
//!
//! Without this, a command whose outcome is purged before it is looked like one that waits for its turn, for as long as COMMANDS keeps it.

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

/// How often OUTCOMES is looked at. Until the next look, the last commands that were forgotten seem to wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of that. Clones share one state.
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
    /// Looks at OUTCOMES, and again and again until `stop`.
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

    /// Whether the command at a position of COMMANDS is decided, and what became of it told no more.
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

/// What the first record says of those before it; none where it is the one that is known, or there is none.
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
