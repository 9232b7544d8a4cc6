//! Writes events.

use bytes::Bytes;
use serde_json::{Value, json};

use super::topic::{Address, What};

/// Sent when there is nothing to report, so that proxies and the client know that the connection is alive.
pub(super) const KEEP_ALIVE: &[u8] = b":\n\n";
/// The beginning of a stream: how many milliseconds a client waits before it reconnects.
pub(super) const BEGINNING: &[u8] = b"retry: 1000\n\n";

/// The state of a row or a list: the view's answer, or null if there is no such row.
pub(super) fn state(address: &Address, answer: Option<&[u8]>) -> Bytes {
    let watch = json!(address.to_string()).to_string();
    let name = match address.what {
        What::Row(_) => "row",
        What::List(_) => "list",
    };
    let mut text = format!("event: {name}\ndata: {{\"watch\":{watch},").into_bytes();
    let members = answer.and_then(|answer| answer.strip_prefix(b"{"));
    match (members, &address.what) {
        // In JSON, a line break only occurs between tokens, where it has no meaning; in an event it would end the line.
        (Some(members), _) => {
            text.extend(members.iter().map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte }))
        }
        (None, What::Row(key) | What::List(key)) => {
            text.extend_from_slice(format!("\"key\":{},\"value\":null}}", json!(key)).as_bytes());
        }
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// Any other event.
pub(super) fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_data_whatever_the_view_writes() {
        let row = Address::parse("retail/till/\"7", What::Row).unwrap();
        let answer = b"{\"key\":\"\\\"7\",\r\n\"value\":{\"text\":\"a\\nb\"}}";
        assert_eq!(
            state(&row, Some(answer)),
            "event: row\ndata: {\"watch\":\"retail/till/\\\"7\",\"key\":\"\\\"7\",  \"value\":{\"text\":\"a\\nb\"}}\n\n"
        );
        assert_eq!(
            state(&row, None),
            "event: row\ndata: {\"watch\":\"retail/till/\\\"7\",\"key\":\"\\\"7\",\"value\":null}\n\n"
        );
        let list = Address::parse("retail/till/", What::List).unwrap();
        assert_eq!(
            state(&list, Some(b"{\"rows\":[],\"cursor\":null}")),
            "event: list\ndata: {\"watch\":\"retail/till/\",\"rows\":[],\"cursor\":null}\n\n"
        );
    }
}
