//! `recorded.json`: what was recorded about an aggregate's golden files when they were added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the file in an aggregate's folder.
pub const RECORD_FILE: &str = "recorded.json";

/// The number of characters of a digest: enough that an edit always changes it.
const DIGEST_LENGTH: usize = 16;

/// What is recorded for an aggregate, by version of an event type, `<type>.v<version>`.
pub type AggregateRecord = BTreeMap<String, VersionRecord>;

/// What is recorded for a version of an event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    /// Digest of the golden body.
    pub digest: String,
    /// The fields, by path. The type of a field that may be absent has a `?` behind it.
    pub fields: BTreeMap<String, String>,
    /// The bodies into which upcasters turn the golden one under later versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub becomes: BTreeMap<u16, Value>,
}

/// A digest of a body that does not depend on blanks or on the order of its fields.
pub(super) fn digest(body: &Value) -> String {
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex();
    hash.chars().take(DIGEST_LENGTH).collect()
}
