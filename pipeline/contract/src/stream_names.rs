//! The JetStream streams and the key-value bucket, by name.

/// Commands, in the order in which they are decided.
pub const COMMANDS: &str = "COMMANDS";
/// Commits: the source of all state.
pub const EVENTS: &str = "EVENTS";
/// The handler's journal: what became of each command.
pub const OUTCOMES: &str = "OUTCOMES";
/// Revisions of reports.
pub const REPORTS: &str = "REPORTS";
/// Commands and schedules for later.
pub const TIMERS: &str = "TIMERS";
/// Messages set aside.
pub const DEAD_LETTERS: &str = "DEADLETTERS";
/// Who sent what over the gateway, and who was refused.
pub const AUDIT: &str = "AUDIT";
/// Every stream except the bucket of leases.
pub const STREAMS: [&str; 7] = [COMMANDS, EVENTS, OUTCOMES, TIMERS, REPORTS, DEAD_LETTERS, AUDIT];
/// Name of the active command handler's consumer of COMMANDS.
pub const COMMANDS_CONSUMER: &str = crate::leases::COMMAND_HANDLER_LEASE;
/// The key-value bucket of leases.
pub const LEASES_BUCKET: &str = "LEASES";
/// Metadata key of a JetStream stream's generation, a ULID made when `millstream setup` creates it.
pub const GENERATION_METADATA: &str = "io.millstream.generation";
/// Metadata key of a stream: the installation that created it or took it over. Absent if `setup` was not told an installation.
pub const OWNER_METADATA: &str = "io.millstream.owner";
