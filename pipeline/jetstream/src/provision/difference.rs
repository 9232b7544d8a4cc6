//! Compares a JetStream stream with its definition, field by field, and names the command that corrects a difference.

use std::{fmt, time::Duration};

use async_nats::jetstream::stream::Config;
use millstream_contract::stream_names::{AUDIT, GENERATION_METADATA, OWNER_METADATA};
use serde_json::Value;

use super::ProvisionOptions;

/// How much a field matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Millstream's guarantees depend on it.
    Required,
    /// It only concerns sizes, or is a matter of taste.
    Setting,
}

/// A field of a stream that differs from Millstream's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The stream.
    pub stream: String,
    /// The field, as `nats stream info --json` names it.
    pub field: String,
    /// The defined value, as JSON.
    pub expected: String,
    /// The actual value, as JSON.
    pub found: String,
    /// Whether the stages refuse to work with such a stream.
    pub required: bool,
    /// The command that corrects it.
    pub remedy: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {} is {}, expected {}; to mend it: {}",
            self.stream,
            self.field,
            for_people(&self.field, &self.found),
            for_people(&self.field, &self.expected),
            self.remedy
        )
    }
}

impl Difference {
    /// Whether it is a field that can be set on an existing stream when that is asked for.
    pub(super) fn is_asked_for(&self) -> bool {
        [SIZE, COPIES, OWNER].contains(&self.field.as_str())
    }

    /// Whether it says that the stream belongs to another installation.
    pub(super) fn is_of_another_owner(&self) -> bool {
        self.required && self.field == OWNER
    }
}

/// Fields that a deployment chooses.
const SIZE: &str = "max_bytes";
const COPIES: &str = "num_replicas";
const OWNER: &str = "metadata io.millstream.owner";
/// A field that a deployment chooses for AUDIT alone.
const AGE: &str = "max_age";
/// Fields that the server counts in nanoseconds.
const DURATIONS: [&str; 3] = [AGE, "duplicate_window", "subject_delete_marker_ttl"];

/// A value as a person would write it.
fn for_people(field: &str, json: &str) -> String {
    match json.parse() {
        _ if json == "null" => "not set".to_owned(),
        Ok(nanoseconds) if DURATIONS.contains(&field) => format!("{:?}", Duration::from_nanos(nanoseconds)),
        _ => json.to_owned(),
    }
}

/// The compared fields, their weight, and the option of `nats stream edit`; no option if the server never changes that field of an existing
/// stream.
const FIELDS: &[(&str, Weight, Option<&str>)] = &[
    ("subjects", Weight::Required, Some("--subjects")),
    ("subject_transform", Weight::Required, Some("--transform-destination")),
    ("retention", Weight::Required, None),
    ("storage", Weight::Required, None),
    ("discard", Weight::Required, Some("--discard")),
    ("discard_new_per_subject", Weight::Required, Some("discard-per-subject")),
    (AGE, Weight::Required, Some("--max-age")),
    ("max_msgs", Weight::Required, Some("--max-msgs")),
    ("max_msgs_per_subject", Weight::Required, Some("--max-msgs-per-subject")),
    ("max_msg_size", Weight::Setting, Some("--max-msg-size")),
    ("duplicate_window", Weight::Setting, Some("--dupe-window")),
    (SIZE, Weight::Setting, Some("--max-bytes")),
    (COPIES, Weight::Setting, Some("--replicas")),
    ("no_ack", Weight::Required, Some("ack")),
    ("sealed", Weight::Required, None),
    ("deny_delete", Weight::Required, None),
    ("deny_purge", Weight::Required, None),
    ("allow_direct", Weight::Required, Some("allow-direct")),
    ("allow_atomic", Weight::Required, Some("allow-batch")),
    ("allow_rollup_hdrs", Weight::Required, Some("allow-rollup")),
    ("allow_msg_ttl", Weight::Required, Some("allow-msg-ttl")),
    ("allow_msg_schedules", Weight::Required, Some("allow-schedules")),
    ("allow_msg_counter", Weight::Required, None),
    ("subject_delete_marker_ttl", Weight::Required, Some("--subject-del-markers-ttl")),
    ("mirror", Weight::Required, Some("no-mirror")),
    ("sources", Weight::Required, None),
    ("persist_mode", Weight::Required, None),
];

