//! `recorded.json`: what is known of an aggregate's golden files, from when they were added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the file in an aggregate's folder.
pub const RECORD_FILE: &str = "recorded.json";

/// Characters of a digest: enough that an edit never keeps it.
const DIGEST_LENGTH: usize = 16;

/// What is recorded of an aggregate: versions of event types, `<type>.v<version>`.
pub type AggregateRecord = BTreeMap<String, VersionRecord>;

/// What is recorded of a version of an event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    /// Digest of the golden body.
    pub digest: String,
    /// The fields, by path; a `?` behind the type of those that may be absent.
    pub fields: BTreeMap<String, String>,
    /// As which body the golden one is read under later versions: what the upcasters make of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub becomes: BTreeMap<u16, Value>,
}

/// A digest of a body, whatever its blanks and the order of its fields.
pub(super) fn digest(body: &Value) -> String {
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex();
    hash.chars().take(DIGEST_LENGTH).collect()
}
