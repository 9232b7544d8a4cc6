//! Whether a message of EVENTS that is not a commit was set aside.

use millstream_contract::{
    set_aside::{MessageSetAside, act_subject},
    stored_message::StoredMessage,
    stream_names::EVENTS,
};

use crate::broker::{Broker, BrokerError};

/// Asks for the last act about `message`, which is not a commit. A reader may pass over the message only if there is such an act.
///
/// # Errors
/// When the server does not answer.
pub async fn is_set_aside<B: Broker>(broker: &B, message: &StoredMessage) -> Result<bool, BrokerError> {
    let act = broker.last(EVENTS, &act_subject(message.sequence)).await?;
    Ok(act.and_then(|act| MessageSetAside::from_stored(&act)).is_some_and(|act| act.names(message)))
}
