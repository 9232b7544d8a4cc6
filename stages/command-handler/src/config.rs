//! The `[command_handler]` section.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use jiff::tz::TimeZone;
use millstream_jetstream::group_append::AppendStrategy;
use millstream_runtime::{
    config::{Section, SectionKeys},
    memory_limit::{AutoSize, MemoryLimit},
};
use millstream_write_side::{command_handler::PurgeSettings, round::InternalCommands};

/// A round is what waits, so this only matters under load: the more commands of an aggregate come together, the fewer commits they take. It is
/// small enough that a round is settled well within a second.
const ROUND_MAX_DEFAULT: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Most aggregates take less than a KiB.
const STATES_MAX_DEFAULT: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// A state that falls out of memory costs a read of the file of snapshots.
const STATES_MEMORY: AutoSize = AutoSize { one_in: 4, most: 256 * 1024 * 1024 };
/// For the pages of both files, which the operating system caches, too. Besides states and pages, the handler needs memory for what it reads
/// ahead, for ids and snapshots that are not in the files yet, and for histories that it folds.
const FILES_MEMORY: AutoSize = AutoSize { one_in: 8, most: 256 * 1024 * 1024 };
/// So many commits take about a second to read in order. Because snapshots are written this rarely, a state that changes often is written only
/// once.
const STATES_UNSAVED_COMMITS_DEFAULT: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// Long enough to outlast a pause of the network, and short enough that nobody waits long after a handler has died.
const LEASE_DEFAULT: Duration = Duration::from_secs(3);
/// Long enough to investigate what went wrong last week, and small enough for a disk of usual size.
const PURGE_COMMANDS_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Somebody who sends a command again after more than a month has another reason than a lost answer.
const PURGE_OUTCOMES_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What an hour adds is little compared with what is kept for days.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The words for [`AppendStrategy`].
const APPEND_STRATEGIES: [(&str, AppendStrategy); 3] = [
    ("measured", AppendStrategy::Measured),
    ("single", AppendStrategy::Single),
    ("atomic", AppendStrategy::Atomic),
];

/// The words for [`InternalCommands`].
const INTERNAL_COMMANDS: [(&str, InternalCommands); 2] =
    [("effects-only", InternalCommands::EffectsOnly), ("anyone", InternalCommands::Anyone)];

/// The settings that only the command handler has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConfig {
    /// The folder of the index of command ids and the snapshots of states. It may be lost, because both come from the streams.
    pub data_directory: PathBuf,
    /// The most commands in a round.
    pub round_max: NonZeroUsize,
    /// The most aggregate states kept in memory.
    pub states_max: NonZeroUsize,
    /// The most bytes that they may take, estimated; with `None`, this depends on the container's limit.
    pub states_memory_max: Option<u64>,
    /// Memory for the pages of both files, in bytes; with `None`, this depends on the container's limit.
    pub cache_size: Option<u64>,
    /// After this many commits, changed states are written to the folder.
    pub states_unsaved_commits: NonZeroUsize,
    /// How commits are sent.
    pub append_strategy: AppendStrategy,
    /// How long a handler that has fallen silent keeps its lease.
    pub lease_time_to_live: Duration,
    /// The time zone of the business, in which days begin for deliveries, stock movements and everything else that names no day.
    pub time_zone: TimeZone,
    /// Who may give the commands that are meant for processes and timers.
    pub internal_commands: InternalCommands,
    /// What is purged, and when.
    pub purge: PurgeSettings,
}

impl Section for StageConfig {
    const NAME: &'static str = "command_handler";
    const ABOUT: &'static str = "How commands are decided.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let config = Self {
            data_directory: keys.path(
                "data_directory",
                "data/command-handler",
                "folder of the index of command ids and of snapshots of states; it may be lost, both come from the streams",
            ),
            round_max: keys.count("round_max", ROUND_MAX_DEFAULT, "most commands decided together; the first rounds of a turn are smaller"),
            states_max: keys.count("states_max", STATES_MAX_DEFAULT, "most aggregate states kept in memory"),
            states_memory_max: keys.memory(
                "states_memory_max",
                "most memory for them, estimated; what falls out becomes a snapshot in the folder; \"auto\" is a quarter of the container's limit, at most 256MiB",
            ),
            cache_size: keys.memory(
                "cache_size",
                "memory for the pages of both files in the folder together; \"auto\" is an eighth of the container's limit, at most 256MiB",
            ),
            states_unsaved_commits: keys.count(
                "states_unsaved_commits",
                STATES_UNSAVED_COMMITS_DEFAULT,
                "commits after which changed states are written to the folder; about so many are read again after a crash",
            ),
            append_strategy: keys.choice(
                "append_strategy",
                &APPEND_STRATEGIES,
                "measured",
                "how commits travel: `single` appends, `atomic` batches, or `measured`: batches where clearly faster",
            ),
            lease_time_to_live: keys.positive_duration(
                "lease_time_to_live",
                LEASE_DEFAULT,
                "how long a handler that fell silent keeps its turn; whole seconds",
            ),
            time_zone: keys.time_zone(
                "time_zone",
                "UTC",
                "the company's time zone, in which the day of a command begins that names no date; the same as process_manager.time_zone",
            ),
            internal_commands: keys.choice(
                "internal_commands",
                &INTERNAL_COMMANDS,
                "effects-only",
                "who may send commands that only processes give, and use ids of their form: `effects-only`, or `anyone` while a process manager from before `effect.>` runs",
            ),
            purge: PurgeSettings {
                commands_after: kept(keys.duration(
                    "purge_commands_after",
                    PURGE_COMMANDS_DEFAULT,
                    "age at which commands that have their outcome are purged from COMMANDS; \"0\" for never",
                )),
                outcomes_after: kept(keys.duration(
                    "purge_outcomes_after",
                    PURGE_OUTCOMES_DEFAULT,
                    "age at which records are purged from OUTCOMES: so long a repeated id is a duplicate; \"0\" for never",
                )),
                interval: PURGE_INTERVAL,
            },
        };
        keys.removed(
            "active_handlers",
            "one command handler is active and the others stand by, since two decided nowhere faster (docs/adr/0026-one-active-command-handler.md); delete the key",
        );
        if config.lease_time_to_live < Duration::from_secs(1) {
            keys.problem("lease_time_to_live", "must be at least 1s: the server counts whole seconds");
        }
        config
    }
}

/// The memory for each purpose, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// States, estimated.
    pub states: u64,
    /// The pages of each of the two files.
    pub pages_of_a_file: usize,
}

impl StageConfig {
    /// The configured sizes, or those that follow from `limit`. They are logged.
    pub fn memory(&self, limit: MemoryLimit) -> Memory {
        let states = limit.size_of(self.states_memory_max, STATES_MEMORY);
        let files = limit.size_of(self.cache_size, FILES_MEMORY);
        limit.log(&[("states", states), ("pages of states.redb and command-ids.redb", files)]);
        Memory { states, pages_of_a_file: usize::try_from(files / 2).unwrap_or(usize::MAX) }
    }
}

/// Zero means for ever.
fn kept(age: Duration) -> Option<Duration> {
    (!age.is_zero()).then_some(age)
}
