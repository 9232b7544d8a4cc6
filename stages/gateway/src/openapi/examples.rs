//! Examples of commands that the rules take, too.
//!
//! A type that takes any text does not tell the form that a rule demands of it later, such as a date. The rules tell: they are asked
//! about the example, as for an aggregate without events. Deliberately absent: what no single text mends. Most commands are refused
//! there for what the aggregate has not seen yet, and their examples stay as the types have made them.

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::CommandEnvelope,
    stored_message::{Headers, StoredMessage},
    subject::{COMMAND_PREFIX, COMMAND_QUEUE_PREFIX, CommandAddress},
};
use millstream_domain::{
    decider::{AggregateType, DecisionContext},
    schema::SAMPLE_TEXTS,
};
use serde_json::{Value, json};

/// Gives the example of a command another text where the rules refuse it for one that is nothing but the name of its field.
pub(super) fn mend(aggregate: &dyn AggregateType, id: &str, command: &str, example: &mut Value) {
    if taken(aggregate, id, command, example) {
        return;
    }
    let mut made_up = Vec::new();
    add_made_up(example, "", &mut made_up);
    for place in made_up {
        for text in SAMPLE_TEXTS {
            let mut changed = example.clone();
            if let Some(value) = changed.pointer_mut(&place) {
                *value = json!(text);
            }
            if taken(aggregate, id, command, &changed) {
                *example = changed;
                return;
            }
        }
    }
}

/// Adds where a text stands that says no more than the name of its field does.
fn add_made_up(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let place = format!("{place}/{name}");
                if field == name.as_str() { found.push(place) } else { add_made_up(field, &place, found) }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                add_made_up(item, &format!("{place}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Whether a command is accepted by an aggregate that has no events.
fn taken(aggregate: &dyn AggregateType, id: &str, command: &str, body: &Value) -> bool {
    let Some(envelope) = envelope(aggregate, id, command, body) else { return false };
    let Ok(decoded) = aggregate.decode_command(&envelope) else { return false };
    // One with partners is decided together with them, of which nothing is known.
    if !aggregate.partners(id, &decoded).is_ok_and(|partners| partners.is_empty()) {
        return false;
    }
    let context = DecisionContext {
        aggregate_id: id,
        now: envelope.stored_at,
        actor: None,
        command_position: envelope.position,
        time_zone: aggregate.time_zone(),
    };
    aggregate.decide(&mut aggregate.initial(), &decoded, &context).is_ok()
}

fn envelope(aggregate: &dyn AggregateType, id: &str, command: &str, body: &Value) -> Option<CommandEnvelope> {
    let address = CommandAddress::new(aggregate.context(), aggregate.aggregate(), id, command).ok()?;
    let message = StoredMessage {
        subject: address.subject().replacen(COMMAND_PREFIX, &format!("{COMMAND_QUEUE_PREFIX}.0"), 1),
        sequence: 1,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: Bytes::from(body.to_string()),
    };
    CommandEnvelope::from_stored(&message).ok()
}
