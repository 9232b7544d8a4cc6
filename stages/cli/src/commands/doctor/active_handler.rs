//! Checks which process decides the commands, and how far it has come.

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure as _},
    leases::COMMAND_HANDLER_LEASE,
    stream_names::COMMANDS,
};
use millstream_jetstream::broker::Broker as _;
use millstream_runtime::stage_check::{Check, Trouble};
use millstream_write_side::outcome_journal::{JournalError, decided_through};

use super::trouble;
use crate::session::Connected;

/// The name of this check.
pub(super) const WHAT: &str = "decisions on COMMANDS";

/// The holder of the lease, and the position up to which COMMANDS is decided.
pub(super) async fn decisions(connected: &Connected) -> Check {
    let found = async {
        let through = decided_through(&connected.broker).await?;
        let owner = connected.broker.lease_owner(COMMAND_HANDLER_LEASE).await?;
        let newest = connected.broker.state(COMMANDS).await?.last_sequence;
        Ok::<_, JournalError>((owner, through, newest))
    };
    let result = match found.await {
        Err(error) => Err(trouble(error.exit_code(), one_line(&error))),
        Ok((owner, through, newest)) => told(owner.as_deref(), through, newest),
    };
    Check { what: WHAT.to_owned(), result }
}

/// The message if outcomes reach to `through` and the last command is at `newest`.
fn told(owner: Option<&str>, through: u64, newest: u64) -> Result<String, Trouble> {
    if newest < through {
        let sentence = format!(
            "outcomes are recorded through {through}, but COMMANDS ends at {newest}: the server has lost its tail, or the stream was made anew \
             (docs/runbooks/restore-a-backup.md)"
        );
        return Err(trouble(ExitCode::Data, sentence));
    }
    let progress = match newest > through {
        true => format!("decided through {through}, the last one is {newest}"),
        false => format!("all decided, through {through}"),
    };
    match owner {
        Some(owner) => Ok(format!("made by {owner}, {progress}")),
        None => {
            let sentence = format!("made by nobody, {progress}; does a command-handler run?");
            Err(trouble(ExitCode::Unavailable, sentence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_have_a_maker_and_an_end() {
        assert_eq!(told(Some("run-1"), 7, 7).unwrap(), "made by run-1, all decided, through 7");
        let behind = told(Some("run-1"), 7, 9).unwrap();
        assert_eq!(behind, "made by run-1, decided through 7, the last one is 9");
        let lost = told(Some("run-1"), 7, 3).unwrap_err();
        assert!(lost.sentence.contains("through 7, but COMMANDS ends at 3"), "{}", lost.sentence);
        let nobody = told(None, 7, 7).unwrap_err().sentence;
        assert!(nobody.starts_with("made by nobody, all decided"), "{nobody}");
    }
}
