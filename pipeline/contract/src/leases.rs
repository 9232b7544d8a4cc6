//! Keys of leases, and where processes record how far they are: both in the key-value bucket of leases.

use crate::stream_names::LEASES_BUCKET;

/// The key of the command handler's lease. The active handler's consumer of COMMANDS has the same name: it belongs to the
/// turn, not to the process, and whoever takes over takes it over.
pub const COMMAND_HANDLER_LEASE: &str = "command-handler-0of1";
/// The key of the process manager's lease.
pub const PROCESS_MANAGER_LEASE: &str = "process-manager";

/// Name of the JetStream stream that holds the leases.
pub fn leases_stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// The subject on which the key of the bucket `key` is stored.
pub fn lease_subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

/// First part of the subjects on which owners of leases show that they are there.
pub const PRESENCE_PREFIX: &str = "lease";

/// The subject on which `owner` listens while it has the lease of `key`.
pub fn presence_subject(key: &str, owner: &str) -> String {
    format!("{PRESENCE_PREFIX}.{key}.{owner}")
}

/// Where a process's progress is recorded.
pub fn progress_subject(process: &str) -> String {
    lease_subject(&format!("process.{process}"))
}
