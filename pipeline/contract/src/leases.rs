//! Keys of leases, and the keys under which processes record their progress. Both are in the key-value bucket of leases.

use crate::stream_names::LEASES_BUCKET;

/// The key of the command handler's lease. The active handler's consumer of COMMANDS has the same name, because it belongs to the active
/// role and not to a process: a handler that takes over uses it, too.
pub const COMMAND_HANDLER_LEASE: &str = "command-handler-0of1";
/// The key of the process manager's lease.
pub const PROCESS_MANAGER_LEASE: &str = "process-manager";

/// Name of the JetStream stream that holds the leases.
pub fn leases_stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// The subject on which the bucket stores the key `key`.
pub fn lease_subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

/// The first part of the subjects on which owners of leases show that they are alive.
pub const PRESENCE_PREFIX: &str = "lease";

/// The subject on which `owner` listens while it holds the lease of `key`.
pub fn presence_subject(key: &str, owner: &str) -> String {
    format!("{PRESENCE_PREFIX}.{key}.{owner}")
}

/// The key under which a process's progress is recorded.
pub fn progress_subject(process: &str) -> String {
    lease_subject(&format!("process.{process}"))
}
