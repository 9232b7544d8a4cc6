//! Messages about changed rows, sent by a stage that keeps rows. A message on `changed.<context>.<view>` says which keys of a view have
//! changed, and from which stream position on an answer includes the change. A program that wants these messages says so again and again on
//! `watched.<context>.<view>`; otherwise none are sent.
//!
//! Both are plain messages that no stream stores, so any of them may be lost. They are only hints; only the views say what is true.

use serde::{Deserialize, Serialize};

use crate::{
    position::StreamPosition,
    subject::{CHANGED_PREFIX, WATCHED_PREFIX},
};

/// The most keys in a message. If more rows have changed, it only says that many have.
pub const KEYS_MAX: usize = 128;
/// The most bytes of keys in a message, for the same reason.
pub const KEYS_BYTES_MAX: usize = 8 * 1024;

/// What has changed in a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewChange {
    /// An answer at this stream position or later includes the change.
    pub position: StreamPosition,
    /// The keys of the changed rows; `None` if there are too many, or if nobody knows which.
    pub keys: Option<Vec<String>>,
}

/// The form in which it is sent.
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

    /// Reads JSON; `None` if it is something else, such as what a later release may send.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let Written { position, keys } = serde_json::from_slice(body).ok()?;
        Some(Self { position: position.parse().ok()?, keys })
    }
}

/// The subject on which changes of a view are announced.
pub fn changed_subject(context: &str, view: &str) -> String {
    format!("{CHANGED_PREFIX}.{context}.{view}")
}

/// The subject on which a program says that it wants to hear of them.
pub fn watched_subject(context: &str, view: &str) -> String {
    format!("{WATCHED_PREFIX}.{context}.{view}")
}

/// The context and view in either subject.
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
