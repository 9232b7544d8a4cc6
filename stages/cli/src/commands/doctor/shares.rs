//! How the command handlers share the partitions: for each share who decides it, and how far it has come.

use millstream_contract::{
    error_text::one_line, exit_code::ExitCode, leases::command_handler_lease, share::Share,
    stream_names::COMMANDS, subject::PARTITIONS,
};
use millstream_jetstream::broker::{Broker as _, BrokerError};
use millstream_runtime::stage_check::Check;
use millstream_write_side::share_layout::{Layout, ShareStanding, newest_command};

use super::trouble;
use crate::session::Connected;

/// A line for each share of the division in force; a single one when that cannot be read.
pub(super) async fn shares(connected: &Connected) -> Vec<Check> {
    match Layout::with_shares(&connected.broker).await {
        Err(error) => {
            let result = Err(trouble(ExitCode::Unavailable, one_line(&error)));
            vec![Check { what: format!("shares of {COMMANDS}"), result }]
        }
        Ok((_, standings)) => {
            let mut checks = Vec::new();
            for standing in &standings {
                checks.push(share(connected, standing).await);
            }
            checks
        }
    }
}

async fn share(connected: &Connected, standing: &ShareStanding) -> Check {
    let what = format!("share {} of {COMMANDS}", standing.share.name());
    let found = async {
        let owner = connected.broker.lease_owner(&command_handler_lease(standing.share)).await?;
        Ok::<_, BrokerError>((owner, newest_command(&connected.broker, standing.share).await?))
    };
    let result = match found.await {
        Err(error) => Err(one_line(&error)),
        Ok((owner, newest)) => told(standing, owner.as_deref(), newest),
    };
    Check { what, result: result.map_err(|sentence| trouble(ExitCode::Unavailable, sentence)) }
}

/// What is said of a share whose last command stands at `newest`.
fn told(standing: &ShareStanding, owner: Option<&str>, newest: u64) -> Result<String, String> {
    let ShareStanding { share, through, closed } = *standing;
    let progress = match newest > through {
        true => format!("decided through {through}, the last one is {newest}"),
        false => format!("all decided, through {through}"),
    };
    match owner {
        _ if closed => Err(format!(
            "it is closed, the next way to share the partitions has not begun; {progress}; does a command-handler run?"
        )),
        None => Err(format!("nobody holds it; {progress}; does a command-handler run?")),
        Some(owner) => Ok(format!("{}, held by {owner}, {progress}", partitions(share))),
    }
}

fn partitions(share: Share) -> String {
    if share == Share::ALL {
        return "all partitions".to_owned();
    }
    let own = (0..PARTITIONS).filter(|partition| share.has(*partition)).map(|each| each.to_string());
    format!("partitions {}", own.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_says_its_partitions_its_holder_and_how_far_it_is() {
        let share = Share { index: 1, of: 8 };
        let standing = ShareStanding { share, through: 7, closed: false };
        assert_eq!(
            told(&standing, Some("run-1"), 7).unwrap(),
            "partitions 1 9, held by run-1, all decided, through 7"
        );
        assert_eq!(
            told(&standing, Some("run-1"), 9).unwrap(),
            "partitions 1 9, held by run-1, decided through 7, the last one is 9"
        );
        assert!(told(&standing, None, 7).unwrap_err().starts_with("nobody holds it; all decided"));
        let closed = ShareStanding { closed: true, ..standing };
        assert!(told(&closed, Some("run-1"), 7).unwrap_err().contains("has not begun"));
        let all = ShareStanding { share: Share::ALL, ..standing };
        assert!(told(&all, Some("run-1"), 7).unwrap().starts_with("all partitions, held by run-1"));
    }
}
