//! The definitions of the JetStream streams and of the key-value bucket of leases.

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use async_nats::jetstream::stream::{
    Compression, Config, ConsumerLimits, DiscardPolicy, RetentionPolicy, StorageType, SubjectTransform,
};
use millstream_contract::{
    audit::AUDIT_PREFIX,
    dead_letter::DEAD_LETTER_PREFIX,
    leases::leases_stream,
    outcome::OUTCOME_PREFIX,
    stream_names,
    subject::{COMMAND_PREFIX, COMMAND_QUEUE_PREFIX, EFFECT_PREFIX, EVENT_PREFIX, PARTITIONS},
};

use super::ProvisionOptions;

/// How long JetStream remembers message ids. This only saves work; it is not the guard against repeats.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The largest message in the bucket of leases, in bytes. The names of owners are short, so this is enough.
const LEASE_SIZE_MAX: i32 = 1024;

const MEBIBYTE: i64 = 1024 * 1024;
const GIBIBYTE: i64 = 1024 * MEBIBYTE;

/// The definitions of all streams, in the order in which they are created: a stage that waits for EVENTS then finds the others.
pub fn definitions(options: &ProvisionOptions) -> Vec<Config> {
    let mut all =
        [outcomes(), reports(), timers(), dead_letters(), audit(), leases(), commands(), events()].to_vec();
    for config in &mut all {
        config.num_replicas = options.replicas.map_or(1, NonZeroUsize::get);
        if let Some(bytes) = options.max_bytes.get(&config.name) {
            config.max_bytes = *bytes;
        }
        if let Some(after) = options.begin_after.get(&config.name).filter(|after| **after > 0) {
            config.first_sequence = Some(after + 1);
        }
    }
    all
}

/// The definition of one stream by name; `None` if Millstream has no such stream.
pub fn definition(name: &str, options: &ProvisionOptions) -> Option<Config> {
    definitions(options).into_iter().find(|config| config.name == name)
}

/// Commands that anybody may send, sorted into partitions, and commands of processes and timers, which keep their subject.
///
/// They are read by `CommandHandler` in `pipeline/write-side/src/command_handler.rs`, which the stage `command-handler` runs.
fn commands() -> Config {
    let tokens = (1..=4).map(|token| format!("{{{{wildcard({token})}}}}")).collect::<Vec<_>>().join(".");
    Config {
        subject_transform: Some(SubjectTransform {
            source: format!("{COMMAND_PREFIX}.*.*.*.*"),
            destination: format!("{COMMAND_QUEUE_PREFIX}.{{{{partition({PARTITIONS},1,2,3)}}}}.{tokens}"),
        }),
        allow_atomic_publish: true,
        ..log(
            stream_names::COMMANDS,
            "Commands, in the order in which they are decided",
            &[&format!("{COMMAND_PREFIX}.*.*.*.*"), &format!("{EFFECT_PREFIX}.*.*.*.*")],
            2 * GIBIBYTE,
        )
    }
}

/// Commits. They are appended by `pipeline/write-side/src/settlement.rs`, and read by the stages `projector`, `reporter`,
/// `process-manager` and `sql`, all with `pipeline/read-side/src/projection_runner/source.rs`.
fn events() -> Config {
    Config {
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        ..log(
            stream_names::EVENTS,
            "Commits: every event of every aggregate, for ever",
            &[&format!("{EVENT_PREFIX}.*.*.*")],
            8 * GIBIBYTE,
        )
    }
}

fn outcomes() -> Config {
    log(
        stream_names::OUTCOMES,
        "What became of each command: the journal of the command handlers",
        &[&format!("{OUTCOME_PREFIX}.*")],
        2 * GIBIBYTE,
    )
}

fn reports() -> Config {
    log(stream_names::REPORTS, "Revisions of reports", &["report.*.*.*.*"], GIBIBYTE)
}

fn dead_letters() -> Config {
    log(
        stream_names::DEAD_LETTERS,
        "Messages that could not be handled, with the cause",
        &[&format!("{DEAD_LETTER_PREFIX}.*.*")],
        GIBIBYTE,
    )
}

/// Records cannot be changed or removed one by one. Whoever may update the stream can give it an age or another discard policy, and so lose
/// the oldest records. Whoever may delete it can lose all. Only `setup` and the administrator may do either.
fn audit() -> Config {
    Config {
        deny_delete: true,
        deny_purge: true,
        ..log(
            stream_names::AUDIT,
            "Who sent what over the gateway, and who was refused: chains of hashes",
            &[&format!("{AUDIT_PREFIX}.*")],
            4 * GIBIBYTE,
        )
    }
}

/// A stream with schedules cannot discard new messages. Without any limit it does not discard old ones either, so no timer is ever evicted.
fn timers() -> Config {
    Config {
        discard: DiscardPolicy::Old,
        allow_message_schedules: true,
        allow_message_ttl: true,
        allow_rollup: true,
        ..log(stream_names::TIMERS, "Commands for later", &["timer.>", "due.>"], -1)
    }
}

/// A bucket has the fields of any key-value bucket with history 1. Each lease has its own time to live.
fn leases() -> Config {
    Config {
        max_messages_per_subject: 1,
        max_message_size: LEASE_SIZE_MAX,
        allow_message_ttl: true,
        allow_rollup: true,
        deny_delete: true,
        ..log(
            &leases_stream(),
            "Leases: which replica of a stage is active",
            &[&format!("$KV.{}.>", stream_names::LEASES_BUCKET)],
            16 * MEBIBYTE,
        )
    }
}

/// What all streams share: they are on disk until they are purged, and refuse new messages when they are full, instead of dropping old
/// ones.
fn log(name: &str, description: &str, subjects: &[&str], max_bytes: i64) -> Config {
    Config {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_bytes,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        max_age: Duration::ZERO,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        compression: Some(Compression::None),
        consumer_limits: None::<ConsumerLimits>,
        metadata: HashMap::new(),
        ..Config::default()
    }
}
