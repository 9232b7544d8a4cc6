//! The state of the streams as a handler finds them.

use millstream_contract::{
    outcome::Generations,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::{
    broker::{Broker, BrokerError, StreamState},
    id_source::IdSource,
    retry::answered,
};

/// The state of a stream. Waits as long as the server does not answer.
async fn state_of<B: Broker>(broker: &B, ids: &IdSource, stream: &str) -> Result<StreamState, BrokerError> {
    answered(ids, || broker.state(stream)).await
}

/// The streams as a handler finds them when its turn begins. Their generations are part of each record, so that a stream that was deleted and
/// made again is recognised.
pub(super) struct Streams {
    pub(super) commands: StreamState,
    pub(super) events: StreamState,
    pub(super) generations: Generations,
}

impl Streams {
    pub(super) async fn look<B: Broker>(broker: &B, ids: &IdSource) -> Result<Self, BrokerError> {
        let commands = state_of(broker, ids, COMMANDS).await?;
        let events = state_of(broker, ids, EVENTS).await?;
        let generations = Generations {
            commands: commands.generation.as_str().into(),
            events: events.generation.as_str().into(),
        };
        Ok(Self { commands, events, generations })
    }
}
