//! Where rounds are cut.

use jiff::Timestamp;
use millstream_contract::stored_message::Headers;
use millstream_proof::testing::account::Account;

use super::*;

/// A command to the account `ada`, with an id or without.
fn command(position: u64, id: Option<&str>, name: &str, body: &'static str) -> PreparedCommand {
    let mut headers = Headers::new();
    if let Some(id) = id {
        headers.push(header::COMMAND_ID, id);
    }
    let message = StoredMessage {
        subject: format!("cmdq.3.bank.account.ada.{name}"),
        sequence: position,
        stored_at: Timestamp::UNIX_EPOCH,
        headers,
        payload: body.into(),
    };
    prepare(message, &AggregateRegistry::new().with::<Account>())
}

fn deposit(position: u64, id: Option<&str>) -> PreparedCommand {
    command(position, id, "deposit", r#"{"amount":1}"#)
}

fn give(position: u64) -> PreparedCommand {
    command(position, None, "give", r#"{"amount":1,"to":["bob"]}"#)
}

/// The positions of each round into which these commands are cut.
fn rounds(commands: Vec<PreparedCommand>) -> Vec<Vec<u64>> {
    let positions = |round: Vec<PreparedCommand>| round.iter().map(|command| command.position).collect();
    cut_round(commands).into_iter().map(positions).collect()
}

#[test]
fn id_that_comes_again_begins_a_round() {
    let ids = [Some("a"), None, Some("b"), Some("a"), None, Some("b"), Some("b")];
    let commands = (1..).zip(ids).map(|(position, id)| deposit(position, id)).collect();
    assert_eq!(rounds(commands), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
}

#[test]
fn command_that_changes_several_aggregates_is_a_round_of_its_own() {
    let commands = vec![deposit(1, None), give(2), deposit(3, None), deposit(4, None), give(5), give(6)];
    assert_eq!(rounds(commands), [vec![1], vec![2], vec![3, 4], vec![5], vec![6]]);
    assert_eq!(rounds(vec![give(1), deposit(2, None)]), [vec![1], vec![2]]);
}
