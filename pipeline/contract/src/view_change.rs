//! What a stage that keeps rows tells of their changes: `changed.<context>.<view>` says which keys of a view have changed, and from which
//! position on an answer holds that. Whoever wants to hear it says so again and again on `watched.<context>.<view>`; nobody is told
//! anything otherwise.
//!
//! Both are plain messages that nothing stores. Any of them may be lost, so that they are hints, and the views alone say what is so.

use serde::{Deserialize, Serialize};

use crate::{
    position::StreamPosition,
    subject::{CHANGED_PREFIX, WATCHED_PREFIX},
};

/// Most keys in a message. More are told as "many".
pub const KEYS_MAX: usize = 128;
/// Most bytes of keys in a message, for the same reason.
pub const KEYS_BYTES_MAX: usize = 8 * 1024;

/// What has changed in a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewChange {
    /// An answer of this position or a later one holds the change.
    pub position: StreamPosition,
    /// The keys of the rows; none when there are too many to be told, or nobody knows which.
    pub keys: Option<Vec<String>>,
}

/// How it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    position: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

impl ViewChange {
    /// As JSON.
    ///
    /// # Panics
    /// Never: texts can be written.
    pub fn to_json(&self) -> Vec<u8> {
        let written = Written { position: self.position.to_string(), keys: self.keys.clone() };
        serde_json::to_vec(&written).expect("texts can be written")
    }

    /// From JSON; none when it is something else, such as what a later release may send.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let Written { position, keys } = serde_json::from_slice(body).ok()?;
        Some(Self { position: position.parse().ok()?, keys })
    }
}

/// Where changes of a view are told.
pub fn changed_subject(context: &str, view: &str) -> String {
    format!("{CHANGED_PREFIX}.{context}.{view}")
}

/// Where somebody says that it wants to hear of them.
pub fn watched_subject(context: &str, view: &str) -> String {
    format!("{WATCHED_PREFIX}.{context}.{view}")
}

/// Context and view of either subject.
pub fn view_of(subject: &str) -> Option<(&str, &str)> {
    let (_, names) = subject.split_once('.')?;
    names.split_once('.').filter(|(_, view)| !view.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_comes_back_from_its_text() {
        let position = StreamPosition::new("EVENTS", "01JD", 17);
        for (keys, text) in [
            (Some(vec!["a/ä".to_owned()]), r#"{"position":"EVENTS:01JD:17","keys":["a/ä"]}"#),
            (None, r#"{"position":"EVENTS:01JD:17"}"#),
        ] {
            let change = ViewChange { position: position.clone(), keys };
            assert_eq!(String::from_utf8(change.to_json()).unwrap(), text);
            assert_eq!(ViewChange::from_json(text.as_bytes()), Some(change));
        }
        for other in ["", "{}", "[]", r#"{"position":"17"}"#, r#"{"position":"EVENTS:01JD:17","keys":"a"}"#] {
            assert_eq!(ViewChange::from_json(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_subject_names_the_view() {
        assert_eq!(view_of(&changed_subject("retail", "store-daily")), Some(("retail", "store-daily")));
        assert_eq!(view_of(&watched_subject("retail", "till")), Some(("retail", "till")));
        for other in ["changed", "changed.retail", "changed.retail.till.x"] {
            assert_eq!(view_of(other), None, "{other}");
        }
    }
}
