//! Keys of leases, and where processes record how far they are: both in the key-value bucket of leases.

use crate::{share::Share, stream_names::LEASES_BUCKET};

/// First part of the command handler's keys.
pub const COMMAND_HANDLER: &str = "command-handler";
/// All keys of shares and slots of several active handlers, with a wildcard.
pub const ANY_COMMAND_HANDLER_LEASE: &str = "command-handler.*";
/// The key of the process manager's lease.
pub const PROCESS_MANAGER_LEASE: &str = "process-manager";

/// The key of a share's lease. Those of several shares have a token of their own, so that one allow-list takes all.
pub fn command_handler_lease(share: Share) -> String {
    match share {
        Share::ALL => format!("{COMMAND_HANDLER}-{}", share.name()),
        share => format!("{COMMAND_HANDLER}.{}", share.name()),
    }
}

/// Name of the JetStream stream that holds the leases.
pub fn leases_stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// The subject on which the key of the bucket `key` is stored.
pub fn lease_subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

/// Where a process's progress is recorded.
pub fn progress_subject(process: &str) -> String {
    lease_subject(&format!("process.{process}"))
}
