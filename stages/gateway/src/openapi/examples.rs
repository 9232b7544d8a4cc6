//! Examples of commands that the rules accept, too.
//!
//! A type that accepts any text does not show the form that a rule demands of it later, such as a date. The rules show it: they are asked about
//! the example, as for an aggregate without events. Deliberately absent: examples that changing a single text cannot improve. Most commands are
//! refused because of what the aggregate has not seen yet, and their examples stay as they were made from the types.

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

/// Changes a text in the example of a command if the rules refuse the command because of a text that only repeats the name of its field.
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

/// Adds the places of texts that only repeat the name of their field.
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

/// Whether an aggregate without events accepts a command.
fn taken(aggregate: &dyn AggregateType, id: &str, command: &str, body: &Value) -> bool {
    let Some(envelope) = envelope(aggregate, id, command, body) else { return false };
    let Ok(decoded) = aggregate.decode_command(&envelope) else { return false };
    // A command with partners is decided together with them, and nothing is known about them.
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