/// All differences between a stream and its definition, the important ones first.
pub(super) fn differences(expected: &Config, found: &Config, options: &ProvisionOptions) -> Vec<Difference> {
    let (wanted, present) = (to_json(expected), to_json(found));
    let mut all = Vec::new();
    for (field, weight, option) in FIELDS {
        let (want, have) = (normal(&wanted, field), normal(&present, field));
        if want == have || is_accepted(field, &have, expected, options) {
            continue;
        }
        all.push(Difference {
            stream: expected.name.clone(),
            field: (*field).to_owned(),
            remedy: remedy(expected, option.as_deref(), &want),
            expected: want.to_string(),
            found: have.to_string(),
            required: *weight == Weight::Required,
        });
    }
    if !found.metadata.contains_key(GENERATION_METADATA) {
        all.push(generation_missing(&expected.name));
    }
    all.extend(options.owner.as_ref().and_then(|owner| other_owner(owner, found)));
    all.sort_by_key(|difference| !difference.required);
    all
}

/// Two installations in one account would share every stream and, with the streams, consumers, leases and rows.
fn other_owner(owner: &str, found: &Config) -> Option<Difference> {
    let found_owner = found.metadata.get(OWNER_METADATA);
    (found_owner.map(String::as_str) != Some(owner)).then(|| Difference {
        stream: found.name.clone(),
        field: OWNER.to_owned(),
        expected: owner.to_owned(),
        found: found_owner.map_or("nothing", String::as_str).to_owned(),
        required: found_owner.is_some(),
        remedy: "give each installation an account or servers of its own, or say --take-over where the other one is gone".to_owned(),
    })
}

fn generation_missing(stream: &str) -> Difference {
    Difference {
        stream: stream.to_owned(),
        field: format!("metadata {GENERATION_METADATA}"),
        expected: "a ULID made when the stream is created".to_owned(),
        found: "nothing".to_owned(),
        required: true,
        remedy: format!("nats stream edit {stream} --metadata {GENERATION_METADATA}:<ULID>"),
    }
}

/// Sizes and numbers of copies are the operator's choice unless they were asked for. But there must be a size, because a stream without one
/// can fill the disk for all others. Records of the gateways may have an age, because readers can tell where a shortened chain begins.
fn is_accepted(field: &str, found: &Value, expected: &Config, options: &ProvisionOptions) -> bool {
    match field {
        SIZE => {
            !options.max_bytes.contains_key(&expected.name) && found.as_i64().is_some_and(|bytes| bytes > 0)
        }
        COPIES => options.replicas.is_none(),
        AGE => expected.name == AUDIT,
        _ => false,
    }
}

fn to_json(config: &Config) -> Value {
    serde_json::to_value(config).expect("a stream configuration is plain data")
}

/// For the server, absent, false, zero and empty mean the same.
fn normal(config: &Value, field: &str) -> Value {
    match config.get(field) {
        None | Some(Value::Bool(false)) => Value::Null,
        Some(Value::Number(number)) if number.as_i64() == Some(0) => Value::Null,
        Some(Value::Array(list)) if list.is_empty() => Value::Null,
        Some(other) => other.clone(),
    }
}

fn remedy(expected: &Config, option: Option<&str>, want: &Value) -> String {
    let name = &expected.name;
    match option {
        None => format!(
            "it cannot be changed; `nats stream backup {name} DIR`, `nats stream rm {name}`, `millstream setup`"
        ),
        Some("--transform-destination") => match &expected.subject_transform {
            Some(transform) => format!(
                "nats stream edit {name} --transform-source '{}' --transform-destination '{}'",
                transform.source, transform.destination
            ),
            None => format!("nats stream edit {name} --no-transform"),
        },
        Some("--subjects") => {
            format!("nats stream edit {name} --subjects '{}'", expected.subjects.join(","))
        }
        Some("no-mirror") => format!("nats stream edit {name} --no-mirror"),
        Some("ack") => format!("nats stream edit {name} --ack"),
        Some(duration @ ("--max-age" | "--dupe-window" | "--subject-del-markers-ttl")) => {
            let seconds = want.as_u64().unwrap_or(0) / 1_000_000_000;
            format!("nats stream edit {name} {duration} {seconds}s")
        }
        Some(value) if value.starts_with("--") => {
            let text = want.as_str().map_or_else(|| want.to_string(), str::to_owned);
            format!("nats stream edit {name} {value} {}", if want.is_null() { "0" } else { &text })
        }
        Some(switch) => {
            let no = if want.is_null() { "no-" } else { "" };
            format!("nats stream edit {name} --{no}{switch}")
        }
    }
}
