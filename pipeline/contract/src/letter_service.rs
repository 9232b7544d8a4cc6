//! How the gateway asks the command handler to retry or to drop a dead letter: subjects, requests and answers of a NATS micro service.
//!
//! A request names a letter and never contains a message, so whoever may ask can only put back what was set aside. Deliberately absent: who
//! may ask. The server's permissions and the gateway's keys decide that.

use serde::{Deserialize, Serialize};

/// Name of the service.
pub const LETTER_SERVICE: &str = "deadletters";
/// Where a letter is retried.
pub const RETRY_SUBJECT: &str = "deadletters.retry";
/// Where a letter is dropped.
pub const DROP_SUBJECT: &str = "deadletters.drop";

/// The letter that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterRequest {
    /// Its name, as in `COMMANDS.17`.
    pub letter: String,
    /// Its sequence in DEADLETTERS, so that a later letter of the same name is not mistaken for it.
    pub sequence: u64,
}

/// The answer to a retry: the command that the letter became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterRetried {
    /// Its id.
    pub command_id: String,
    /// Its position in COMMANDS.
    pub command_position: u64,
}
